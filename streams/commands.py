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
            [sys.executable, "-m", "streams", *words],
            env=supervise.environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(_END_S)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def command(words: Sequence[str], settings: Settings, limit_s: float = _LIMIT_S) -> str:
    """What `kerbwatch WORDS` printed. Raises Unavailable with its words if it did not succeed within `limit_s`."""
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "streams", *words],
            env=supervise.environment(settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"kerbwatch {words[0]} did not end within {limit_s:.0f} s") from error
    if done.returncode:
        raise Unavailable(f"kerbwatch {' '.join(words[:2])} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()
