"""Starts the working processes, restarts a dead one with growing pauses, stops them all on one signal.

It decides what runs and how often a failing process is tried again; PyPI's `supervisor` does the work, in a session of its own, so
that a terminal's Ctrl-C reaches the command and not the work. It listens on a Unix socket only and refuses TCP control. Settings go
to the processes through their environment, never through a file. No topic feeds it.
"""

import contextlib
import hashlib
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from infra import processes
from infra.files import alone, write_whole
from infra.metrics import Service
from infra.settings import Settings, variables
from streams.errors import BadInput, Unavailable

ROLES = tuple(Service)
"""What `kerbwatch work` can do; each is one process."""

_LONGEST_SOCKET = 90
"""A Unix socket's path may have 103 bytes on macOS and 107 on Linux; supervisor adds its process id while it binds."""
_STEADY_S = 2
"""`up` waits until a process has lived so long."""
_STARTED_S = 15
"""A process that ends sooner has failed to start, and waits a second longer before each next try; loading a model takes seconds."""
_TRIES = 100
"""Failures in a row before it is given up: more than an hour, so that it outlasts a broker's outage."""
_HOPELESS = 3
"""`up` gives a process so many tries."""
_OBEY_S = 15
"""From the request to stop to being killed."""
_GONE = 10
"""Looks in a row at which a starting supervisor was not to be seen."""
_LOG_BYTES = 10 * 1024 * 1024
_TAIL_LINES = 12


@dataclass(frozen=True)
class ProcessStatus:
    """One process; `state` in supervisor's words: RUNNING, STARTING, BACKOFF (tried again), FATAL (given up), STOPPED, EXITED."""

    role: str
    state: str
    pid: int | None
    up_s: float
    log: Path

    @property
    def up(self) -> bool:
        """Whether it lives."""
        return self.pid is not None and self.state in {"RUNNING", "STARTING"}


@dataclass(frozen=True)
class _Place:
    """Where one home's supervisor keeps its things; its configuration's path marks its process."""

    home: Path

    @property
    def config(self) -> Path:
        return self.home / "supervisor" / "supervisord.conf"

    @property
    def pid(self) -> Path:
        return self.home / "supervisor" / "supervisord.pid"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def socket(self) -> Path:
        path = self.home / "supervisor" / "control.sock"
        if len(os.fsencode(path)) <= _LONGEST_SOCKET:
            return path
        name = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"kerbwatch-{os.getuid()}-{name}" / "control.sock"


def _place(settings: Settings) -> _Place:
    return _Place(settings.home.resolve())


def command(role: str) -> list[str]:
    """What a role's process is started as."""
    return [sys.executable, "-m", "streams", "work", role]


def environment(settings: Settings) -> dict[str, str]:
    """This process's environment with `settings` in it, for a process that is to run under the same ones."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KERBWATCH_")}
    # torch's waiting threads sleep: where they spin beside other processes, a gradient takes twenty times as long (0.25 s, 5.6 s)
    inherited.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return inherited | variables(settings)


def up(settings: Settings, roles: Sequence[str] = ROLES, patience_s: float = 60.0) -> tuple[ProcessStatus, ...]:
    """Starts the processes that do not run yet, and returns when all of `roles` have stayed alive for two seconds.

    A supervisor that runs with other settings is replaced; processes that a killed one left behind are ended first.

    Raises:
        BadInput: a role that is none.
        Unavailable: a process does not stay alive; tells the end of its log. The others keep running.
    """
    for role in roles:
        _check(role)
    place = _place(settings)
    with alone(place.config.parent / ".lock"):
        variables = environment(settings)
        wanted = _config(place, variables).encode()
        running = processes.is_ours(processes.read_pid(place.pid), str(place.config))
        if not running or place.config.read_bytes() != wanted:
            _end(place)
            _begin(place, wanted, variables)
    with _control(place) as control:
        for role in roles:
            with contextlib.suppress(Fault):  # raised if it runs already
                control.startProcess(str(role), False)  # noqa: FBT003 - XML-RPC has no names; do not wait
    until = time.monotonic() + patience_s
    tried: dict[str, set[int | None]] = {role: set() for role in roles}
    while True:
        found = {process.role: process for process in status(settings)}
        late = [found[role] for role in roles if not found[role].pid or found[role].up_s < _STEADY_S]
        if not late:
            return tuple(found.values())
        for process in late:
            tried[process.role].add(process.pid)
            if time.monotonic() > until or len(tried[process.role] - {None}) > _HOPELESS or process.state == "FATAL":
                raise Unavailable(
                    f"process {process.role} does not stay up ({process.state}); the end of {process.log}:\n{_tail(process.log)}"
                )
        time.sleep(0.1)


def down(settings: Settings) -> bool:
    """Stops every process and the supervisor; nothing of it is left, even if the supervisor itself was killed before.

    Returns whether anything ran.
    """
    place = _place(settings)
    if not place.config.parent.is_dir():
        return False
    with alone(place.config.parent / ".lock"):
        return _end(place)


def status(settings: Settings) -> tuple[ProcessStatus, ...]:
    """Every role's process; all STOPPED where no supervisor runs."""
    place = _place(settings)
    rows: list[dict[str, Any]] = []
    if processes.is_ours(processes.read_pid(place.pid), str(place.config)):
        with contextlib.suppress(Unavailable), _control(place) as control:
            rows = control.getAllProcessInfo()
    found = {row["name"]: row for row in rows}
    return tuple(_status(place, role, found.get(role)) for role in ROLES)


