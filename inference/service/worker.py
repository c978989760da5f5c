"""The inference worker: frames in, detections out, obedient to `model-state`, honest on `worker-status`.

The rim around `Intake` (may this frame be looked at?) and `Judge` (what does it show?): it reads Kafka, calls them, sends, and only
then commits. Killed anywhere and started again it judges some frames twice and none never; judging twice is harmless, because a
detection's id is made from its frame. kafka-python has an I/O thread of its own, so this never shares a process with agents.

Order of a round: obey, read (`reading.py`: cameras take turns), check, judge, send, wait for the broker's word, commit. Frames that
waited too long to be judged (`backlog.py`) are committed too, but only after a dead letter for each of them. Source: paper 4.5.3
(SC-6), 4.7.
"""

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import structlog
from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError

from inference.provenance.registry import registry_of
from inference.service.backlog import Backlog, Batches
from inference.service.doubts import Doubts
from inference.service.intake import Accepted, Intake
from inference.service.judge import Judge, Unjudged
from inference.service.models import Models, Network
from inference.service.orders import Orders
from inference.service.reading import FrameReader, NameTaken, message_of
from inference.service.refusals import Refusals, claimed_context
from inference.service.sampling import Sampler
from inference.service.sanitise import Chain, chain
from inference.service.serving import Precision
from inference.service.serving import load as load_served
from infra.clients import consumer, producer
from infra.keys import verify_frame
from infra.metrics import BATCH, MODEL_FAULTS, Metrics
from infra.provision import app_id
from infra.settings import Settings
from streams import codec, topics
from streams.codec import Message
from streams.errors import BadInput, KerbwatchError, Refusal, Unavailable
from streams.events import Context, Event, Health, Mode, Signal, WorkerStatus, event_id
from streams.topics import Role

_POLL_MS = 50
_SEND_LIMIT_S = 30.0
_COMMIT_EVERY_S = 0.5
_OUT_OF_GROUP_S = 60.0
"""So long may commits be refused: longer than any rebalance of workers that live (`reading.py`). Who starts again has its
partitions back at once, for it has a name.
"""

log = structlog.get_logger("worker")


@dataclass(frozen=True)
class Clients:
    """Kafka as the worker sees it. `states` reads model-state from its start, by assignment and without a group."""

    frames: KafkaConsumer
    states: KafkaConsumer
    producer: KafkaProducer


