"""What a drill's round left behind, read from the database and the cameras' ledgers, held against what the scenario expects.

It decides whether a round passed and says in words why not. It believes no process's own word, and the truth about attacks comes
from the ledgers alone. It does nothing to the stack. No topic feeds it.

Source: README, promises 1 to 4; paper 4.7 (the clocks of an incident: impact, detected, contained, recovered).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from infra.db import reading
from infra.tables import Assignment, IncidentRow, JudgedFrame
from responders.playbooks.playbooks import State
from streams.drill import counts
from streams.drill.filming import Filmed
from streams.drill.scenario import Expect, Scenario, Step
from streams.drill.staging import CLEAN_FPS, Stage
from streams.events import Mode
from streams.ledger import Entry

_FRESH_S = 6.0
"""A camera is served as it should be while its last judged frame is no older."""
_PLAYED = 0.9
"""A clean camera must have sent this share of its pictures."""


@dataclass(frozen=True)
class Outcome:
    """One round. Seconds count from the first attacked frame by the camera's clock, recovery from the last; None: never.

    seconds_to_detect: until the incident was written down (`opened_at`); its own `detected_at` is a time of the worker's, taken
    before it judged the frame that gave the alarm. kind_right: whether every kind that was expected was opened where it must be,
    and where one of several was, one of them. disturbed: in words, how the other camera was not served as if nothing were.
    wrong_weights: frames of the subject judged by other weights than asked between the workers' report and the way back (all along,
    where nothing is to be switched), and frames of the witness and of clean cameras not judged by the normal model.
    false_incidents: kinds opened that nothing in the scenario explains, those before the first attacked frame and since the round
    before among them.
    """

    scenario: str
    round: int
    passed: bool
    faults: tuple[str, ...]
    kinds: tuple[str, ...] = ()
    kind_right: bool = False
    seconds_to_detect: float | None = None
    seconds_to_contain: float | None = None
    seconds_to_recover: float | None = None
    attacked: int = 0
    attacked_not_quarantined: int = 0
    wrong_weights: int = 0
    disturbed: tuple[str, ...] = ()
    false_incidents: tuple[str, ...] = ()
    answered_s: float | None = None
    took_s: float = 0.0


@dataclass
class Notes:
    """What is written down during a round.

    answered_s: the CLI's longest answer. over_since: when the round before was over. killed: when processes were killed.
    """

    round: int
    began: datetime
    over_since: datetime
    disturbed: set[str] = field(default_factory=set)
    answered_s: float | None = None
    batch_refused: bool | None = None
    killed: list[datetime] = field(default_factory=list)


def unsteady(stage: Stage, cameras: Sequence[Filmed], now: datetime) -> list[str]:
    """What is not as it should be while nothing happens; empty in steady state."""
    found = []
    with reading(stage.sessions) as session:
        for camera in cameras:
            judged_at = session.scalar(select(func.max(JudgedFrame.judged_time)).where(JudgedFrame.camera_id == camera.camera_id))
            if judged_at is None or now - judged_at > timedelta(seconds=_FRESH_S):
                found.append(f"{camera.camera_id} is not judged")
            open_ones = session.scalars(
                select(IncidentRow.kind).where(IncidentRow.camera_id == camera.camera_id, IncidentRow.state != State.CLOSED)
            )
            found += [f"{camera.camera_id} has an open incident ({kind})" for kind in open_ones]
            asked = session.get(Assignment, camera.context)
            if asked is None or asked.asked_mode != Mode.NORMAL:
                found.append(f"{camera.context} is not asked to be served by its normal model")
    return found


def left_open(stage: Stage, began: datetime) -> list[str]:
    """What is still open about the worker, which the next finding of its kind would join, and of all opened since `began`."""
    rows = [*stage.open_incidents(stage.settings.worker_id), *(row for row in since(stage, began) if row.state != State.CLOSED)]
    return list(dict.fromkeys(f"{row.camera_id} has an open incident ({row.kind})" for row in rows))


def since(stage: Stage, began: datetime) -> list[IncidentRow]:
    """Incidents opened since, in order."""
    with reading(stage.sessions) as session:
        return list(session.scalars(select(IncidentRow).where(IncidentRow.opened_at >= began).order_by(IncidentRow.opened_at)))


def reached(row: IncidentRow, end: State | None) -> bool:
    """Whether an incident has come to that state, or past it."""
    if end is None:
        return True
    if end is State.CONTAINED:
        return row.contained_at is not None
    return row.state == end


def expected(scenario: Scenario, stage: Stage, began: datetime) -> bool:
    """Whether everything that must come has come since `began`, and where it must be."""
    expect = scenario.expect
    found = _found(scenario, stage, since(stage, began))
    if _missing(expect, {row.kind for row in found}) or _uncounted(scenario, found):
        return False
    if expect.escalates and not any(row.escalated for row in found):
        return False
    if expect.pages is not None and counts.calls(stage.sessions, [row.id for row in found]) < expect.pages:
        return False
    return all(reached(row, expect.end) for row in found)


def judge(scenario: Scenario, stage: Stage, notes: Notes, after: Sequence[str]) -> Outcome:
    """The round's outcome. `after`: what else went wrong, in words: steps, times, an undo."""
    expect, subject = scenario.expect, stage.cameras[scenario.context]
    witness = next(camera for context, camera in stage.cameras.items() if context is not scenario.context)
    rows = since(stage, notes.began)
    mine = [row for row in rows if row.camera_id != witness.camera_id]
    found = _found(scenario, stage, rows)
    kinds = {row.kind for row in found}
    now = datetime.now(UTC)
    # A frame that claims to come from the future tells no time, in its round or in later ones.
    sent = [entry for entry in subject.entries() if entry.attack and notes.began <= entry.camera_time <= now]
    # Clocks run for what the subject's frames led to; an incident about something else (training data) has no first frame.
    ordered = sorted(found, key=lambda row: row.camera_id != subject.camera_id)
    first = next((row for row in ordered if not _too_soon(row, subject, sent)), None)
    false = tuple(
        f"{row.kind} on {row.camera_id}"
        for row in rows
        if row.camera_id == witness.camera_id or not (row in found or row.kind in expect.allowed)
    )
    false += tuple(f"{row.kind} on {row.camera_id}, before the attack" for row in mine if _too_soon(row, subject, sent))
    between = [row for row in since(stage, notes.over_since) if row.opened_at < notes.began]
    false += tuple(f"{row.kind} on {row.camera_id}, between rounds" for row in between)
    detect, contain, recover = _clocks(first, sent, notes)
    missed = counts.missed(stage.sessions, sent)
    watched = [witness] if expect.witness else []
    wrong = _wrong_weights(scenario, stage, first, [*watched, *stage.extras], notes.began)
    disturbed = tuple(sorted(notes.disturbed)) if expect.witness else ()
    disturbed += _lost(stage, watched, notes.began, now)
    faults = _missing(expect, kinds) + _uncounted(scenario, found)
    faults += [f"false incident: {words}" for words in false]
    faults += [f"{row.kind} is {row.state}, not {expect.end}" for row in found if not reached(row, expect.end)]
    faults += _late("detected", detect, expect.detect_within_s) + _late("contained", contain, expect.contain_within_s)
    faults += _undone(expect, stage, found, notes)
    faults += [f"done more than once: {words}" for words in counts.doubled(stage.sessions, mine)]
    if expect.most_incidents is not None and len(mine) > expect.most_incidents:
        faults.append(f"{len(mine)} incidents, {expect.most_incidents} at most")
    faults += _late("the CLI answered", notes.answered_s, expect.answers_within_s)
    if expect.refused and not notes.batch_refused:
        faults.append("the poisoned batch was not held back")
    if len(sent) - missed < expect.set_aside * len(sent):
        faults.append(f"{missed} of {len(sent)} attacked frames were not set aside")
    if wrong:
        faults.append(f"{wrong} frames were judged by the wrong weights")
    faults += [f"the other camera was disturbed: {words}" for words in disturbed]
    # What is no attack must change nothing for the camera that it happens to, either.
    faults += _lost(stage, [*([] if scenario.security else [subject]), *stage.extras], notes.began, now)
    faults += [fault for step in scenario.clean for fault in _unplayed(stage, step)]
    faults += after
    return Outcome(
        scenario=scenario.name,
        round=notes.round,
        passed=not faults,
        faults=tuple(faults),
        kinds=tuple(row.kind for row in mine),
        kind_right=not _missing(expect, kinds),
        seconds_to_detect=detect,
        seconds_to_contain=contain,
        seconds_to_recover=recover,
        attacked=len(sent),
        attacked_not_quarantined=missed,
        wrong_weights=wrong,
        disturbed=disturbed,
        false_incidents=false,
        answered_s=notes.answered_s,
        took_s=round((now - notes.began).total_seconds(), 1),
    )


