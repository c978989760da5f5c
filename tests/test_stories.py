"""Whole stories on the real stack: processes under the supervisor, the real broker, the shipped weights."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import select

from infra import kafka, processes, supervise
from infra.clients import producer
from infra.db import open_database, reading
from infra.metrics import Service
from infra.settings import Settings, read_settings
from infra.tables import IncidentRow, JudgedFrame, QuarantinedFrame
from responders.playbooks.playbooks import State
from streams import codec, stack, topics
from streams.console.dlq import read_events
from streams.console.view import Sight, look
from streams.demo.facts import gather
from streams.demo.story import Script, play, wait_until_served
from streams.events import Context, Kind, Mode, ModelState, Phase, Severity, Signal, Window, event_id
from streams.topics import Role

pytestmark = pytest.mark.broker


@pytest.fixture
def site(free_ports: Callable[[int], tuple[int, ...]]) -> Iterator[Settings]:
    """A stack of its own that runs and serves; everything is stopped afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="kws-", dir="/tmp"))
    broker, controller = free_ports(2)
    settings = replace(
        read_settings(), home=folder, kafka_port=broker, kafka_controller_port=controller, metrics_port=_four_in_a_row(free_ports)
    )
    try:
        yield settings
    finally:
        stack.stop(settings)
        shutil.rmtree(folder, ignore_errors=True)


def _four_in_a_row(free_ports: Callable[[int], tuple[int, ...]]) -> int:
    while True:
        (first,) = free_ports(1)
        if all(processes.port_is_free(first + number) for number in range(1, len(Service))):
            return first


def up(settings: Settings, *services: Service) -> stack.Weights:
    weights = stack.start(settings, datetime.now(UTC), lambda _step: None, services or tuple(Service))
    wait_until_served(settings, threading.Event())
    return weights


def incidents(settings: Settings) -> list[IncidentRow]:
    with reading(open_database(settings)) as session:
        return list(session.scalars(select(IncidentRow)))


def wait_for(what: Callable[[], bool], limit_s: float) -> None:
    until = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.2)


def an_alarm(phase: Phase = Phase.RAISED) -> Signal:
    return Signal(
        id=event_id("test", phase), source="watcher/test", time=datetime.now(UTC), subject="gate", kind=Kind.EVASION, phase=phase,
        severity=Severity.HIGH, camera_id="gate", context=Context.URBAN, detector="evasion",
        window=Window(epoch=1, first_sequence=0, last_sequence=3), weights_digest=None,
    )  # fmt: skip


def asked(settings: Settings, context: Context) -> list[Mode]:
    states = [event for event in read_events(settings, topics.MODEL_STATE) if isinstance(event, ModelState)]
    return [state.mode for state in sorted(states, key=lambda state: state.time) if state.context == context]


def test_a_switch_counts_only_when_the_worker_reports_it_and_a_stopped_worker_makes_it_escalate(site: Settings) -> None:
    up(site, Service.INFER, Service.RESPOND)
    worker = supervise.pid(site, Service.INFER)
    assert worker is not None
    os.kill(worker, signal.SIGSTOP)
    with closing(producer(site, Role.WATCHER)) as watcher:
        watcher.send(topics.SIGNALS.name, codec.encode(an_alarm()), key=b"gate").get(timeout=30)
    wait_for(lambda: asked(site, Context.URBAN)[-1:] == [Mode.SAFE], 30)
    wait_for(lambda: bool(incidents(site)[0].escalated), 40)
    (row,) = incidents(site)
    assert row.state == State.CONTAINING
    assert row.contained_at is None
    os.kill(worker, signal.SIGCONT)
    wait_for(lambda: incidents(site)[0].state == State.CONTAINED, 30)
    assert asked(site, Context.HIGHWAY) == [Mode.NORMAL]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_part_is_killed_mid_attack_and_nothing_is_lost_or_done_twice(site: Settings) -> None:
    weights = up(site)
    killed: list[str] = []
    last_s = [0.0]

    def kill(sight: Sight) -> None:
        """One part every eight seconds, from the moment that the incident is open; the broker is started again by hand."""
        if not sight.incidents or time.monotonic() - last_s[0] < 8:
            return
        for part in (Service.INFER, Service.WATCH, Service.RESPOND, Service.KEEP, "broker"):
            if part in killed:
                continue
            pid = kafka.status(site).pid if part == "broker" else supervise.pid(site, part)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                killed.append(part)
                if part == "broker":
                    time.sleep(2)
                    kafka.up(site)
            break
        last_s[0] = time.monotonic()

    sources = ("street:urban?size=512x256", "street:highway?size=512x256")
    script = Script(attacked=240, limit_s=420)
    ledgers = play(site, sources, weights, threading.Event(), script=script, meanwhile=kill)
    wait_for(lambda: not look(open_database(site)).waiting, 60)
    facts = gather(site, ledgers)
    assert len(killed) == 5
    assert facts.events_lost == 0
    assert facts.double_effects == 0
    assert facts.frames.sent == facts.frames.judged
    with reading(open_database(site)) as session:
        kept = set(session.scalars(select(QuarantinedFrame.frame_id)))
        rows = session.execute(select(JudgedFrame.frame_id, JudgedFrame.inconsistency))
        scores = {row.frame_id: row.inconsistency for row in rows}
    missed = [(entry.sequence, scores[entry.frame_id]) for entry in ledgers[0] if entry.attack and entry.frame_id not in kept]
    assert missed == []
    evasions = [one for one in facts.incidents if one.kind == Kind.EVASION]
    assert [one.camera for one in evasions] == ["gate"]
    assert evasions[0].seconds_to_contain is not None
    assert evasions[0].state in {State.CONTAINED, State.RECOVERING, State.CLOSED}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("interrupted", [False, True])
def test_the_demo_succeeds_and_leaves_no_process_behind_even_when_interrupted(
    site: Settings, interrupted: bool, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "streams", "demo", "--json", str(tmp_path / "facts.json")]
    demo = subprocess.Popen(command, env=supervise.environment(site), start_new_session=True)
    if interrupted:
        wait_for((site.home / "cameras" / "gate.jsonl").exists, 120)
        time.sleep(5)
        demo.send_signal(signal.SIGINT)
    assert demo.wait(800) == (130 if interrupted else 0)
    here = str(site.home)
    left = [
        pid
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        if here in processes.command_line(pid)
    ]
    assert left == []
    if not interrupted:
        facts = json.loads((tmp_path / "facts.json").read_text())
        assert facts["events_lost"] == facts["double_effects"] == 0
        assert [one["state"] for one in facts["incidents"]] == ["closed"]
        retraining = facts["retraining"]
        assert (retraining["state"], retraining["quarantined_frames_trained_on"]) == ("done", 0)
        assert sorted(role for _, role in retraining["approvals"]) == ["R3", "R8"]
        old, _, new = retraining["against_the_attack"]
        assert new["miss_rate"] < old["miss_rate"]
