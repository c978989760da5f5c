"""The agents, in flow order: watch detections, respond to signals, keep the records. Each is one thin Faust app.

- watch (detections -> signals): per camera, a pure step over all its detectors; the state rests in a Faust table. Signals are sent,
  and their receipt awaited, before the state that led to them is stored: a crash in between repeats them under the same ids
  instead of losing them.
- respond (signals, worker-status -> model-state, quarantine, incidents, audit): one SQL transaction a batch of signals, effects
  afterwards from the outbox; people are told by one lane a channel, each in a thread of its own, so that none holds up the rest.
- keep (detections, quarantine, audit -> database, sealed files): a row a judged frame, frames set aside, the audit trail.

SQL and Kafka's log are read in one worker thread: a blocking call would stall Faust's event loop (issue #247).
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import faust
import msgspec
import structlog
from faust.streams import Stream
from faust.types import EventT, StreamT

from detectors.base import Verdict
from detectors.baselines import completed
from detectors.watch import Watching, watch
from inference.provenance.registry import registry_of
from infra.db import Sessions, open_database, reading, writing
from infra.metrics import (
    AUDITED,
    EFFECT_ATTEMPTS,
    EFFECTS_PENDING,
    GATE_VERDICTS,
    NOTIFICATIONS,
    QUARANTINED,
    GateVerdict,
    Metrics,
    Outcome,
    Service,
)
from infra.settings import Settings
from responders import playbooks, rollout_metrics
from responders.effects import carry_out
from responders.keeping import record_audit, record_judged
from responders.notify.channels import Channel, ChannelName
from responders.notify.deliveries import deliver, dispatch
from responders.notify.from_settings import channel_of
from responders.outbox import gate_said
from responders.playbooks import State
from responders.quarantine import offsets_of, set_aside
from responders.records import Standing, standing
from responders.rollout_store import Rollouts
from responders.scheduler import Scheduler
from responders.store import Store
from streams import codec, topics
from streams.app import EXIT_FAULT, Rim, base_app
from streams.baselines import on_record
from streams.codec import Message
from streams.errors import BadInput, BrokenContract, Unavailable
from streams.events import AuditEntry, Detections, Event, IncidentChange, Kind, QuarantineOrder, Signal, WorkerStatus
from streams.frame_log import read_detections, read_frames
from streams.promotion import vouch

T = TypeVar("T")
Batch = Sequence[EventT[bytes]]

_BATCH = 256
_WITHIN_S = 0.02
_TICK_S = 0.5
_SCHEDULE_S = 20.0
"""A third of the scheduler's lease (`responders.schedule.LEASE`)."""
_TELL_S = 1.0
_SEND_LIMIT_S = 5.0
"""Half an effect's lease (`responders.effects.LEASE`): nobody else takes an effect over while it is being sent."""
_RECORDS_LATE = timedelta(seconds=60)
"""So long a quarantine order waits for the records of its frames; then it takes what there is and the rest is dead-lettered."""

log = structlog.get_logger("agents")


def create_app(settings: Settings, service: Service, metrics: Metrics) -> faust.App:
    """The Faust app of one service (watch, respond or keep)."""
    rim = Rim(base_app(settings, service), service, metrics)
    match service:
        case Service.WATCH:
            _Watcher(rim)
        case Service.RESPOND:
            _Responder(rim, settings)
        case Service.KEEP:
            _Keeper(rim, settings)
        case Service.INFER:
            raise BrokenContract("the inference worker is no Faust app; see inference.service.worker")
    rim.watch_for_stalls()
    return rim.app


