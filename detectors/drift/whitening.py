"""Whitening: one reading's prediction from those before it, and how far off that was.

Decides what of a reading is news; refuses to judge the news. No topic feeds it.

A linear prediction from the last readings, from two running means and from a season's wave, learned by recursive least squares.
The short lags carry the dependence that video has from frame to frame, the running means what a short autoregression cannot hold,
such as slow weather. Running means and wave are there only where they are needed (`seasons.py`): what follows the level follows a
step of the level too. The errors are standardised by the uncertainty of the weights as well ("recursive residuals"), so that a
young baseline is not taken for a change. What one reading may teach is clipped.

The wave's frequency is learned with the weights (extended Kalman filter), from an age that is taken back by a period whenever one
has passed, so that numbers stay small for years. When the rest of the baseline rests the wave goes on being followed with the gain
that it has by then: no clock is exact for ever.

Source: Brown, Durbin, Evans 1975 (recursive residuals); Corsi 2009 (running means of several lengths as regressors); La Scala,
Bitmead 1996 (a frequency tracked by an extended Kalman filter).
"""

import cmath
import math
from operator import mul
from typing import TypedDict

LAGS = 2
SPANS = (8.0, 64.0)  # readings that the running means look back
SIZE = 1 + LAGS + len(SPANS)
SLOWEST = 1e-3  # radians a reading; keeps ages small
SHORTEST = 1 + LAGS  # regressors where running means are not needed
SHORT, LONG = 8.0, 32.0  # readings
MOODS = ((0.0, SHORT), (0.5, SHORT), (0.9, SHORT), (0.5, LONG), (0.9, LONG))
"""What the spread of the next error may follow: so much of the recent squares, over so many readings; the first is none."""
PREFERENCE = 8.0  # log likelihood by which another than the first must win
T5 = 5.0 * 0.8174**2  # of a Student t law with 5 degrees of freedom that has mean square 1 when clipped
CLIP = 3.0  # standard deviations
WIDEST = 50.0  # first spreads from the first centre; keeps the state bounded whatever comes
PRIOR = (100.0, 1.0, 1.0, 0.01, 0.003)
"""Variance of the weights before anything is known: lags weigh 2 at most, the running means must show that they are needed."""


class Whitener(TypedDict):
    """The state, in first spreads from the first centre."""

    before: list[float]  # 1, the last readings (newest first), the running means: what the next reading is predicted from
    order: int  # how many of `before` are used: SHORTEST or SIZE
    season: list[float]  # the wave's radians a reading, and its age in readings; empty where there is none
    weights: list[float]  # one for each of `before` that is used, and two for the wave
    inverse: list[list[float]]  # inverse information matrix of the weights and of the radians
    recent: list[float]  # running means of squared errors in standard deviations
    fits: list[float]  # log likelihood of each of MOODS
    mood: int  # the chosen one
    squares: float  # sum of squared clipped errors
    learned: int  # readings that it has learned from
    mean: float  # of the readings learned from
    scatter: float  # sum of squared distances from it


def start(order: int = SIZE, radians: float = 0.0, doubt: float = 0.0) -> Whitener:
    """Before the first reading.

    Args:
        order: SHORTEST, or SIZE for running means as well.
        radians: of the season's wave a reading, 0 without one.
        doubt: standard deviation of that.
    """
    prior = [*PRIOR[:order], *((1.0, 1.0, doubt * doubt) if radians else ())]
    size = len(prior)
    return {
        "before": [1.0, *[0.0] * (SIZE - 1)],
        "order": order,
        "season": [radians, 0.0] if radians else [],
        "weights": [0.0] * (order + 2 if radians else order),
        "inverse": [[prior[row] if row == column else 0.0 for column in range(size)] for row in range(size)],
        "recent": [1.0, 1.0],
        "fits": [PREFERENCE, *[0.0] * (len(MOODS) - 1)],
        "mood": 0,
        "squares": 1.0,  # one pretended error of one spread: the scale before anything is known
        "learned": 0,
        "mean": 0.0,
        "scatter": 0.0,
    }


def whiten(
    state: Whitener, reading: float, floor: float, *, learning: bool, choosing: bool = False, following: bool = False
) -> tuple[Whitener, float]:
    """Takes one reading in.

    Args:
        state: left untouched.
        reading: in first spreads from the first centre; what lies beyond WIDEST is taken for WIDEST.
        floor: the least standard deviation of prediction errors, in the same unit, above 0.
        learning: whether weights and scale learn from it.
        choosing: whether what the spread follows is still being chosen.
        following: whether the wave is followed although nothing else learns.

    Returns:
        The state afterwards and the prediction error in standard deviations, not clipped.
    """
    reading = max(-WIDEST, min(WIDEST, reading))
    before, weights, learned = state["before"], state["weights"], state["learned"]
    shown = _shown(state) if state["season"] else before
    error = reading - sum(map(mul, weights, shown))
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
        if state["season"]:
            _follow(after, shown, max(-CLIP, min(CLIP, strange)) * sigma if following else 0.0)
        return after, strange / now
    pull = [sum(map(mul, row, shown)) for row in state["inverse"]]
    widen = 1.0 + max(0.0, sum(map(mul, pull, shown)))
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
    taught = min(1.0, CLIP / abs(strange)) / widen if strange else 1.0 / widen  # what is clipped tells less
    # The last pull is on the wave's radians, which are no weight.
    after["weights"] = [weight + step * part for weight, part in zip(weights, pull, strict=False)]
    after["inverse"] = [
        [old - scaled * part for old, part in zip(row, pull, strict=True)]
        for row, scaled in zip(state["inverse"], [part * taught for part in pull], strict=True)
    ]
    if state["season"]:
        _grow_older(after, step * pull[-1], doubting=True)
    after["squares"] = state["squares"] + clipped * clipped
    after["learned"] = learned = learned + 1
    away = reading - state["mean"]
    after["mean"] = state["mean"] + away / learned
    after["scatter"] = state["scatter"] + away * (reading - after["mean"])
    return after, strange / now


