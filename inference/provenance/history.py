"""Which weights served where, from when to when: what was named, what judged, and which weights judged one frame.

It decides how rows become answers: a name holds until the next name of its role, and weights served from the first to the last
frame that they judged under a decision. It refuses to guess: a frame that is not on record has no answer. It also says which
weights are under suspicion: those that judged the suspicious frames of an open incident. It reads the database, which keeper and
responder write.

Source: paper 4.5.3 (model provenance), 4.7 (incident analysis), SC-10.
"""

import re
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from infra.db import AT_ONCE
from infra.tables import AssignedRow, Assignment, IncidentRow, JudgedFrame, ServedRow
from streams.errors import BadInput
from streams.events import Context, Kind, Mode, Window

SUSPECTING = (Kind.EVASION, Kind.POISONING, Kind.COMPROMISE, Kind.HEALTH)
"""Incidents that speak against the model that judged; drift, traffic, bad input speak of the camera, health of a worker."""
_NEW = timedelta(days=1)
"""So long after it began to serve is an overload laid at a model's door."""
_PLACE = re.compile(r"([a-z0-9][a-z0-9._-]{0,63}):(\d{1,18}):(\d{1,18})")


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """A model was named for a context's mode; `until` is None while it still is."""

    context: Context
    mode: Mode
    weights_digest: str
    since: datetime
    until: datetime | None
    actor: str
    why: str


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """Frames of a context that weights judged under one decision; times by the worker's clock."""

    context: Context
    mode: Mode
    weights_digest: str
    decision_id: str
    first_at: datetime
    last_at: datetime
    frames: int


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One frame, which weights judged it, in which mode, under which decision, when, and what came out."""

    frame_id: str
    camera: str
    context: Context
    epoch: int
    sequence: int
    weights_digest: str
    mode: Mode
    decision_id: str
    camera_time: datetime
    judged_time: datetime
    people: int


def named(session: Session, context: Context | None = None) -> tuple[Named, ...]:
    """Every name, oldest first."""
    query = select(AssignedRow).order_by(AssignedRow.number)
    rows = session.scalars(query if context is None else query.where(AssignedRow.context == context)).all()
    found: list[Named] = []
    until: dict[tuple[str, str], datetime] = {}
    for row in reversed(rows):
        found.append(
            Named(
                context=Context(row.context),
                mode=Mode(row.mode),
                weights_digest=row.weights_digest,
                since=row.since,
                until=until.get((row.context, row.mode)),
                actor=row.actor,
                why=row.why,
            )
        )
        until[row.context, row.mode] = row.since
    return tuple(reversed(found))


def served(session: Session, context: Context | None = None, digest: str | None = None) -> tuple[Stretch, ...]:
    """What judged frames, in order of the first one; of one context or of one model, if asked so."""
    query = select(ServedRow).order_by(ServedRow.first_at, ServedRow.decision_id)
    if context is not None:
        query = query.where(ServedRow.context == context)
    if digest is not None:
        query = query.where(ServedRow.weights_digest == digest)
    return tuple(
        Stretch(
            context=Context(row.context),
            mode=Mode(row.mode),
            weights_digest=row.weights_digest,
            decision_id=row.decision_id,
            first_at=row.first_at,
            last_at=row.last_at,
            frames=row.frames,
        )
        for row in session.scalars(query)
    )


def serving(session: Session) -> dict[str, tuple[str, ...]]:
    """Where each model is named now, by digest: "urban normal", ...; a star marks what the workers are asked to serve."""
    found: dict[str, list[str]] = {}
    for row in session.scalars(select(Assignment).order_by(Assignment.context)):
        for mode, digest in ((Mode.NORMAL, row.normal_digest), (Mode.SAFE, row.safe_digest)):
            found.setdefault(digest, []).append(f"{row.context} {mode}{'*' if row.asked_mode == mode else ''}")
    return {digest: tuple(roles) for digest, roles in found.items()}


def judged(session: Session, frame: str) -> Judged | None:
    """The frame that `frame` names, by its id or as CAMERA:EPOCH:SEQUENCE; None where it is not on record.

    Raises BadInput if it is neither.
    """
    if place := _PLACE.fullmatch(frame):
        camera, epoch, sequence = place.group(1), int(place.group(2)), int(place.group(3))
        query = select(JudgedFrame).where(
            JudgedFrame.camera_id == camera, JudgedFrame.epoch == epoch, JudgedFrame.sequence == sequence
        )
    elif re.fullmatch(r"[0-9a-f]{32}", frame):
        query = select(JudgedFrame).where(JudgedFrame.frame_id == frame)
    else:
        raise BadInput(f"{frame[:80]!r} names no frame: give its id (32 hexadecimal characters) or CAMERA:EPOCH:SEQUENCE")
    row = session.scalar(query)
    if row is None:
        return None
    return Judged(
        frame_id=row.frame_id,
        camera=row.camera_id,
        context=Context(row.context),
        epoch=row.epoch,
        sequence=row.sequence,
        weights_digest=row.weights_digest,
        mode=Mode(row.mode),
        decision_id=row.decision_id,
        camera_time=row.camera_time,
        judged_time=row.judged_time,
        people=row.people,
    )


class _Seen(msgspec.Struct, frozen=True):
    """What of an incident's body is read here."""

    seen: tuple[Window, ...] = ()


