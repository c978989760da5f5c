"""Under which name a responder holds effects and notices: one that no other living process has.

It decides the name in which leases are taken (`effects.py`, `deliveries.py`): the settings' name and a number that only the holder
of a lock may use. The system lets the lock go when the process dies, by SIGKILL too, so whoever gets it knows that its former
holder sends nothing any more, and takes up at once what that one held. It refuses to share a name: whoever finds the lock taken
gets a number of its own, used once, and what it leaves behind waits for its leases to end. No topic feeds it.

Source: flock(2) (a lock goes with the last descriptor of its open file).
"""

import fcntl
import os
import secrets
import socket
from dataclasses import dataclass

from infra.settings import Settings

_NUMBER_BYTES = 8


@dataclass(frozen=True)
class Claim:
    """A name for this process's life; `taken` says that the home's own number was in use, so this one ends with the process."""

    name: str
    taken: bool


def claim(settings: Settings) -> Claim:
    """A name like "responder-1/host/9f31...": the same after a restart in the same home, unless another process has it still."""
    path = settings.home.resolve() / "run" / f"{settings.responder_id}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # never closed: it goes with the process
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another holds it, or this file system has no locks: then nobody knows who lives
        os.close(lock)
        return Claim(_named(settings, secrets.token_hex(_NUMBER_BYTES)), taken=True)
    number = os.read(lock, 3 * _NUMBER_BYTES).decode("ascii", "replace")
    if len(number) != 2 * _NUMBER_BYTES:
        number = secrets.token_hex(_NUMBER_BYTES)
        os.ftruncate(lock, 0)
        os.pwrite(lock, number.encode(), 0)
    return Claim(_named(settings, number), taken=False)


def _named(settings: Settings, number: str) -> str:
    # The host tells a copy of the home, brought up elsewhere at the same database, from the home that it was copied from.
    return f"{settings.responder_id}/{socket.gethostname()}/{number}"
