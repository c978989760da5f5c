"""Frames set aside: each picture sealed, with what was found in it and why it is here, kept out of every training set.

It decides where a sealed file lies and what it holds; it refuses a frame that its order does not name, and sealed bytes that were
touched. A frame stands in quarantine once, however often it is ordered there. Each file has a key of its own: whoever destroys the
key has destroyed the frame, wherever copies of the file are. Fed by topic `quarantine`; pictures and detections come from the logs
of topics `frames` and `detections`. What people decide about frames here stands in `review.py`.

Source: paper 4.6 (automatic quarantine), 4.7 (evidence preservation), 4.5.4 (encryption at rest).
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from infra.db import Sessions, insert_into, reading, writing
from infra.files import alone, write_whole
from infra.keys import new_data_key, open_sealed, quarantine_key, seal
from infra.settings import Settings
from infra.tables import IncidentRow, JudgedFrame, QuarantinedFrame
from responders.engine import records
from responders.engine.past import incident_of
from streams.errors import BadInput, KerbwatchError, Tampered, Unavailable
from streams.events import Detections, Frame, QuarantineOrder

_CHUNK = 32
_SAFE_ID = re.compile(r"[0-9a-f]{32}")


class Standing(StrEnum):
    """What became of a frame that was set aside."""

    SEALED = "sealed"  # in quarantine
    RELEASED = "released"  # people let it go: it may be trained on again; the sealed file stays, as evidence
    DISCARDED = "discarded"  # people had it destroyed


@dataclass(frozen=True)
class Place:
    """Where a judged frame lies in the log of topic `frames`, and when it was judged, where that is asked for."""

    frame_id: str
    sequence: int
    partition: int
    offset: int
    judged_time: datetime | None = None


@dataclass(frozen=True)
class Located:
    """The frames of an order that are on record, by sequence; `missing` of it are not (yet, or were refused unjudged)."""

    places: tuple[Place, ...]
    missing: int


@dataclass(frozen=True)
class Outcome:
    """How many frames were sealed now, and how many were set aside before."""

    sealed: int
    already: int


class SealedFrame(msgspec.Struct, frozen=True, kw_only=True):
    """What a sealed file holds; `picture` is the encoded image as the camera sent it."""

    order: QuarantineOrder
    frame: Frame
    detections: Detections | None
    picture: bytes


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A frame in quarantine, without its picture; `path` is under the home folder, "" once a released one was let go by its age."""

    frame_id: str
    incident_id: str
    camera: str
    epoch: int
    sequence: int
    path: str
    sealed_sha256: str
    reason: str
    sealed_at: datetime
    state: Standing
    reviewed_at: datetime | None
    reviewed_by: str


def listed(session: Session, incident_id: str | None, limit: int, *, reviewed: bool = False) -> tuple[tuple[Kept, ...], int]:
    """The newest `limit` frames in quarantine, ordered there by one incident (whichever sealed them) or by any, and their number.

    With `reviewed` those that people released or discarded as well.
    """
    inside = () if reviewed else (QuarantinedFrame.state == Standing.SEALED,)
    if incident_id is None:
        newest = select(QuarantinedFrame).where(*inside)
        newest = newest.order_by(QuarantinedFrame.sealed_at.desc(), QuarantinedFrame.sequence.desc()).limit(limit)
        rows = session.scalars(newest).all()
        total = session.scalar(select(func.count()).select_from(QuarantinedFrame).where(*inside)) or 0
    else:
        incident = session.get(IncidentRow, incident_id)
        its_own = select(QuarantinedFrame).where(QuarantinedFrame.incident_id == incident_id)
        ordered = session.scalars(its_own).all() if incident is None else records.set_aside(session, incident_of(incident))
        ours = [row for row in ordered if reviewed or row.state == Standing.SEALED]
        rows, total = sorted(ours, key=lambda row: (row.sealed_at, row.sequence), reverse=True)[:limit], len(ours)
    kept = tuple(
        Kept(
            frame_id=row.frame_id,
            incident_id=row.incident_id,
            camera=row.camera_id,
            epoch=row.epoch,
            sequence=row.sequence,
            path=row.path,
            sealed_sha256=row.sealed_sha256,
            reason=row.reason,
            sealed_at=row.sealed_at,
            state=Standing(row.state),
            reviewed_at=row.reviewed_at,
            reviewed_by=row.reviewed_by,
        )
        for row in rows
    )
    return kept, total


