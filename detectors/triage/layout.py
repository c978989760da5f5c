"""A camera's place as its fingerprint tells it: the pattern of 8 x 8 cells of luminance, and how much each cell moves.

Decides how alike two patterns are, whatever the light, and whether a pattern is one of stripes; refuses to say what that means:
`causes.py` does. Topic: detections (through `lately.py`).

Means of 8 x 8 cells, their rows' and columns' own means and their spread taken out, keep their pattern in fog, rain and dusk, and
lose it when the camera looks elsewhere. Rows alone say little: a sky that darkens turns a road's picture upside down, and one
road's bands are another's. Cells are in 1/256 grey level, row by row; in a state they rest as base64 of float32.
"""

import base64

import numpy as np
from numpy.typing import NDArray

STILL = 2.0
"""Most change of a cell that stands still, in 1/256 grey level: rounding."""
_SIDE = 8
CELLS = _SIDE * _SIDE
"""Means of luminance in a fingerprint."""

Cells = NDArray[np.float32]
"""64 numbers, one a cell; none where nothing was measured."""


def told(fingerprint: bytes) -> Cells:
    """The cells of an event's fingerprint; none where it has another size."""
    return np.frombuffer(fingerprint, ">u2").astype(np.float32) if len(fingerprint) == 2 * CELLS else np.zeros(0, np.float32)


def packed(cells: Cells) -> str:
    """For a state."""
    return base64.b64encode(cells.astype("<f4").tobytes()).decode()


def unpacked(text: str) -> Cells:
    """From a state."""
    return np.frombuffer(base64.b64decode(text), "<f4")


def mixed(before: Cells, now: Cells, share: float) -> Cells:
    """A share of the newest added; the newest alone where there was none."""
    return before + np.float32(share) * (now - before) if len(before) == len(now) else now


def alike(a: Cells, b: Cells) -> float:
    """Correlation of what rows and columns leave of two patterns, -1..1: 1 where one is missing, 0 where one has no pattern."""
    if len(a) != CELLS or len(b) != CELLS:
        return 1.0
    a, b = _left(a), _left(b)
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > CELLS * STILL else 0.0


def _left(cells: Cells) -> Cells:
    """What the means of rows and columns do not explain."""
    grid = cells.reshape(_SIDE, _SIDE)
    return np.asarray(grid - grid.mean(axis=0) - grid.mean(axis=1, keepdims=True) + grid.mean(), np.float32).ravel()


def striped(cells: Cells) -> float:
    """Share of the pattern's variance that the means of its rows or of its columns explain, 0..1."""
    if len(cells) != CELLS:
        return 0.0
    grid = (cells - cells.sum() / CELLS).reshape(_SIDE, _SIDE)
    total = float((grid * grid).sum())
    down, across = grid.sum(axis=0), grid.sum(axis=1)
    return max(float(down @ down), float(across @ across)) / (_SIDE * total) if total > CELLS * STILL else 0.0
