"""Evidence and reports as people ask for them: `kerbwatch incidents evidence` and `report`.

It decides which events of Kafka's log belong to an incident, and reads them by offset; everything else is decided in
`responders.proof.material`, `trail`, `evidence` and `responders.report`. It refuses to fail where the broker is away: what
could not be read is said in the bundle. Fed by topics `signals`, `detections`, `quarantine`, `incidents`, `model-state`, read back.

Source: paper 4.7 (evidence preservation, incident analysis), SC-10.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from kafka import TopicPartition
from rich.console import Console

from infra.checkpoints import evidence_key, keep_note, public_key_file, read_public_key, write_note
from infra.clients import consumer
from infra.db import Sessions, reading, writing
from infra.files import write_whole
from infra.settings import Settings, read_settings
from responders.console.tables import AsJson, Id, opened, print_json
from responders.engine import records
from responders.proof import material as gathering
from responders.proof import sealings
from responders.proof.evidence import About, Verified, seal, verify
from responders.proof.material import MOST, Logged, Material
from responders.proof.trail import follow
from responders.quarantine.quarantine import Place
from streams import codec, topics
from streams.console.held_evidence import with_samples
from streams.errors import BadInput, BrokenContract, Tampered, Unavailable
from streams.events import Detections, Event, ModelState, Signal
from streams.frame_log import read_frames
from streams.topics import Role, Topic

_ACTOR = "console"
_SHOWN = 5


def collect(sessions: Sessions, settings: Settings, incident_id: str) -> Material:
    """Everything about an incident, with its events where the broker still has them. Raises Unavailable without the database."""
    with reading(sessions) as session:
        bare = gathering.gather(session, settings, incident_id)
    return _completed(settings, bare)


def _completed(settings: Settings, bare: Material) -> Material:
    bare = with_samples(settings, bare)
    unsealed = [frame for frame in bare.frames if frame.digest is None]
    places = [Place(frame.frame_id, frame.sequence, frame.partition, frame.offset) for frame in unsealed]
    try:
        events, missing = _events(settings, bare)
        digests = {frame.id: frame.digest for frame, _ in read_frames(settings, places)}
    except Unavailable as error:
        return gathering.with_events(bare, (), {}, [f"all events by offset: {error}"])
    return gathering.with_events(bare, events, digests, missing)


def seal_incident(sessions: Sessions, settings: Settings, incident_id: str, now: datetime, *, whole: bool = False) -> bytes:
    """The sealed bundle of an incident. Where the log does not hold, or says something else than the tables, the bundle says so.

    Raises Unavailable without the database; with `whole` also where log or audit trail are not all there yet, and a later try may
    find more. Raises Tampered if the incident's own rows cannot be read.
    """
    key = evidence_key(settings)
    with reading(sessions) as session:  # one moment: what is decided meanwhile is in neither timeline nor log
        try:
            bare = gathering.gather(session, settings, incident_id)
        except (ValueError, BrokenContract) as error:
            raise Tampered(
                f"the rows of incident {incident_id[:8]} cannot be read ({error}); if no version of kerbwatch that ever ran here "
                "reads them they were changed: restore them from a backup"
            ) from error
        trail = follow(session, settings, incident_id)
    trail = replace(trail, faults=(*trail.faults, *sealings.gone(trail.sealings, settings, incident_id)))
    found, late = _completed(settings, bare), len(trail.waiting)
    if whole and (late or not found.events):
        raise Unavailable(f"incident {incident_id[:8]}: {late} audit entries wait; {'; '.join(found.missing) or 'its log is read'}")
    if late:
        found = replace(found, missing=(*found.missing, f"{late} audit entries are not on record yet: seal again later"))
    note = b"" if trail.checkpoint is None else write_note(key, trail.checkpoint)
    if trail.checkpoint is not None and trail.checkpoint.size:
        keep_note(settings, trail.checkpoint, note)
    about = About(incident_id=incident_id, sealed_at=now, kerbwatch=version("kerbwatch"))
    return seal(gathering.members(found, trail, note), about, key)


def doubted(found: Verified, what: str) -> Tampered:
    """The error that tells what a bundle's own sealer, or a comparison of its members, found wrong."""
    more = f"; and {len(found.doubts) - _SHOWN} more" if len(found.doubts) > _SHOWN else ""
    return Tampered(f"{what}: {'; '.join(found.doubts[:_SHOWN])}{more}. Change nothing; see docs/evidence.md")