def offsets_of(session: Session, order: QuarantineOrder) -> Located:
    """Where the frames of an order lie. Rows of judged frames come late: while some are missing, ask again a little later."""
    window = order.window
    found = session.execute(
        select(
            JudgedFrame.frame_id,
            JudgedFrame.sequence,
            JudgedFrame.frame_partition,
            JudgedFrame.frame_offset,
            JudgedFrame.judged_time,
        )
        .where(
            JudgedFrame.camera_id == order.camera_id,
            JudgedFrame.epoch == window.epoch,
            JudgedFrame.sequence.between(window.first_sequence, window.last_sequence),
        )
        .order_by(JudgedFrame.sequence)
    )
    places = tuple(Place(*row) for row in found)
    return Located(places, window.last_sequence - window.first_sequence + 1 - len(places))


def set_aside(
    sessions: Sessions,
    settings: Settings,
    order: QuarantineOrder,
    frames: Iterable[tuple[Frame, bytes, Detections | None]],
    now: datetime,
) -> Outcome:
    """Seal the frames that are not in quarantine yet (AES-256-GCM) and write a row for each; harmless to repeat at any point.

    A file that is gone is sealed again; what people released comes back by a new order only; what they discarded does not.

    Raises BadInput for a frame outside the order, Unavailable without database or disk.
    """
    if not _SAFE_ID.fullmatch(order.incident_id):
        raise BadInput(f"quarantine order {order.id} names incident {order.incident_id!r}, which is no id; find out who wrote it")
    home = settings.home.resolve()
    folder = home / "quarantine" / order.incident_id
    sealed = already = 0
    rest = iter(frames)
    with alone(home / "quarantine" / ".lock"):
        key = quarantine_key(settings)
        while chunk := list(islice(rest, _CHUNK)):
            for frame, _, _ in chunk:
                _check(order, frame)
            with reading(sessions) as session:
                names = [frame.id for frame, _, _ in chunk]
                known = session.scalars(select(QuarantinedFrame).where(QuarantinedFrame.frame_id.in_(names))).all()
            standing = {row.frame_id for row in known if _stands(home, row, order)}
            new = {frame.id: (frame, body, seen) for frame, body, seen in chunk if frame.id not in standing}
            rows = []
            for frame, body, seen in new.values():
                about, own = _about(order.incident_id, frame.id), new_data_key()
                whole = SealedFrame(order=order, frame=frame, detections=seen, picture=body)
                data = seal(own, msgspec.msgpack.encode(whole), about)
                path = folder / f"{frame.epoch}-{frame.sequence}.sealed"
                _write(path, data)
                rows.append(_row(order, frame, path.relative_to(home), data, seal(key, own, about), now))
            _insert(sessions, rows)
            sealed += len(new)
            already += len(chunk) - len(new)
    return Outcome(sealed, already)


def not_aside(session: Session, settings: Settings, order: QuarantineOrder, places: Sequence[Place]) -> int:
    """How many of an order's frames are not in quarantine as it wants them, once it was carried out: no log had their pictures."""
    window = order.window
    rows = session.scalars(
        select(QuarantinedFrame).where(
            QuarantinedFrame.camera_id == order.camera_id,
            QuarantinedFrame.epoch == window.epoch,
            QuarantinedFrame.sequence.between(window.first_sequence, window.last_sequence),
        )
    )
    home = settings.home.resolve()
    standing = {row.frame_id for row in rows if _stands(home, row, order)}
    return sum(place.frame_id not in standing for place in places)


def open_frame(settings: Settings, row: QuarantinedFrame) -> SealedFrame:
    """A frame out of its sealed file.

    Raises Tampered if file, name or key were changed, Unavailable if the file is gone, BadInput if the frame was discarded.
    """
    if row.state == Standing.DISCARDED:
        raise BadInput(
            f"frame {row.frame_id} was discarded by {row.reviewed_by} at {row.reviewed_at:%Y-%m-%d %H:%M} UTC: it is gone"
        )
    if not row.path:
        raise Unavailable(f"frame {row.frame_id} was released by {row.reviewed_by}; its picture has been let go since, by its age")
    path = settings.home.resolve() / row.path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unavailable(f"sealed frame {row.frame_id} is not at {path}: restore it from a backup") from error
    if hashlib.sha256(data).hexdigest() != row.sealed_sha256:
        raise Tampered(f"sealed frame {path} is not the file that was written: keep it as evidence, restore it from a backup")
    about, key = _about(row.incident_id, row.frame_id), quarantine_key(settings)
    own = key if row.sealed_key is None else open_sealed(key, row.sealed_key, about)
    return msgspec.msgpack.decode(open_sealed(own, data, about), type=SealedFrame)


