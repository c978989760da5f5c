"""Whitening: one reading's prediction from those before it, and how far off that was.

Decides what of a reading is news; refuses to judge the news. No topic feeds it.

A linear prediction from the last readings and from two running means, learned by recursive least squares. The short lags carry the
dependence that video has from frame to frame, the running means what a short autoregression cannot hold: seasons, slow weather. The
errors are standardised by the uncertainty of the weights as well ("recursive residuals"), so that a young baseline is not taken for
a change. What one reading may teach is clipped.

Source: Brown, Durbin, Evans 1975 (recursive residuals); Corsi 2009 (running means of several lengths as regressors).
"""

import math
from operator import mul
from typing import TypedDict

LAGS = 2
SPANS = (8.0, 64.0)  # readings that the running means look back
SIZE = 1 + LAGS + len(SPANS)
SHORT, LONG = 8.0, 32.0  # readings
MOODS = ((0.0, SHORT), (0.5, SHORT), (0.9, SHORT), (0.5, LONG), (0.9, LONG))
"""What the spread of the next error may follow: so much of the recent squares, over so many readings; the first is none."""
PREFERENCE = 8.0  # log likelihood by which another than the first must win
T5 = 5.0 * 0.8174**2  # of a Student t law with 5 degrees of freedom that has mean square 1 when clipped
CLIP = 3.0  # standard deviations
WIDEST = 50.0  # first spreads from the first centre; keeps the state bounded whatever comes
PRIOR = (100.0, 100.0, 100.0, 0.01, 0.003)
"""Variance of the weights before anything is known: the running means must show that they are needed."""


class Whitener(TypedDict):
    """The state, in first spreads from the first centre."""

    before: list[float]  # 1, the last readings (newest first), the running means: what the next reading is predicted from
    weights: list[float]  # one for each of `before`
    inverse: list[list[float]]  # inverse information matrix
    recent: list[float]  # running means of squared errors in standard deviations
    fits: list[float]  # log likelihood of each of MOODS
    mood: int  # the chosen one
    squares: float  # sum of squared clipped errors
    learned: int  # readings that it has learned from
    mean: float  # of the readings learned from
    scatter: float  # sum of squared distances from it


def start() -> Whitener:
    """Before the first reading."""
    return {
        "before": [1.0, *[0.0] * (SIZE - 1)],
        "weights": [0.0] * SIZE,
        "inverse": [[PRIOR[row] if row == column else 0.0 for column in range(SIZE)] for row in range(SIZE)],
        "recent": [1.0, 1.0],
        "fits": [PREFERENCE, *[0.0] * (len(MOODS) - 1)],
        "mood": 0,
        "squares": 1.0,  # one pretended error of one spread: the scale before anything is known
        "learned": 0,
        "mean": 0.0,
        "scatter": 0.0,
    }


def whiten(state: Whitener, reading: float, floor: float, *, learning: bool, choosing: bool = False) -> tuple[Whitener, float]:
    """Takes one reading in.

    Args:
        state: left untouched.
        reading: in first spreads from the first centre; what lies beyond WIDEST is taken for WIDEST.
        floor: the least standard deviation of prediction errors, in the same unit, above 0.
        learning: whether weights and scale learn from it.
        choosing: whether what the spread follows is still being chosen.

    Returns:
        The state afterwards and the prediction error in standard deviations, not clipped.
    """
    reading = max(-WIDEST, min(WIDEST, reading))
    before, weights, learned = state["before"], state["weights"], state["learned"]
    error = reading - sum(map(mul, weights, before))
    sigma = max(scale(state), floor)
    fast, slow = before[-2], before[-1]
    after: Whitener = {**state}
    after["before"] = [
        1.0,
        reading,
        *before[1:LAGS],
        fast + (reading - fast) / SPANS[0],
        slow + (reading - slow) / SPANS[1],
    ]
    short, long = state["recent"]
    share, span = MOODS[state["mood"]]
    now = math.sqrt(1.0 - share + share * (short if span < LONG else long))
    if not learning:
        strange = error / sigma
        square = min(strange * strange, CLIP * CLIP)
        after["recent"] = [short + (square - short) / SHORT, long + (square - long) / LONG]
        return after, strange / now
    pull = [sum(map(mul, row, before)) for row in state["inverse"]]
    widen = 1.0 + max(0.0, sum(map(mul, pull, before)))
    root = math.sqrt(widen)
    strange = error / (sigma * root)
    square = min(strange * strange, CLIP * CLIP)
    after["recent"] = [short + (square - short) / SHORT, long + (square - long) / LONG]
    if choosing:
        spreads = [1.0 - part + part * (short if span < LONG else long) for part, span in MOODS]
        after["fits"] = [
            fit - 0.5 * math.log(spread) - 3.0 * math.log1p(strange * strange / (T5 * spread))
            for fit, spread in zip(state["fits"], spreads, strict=True)
        ]
        after["mood"] = max(range(len(MOODS)), key=after["fits"].__getitem__)
    clipped = max(-CLIP, min(CLIP, strange)) * sigma
    step = clipped / root
    after["weights"] = [weight + step * part for weight, part in zip(weights, pull, strict=True)]
    after["inverse"] = [
        [old - scaled * part for old, part in zip(row, pull, strict=True)]
        for row, scaled in zip(state["inverse"], [part / widen for part in pull], strict=True)
    ]
    after["squares"] = state["squares"] + clipped * clipped
    after["learned"] = learned = learned + 1
    away = reading - state["mean"]
    after["mean"] = state["mean"] + away / learned
    after["scatter"] = state["scatter"] + away * (reading - after["mean"])
    return after, strange / now


def scale(state: Whitener) -> float:
    """Standard deviation of the prediction errors, in first spreads."""
    return math.sqrt(state["squares"] / (state["learned"] + 1))


def swing(state: Whitener) -> float:
    """Standard deviation of the readings in standard deviations of the prediction errors, 1 or more."""
    return max(1.0, math.sqrt(state["scatter"] / max(state["squares"], 1e-12)))


def answer(state: Whitener, ages: int) -> list[float]:
    """What prediction errors keep of a step by 1 of the level, so many readings after it: `ages` numbers, the first is 1."""
    weights = state["weights"]
    short, (fast, slow) = weights[1 : 1 + LAGS], weights[-2:]
    return [
        1.0 - sum(short[:age]) - fast * (1.0 - (1.0 - 1.0 / SPANS[0]) ** age) - slow * (1.0 - (1.0 - 1.0 / SPANS[1]) ** age)
        for age in range(ages)
    ]
