"""Hash trees over a log's leaves: one root for all entries, and short proofs that entries are among them and that a log only grew.

It decides how hashes are paired (RFC 6962, section 2.1: the largest power of two goes left; an odd one moves up as it is). It
refuses nothing but an index outside the tree, and knows neither entries nor databases. Pure; no topic feeds it.

Source: RFC 6962 section 2.1 (trees, inclusion and consistency proofs), RFC 9162 sections 2.1.3.2 and 2.1.4.2 (how they are
verified).
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

    def consistency(self, size: int) -> tuple[bytes, ...]:
        """What proves that the tree over the first `size` leaves (1 to `self.size`) is the beginning of this one.

        Raises BrokenContract for any other size. Source: RFC 6962 section 2.1.2.
        """
        if not 0 < size <= self.size:
            raise BrokenContract(f"a log of {self.size} was never one of {size}")

        def path(low: int, high: int, *, known: bool) -> Iterator[bytes]:
            if high == size:
                if not known:
                    yield self._over(low, high)
            elif size <= (middle := _split(low, high)):
                yield from path(low, middle, known=known)
                yield self._over(middle, high)
            else:
                yield from path(middle, high, known=False)
                yield self._over(low, middle)

        return tuple(path(0, self.size, known=True))

    def outside(self, first: int, end: int) -> tuple[bytes, ...]:
        """The largest subtrees without a leaf of `first` to `end` - 1, left to right: what `root_around` needs besides those."""

        def walk(low: int, high: int) -> Iterator[bytes]:
            if high <= first or end <= low:
                yield self._over(low, high)
            elif low < first or end < high:
                middle = _split(low, high)
                yield from walk(low, middle)
                yield from walk(middle, high)

        return tuple(walk(0, self.size)) if self.size else ()

    def _over(self, low: int, high: int) -> bytes:
        """The hash over leaves `low` to `high` - 1, which are a subtree of this tree."""
        level = (high - low - 1).bit_length()
        return self._levels[level][low >> level]


def _split(low: int, high: int) -> int:
    """Where the right subtree begins: after the largest power of two that is less than the number of leaves."""
    return low + (1 << (high - low - 1).bit_length() - 1)


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


def consistent(old: tuple[int, bytes], new: tuple[int, bytes], proof: Sequence[bytes]) -> bool:
    """Whether the log that was (size, root) `new` began with the one that was `old`. Source: RFC 9162 section 2.1.4.2."""
    (old_size, old_root), (new_size, new_root) = old, new
    if old_size in {0, new_size}:
        return not proof and old_root == (Tree(()).root if old_size == 0 else new_root)
    if not 0 < old_size < new_size or not proof:
        return False
    path = iter(proof if old_size & (old_size - 1) else (old_root, *proof))
    at, last = old_size - 1, new_size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    found_old = found_new = next(path)
    for beside in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found_old, found_new = _node(beside, found_old), _node(beside, found_new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found_new = _node(found_new, beside)
        at, last = at >> 1, last >> 1
    return last == 0 and (found_old, found_new) == (old_root, new_root)


def root_around(leaves: Iterable[bytes], first: int, end: int, size: int, outside: Sequence[bytes]) -> bytes | None:
    """The root of a log of `size` that leaves `first` to `end` - 1 and `Tree.outside` lead to, read one by one.

    None where either are too few or too many.
    """
    if not 0 <= first < end <= size:
        return None
    inside, beside = iter(leaves), iter(outside)

    def walk(low: int, high: int) -> bytes:
        if high <= first or end <= low:
            return next(beside)
        if high - low == 1:
            return next(inside)
        middle = _split(low, high)
        left = walk(low, middle)
        return _node(left, walk(middle, high))

    try:
        root = walk(0, size)
    except StopIteration:
        return None
    return root if next(inside, None) is None and next(beside, None) is None else None


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