def _events(settings: Settings, about: Material) -> tuple[list[Logged], list[str]]:
    incident, frames = about.incident, {frame.frame_id for frame in about.frames}
    sent, decisions = {effect.id for effect in about.shown.effects}, {frame.decision_id for frame in about.frames}

    def ours(event: Event) -> bool:
        match event:
            case Signal():
                here = (event.camera_id, event.context) == (incident.camera_id, incident.context)
                return here and incident.takes(event.kind)
            case Detections():
                return event.frame_id in frames
            case ModelState():
                return event.id in sent or event.decision_id in decisions
            case _:
                return event.id in sent

    found: list[Logged] = []
    missing = []
    for topic in (topics.SIGNALS, topics.DETECTIONS, topics.QUARANTINE, topics.INCIDENTS, topics.MODEL_STATE):
        read = [_logged(topic, record) for record in _records(settings, topic, about) if _is(record, topic, ours)]
        found += read[:MOST]
        if topic is topics.DETECTIONS and (gone := frames - {_seen(one) for one in read}):
            missing.append(f"{len(gone)} of {len(frames)} frames: what was found in them is in no log any more")
        if len(read) > MOST:
            missing.append(f"{len(read) - MOST} of {len(read)} events of topic {topic.name}: only the first {MOST} are kept")
    return found, missing


def _is(record: Any, topic: Topic, ours: Callable[[Event], bool]) -> bool:
    try:
        return ours(codec.decode(record.value, topic, topic.carries).event)
    except BadInput:  # it is on the dead-letter topic
        return False


def _logged(topic: Topic, record: Any) -> Logged:
    return Logged(topic=topic.name, partition=record.partition, offset=record.offset, value=record.value.decode())


def _seen(one: Logged) -> str:
    return msgspec.json.decode(one.value, type=Detections).frame_id


def _records(settings: Settings, topic: Topic, about: Material) -> Iterator[Any]:
    """The topic's records within the incident's times. A compacted topic is read whole: its records may be older."""
    client = consumer(settings, Role.OPERATOR, group=None)
    try:
        partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        client.assign(partitions)
        stops: dict[TopicPartition, int] = dict(client.end_offsets(partitions))
        if about.ends is not None:
            stops |= _first_after(client, partitions, about.ends)
        starts = {} if topic.compacted else _first_after(client, partitions, about.begins)
        for tp in partitions:
            if topic.compacted:
                client.seek_to_beginning(tp)
            else:
                client.seek(tp, starts.get(tp, stops[tp]))
        while any(client.position(tp) < stops[tp] for tp in partitions):
            for tp, batch in client.poll(timeout_ms=500).items():
                yield from (record for record in batch if record.offset < stops[tp])
    finally:
        client.close()


def _first_after(client: Any, partitions: list[TopicPartition], moment: datetime) -> Mapping[TopicPartition, int]:
    """Where the first record from `moment` on lies, in those partitions that have one."""
    asked = client.offsets_for_times({tp: int(moment.timestamp() * 1000) for tp in partitions})
    return {tp: place.offset for tp, place in asked.items() if place is not None}


def evidence(
    incident: Id,
    out: Annotated[Path | None, typer.Option(help="Where to write it; default: evidence-ID.tar here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Seal all that is known of an incident into one file. Example: kerbwatch incidents evidence 3f2a --out evidence.tar.

    `kerbwatch incidents verify` checks it anywhere, with that file and the public key alone.
    """
    settings = read_settings()
    with opened(settings) as sessions:
        with reading(sessions) as session:
            id_ = records.find(session, incident)
        with Console(stderr=True).status("reading the log"):
            bundle = seal_incident(sessions, settings, id_, datetime.now(UTC))
        path = out or Path(f"evidence-{id_[:12]}.tar")
        write_whole(path, bundle)
        with writing(sessions) as session:
            sealings.name(session, id_, bundle, _ACTOR, datetime.now(UTC))
    checked = verify(bundle, read_public_key(public_key_file(settings)))
    if as_json:
        told = {"path": str(path), "bytes": len(bundle), "signer": checked.signer, "members": sorted(checked.members)}
        print_json({**told, "doubts": checked.doubts})
    else:
        typer.echo(f"{path}: {len(checked.members)} members, {checked.audited} audit entries proven, key {checked.signer[:12]}")
        typer.echo(f"check it anywhere: kerbwatch incidents verify {path} --key {public_key_file(settings).name}")
    if checked.doubts:
        raise doubted(checked, f"{path} is sealed all the same, and says so")
