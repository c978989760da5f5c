"""All that is on record of one incident, gathered once, for its evidence and its report.

It decides which frames belong to an incident (the suspicious ones, and some before and after), which log lines and audit entries,
and how they are written as members of a bundle. It refuses to leave a gap unsaid: what could not be read, or is more than is kept,
stands in `missing`. It holds no pictures, only their digests. Events come from whoever reads Kafka's log
(`streams.console.evidence`).

    incident.json   clocks, playbook, state            weights.json   which weights judged what, what was named when
    timeline.jsonl  who did what, why                  settings.json  as they were at sealing, secrets masked
    events.jsonl    events as they lie in the log      logs.jsonl     what our processes said meanwhile
    frames.jsonl    digests, places, judgements        missing.json   what could not be had
    samples.jsonl   what vetting held back (training data)
    acts.jsonl      what people signed                    audit.jsonl    what the log tells of it (`trail.py`)
    doubts.json     where log, acts and timeline do not agree (`comparing.py`), or the log does not hold

Source: paper 4.7 (evidence preservation, incident analysis), SC-10.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from msgspec import Struct
from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from infra.people_tables import ActRow, PersonKeyRow
from infra.settings import Secret, Settings
from infra.tables import AssignedRow, IncidentRow, JudgedFrame, QuarantinedFrame, RolloutRow, ServedRow
from responders.engine import records
from responders.engine.incident import Incident
from responders.engine.past import incident_of
from responders.engine.records import Shown
from responders.people.acts import Signed
from responders.proof.comparing import Kept, differences
from responders.proof.evidence import ACTS, AUDITED, CHECKPOINT, DOUBTS, GROWTH, TIMELINE, WAITING, SignedAct
from responders.proof.samples import SampleFact
from responders.proof.trail import Trail
from responders.quarantine.quarantine import open_frame
from streams.errors import KerbwatchError

AROUND = 64
"""Frames that are told of before and after the suspicious ones."""
MOST = 20_000
"""Frames, events and log lines of one incident that are kept, each; what is more is counted in `missing`."""
_AROUND_S = timedelta(seconds=60)
_LOG_BYTES = 64 * 1024
_NAMES = 10_000
"""Names in one question; SQLite takes 32,766."""


class FrameFact(Struct, frozen=True, kw_only=True):
    """One judged frame: where it lies, which weights judged it, what came out, and its picture's SHA-256 where still known.

    `sealed_sha256` is that of its file in quarantine; `inconsistency` (0..1) None where this frame was not scored.
    """

    frame_id: str
    epoch: int
    sequence: int
    partition: int
    offset: int
    camera_time: datetime
    judged_time: datetime
    weights_digest: str
    mode: str
    decision_id: str
    people: int
    inconsistency: float | None
    suspicious: bool
    digest: str | None = None
    sealed_sha256: str | None = None


class Logged(Struct, frozen=True, kw_only=True):
    """An event as it lies in Kafka's log; `value` is its JSON, as it was sent."""

    topic: str
    partition: int
    offset: int
    value: str


class Judged(Struct, frozen=True, kw_only=True):
    """How many frames of the context these weights judged under one decision, and when (UTC)."""

    weights_digest: str
    mode: str
    decision_id: str
    frames: int
    first_at: datetime
    last_at: datetime


class Named(Struct, frozen=True, kw_only=True):
    """A model was named for the context's mode."""

    weights_digest: str
    mode: str
    since: datetime
    actor: str
    why: str


@dataclass(frozen=True)
class Material:
    """Everything about one incident. Times are UTC. `missing`: what could not be had; `unlogged`: the same of log lines."""

    shown: Shown
    incident: Incident
    frames: tuple[FrameFact, ...]
    judged: tuple[Judged, ...]
    named: tuple[Named, ...]
    events: tuple[Logged, ...]
    settings: Mapping[str, str]
    logs: tuple[msgspec.Raw, ...]
    acts: tuple[SignedAct, ...]
    missing: tuple[str, ...]
    unlogged: tuple[str, ...] = ()
    samples: tuple[SampleFact, ...] = ()

    @property
    def of_camera(self) -> bool:
        """Whether it is about a camera; a worker, training data, the log or unknown senders have no recording (epoch 0)."""
        return bool(self.frames) or any(window.epoch for window in self.incident.seen)

    @property
    def begins(self) -> datetime:
        """From when on events and log lines belong to it."""
        times = [frame.camera_time for frame in self.frames]
        return min([self.incident.detected_at, *times]) - _AROUND_S

    @property
    def ends(self) -> datetime | None:
        """Until when; None while it is open."""
        return None if self.incident.closed_at is None else self.incident.closed_at + _AROUND_S


