"""The worker's promises, without a broker: doubles stand for Kafka's clients and for the network."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from inference.service.intake import Intake
from inference.service.judge import Judge, Sampler
from inference.service.serving import View
from inference.service.worker import Clients, Worker
from infra.metrics import Metrics, Service
from streams import codec, topics
from streams.camera import encode
from streams.errors import BadInput, Refusal, Tampered, Unavailable
from streams.events import Box, Context, DeadLetter, Detections, Frame, Mode, ModelState, Phase, Signal, WorkerStatus, event_id
from streams.sources.base import Picture

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NORMAL, SAFE, OTHER = "a" * 64, "b" * 64, "c" * 64


@dataclass
class Log:
    """A broker's one partition a topic, as much of kafka-python's clients as the worker uses."""

    records: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    committed: int = 0
    away: bool = False

    def put(self, topic: str, value: bytes, key: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        offset = len(self.records[topic])
        self.records[topic].append(
            SimpleNamespace(topic=topic, partition=0, offset=offset, key=key, value=value, headers=list(headers))
        )


@dataclass
class Reader:
    log: Log
    topic: str = ""
    at: int = 0

    def subscribe(self, names: list[str]) -> None:
        self.topic, self.at = names[0], self.log.committed

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.topic = partitions[0].topic

    def seek_to_beginning(self, *_: TopicPartition) -> None:
        self.at = 0

    def assignment(self) -> set[TopicPartition]:
        return {TopicPartition(self.topic, 0)}

    def position(self, _tp: TopicPartition) -> int:
        return self.at

    def highwater(self, _tp: TopicPartition) -> int:
        return len(self.log.records[self.topic])

    def poll(self, timeout_ms: int = 0, max_records: int = 500) -> dict[TopicPartition, list[Any]]:
        del timeout_ms
        found = self.log.records[self.topic][self.at : self.at + max_records]
        self.at += len(found)
        return {TopicPartition(self.topic, 0): found} if found else {}

    def commit(self) -> None:
        self.log.committed = self.at


@dataclass
class Writer:
    log: Log

    def send(self, topic: str, value: bytes, key: bytes) -> Any:
        if not self.log.away:
            self.log.put(topic, value, key)
        return SimpleNamespace(get=lambda **_: None)

    def flush(self, timeout: float) -> None:
        if self.log.away:
            raise KafkaTimeoutError(f"nobody there for {timeout} s")


@dataclass
class Network:
    """Sees one person a picture; its score tells which weights looked."""

    digest: str

    def look(self, pictures: Sequence[Picture]) -> list[View]:
        score = {NORMAL: 0.9, SAFE: 0.6}[self.digest]
        heat = np.full((4, 4), score, np.float32)
        return [View(boxes=(Box(1, 2, 3, 4, score),), heat=heat, embedding=np.zeros(2, np.float32)) for _ in pictures]


def load(digest: str) -> Any:
    if digest == OTHER:
        raise Tampered(f"weights {digest[:4]} are not what they were")
    return Network(digest)


class Site:
    """A worker, its log and its clock."""

    def __init__(self, log: Log | None = None) -> None:
        self.log = log or Log()
        self.clock_s = 100.0
        self.worker = Worker(
            "w1",
            Clients(frames=Reader(self.log), states=Reader(self.log), producer=Writer(self.log)),
            Intake(verify=self.verify, allowance_s=5.0),
            Judge(load=load, source="inference/w1", sampler=Sampler(2), clock_s=lambda: 0.0),
            Metrics(Service.INFER),
            batch=4,
            status_every_s=1.0,
            now=lambda: NOW,
            steady_s=lambda: self.clock_s,
        )
        self.worker._clients.frames.subscribe([topics.FRAMES.name])
        self.worker._watch_model_state()

    @staticmethod
    def verify(frame: Frame) -> None:
        if frame.signature != "good":
            raise BadInput("not signed", Refusal.BAD_SIGNATURE)

    def rounds(self, count: int = 1) -> None:
        for _ in range(count):
            self.clock_s += 0.6
            self.worker.round()

    def serve(self, context: Context, digest: str = NORMAL, mode: Mode = Mode.NORMAL, decision: str = "", later_s: int = 0) -> None:
        decision = decision or f"initial-{context}"
        state = ModelState(
            id=decision,
            source="responder/r",
            time=NOW + timedelta(seconds=later_s),
            subject=context,
            context=context,
            weights_digest=digest,
            mode=mode,
            reference_digest=NORMAL,
            decision_id=decision,
            reason="test",
        )
        self.log.put(topics.MODEL_STATE.name, codec.encode(state), context.encode())

    def shoot(self, sequence: int, context: Context = Context.URBAN, signature: str = "good") -> None:
        body = encode(np.full((32, 48, 3), 90, np.uint8))
        frame = Frame(
            id=event_id("frame", "gate", 1, sequence), source="camera/gate", time=NOW + timedelta(milliseconds=sequence - 4000),
            subject="gate", camera_id="gate", context=context, epoch=1, sequence=sequence, width_px=48, height_px=32,
            content_type="image/jpeg", digest=hashlib.sha256(body).hexdigest(), signature=signature,
        )  # fmt: skip
        self.log.put(topics.FRAMES.name, body, b"gate", codec.encode_frame(frame))

    def read(self, topic: topics.Topic) -> list[Any]:
        return [codec.decode(record.value, topic, topic.carries).event for record in self.log.records[topic.name]]


@pytest.fixture
def site() -> Site:
    site = Site()
    for context in Context:
        site.serve(context)
    return site


def test_no_frame_is_read_before_every_context_has_weights() -> None:
    site = Site()
    site.serve(Context.URBAN)
    site.shoot(0)
    site.rounds(3)
    assert site.read(topics.DETECTIONS) == []
    assert site.log.committed == 0
    assert {status.health for status in site.read(topics.WORKER_STATUS)} == {"failing"}


def test_every_frame_is_judged_and_says_by_which_weights(site: Site) -> None:
    for sequence in range(9):
        site.shoot(sequence)
    site.rounds(4)
    judged: list[Detections] = site.read(topics.DETECTIONS)
    assert [one.sequence for one in judged] == list(range(9))
    assert {(one.weights_digest, one.mode, one.decision_id) for one in judged} == {(NORMAL, Mode.NORMAL, "initial-urban")}
    assert [one.frame_offset for one in judged] == list(range(9))
    assert [one.scores.inconsistency is not None for one in judged] == [sequence % 2 == 0 for sequence in range(9)]


def test_a_switch_is_reported_with_the_offset_from_which_it_holds(site: Site) -> None:
    for sequence in range(4):
        site.shoot(sequence)
    site.rounds(2)
    site.serve(Context.URBAN, SAFE, Mode.SAFE, "decision-7")
    for sequence in range(4, 8):
        site.shoot(sequence)
    site.rounds(2)
    judged: list[Detections] = site.read(topics.DETECTIONS)
    last: WorkerStatus = site.read(topics.WORKER_STATUS)[-1]
    (urban,) = [serving for serving in last.serving if serving.context == Context.URBAN]
    assert (urban.weights_digest, urban.decision_id) == (SAFE, "decision-7")
    assert [one.weights_digest for one in judged] == [NORMAL] * 4 + [SAFE] * 4
    assert urban.from_offsets[0].offset == judged[4].frame_offset
    assert {one.scores.reference_digest for one in judged} == {NORMAL}


def test_the_same_order_again_changes_nothing(site: Site) -> None:
    site.rounds()
    before = site.read(topics.WORKER_STATUS)[-1].serving
    site.serve(Context.URBAN)
    site.shoot(0)
    site.rounds(3)
    assert site.read(topics.WORKER_STATUS)[-1].serving == before


def test_an_old_order_that_arrives_late_is_not_obeyed(site: Site) -> None:
    site.serve(Context.URBAN, SAFE, Mode.SAFE, "decision-7", later_s=5)
    site.serve(Context.URBAN, NORMAL, Mode.NORMAL, "decision-6", later_s=3)
    site.rounds(2)
    modes = {serving.context: serving.mode for serving in site.read(topics.WORKER_STATUS)[-1].serving}
    assert modes[Context.URBAN] == Mode.SAFE


def test_weights_that_were_tampered_with_are_not_served_and_not_reported(site: Site) -> None:
    site.rounds()
    site.serve(Context.URBAN, OTHER, Mode.SAFE, "decision-8")
    site.shoot(0)
    site.rounds(3)
    last: WorkerStatus = site.read(topics.WORKER_STATUS)[-1]
    assert last.health == "failing"
    assert {serving.weights_digest for serving in last.serving} == {NORMAL}
    assert site.read(topics.DETECTIONS)[0].weights_digest == NORMAL
    assert site.read(topics.DEAD_LETTER)[0].topic == topics.MODEL_STATE.name


def test_a_bad_frame_is_dead_lettered_signalled_and_the_stream_goes_on(site: Site) -> None:
    site.shoot(0)
    site.shoot(1, signature="forged")
    site.shoot(2)
    site.rounds(3)
    (letter,) = site.read(topics.DEAD_LETTER)
    (signal,) = site.read(topics.SIGNALS)
    assert isinstance(letter, DeadLetter)
    assert isinstance(signal, Signal)
    assert (letter.reason, letter.offset) == (Refusal.BAD_SIGNATURE, 1)
    assert (signal.phase, signal.camera_id) == (Phase.RAISED, "gate")
    assert [one.sequence for one in site.read(topics.DETECTIONS)] == [0, 2]


def test_nothing_is_committed_before_the_broker_has_what_came_of_it(site: Site) -> None:
    site.rounds()
    site.shoot(0)
    site.log.away = True
    with pytest.raises(Unavailable, match="takes no messages"):
        site.rounds(2)
    assert site.log.committed == 0
    again = Site(site.log)
    again.log.away = False
    again.rounds(3)
    assert [one.sequence for one in again.read(topics.DETECTIONS)] == [0]


def test_a_worker_that_starts_again_judges_the_same_frame_under_the_same_id(site: Site) -> None:
    site.shoot(0)
    site.rounds(2)
    site.log.committed = 0  # killed before it could commit
    Site(site.log).rounds(2)
    first, second = site.read(topics.DETECTIONS)
    assert first.id == second.id


def test_the_sampler_looks_closer_after_a_leap_and_does_not_learn_from_it() -> None:
    sampler = Sampler(4)
    for sequence in range(0, 40, 4):
        assert sampler.wants("gate", sequence)
        sampler.saw("gate", 0.1)
    assert not sampler.wants("gate", 41)
    sampler.saw("gate", 0.9)
    assert sampler.wants("gate", 41)
    assert not sampler.wants("bridge", 41)
    for _ in range(100):
        sampler.saw("gate", 0.9)
    assert sampler.wants("gate", 41)
    for _ in range(20):
        sampler.saw("gate", 0.1)
    assert not sampler.wants("gate", 41)