def suspected(session: Session) -> dict[str, tuple[str, ...]]:
    """Weights that judged suspicious frames of an open incident in normal mode, with the ids of those incidents.

    An incident of health is about a worker and names no frames: it speaks against the newest of the weights that served its context
    when it was found.

    Input is scored against the normal model also while the safe one serves, so those frames say nothing against the safe one.
    """
    found: dict[str, list[str]] = {}
    query = select(IncidentRow).where(IncidentRow.state != "closed", IncidentRow.kind.in_(SUSPECTING))
    for row in session.scalars(query.order_by(IncidentRow.opened_at)):
        if row.kind == Kind.HEALTH:
            for digest in _newest_at(session, row.context, row.detected_at):
                found.setdefault(digest, []).append(row.id)
            continue
        windows: list[ColumnElement[bool]] = [
            and_(
                JudgedFrame.epoch == window.epoch,
                JudgedFrame.sequence.between(window.first_sequence, window.last_sequence),
            )
            for window in msgspec.json.decode(row.body, type=_Seen).seen
        ]
        of_camera = (JudgedFrame.camera_id == row.camera_id, JudgedFrame.mode == Mode.NORMAL)
        judged = select(JudgedFrame.weights_digest).where(*of_camera).distinct()
        parts = (windows[start : start + AT_ONCE] for start in range(0, len(windows), AT_ONCE))
        for digest in {digest for part in parts for digest in session.scalars(judged.where(or_(*part)))}:
            found.setdefault(digest, []).append(row.id)
    return {digest: tuple(ids) for digest, ids in found.items()}


def _newest_at(session: Session, context: str, moment: datetime) -> tuple[str, ...]:
    """The weights that served a context in normal mode at a moment, of several (a canary beside another) those that came last.

    None while the safe model served, and none that had served for a day by then or that nothing served before: it bore the load
    until then, so an overload is not for being new.
    """
    begun = session.scalars(select(ServedRow).where(ServedRow.context == context, ServedRow.first_at <= moment)).all()
    if not begun:
        return ()
    last = max(begun, key=lambda row: row.first_at)
    first: dict[str, datetime] = {}
    for row in begun:
        if row.mode == Mode.NORMAL:
            first[row.weights_digest] = min(first.get(row.weights_digest, row.first_at), row.first_at)
    then = [row.weights_digest for row in begun if row.decision_id == last.decision_id and row.mode == Mode.NORMAL]
    newest = sorted(then, key=lambda digest: first[digest])[-1:]
    return tuple(one for one in newest if moment - first[one] < _NEW and min(first.values()) < first[one])