class _Watcher:
    """detections -> signals."""

    def __init__(self, rim: Rim) -> None:
        self._rim = rim
        self._cameras: Any = rim.app.Table("cameras", partitions=topics.DETECTIONS.partitions, key_type=bytes, value_type=bytes)
        _on_batches(rim, topics.DETECTIONS, "watch", self._watch)

    async def _watch(self, batch: Batch) -> None:
        states: dict[bytes, dict[str, Any]] = {}
        for event in batch:
            await self._rim.guard("watch", event, partial(self._watch_one, states))
        for camera, state in states.items():
            self._cameras[camera] = msgspec.json.encode(state)

    async def _watch_one(self, states: dict[bytes, dict[str, Any]], message: Message) -> None:
        event = codec.decode(message.value, topics.DETECTIONS, Detections).event
        camera = event.camera_id.encode()
        self._cameras.place(camera, message.partition)
        if camera not in states:
            states[camera] = msgspec.json.decode(self._cameras[camera]) if camera in self._cameras else {}

        def heard(entry: Watching, verdict: Verdict) -> None:
            self._rim.metrics.verdict(entry.kind, event, entry.key, verdict.score, verdict.evidence)

        state, signals = watch(states[camera], event, heard=heard)
        for signal in signals:
            self._rim.metrics.signalled(signal)
        await self._rim.send(topics.SIGNALS, event.camera_id, *signals)
        for baseline in completed(event.camera_id, states[camera], state):
            await self._rim.send(topics.AUDIT, self._rim.source, on_record(baseline, self._rim.source, event.time))
        states[camera] = state
        self._rim.metrics.watched(event, datetime.now(UTC))


class _Responder:
    """signals, worker-status -> model-state, quarantine, incidents, audit."""

    def __init__(self, rim: Rim, settings: Settings) -> None:
        self._rim = rim
        self._sessions = open_database(settings)
        self._store = Store(self._sessions, playbooks.load(), settings.worker_lost_s, settings.clock_allowance_s)
        self._rollouts = Rollouts(self._store, vouch(self._sessions, registry_of(settings), settings))
        self._port = _Port(rim)
        self._apart = _Apart()
        self._runner = settings.responder_id
        self._lanes = [_Lane(rim, self._sessions, channel, self._runner) for channel in _channels(settings)]
        _on_batches(rim, topics.SIGNALS, "respond-signals", self._hear_signals)
        _on_batches(rim, topics.WORKER_STATUS, "respond-worker-status", self._hear_workers)
        rim.app.timer(interval=_TICK_S)(self._tick)

    async def _hear_signals(self, batch: Batch) -> None:
        signals: list[Signal] = []

        async def decode(message: Message) -> None:
            signals.append(codec.decode(message.value, topics.SIGNALS, Signal).event)

        async def accept(message: Message) -> None:
            await self._apart(self._store.accept, codec.decode(message.value, topics.SIGNALS, Signal).event, datetime.now(UTC))

        async def accept_all() -> None:
            await self._apart(self._store.accept_all, signals, datetime.now(UTC))

        whole: list[EventT[bytes]] = []
        for event in batch:
            await self._rim.guard("respond", event, decode)
            whole += [event] if len(signals) > len(whole) else []
        try:
            await self._rim.until_available("respond", accept_all)
        except Exception:
            log.exception("signals are taken in one by one: one of the batch cannot be", agent="respond", signals=len(signals))
            for event in whole:
                await self._rim.guard("respond", event, accept)
        await self._rim.until_available("respond", self._act)

    async def _hear_workers(self, batch: Batch) -> None:
        async def accept(message: Message) -> None:
            status = codec.decode(message.value, topics.WORKER_STATUS, WorkerStatus).event
            now = datetime.now(UTC)
            self._rim.metrics.reported(status, now)
            await self._apart(self._store.accept, status, now)

        for event in batch:
            await self._rim.guard("respond", event, accept)
        await self._rim.until_available("respond", self._act)

    async def _act(self) -> None:
        """Carry out what was decided, until nothing is due."""
        self._port.loop = asyncio.get_running_loop()
        attempts = self._rim.metrics[EFFECT_ATTEMPTS]
        while True:
            carried = await self._apart(carry_out, self._sessions, self._port, lambda: datetime.now(UTC), self._runner)
            attempts.labels(outcome=Outcome.DONE).inc(carried.sent)
            attempts.labels(outcome=Outcome.FAILED).inc(carried.delayed + carried.refused)
            if not carried.sent:
                return

    async def _tick(self) -> None:
        try:
            await self._apart(self._store.tick, datetime.now(UTC))
            await self._apart(self._rollouts.tick, datetime.now(UTC))
            await self._apart(dispatch, self._sessions, [lane.channel.name for lane in self._lanes], datetime.now(UTC))
            await self._act()
            now = await self._apart(self._standing)
        except Unavailable as error:
            log.warning("waiting", agent="respond", cause=str(error))
            return
        calm = {(kind, State.OPEN): 0 for kind in Kind}
        self._rim.metrics.incidents(calm | now.open, now.unacknowledged)
        self._rim.metrics[EFFECTS_PENDING].set(now.waiting)

    def _standing(self) -> Standing:
        with reading(self._sessions) as session:
            rollout_metrics.show(self._rim.metrics, rollout_metrics.newest(session))
            return standing(session)


