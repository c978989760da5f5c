"""A worker without a broker: doubles stand for Kafka's clients and for the network."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
from kafka import OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaTimeoutError
from kafka.structs import ConsumerGroupMetadata, MemberState

from inference.service.backlog import Backlog
from inference.service.intake import Intake
from inference.service.judge import Judge
from inference.service.models import Models
from inference.service.sampling import Sampler
from inference.service.serving import View
from inference.service.worker import Clients, Worker
from infra.metrics import Metrics, Service
from streams import codec, topics
from streams.camera import encode
from streams.errors import BadInput, Refusal, Tampered
from streams.events import Box, Candidate, Context, Frame, Mode, ModelState, event_id
from streams.sources.base import Picture

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NORMAL, SAFE, OTHER = "a" * 64, "b" * 64, "c" * 64


@dataclass
class Log:
    """A broker's one partition a topic, as much of kafka-python's clients as the worker uses."""

    records: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    committed: int = 0
    time_s: float = NOW.timestamp()
    away: bool = False

    def put(self, topic: str, value: bytes, key: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        offset = len(self.records[topic])
        self.records[topic].append(
            SimpleNamespace(
                topic=topic, partition=0, offset=offset, key=key, value=value, headers=list(headers), timestamp=self.time_s * 1e3
            )
        )


@dataclass
class Reader:
    log: Log
    topic: str = ""
    at: int = 0
    away: bool = False

    def partitions_for_topic(self, _name: str) -> set[int]:
        return {0}

    def subscribe(self, names: list[str], listener: object = None) -> None:
        del listener
        self.topic, self.at = names[0], self.log.committed

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.topic = partitions[0].topic

    def seek(self, _tp: TopicPartition, offset: int) -> None:
        self.at = offset

    def seek_to_beginning(self, *_: TopicPartition) -> None:
        self.at = 0

    def assignment(self) -> set[TopicPartition]:
        return set() if self.away else {TopicPartition(self.topic, 0)}

    def position(self, _tp: TopicPartition) -> int:
        return self.at

    def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        if self.away:
            raise KafkaTimeoutError("nobody there")
        return {one: len(self.log.records[self.topic]) for one in partitions}

    def highwater(self, _tp: TopicPartition) -> int:
        return len(self.log.records[self.topic])

    def group_metadata(self) -> ConsumerGroupMetadata:
        return ConsumerGroupMetadata("readers", 1, "w1", None, MemberState.UNJOINED if self.away else MemberState.STABLE)

    def poll(self, timeout_ms: int = 0, max_records: int = 500) -> dict[TopicPartition, list[Any]]:
        del timeout_ms
        found = [] if self.away else self.log.records[self.topic][self.at : self.at + max_records]
        self.at += len(found)
        return {TopicPartition(self.topic, 0): found} if found else {}

    def commit(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        [self.log.committed] = [place.offset for place in offsets.values()]


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


class AtOnce(Executor):
    """Does what it is given before it returns."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
        return future


class Site:
    """A worker, its log and its clock."""

    def __init__(self, log: Log | None = None, *, load: Callable[[str], Any] = load, newest_first: bool = False) -> None:
        self.log = log or Log()
        self.clock_s = 100.0
        self.metrics = Metrics(Service.INFER)
        self.worker = Worker(
            "w1",
            Clients(frames=Reader(self.log), states=Reader(self.log), producer=Writer(self.log)),
            Intake(verify=self.verify, allowance_s=5.0),
            Judge(Models(load, AtOnce()), source="inference/w1", sampler=Sampler(2), clock_s=lambda: 0.0),
            self.metrics,
            backlog=Backlog("inference/w1", "w1", limit_s=10.0, newest_first=newest_first, every=3, calm_after=5),
            batch=4,
            status_every_s=1.0,
            now=lambda: NOW,
            steady_s=lambda: self.clock_s,
        )
        self.worker._frames.subscribe(topics.FRAMES.name)
        self.worker._orders.watch()

    @staticmethod
    def verify(frame: Frame) -> None:
        if frame.signature != "good":
            raise BadInput("not signed", Refusal.BAD_SIGNATURE)

    def rounds(self, count: int = 1) -> None:
        for _ in range(count):
            self.clock_s += 0.6
            self.worker.round()

    def serve(
        self,
        context: Context,
        digest: str = NORMAL,
        mode: Mode = Mode.NORMAL,
        decision: str = "",
        *,
        later_s: int = 0,
        candidate: Candidate | None = None,
        reference: str = NORMAL,
    ) -> None:
        decision = decision or f"initial-{context}"
        state = ModelState(
            id=decision,
            source="responder/r",
            time=NOW + timedelta(seconds=later_s),
            subject=context,
            context=context,
            weights_digest=digest,
            mode=mode,
            reference_digest=reference,
            decision_id=decision,
            reason="test",
            candidate=candidate,
            safe_digest=SAFE,
        )
        self.log.put(topics.MODEL_STATE.name, codec.encode(state), context.encode())

    def shoot(
        self, sequence: int, context: Context = Context.URBAN, signature: str = "good", camera: str = "gate", grey: int = 90
    ) -> None:
        body = encode(np.full((32, 48, 3), grey, np.uint8))
        time = NOW + timedelta(milliseconds=sequence - 4000)
        frame = Frame(
            id=event_id("frame", camera, 1, sequence), source=f"camera/{camera}", time=time,
            subject=camera, camera_id=camera, context=context, epoch=1, sequence=sequence, width_px=48, height_px=32,
            content_type="image/jpeg", digest=hashlib.sha256(body).hexdigest(), signature=signature,
        )  # fmt: skip
        self.log.put(topics.FRAMES.name, body, camera.encode(), codec.encode_frame(frame))

    def read(self, topic: topics.Topic) -> list[Any]:
        return [codec.decode(record.value, topic, topic.carries).event for record in self.log.records[topic.name]]