def gather(session: Session, settings: Settings, incident_id: str) -> Material:
    """What database, quarantine and logs know of an incident, by its full id; no events yet."""
    incident = incident_of(session.get_one(IncidentRow, incident_id))
    frames, missing = _frames(session, settings, incident)
    bare = Material(
        shown=records.shown(session, incident_id),
        incident=incident,
        frames=frames,
        judged=_judged(session, incident, frames),
        named=_named(session, incident),
        events=(),
        settings=_settings(settings),
        logs=(),
        acts=_acts(session, incident_id),
        missing=tuple(missing),
    )
    logs, unlogged = _logs(settings, bare.begins, bare.ends)
    return replace(bare, logs=logs, unlogged=tuple(unlogged))


def with_events(material: Material, events: Sequence[Logged], digests: Mapping[str, str], missing: Sequence[str]) -> Material:
    """The same with events from the log, and pictures' digests (by frame id) where quarantine has none."""
    frames = tuple(
        frame if frame.digest else msgspec.structs.replace(frame, digest=digests.get(frame.frame_id)) for frame in material.frames
    )
    ordered = tuple(sorted(events, key=lambda one: (one.topic, one.partition, one.offset)))
    unknown = sum(frame.digest is None for frame in frames)
    gap = [f"{unknown} of {len(frames)} frames: their pictures are in no log and no quarantine any more"] if unknown else []
    return replace(material, frames=frames, events=ordered, missing=(*material.missing, *missing, *gap))


def members(material: Material, trail: Trail, note: bytes) -> dict[str, bytes]:
    """The bundle's members, in order; the same material gives the same bytes. `note` is the trail's checkpoint, signed."""
    acts = [Kept(Signed(one.body, one.signature), one.public_key) for one in material.acts]
    doubts = (*trail.faults, *differences(trail.log, acts, material.shown.timeline))
    return {
        "incident.json": _json({"shown": material.shown, "state": material.incident}),
        TIMELINE: _lines(material.shown.timeline),
        "events.jsonl": _lines(material.events),
        "frames.jsonl": _lines(material.frames),
        "samples.jsonl": _lines(material.samples),
        "weights.json": _json({"judged": material.judged, "named": material.named}),
        "settings.json": _json(material.settings),
        "logs.jsonl": _lines(material.logs),
        "missing.json": _json((*material.missing, *material.unlogged)),
        ACTS: _lines(material.acts),
        AUDITED: _lines(trail.entries),
        WAITING: b"".join(body + b"\n" for body in trail.waiting),
        CHECKPOINT: note,
        GROWTH: _lines(trail.growth),
        DOUBTS: _json(doubts),
    }


def _frames(session: Session, settings: Settings, incident: Incident) -> tuple[tuple[FrameFact, ...], list[str]]:
    windows = [
        and_(
            JudgedFrame.epoch == window.epoch,
            JudgedFrame.sequence.between(window.first_sequence - AROUND, window.last_sequence + AROUND),
        )
        for window in incident.seen
    ]
    of_incident = (JudgedFrame.camera_id == incident.camera_id, or_(*windows))
    total = session.scalar(select(func.count()).select_from(JudgedFrame).where(*of_incident)) or 0
    rows = session.scalars(
        select(JudgedFrame).where(*of_incident).order_by(JudgedFrame.epoch, JudgedFrame.sequence).limit(MOST)
    ).all()
    sealed: dict[str, QuarantinedFrame] = {}  # a frame is sealed once, under the incident that ordered it first
    for start in range(0, len(rows), _NAMES):
        names = [row.frame_id for row in rows[start : start + _NAMES]]
        query = select(QuarantinedFrame).where(QuarantinedFrame.frame_id.in_(names))
        sealed |= {row.frame_id: row for row in session.scalars(query)}
    missing = [f"{total - len(rows)} of {total} frames: only the first {MOST} are kept"] if total > len(rows) else []
    faults: list[str] = []
    facts = tuple(_fact(row, incident, sealed.get(row.frame_id), settings, faults) for row in rows)
    return facts, [*missing, *([f"{len(faults)} sealed frames do not open; the first: {faults[0]}"] if faults else [])]


