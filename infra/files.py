"""Files that must be whole or absent, and work that one process does at a time.

It decides how bytes reach the disk: written beside, flushed, moved into place. It refuses to leave half a file. No topic feeds it.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from streams.errors import BadInput


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Puts `data` at `path` at once: a reader sees the old bytes or the new ones; only the owner may, unless `mode` says more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def write_new(path: Path, chunks: Iterable[bytes], mode: int = 0o600) -> None:
    """Puts what `chunks` make up at `path`, where nothing may be yet. Raises BadInput if something is; that stays as it is then."""
    taken = f"{path} is there already, and nothing is written over it: name another file"
    if path.exists():
        raise BadInput(taken)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        path.hardlink_to(scratch)  # unlike a move, a link never replaces
    except FileExistsError as error:
        raise BadInput(taken) from error
    finally:
        Path(scratch).unlink(missing_ok=True)


@contextmanager
def alone(lock: Path, taken: str = "") -> Iterator[None]:
    """Waits until no other process is inside the same block; the lock goes with the process, so a crash leaves none behind.

    With `taken`, what to tell somebody who comes second, it does not wait: raises BadInput.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if taken else 0))
        except BlockingIOError:
            raise BadInput(taken) from None
        yield
