"""What every Faust app of ours shares: how it is set up, how it sends, and what happens to an event that fails.

An agent decodes, calls, sends and stores; it holds no threshold and decides nothing. What bites, and what is done about it:
- An exception inside an agent would acknowledge the event and lose it: every event is handled under `Rim.guard`, which
  dead-letters what fails and goes on.
- Repeats are normal (a kill loses up to one commit interval): every effect is keyed by a content address.
- A broker that is away is waited for, never skipped; an app that stands still at one of its topics while that grows ends its
  process (the supervisor starts it again).

Apps are made by a function, never at import time. Source: paper 4.7; Faust issues #606, #323, #247, #523.
"""

import asyncio
import os
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import faust
import structlog
from aiokafka.errors import KafkaError
from faust.streams import Stream
from faust.tables.table import Table
from faust.types import TP, EventT, StreamT, TopicT
from mode.utils.futures import maybe_async

from infra.certificates import ssl_context
from infra.metrics import AGENT_FAULTS, Metrics, Service
from infra.settings import Settings
from streams import codec
from streams.codec import Message
from streams.errors import BadInput, Unavailable
from streams.events import Event
from streams.topics import DEAD_LETTER, Role, Topic

ROLES = {Service.WATCH: Role.WATCHER, Service.RESPOND: Role.RESPONDER, Service.KEEP: Role.KEEPER}
"""Which role each service speaks to the broker as."""

Batch = Sequence[EventT[bytes]]
T = TypeVar("T")

_BATCH = 256
_WITHIN_S = 0.02
_RETRY_S = 0.5
_STALL_S = 30.0
_STALL_CHECK_S = 5.0
EXIT_STALLED = 70
EXIT_FAULT = 71
"""Exit codes that tell the supervisor's log why a process ended itself."""

log = structlog.get_logger("agents")


def base_app(settings: Settings, service: Service) -> faust.App:
    """A Faust app of one service: raw bytes, mutual TLS, no web server, short commit and session times.

    Short, because a kill repeats what was not yet committed, and a dead member holds its partitions until its session ends.
    """
    role = ROLES[service]
    context: ssl.SSLContext = ssl_context(settings, role)
    data = settings.home.resolve() / "faust" / role
    data.mkdir(parents=True, exist_ok=True)
    return faust.App(
        f"kerbwatch-{role}",
        broker=f"kafka://{settings.bootstrap}",
        broker_credentials=faust.SSLCredentials(context),
        broker_commit_interval=0.5,
        broker_session_timeout=6.0,
        broker_heartbeat_interval=2.0,
        broker_request_timeout=15.0,
        consumer_auto_offset_reset="earliest",
        store="memory://",
        key_serializer="raw",
        value_serializer="raw",
        producer_linger=0.0,
        producer_max_request_size=2 * DEAD_LETTER.max_bytes,
        stream_wait_empty=False,
        topic_disable_leader=True,
        topic_replication_factor=1,
        web_enabled=False,
        Table=PlacedTable,
        datadir=str(data),
        autodiscover=False,
    )


class PlacedTable(Table[bytes, bytes]):
    """A table whose values lie in the partition that `place` says: the one that their key's events come from.

    Faust takes the current event's partition, and there is none while a batch is handled; its other way, to ask the producer's
    partitioner, fails for as long as the producer has not heard of the changelog topic (seen with 0.15.3 and a fresh topic).
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._places: dict[bytes, int] = {}

    def place(self, key: bytes, partition: int) -> None:
        """Say where a key belongs, before it is set."""
        self._places[key] = partition

    def partition_for_key(self, key: Any) -> int:
        """Where a key's changes are logged."""
        return self._places[key]


