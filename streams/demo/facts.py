"""What really happened, read back from Kafka and the database, held against what the cameras know they sent.

It decides whether a run kept its promises: nothing lost, nothing acted on twice, attacked frames set aside, the other camera
left in peace. It believes no process's own word. The truth about attacks comes from the cameras' ledgers, never from events.

Source: README, promises 1 to 4; the checks after a fault that Jepsen's Kafka suite makes (lost, doubled, a drain first).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, pairwise

from sqlalchemy import select

from infra.db import open_database, reading
from infra.settings import Settings
from infra.tables import AuditRow, InboxRow, IncidentRow, JudgedFrame, QuarantinedFrame
from streams import topics
from streams.console.dlq import letters, read_all, read_events
from streams.events import AuditEntry, ModelState, Signal
from streams.ledger import Entry
from streams.topics import Role


@dataclass(frozen=True)
class Frames:
    """Counts over all cameras of the run."""

    sent: int
    judged: int
    refused: int
    attacked: int
    quarantined: int
    attacked_not_quarantined: int


@dataclass(frozen=True)
class IncidentFact:
    """An incident and its clocks: from the first attacked frame, recovery from the last; None where it did not get there."""

    id: str
    kind: str
    camera: str
    context: str
    state: str
    resolution: str | None
    escalated: str
    seconds_to_detect: float | None
    seconds_to_contain: float | None
    seconds_to_recover: float | None


@dataclass(frozen=True)
class WeightsFact:
    """A stretch of one camera's frames that the same weights judged."""

    camera: str
    context: str
    digest: str
    mode: str
    from_frame: int
    to_frame: int


@dataclass(frozen=True)
class Facts:
    """All that a run left behind."""

    events_lost: int
    double_effects: int
    frames: Frames
    incidents: tuple[IncidentFact, ...]
    weights: tuple[WeightsFact, ...]


def gather(settings: Settings, ledgers: Sequence[Sequence[Entry]]) -> Facts:
    """The facts about the frames in these ledgers. Raises Unavailable without broker or database."""
    sent = {entry.frame_id: entry for ledger in ledgers for entry in ledger}
    landed = {entry.frame_id for entry in sent.values() if entry.offset is not None}
    cameras = {entry.camera_id for entry in sent.values()}
    epochs = {entry.epoch for entry in sent.values()}
    with reading(open_database(settings)) as session:
        judged = session.scalars(select(JudgedFrame).where(JudgedFrame.epoch.in_(epochs)).order_by(JudgedFrame.sequence)).all()
        quarantined = set(session.scalars(select(QuarantinedFrame.frame_id).where(QuarantinedFrame.epoch.in_(epochs))))
        rows = session.scalars(select(IncidentRow).where(IncidentRow.camera_id.in_(cameras)).order_by(IncidentRow.opened_at)).all()
        accepted = set(session.scalars(select(InboxRow.event_id)))
        audited = set(session.scalars(select(AuditRow.event_id)))
    in_log = {(record.partition, record.offset) for record in read_all(settings, topics.FRAMES, Role.OPERATOR)}
    refused_at = {(letter.partition, letter.offset) for letter in letters(settings) if letter.topic == topics.FRAMES.name}
    refused = {entry.frame_id for entry in sent.values() if (entry.partition, entry.offset) in refused_at}
    signals = {event.id for event in read_events(settings, topics.SIGNALS) if isinstance(event, Signal)}
    audit = {event.id: event for event in read_events(settings, topics.AUDIT) if isinstance(event, AuditEntry)}
    known = {row.frame_id for row in judged}
    lost_from_log = {e.frame_id for e in sent.values() if e.offset is not None and (e.partition, e.offset) not in in_log}
    attacked = {entry.frame_id for entry in sent.values() if entry.attack}
    return Facts(
        events_lost=(
            len((sent.keys() - known - refused) | lost_from_log | (sent.keys() - landed))
            + len(signals - accepted)
            + len(audit.keys() - audited)
        ),
        double_effects=_doubles(settings, audit.values()),
        frames=Frames(
            sent=len(sent),
            judged=len(known & sent.keys()),
            refused=len(refused),
            attacked=len(attacked),
            quarantined=len(quarantined & sent.keys()),
            attacked_not_quarantined=len((attacked & known) - quarantined),
        ),
        incidents=tuple(_incident(row, [entry for entry in sent.values() if entry.camera_id == row.camera_id]) for row in rows),
        weights=tuple(_stretches([row for row in judged if row.frame_id in sent])),
    )


def _doubles(settings: Settings, audit: Iterable[AuditEntry]) -> int:
    """Acts done twice: the same act for the same cause under two ids, or a context asked twice in a row for the same."""
    acts = Counter((entry.actor, entry.action, entry.target, entry.cause_id) for entry in audit)
    asked: dict[str, list[ModelState]] = {}
    for event in read_events(settings, topics.MODEL_STATE):
        if isinstance(event, ModelState):
            asked.setdefault(event.context, []).append(event)
    again = sum(
        after.decision_id != before.decision_id and _asked(after) == _asked(before)
        for states in asked.values()
        for before, after in pairwise(states)
    )
    return sum(count - 1 for count in acts.values()) + again


def _asked(state: ModelState) -> tuple[object, ...]:
    return state.mode, state.weights_digest, state.reference_digest, state.candidate


def _incident(row: IncidentRow, sent: Sequence[Entry]) -> IncidentFact:
    attacked = [entry.camera_time for entry in sent if entry.attack]

    def seconds(end: datetime | None, begin: datetime | None) -> float | None:
        return None if end is None or begin is None else round((end - begin).total_seconds(), 2)

    first, last = (min(attacked), max(attacked)) if attacked else (row.impact_at, None)
    return IncidentFact(
        id=row.id,
        kind=row.kind,
        camera=row.camera_id,
        context=row.context,
        state=row.state,
        resolution=row.resolution,
        escalated=row.escalated,
        seconds_to_detect=seconds(row.detected_at, first),
        seconds_to_contain=seconds(row.contained_at, first),
        seconds_to_recover=seconds(row.recovered_at, last),
    )


def _stretches(judged: Sequence[JudgedFrame]) -> Iterable[WeightsFact]:
    order = sorted(judged, key=lambda row: (row.camera_id, row.epoch, row.sequence))
    for (camera, context, digest, mode), rows in groupby(
        order, key=lambda row: (row.camera_id, row.context, row.weights_digest, row.mode)
    ):
        members = list(rows)
        yield WeightsFact(camera, context, digest, mode, members[0].sequence, members[-1].sequence)
