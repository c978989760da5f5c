"""Runs that rest, and runs that were stopped and go on: each once, and never one that keeps failing without a pause."""

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import ClassVar

import msgspec
import pytest
from a_person import newcomer
from click.testing import Result
from incident_events import NORMAL, SAFE, at, signal
from sqlalchemy import select
from typer.testing import CliRunner

from infra.db import Sessions, reading, writing
from infra.metrics import Metrics, Service
from infra.settings import Settings
from infra.tables import EffectRow, NoticeRow, TimelineRow
from responders.engine.store import Store
from responders.notify.notices import Notice, Sort
from responders.people import desk
from responders.people.roles import Role
from responders.playbooks import playbooks
from responders.regular.scheduler import Scheduler
from responders.rollouts.rollout import Failed, Progress, Rollout, State
from responders.rollouts.store import Rollouts, find
from streams import agents, codec, runs
from streams.app import Rim
from streams.command_line import app
from streams.console import retraining
from streams.errors import BadInput
from streams.events import AuditEntry, Context, Phase
from streams.runs import QUIET, Runs, alone, folder_of
from streams.topics import AUDIT

pytest_plugins = ["databases"]


@dataclass
class Child:
    """A run's process as the keeper sees it."""

    ended: bool = False

    def poll(self) -> int | None:
        return 3 if self.ended else None


class Site:
    """A rollout that was asked for, and a keeper whose processes are counted."""

    def __init__(self, settings: Settings, sessions: Sessions) -> None:
        self.settings, self.sessions = settings, sessions
        self.store = Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)
        for context in Context:
            self.store.assign(context, NORMAL, SAFE, at(0))
        [self.incident_id] = self.store.accept(signal(Phase.RAISED, 10, 14), at(3)).incident_ids
        self.rollouts = Rollouts(self.store)
        self.asked = self.rollouts.request(self.incident_id, "science-1", short=True, now=at(10))
        self.folder = folder_of(settings, self.asked)
        self.children: list[Child] = []
        self.keeper = Runs(settings, sessions, self._start)

    def _start(self, _settings: Settings, rollout: Rollout) -> Child:
        assert rollout.id == self.asked.id
        self.children.append(Child())
        return self.children[-1]

    def rollout(self) -> Rollout:
        with reading(self.sessions) as session:
            return find(session, self.asked.id)

    def timeline(self) -> list[tuple[str, str]]:
        with reading(self.sessions) as session:
            rows = session.scalars(select(TimelineRow).where(TimelineRow.action.startswith("rollout")).order_by(TimelineRow.number))
            return [(row.actor, row.action) for row in rows]


@pytest.fixture
def site(database: Settings, sessions: Sessions) -> Site:
    return Site(database, sessions)


def test_a_run_that_was_stopped_goes_on_once(site: Site) -> None:
    with alone(site.folder):
        site.rollouts.hear(site.asked.id, Progress(at(20), "training", 1, 9, 9.0), at(20))
        assert site.keeper.turn(at(4000)) == [], "somebody works on it, however long it is silent"
    assert site.keeper.turn(at(20) + QUIET - timedelta(seconds=1)) == []
    assert site.keeper.turn(at(4000)) == [site.asked.id]
    assert site.keeper.turn(at(4005)) == [], "it has begun and does not hold its lock yet"
    with alone(site.folder):
        assert Runs(site.settings, site.sessions, site._start).turn(at(4010)) == [], "another keeper sees the lock"
    assert len(site.children) == 1


def test_a_run_whose_files_lie_elsewhere_or_that_is_over_is_left_alone(site: Site) -> None:
    assert site.keeper.turn(at(4000)) == []
    site.folder.mkdir(parents=True)
    site.rollouts.hear(site.asked.id, Failed(at(4001), "no golden data"), at(4001))
    assert site.keeper.turn(at(8000)) == []


def test_a_run_that_keeps_ending_is_started_ever_more_seldom(site: Site) -> None:
    site.folder.mkdir(parents=True)
    starts = []
    for seconds in range(1000, 4600, 5):
        if site.keeper.turn(at(seconds)):
            starts.append(seconds)
            site.children[-1].ended = True
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 60
    assert len(starts) < 10


def test_the_process_that_goes_on_asks_for_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **_: started.append(words))
    runs.begin(site.settings, site.asked)
    assert started[0][2:] == ["streams", "retrain", "--reason", site.incident_id, "--go-on"]
    monkeypatch.setenv("KERBWATCH_HOME", str(site.settings.home))
    if site.settings.database_url is not None:
        monkeypatch.setenv("KERBWATCH_DATABASE_URL", site.settings.database_url.reveal())
    monkeypatch.setattr(os, "nice", lambda _: 0)
    monkeypatch.setattr(retraining, "_run", lambda *_: site.rollout())
    retraining.retrain(reason=site.incident_id, go_on=True)
    site.rollouts.hear(site.asked.id, Failed(at(30), "enough"), at(30))
    with pytest.raises(BadInput, match="was stopped"):
        retraining.retrain(reason=site.incident_id, go_on=True)