class Rim:
    """What all agents of one app share: topics, sending with receipt, dead-lettering, metrics, and a watch against stalls."""

    def __init__(self, app: faust.App, service: Service, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
        self.source = f"{ROLES[service]}/{service}"
        self._topics: dict[str, TopicT] = {}
        self.patience_s: dict[str, float] = {}
        self._signs: Counter[str] = Counter()
        self._starts: dict[TP, int] = {}

    def topic(self, topic: Topic) -> TopicT:
        """The Faust side of a row of the topic table; the topic itself exists already, with its own settings."""
        if topic.name not in self._topics:
            self._topics[topic.name] = self.app.topic(
                topic.name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", allow_empty=True
            )
        return self._topics[topic.name]

    async def send(self, topic: Topic, key: str, *events: Event) -> None:
        """Send and await the broker's receipt of each; a broker that is away is waited for."""
        waiting = [(key.encode(), codec.encode(event)) for event in events]
        while waiting:
            try:
                receipts = [await self.topic(topic).send(key=key, value=value) for key, value in waiting]
                for _ in range(len(receipts)):
                    await maybe_async(await receipts[0])
                    receipts.pop(0)
                    waiting.pop(0)
            except KafkaError as error:
                log.warning("broker takes no message yet", topic=topic.name, cause=str(error))
                await asyncio.sleep(_RETRY_S)

    async def guard(self, agent: str, event: EventT[bytes], handle: Callable[[Message], Awaitable[None]]) -> None:
        """Handle one event; whatever fails is dead-lettered with its cause, counted, and the stream goes on.

        What is unavailable (database, weights) is waited for: the event is given again until it is taken.
        """
        message = message_of(event)
        try:
            await self.until_available(agent, message.topic, lambda: handle(message))
        except Exception as error:  # noqa: BLE001 - Faust would acknowledge and lose the event
            await self.set_aside(agent, message, error)
        self._signs[message.topic] += 1
        self.metrics.handled(agent)

    async def until_available(self, agent: str, topic: str, call: Callable[[], Awaitable[None]]) -> None:
        """Call until it does not raise Unavailable, with a pause in between; `topic` is what waits meanwhile."""
        while True:
            try:
                await call()
            except Unavailable as error:
                log.warning("waiting", agent=agent, cause=str(error))
                self._signs[topic] += 1
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def set_aside(self, agent: str, message: Message, error: Exception) -> None:
        """Put a message on the dead-letter topic; an error that is no BadInput is our own fault and is counted as such."""
        if isinstance(error, BadInput):
            log.warning("message refused", agent=agent, topic=message.topic, offset=message.offset, cause=str(error))
            self.metrics.refused(error.reason)
        else:
            log.error("agent failed", agent=agent, topic=message.topic, offset=message.offset, exc_info=error)
            self.metrics[AGENT_FAULTS].labels(agent=agent).inc()
        letter = codec.dead_letter(message, error, source=self.source, now=datetime.now(UTC))
        self.metrics.dead_lettered(letter)
        await self.send(DEAD_LETTER, message.topic, letter)

    def watch_for_stalls(self) -> None:
        """End the process when events of a topic wait and none of them is handled for a while; the supervisor starts it afresh.

        Each topic counts by itself: one agent's stream may be dead while another's flows. To wait for what is unavailable is a sign
        of life.
        """
        still_s: dict[str, float] = {}
        before: Counter[str] = Counter()

        async def progress() -> None:
            nonlocal still_s, before
            behind = self._behind()
            still = [name for name, count in behind.items() if count and self._signs[name] == before[name]]
            still_s = {name: still_s.get(name, 0.0) + _STALL_CHECK_S for name in still}
            before = self._signs.copy()
            late = [name for name in still if still_s[name] >= self.patience_s[name]]
            if late:
                await self._ask_starts()
                behind = self._behind()
            stalled = {name: behind[name] for name in late if behind.get(name) and self._signs[name] == before[name]}
            if stalled:
                log.error("no progress while events wait; ending to be started again", behind=stalled)
                os._exit(EXIT_STALLED)

        self.app.timer(interval=_STALL_CHECK_S)(progress)

    def _behind(self) -> dict[str, int]:
        """Events that wait, by topic, over all partitions of this process; sets the lag metric of each topic."""
        consumer: Any = self.app.consumer
        # The consumer forgets what it knew of a partition that it gives up (the monitor does not), and knows which it has sought:
        # before that (rebalance, tables) none is read, and to recover is no standstill.
        committed = consumer._committed_offset  # noqa: SLF001 - see above
        sought = consumer._read_offset  # noqa: SLF001 - same
        by_topic: dict[str, int] = {}
        for tp in consumer.assignment():
            high, read = consumer.highwater(tp), committed.get(tp)
            if read is None and tp in sought:
                read = 0
            if high is not None and read is not None and tp.topic in self._topics:
                by_topic[tp.topic] = by_topic.get(tp.topic, 0) + max(0, high - max(read, self._starts.get(tp, 0)))
        for name, count in by_topic.items():
            self.metrics.waiting(name, count)
        return by_topic

    async def _ask_starts(self) -> None:
        """Where the partitions' logs begin by now: what they no longer hold waits for nobody."""
        consumer: Any = self.app.consumer
        try:
            self._starts |= await asyncio.wait_for(consumer.earliest_offsets(*consumer.assignment()), _STALL_CHECK_S)
        except Exception as error:  # noqa: BLE001 - the watch outlives whatever it watches, and goes by what it knew
            log.warning("where topics begin is not known", cause=str(error) or type(error).__name__)


def on_batches(
    rim: Rim, topic: Topic, name: str, handle: Callable[[Batch], Awaitable[None]], *, patience_s: float = _STALL_S
) -> None:
    """One agent on one topic (concurrency 1, acknowledged in order: issue #606); one event may take it `patience_s`."""
    rim.patience_s[topic.name] = patience_s

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


class Apart:
    """Blocking calls, one after another, in a thread of their own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "blocking")

    async def __call__(self, call: Callable[..., T], *arguments: Any) -> T:
        """What `call` returns; what it raises is raised here."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(call, *arguments))


def message_of(event: EventT[bytes]) -> Message:
    """A Faust event as the codec knows messages."""
    raw: Any = event.message
    headers = raw.headers.items() if isinstance(raw.headers, dict) else raw.headers or ()
    return Message(raw.topic, raw.partition, raw.offset, raw.key, raw.value, tuple(headers))


def run(app: faust.App) -> None:
    """Run an app in this process until SIGTERM or SIGINT; leaves with the process's exit code."""
    faust.Worker(app, quiet=True, loglevel=None, redirect_stdouts=False, override_logging=False).execute_from_commandline()
