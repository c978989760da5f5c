"""What the database knows of before, where a decision needs it: whose answers an incident is about, and what has just closed.

It decides nothing: `obeying.py` and `opened` do, with what is read here. It refuses to guess: frames that are not on record speak
against no model. Fed by the database only.

Source: paper 4.6 (roll-back to a model that is not suspected), 4.7.
"""

from datetime import timedelta

from sqlalchemy import and_, exists, or_, select
from sqlalchemy.orm import Session

from infra.db import AT_ONCE
from infra.tables import Assignment, IncidentRow, JudgedFrame
from responders.playbooks.playbooks import State
from streams.events import Mode, Signal, Window


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


def former(session: Session, signal: Signal, within_s: float | None) -> tuple[IncidentRow, ...]:
    """Incidents of the signal's camera, context and kind that closed at most `within_s` seconds before it; None: none."""
    if within_s is None:
        return ()
    here = (
        IncidentRow.camera_id == signal.camera_id,
        IncidentRow.context == signal.context,
        IncidentRow.kind == signal.kind,
        IncidentRow.state == State.CLOSED,
        IncidentRow.closed_at >= signal.time - timedelta(seconds=within_s),
    )
    return tuple(session.scalars(select(IncidentRow).where(*here)))
