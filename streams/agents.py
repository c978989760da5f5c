"""The agents, in flow order: watch detections, respond to signals, keep the records. Each is one thin Faust app.

- watch (detections -> signals): per camera, a pure step over all its detectors; the state rests in a Faust table. Signals are sent,
  and their receipt awaited, before the state that led to them is stored: a crash in between repeats them under the same ids
  instead of losing them.
- respond (signals, worker-status -> model-state, quarantine, incidents, audit): in `responding.py`.
- keep (detections, quarantine, audit -> database, sealed files): a row a judged frame, frames set aside, the audit trail.

SQL and Kafka's log are read in one worker thread: a blocking call would stall Faust's event loop (issue #247).
"""

import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import faust
import msgspec
import structlog

from detectors.base import Verdict
from detectors.baselines import completed
from detectors.watch import Watching, watch
from infra.db import open_database, writing
from infra.metrics import (
    AUDITED,
    QUARANTINED,
    Metrics,
    Service,
)
from infra.settings import Settings
from responders.proof.keeping import record_audit, record_judged
from responders.regular.scheduler import Scheduler
from streams import codec, topics
from streams.app import Apart, Batch, Rim, base_app, on_batches
from streams.baselines import on_record
from streams.codec import Message
from streams.errors import BrokenContract, Unavailable
from streams.events import Detections, Event, QuarantineOrder
from streams.quarantining import JudgedLane, Quarantining
from streams.responding import Responder
from streams.runs import Runs

_RUNS_S = 5.0
_SCHEDULE_S = 20.0
"""A third of the scheduler's lease (`responders.regular.schedule.LEASE`)."""
_ONE_ORDER_S = 900.0
"""So long may one quarantine order's frames take to be found and sealed: thousands, on a machine that is busy."""

log = structlog.get_logger("agents")


def create_app(settings: Settings, service: Service, metrics: Metrics) -> faust.App:
    """The Faust app of one service (watch, respond or keep)."""
    rim = Rim(base_app(settings, service), service, metrics)
    match service:
        case Service.WATCH:
            _Watcher(rim)
        case Service.RESPOND:
            Responder(rim, settings)
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
        on_batches(rim, topics.DETECTIONS, "watch", self._watch)

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


class _Keeper:
    """detections, audit, quarantine -> database and sealed files."""

    def __init__(self, rim: Rim, settings: Settings) -> None:
        self._rim = rim
        self._sessions = open_database(settings)
        self._apart = Apart()
        self._quarantining = Quarantining(settings, self._sessions, JudgedLane(settings), rim.metrics[QUARANTINED].inc)
        self._orders = Apart()  # an order that waits for records must not hold up those who write them
        on_batches(rim, topics.DETECTIONS, "keep-judged", partial(self._record, topics.DETECTIONS, self._write_judged))
        on_batches(rim, topics.AUDIT, "keep-audit", partial(self._record, topics.AUDIT, self._write_audit))
        on_batches(rim, topics.QUARANTINE, "keep-quarantine", self._obey, patience_s=_ONE_ORDER_S)
        self._clockwork = Apart()
        self._scheduler = Scheduler(settings, self._sessions, f"{socket.gethostname()}/{os.getpid()}")
        rim.app.timer(interval=_SCHEDULE_S)(self._schedule)
        self._runs = Runs(settings, self._sessions)
        rim.app.timer(interval=_RUNS_S)(self._go_on)

    async def _schedule(self) -> None:
        try:
            await self._clockwork(self._scheduler.turn, datetime.now(UTC))
        except Unavailable as error:
            log.warning("waiting", agent="schedule", cause=str(error))
        except Exception:
            log.exception("regular work could not be started; it is tried again")

    async def _go_on(self) -> None:
        try:
            await self._clockwork(self._runs.turn, datetime.now(UTC))
        except Unavailable as error:
            log.warning("waiting", agent="runs", cause=str(error))
        except Exception:
            log.exception("a retraining run could not be started; it is tried again")

    async def _record(self, topic: topics.Topic, write: Callable[[list[tuple[Event, bytes]]], None], batch: Batch) -> None:
        read: list[tuple[Event, bytes]] = []

        async def decode(message: Message) -> None:
            read.append((codec.decode(message.value, topic, topic.carries).event, message.value or b""))

        for event in batch:
            await self._rim.guard("keep", event, decode)
        await self._rim.until_available("keep", topic.name, partial(self._apart, write, read))

    def _write_judged(self, read: list[tuple[Event, bytes]]) -> None:
        with writing(self._sessions) as session:
            record_judged(session, [event for event, _ in read if isinstance(event, Detections)])

    def _write_audit(self, read: list[tuple[Event, bytes]]) -> None:
        with writing(self._sessions) as session:
            self._rim.metrics[AUDITED].inc(record_audit(session, [body for _, body in read]))

    async def _obey(self, batch: Batch) -> None:
        async def obey(message: Message) -> None:
            order = codec.decode(message.value, topics.QUARANTINE, QuarantineOrder).event
            await self._orders(self._quarantining.obey, order, datetime.now(UTC))

        for event in batch:
            await self._rim.guard("keep", event, obey)