class Worker:
    """One process's worth of inference. `now` and `steady_s` are the clocks (UTC; steadily growing seconds)."""

    def __init__(
        self,
        worker_id: str,
        clients: Clients,
        intake: Intake,
        judge: Judge,
        metrics: Metrics,
        *,
        backlog: Backlog,
        batch: int,
        status_every_s: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.worker_id = worker_id
        self._clients = clients
        self._frames = FrameReader(clients.frames, steady_s=steady_s)
        self._intake = intake
        self._judge = judge
        self._backlog = backlog
        self._metrics = metrics
        self._batches = Batches(batch)
        self._status_every_s = status_every_s
        self._now = now
        self._steady_s = steady_s
        self._source = f"inference/{worker_id}"
        self._refusals = Refusals(self._source, worker_id)
        self._assignments = 0
        self._orders = Orders(
            clients.states,
            judge.models,
            Doubts(self._source, worker_id),
            positions=self._frames.positions,
            dead_letter=self._dead_letter,
            steady_s=steady_s,
        )
        self._reported_s = float("-inf")
        self._committed_s = steady_s()
        self._refused_since_s: float | None = None
        self._unacknowledged: list[Any] = []

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set.

        Raises Unavailable if the broker takes nothing for 30 s or no commit for 60 s (start again then), NameTaken if another one
        has this one's name: were both to go on, the word of one would count as the other's. After an error nothing is committed any
        more: of the frames that were handed out last, some may not be judged.
        """
        self._frames.subscribe(topics.FRAMES.name)
        self._orders.watch()
        try:
            while not stop.is_set():
                self.round()
        except NameTaken:
            raise
        except BaseException:
            with suppress(KerbwatchError, KafkaError):  # the first error is the one to tell
                self._report(Health.STOPPING)
                self._settle()
            raise
        self._report(Health.STOPPING)
        self._settle()
        self._commit_read()

    def round(self) -> None:
        """Obey, then judge one batch, then report if it is time."""
        changed = self._orders.obey()
        for signal in self._orders.doubted(self._now()):
            self._signal(signal)
        if changed:
            self._batches.size = 1  # a new order shows in the very next frame
            self._metrics.serving(self._orders.serving.values())
        everywhere = len(self._orders.serving) == len(Context)
        if everywhere:
            self._judge_batch()
        else:
            time.sleep(_POLL_MS / 1000)
            log.debug("waiting for model-state", have=sorted(self._orders.serving))
        if changed or self._steady_s() - self._reported_s >= self._status_every_s:
            self._report(Health.SERVING if everywhere and not self._orders.faults else Health.FAILING)
            self._settle()

    def _report(self, health: Health) -> None:
        now = self._now()
        self._reported_s = self._steady_s()
        models = self._judge.models
        faults = (*self._orders.faults, *models.faults)
        self._metrics[MODEL_FAULTS].labels(worker=self.worker_id).set(len(faults))
        status = WorkerStatus(
            id=event_id("worker-status", self.worker_id, now.isoformat()),
            source=self._source,
            time=now,
            subject="; ".join(faults)[:200] or self.worker_id,
            worker_id=self.worker_id,
            health=health,
            serving=tuple(
                msgspec.structs.replace(one, candidate_digest=models.candidate(one.context))
                for one in self._orders.serving.values()
            ),
        )
        self._send(topics.WORKER_STATUS, self.worker_id, status)

    # -- judging ---------------------------------------------------------------------------------------------------

    def _judge_batch(self) -> None:
        records = self._frames.take(self._batches.size, _POLL_MS)
        self._batches.read(len(records))
        if not records:
            self._commit()
            if not self._frames.has_partitions:
                time.sleep(_POLL_MS / 1000)
            return
        if self._frames.assignments != self._assignments:
            self._assignments = self._frames.assignments
            self._refusals.begin_anew()
        taken = [(record, frame) for record in records if (frame := self._admit(record)) is not None]
        if taken:
            self._metrics[BATCH].observe(len(taken))
            answers = self._judge.judge([frame for _, frame in taken], self._now())
            for (record, _), detections in zip(taken, answers, strict=True):
                if isinstance(detections, Unjudged):
                    self._leave_out(message_of(record), detections.why, detections.reason)
                    continue
                candidate = self._judge.models.candidate(detections.context)
                self._metrics.judged(detections, cleaned=detections.mode in self._judge.clean, candidate=candidate)
                self._send(topics.DETECTIONS, detections.camera_id, detections)
        self._commit()

    def _admit(self, record: Any) -> Accepted | None:
        now, started_s = self._now(), time.perf_counter()
        message = message_of(record)
        if self._too_late(message, now.timestamp() - record.timestamp / 1e3, now):
            return None
        try:
            accepted = self._intake.admit(
                message.headers, message.value, key=message.key, partition=message.partition, offset=message.offset, now=now
            )
        except BadInput as error:
            log.warning("frame refused", reason=error.reason, offset=message.offset, cause=str(error))
            self._metrics.refused(error.reason)
            self._dead_letter(message, error)
            if signal := self._refusals.refused(message, error, now):
                self._signal(signal)
            return None
        for signal in self._refusals.accepted(accepted.frame, now):
            self._signal(signal)
        return replace(accepted, decode_ms=(time.perf_counter() - started_s) * 1e3)

    def _too_late(self, message: Message, age_s: float, now: datetime) -> bool:
        """Leave out a frame that waited too long. Whom it names is not verified yet; a forged name only has it looked at."""
        context = claimed_context(message)
        camera = (message.key or b"").decode(errors="replace")
        drops = self._backlog.drops(camera, age_s, evidence=self._judge.evidence(camera, context))
        if drops:
            self._leave_out(message, f"waited {age_s:.1f} s, too long to be of use; add a worker, or send fewer frames")
        if context is not None and (signal := self._backlog.noted(context, age_s, now, dropped=drops)):
            self._signal(signal)
        return drops

    def _leave_out(self, message: Message, why: str, reason: Refusal = Refusal.OVERLOAD) -> None:
        """A dead letter without the picture, whose bytes stay in topic `frames` at the place that the letter names."""
        error, now = BadInput(why, reason), self._now()
        self._metrics.refused(reason)
        self._dead_letter(message, error, keep_body=False)
        if reason is not Refusal.OVERLOAD and (signal := self._refusals.refused(message, error, now)):
            self._signal(signal)

    # -- sending ---------------------------------------------------------------------------------------------------

    def _signal(self, signal: Signal) -> None:
        self._metrics.signalled(signal)
        self._send(topics.SIGNALS, signal.camera_id, signal)

    def _dead_letter(self, message: Message, error: Exception, *, keep_body: bool = True) -> None:
        letter = codec.dead_letter(message, error, source=self._source, now=self._now())
        if not keep_body:
            letter = msgspec.structs.replace(letter, body=b"")
        self._metrics.dead_lettered(letter)
        self._send(topics.DEAD_LETTER, message.topic, letter)

    def _send(self, topic: topics.Topic, key: str, event: Event) -> None:
        self._unacknowledged.append(self._clients.producer.send(topic.name, codec.encode(event), key=key.encode()))

    def _settle(self) -> None:
        """Wait until the broker has everything that was sent. Raises Unavailable if it does not take it in time."""
        waiting, self._unacknowledged = self._unacknowledged, []
        try:
            self._clients.producer.flush(timeout=_SEND_LIMIT_S)
            for future in waiting:
                future.get(timeout=_SEND_LIMIT_S)
        except KafkaError as error:
            raise Unavailable(f"the broker takes no messages ({error}); see `kerbwatch kafka status`") from error

    def _commit(self) -> None:
        """Commit what was read, after the broker has all that came of it; a few times a second at most."""
        if self._steady_s() - self._committed_s < _COMMIT_EVERY_S:
            return
        self._settle()
        self._commit_read()
        self._committed_s = self._steady_s()
        self._metrics.waiting(topics.FRAMES.name, self._frames.behind())

    def _commit_read(self) -> None:
        try:
            self._frames.commit()
        except KafkaError as error:  # a rebalance or a broker restart: the frames come again, which is harmless
            log.warning("offsets not committed; frames may be judged twice", cause=str(error))
            now_s = self._steady_s()
            self._refused_since_s = now_s if self._refused_since_s is None else self._refused_since_s
            if now_s - self._refused_since_s > _OUT_OF_GROUP_S:
                raise Unavailable(f"the group of workers has not taken this one back for {_OUT_OF_GROUP_S:g} s: {error}") from error
        else:
            self._refused_since_s = None


def serve(settings: Settings, metrics: Metrics, stop: threading.Event, load: Callable[[str], Network] | None = None) -> None:
    """Be an inference worker as the settings say, until `stop` is set. Raises Unavailable without a broker.

    `load` opens weights by digest; the registry's, served as `inference.service.serving` does, if not given.
    """
    role, source = Role.INFERENCE, f"inference/{settings.worker_id}"
    clients = Clients(
        frames=consumer(settings, role, group=app_id(role), member=settings.worker_id),
        states=consumer(settings, role, group=None),
        producer=producer(settings, role),
    )
    registry = registry_of(settings)
    from_registry = partial(
        load_served,
        registry,
        device=settings.device,
        threads=settings.worker_threads,
        precision=Precision(settings.precision),
    )
    with ThreadPoolExecutor(1, "models") as aside:
        judge = Judge(
            models=Models(load or from_registry, aside),
            source=source,
            sampler=Sampler(settings.score_every, key=secrets.token_bytes(16)),
            clock_s=time.perf_counter,
            clean=cleaning(settings),
            compare_every=settings.compare_every,
        )
        worker = Worker(
            settings.worker_id,
            clients,
            Intake(verify=partial(verify_frame, settings), allowance_s=settings.clock_allowance_s),
            judge,
            metrics,
            backlog=Backlog(source, settings.worker_id, settings.backlog_s, newest_first=settings.newest_first),
            batch=settings.worker_batch,
            status_every_s=settings.status_every_s,
        )
        try:
            worker.run(stop)
        finally:
            for client in (clients.frames, clients.states, clients.producer):
                client.close()


def cleaning(settings: Settings) -> dict[Mode, Chain]:
    """How pictures are cleaned by mode. A mode without steps is left out: there the first look is also the scores' plain one."""
    steps = {Mode.NORMAL: settings.sanitise_normal, Mode.SAFE: settings.sanitise_safe}
    return {mode: chain(text) for mode, text in steps.items() if text.strip()}
