"""Proofs about the audit log as files that anybody checks offline: that an entry is in it, and that it only ever grew.

It decides how a proof is written and whether one holds: inclusion as C2SP tlog-proof (the entry's bytes in `extra`), consistency
as the request that C2SP tlog-witness defines (`old SIZE`, hashes, checkpoint), so that other tools of those formats read both. It
refuses a file that says the same in other bytes, and one that is larger than any proof. No topic feeds it.

Source: https://c2sp.org/tlog-proof, https://c2sp.org/tlog-witness (add-checkpoint), RFC 6962 section 2.1, paper SC-10.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from infra.checkpoints import Checkpoint, read_note
from infra.merkle import consistent, leaf_hash, root_of
from streams.errors import BadInput, Tampered

LARGEST_BYTES = 1 << 22
"""A proof larger than this is refused: an entry and 64 hashes are far less."""
_INCLUSION = "c2sp.org/tlog-proof@v1"
_MOST_HASHES = 63


@dataclass(frozen=True)
class Inclusion:
    """That `body` is entry `index` (from 0) of the log that the checkpoint `note` signs; `path` from the leaf up, 32 bytes each."""

    body: bytes
    index: int
    path: tuple[bytes, ...]
    note: bytes

    def check(self, key: Ed25519PublicKey) -> Checkpoint:
        """The checkpoint that has the entry. Raises Tampered if entry, place, path or note is not what the key signed."""
        signed = read_note(self.note, key)
        if root_of(leaf_hash(self.body), self.index, signed.size, self.path) != signed.root:
            raise Tampered(
                f"the proof does not hold: the log of {signed.size} entries that was signed has another entry at {self.index}; "
                "ask for a new proof (`kerbwatch audit prove`)"
            )
        return signed


@dataclass(frozen=True)
class Consistency:
    """That the log of `size` entries is the beginning of the one that the checkpoint `note` signs; `path` as RFC 6962 orders it."""

    size: int
    path: tuple[bytes, ...]
    note: bytes

    def check(self, old: Checkpoint, key: Ed25519PublicKey) -> Checkpoint:
        """The newer checkpoint, if the log grew from `old` to it. Raises Tampered if it did not, or the note is not the key's."""
        signed = read_note(self.note, key)
        if old.size != self.size:
            raise BadInput(
                f"the proof begins at {self.size} entries, the checkpoint given signs {old.size}: give the one of that size"
            )
        if not consistent((old.size, old.root), (signed.size, signed.root), self.path):
            raise Tampered(
                f"the log of {signed.size} entries did not grow from the one of {old.size} that was signed: history was rewritten; "
                "keep both checkpoints and this proof"
            )
        return signed


def write_proof(proof: Inclusion | Consistency) -> bytes:
    """The proof as text; the same proof gives the same bytes."""
    if isinstance(proof, Inclusion):
        head = [_INCLUSION, f"extra {base64.b64encode(proof.body).decode()}", f"index {proof.index}"]
    else:
        head = [f"old {proof.size}"]
    lines = [*head, *(base64.b64encode(one).decode() for one in proof.path), "", ""]
    return "\n".join(lines).encode() + proof.note


def read_proof(data: bytes) -> Inclusion | Consistency:
    """The proof out of its text; nothing of it is checked yet. Raises BadInput for what is none."""
    try:
        if len(data) > LARGEST_BYTES:
            raise ValueError  # noqa: TRY301 - every fault gets the one message below
        head, empty, note = data.partition(b"\n\n")
        first, *rest = head.decode("ascii").split("\n")
        found: Inclusion | Consistency
        if first == _INCLUSION:
            extra, index, *path = rest
            body = base64.b64decode(extra.removeprefix("extra "), validate=True)
            found = Inclusion(body, int(index.removeprefix("index ")), _hashes(path), note)
        else:
            found = Consistency(int(first.removeprefix("old ")), _hashes(rest), note)
        if not empty or write_proof(found) != data:
            raise ValueError  # noqa: TRY301 - as above
    except (ValueError, binascii.Error) as error:
        raise BadInput("this is no proof of ours: `kerbwatch audit prove` writes one") from error
    return found


def _hashes(lines: Sequence[str]) -> tuple[bytes, ...]:
    found = tuple(base64.b64decode(line, validate=True) for line in lines)
    if len(found) > _MOST_HASHES or any(len(one) != len(leaf_hash(b"")) for one in found):
        raise ValueError
    return found
