"""What a scheduled check finds of tampering, as a signal.

It decides which checks speak for themselves: the audit log that no longer holds, weights that no longer answer the golden set as
they did. It refuses to open anything for a check that merely could not run. Such a finding is about the whole deployment and no
camera; it stands in the first context, because every incident has one. Fed by scheduled jobs (`streams.console.jobs`).

Source: paper SC-10 (audit trails), 4.6 (golden dataset); MITRE ATLAS AML.M0014 (verify artefacts).
"""

from datetime import datetime

from streams.events import Context, Kind, Phase, Severity, Signal, Window, event_id

DETECTORS = {"checkpoint": "log-check", "golden": "golden-check"}
"""By the job that checks."""


def found(job: str, fault: str, now: datetime) -> Signal | None:
    """What a job's outcome says: RAISED with the fault, CALM with none. None for jobs that check nothing of the kind."""
    detector = DETECTORS.get(job)
    if detector is None:
        return None
    moment = int(now.timestamp())
    return Signal(
        id=event_id("signal", detector, now.isoformat()),
        source=f"schedule/{job}",
        time=now,
        subject=detector,
        kind=Kind.TAMPERING,
        phase=Phase.RAISED if fault else Phase.CALM,
        severity=Severity.HIGH if fault else Severity.LOW,
        camera_id=detector,
        context=next(iter(Context)),
        detector=detector,
        window=Window(epoch=0, first_sequence=moment, last_sequence=moment),
        weights_digest=None,
        message=(fault or "the check holds again")[:500],
    )
