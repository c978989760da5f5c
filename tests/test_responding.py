"""The responder's clockwork: no part of it silences another, least of all the paging of people."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faust.types import EventT
from incident_events import NORMAL, SAFE, at, signal
from sqlalchemy import select
from structlog.testing import capture_logs

from infra.db import migrate, reading
from infra.metrics import EFFECTS_PENDING, Metrics, Service
from infra.settings import Secret, Settings
from infra.tables import EffectRow, NotificationRow
from responders.notify.channels import ChannelName
from responders.playbooks.playbooks import load
from streams import responding
from streams.app import Rim
from streams.errors import BrokenContract, KerbwatchError, Unavailable
from streams.events import Context, Event, Phase
from streams.responding import Responder
from streams.topics import Topic


class App:
    """A Faust app that runs nothing by itself."""

    consumer = monitor = None

    def topic(self, name: str, **_options: object) -> str:
        return name

    def agent(self, _topic: object, name: str) -> Callable[[object], object]:
        return lambda function: (name, function)

    def timer(self, interval: float) -> Callable[[object], object]:
        return lambda function: (interval, function)


@pytest.fixture
def responder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Responder:
    settings = Settings(home=tmp_path)
    migrate(settings)
    rim = Rim(App(), Service.RESPOND, Metrics(Service.RESPOND))  # type: ignore[arg-type]

    async def send(_topic: Topic, _key: str, *_events: Event) -> None:
        """The broker has it."""

    monkeypatch.setattr(rim, "send", send)
    made = Responder(rim, settings)
    for context in Context:
        made._store.assign(context, NORMAL, SAFE, at(0))
    made._store.accept(signal(Phase.RAISED, 10, 14), at(3))
    return made


def paged(responder: Responder) -> list[str]:
    with reading(responder._sessions) as session:
        return list(session.scalars(select(NotificationRow.role)))


def sent(responder: Responder) -> int:
    with reading(responder._sessions) as session:
        return len(session.scalars(select(EffectRow).where(EffectRow.state == "done")).all())


@pytest.mark.parametrize("error", [Unavailable("no signature"), BrokenContract("a fault of our own")], ids=["away", "fault"])
@pytest.mark.parametrize("part", ["incidents", "rollouts", "effects", "figures"])
def test_paging_goes_on_while_any_other_part_fails(
    responder: Responder, monkeypatch: pytest.MonkeyPatch, part: str, error: KerbwatchError
) -> None:
    def fail(*_: object) -> Any:
        raise error

    match part:
        case "incidents":
            responder._store = SimpleNamespace(tick=fail)  # type: ignore[assignment]
        case "rollouts":
            responder._rollouts = SimpleNamespace(tick=fail)  # type: ignore[assignment]
        case "effects":
            monkeypatch.setattr(responding, "carry_out", fail)
        case "figures":
            monkeypatch.setattr(responding, "standing", fail)
    asyncio.run(responder._tick())
    assert paged(responder)
    assert (sent(responder) > 0) == (part != "effects")
    faults = responder._rim.metrics.registry.get_sample_value("kerbwatch_agent_faults_total", {"agent": "respond"})
    assert (faults or 0) == (error.__class__ is BrokenContract)


def test_orders_go_out_and_figures_are_shown_while_paging_fails(responder: Responder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise Unavailable("the table of notices is locked")

    monkeypatch.setattr(responding, "dispatch", fail)
    responder._rim.metrics[EFFECTS_PENDING].set(-1)
    asyncio.run(responder._tick())
    assert sent(responder) > 0
    assert responder._rim.metrics.registry.get_sample_value("kerbwatch_effects_pending") == 0


@pytest.mark.parametrize(("count", "rests"), [(1, True), (63, True), (64, False), (256, False)])
def test_it_rests_after_a_small_batch_once_all_is_sent_and_never_while_more_wait(
    responder: Responder, monkeypatch: pytest.MonkeyPatch, count: int, rests: bool
) -> None:
    done: list[str] = []

    async def guard(*_: object) -> None:
        """Nothing that could be read."""

    async def act() -> None:
        done.append("sent")

    async def sleep(seconds: float) -> None:
        done.append(f"rested {seconds} s")

    monkeypatch.setattr(responder._rim, "guard", guard)
    monkeypatch.setattr(responder, "_act", act)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    asyncio.run(responder._hear_signals([cast("EventT[bytes]", None)] * count))
    assert done == ["sent", *(["rested 0.1 s"] if rests else [])]


def test_a_channel_whose_settings_do_not_hold_is_told_to_prometheus(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, webhook_url=Secret("https://hooks.example.org"), webhook_secret=Secret("abc"))
    migrate(settings)
    metrics = Metrics(Service.RESPOND)
    Responder(Rim(App(), Service.RESPOND, metrics), settings)  # type: ignore[arg-type]
    faulty = {name: metrics.registry.get_sample_value("kerbwatch_channel_faulty", {"channel": name}) for name in ChannelName}
    assert faulty == {"console": 0, "webhook": 1, "email": 0, "alertmanager": 0}


def test_a_playbook_of_the_deployments_own_that_does_not_hold_is_told_and_the_packaged_one_serves(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, playbooks=tmp_path)
    migrate(settings)
    (tmp_path / "evasion.toml").write_text('kind = "evasion"')
    with capture_logs() as said:
        made = Responder(Rim(App(), Service.RESPOND, Metrics(Service.RESPOND)), settings)  # type: ignore[arg-type]
    assert [f"{tmp_path}/evasion.toml" in line["fault"] for line in said if line["log_level"] == "error"] == [True]
    assert made._store.playbooks == load()