def test_the_keeper_looks_after_runs_by_itself(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    class Keeper:
        """A Faust app that runs nothing by itself."""

        consumer = monitor = None
        timers: ClassVar[list[Callable[[], Awaitable[None]]]] = []

        def topic(self, name: str, **_options: object) -> str:
            return name

        def agent(self, _topic: object, name: str) -> Callable[[object], object]:
            return lambda function: (name, function)

        def timer(self, interval: float) -> Callable[[Callable[[], Awaitable[None]]], None]:
            assert interval > 0
            return self.timers.append

    site.folder.mkdir(parents=True)
    started: list[str] = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **_: started.append(words[4]) or Child())
    monkeypatch.setattr(Scheduler, "turn", lambda *_: None)
    keeper = agents._Keeper(Rim(Keeper(), Service.KEEP, Metrics(Service.KEEP)), site.settings)  # type: ignore[arg-type]
    for timer in Keeper.timers:
        asyncio.run(timer())  # type: ignore[arg-type]
    keeper._sessions.kw["bind"].dispose()
    assert started == ["--reason"]


def test_a_silent_run_calls_somebody_once(site: Site) -> None:
    def pages() -> list[Notice]:
        with reading(site.sessions) as session:
            bodies = session.scalars(select(NoticeRow.body).where(NoticeRow.incident_id == site.incident_id))
            told = [msgspec.json.decode(body, type=Notice) for body in bodies]
        return [one for one in told if one.sort is Sort.PAGE and one.what.startswith("retraining")]

    site.rollouts.tick(at(100))
    assert pages() == []
    for seconds in (200, 300):
        site.rollouts.tick(at(seconds))
    [page] = pages()
    assert (page.role, "the run is silent for 120 s" in page.what) == (Role.SECMLOPS_ENGINEER, True)


Command = Callable[..., Result]


@pytest.fixture
def command(site: Site, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("KERBWATCH_HOME", str(site.settings.home))
    monkeypatch.setenv("COLUMNS", "250")
    if site.settings.database_url is not None:
        monkeypatch.setenv("KERBWATCH_DATABASE_URL", site.settings.database_url.reveal())
    with writing(site.sessions) as session:
        for name, role in (("mlops-1", Role.MLOPS_ENGINEER), ("devops-1", Role.DEVOPS_ENGINEER)):
            newcomer(session, site.settings, name, [role], at(3))

    def run(*words: str) -> Result:
        result = CliRunner().invoke(app, list(words))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def test_a_run_rests_between_two_steps_by_command_and_goes_on_by_another(
    site: Site, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    def candidate(*_: object, report: Callable[[str, int, int, float], None], **__: object) -> str:
        for step in range(steps[-1] if steps else 0, 5):
            steps.append(step)
            report("training with defences", step, 5, 1.0)
            if step == 2 and not site.rollout().paused and steps.count(2) == 1:
                command("rollouts", "pause", site.asked.id[:8], "--actor", "mlops-1", "-m", "the machine is needed")
        return "c" * 64

    monkeypatch.setattr(retraining, "_TELL_EVERY_S", 0.0)
    monkeypatch.setattr(retraining, "read_frames", lambda *_: ())
    monkeypatch.setattr(retraining, "candidate", candidate)
    monkeypatch.setattr(retraining, "gated", lambda *_: (True, "0.9"))
    monkeypatch.setattr(os, "nice", lambda _: 0)
    said = command("retrain", "--reason", site.incident_id, "--go-on", "--actor", "mlops-1")
    assert said.exit_code == 0
    assert "training and paused" in said.stdout
    assert (site.rollout().state, site.rollout().paused, steps) == (State.TRAINING, True, [0, 1, 2, 3])
    assert "the run is paused" in command("rollouts", "list").stdout
    assert "and paused" in command("retrain", "--reason", site.incident_id, "--go-on", "--actor", "mlops-1").stdout
    assert steps == [0, 1, 2, 3], "nothing works while it rests"
    later = datetime.now(UTC) + timedelta(hours=1)
    assert site.keeper.turn(later) == [], "and no keeper starts it"
    with pytest.raises(BadInput, match="R6"):
        command("rollouts", "resume", site.asked.id, "--actor", "devops-1", "-m", "now")
    command("rollouts", "resume", site.asked.id, "--actor", "mlops-1", "-m", "the rush hour is over")
    assert site.keeper.turn(later) == [site.asked.id]
    command("retrain", "--reason", site.incident_id, "--go-on", "--actor", "mlops-1")
    assert (site.rollout().state, steps[4:]) == (State.AWAITING_APPROVAL, [3, 4])
    assert ("mlops-1", "rollout.pause") in site.timeline()
    assert ("mlops-1", "rollout.resume") in site.timeline()
    with reading(site.sessions) as session:
        [unsigned] = desk.check(session).faults
        bodies = session.scalars(select(EffectRow.payload).where(EffectRow.topic == AUDIT.name)).all()
    assert "rollout.request by science-1" in unsigned, "the rest is signed"
    actions = [codec.decode(body, AUDIT, AuditEntry).event.action for body in bodies]
    assert (actions.count("rollout.pause"), actions.count("rollout.resume")) == (1, 1)


def test_who_leaves_a_run_at_the_terminal_is_told_that_it_goes_on(
    site: Site, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left(*_: object) -> Rollout:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "nice", lambda _: 0)
    monkeypatch.setattr(retraining, "_run", left)
    result = command("retrain", "--reason", site.incident_id)
    assert result.exit_code == 130
    assert f"kerbwatch rollouts pause|cancel {site.asked.id[:8]}" in result.output
