"""Our own commands as processes: what the demo starts, exactly as a person would.

It decides nothing; it refuses a shell. No topic feeds it.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from infra import supervise
from infra.settings import Settings
from streams.errors import Unavailable

_END_S = 20.0
_LIMIT_S = 60.0


@contextmanager
def process(words: Sequence[str], settings: Settings, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`kerbwatch WORDS` in a session of its own, its output in `log`; ended in order when the block is left."""
    with log.open("wb") as out:
        started = subprocess.Popen(  # noqa: S603 - our own command
            _ours(words),
            env=supervise.environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            yield started
        finally:
            _end(started)


def command(words: Sequence[str], settings: Settings, limit_s: float = _LIMIT_S, *, apart: bool = False) -> str:
    """What `kerbwatch WORDS` printed. Raises Unavailable with its words if it did not succeed within `limit_s`.

    What takes longer, or is interrupted with us, is asked to end and given time to stop what it started. `apart`: as somebody types
    it in a terminal of their own, which Linux gives as much of the machine as all of ours together (sched(7), autogroup).
    """
    with subprocess.Popen(  # noqa: S603 - our own command
        _ours(words),
        env=supervise.environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=apart,
    ) as started:
        try:
            told, fault = started.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            _end(started)
            raise Unavailable(f"kerbwatch {words[0]} did not end within {limit_s:.0f} s") from error
        except BaseException:
            _end(started)
            raise
    if started.returncode:
        raise Unavailable(f"kerbwatch {' '.join(words[:2])} failed: {fault.strip() or told.strip()}")
    return told.strip()


def _ours(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "streams", *words]


def _end(started: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> None:
    started.terminate()
    try:
        started.communicate(timeout=_END_S)
    except subprocess.TimeoutExpired:
        started.kill()
        started.communicate()
