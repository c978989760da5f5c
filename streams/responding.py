"""The responder: signals and workers' words in, decisions out, people told. One thin Faust app's inside.

- signals, worker-status -> model-state, quarantine, incidents, audit: one SQL transaction a batch of signals, effects afterwards
  from the outbox, in one worker thread.
- People are told by one lane a channel, each in a thread of its own, so that none holds up the rest.

It decides nothing: `responders` does. Source: README, promises 1 and 3; paper 4.7.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog
from faust.types import EventT

from inference.provenance.registry import registry_of
from infra.db import Sessions, open_database, reading
from infra.metrics import (
    AGENT_FAULTS,
    CHANNEL_FAULTS,
    EFFECT_ATTEMPTS,
    EFFECTS_PENDING,
    GATE_VERDICTS,
    NOTIFICATIONS,
    GateVerdict,
    Metrics,
    Outcome,
)
from infra.settings import Settings
from responders.engine.effects import carry_out
from responders.engine.outbox import gate_said
from responders.engine.records import Standing, standing
from responders.engine.runner import claim
from responders.engine.store import Store
from responders.notify.channels import Channel, ChannelName
from responders.notify.deliveries import deliver, dispatch
from responders.notify.from_settings import channel_of
from responders.playbooks.chosen import choose
from responders.playbooks.playbooks import State
from responders.rollouts import metrics as rollout_metrics
from responders.rollouts.store import Rollouts
from streams import codec, topics
from streams.app import Apart, Batch, Rim, on_batches
from streams.codec import Message
from streams.errors import BadInput, Unavailable
from streams.events import AuditEntry, Event, IncidentChange, Kind, Signal, WorkerStatus
from streams.promotion import going_back, vouch

_TICK_S = 0.5
_TELL_S = 1.0
_REST_S = 0.1
"""After a small batch of signals: in a storm they are larger and fewer, and leave the machine to those who look at it."""
_SMALL = 64
"""Signals. A larger batch shows that more wait, and no rest is taken until they are worked off."""
_SEND_LIMIT_S = 5.0
"""Half an effect's lease (`responders.engine.effects.LEASE`): nobody else takes an effect over while it is being sent."""

log = structlog.get_logger("agents")


class Responder:
    """signals, worker-status -> model-state, quarantine, incidents, audit."""

    def __init__(self, rim: Rim, settings: Settings) -> None:
        self._rim = rim
        self._sessions = open_database(settings)
        chosen = choose(settings.playbooks)
        for kind in chosen.own:
            log.info("a playbook of this deployment's own", kind=kind, version=chosen.books[kind].version, file=chosen.source(kind))
        for fault in chosen.faults:
            log.error("a playbook does not hold", fault=fault)
        self._store = Store(self._sessions, chosen.books, settings.worker_lost_s, settings.clock_allowance_s)
        registry = registry_of(settings)
        self._rollouts = Rollouts(self._store, vouch(self._sessions, registry, settings), going_back(registry, settings))
        self._port = _Port(rim)
        self._apart = Apart()
        mine = claim(settings)
        self._runner = mine.name
        if mine.taken:
            log.warning("another responder goes by this name here; what this one leaves waits for its leases", runner=mine.name)
        self._lanes = [_Lane(rim, self._sessions, channel, self._runner) for channel in _channels(settings, rim.metrics)]
        on_batches(rim, topics.SIGNALS, "respond-signals", self._hear_signals)
        on_batches(rim, topics.WORKER_STATUS, "respond-worker-status", self._hear_workers)
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
            await self._rim.until_available("respond", topics.SIGNALS.name, accept_all)
        except Exception:
            log.exception("signals are taken in one by one: one of the batch cannot be", agent="respond", signals=len(signals))
            for event in whole:
                await self._rim.guard("respond", event, accept)
        await self._rim.until_available("respond", topics.SIGNALS.name, self._act)
        if len(batch) < _SMALL:
            await asyncio.sleep(_REST_S)

    async def _hear_workers(self, batch: Batch) -> None:
        async def accept(message: Message) -> None:
            status = codec.decode(message.value, topics.WORKER_STATUS, WorkerStatus).event
            now = datetime.now(UTC)
            self._rim.metrics.reported(status, now)
            await self._apart(self._store.accept, status, now)

        for event in batch:
            await self._rim.guard("respond", event, accept)
        await self._rim.until_available("respond", topics.WORKER_STATUS.name, self._act)

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
        """Let time pass, part by part: none waits for another to succeed, least of all paging."""
        channels = [lane.channel.name for lane in self._lanes]
        parts: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: self._apart(self._store.tick, datetime.now(UTC)),
            lambda: self._apart(self._rollouts.tick, datetime.now(UTC)),
            lambda: self._apart(dispatch, self._sessions, channels, datetime.now(UTC)),
            self._act,
            self._show,
        )
        lacking: set[str] = set()
        for part in parts:
            try:
                await part()
            except Unavailable as error:
                lacking.add(str(error))
            except Exception:
                self._rim.metrics[AGENT_FAULTS].labels(agent="respond").inc()
                log.exception("a part of the responder's clockwork failed; it is tried again", agent="respond")
        for cause in sorted(lacking):
            log.warning("waiting", agent="respond", cause=cause)

    async def _show(self) -> None:
        now = await self._apart(self._standing)
        calm = {(kind, State.OPEN): 0 for kind in Kind}
        self._rim.metrics.incidents(calm | now.open, now.unacknowledged)
        self._rim.metrics[EFFECTS_PENDING].set(now.waiting)

    def _standing(self) -> Standing:
        with reading(self._sessions) as session:
            rollout_metrics.show(self._rim.metrics, rollout_metrics.newest(session))
            return standing(session)


def _channels(settings: Settings, metrics: Metrics) -> list[Channel]:
    """Every channel that is set up; one whose settings do not hold is left out, because incidents go before telling of them."""
    found: list[Channel] = []
    for name in ChannelName:
        faulty = metrics[CHANNEL_FAULTS].labels(channel=name)
        faulty.set(0)
        try:
            channel = channel_of(settings, name)
        except BadInput as error:
            faulty.set(1)
            log.error("people are not told by this channel", channel=name, cause=str(error))  # noqa: TRY400 - the cause says it all
        else:
            found += [channel] if channel is not None else []
    return found


class _Lane:
    """One channel's way to people, beside all others."""

    def __init__(self, rim: Rim, sessions: Sessions, channel: Channel, runner: str) -> None:
        self.channel = channel
        self._rim, self._sessions, self._runner = rim, sessions, runner
        self._apart = Apart()
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