def _channels(settings: Settings) -> list[Channel]:
    """Every channel that is set up; one whose settings do not hold is left out, because incidents go before telling of them."""
    found: list[Channel] = []
    for name in ChannelName:
        try:
            channel = channel_of(settings, name)
        except BadInput as error:
            log.error("people are not told by this channel", channel=name, cause=str(error))  # noqa: TRY400 - the cause says it all
        else:
            found += [channel] if channel is not None else []
    return found


class _Lane:
    """One channel's way to people, beside all others."""

    def __init__(self, rim: Rim, sessions: Sessions, channel: Channel, runner: str) -> None:
        self.channel = channel
        self._rim, self._sessions, self._runner = rim, sessions, runner
        self._apart = _Apart()
        rim.app.timer(interval=_TELL_S)(self._tell)

    async def _tell(self) -> None:
        attempts = self._rim.metrics[NOTIFICATIONS]
        try:
            while True:
                told = await self._apart(deliver, self._sessions, self.channel, lambda: datetime.now(UTC), self._runner)
                attempts.labels(channel=self.channel.name, outcome=Outcome.DONE).inc(told.sent)
                attempts.labels(channel=self.channel.name, outcome=Outcome.FAILED).inc(told.delayed)
                if not told.sent:
                    return
        except Unavailable as error:
            log.warning("waiting", agent="notify", channel=self.channel.name, cause=str(error))
        except Exception:
            log.exception("a channel failed; it is tried again", channel=self.channel.name)


