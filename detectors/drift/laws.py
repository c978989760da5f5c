"""Laws: what prediction errors look like while all is calm, learned, and each error's place in that.

Decides how unlikely a standardised prediction error is under the errors learned so far; refuses to assume that they are Gaussian.
No topic feeds it.

Counts over fixed cells, as many as the state may hold, with a Student t law for what has not been seen: its tail is chosen by
likelihood, and each cell further out is a share of the one before it, so that the far tail is never lighter than the t law only
because nothing has come by yet. An error becomes the reading that has the same mid-rank under that t law ("score"): whatever the
errors' law, scores follow a known one, and a likelihood ratio on them keeps its promise. Ties go to the middle of their rank: no
chance is needed.

Source: van der Waerden 1952 (normal scores), here for a Student t law; Ferguson 1974 (tail-free priors).
"""

import math
from bisect import bisect_right
from functools import cache
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped] # ships no types

_Array = NDArray[np.float64]

TAILS = (2.0, 3.0, 5.0, 10.0, 40.0)
"""Degrees of freedom to choose from; the last is Gaussian for all that can be told."""
SCALES = (0.5714, 0.7020, 0.8174, 0.9088, 0.9791)
"""Of each t law, so that errors clipped at 3 have a mean square of 1, as whitening leaves them (a test computes them anew)."""
_OUTWARD = (*(0.125 + 0.25 * step for step in range(10)), 3.0, 4.0, 6.0)
EDGES = (*(-edge for edge in reversed(_OUTWARD)), *_OUTWARD)
"""Between cells, in standard deviations; 0 is the middle of a cell, for a feature that never moves has all its errors there."""
SPAN = 32.0  # readings
CLIP = 3.0
CELLS = len(EDGES) + 1
TRUST = 20.0
"""Errors that the t law counts for, where it says how a cell's share follows from the one before it."""


class Law(TypedDict):
    """The state."""

    counts: list[int]  # errors in each cell
    sums: list[float]  # and their sum
    fits: list[float]  # log likelihood of each tail
    tail: int  # the chosen one
    errors: list[float]  # an error is mapped to a score linearly between these
    scores: list[float]
    seen: int
    recent: list[float]  # running means of scores, and of how far their squares are from the usual
    swings: list[float]  # sums of the squares of those
    spreads: list[float]  # sums of the squares of what goes into them
    square: float  # usual square of a score
    pace: list[float]  # what share of the evidence for a change of level, and of form, counts


def start() -> Law:
    """Before the first error: the lightest tail, errors are their own scores."""
    knots = [-1.0, 1.0]
    return {
        "counts": [0] * CELLS,
        "sums": [0.0] * CELLS,
        "fits": [0.0] * len(TAILS),
        "tail": len(TAILS) - 1,
        "errors": knots,
        "scores": list(knots),
        "seen": 0,
        "recent": [0.0, 0.0],
        "swings": [0.0, 0.0],
        "spreads": [0.0, 0.0],
        "square": 1.0,
        "pace": [1.0, 1.0],
    }


def learn(law: Law, error: float, score: float) -> Law:
    """One calm error more. The mapping stays as it is until `fit`."""
    error = max(-50.0, min(50.0, error))
    cell = bisect_right(EDGES, error)
    counts, sums = law["counts"].copy(), law["sums"].copy()
    counts[cell] += 1
    sums[cell] += error
    square = error * error
    fits = [
        fit + base - power * math.log1p(square * stretch) for fit, (base, power, stretch) in zip(law["fits"], _FITS, strict=True)
    ]
    seen = law["seen"] + 1
    level = max(-CLIP, min(CLIP, score))
    form = level * level - law["square"]
    (slow, wide), (swing, sway), (spread, width) = law["recent"], law["swings"], law["spreads"]
    slow += (level - slow) / SPAN
    wide += (form - wide) / SPAN
    return {
        **law,
        "counts": counts,
        "sums": sums,
        "fits": fits,
        "seen": seen,
        "recent": [slow, wide],
        "swings": [swing + slow * slow, sway + wide * wide],
        "spreads": [spread + level * level, width + form * form],
        "square": law["square"] + form / seen,
    }