def _fact(
    row: JudgedFrame, incident: Incident, sealed: QuarantinedFrame | None, settings: Settings, faults: list[str]
) -> FrameFact:
    digest = None if sealed is None else sealed.picture_sha256 or None
    if sealed is not None and digest is None:  # sealed before pictures' digests were kept
        try:
            digest = open_frame(settings, sealed).frame.digest
        except KerbwatchError as error:
            faults.append(str(error))
    return FrameFact(
        frame_id=row.frame_id,
        epoch=row.epoch,
        sequence=row.sequence,
        partition=row.frame_partition,
        offset=row.frame_offset,
        camera_time=row.camera_time,
        judged_time=row.judged_time,
        weights_digest=row.weights_digest,
        mode=row.mode,
        decision_id=row.decision_id,
        people=row.people,
        inconsistency=row.inconsistency,
        suspicious=any(
            window.epoch == row.epoch and window.first_sequence <= row.sequence <= window.last_sequence for window in incident.seen
        ),
        digest=digest,
        sealed_sha256=None if sealed is None else sealed.sealed_sha256,
    )


def _judged(session: Session, incident: Incident, frames: Sequence[FrameFact]) -> tuple[Judged, ...]:
    """Whole stretches, so that one sees what served before and after; of this context, those that judged these frames."""
    ours = {frame.decision_id for frame in frames}
    query = select(ServedRow).where(ServedRow.context == incident.context, ServedRow.decision_id.in_(ours))
    return tuple(
        Judged(
            weights_digest=row.weights_digest,
            mode=row.mode,
            decision_id=row.decision_id,
            frames=row.frames,
            first_at=row.first_at,
            last_at=row.last_at,
        )
        for row in session.scalars(query.order_by(ServedRow.first_at, ServedRow.decision_id))
    )


def _named(session: Session, incident: Incident) -> tuple[Named, ...]:
    query = select(AssignedRow).where(AssignedRow.context == incident.context)
    if incident.closed_at is not None:
        query = query.where(AssignedRow.since <= incident.closed_at)
    return tuple(
        Named(weights_digest=row.weights_digest, mode=row.mode, since=row.since, actor=row.actor, why=row.why)
        for row in session.scalars(query.order_by(AssignedRow.number))
    )


def _acts(session: Session, incident_id: str) -> tuple[SignedAct, ...]:
    """Acts on the incident, on its frames in quarantine and on its rollouts."""
    rollouts = select(RolloutRow.id).where(RolloutRow.incident_id == incident_id)
    about = or_(ActRow.target == incident_id, ActRow.target.startswith(f"{incident_id}/"), ActRow.target.in_(rollouts))
    query = select(ActRow, PersonKeyRow.public_key).join(PersonKeyRow, PersonKeyRow.key_id == ActRow.key_id).where(about)
    return tuple(
        SignedAct(body=row.body, signature=row.signature, public_key=public, with_code=row.with_code)
        for row, public in session.execute(query.order_by(ActRow.number))
    )


def _settings(settings: Settings) -> dict[str, str]:
    values = {name: getattr(settings, name) for name in sorted(settings.__struct_fields__)}
    return {name: "***" if isinstance(value, Secret) else str(value) for name, value in values.items() if value is not None}


def _logs(settings: Settings, begins: datetime, ends: datetime | None) -> tuple[tuple[msgspec.Raw, ...], list[str]]:
    """Lines of our processes within these times, oldest first; they hide secrets themselves (`infra.log`)."""
    found = []
    files = sorted((settings.home.resolve() / "logs").glob("*.log*"))
    for path in files:
        for line in _read(path):
            try:
                said = json.loads(line)
                moment = datetime.fromisoformat(said["timestamp"])
                if begins <= moment and (ends is None or moment <= ends):
                    found.append((moment, path.name, line))
            except (ValueError, TypeError, KeyError):
                continue  # supervisor's own words and tracebacks of a dying process carry no time
    found.sort()
    left_out = [f"{len(found) - MOST} of {len(found)} log lines: only the first {MOST} are kept"] if len(found) > MOST else []
    if not files:
        left_out = ["log lines: no process logs to `logs` here; keep those of where they do (containers' logs)"]
    return tuple(msgspec.Raw(line) for _, _, line in found[:MOST]), left_out


def _read(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from (line.rstrip(b"\n") for line in file if len(line) <= _LOG_BYTES)
    except OSError:  # rotated away meanwhile
        return


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def _lines(values: Sequence[object]) -> bytes:
    return b"".join(msgspec.json.encode(value) + b"\n" for value in values)
