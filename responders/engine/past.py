"""What the database knows of before: whose answers an incident is about, since when it is felt, what closed, what people settled.

It decides nothing: `obeying.py` and `opened` do, with what is read here. It refuses to guess: frames that are not on record
speak against no model, and an incident that cannot be read is no reason to open none. Fed by the database only.

Source: paper 4.6 (roll-back to a model that is not suspected), 4.7.
"""

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import Session

from infra.db import AT_ONCE
from infra.tables import Assignment, IncidentRow, JudgedFrame, ServedRow
from responders.engine.incident import Incident, Resolution
from responders.playbooks.playbooks import State
from streams.errors import BrokenContract
from streams.events import Mode, Signal, Window

_MAY_LAST_S = 120.0
"""An alarm that goes on so long after a close counts anew: detectors need tens of seconds to see that it is over."""
_LOOKED_AT = 20
"""Incidents of a camera among which the last one of a kind is looked for."""


def incident_of(row: IncidentRow) -> Incident:
    """The whole state out of its row. Raises BrokenContract where another version wrote what this one cannot read."""
    try:
        return msgspec.json.decode(row.body, type=Incident)
    except msgspec.MsgspecError as error:
        raise BrokenContract(
            f"incident {row.id} cannot be read by this version of kerbwatch ({error}): run the one that wrote it, or a newer one"
        ) from error


def readable(rows: Iterable[IncidentRow]) -> list[Incident]:
    """Those of the incidents that can be read."""
    found: list[Incident] = []
    for row in rows:
        with suppress(BrokenContract):
            found.append(incident_of(row))
    return found


def doubted(session: Session, camera_id: str, seen: tuple[Window, ...], model: Assignment) -> str:
    """The context's normal model (SHA-256) where it judged one of these frames of a camera in normal mode, else ""."""
    windows = [
        and_(JudgedFrame.epoch == one.epoch, JudgedFrame.sequence.between(one.first_sequence, one.last_sequence)) for one in seen
    ]
    judged = (
        JudgedFrame.camera_id == camera_id,
        JudgedFrame.mode == Mode.NORMAL,
        JudgedFrame.weights_digest == model.normal_digest,
    )
    parts = (windows[start : start + AT_ONCE] for start in range(0, len(windows), AT_ONCE))
    return model.normal_digest if any(session.scalar(select(exists().where(*judged, or_(*part)))) for part in parts) else ""


def former(session: Session, signal: Signal, within_s: float | None) -> list[Incident]:
    """Incidents of the signal's camera, context and kind that closed at most `within_s` seconds before it, oldest first."""
    if within_s is None:
        return []
    since = IncidentRow.closed_at >= signal.time - timedelta(seconds=within_s)
    rows = select(IncidentRow).where(*_closed_at(signal), IncidentRow.kind == signal.kind, since).order_by(IncidentRow.closed_at)
    return readable(session.scalars(rows))


def last_closed(session: Session, signal: Signal) -> Incident | None:
    """The incident of the signal's camera and context to which its kind belonged and that closed last."""
    newest = select(IncidentRow).where(*_closed_at(signal)).order_by(IncidentRow.closed_at.desc()).limit(_LOOKED_AT)
    return next((one for one in readable(session.scalars(newest)) if one.takes(signal.kind)), None)


def is_settled(last: Incident | None, signal: Signal) -> bool:
    """Whether an alarm that goes on, and belongs to no open incident, needs none, by the one that closed last.

    So where that one had heard this detector, and closed less than the playbook's `alarm_may_last_s` ago, or was called a false
    alarm for this very finding, or has heard something later since.
    """
    if last is None or last.closed_at is None or all(one.detector != signal.detector for one in last.findings):
        return False
    may_last = timedelta(seconds=last.playbook.alarm_may_last_s.get(signal.detector, _MAY_LAST_S))
    if signal.time - last.closed_at < may_last or not last.hears(signal):
        return True
    first = signal.window.first_sequence
    seen = any(one.epoch == signal.window.epoch and one.first_sequence <= first <= one.last_sequence for one in last.seen)
    return seen and last.resolution is Resolution.FALSE_ALARM


def _closed_at(signal: Signal) -> tuple[ColumnElement[bool], ...]:
    return (
        IncidentRow.camera_id == signal.camera_id,
        IncidentRow.context == signal.context,
        IncidentRow.state == State.CLOSED,
    )


def judged_at(session: Session, incident: Incident) -> datetime | None:
    """When the camera's newest frame was judged; the context's, if the incident is about no camera (a worker, strangers)."""
    newest = (
        select(JudgedFrame.judged_time)
        .where(JudgedFrame.camera_id == incident.camera_id)
        .order_by(JudgedFrame.epoch.desc(), JudgedFrame.sequence.desc())
        .limit(1)
    )
    return session.scalar(newest) or session.scalar(
        select(func.max(ServedRow.last_at)).where(ServedRow.context == incident.context)
    )


def impact_of(session: Session, incident: Incident, *, final: bool) -> datetime | None:
    """When it began, by the camera: the time of the first suspicious frame, once that frame is on record.

    With `final` the next one judged will do, in case the first was refused; before that, rows may merely be late.
    """
    first = incident.seen[0]
    frame = session.execute(
        select(JudgedFrame.sequence, JudgedFrame.camera_time)
        .where(
            JudgedFrame.camera_id == incident.camera_id,
            JudgedFrame.epoch == first.epoch,
            JudgedFrame.sequence.between(first.first_sequence, first.last_sequence),
        )
        .order_by(JudgedFrame.sequence)
        .limit(1)
    ).one_or_none()
    return frame.camera_time if frame is not None and (final or frame.sequence == first.first_sequence) else None
