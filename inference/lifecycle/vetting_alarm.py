"""Whether vetting held back more of a run's pictures than clean data explains, as a signal of poisoning.

It decides from how many on people must look at the data itself, and says in words which stages found what and which three findings
are the strongest. It refuses to page anyone for the false finds that every vetting makes, and to send anything:
`streams.console.poisoned` does. Pure. The finding is about data, so it stands under a name of its own instead of a camera's.

Clean pictures are held back too: 9 of 70 that neither model had seen, asked of both (docs/data-and-gate.md). How many a clean run
may lose follows from that (beta-binomial with Jeffreys' prior, so that it is weighed how little 70 pictures tell); more than one
clean run of a thousand would lose by chance is an alarm. Pictures of one camera are alike, so the real rate is higher; by how much
is not known.

Source: paper 4.5.2, 4.6 (data poisoning, multi-stage validation); MITRE ATLAS AML.T0020, AML.M0007.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from scipy.stats import betabinom  # type: ignore[import-untyped]

from inference.lifecycle.findings import Finding
from streams.events import Cause, Context, Diagnosis, Evidence, Kind, Phase, Severity, Signal, Window, event_id

DATA = "training-data"
"""Stands where a signal names its camera."""
DETECTOR = "vetting"
USUAL_HELD, USUAL_OF = 9, 70
"""Clean pictures held back by both models together, of so many."""
CHANCE = 0.001
"""Alarms in clean runs, of all clean runs."""
_STRONGEST = 3
_LONGEST = 300


def unusual_from(offered: int) -> int:
    """The fewest held-back pictures, of so many offered, that clean data does not explain; more than `offered` where none would."""
    law = betabinom(offered, USUAL_HELD + 0.5, USUAL_OF - USUAL_HELD + 0.5)
    return int(law.isf(CHANCE)) + 1


def found(run: str, context: Context, offered: int, findings: Sequence[Finding], now: datetime) -> Signal | None:
    """What vetting of a run's pictures says; None where clean data explains it.

    Args:
        run: what the run is called; the same run says the same under the same id, however often it is repeated.
        context: what is trained for.
        offered: pictures that were vetted.
        findings: of the pictures held back; several may be about one.
        now: when they were vetted.
    """
    worst: dict[tuple[str, str], Finding] = {}
    for one in findings:
        place = (one.pool, one.name)
        worst[place] = max(worst.get(place, one), one, key=lambda finding: finding.score)
    held, limit = len(worst), unusual_from(offered)
    if held < limit:
        return None
    stages = Counter(stage for _, stage in {((one.pool, one.name), one.stage) for one in findings})
    counts = ", ".join(f"{stage} {number}" for stage, number in stages.most_common())
    strongest = sorted(worst.values(), key=lambda one: -one.score)[:_STRONGEST]
    usual = offered * USUAL_HELD / USUAL_OF
    said = tuple(f"{one.pool}/{one.name}: {one.reason} ({one.stage} {one.score:.2f})"[:_LONGEST] for one in strongest)
    moment = int(now.timestamp())
    return Signal(
        id=event_id("signal", DETECTOR, run),
        source=f"retraining/{run[:8]}",
        time=now,
        subject=run,
        kind=Kind.POISONING,
        phase=Phase.RAISED,
        severity=Severity.HIGH,
        camera_id=DATA,
        context=context,
        detector=DETECTOR,
        window=Window(epoch=0, first_sequence=moment, last_sequence=moment),
        weights_digest=None,
        evidence=(
            Evidence("held_back", held),
            Evidence("offered", offered),
            Evidence("unusual_from", limit),
            *(Evidence(stage, number) for stage, number in stages.most_common()),
        ),
        message=f"vetting before run {run[:8]} held back {held} of {offered} pictures, {usual:.0f} are usual and {limit} are not "
        f"(by check: {counts}). Strongest: {'; '.join(said)}"[:1000],
        diagnosis=Diagnosis(cause=Cause.POISON, confidence=round(1 - usual / held, 2), evidence=said),
    )
