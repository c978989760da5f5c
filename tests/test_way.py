"""Bad input on the real broker: refused with a reason, dead-lettered, signalled, and the stream goes on."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from a_person import newcomer
from kafka import KafkaConsumer
from msgspec.structs import replace
from typer.testing import CliRunner

from inference.service.backlog import Backlog
from inference.service.intake import Intake
from inference.service.judge import Judge
from inference.service.models import Models
from inference.service.reading import FrameReader
from inference.service.sampling import Sampler
from inference.service.serving import View
from inference.service.worker import Clients, Worker
from infra import supervise
from infra.clients import consumer, producer
from infra.db import migrate, open_database, reading, writing
from infra.keys import camera_key, verify_frame
from infra.metrics import Metrics, Service
from infra.people_tables import ActRow
from infra.provision import app_id
from infra.settings import Settings
from responders.people import roles
from streams import codec, topics
from streams.attacks import Stretch
from streams.camera import replay
from streams.chaos import Means, attack
from streams.console import dlq
from streams.console.dlq import letters, read_events
from streams.errors import BadInput, BrokenContract, Refusal
from streams.events import AuditEntry, Box, Context, Detections, Kind, Mode, ModelState, Phase, Signal
from streams.sources.base import Picture
from streams.sources.street import Street
from streams.topics import Role

pytestmark = pytest.mark.broker

WEIGHTS = "a" * 64
BAD = {
    "truncated": Refusal.UNDECODABLE,
    "flipped": Refusal.BAD_SIGNATURE,
    "huge": Refusal.TOO_LARGE,
    "bomb": Refusal.TOO_LARGE,
    "wrong-key": Refusal.BAD_SIGNATURE,
    "unsigned": Refusal.BAD_SIGNATURE,
    "newer-version": Refusal.UNKNOWN_VERSION,
    "future-time": Refusal.FUTURE_TIME,
    "stale-time": Refusal.STALE_TIME,
    "replay-old": Refusal.REPEATED,
}
"""Every way in which the chaos producer makes a message that must not be judged, and why it is refused."""


class Network:
    """Sees one person in every picture."""

    def look(self, pictures: Sequence[Picture]) -> list[View]:
        heat = np.full((8, 8), 0.5, np.float32)
        return [View(boxes=(Box(1, 2, 3, 4, 0.5),), heat=heat, embedding=np.zeros(4, np.float32)) for _ in pictures]


@pytest.fixture(scope="module")
def site(
    broker: Settings, fresh_topics: Callable[[Settings], None], free_ports: Callable[[int], tuple[int, ...]]
) -> Iterator[Settings]:
    """A worker with a network double on the real broker."""
    fresh_topics(broker)
    (first, *_) = free_ports(1)
    settings = replace(broker, metrics_port=first)
    role = Role.INFERENCE
    clients = Clients(
        frames=consumer(settings, role, group=app_id(role)),
        states=consumer(settings, role, group=None),
        producer=producer(settings, role),
    )
    worker = Worker(
        "w1",
        clients,
        Intake(verify=partial(verify_frame, settings), allowance_s=5.0),
        Judge(
            Models(lambda _: Network(), ThreadPoolExecutor(1)), source="inference/w1", sampler=Sampler(4), clock_s=time.perf_counter
        ),
        Metrics(Service.INFER),
        backlog=Backlog("inference/w1", "w1", limit_s=60.0),
        batch=8,
        status_every_s=1.0,
    )
    with closing(producer(settings, Role.RESPONDER)) as responder:
        for context in Context:
            state = ModelState(
                id=f"initial-{context}", source="responder/r", time=datetime.now(UTC), subject=context, context=context,
                weights_digest=WEIGHTS, mode=Mode.NORMAL, reference_digest=WEIGHTS, decision_id=f"initial-{context}", reason="test",
            )  # fmt: skip
            responder.send(topics.MODEL_STATE.name, codec.encode(state), key=context.encode()).get(timeout=30)
    stop = threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    yield settings
    stop.set()
    thread.join(30)
    for client in (clients.frames, clients.states, clients.producer):
        client.close()


def film(settings: Settings, camera: str, ledger: Path, *stretches: Stretch, pictures: int) -> None:
    source = Street(Context.URBAN, width_px=128, height_px=64)
    replay(source, camera, Context.URBAN, settings, fps=0, pictures=pictures, schedule=stretches, ledger_path=ledger)


def judged(settings: Settings, camera: str) -> list[int]:
    found = [event for event in read_events(settings, topics.DETECTIONS) if isinstance(event, Detections)]
    return sorted({event.sequence for event in found if event.camera_id == camera})


def wait_for(what: Callable[[], bool], limit_s: float = 30.0) -> None:
    until = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.2)


def test_every_bad_frame_is_refused_with_its_reason_and_every_good_one_is_judged(site: Settings, tmp_path: Path) -> None:
    camera_key(site, "stranger")
    for name in BAD:
        stretch = Stretch(attack(name, Means(site)), from_picture=2, pictures=2)
        film(site, f"cam-{name}", tmp_path / name, stretch, pictures=6)
    wait_for(lambda: all(5 in judged(site, f"cam-{name}") for name in BAD))
    refused = Counter((letter.key.decode(), letter.reason) for letter in letters(site) if letter.topic == topics.FRAMES.name)
    for name, reason in BAD.items():
        camera = f"cam-{name}"
        assert refused[camera, reason] >= 2, (name, refused)
        assert {one for who, one in refused if who == camera} == {reason}
        good = [0, 1, 4, 5] if name != "replay-old" else [0, 1, 2, 3, 4, 5]
        assert judged(site, camera) == good, name
    signals = [event for event in read_events(site, topics.SIGNALS) if isinstance(event, Signal)]
    raised = {signal.camera_id for signal in signals if (signal.kind, signal.phase) == (Kind.BAD_INPUT, Phase.RAISED)}
    assert {camera for camera in raised if camera.startswith("cam-")} == {f"cam-{name}" for name in BAD}


def test_a_dead_letter_can_be_found_saved_and_sent_once_more(
    site: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film(site, "dlq-cam", tmp_path / "ledger", Stretch(attack("truncated", Means(site)), 1, 1), pictures=3)
    wait_for(lambda: any(letter.key == b"dlq-cam" for letter in letters(site)))
    (bare,) = (letter for letter in letters(site) if letter.key == b"dlq-cam")
    letter = dlq.find(letters(site, whole=bare.id), bare.id)
    for name in ("home", "kafka_port", "kafka_controller_port"):
        monkeypatch.setenv(f"KERBWATCH_{name.upper()}", str(getattr(site, name)))
    monkeypatch.setenv("KERBWATCH_PERSON", "devops-1")
    migrate(site)
    sessions = open_database(site)
    with writing(sessions) as session:
        newcomer(session, site, "devops-1", [roles.Role.DEVOPS_ENGINEER], datetime.now(UTC))
    cli = CliRunner()
    shown = cli.invoke(dlq.app, ["show", letter.id[:10], "--save", str(tmp_path / "bad.jpg"), "--json"])
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "bad.jpg").read_bytes() == letter.body
    sent = cli.invoke(dlq.app, ["replay", letter.id, "--why", "to see it refused again"])
    assert sent.exit_code == 0, sent.output
    wait_for(lambda: sum(one.key == b"dlq-cam" for one in letters(site)) == 2)
    assert letter.id in dlq.replayed(site)
    with reading(sessions) as session:
        [act] = session.query(ActRow)
    sessions.kw["bind"].dispose()
    [entry] = [one for one in read_events(site, topics.AUDIT) if isinstance(one, AuditEntry) and one.target == letter.id]
    assert (entry.actor, entry.why, entry.cause_id) == ("devops-1", "to see it refused again", act.id)
    stranger = cli.invoke(dlq.app, ["replay", letter.id, "--why", "for fun", "--again", "--actor", "stranger"])
    assert "no key at" in str(stranger.exception)
    again = cli.invoke(dlq.app, ["replay", letter.id, "--why", "by mistake"])
    assert isinstance(again.exception, BadInput)


def test_scores_that_are_no_numbers_are_refused_by_the_watcher_and_it_goes_on(site: Settings, tmp_path: Path) -> None:
    film(site, "nan-cam", tmp_path / "ledger", pictures=2)
    wait_for(lambda: judged(site, "nan-cam") == [0, 1])
    records = [r for r in dlq.read_all(site, topics.DETECTIONS, Role.OPERATOR) if r.key == b"nan-cam"]
    before = len(letters(site))
    supervise.up(site, (Service.WATCH,))
    try:
        with closing(producer(site, Role.INFERENCE)) as worker:
            for number in (b"NaN", b"null", b"1e999", b'"0.5"'):
                bad = records[0].value.replace(b'"brightness":', b'"brightness":' + number + b',"was":', 1)
                worker.send(topics.DETECTIONS.name, bad, key=b"nan-cam").get(timeout=30)
        wait_for(lambda: len(letters(site)) >= before + 4, 60)
    finally:
        supervise.down(site)
    new = [letter for letter in letters(site) if letter.topic == topics.DETECTIONS.name]
    assert Counter(letter.reason for letter in new) == {Refusal.UNDECODABLE: 1, Refusal.BAD_VALUE: 3}
    assert {letter.source for letter in new} == {"watcher/watch"}


def test_a_worker_that_died_has_its_frames_back_at_once_and_of_two_of_one_name_the_older_is_put_out(site: Settings) -> None:
    group = f"{app_id(Role.INFERENCE)}-names"

    def joined() -> KafkaConsumer:
        client = consumer(site, Role.INFERENCE, group=group, member="w1")
        reader = FrameReader(client)
        reader.subscribe(topics.FRAMES.name)
        until = time.monotonic() + 8  # a dead member without a name holds its partitions for ten seconds
        while not reader.has_partitions and time.monotonic() < until:
            reader.take(1, 50)
        assert reader.has_partitions
        return client

    with closing(joined()) as dead, closing(joined()) as heir:
        FrameReader(heir).commit()
        with pytest.raises(BrokenContract, match="KERBWATCH_WORKER_ID"):
            FrameReader(dead).commit()