def carried(then: Whitener, now: Whitener) -> Whitener:
    """What `then` had learned, at the readings and at the place in the season of `now`."""
    here: Whitener = {**then, "before": now["before"]}
    if then["season"] and now["season"]:
        here["season"], here["weights"] = now["season"], [*then["weights"][:-2], *now["weights"][-2:]]
    return here


def scale(state: Whitener) -> float:
    """Standard deviation of the prediction errors, in first spreads."""
    return math.sqrt(state["squares"] / (state["learned"] + 1))


def swing(state: Whitener) -> float:
    """Standard deviation of the readings about their season in those of the prediction errors, 1 or more."""
    scatter = state["scatter"]
    if state["season"]:
        turned = cmath.exp(-1j * state["season"][0])
        short, long = (turned / (span - (span - 1.0) * turned) for span in SPANS)
        kept = 1.0 - sum(map(mul, _padded(state)[1:], (turned, turned * turned, short, long)))
        height = math.hypot(*state["weights"][-2:]) / max(abs(kept), 1e-6)
        scatter -= state["learned"] * height * height / 2.0
    return max(1.0, math.sqrt(max(scatter, 0.0) / max(state["squares"], 1e-12)))


def answer(state: Whitener, ages: int) -> list[float]:
    """What prediction errors keep of a step by 1 of the level, so many readings after it: `ages` numbers, the first is 1."""
    weights = _padded(state)
    short, (fast, slow) = weights[1 : 1 + LAGS], weights[-2:]
    return [
        1.0 - sum(short[:age]) - fast * (1.0 - (1.0 - 1.0 / SPANS[0]) ** age) - slow * (1.0 - (1.0 - 1.0 / SPANS[1]) ** age)
        for age in range(ages)
    ]


def remains(state: Whitener) -> float:
    """What prediction errors keep of a step by 1 of the level ever after."""
    return 1.0 - sum(state["weights"][1 : state["order"]])


def _padded(state: Whitener) -> list[float]:
    """A weight for each of `before`, used or not."""
    order = state["order"]
    return [*state["weights"][:order], *[0.0] * (SIZE - order)]


def _shown(state: Whitener) -> list[float]:
    """What the next reading is predicted from where there is a season; the last is how the prediction goes with its radians."""
    radians, age = state["season"]
    even, odd = state["weights"][-2:]
    cosine, sine = math.cos(radians * age), math.sin(radians * age)
    return [*state["before"][: state["order"]], cosine, sine, age * (odd * cosine - even * sine)]


def _follow(after: Whitener, shown: list[float], error: float) -> None:
    """The wave one reading further, drawn towards the reading by so much of it as was news."""
    order = after["order"]
    wave = shown[order:]
    pull = [sum(map(mul, row[order:], wave)) for row in after["inverse"][order:]]
    step = error / (1.0 + max(0.0, sum(map(mul, pull, wave))))
    weights = after["weights"]
    after["weights"] = [*weights[:order], weights[order] + step * pull[0], weights[order + 1] + step * pull[1]]
    _grow_older(after, step * pull[2], doubting=False)


def _grow_older(after: Whitener, faster: float, *, doubting: bool) -> None:
    """The wave's radians changed by `faster`, and its age by one reading, or by one less a period where one has passed.

    In an age that begins a period later the wave's parts hang on its radians: where `doubting`, their covariance follows.
    """
    radians, age = after["season"]
    radians, age = max(SLOWEST, min(math.pi, radians + faster)), age + 1.0
    if radians * age > math.pi:
        period = 2.0 * math.pi / radians
        age -= period
        if doubting:
            even, odd = after["weights"][-2:]
            inverse = [row.copy() for row in after["inverse"]]
            for place, moves in ((-3, period * odd), (-2, -period * even)):
                inverse[place] = [old + moves * own for old, own in zip(inverse[place], inverse[-1], strict=True)]
            for row in inverse:
                for place, moves in ((-3, period * odd), (-2, -period * even)):
                    row[place] += moves * row[-1]
            after["inverse"] = inverse
    after["season"] = [radians, age]
