"""The agents, in flow order: watch detections, respond to signals, keep the records. Each is one thin Faust app.

- watch (detections -> signals): per camera, a pure step over all its detectors; the state rests in a Faust table. Signals are sent,
  and their receipt awaited, before the state that led to them is stored: a crash in between repeats them under the same ids
  instead of losing them.
- respond (signals, worker-status -> model-state, quarantine, incidents, audit): one SQL transaction an event, effects afterwards
  from the outbox.
- keep (detections, quarantine, audit -> database, sealed files): a row a judged frame, frames set aside, the audit trail.

SQL and Kafka's log are read in one worker thread: a blocking call would stall Faust's event loop (issue #247).
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

import faust
import msgspec
import structlog
from faust.types import EventT, StreamT

from detectors.watch import watch
from infra.metrics import Metrics, Service
from infra.settings import Settings
from streams import codec, topics
from streams.app import Rim, base_app, message_of
from streams.codec import Message
from streams.events import Detections

T = TypeVar("T")

_BATCH = 256
_WITHIN_S = 0.02

log = structlog.get_logger("agents")


def create_app(settings: Settings, service: Service, metrics: Metrics) -> faust.App:
    """The Faust app of one service (watch, respond or keep)."""
    app = base_app(settings, service)
    rim = Rim(app, service, metrics)
    attach: dict[Service, Callable[[Rim, Settings], None]] = {
        Service.WATCH: _watch,
        # Service.RESPOND: _respond,
        #
    }
    attach[service](rim, settings)
    rim.watch_for_stalls()
    return app


def _watch(rim: Rim, _settings: Settings) -> None:
    # The partitioner places a camera's state where it places the camera's events (murmur2 of the same key, as many partitions);
    # Faust's other way, the current event's partition, is not to be had while a batch is handled.
    table: Any = rim.app.Table(
        "cameras", partitions=topics.DETECTIONS.partitions, key_type=bytes, value_type=bytes, use_partitioner=True
    )

    @rim.app.agent(rim.topic(topics.DETECTIONS), name="watch")
    async def watch_detections(stream: StreamT[bytes]) -> None:
        async for batch in stream.take_events(_BATCH, within=_WITHIN_S):
            states: dict[bytes, dict[str, Any]] = {}
            for event in batch:
                await rim.guard("watch", event, lambda message: _watch_one(rim, table, states, message))
            for camera, state in states.items():
                table[camera] = msgspec.json.encode(state)


async def _watch_one(rim: Rim, table: Any, states: dict[bytes, dict[str, Any]], message: Message) -> None:
    event = codec.decode(message.value, topics.DETECTIONS, Detections).event
    camera = event.camera_id.encode()
    if camera not in states:
        states[camera] = msgspec.json.decode(table[camera]) if camera in table else {}
    state, signals = watch(states[camera], event)
    for signal in signals:
        rim.metrics.signalled(signal)
    await rim.send(topics.SIGNALS, event.camera_id, *signals)
    states[camera] = state
    rim.metrics.watched(event, datetime.now(UTC))
