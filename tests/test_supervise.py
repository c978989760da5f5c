"""The supervisor starts what it is asked to, restarts what dies, and leaves nothing behind.

A small stand-in takes the place of `kerbwatch work ROLE`: what is tested is the supervisor, not the work.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from infra import processes, supervise
from infra.settings import Secret, Settings
from streams.errors import BadInput, Unavailable

WORK = "import os, sys, time\nprint('DB', os.environ.get('KERBWATCH_DATABASE_URL'), flush=True)\ntime.sleep(600)\n"
FAIL = "import sys\nsys.exit('the disk is full')\n"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    for role in supervise.ROLES:
        (tmp_path / f"{role}.py").write_text(WORK)
    monkeypatch.setattr(supervise, "command", lambda role: [sys.executable, str(tmp_path / f"{role}.py")])
    monkeypatch.setattr(supervise, "_STEADY_S", 1)
    settings = Settings(home=tmp_path / "a home", database_url=Secret("sqlite:///100%.db"))
    yield settings
    supervise.down(settings)


def until(holds: Callable[[], bool], limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


def test_processes_come_up_with_the_settings_come_back_after_a_kill_and_go_down(settings: Settings) -> None:
    assert [process.up for process in supervise.up(settings, ("infer", "watch"))] == [True, True, False, False]
    first = supervise.pid(settings, "infer")
    assert first is not None
    log = settings.home / "logs" / "infer.log"
    until(lambda: "DB sqlite:///100%.db" in log.read_text())
    assert os.getsid(first) != os.getsid(0), "a terminal's Ctrl-C must not reach it"
    os.kill(first, signal.SIGKILL)
    until(lambda: supervise.pid(settings, "infer") not in {None, first})
    second, other = supervise.pid(settings, "infer"), supervise.pid(settings, "watch")
    assert supervise.up(settings, ("infer",))[0].pid == second, "up again changes nothing"
    assert supervise.down(settings)
    assert not any(processes.command_line(pid) for pid in (second, other) if pid)
    assert not supervise.down(settings)


def test_a_stopped_role_stays_stopped_until_started(settings: Settings) -> None:
    supervise.up(settings, ("watch",))
    supervise.stop(settings, "watch")
    assert supervise.pid(settings, "watch") is None
    supervise.start(settings, "watch")
    assert supervise.pid(settings, "watch")


def test_nothing_is_left_behind_by_a_killed_supervisor(settings: Settings) -> None:
    supervise.up(settings, ("keep",))
    orphan, supervisor = supervise.pid(settings, "keep"), processes.read_pid(settings.home / "supervisor" / "supervisord.pid")
    assert orphan
    assert supervisor
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: not processes.command_line(supervisor))
    assert processes.command_line(orphan)
    assert supervise.down(settings)
    assert not processes.command_line(orphan)


def test_a_process_that_keeps_failing_is_named_with_the_end_of_its_log(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "respond.py").write_text(FAIL)
    with pytest.raises(Unavailable, match=r"process respond does not stay up \(\w+\)(.|\n)*the disk is full"):
        supervise.up(settings, ("respond",))
    assert supervise.status(settings)[2].state in {"BACKOFF", "STARTING"}, "it is tried on, in case what it needs comes back"


def test_secrets_reach_no_file_and_a_long_home_gets_a_short_socket(settings: Settings, tmp_path: Path) -> None:
    deep = replace(settings, home=tmp_path / ("x" * 120))
    try:
        assert supervise.up(deep, ("infer",))[0].up
        assert "100%" not in (deep.home / "supervisor" / "supervisord.conf").read_text()
    finally:
        supervise.down(deep)


def test_an_unknown_role_is_refused(settings: Settings) -> None:
    with pytest.raises(BadInput, match="no process is called 'dance'"):
        supervise.pid(settings, "dance")
    with pytest.raises(Unavailable, match="kerbwatch up"):
        supervise.start(settings, "infer")
