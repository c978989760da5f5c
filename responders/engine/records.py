"""Incidents as people and reports read them: lists, one in full, and the clocks from first attacked frame to recovery.

It decides what is shown and how long things took; it refuses to change anything. Reads the database only.

Source: paper 4.7 (incident analysis), NIST SP 800-61r3 (metrics of response).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches

from msgspec import Struct
from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from infra.db import AT_ONCE
from infra.tables import EffectRow, IncidentRow, QuarantinedFrame, TimelineRow
from responders.engine.incident import Ended, Incident, Resolution
from responders.engine.outbox import WAITING
from responders.engine.past import impact_of, incident_of, readable
from responders.people.roles import Role
from responders.playbooks.playbooks import State, Step
from streams.errors import BadInput
from streams.events import Context, Diagnosis, Kind, Severity, Window


class Listed(Struct, frozen=True, kw_only=True):
    """One incident in short. Times are UTC; `seconds_*` count from the first attacked frame's camera time, None where not known."""

    id: str
    kind: Kind
    camera: str
    context: Context
    state: State
    severity: Severity
    signals: int
    escalated: str
    resolution: Resolution | None
    impact_at: datetime | None
    detected_at: datetime
    acknowledged_at: datetime | None
    contained_at: datetime | None
    recovered_at: datetime | None
    closed_at: datetime | None
    seconds_to_detect: float | None
    seconds_to_contain: float | None
    seconds_to_recover: float | None


class Change(Struct, frozen=True):
    """One row of the timeline."""

    time: datetime
    state: State
    actor: str
    action: str
    what: str
    cause_id: str


class Effect(Struct, frozen=True):
    """One thing that was, or is to be, sent."""

    id: str
    topic: str
    state: str
    attempts: int
    error: str
    created_at: datetime
    done_at: datetime | None


class Shown(Struct, frozen=True, kw_only=True):
    """One incident in full; `step` is where its playbook stands, `diagnosis` what triage said last.

    ended: how the steps before ended. asks: the roles whose approval the step lacks. graded: the rule by which it is so severe.
    called: the roles called so far.
    """

    incident: Listed
    playbook: str
    techniques: tuple[str, ...]
    steps: tuple[Step, ...]
    step: str
    ended: tuple[Ended, ...]
    asks: tuple[Role, ...]
    graded: str
    called: tuple[Role, ...]
    assignee: str
    snoozed_until: datetime | None
    relapses: int
    acknowledged_by: str
    diagnosis: Diagnosis | None
    suspicious: tuple[Window, ...]
    frames_quarantined: int
    timeline: tuple[Change, ...]
    effects: tuple[Effect, ...]


def listed(session: Session, *, only_open: bool = False, limit: int = 100) -> tuple[Listed, ...]:
    """Incidents, newest first."""
    query = select(IncidentRow).order_by(IncidentRow.opened_at.desc(), IncidentRow.id).limit(limit)
    if only_open:
        query = query.where(IncidentRow.state != State.CLOSED)
    return tuple(_listed(session, row) for row in session.scalars(query))


def _listed(session: Session, row: IncidentRow) -> Listed:
    impact = row.impact_at
    for incident in readable([row]) if impact is None else ():  # what cannot be read is listed too
        impact = impact_of(session, incident, final=row.state == State.CLOSED)

    def after(moment: datetime | None) -> float | None:
        return None if moment is None or impact is None else (moment - impact).total_seconds()

    return Listed(
        id=row.id,
        kind=Kind(row.kind),
        camera=row.camera_id,
        context=Context(row.context),
        state=State(row.state),
        severity=Severity(row.severity),
        signals=row.signals,
        escalated=row.escalated,
        resolution=None if row.resolution is None else Resolution(row.resolution),
        impact_at=impact,
        detected_at=row.detected_at,
        acknowledged_at=row.acknowledged_at,
        contained_at=row.contained_at,
        recovered_at=row.recovered_at,
        closed_at=row.closed_at,
        seconds_to_detect=after(row.detected_at),
        seconds_to_contain=after(row.contained_at),
        seconds_to_recover=after(row.recovered_at),
    )


