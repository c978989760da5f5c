"""What a drill's round left behind, read from the database and the cameras' ledgers, held against what the scenario expects.

It decides whether a round passed and says in words why not. It believes no process's own word, and the truth about attacks comes
from the ledgers alone. It does nothing to the stack. No topic feeds it.

Source: README, promises 1 to 4; paper 4.7 (the clocks of an incident: impact, detected, contained, recovered).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from infra.db import reading
from infra.tables import Assignment, IncidentRow, JudgedFrame, QuarantinedFrame, TimelineRow
from responders.playbooks.playbooks import State
from streams.drill.filming import Filmed
from streams.drill.scenario import Expect, Scenario
from streams.drill.staging import Stage
from streams.events import Mode
from streams.ledger import Entry

_FRESH_S = 6.0
"""A camera is served as it should be while its last judged frame is no older."""


@dataclass(frozen=True)
class Outcome:
    """One round. Seconds count from the first attacked frame by the camera's clock, recovery from the last; None: never.

    kind_right: whether every kind that was expected was opened, and where one of several was, one of them. disturbed: in words, how
    the other camera was not served as if nothing were. wrong_weights: frames of the subject judged by other weights than asked
    between the workers' report and the way back, and frames of the witness not judged by the normal model. false_incidents: kinds
    opened that nothing in the scenario explains, those before the first attacked frame and since the round before among them.
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
    """What is written down during a round. answered_s: the CLI's longest answer. over_since: when the round before was over."""

    round: int
    began: datetime
    over_since: datetime
    disturbed: set[str] = field(default_factory=set)
    answered_s: float | None = None
    batch_refused: bool | None = None


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


def left_open(stage: Stage) -> list[str]:
    """What is still open about the worker: the next finding of its kind would join it."""
    worker = stage.settings.worker_id
    return [f"{worker} has an open incident ({row.kind})" for row in stage.open_incidents(worker)]


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


def expected(rows: Sequence[IncidentRow], expect: Expect, witness: Filmed) -> bool:
    """Whether everything that must be opened is there, and where it must be."""
    mine = [row for row in rows if row.camera_id != witness.camera_id]
    kinds = {row.kind for row in mine}
    if not set(expect.incidents) <= kinds or (expect.any_of and not kinds & set(expect.any_of)):
        return False
    wanted = {*expect.incidents, *expect.any_of}
    if expect.escalates and not any(row.escalated for row in mine):
        return False
    return all(reached(row, expect.end) for row in mine if row.kind in wanted)


