"""Processes that outlive the command that started them: start, recognise, stop.

It decides whether a recorded process id still is the process we started (ids are reused, so its command line must name our own
file); it refuses to signal one that is not. No topic feeds it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_POLL_S = 0.05


def spawn(argv: Sequence[str], log: Path, environment: Mapping[str, str]) -> int:
    """Starts `argv` in a session of its own, so that a terminal's Ctrl-C does not reach it. Returns its process id.

    Its output is appended to `log`. The caller need not outlive it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    output = (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    no_input = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    actions = [no_input, output, (os.POSIX_SPAWN_DUP2, 1, 2)]
    # Not subprocess.Popen: it warns about, and wants to wait for, a child that is meant to stay.
    return os.posix_spawn(argv[0], list(argv), dict(environment), file_actions=actions, setsid=True)


def command_line(pid: int) -> str:
    """What process `pid` was started as, arguments joined by spaces; empty if there is none, or if it is dead and unburied."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # buries it where it was our own child
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""
    done = subprocess.run(["/bin/ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603 - fixed program, a number
    return done.stdout.strip()


def is_ours(pid: int | None, mark: str) -> bool:
    """Whether `pid` runs and its command line holds `mark` (a path of our own that no other process has)."""
    line = command_line(pid) if pid is not None else ""
    return bool(line) and mark in line


def read_pid(path: Path) -> int | None:
    """The process id recorded at `path`; None if there is none or it is no number."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def stop(pid: int, mark: str, patience_s: float) -> None:
    """Asks the process to end (SIGTERM), ends it (SIGKILL) after `patience_s`; does nothing if it is not ours any more."""
    for number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, patience_s)):
        if not is_ours(pid, mark):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        until = time.monotonic() + wait_s
        while time.monotonic() < until and is_ours(pid, mark):
            time.sleep(_POLL_S)


def port_is_free(port: int) -> bool:
    """Whether we could listen on this port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def listener(port: int) -> str:
    """Who listens on a TCP port, as "process 123 (command)"; says so where it cannot be known (another user's, no /proc)."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            rows = [line.split() for line in Path(table).read_text(encoding="ascii").splitlines()[1:]]
            # Column 1 is address:port in hex, 3 the state (0A listens), 9 the socket's inode.
            sockets |= {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].rsplit(":", 1)[1], 16) == port}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(link.readlink()) in sockets:
                pid = int(link.parts[2])
                return f"process {pid} ({command_line(pid)[:120]})"
    return "a process that cannot be seen from here"


def of_session(session: int) -> tuple[int, ...]:
    """Every process of a session (the number of the process that began it, which need not live any more)."""
    if Path("/proc/self").exists():
        numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    else:
        done = subprocess.run(["/bin/ps", "-axo", "pid="], capture_output=True, text=True, check=False)
        numbers = [int(number) for number in done.stdout.split()]
    found = []
    for number in numbers:
        with contextlib.suppress(OSError):
            if os.getsid(number) == session:
                found.append(number)
    return tuple(found)
