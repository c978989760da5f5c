"""Hash trees over a log's leaves: one root for all entries, and short proofs that one entry is among them.

It decides how hashes are paired (RFC 6962, section 2.1: the largest power of two goes left; an odd one moves up as it is). It
refuses nothing but an index outside the tree, and knows neither entries nor databases. Pure; no topic feeds it.

Source: RFC 6962 section 2.1, RFC 9162 section 2.1.3 (inclusion proofs and how they are verified).
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import reduce

from streams.errors import BrokenContract


def leaf_hash(body: bytes) -> bytes:
    """SHA-256 of 0x00 and the entry's bytes, 32 bytes."""
    return hashlib.sha256(b"\0" + body).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


class Tree:
    """The tree over leaf hashes (32 bytes each), in the log's order."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self._levels = [list(leaves)]
        while len(below := self._levels[-1]) > 1:
            above = [_node(*below[at : at + 2]) for at in range(0, len(below) - 1, 2)]
            self._levels.append(above + below[len(below) & ~1 :])

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return len(self._levels[0])

    @property
    def root(self) -> bytes:
        """The hash over all, 32 bytes; that of nothing for an empty log."""
        return self._levels[-1][0] if self.size else hashlib.sha256().digest()

    def proof(self, index: int) -> tuple[bytes, ...]:
        """What `root_of` needs besides the leaf at `index` (from 0). Raises BrokenContract outside the tree."""
        if not 0 <= index < self.size:
            raise BrokenContract(f"leaf {index} is not in a log of {self.size}")
        path = []
        for level in self._levels[:-1]:
            if (beside := index ^ 1) < len(level):
                path.append(level[beside])
            index >>= 1
        return tuple(path)


def root_of(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """The root that a leaf and its proof lead to; None where the proof has not the length that index and size ask for."""
    if not 0 <= index < size:
        return None
    found, last, path = leaf, size - 1, iter(proof)
    for beside in path:
        if last == 0:
            return None
        if index & 1 or index == last:
            found = _node(beside, found)
            while not index & 1 and index:  # moved up as it was
                index, last = index >> 1, last >> 1
        else:
            found = _node(found, beside)
        index, last = index >> 1, last >> 1
    return found if last == 0 else None


def roots(leaves: Iterable[bytes], sizes: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """The root at each of `sizes` that the log reaches, in one pass with little memory, as (size, root)."""
    peaks: list[tuple[int, bytes]] = []  # whole subtrees from left to right, as (leaves, hash)
    if 0 in sizes:
        yield 0, Tree(()).root
    for size, leaf in enumerate(leaves, 1):
        peaks.append((1, leaf))
        while len(peaks) > 1 and peaks[-2][0] == peaks[-1][0]:
            (count, right), (_, left) = peaks.pop(), peaks.pop()
            peaks.append((2 * count, _node(left, right)))
        if size in sizes:
            yield size, reduce(lambda right, left: _node(left, right), [peak for _, peak in reversed(peaks)])
