"""Sequential test: a small bank of likelihood ratios, one per kind of change, with one budget of false alarms between them.

Decides how much evidence scores have gathered against their calm law, and for what kind of change; refuses to know what the scores
are of. No topic feeds it.

Each arm bets on one change: the level up or down by one of three sizes, the spread up or down, a skew to either side.
Its sum follows R = (1 + R) L, L the likelihood ratio of this score (Shiryaev-Roberts). If L has mean 1 or less while all is calm,
the weighted mean of all sums reaches c not before c readings on average: the bank alarms at the declared run length itself, and
no arm needs a threshold of its own. What an arm with a share w of the budget pays is log(1/w), so small changes, which take long
anyway and need little evidence for each reading of it, get the larger shares.

A step of the level shows in whitened readings as a jump first, and then as what the prediction does not follow. So an arm for the
level passes through three ages: the jump, the first readings after it, and ever after.

Source: Shin, Ramdas, Rinaldo 2022 (e-detectors: the guarantee); Roberts 1966; Pollak, Tartakovsky 2009 (Shiryaev-Roberts).
"""

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln  # type: ignore[import-untyped] # ships no types

from detectors.drift import laws

_Array = NDArray[np.float64]

SIZES = (0.5, 1.0, 2.0)
"""Steps of the level that the bank bets on, in standard deviations of the readings."""
EARLY = 16
"""Readings that an arm's second age lasts, on average."""
LEVELS = tuple((sign, size) for size in range(len(SIZES)) for sign in (1.0, -1.0))
SPREADS = (("wider", 1.5), ("much wider", 2.4), ("narrower", 0.6))
"""Spreads that it bets on, in those of the errors."""
SKEWS = (
    ("skewed up", 0.5),
    ("skewed down", -0.5),
    ("more skewed up", 1.0),
    ("more skewed down", -1.0),
    ("far skewed up", 2.0),
    ("far skewed down", -2.0),
)
"""Skews: of a gamma law of the same mean and spread."""
FORMS = tuple(word for word, _ in SPREADS + SKEWS)
WORDS = tuple("up" if sign > 0 else "down" for sign, _ in LEVELS) + FORMS
_LEAST = 0.02  # nats a reading: what is told by its jump, or not at all, is no reason to take the budget from all else
_AGES = 3
_STEP, _REACH = 0.1, 12.0
_SPREAD_OF_HEAVIEST = 1.4
_BLUR = 0.15
_CELLS = int(2 * _REACH / _STEP) + 1


class Bets(TypedDict):
    """What the arms bet on while one baseline holds: part of the state."""

    tail: int  # number of the t law that scores follow while all is calm (`laws.TAILS`)
    moved: list[list[float]]  # for each of SIZES: how far scores move at the jump, early after it, and ever after
    excess: list[float]  # what likelihood ratios are divided by, in the order of the sums
    pace: list[float]  # what share of the evidence counts, for level and form (`laws.fit`)
    information: list[float]  # nats that a score gives for each of LEVELS and of FORMS, where it has come


def bets(law: laws.Law, swing: float, answer: Sequence[float], *, coarse: bool) -> Bets:
    """The bets that fit a baseline.

    Args:
        law: the errors' law, fitted.
        swing: standard deviation of the readings, in those of their prediction errors.
        answer: what the prediction errors keep of a step of 1, by age: the first is 1, the last is taken for ever after.
        coarse: whether errors are smaller than what counts; then nothing is betted on smaller ones.
    """
    early, late = max(0.0, sum(answer[1:EARLY]) / (EARLY - 1)), max(0.0, answer[-1])
    moved = [[size * swing, size * swing * early, size * swing * late] for size in SIZES]
    excess = _excess(law, moved)
    if coarse:
        column = next(number for number, (_, by) in enumerate(SPREADS) if by < 1.0)
        excess[_AGES * len(LEVELS) + column] = max(row[column] for row in _table(law["tail"]))
    told = [*(_of_level(law["tail"], late) for *_, late in moved for _ in (1, -1)), *_of_forms(law["tail"])]
    return {"tail": law["tail"], "moved": moved, "excess": excess, "pace": law["pace"], "information": told}


@lru_cache(maxsize=1_024)
def shares(information: tuple[float, ...], run_length: float) -> tuple[float, ...]:
    """Shares of a budget that make every change's delay the same multiple of what it takes to tell that change alone.

    A share w costs log(1/w) nats where the change alone takes about log(A I), I the nats that a reading gives and A the run length.
    The multiple r is the same for all if w = (A I)^(1 - r), and r is where they are 1 together.
    """
    needed = np.log(np.maximum(run_length * np.maximum(np.array(information), _LEAST), math.e))
    low, high = 0.0, 10.0
    for _ in range(40):
        middle = (low + high) / 2.0
        low, high = (middle, high) if np.exp(-middle * needed).sum() > 1.0 else (low, middle)
    weights = np.exp(-high * needed)
    return tuple((weights / weights.sum()).tolist())


def start() -> list[float]:
    """All sums before the first score, weighed: three ages for each of LEVELS, then one for each of FORMS."""
    return [0.0] * (_AGES * len(LEVELS) + len(FORMS))