def judge(scenario: Scenario, stage: Stage, notes: Notes, after: Sequence[str]) -> Outcome:
    """The round's outcome. `after`: what else went wrong, in words: steps, times, an undo."""
    expect, subject = scenario.expect, stage.cameras[scenario.context]
    witness = next(camera for context, camera in stage.cameras.items() if context is not scenario.context)
    rows = since(stage, notes.began)
    mine = [row for row in rows if row.camera_id != witness.camera_id]
    kinds = {row.kind for row in mine}
    now = datetime.now(UTC)
    # A frame that claims to come from the future tells no time, in its round or in later ones.
    sent = [entry for entry in subject.entries() if entry.attack and notes.began <= entry.camera_time <= now]
    wanted = {*expect.incidents, *expect.any_of}
    # Clocks run for what the subject's frames led to; an incident about something else (training data) has no first frame.
    ordered = sorted(mine, key=lambda row: row.camera_id != subject.camera_id)
    first = next((row for row in ordered if row.kind in wanted and not _too_soon(row, subject, sent)), None)
    false = tuple(f"{row.kind} on {row.camera_id}" for row in rows if _unexplained(row, witness, wanted | set(expect.allowed)))
    false += tuple(f"{row.kind} on {row.camera_id}, before the attack" for row in mine if _too_soon(row, subject, sent))
    between = [row for row in since(stage, notes.over_since) if row.opened_at < notes.began]
    false += tuple(f"{row.kind} on {row.camera_id}, between rounds" for row in between)
    detect, contain, recover = _clocks(first, sent, notes)
    missed = _missed(stage, sent)
    wrong = _wrong_weights(stage, first, subject, witness if expect.witness else None, notes.began)
    disturbed = tuple(sorted(notes.disturbed)) if expect.witness else ()
    if expect.witness and (lost := _lost(stage, witness, notes.began, now)):
        disturbed += (f"{lost} frames of {witness.camera_id} were not judged",)
    faults = [f"{kind} was not opened" for kind in expect.incidents if kind not in kinds]
    if expect.any_of and not kinds & set(expect.any_of):
        faults.append(f"none of {', '.join(expect.any_of)} was opened")
    faults += [f"false incident: {words}" for words in false]
    faults += [
        f"{row.kind} is {row.state}, not {expect.end}" for row in mine if row.kind in wanted and not reached(row, expect.end)
    ]
    faults += _late("detected", detect, expect.detect_within_s) + _late("contained", contain, expect.contain_within_s)
    done = _actions(stage, [row.id for row in mine])
    faults += [f"the timeline shows no {action}" for action in expect.actions if action not in done]
    if expect.escalates and not any(row.escalated for row in mine):
        faults.append("nobody was called")
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
    faults += after
    return Outcome(
        scenario=scenario.name,
        round=notes.round,
        passed=not faults,
        faults=tuple(faults),
        kinds=tuple(row.kind for row in mine),
        kind_right=set(expect.incidents) <= kinds and (not expect.any_of or bool(kinds & set(expect.any_of))),
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


def _too_soon(row: IncidentRow, subject: Filmed, sent: Sequence[Entry]) -> bool:
    """An alarm about the subject before anything was wrong with it found nothing, whatever came afterwards."""
    return (
        bool(sent) and row.camera_id == subject.camera_id and row.detected_at is not None and row.detected_at < sent[0].camera_time
    )


def _lost(stage: Stage, witness: Filmed, began: datetime, now: datetime) -> int:
    """Frames that the other camera sent during the round, and that nobody judged though there was time."""
    until = now - timedelta(seconds=_FRESH_S)
    sent = {one.frame_id for one in witness.entries() if one.offset is not None and began <= one.camera_time <= until}
    with reading(stage.sessions) as session:
        query = select(JudgedFrame.frame_id).where(JudgedFrame.camera_id == witness.camera_id, JudgedFrame.camera_time >= began)
        return len(sent - set(session.scalars(query)))


def _unexplained(row: IncidentRow, witness: Filmed, kinds: set[str]) -> bool:
    """Nothing may be opened on the witness; elsewhere (the subject, a worker, a storm's cameras) what the scenario explains."""
    return row.camera_id == witness.camera_id or row.kind not in kinds


def _clocks(row: IncidentRow | None, sent: Sequence[Entry], notes: Notes) -> tuple[float | None, float | None, float | None]:
    if row is None:
        return None, None, None
    first = sent[0].camera_time if sent else notes.began
    last = sent[-1].camera_time if sent else notes.began

    def seconds(end: datetime | None, begin: datetime) -> float | None:
        return None if end is None else round((end - begin).total_seconds(), 2)

    return seconds(row.detected_at, first), seconds(row.contained_at, first), seconds(row.recovered_at, last)


def _late(what: str, seconds: float | None, limit_s: float | None) -> list[str]:
    if limit_s is None or (seconds is not None and seconds <= limit_s):
        return []
    return [f"{what} {'never' if seconds is None else f'after {seconds:g} s'}, within {limit_s:g} s at most"]


def _actions(stage: Stage, incidents: Sequence[str]) -> set[str]:
    with reading(stage.sessions) as session:
        return set(session.scalars(select(TimelineRow.action).where(TimelineRow.incident_id.in_(incidents))))


def _missed(stage: Stage, sent: Sequence[Entry]) -> int:
    with reading(stage.sessions) as session:
        epochs = {entry.epoch for entry in sent}
        kept = set(session.scalars(select(QuarantinedFrame.frame_id).where(QuarantinedFrame.epoch.in_(epochs))))
    return sum(entry.frame_id not in kept for entry in sent)


def _wrong_weights(stage: Stage, row: IncidentRow | None, subject: Filmed, witness: Filmed | None, began: datetime) -> int:
    """Frames judged after weights were confirmed, and before others were asked for, that were judged by any but them."""
    count = select(func.count()).select_from(JudgedFrame)
    wrong = 0
    with reading(stage.sessions) as session:
        if row is not None and row.contained_at is not None:
            restoring = session.scalar(
                select(func.min(TimelineRow.time)).where(
                    TimelineRow.incident_id == row.id, TimelineRow.action == "serve", TimelineRow.time > row.contained_at
                )
            )
            held = [
                JudgedFrame.camera_id == subject.camera_id,
                JudgedFrame.judged_time > row.contained_at,
                JudgedFrame.weights_digest != stage.weights[Mode.SAFE],
            ]
            held += [] if restoring is None else [JudgedFrame.judged_time < restoring]
            wrong += session.scalar(count.where(*held)) or 0
        if witness is not None:
            theirs = (
                JudgedFrame.camera_id == witness.camera_id,
                JudgedFrame.judged_time >= began,
                JudgedFrame.weights_digest != stage.weights[Mode.NORMAL],
            )
            wrong += session.scalar(count.where(*theirs)) or 0
    return wrong
