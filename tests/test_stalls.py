"""The watch against stalls: each topic by itself, and no false alarm at what is waited for, empty or gone."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from infra.metrics import Metrics, Service
from streams import app as app_module
from streams.app import EXIT_STALLED, Rim, on_batches
from streams.codec import Message
from streams.errors import Unavailable
from streams.topics import QUARANTINE, SIGNALS, WORKER_STATUS

SIGNAL, STATUS, ORDER = TP(SIGNALS.name, 0), TP(WORKER_STATUS.name, 0), TP(QUARANTINE.name, 0)
MANY = 40
"""Checks, one every 5 s: more than any stall needs."""


@dataclass
class Broker:
    """A consumer as Faust shows it: where logs begin and end, and what of them was committed."""

    ends: dict[TP, int]
    starts: dict[TP, int] = field(default_factory=dict)
    committed: dict[TP, int] = field(default_factory=dict)
    rebalances: bool = False
    silent: bool = False

    @property
    def _committed_offset(self) -> dict[TP, int]:
        return self.committed

    @property
    def _read_offset(self) -> dict[TP, int | None]:
        return {} if self.rebalances else dict.fromkeys(self.ends)

    def assignment(self) -> set[TP]:
        return set(self.ends)

    def highwater(self, partition: TP) -> int:
        return self.ends[partition]

    async def earliest_offsets(self, *partitions: TP) -> dict[TP, int]:
        if self.silent:
            raise TimeoutError
        return {partition: self.starts.get(partition, 0) for partition in partitions}


class Site:
    """A process with agents on three topics, seen every 5 s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, broker: Broker) -> None:
        self.broker, self.exits = broker, list[int]()
        self.timers: list[Callable[[], Coroutine[Any, Any, None]]] = []
        app: Any = SimpleNamespace(
            topic=lambda name, **_: name,
            agent=lambda *_, **__: lambda function: function,
            timer=lambda **_: self.timers.append,
            consumer=broker,
            monitor=SimpleNamespace(tp_committed_offsets={}),
        )
        self.rim = Rim(app, Service.RESPOND, Metrics(Service.RESPOND))

        async def handle(_batch: object) -> None:
            """Nothing to do."""

        for topic in (SIGNALS, WORKER_STATUS):
            on_batches(self.rim, topic, topic.name, handle)
        on_batches(self.rim, QUARANTINE, QUARANTINE.name, handle, patience_s=150)
        self.rim.watch_for_stalls()
        monkeypatch.setattr(os, "_exit", self.exits.append)
        monkeypatch.setattr(app_module, "_RETRY_S", 0)

    def checks(self, count: int, meanwhile: Callable[[], object] = lambda: None) -> int:
        """How many checks it took until the process ended itself; `count` if it did not."""
        for number in range(count):
            meanwhile()
            asyncio.run(self.timers[0]())
            if self.exits:
                return number + 1
        return count

    def handles(self, partition: TP, *, commits: bool = True) -> None:
        """One event comes and is handled."""

        async def done(_message: Message) -> None:
            """Nothing to do."""

        self.broker.ends[partition] += 1
        message = SimpleNamespace(topic=partition.topic, partition=0, offset=0, key=b"", value=b"", headers=())
        asyncio.run(self.rim.guard("respond", SimpleNamespace(message=message), done))  # type: ignore[arg-type]
        if commits:
            self.broker.committed[partition] = self.broker.ends[partition] - 1


def test_a_dead_stream_ends_the_process_though_another_one_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, Broker({SIGNAL: 10, STATUS: 10}, committed={SIGNAL: 9, STATUS: 9}))
    assert site.checks(MANY, lambda: site.handles(STATUS)) == 6
    assert site.exits == [EXIT_STALLED]


def test_a_stream_that_was_dead_from_the_start_is_seen_before_anything_was_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, Broker({SIGNAL: 3, STATUS: 0}))
    assert site.checks(MANY, lambda: site.handles(STATUS)) == 6
    whose = {"service": "respond", "topic": "signals"}
    assert site.rim.metrics.registry.get_sample_value("kerbwatch_consumer_lag_messages", whose) == 3


@pytest.mark.parametrize("committed", [{}, {SIGNAL: 120}], ids=["never read", "read until it was away for long"])
def test_what_the_log_no_longer_holds_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, committed: dict[TP, int]) -> None:
    site = Site(monkeypatch, Broker({SIGNAL: 500}, starts={SIGNAL: 500}, committed=committed))
    site.checks(MANY)
    assert site.exits == []


def test_a_busy_stream_that_is_always_behind_is_no_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, Broker({SIGNAL: 500, STATUS: 500}, committed={SIGNAL: 100, STATUS: 500}))
    site.checks(MANY, lambda: site.handles(SIGNAL, commits=False))
    assert site.exits == []


def test_to_wait_for_what_is_unavailable_is_no_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, Broker({SIGNAL: 500, STATUS: 5}, committed={SIGNAL: 100, STATUS: 5}))
    answers = iter([Unavailable("no database"), None] * MANY)

    async def store() -> None:
        if (answer := next(answers)) is not None:
            raise answer

    site.checks(MANY, lambda: asyncio.run(site.rim.until_available("respond", SIGNALS.name, store)))
    assert site.exits == []


def test_one_order_may_take_longer_where_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, Broker({ORDER: 5, STATUS: 0}, committed={ORDER: 4}))
    assert site.checks(MANY, lambda: site.handles(STATUS)) == 30


def test_in_a_rebalance_only_what_was_read_before_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, Broker({SIGNAL: 500}, rebalances=True))
    site.checks(MANY)
    assert site.exits == []
    site.broker.committed = {SIGNAL: 499}
    assert site.checks(MANY) == 6


def test_a_broker_that_says_nothing_does_not_stop_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, Broker({SIGNAL: 500}, committed={SIGNAL: 100}, silent=True))
    assert site.checks(MANY) == 6
