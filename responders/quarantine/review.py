"""What people decide about frames in quarantine: let them go, or have them destroyed.

It decides which frames a review is about, and carries out what two people agreed on (`desk.py`); it refuses while an incident that
set them aside is open, because they are its evidence. A released frame may be trained on again; a discarded one is gone for good:
its own key is destroyed with its file. No topic feeds it: `kerbwatch quarantine release|discard` does.

Source: paper 4.6 (manual review by R4 and R8), 4.7 (evidence preservation); NIST SP 800-88r1, 2.5 (cryptographic erase).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from infra.settings import Settings
from infra.tables import IncidentRow, QuarantinedFrame
from responders.engine import outbox, records
from responders.engine.past import incident_of
from responders.engine.records import nearest
from responders.people.access import Deed
from responders.playbooks.playbooks import State
from responders.quarantine.quarantine import Standing, destroy
from streams.errors import BadInput
from streams.events import event_id

_PARTS = 3  # CAMERA:EPOCH:SEQUENCE


@dataclass(frozen=True)
class Chosen:
    """Frames that a review is about; `target` names exactly these, so that two people cannot mean different ones."""

    incident_id: str
    frames: tuple[QuarantinedFrame, ...]

    @property
    def count(self) -> int:
        """How many."""
        return len(self.frames)

    @property
    def target(self) -> str:
        """The incident and the content address of the frames' ids."""
        return f"{self.incident_id}/{event_id('frames', *(row.frame_id for row in self.frames))}"


def find_frame(session: Session, text: str) -> QuarantinedFrame:
    """The frame that `text` names: its id, the beginning of it, or CAMERA:EPOCH:SEQUENCE. Raises BadInput otherwise."""
    wanted = text.strip()
    query = select(QuarantinedFrame).limit(2)
    parts = wanted.split(":")
    if len(parts) == _PARTS and parts[1].isdecimal() and parts[2].isdecimal():
        camera, epoch, sequence = parts
        same = (QuarantinedFrame.epoch == int(epoch)) & (QuarantinedFrame.sequence == int(sequence))
        query = query.where((QuarantinedFrame.camera_id == camera) & same)
    else:
        query = query.where(QuarantinedFrame.frame_id.startswith(wanted.lower(), autoescape=True))
    rows = session.scalars(query).all() if wanted else []
    if len(rows) == 1:
        return rows[0]
    if rows:
        raise BadInput(f"frame {text!r} could be {rows[0].frame_id} or another: give more of the id")
    raise BadInput(
        f"no frame {text[:80]!r} was set aside; {nearest(wanted, named_frames(session)) or 'see `kerbwatch quarantine list`'}"
    )


def named_frames(session: Session, limit: int = 1000) -> tuple[str, ...]:
    """The newest frames that were set aside, as CAMERA:EPOCH:SEQUENCE."""
    rows = session.execute(
        select(QuarantinedFrame.camera_id, QuarantinedFrame.epoch, QuarantinedFrame.sequence)
        .order_by(QuarantinedFrame.sealed_at.desc(), QuarantinedFrame.sequence.desc())
        .limit(limit)
    )
    return tuple(f"{camera}:{epoch}:{sequence}" for camera, epoch, sequence in rows)


def chosen(session: Session, incident: str, frame: str | None) -> Chosen:
    """The frames of an incident that stand in quarantine, or one of them. Raises BadInput where there is nothing to decide yet."""
    incident_id = records.find(session, incident)
    ordered = records.set_aside(session, incident_of(session.get_one(IncidentRow, incident_id)))
    rows = [row for row in ordered if row.state == Standing.SEALED]
    if frame is not None:
        one = find_frame(session, frame)
        rows = [row for row in rows if row.frame_id == one.frame_id]
    if not rows:
        raise BadInput(f"incident {incident_id[:8]} has no such frames in quarantine; see `kerbwatch quarantine list --all`")
    _require_closed(session, incident_id, rows)
    return Chosen(incident_id, tuple(rows))


def _require_closed(session: Session, incident_id: str, rows: Sequence[QuarantinedFrame]) -> None:
    """No open incident of these cameras has set any of them aside."""
    cameras = {row.camera_id for row in rows}
    still_open = session.scalars(select(IncidentRow).where(IncidentRow.camera_id.in_(cameras), IncidentRow.state != State.CLOSED))
    for incident in map(incident_of, still_open):
        needs = any(
            row.camera_id == incident.camera_id
            and row.epoch == window.epoch
            and window.first_sequence <= row.sequence <= window.last_sequence
            for row in rows
            for window in incident.covered
        )
        if needs or incident.id == incident_id:
            raise BadInput(f"incident {incident.id[:8]} is {incident.state} and needs these frames as evidence: close it first")


def settle(session: Session, settings: Settings, about: Chosen, deed: Deed, by: Sequence[str], why: str, now: datetime) -> None:  # noqa: PLR0917 - who decided what, when and why
    """Release or discard the frames, in the session's transaction."""
    state = Standing.RELEASED if deed is Deed.RELEASE else Standing.DISCARDED
    for row in about.frames:
        if deed is Deed.DISCARD:
            destroy(settings, row, ", ".join(by), now)
        else:
            row.state, row.reviewed_at, row.reviewed_by = state, now, ", ".join(by)
        session.add(row)
    what = f"{len(about.frames)} frames {state} ({_ranges(about.frames)}): {why}"
    id_ = event_id("review", deed, about.target, now.isoformat())
    outbox.post_audit(session, id_, ", ".join(by), f"quarantine.{deed}", target=about.target, why=what, now=now)


def _ranges(frames: Sequence[QuarantinedFrame]) -> str:
    """Which frames these are, in few words: CAMERA:EPOCH:FIRST-LAST, ..."""
    seen = {(row.camera_id, row.epoch, row.sequence) for row in frames}
    firsts = sorted(one for one in seen if (*one[:2], one[2] - 1) not in seen)
    lasts = sorted(one for one in seen if (*one[:2], one[2] + 1) not in seen)
    return ", ".join(f"{camera}:{epoch}:{first}-{last[2]}" for (camera, epoch, first), last in zip(firsts, lasts, strict=True))