def _found(scenario: Scenario, stage: Stage, rows: Sequence[IncidentRow]) -> list[IncidentRow]:
    """The incidents that the scenario expects, where it expects them."""
    subject = stage.cameras[scenario.context].camera_id
    return [row for row in rows if scenario.expect.explains(row.kind, row.camera_id, subject)]


def _missing(expect: Expect, kinds: Collection[str]) -> list[str]:
    faults = [f"{kind} was not opened" for kind in expect.incidents if kind not in kinds]
    if expect.any_of and not set(expect.any_of) & set(kinds):
        faults.append(f"none of {', '.join(expect.any_of)} was opened")
    return faults


def _uncounted(scenario: Scenario, found: Sequence[IncidentRow]) -> list[str]:
    """A storm's signals must all be counted, and each once; the calm that ends it is one more for each incident."""
    sent, counted = scenario.signals, sum(row.signals for row in found)
    return [] if not sent or sent <= counted <= sent + len(found) else [f"{counted} of {sent} signals were counted"]


def _undone(expect: Expect, stage: Stage, found: Sequence[IncidentRow], notes: Notes) -> list[str]:
    """What the responder had to do to what was expected, and did not; a kill that came too early or too late tests nothing."""
    shown = [counts.actions(stage.sessions, row.id) for row in found]
    missing = min(([action for action in expect.actions if action not in done] for done in shown), key=len, default=expect.actions)
    faults = [f"the timeline shows no {action}" for action in missing]
    if expect.escalates and not any(row.escalated for row in found):
        faults.append("nobody was called")
    called = counts.calls(stage.sessions, [row.id for row in found])
    if expect.pages is not None and called != expect.pages:
        faults.append(f"people were called {called} times, not {expect.pages}")
    between = [
        row for row in found for at in notes.killed if row.opened_at <= at and (row.contained_at is None or at <= row.contained_at)
    ]
    if expect.interrupted and not between:
        faults.append("the kill did not fall between opening and containment")
    return faults


