"""The audit log held against itself and against checkpoints that were signed before.

It decides whether the log in the database is the one that was written: numbers without gaps, every entry hashing to its leaf, and
every kept checkpoint's root found again. It refuses to sign one over a log that does not hold; what an entry says is judged by
`signers.py`, and told after signing. Checkpoints lie as files beside the database (`infra.checkpoints`); who copies them elsewhere
can prove any later change. No topic feeds it; the entries were written by `keeping.py`.

Source: paper SC-10 (audit trails), RFC 6962.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import func, select
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
from infra.merkle import Tree, leaf_hash, roots
from infra.settings import Settings
from infra.tables import AuditRow
from responders.proof.signers import Signers
from streams.errors import Tampered, Unavailable

_BATCH = 1000

Hear = Callable[[int, bytes, str], None]
"""Is told of every entry: its number, its bytes, the id that it is filed under."""


@dataclass(frozen=True)
class Signed:
    """A checkpoint whose signature holds, and the file that it came from."""

    path: Path
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Checked:
    """A log as it is: so many entries, their root, how many checkpoints it agrees with, the newest of those, and what is wrong."""

    size: int
    root: bytes
    checkpoints: int
    newest: Checkpoint | None = None
    faults: tuple[str, ...] = ()


def check(session: Session, settings: Settings, hear: Hear = lambda _number, _body, _id: None) -> Checked:
    """Hash every entry anew. Raises Tampered, naming the entry or the checkpoint, if the log is not what was written."""
    found = examine(session, kept_notes(settings), public_key_file(settings), hear)
    if found.faults:
        raise Tampered(found.faults[0])
    return found


def examine(session: Session, notes: Sequence[Path], key: Path, hear: Hear = lambda _number, _body, _id: None) -> Checked:
    """Hash every entry anew, hold the log against these checkpoints by the key in that file, and name all that is wrong.

    Raises Unavailable or BadInput if there are checkpoints and no key to read them by.
    """
    faults: list[str] = []
    signed = read_notes(notes, read_public_key(key), faults) if notes else []
    size = length(session)
    late = [one for one in signed if one.checkpoint.size > size]
    faults += [
        f"the audit log has {size} entries, but {one.path} was signed over {one.checkpoint.size}: entries were removed"
        for one in late[:1]
    ]
    root, agreed = b"", list[Signed]()
    wanted = {one.checkpoint.size for one in signed}
    wrong: list[Signed] = []
    for number, found in roots(_leaves(session, faults, hear), {size, *wanted}):
        for one in signed:
            if one.checkpoint.size == number:
                (agreed if one.checkpoint.root == found else wrong).append(one)
        root = found if number == size else root
    faults += rewritten(agreed, wrong)
    newest = max((one.checkpoint for one in agreed), key=lambda one: one.size, default=None)
    return Checked(size, root, len(agreed), newest, tuple(faults))


def rewritten(agreed: Sequence[Signed], wrong: Sequence[Signed]) -> list[str]:
    """What it means that a log agrees with some checkpoints and not with others: the first of those says where, the rest follow."""
    if not wrong:
        return []
    first = wrong[0]
    before = max((one.checkpoint.size for one in agreed if one.checkpoint.size < first.checkpoint.size), default=0)
    below = f"an entry below {first.checkpoint.size} was changed" + (f", and none below {before}" if before else "")
    return [f"the audit log is not the one that {first.path} was signed over: {below}"]


def checkpoint(session: Session, settings: Settings) -> tuple[Checked, Path]:
    """Check the log, then sign where it stands now. Raises Tampered if it does not hold; nothing is signed then.

    An entry that should not be there cannot be taken out, so a log with one is signed as it is, and Tampered names the entry.
    """
    signers = Signers()
    found = check(session, settings, signers.hear)
    now = Checkpoint(found.size, found.root)
    path = keep_note(settings, now, write_note(evidence_key(settings), now))
    if faults := signers.judged(session).faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise Tampered(f"{faults[0]}{more} (`kerbwatch audit verify`); the log is signed as it stands, in {path.name}")
    return found, path


def newest_note(settings: Settings) -> tuple[bytes, Checkpoint]:
    """The newest checkpoint's note and what it signs. Raises Unavailable before the first, Tampered if it does not hold."""
    notes = kept_notes(settings)
    if not notes:
        raise Unavailable(f"no checkpoint in {settings.home / 'checkpoints'} yet: `kerbwatch audit checkpoint` signs one")
    note = notes[-1].read_bytes()
    return note, read_note(note, read_public_key(public_key_file(settings)))


def signed_tree(session: Session, signed: Checkpoint) -> Tree:
    """The tree over the entries that a checkpoint covers. Raises Tampered if it is not the one that was signed."""
    leaves = session.scalars(select(AuditRow.leaf_hash).where(AuditRow.number < signed.size).order_by(AuditRow.number)).all()
    tree = Tree(leaves)
    if (tree.size, tree.root) != (signed.size, signed.root):
        raise Tampered(
            f"the audit log is not the one that the checkpoint over {signed.size} entries signs; see `kerbwatch audit verify`"
        )
    return tree


def length(session: Session) -> int:
    """How many entries the log has, by the largest number."""
    last = session.scalar(select(func.max(AuditRow.number)))
    return 0 if last is None else last + 1


def read_notes(notes: Sequence[Path], key: Ed25519PublicKey, faults: list[str]) -> list[Signed]:
    """Those of these checkpoints that the key signed, smallest first; `faults` learns of the others."""
    found = []
    for path in notes:
        try:
            found.append(Signed(path, read_note(path.read_bytes(), key)))
        except (Tampered, OSError) as error:
            faults.append(f"{path}: {error}")
    return sorted(found, key=lambda one: one.checkpoint.size)


def _leaves(session: Session, faults: list[str], hear: Hear) -> Iterator[bytes]:
    """The leaf of every entry, as far as there is no gap: behind one no root can be had."""
    rows = session.execute(select(AuditRow.number, AuditRow.event_id, AuditRow.body, AuditRow.leaf_hash).order_by(AuditRow.number))
    for expected, row in enumerate(rows.yield_per(_BATCH)):
        if row.number != expected:
            faults.append(f"audit entry {expected} is missing: the log was changed; compare with topic audit and a backup")
            return
        if leaf_hash(row.body) != row.leaf_hash:
            faults.append(f"audit entry {expected} is not the one that was written; compare with topic audit and a backup")
        hear(row.number, row.body, row.event_id)
        yield row.leaf_hash