class _Keeper:
    """detections, audit, quarantine -> database and sealed files."""

    def __init__(self, rim: Rim, settings: Settings) -> None:
        self._rim = rim
        self._settings = settings
        self._sessions = open_database(settings)
        self._apart = _Apart()
        _on_batches(rim, topics.DETECTIONS, "keep-judged", partial(self._record, topics.DETECTIONS, self._write_judged))
        _on_batches(rim, topics.AUDIT, "keep-audit", partial(self._record, topics.AUDIT, self._write_audit))
        _on_batches(rim, topics.QUARANTINE, "keep-quarantine", self._obey)
        self._clockwork = _Apart()
        self._scheduler = Scheduler(settings, self._sessions, f"{socket.gethostname()}/{os.getpid()}")
        rim.app.timer(interval=_SCHEDULE_S)(self._schedule)

    async def _schedule(self) -> None:
        try:
            await self._clockwork(self._scheduler.turn, datetime.now(UTC))
        except Unavailable as error:
            log.warning("waiting", agent="schedule", cause=str(error))
        except Exception:
            log.exception("regular work could not be started; it is tried again")

    async def _record(self, topic: topics.Topic, write: Callable[[list[tuple[Event, bytes]]], None], batch: Batch) -> None:
        read: list[tuple[Event, bytes]] = []

        async def decode(message: Message) -> None:
            read.append((codec.decode(message.value, topic, topic.carries).event, message.value or b""))

        for event in batch:
            await self._rim.guard("keep", event, decode)
        await self._rim.until_available("keep", partial(self._apart, write, read))

    def _write_judged(self, read: list[tuple[Event, bytes]]) -> None:
        with writing(self._sessions) as session:
            record_judged(session, [event for event, _ in read if isinstance(event, Detections)])

    def _write_audit(self, read: list[tuple[Event, bytes]]) -> None:
        with writing(self._sessions) as session:
            self._rim.metrics[AUDITED].inc(record_audit(session, [body for _, body in read]))

    async def _obey(self, batch: Batch) -> None:
        async def obey(message: Message) -> None:
            order = codec.decode(message.value, topics.QUARANTINE, QuarantineOrder).event
            await self._apart(self._quarantine, order, datetime.now(UTC))

        for event in batch:
            await self._rim.guard("keep", event, obey)

    def _quarantine(self, order: QuarantineOrder, now: datetime) -> None:
        with reading(self._sessions) as session:
            located = offsets_of(session, order)
        complete = bool(located.places) and located.places[-1].sequence == order.window.last_sequence
        if not complete and now - order.time < _RECORDS_LATE:
            raise Unavailable(f"frames of quarantine order {order.id} are not all on record yet")
        seen = read_detections(self._settings, located.places)
        frames = ((frame, body, seen.get(frame.id)) for frame, body in read_frames(self._settings, located.places))
        outcome = set_aside(self._sessions, self._settings, order, frames, now)
        self._rim.metrics[QUARANTINED].inc(outcome.sealed)
        if not complete:
            raise BadInput(f"quarantine order {order.id}: {located.missing} frames of {order.camera_id} are not on record")


def _on_batches(rim: Rim, topic: topics.Topic, name: str, handle: Callable[[Batch], Awaitable[None]]) -> None:
    """One agent on one topic (concurrency 1, acknowledged in order: issue #606)."""

    async def agent(stream: StreamT[bytes]) -> None:
        assert isinstance(stream, Stream)
        async for batch in stream.take_events(_BATCH, within=_WITHIN_S):
            try:
                await handle(batch)
            except Exception:
                # Single events are guarded; what fails here is storing. Faust would acknowledge the batch and lose it, so the
                # process ends before it can, and reads the batch again when it is started again.
                log.exception("a batch could not be stored; ending to be started again", agent=name, topic=topic.name)
                os._exit(EXIT_FAULT)

    rim.app.agent(rim.topic(topic), name=name)(agent)


class _Apart:
    """Blocking calls, one after another, in a thread of their own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "blocking")

    async def __call__(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(call, *arguments))


class _Port:
    """The outbox's way to Kafka: called in the SQL thread, sends on the app's event loop."""

    def __init__(self, rim: Rim) -> None:
        self._rim = rim
        self.loop: asyncio.AbstractEventLoop | None = None

    def send(self, topic: topics.Topic, key: str, event: Event) -> None:
        """Return once the broker has the event. Raises Unavailable after 5 s."""
        assert self.loop is not None
        future = asyncio.run_coroutine_threadsafe(self._rim.send(topic, key, event), self.loop)
        try:
            future.result(_SEND_LIMIT_S)
        except TimeoutError as error:
            future.cancel()
            raise Unavailable(f"the broker did not take {event.id} for {topic.name} in {_SEND_LIMIT_S:.0f} s") from error
        if isinstance(event, IncidentChange):
            self._rim.metrics.incident_changed(event)
        if isinstance(event, AuditEntry) and (passed := gate_said(event)) is not None:
            self._rim.metrics[GATE_VERDICTS].labels(verdict=GateVerdict.PASSED if passed else GateVerdict.REFUSED).inc()