def pid(settings: Settings, role: str) -> int | None:
    """A role's process id; None if it does not run."""
    _check(role)
    return next(process.pid for process in status(settings) if process.role == role)


def start(settings: Settings, role: str) -> None:
    """Starts one role's process and returns once it is steady. Raises Unavailable if no supervisor runs or it does not stay up."""
    _check(role)
    if not processes.is_ours(processes.read_pid(_place(settings).pid), str(_place(settings).config)):
        raise Unavailable("no supervisor runs: `kerbwatch up` starts it")
    up(settings, (role,))


def stop(settings: Settings, role: str) -> None:
    """Stops one role's process and leaves it stopped. Raises Unavailable if no supervisor runs."""
    _check(role)
    with _control(_place(settings)) as control, contextlib.suppress(Fault):  # raised if it does not run
        control.stopProcess(str(role))


def _check(role: str) -> None:
    if role not in ROLES:
        raise BadInput(f"no process is called {role!r}; there are {', '.join(ROLES)}")


def _status(place: _Place, role: str, row: dict[str, Any] | None) -> ProcessStatus:
    log = place.logs / f"{role}.log"
    if row is None:
        return ProcessStatus(role, "STOPPED", None, 0.0, log)
    up_s = float(row["now"] - row["start"]) if row["pid"] else 0.0
    return ProcessStatus(role, row["statename"], row["pid"] or None, up_s, log)


def _begin(place: _Place, config: bytes, variables: dict[str, str]) -> None:
    place.logs.mkdir(parents=True, exist_ok=True)
    place.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place.socket.parent.stat().st_uid != os.getuid():
        raise Unavailable(f"{place.socket.parent} belongs to somebody else: remove it, or choose a shorter KERBWATCH_HOME")
    write_whole(place.config, config)
    argv = [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "--silent", "-c", str(place.config)]
    number = processes.spawn(argv, place.logs / "supervisord.out", variables)
    try:
        write_whole(place.pid, str(number).encode())
    except BaseException:  # Ctrl-C too: a supervisor that is on no record could not be stopped
        processes.stop(number, str(place.config), _OBEY_S)
        raise
    until = time.monotonic() + 20
    gone = 0
    while True:
        with contextlib.suppress(Unavailable), _control(place) as control:
            control.getState()
            return
        # A process that has only just begun may show no command line yet (seen on a busy machine).
        gone = 0 if processes.is_ours(number, str(place.config)) else gone + 1
        if time.monotonic() > until or gone == _GONE:
            raise Unavailable(f"the supervisor does not start: see {place.logs / 'supervisord.out'}")
        time.sleep(0.05)


def _end(place: _Place) -> bool:
    number = processes.read_pid(place.pid)
    if number is None:
        return False
    ran = processes.is_ours(number, str(place.config))
    if ran:
        processes.stop(number, str(place.config), _OBEY_S + 5)
    # A killed supervisor leaves its processes in its session, whose number is not given to another while one of them lives.
    ours = {" ".join(command(role)) for role in ROLES}
    for orphan in processes.of_session(number):
        line = processes.command_line(orphan)
        if line in ours:
            processes.stop(orphan, line, _OBEY_S)
            ran = True
    place.pid.unlink(missing_ok=True)
    place.socket.unlink(missing_ok=True)
    return ran


@contextlib.contextmanager
def _control(place: _Place) -> Iterator[Any]:
    """Supervisor's own XML-RPC over its Unix socket."""
    with ServerProxy("http://localhost", transport=SupervisorTransport(None, None, f"unix://{place.socket}")) as proxy:
        try:
            yield proxy.supervisor
        except Fault:
            raise
        except (OSError, HTTPException) as error:
            raise Unavailable(f"no supervisor answers at {place.socket}: `kerbwatch up` starts it") from error


def _tail(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return "\n".join(text.splitlines()[-_TAIL_LINES:]) or "(nothing)"


def _config(place: _Place, variables: dict[str, str]) -> str:
    def quoted(path: object) -> str:
        return str(path).replace("%", "%%")

    settings = sorted((name, value) for name, value in variables.items() if name.startswith("KERBWATCH_"))
    programs = "".join(
        f"""
[program:{role}]
command={quoted(shlex.join(command(role)))}
autostart=false
autorestart=true
startsecs={_STARTED_S}
startretries={_TRIES}
stopwaitsecs={_OBEY_S}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={quoted(place.logs / f"{role}.log")}
stdout_logfile_maxbytes={_LOG_BYTES}
stdout_logfile_backups=3
"""
        for role in ROLES
    )
    return f"""; settings {hashlib.sha256(repr(settings).encode()).hexdigest()}
[unix_http_server]
file={quoted(place.socket)}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisord]
logfile={quoted(place.logs / "supervisord.log")}
logfile_maxbytes={_LOG_BYTES}
logfile_backups=3
loglevel=info
pidfile={quoted(place.config.with_suffix(".own-pid"))}
{programs}"""
