"""Evidence out of the real log: an incident's own events by offset, nobody else's, and pictures by their digests."""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from a_run import judged
from frames import a_frame
from incident_events import NOON, NORMAL, SAFE, signal
from msgspec.structs import replace

from infra.checkpoints import public_key_file, read_public_key
from infra.clients import producer
from infra.db import migrate, open_database, writing
from infra.settings import Secret, Settings
from responders.engine.store import Store
from responders.playbooks import playbooks
from responders.proof.evidence import verify
from responders.proof.keeping import record_judged
from streams import codec
from streams.console.evidence import seal_incident
from streams.events import Context, Phase, Window
from streams.topics import DETECTIONS, FRAMES, SIGNALS, Role, Topic

pytestmark = pytest.mark.broker


def put(settings: Settings, role: Role, topic: Topic, key: str, value: bytes, *headers: tuple[str, bytes]) -> tuple[int, int]:
    with closing(producer(settings, role)) as client:
        place = client.send(topic.name, value, key=key.encode(), headers=list(headers)).get(timeout=30)
    return place.partition, place.offset


def test_a_bundle_holds_the_incidents_own_events_by_offset_and_its_pictures_digests(
    broker: Settings, fresh_topics: Callable[[Settings], None], tmp_path: Path
) -> None:
    fresh_topics(broker)
    settings = replace(broker, database_url=Secret(f"sqlite:///{tmp_path}/evidence.db"))
    migrate(settings)
    sessions = open_database(settings)
    now = datetime.now(UTC)
    store = Store(sessions, playbooks.load(), worker_lost_s=60, clock_allowance_s=60)
    store.assign(Context.URBAN, NORMAL, SAFE, now)
    seen, pictures = [], {}
    for number, camera in enumerate(["cam1", "cam1", "cam2", "cam1"]):
        frame = a_frame(f"picture {number}".encode(), camera_id=camera, sequence=number, time=now)
        pictures[frame.id] = frame
        partition, offset = put(settings, Role.CAMERA, FRAMES, camera, f"picture {number}".encode(), *codec.encode_frame(frame))
        seen.append(
            msgspec.structs.replace(
                judged(),
                id=f"d{number}",
                camera_id=camera,
                epoch=frame.epoch,
                sequence=number,
                frame_id=frame.id,
                frame_partition=partition,
                frame_offset=offset,
                camera_time=now,
            )
        )
        if number < 3:  # the last one's detections are in the log no more
            put(settings, Role.INFERENCE, DETECTIONS, camera, codec.encode(seen[-1]))
    with writing(sessions) as session:
        record_judged(session, seen)
    ours, theirs = (
        msgspec.structs.replace(
            signal(Phase.RAISED, 0, 1, camera=camera, time_s=(now - NOON).total_seconds()),
            window=Window(epoch=7, first_sequence=0, last_sequence=1),
        )
        for camera in ("cam1", "cam2")
    )
    places = {one.camera_id: put(settings, Role.WATCHER, SIGNALS, one.camera_id, codec.encode(one)) for one in (theirs, ours)}
    [id_] = store.accept(ours, now).incident_ids

    found = verify(seal_incident(sessions, settings, id_, now), read_public_key(public_key_file(settings)))

    events = [msgspec.json.decode(line) for line in found.members["events.jsonl"].splitlines()]
    ids = [(event["topic"], msgspec.json.decode(event["value"])["id"]) for event in events]
    assert set(ids) == {("detections", "d0"), ("detections", "d1"), ("signals", ours.id)}
    assert places["cam1"] in {(event["partition"], event["offset"]) for event in events if event["topic"] == "signals"}
    assert all(event["value"].encode() in {codec.encode(ours), *map(codec.encode, seen)} for event in events)
    frames = [msgspec.json.decode(line) for line in found.members["frames.jsonl"].splitlines()]
    assert [(frame["sequence"], frame["digest"]) for frame in frames] == [
        (frame.sequence, frame.digest) for frame in pictures.values() if frame.camera_id == "cam1"
    ]
    assert b"1 of 3 frames: what was found in them is in no log any more" in found.members["missing.json"]
    assert b"by offset" not in found.members["missing.json"]
    sessions.kw["bind"].dispose()
