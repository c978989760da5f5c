"""What returns in a data set: the same picture twice, or the same small patch in many pictures (a backdoor's trigger).

It decides when two pictures are one (perceptual hash, then the thumbnails), and when a patch returns in too many places to be
chance: exact 6 x 6 windows of strong contrast. It refuses to call a scene's own background a trigger: the same window at the same
place of like pictures counts once. Triggers that are blended, or of another size each time, are not found. No topic feeds it.

Source: BadNets (Gu et al. 2017) for fixed patches; difference hash (Krawetz 2013); Rabin-Karp for hashes of windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.training.samples import Sample
from streams.sources.base import Picture

_SIDE = 16  # of the difference hash: 256 bits
_THUMB = 64
_ALIKE_BITS, _SAME_LEVELS, _SAME_MOST = 12, 1.5, 16  # of two pictures that are one
_LIKE_BITS = 80  # of two pictures of one scene
_WINDOW = 6
_CONTRAST = 40.0  # deviation of a window's luma, in levels: a trigger wants to be seen, a background mostly does not
_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9))
_ASIDE = 4  # windows this near to each other are at one place, px


@dataclass(frozen=True)
class Repeated:
    """`sample` is the place in the sequence; score 0..1."""

    sample: int
    reason: str
    score: float


def doubles(samples: Sequence[Sample]) -> list[Repeated]:
    """Pictures that are there before in the sequence, re-encoded or a little changed perhaps."""
    hashes = _hashes(samples)
    thumbs = [cv2.resize(_grey(one.picture), (_THUMB, _THUMB), interpolation=cv2.INTER_AREA).astype(np.int16) for one in samples]
    found = []
    for at in range(1, len(samples)):
        near = np.flatnonzero((hashes[:at] != hashes[at]).sum(1) <= _ALIKE_BITS)
        for before in near:
            apart = np.abs(thumbs[at] - thumbs[before])
            if apart.mean() <= _SAME_LEVELS and apart.max() <= _SAME_MOST:
                other = "" if samples[at].people == samples[before].people else ", with other labels"
                score = 1.0 - float(apart.mean()) / (2 * _SAME_LEVELS)
                found.append(Repeated(at, f"the same picture as {samples[before].origin}/{samples[before].name}{other}", score))
                break
    return found


def recurring(samples: Sequence[Sample], places: int) -> list[Repeated]:
    """Pictures in which a patch stands that also stands at `places` or more places elsewhere, this one counted."""
    if not samples:
        return []
    scenes = _scenes(_hashes(samples))
    parts = [_windows(one.picture) for one in samples]
    keys = np.concatenate([part[0] for part in parts])
    owner = np.repeat(np.arange(len(samples)), [len(part[0]) for part in parts])
    spots = np.concatenate([part[1] for part in parts])
    _, where, number = np.unique(keys, return_inverse=True, return_counts=True)
    often = number[where] >= places
    found: dict[int, tuple[int, tuple[int, int]]] = {}
    order = np.flatnonzero(often)[np.argsort(where[often], kind="stable")]
    for group in np.split(order, np.flatnonzero(np.diff(where[order])) + 1) if len(order) else []:
        distinct = {(int(scenes[owner[at]]), *(int(part) for part in spots[at] // _ASIDE)) for at in group}
        if len(distinct) >= places and len({int(owner[at]) for at in group}) > 1:
            for at in group:
                known = found.get(int(owner[at]), (0, (0, 0)))
                found[int(owner[at])] = max(known, (len(distinct), (int(spots[at][1]), int(spots[at][0]))))
    return [
        Repeated(at, f"the patch at {x}, {y} stands in {count} places of the data", 1.0 - 1.0 / count)
        for at, (count, (x, y)) in sorted(found.items())
    ]


def _grey(picture: Picture) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def _hashes(samples: Sequence[Sample]) -> NDArray[np.bool_]:
    """N x 256 bits: whether each cell is lighter than its left neighbour."""
    small = [cv2.resize(_grey(one.picture), (_SIDE + 1, _SIDE), interpolation=cv2.INTER_AREA).astype(np.int16) for one in samples]
    return np.stack([(one[:, 1:] > one[:, :-1]).ravel() for one in small])


def _scenes(hashes: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Which scene each picture is of: that of the first picture before it that is like it."""
    scene = np.arange(len(hashes))
    for at in range(1, len(hashes)):
        like = np.flatnonzero((hashes[:at] != hashes[at]).sum(1) <= _LIKE_BITS)
        if len(like):
            scene[at] = scene[like[0]]
    return scene


def _windows(picture: Picture) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of a picture's windows of strong contrast, each once, and where (row, column) the first of each is."""
    grey = _grey(picture)
    height, width = grey.shape
    if height < _WINDOW or width < _WINDOW:
        return np.zeros(0, np.uint64), np.zeros((0, 2), np.int64)
    plane = grey.astype(np.float32)
    kernel = (_WINDOW, _WINDOW)
    mean = cv2.boxFilter(plane, -1, kernel, anchor=(0, 0))
    square = cv2.sqrBoxFilter(plane, cv2.CV_32F, kernel, anchor=(0, 0))
    strong = (square - mean**2 > _CONTRAST**2)[: height - _WINDOW + 1, : width - _WINDOW + 1]
    rows, columns = np.nonzero(strong)
    if not len(rows):
        return np.zeros(0, np.uint64), np.zeros((0, 2), np.int64)
    colour = picture.astype(np.uint64)
    mixed = colour[..., 0] * _FACTORS[0] + colour[..., 1] * _FACTORS[1] + colour[..., 2] * _FACTORS[2]
    mixed ^= mixed >> np.uint64(29)
    key = np.zeros(len(rows), np.uint64)
    for down in range(_WINDOW):
        for across in range(_WINDOW):  # arithmetic wraps at 2^64, as a hash may
            key = key * np.uint64(0x100000001B3) + mixed[rows + down, columns + across]
    unique, first = np.unique(key, return_index=True)
    return unique, np.stack([rows[first], columns[first]], 1)