def find(session: Session, text: str) -> str:
    """The full id of the incident that `text` names, wholly or by an unmistakable beginning.

    Raises BadInput otherwise, with the nearest id where there is one.
    """
    wanted = text.strip().lower()
    if wanted:
        ids = session.scalars(select(IncidentRow.id).where(IncidentRow.id.startswith(wanted, autoescape=True)).limit(2)).all()
        if len(ids) == 1:
            return ids[0]
        if ids:
            raise BadInput(f"incident {text!r} could be {ids[0]} or another: give more of the id")
    recent = session.scalars(select(IncidentRow.id).order_by(IncidentRow.opened_at.desc()).limit(1000)).all()
    raise BadInput(f"no incident {text!r}; {nearest(wanted, recent) or 'see `kerbwatch incidents list`'}")


def nearest(wanted: str, names: Iterable[str]) -> str:
    """A question that brings the name most like what was typed, whole or as a beginning; "" where none is like it."""
    starts = {name[: max(len(wanted), 4)]: name for name in names}
    near = get_close_matches(wanted, starts, n=1, cutoff=0.5)
    return f"did you mean {starts[near[0]]}?" if near else ""


def shown(session: Session, incident_id: str) -> Shown:
    """One incident in full, by its full id (`find`)."""
    row = session.get_one(IncidentRow, incident_id)
    incident = incident_of(row)
    changes = session.scalars(select(TimelineRow).where(TimelineRow.incident_id == incident_id).order_by(TimelineRow.number))
    effects = session.scalars(select(EffectRow).where(EffectRow.incident_id == incident_id).order_by(EffectRow.number))
    return Shown(
        incident=_listed(session, row),
        playbook=f"{incident.playbook.kind} v{incident.playbook.version}",
        techniques=incident.playbook.techniques,
        steps=incident.playbook.steps,
        step=incident.step.name,
        ended=incident.ended,
        asks=incident.asks,
        graded=incident.graded,
        called=incident.called,
        assignee=incident.assignee,
        snoozed_until=incident.snoozed_until,
        relapses=incident.relapses,
        acknowledged_by=incident.acknowledged_by,
        diagnosis=incident.diagnosis,
        suspicious=incident.seen,
        frames_quarantined=len(set_aside(session, incident)),
        timeline=tuple(Change(c.time, State(c.state), c.actor, c.action, c.what, c.cause_id) for c in changes),
        effects=tuple(Effect(e.id, e.topic, e.state, e.attempts, e.error, e.created_at, e.done_at) for e in effects),
    )


def set_aside(session: Session, incident: Incident) -> tuple[QuarantinedFrame, ...]:
    """The frames that an incident ordered away and that were sealed, under whichever incident, by epoch and sequence."""
    row = QuarantinedFrame
    windows = [
        and_(row.epoch == one.epoch, row.sequence.between(one.first_sequence, one.last_sequence)) for one in incident.covered
    ]
    parts = (windows[start : start + AT_ONCE] for start in range(0, len(windows), AT_ONCE))
    wanted = [row.incident_id == incident.id, *(and_(row.camera_id == incident.camera_id, or_(*part)) for part in parts)]
    found = {one.frame_id: one for condition in wanted for one in session.scalars(select(row).where(condition))}
    return tuple(sorted(found.values(), key=lambda one: (one.epoch, one.sequence)))


@dataclass(frozen=True)
class Standing:
    """How things stand now, for metrics: open incidents by kind and state, those nobody acknowledged by kind, effects that wait."""

    open: dict[tuple[Kind, str], int]
    unacknowledged: dict[Kind, int]
    waiting: int


def standing(session: Session) -> Standing:
    """Counts over all open incidents and the outbox."""
    of_open = IncidentRow.state != State.CLOSED
    states = session.execute(
        select(IncidentRow.kind, IncidentRow.state, func.count()).where(of_open).group_by(IncidentRow.kind, IncidentRow.state)
    )
    alone = session.execute(
        select(IncidentRow.kind, func.count())
        .where(of_open, IncidentRow.state != State.SUSPECTED, IncidentRow.acknowledged_at.is_(None))
        .group_by(IncidentRow.kind)
    )
    return Standing(
        open={(Kind(kind), state): count for kind, state, count in states},
        unacknowledged={Kind(kind): count for kind, count in alone},
        waiting=session.scalar(select(func.count()).select_from(EffectRow).where(EffectRow.state == WAITING)) or 0,
    )
