"""A copy of the audit log, or of a stretch of it, in one file that anybody checks offline with the public key alone.

It decides how such a file looks and whether one holds. It refuses to write a log that is not the one that was signed. JSON
lines: the first is the head (format, signed checkpoint, which entries follow, hashes of all that are left out), each other one an
entry: its number, its leaf hash (which tells where a changed byte is) and its bytes (base64). The same log and checkpoint give the
same bytes. A stretch holds every entry between its first and its last, so that nothing can be left out of it; who had which key is
added, each with a proof of its own. No topic feeds it.

Source: RFC 6962 section 2.1 (hash trees), C2SP tlog-checkpoint, paper SC-10.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from infra.checkpoints import Checkpoint, read_note
from infra.merkle import Tree, leaf_hash, root_around, root_of, roots
from infra.tables import AuditRow
from responders.people.people import DROPPED, KEY_GIVEN
from responders.proof.auditing import read_notes, rewritten, signed_tree
from responders.proof.evidence import Proven
from responders.proof.signers import Signers
from streams import codec
from streams.errors import BadInput, Tampered
from streams.events import AuditEntry
from streams.topics import AUDIT

_FORMAT = "kerbwatch audit log v1"
_BATCH = 1000
_LONGEST_HEAD = 1 << 26
_LONGEST_LINE = 1 << 22


class Head(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file holds: entries `first` to `first + entries - 1` of the log that `checkpoint` signs.

    `outside`: hashes over the entries that are left out (32 bytes each). `people`: entries from outside that gave or took keys.
    """

    format: str
    checkpoint: str
    first: int
    entries: int
    outside: tuple[bytes, ...]
    people: tuple[Proven, ...]