def add(sums: list[float], score: float, bets: Bets, run_length: float) -> list[float]:
    """The sums one score further, for so many scores between two false alarms; `sums` is left untouched."""
    tail, excess = bets["tail"], bets["excess"]
    on_level, on_form = bets["pace"]
    freedom, scale = laws.TAILS[tail], laws.SCALES[tail]
    wide = freedom * scale * scale
    power = (freedom + 1.0) / 2.0 * on_level
    calm = wide + score * score
    after = []
    place = 0
    weights = shares(tuple(bets["information"]), run_length)
    for (jump, early, late), weight in zip(bets["moved"], weights[: len(LEVELS) : 2], strict=True):
        for sign in (score, -score):
            far = sign - jump
            first = weight * (calm / (wide + far * far)) ** power / excess[place]
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
    row = _row(tail, score)
    if on_form < 1.0:
        row = tuple([ratio**on_form for ratio in row])
    after += [
        (weight + total) * ratio / over
        for weight, total, ratio, over in zip(weights[len(LEVELS) :], sums[place:], row, excess[place:], strict=True)
    ]
    return after


def leading(sums: Sequence[float]) -> str:
    """What kind of change the evidence speaks for most: one of WORDS."""
    levels = _AGES * len(LEVELS)
    arms = [*(sum(sums[place : place + _AGES]) for place in range(0, levels, _AGES)), *sums[levels:]]
    return WORDS[arms.index(max(arms))]


def _excess(law: laws.Law, moved: list[list[float]]) -> list[float]:
    """How far the mean of each likelihood ratio over the errors learned lies above 1; 1 where it does not.

    Likelihood ratios have mean 1 under a continuous law. Errors that repeat themselves, as counts and still pictures have, are no
    such law: what they would win for an arm by that alone is taken out. The level of errors is known to a standard error only, and
    many equal ones all move with it: of a form the highest mean within that is taken out. A smooth law hardly notices.
    """
    total = max(1, sum(law["counts"]))
    tail = law["tail"]

    def around(moves: float) -> tuple[_Array, _Array]:
        scores = np.array([laws.score(law, error + moves) for error in law["errors"]])
        shares = np.array(law["counts"]) / total if any(law["counts"]) else laws.density(tail, scores)
        return scores, shares / shares.sum()

    scores, shares = around(0.0)
    calm = laws.density(tail, scores)
    ratios = [
        laws.density(tail, scores - sign * shift) / calm for size in range(len(SIZES)) for sign in (1, -1) for shift in moved[size]
    ]
    forms = []
    for part in (-1.0, -0.5, 0.0, 0.5, 1.0):
        scores, weights = around(part / math.sqrt(total))
        forms.append(weights @ np.array([_row(tail, score) for score in scores.tolist()]))
    return [max(1.0, mean) for mean in [*(float(shares @ ratio) for ratio in ratios), *np.max(forms, axis=0).tolist()]]


def _row(tail: int, score: float) -> tuple[float, ...]:
    """The likelihood ratio of each of FORMS at a score."""
    return _table(tail)[max(0, min(_CELLS - 1, round((score + _REACH) / _STEP)))]


@cache
def _table(tail: int) -> list[tuple[float, ...]]:
    """The likelihood ratio of each of FORMS on a grid of scores, its mean exactly 1 under the t law."""
    grid = np.linspace(-_REACH, _REACH, _CELLS)
    calm = laws.density(tail, grid)
    weights = calm / calm.sum()
    freedom = laws.TAILS[tail]
    # A t law of 2 degrees of freedom has no spread; one that is clipped far out has about this one.
    spread = laws.SCALES[tail] * math.sqrt(freedom / (freedom - 2.0)) if freedom > 2.0 else _SPREAD_OF_HEAVIEST  # noqa: PLR2004 - see above
    blur = np.exp(-0.5 * ((grid[:, None] - grid[None, :]) / _BLUR) ** 2)
    blur /= blur.sum(axis=1, keepdims=True)

    def wider(by: float) -> _Array:
        return laws.density(tail, grid / by) / by

    def skewed(skew: float) -> _Array:
        shape = 4.0 / skew**2
        x = shape + math.copysign(1.0, skew) * grid / spread * math.sqrt(shape)
        inside = np.maximum(x, 1e-300)
        # Laws are learned in cells: a density with an edge is blurred to their width, or they would win by it.
        sharp = np.exp((shape - 1) * np.log(inside) - inside - gammaln(shape)) * math.sqrt(shape) / spread
        blurred: _Array = blur @ np.where(x > 0, sharp, 0.0)
        return blurred

    changed = [wider(by) for _, by in SPREADS] + [skewed(skew) for _, skew in SKEWS]
    ratios = []
    for density in changed:
        ratio = 0.98 * density / calm + 0.02
        ratios.append(ratio / (weights @ ratio))
    return [tuple(row) for row in np.array(ratios).T.tolist()]


@cache
def _of_forms(tail: int) -> tuple[float, ...]:
    """Nats that a score gives for each of FORMS where it has come."""
    ratios, calm = np.array(_table(tail)), laws.density(tail, np.linspace(-_REACH, _REACH, _CELLS))
    return tuple(((calm / calm.sum())[:, None] * ratios * np.log(ratios)).sum(axis=0).tolist())


def _of_level(tail: int, moved: float) -> float:
    """Nats that a score gives for a level that has moved so far."""
    grid = np.linspace(-_REACH, _REACH, _CELLS)
    changed = laws.density(tail, grid - moved)
    return float((changed / changed.sum()) @ np.log(changed / laws.density(tail, grid)))