def fit(law: Law, *, coarse: bool) -> Law:
    """Chooses the tail and lays the mapping anew over what has been learned.

    `coarse` says that errors are smaller than what counts: then their ranks mean nothing, and an error is its own score.
    """
    tail = len(TAILS) - 1 if coarse else max(range(len(TAILS)), key=law["fits"].__getitem__)
    cells, centres = _prior(tail)
    shares = _shares(law["counts"], cells)
    below = np.cumsum(shares) - shares
    middles = np.clip(below + shares / 2, 1e-300, 1.0)
    above = shares / 2 + (np.cumsum(shares[::-1])[::-1] - shares)
    # The smaller side carries the digits.
    scores = np.where(middles < 0.5, stdtrit(TAILS[tail], middles), -stdtrit(TAILS[tail], np.maximum(above, 1e-300)))  # noqa: PLR2004
    counts = np.array(law["counts"])
    errors = (np.array(law["sums"]) + cells * TRUST * centres) / (counts + cells * TRUST)
    scores = errors if coarse else scores * SCALES[tail]
    return {**law, "tail": tail, "errors": errors.tolist(), "scores": scores.tolist(), "pace": _pace(law)}


def _pace(law: Law) -> list[float]:
    """What share of the evidence counts, for level and form: what dependence is left makes a running mean swing wider.

    A sum of dependent scores varies by this much more than one of independent ones, so a likelihood ratio that takes them for
    independent is that much too sure (long-run variance). What chance does in so short a time is forgiven.
    """
    chance = 1.0 + 2.0 * math.sqrt(2.0 * SPAN / max(law["seen"], 1))
    return [
        min(1.0, chance * spread / (swing * (2.0 * SPAN - 1.0))) if swing > 0.0 else 1.0
        for swing, spread in zip(law["swings"], law["spreads"], strict=True)
    ]


def score(law: Law, error: float) -> float:
    """The reading of the chosen t law (times its scale) that lies where `error` lies among the errors learned."""
    errors, scores = law["errors"], law["scores"]
    if error <= errors[0]:
        return scores[0] * error / errors[0]
    if error >= errors[-1]:
        return scores[-1] * error / errors[-1]
    right = bisect_right(errors, error)
    low, high = errors[right - 1], errors[right]
    part = (error - low) / (high - low)
    return scores[right - 1] + part * (scores[right] - scores[right - 1])


def _shares(counts: list[int], cells: _Array) -> _Array:
    """Each cell's probability: from the middle outward, on either side, each cell's share of what is left."""
    total = sum(counts)
    middle = CELLS // 2
    shares = np.zeros(CELLS)
    shares[middle] = (counts[middle] + TRUST * cells[middle]) / (total + TRUST)
    left, right = sum(counts[:middle]), sum(counts[middle + 1 :])
    rest = 1.0 - shares[middle]
    upper = rest * (right + TRUST / 2) / (left + right + TRUST)
    for mass, seen, prior, order in (
        (upper, right, 0.5 - cells[middle] / 2, range(middle + 1, CELLS)),
        (rest - upper, left, 0.5 - cells[middle] / 2, range(middle - 1, -1, -1)),
    ):
        for cell in order:
            share = (counts[cell] + TRUST * cells[cell] / prior) / (seen + TRUST) if cell not in {0, CELLS - 1} else 1.0
            shares[cell] = mass * share
            mass, seen, prior = mass * (1.0 - share), seen - counts[cell], prior - cells[cell]  # noqa: PLW2901 - what is left
    return shares


@cache
def _prior(tail: int) -> tuple[_Array, _Array]:
    """Each cell's probability and mean under a t law."""
    freedom, scale = TAILS[tail], SCALES[tail]
    edges = np.array(EDGES) / scale
    cdf = np.concatenate([[0.0], stdtr(freedom, edges), [1.0]])
    cells = np.diff(cdf)
    cells = (cells + cells[::-1]) / 2

    def moment(x: _Array) -> _Array:
        # The integral of x f(x) is -(v + x^2) / (v - 1) f(x).
        result: _Array = -(freedom + x * x) / (freedom - 1.0) * density(tail, x * scale) * scale
        return result

    parts = np.concatenate([[0.0], moment(edges), [0.0]])
    return cells, np.diff(parts) * scale / cells


def density(tail: int, x: _Array) -> _Array:
    """Density of the chosen t law times its scale."""
    base, power, stretch = _FITS[tail]
    logarithm: _Array = base - power * np.log1p(x * x * stretch)
    return np.exp(logarithm)


def _terms(freedom: float, scale: float) -> tuple[float, float, float]:
    """Log density = base - power * log(1 + x^2 * stretch)."""
    base = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi) - math.log(scale)
    return base, (freedom + 1) / 2, 1.0 / (freedom * scale * scale)


_FITS = tuple(_terms(freedom, scale) for freedom, scale in zip(TAILS, SCALES, strict=True))