class _Line(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    number: int
    leaf: bytes
    body: bytes


Watch = Callable[[int, int], None]
"""Is told how many entries of how many are done."""


def lines(
    session: Session, note: bytes, signed: Checkpoint, watch: Watch, *, since: datetime | None, until: datetime | None
) -> Iterator[bytes]:
    """The file, line by line: the entries that the checkpoint covers, from the first since `since` to the last before `until`.

    Raises BadInput if there is none, Tampered if the log is not the one that was signed.
    """
    tree = signed_tree(session, signed)
    first, end = _stretch(session, signed, since, until)
    head = Head(
        format=_FORMAT,
        checkpoint=note.decode(),
        first=first,
        entries=end - first,
        outside=tree.outside(first, end),
        people=_people(session, tree, first, end),
    )
    yield msgspec.json.encode(head) + b"\n"
    query = select(AuditRow.number, AuditRow.body, AuditRow.leaf_hash).where(AuditRow.number >= first, AuditRow.number < end)
    for done, row in enumerate(session.execute(query.order_by(AuditRow.number)).yield_per(_BATCH), 1):
        if leaf_hash(row.body) != row.leaf_hash:
            raise Tampered(f"audit entry {row.number} is not the one that was written: `kerbwatch audit verify` says more")
        yield msgspec.json.encode(_Line(number=row.number, leaf=row.leaf_hash, body=row.body)) + b"\n"
        watch(done, end - first)


def _stretch(session: Session, signed: Checkpoint, since: datetime | None, until: datetime | None) -> tuple[int, int]:
    if since is None and until is None and signed.size:
        return 0, signed.size
    rows = session.execute(select(AuditRow.number, AuditRow.body).where(AuditRow.number < signed.size).order_by(AuditRow.number))
    first, end = signed.size, 0
    for row in rows.yield_per(_BATCH):
        time = codec.decode(row.body, AUDIT, AuditEntry).event.time
        if (since is None or time >= since) and (until is None or time < until):
            first, end = min(first, row.number), row.number + 1
    if first >= end:
        raise BadInput(
            f"none of the {signed.size} entries that are signed lies in that time: widen it, or sign newer ones first "
            "(`kerbwatch audit checkpoint`)"
        )
    return first, end


def _people(session: Session, tree: Tree, first: int, end: int) -> tuple[Proven, ...]:
    # The action stands in the entry's JSON alone; the pattern only narrows down what is decoded.
    outside = or_(AuditRow.number < first, (AuditRow.number >= end) & (AuditRow.number < tree.size))
    rows = session.execute(select(AuditRow.number, AuditRow.body).where(outside).order_by(AuditRow.number))
    return tuple(
        Proven(number=row.number, body=row.body, proof=tree.proof(row.number))
        for row in rows.yield_per(_BATCH)
        if b'"people.' in row.body and codec.decode(row.body, AUDIT, AuditEntry).event.action in {KEY_GIVEN, DROPPED}
    )


@dataclass(frozen=True)
class Copied:
    """A file as it is: what it says it holds, the checkpoint that its key signed, and what is wrong with it."""

    head: Head
    signed: Checkpoint
    agreed: int
    faults: tuple[str, ...]


def examine_file(path: Path, key: Ed25519PublicKey, notes: Sequence[Path], signers: Signers, watch: Watch) -> Copied:
    """Hash a file's entries anew and hold them against its checkpoint; `signers` hears them, and who had which key.

    A copy that begins at entry 0 is also held against older `notes`, any other only against those of its own size; `agreed` counts
    all that it agrees with. Raises BadInput for what is no such file, Tampered if the checkpoint is not what the key signed.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}; `kerbwatch audit export` writes one") from error
    with file:
        head = _head(path, file)
        signed = read_note(head.checkpoint.encode(), key)
        faults: list[str] = []
        kept = list(_leaves(file, head, faults, signers, watch))
        root = root_around(kept, head.first, head.first + head.entries, signed.size, head.outside)
        faults += [] if faults or root == signed.root else [
            f"the entries are not those that the checkpoint over {signed.size} signs: one was changed, here or among those left out"
        ]  # fmt: skip
        for one in head.people:
            if root_of(leaf_hash(one.body), one.number, signed.size, one.proof) != signed.root:
                faults.append(f"audit entry {one.number}, in the head, is not in the log that the checkpoint signs")
            else:
                signers.learn(codec.decode(one.body, AUDIT, AuditEntry).event)
    others = read_notes(notes, key, faults)
    known = dict(roots(kept, {one.checkpoint.size for one in others})) if head.first == 0 else {}
    known[signed.size] = signed.root
    comparable = [one for one in others if one.checkpoint.size in known]
    agreed = [one for one in comparable if known[one.checkpoint.size] == one.checkpoint.root]
    faults += rewritten(agreed, [one for one in comparable if one not in agreed])
    return Copied(head, signed, 1 + len(agreed), tuple(faults))


def _head(path: Path, file: BinaryIO) -> Head:
    try:
        head = msgspec.json.decode(file.readline(_LONGEST_HEAD), type=Head)
    except msgspec.DecodeError:
        head = None
    if head is None or head.format != _FORMAT:
        raise BadInput(f"{path} is no copy of an audit log, or its first line was changed: `kerbwatch audit export` writes one")
    return head


def _leaves(file: BinaryIO, head: Head, faults: list[str], signers: Signers, watch: Watch) -> Iterator[bytes]:
    """The leaf of every entry in the file, as far as the lines are the ones that the head tells of."""
    expected = head.first
    while line := file.readline(_LONGEST_LINE):
        try:
            one = msgspec.json.decode(line, type=_Line)
        except msgspec.DecodeError:
            faults.append(f"line {expected - head.first + 2} should be audit entry {expected} and is none: it was changed")
            return
        if one.number != expected or expected >= head.first + head.entries:
            faults.append(f"line {expected - head.first + 2} is audit entry {one.number}: entries were left out, added or moved")
            return
        if leaf_hash(one.body) != one.leaf:
            faults.append(f"audit entry {one.number} is not the one that was written")
        signers.hear(one.number, one.body)
        yield one.leaf
        expected += 1
        watch(expected - head.first, head.entries)
    if expected < head.first + head.entries:
        faults.append(f"the file ends after audit entry {expected - 1}; its head promises {head.entries} entries")
