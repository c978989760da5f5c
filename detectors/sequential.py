"""Sequential test: a small bank of likelihood ratios, one per kind of change, with one budget of false alarms between them.

Decides how much evidence scores have gathered against their calm law, and for what kind of change; refuses to know what the scores
are of. No topic feeds it.

Each arm bets on one change: the level up or down by one of three sizes, the spread up or down, a skew to either side, outliers.
Its sum follows R = (1 + R) L, L the likelihood ratio of this score (Shiryaev-Roberts). If L has mean 1 or less while all is calm,
the weighted mean of all sums reaches c not before c readings on average: the bank alarms at the declared run length itself, and
no arm needs a threshold of its own. What the bank pays for many arms is the logarithm of their number.

A step of the level shows in whitened readings as a jump first, and then as what the prediction does not follow. So an arm for the
level passes through three ages: the jump, the first readings after it, and ever after.

Source: Shin, Ramdas, Rinaldo 2022 (e-detectors: the guarantee); Roberts 1966; Pollak, Tartakovsky 2009 (Shiryaev-Roberts).
"""

import math
from collections.abc import Sequence
from functools import cache
from operator import mul

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln  # type: ignore[import-untyped] # ships no types

from detectors import laws

_Array = NDArray[np.float64]

SIZES = (0.5, 1.0, 2.0)
"""Steps of the level that the bank bets on, in standard deviations of the readings."""
EARLY = 16
"""Readings that an arm's second age lasts, on average."""
LEVELS = tuple((sign, size) for size in range(len(SIZES)) for sign in (1.0, -1.0))
FORMS = ("wider", "much wider", "narrower", "skewed up", "skewed down", "much skewed up", "much skewed down", "more outliers")
WORDS = tuple("up" if sign > 0 else "down" for sign, _ in LEVELS) + FORMS
WEIGHTS = (0.1,) * len(LEVELS) + (0.09, 0.09, 0.03, 0.04, 0.04, 0.04, 0.04, 0.03)
"""Shares of the budget; 1 together."""
ARMS = len(WEIGHTS)
_AGES = 3
_STEP, _REACH = 0.1, 12.0
_CELLS = int(2 * _REACH / _STEP) + 1

Shifts = list[list[float]]
"""For each of SIZES: how far scores move at the jump, early after it, and ever after."""


def shifts(swing: float, answer: Sequence[float]) -> Shifts:
    """How far scores move after a step of the level.

    Args:
        swing: standard deviation of the readings, in those of their prediction errors.
        answer: what the prediction errors keep of a step of 1, by age: the first is 1, the last is taken for ever after.
    """
    early = sum(answer[1:EARLY]) / (EARLY - 1)
    return [[size * swing, size * swing * early, size * swing * answer[-1]] for size in SIZES]


def start() -> list[float]:
    """All sums before the first score: three ages for each of LEVELS, then one for each of FORMS."""
    return [0.0] * (_AGES * len(LEVELS) + len(FORMS))


def add(sums: list[float], score: float, tail: int, moved: Shifts, excess: Sequence[float]) -> list[float]:
    """One score further.

    Args:
        sums: left untouched.
        score: follows the t law of number `tail` (`laws.TAILS`) while all is calm.
        tail: its number.
        moved: from `shifts`.
        excess: what likelihood ratios are divided by, from `excesses`: as `sums`, in order.
    """
    freedom, scale = laws.TAILS[tail], laws.SCALES[tail]
    wide = freedom * scale * scale
    power = (freedom + 1.0) / 2.0
    calm = wide + score * score
    after = []
    place = 0
    for jump, early, late in moved:
        for sign in (score, -score):
            far = sign - jump
            first = (calm / (wide + far * far)) ** power / excess[place]
            far = sign - early
            second = (calm / (wide + far * far)) ** power / excess[place + 1]
            far = sign - late
            third = (calm / (wide + far * far)) ** power / excess[place + 2]
            young = sums[place + 1]
            after += [
                first,
                (sums[place] + young * (1.0 - 1.0 / EARLY)) * second,
                (sums[place + 2] + young / EARLY) * third,
            ]
            place += _AGES
    row = _table(tail)[max(0, min(_CELLS - 1, round((score + _REACH) / _STEP)))]
    after += [(1.0 + total) * ratio / over for total, ratio, over in zip(sums[place:], row, excess[place:], strict=True)]
    return after


def arms(sums: list[float]) -> list[float]:
    """The evidence of each arm of WORDS, ages together, without its weight."""
    levels = _AGES * len(LEVELS)
    return [sum(sums[place : place + _AGES]) for place in range(0, levels, _AGES)] + sums[levels:]


def together(each: Sequence[float]) -> float:
    """The bank's evidence, from `arms`."""
    return sum(map(mul, each, WEIGHTS), 0.0)


def excesses(law: laws.Law, moved: Shifts) -> list[float]:
    """How far the mean of each likelihood ratio over the errors learned lies above 1; 1 where it does not.

    Likelihood ratios have mean 1 under a continuous law. Errors that repeat themselves, as counts and still pictures have, are no
    such law: what they would win for an arm by that alone is taken out.
    """
    total = max(1, law["seen"])
    tail = law["tail"]
    scores = np.array([laws.score(law, error) for error in law["errors"]])
    shares = np.array(law["counts"]) / total if law["seen"] else laws.density(tail, scores)
    shares = shares / shares.sum()
    calm = laws.density(tail, scores)
    ratios = [
        laws.density(tail, scores - sign * shift) / calm for size in range(len(SIZES)) for sign in (1, -1) for shift in moved[size]
    ]
    rows = np.array([_table(tail)[max(0, min(_CELLS - 1, round((score + _REACH) / _STEP)))] for score in scores]).T
    return [max(1.0, float(shares @ ratio)) for ratio in [*ratios, *rows]]


@cache
def _table(tail: int) -> list[tuple[float, ...]]:
    """The likelihood ratio of each of FORMS on a grid of scores, its mean exactly 1 under the t law."""
    grid = np.linspace(-_REACH, _REACH, _CELLS)
    calm = laws.density(tail, grid)
    shares = calm / calm.sum()

    def wider(by: float) -> _Array:
        return laws.density(tail, grid / by) / by

    def skewed(skew: float, sign: float) -> _Array:
        shape = 4.0 / skew**2
        x = shape + sign * grid * math.sqrt(shape)
        inside = np.maximum(x, 1e-300)
        return np.where(x > 0, np.exp((shape - 1) * np.log(inside) - inside - gammaln(shape)) * math.sqrt(shape), 0.0)

    changed = [
        wider(1.5), wider(2.4), wider(0.6),
        skewed(0.6, 1), skewed(0.6, -1), skewed(1.5, 1), skewed(1.5, -1),
        0.8 * calm + 0.2 * wider(4.0),
    ]  # fmt: skip
    ratios = []
    for density in changed:
        ratio = 0.98 * density / calm + 0.02
        ratios.append(ratio / (shares @ ratio))
    return [tuple(row) for row in np.array(ratios).T.tolist()]