def kept_out(settings: Settings, session: Session) -> frozenset[str]:
    """SHA-256 of every picture that no training set may hold: those in quarantine and those that were discarded."""
    rows = session.scalars(select(QuarantinedFrame).where(QuarantinedFrame.state != Standing.RELEASED))
    return frozenset(_digest(settings, row) for row in rows if row.picture_sha256 or row.state == Standing.SEALED)


def destroy(settings: Settings, row: QuarantinedFrame, by: str, now: datetime) -> None:
    """A frame's file and its own key go, in the session's transaction; the picture's hash stays, so that it is known again.

    The file goes first: a crash leaves a row to be dealt with again, never one that says gone of what is there.
    """
    with suppress(KerbwatchError):  # what cannot be opened any more has no hash to be kept
        row.picture_sha256 = _digest(settings, row)
    (settings.home.resolve() / row.path).unlink(missing_ok=True)
    row.sealed_key, row.state, row.reviewed_at, row.reviewed_by = None, Standing.DISCARDED, now, by


def expire(
    session: Session, settings: Settings, before: datetime, spared: Collection[str], *, by: str, now: datetime
) -> Sequence[QuarantinedFrame]:
    """Destroy what was sealed before that moment, but for these cameras' frames; the rows.

    What still waited counts as discarded; what people released stays so, by their word, and has no picture any more.
    """
    rows = session.scalars(
        select(QuarantinedFrame).where(
            QuarantinedFrame.sealed_at < before,
            QuarantinedFrame.state != Standing.DISCARDED,
            QuarantinedFrame.path != "",
            QuarantinedFrame.camera_id.not_in(spared),
        )
    ).all()
    for row in rows:
        decided = row.state, row.reviewed_at, row.reviewed_by
        destroy(settings, row, by, now)
        if decided[0] == Standing.RELEASED:
            (row.state, row.reviewed_at, row.reviewed_by), row.path = decided, ""
    return rows


def _digest(settings: Settings, row: QuarantinedFrame) -> str:
    """Of the picture; rows of before do not tell it."""
    return row.picture_sha256 or open_frame(settings, row).frame.digest


def _stands(home: Path, row: QuarantinedFrame, order: QuarantineOrder) -> bool:
    if row.state == Standing.DISCARDED:
        return True
    if row.state == Standing.RELEASED:
        return row.decision_id == order.decision_id
    return (home / row.path).is_file()


def _check(order: QuarantineOrder, frame: Frame) -> None:
    window = order.window
    inside = window.first_sequence <= frame.sequence <= window.last_sequence
    if frame.camera_id != order.camera_id or frame.epoch != window.epoch or not inside:
        raise BadInput(
            f"frame {frame.sequence} of camera {frame.camera_id} is not in quarantine order {order.id}; read the log again"
        )


def _about(incident_id: str, frame_id: str) -> bytes:
    return f"{incident_id}/{frame_id}".encode()


def _write(path: Path, data: bytes) -> None:
    try:
        write_whole(path, data)
    except OSError as error:
        raise Unavailable(f"quarantine file {path} cannot be written: {error}; make room or mend the folder's rights") from error


def _row(  # noqa: PLR0917 - what a row is made of
    order: QuarantineOrder, frame: Frame, path: Path, data: bytes, sealed_key: bytes, now: datetime
) -> dict[str, object]:
    return {
        "frame_id": frame.id,
        "incident_id": order.incident_id,
        "decision_id": order.decision_id,
        "camera_id": frame.camera_id,
        "epoch": frame.epoch,
        "sequence": frame.sequence,
        "path": str(path),
        "sealed_sha256": hashlib.sha256(data).hexdigest(),
        "reason": order.reason,
        "sealed_at": now,
        "state": Standing.SEALED,
        "sealed_key": sealed_key,
        "picture_sha256": frame.digest,
        "reviewed_at": None,
        "reviewed_by": "",
    }


def _insert(sessions: Sessions, rows: list[dict[str, object]]) -> None:
    if not rows:
        return
    with writing(sessions) as session:
        insert = insert_into(session, QuarantinedFrame)
        new = insert.excluded
        # A row that stands already is here because its file was gone, or it had been released: it now is what was sealed last.
        again = {name: getattr(new, name) for name in rows[0] if name != "frame_id"}
        session.connection().execute(insert.on_conflict_do_update(index_elements=["frame_id"], set_=again), rows)
