"""The audit log held against itself and against checkpoints that were signed before.

It decides whether the log in the database is the one that was written: numbers without gaps, every entry hashing to its leaf, and
every kept checkpoint's root found again. It refuses to sign one over a log that does not hold. Checkpoints lie as files
beside the database (`infra.checkpoints`); who copies them elsewhere can prove any later change. No topic feeds it; the entries were
written by `keeping.py`.

Source: paper SC-10 (audit trails), RFC 6962.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from infra.checkpoints import (
    Checkpoint,
    evidence_key,
    keep_note,
    kept_notes,
    public_key_file,
    read_note,
    read_public_key,
    write_note,
)
from infra.merkle import leaf_hash, roots
from infra.settings import Settings
from infra.tables import AuditRow
from streams.errors import Tampered

_BATCH = 1000


@dataclass(frozen=True)
class Checked:
    """A log that holds: so many entries, their root, and how many kept checkpoints it agrees with."""

    size: int
    root: bytes
    checkpoints: int


def check(session: Session, settings: Settings) -> Checked:
    """Hash every entry anew. Raises Tampered, naming the entry or the checkpoint, if the log is not what was written."""
    notes = _notes(settings)
    size = session.scalar(select(AuditRow.number).order_by(AuditRow.number.desc()).limit(1))
    size = 0 if size is None else size + 1
    late = [number for number in notes if number > size]
    if late:
        raise Tampered(f"the audit log has {size} entries, but {notes[late[0]]} was signed over {late[0]}: entries were removed")
    root = b""
    for number, found in roots(_leaves(session), {size, *notes}):
        if number in notes and found != read_note(notes[number].read_bytes(), read_public_key(public_key_file(settings))).root:
            raise Tampered(
                f"the audit log is not the one that {notes[number]} was signed over: an entry below {number} was changed"
            )
        root = found
    return Checked(size, root, len(notes))


def checkpoint(session: Session, settings: Settings) -> tuple[Checked, Path]:
    """Check the log, then sign where it stands now. Raises Tampered if it does not hold; nothing is signed then."""
    found = check(session, settings)
    now = Checkpoint(found.size, found.root)
    return found, keep_note(settings, now, write_note(evidence_key(settings), now))


def _notes(settings: Settings) -> dict[int, Path]:
    return {int(path.stem): path for path in kept_notes(settings)}


def _leaves(session: Session) -> Iterator[bytes]:
    rows = session.execute(select(AuditRow.number, AuditRow.body, AuditRow.leaf_hash).order_by(AuditRow.number))
    for expected, row in enumerate(rows.yield_per(_BATCH)):
        if row.number != expected:
            raise Tampered(f"audit entry {expected} is missing: the log was changed; compare with topic audit and a backup")
        if leaf_hash(row.body) != row.leaf_hash:
            raise Tampered(f"audit entry {expected} is not the one that was written; compare with topic audit and a backup")
        yield row.leaf_hash