def _too_soon(row: IncidentRow, subject: Filmed, sent: Sequence[Entry]) -> bool:
    """An alarm about the subject before anything was wrong with it found nothing, whatever came afterwards."""
    return (
        bool(sent) and row.camera_id == subject.camera_id and row.detected_at is not None and row.detected_at < sent[0].camera_time
    )


def _lost(stage: Stage, cameras: Sequence[Filmed], began: datetime, now: datetime) -> tuple[str, ...]:
    """Frames that these cameras sent during the round, and that nobody judged though there was time."""
    until = now - timedelta(seconds=_FRESH_S)
    lost = {camera.camera_id: counts.lost(stage.sessions, camera, began, until) for camera in cameras}
    return tuple(f"{number} frames of {name} were not judged" for name, number in lost.items() if number)


def _unplayed(stage: Stage, step: Step) -> list[str]:
    """Clean hours that were not played prove nothing."""
    wanted, pictures = step.count or 0, (step.for_s or 0.0) * CLEAN_FPS
    short = [(camera.camera_id, len(camera.entries())) for camera in stage.extras]
    faults = [f"{name} sent {number} pictures of {pictures:.0f}" for name, number in short if number < _PLAYED * pictures]
    return faults + ([f"{len(short)} clean cameras of {wanted} played"] if len(short) < wanted else [])


def _clocks(row: IncidentRow | None, sent: Sequence[Entry], notes: Notes) -> tuple[float | None, float | None, float | None]:
    if row is None:
        return None, None, None
    first = sent[0].camera_time if sent else notes.began
    last = sent[-1].camera_time if sent else notes.began

    def seconds(end: datetime | None, begin: datetime) -> float | None:
        return None if end is None else round((end - begin).total_seconds(), 2)

    return seconds(row.opened_at, first), seconds(row.contained_at, first), seconds(row.recovered_at, last)


def _late(what: str, seconds: float | None, limit_s: float | None) -> list[str]:
    if limit_s is None or (seconds is not None and seconds <= limit_s):
        return []
    return [f"{what} {'never' if seconds is None else f'after {seconds:g} s'}, within {limit_s:g} s at most"]


def _wrong_weights(scenario: Scenario, stage: Stage, row: IncidentRow | None, others: Sequence[Filmed], began: datetime) -> int:
    """Frames judged by any but the weights that were confirmed, or that nobody had a reason to leave."""
    subject, normal = stage.cameras[scenario.context], stage.weights[Mode.NORMAL]
    wrong = sum(counts.by_others(stage.sessions, camera, normal, began) for camera in others)
    if not scenario.expect.switches:
        wrong += counts.by_others(stage.sessions, subject, normal, began)
    elif row is not None and row.contained_at is not None:
        back = counts.given_back(stage.sessions, row)
        wrong += counts.by_others(stage.sessions, subject, stage.weights[Mode.SAFE], row.contained_at, back)
    return wrong
