"""Which regressors a baseline needs: running means, a season's wave, both or neither.

Decides what readings of a clean stretch are predicted from afterwards; refuses to add what does not earn its place, for whatever
follows the level of the readings follows a step of the level too, and hides it. No topic feeds it.

The season's length is where the spectrum of an autoregression's errors is highest. Each choice then predicts the stretch from its
beginning, reading by reading, and the one whose errors are smallest by a margin in log likelihood is taken.

Source: Rissanen 1984 (prediction of each reading from those before it as the measure of a model); Quinn, Hannan 2001 (the
periodogram's highest place as the frequency's estimate).
"""

import math
from collections.abc import Sequence

import numpy as np

from detectors.drift import whitening

MOST = 1_000
"""Readings that are kept for the choice; it bounds the state."""
FEWEST = 64
_SETTLED = 32
"""Readings after which the scale of errors is known well enough to tell whether it moves."""
CYCLES = 3.0  # that the readings must hold
_FINER = 8  # places of the spectrum for each that the readings tell apart
_SHORTEST = 6.0  # readings in a period; shorter ones an autoregression holds
_MEANS, _WAVE = 4.0, 15.0
"""Log likelihood by which running means, and a wave, must earn their place; a wave has as many chances as there are frequencies."""


def choose(readings: Sequence[float], floor: float) -> whitening.Whitener:
    """The baseline that has learned these readings, in order, with the regressors that they need.

    Args:
        readings: a clean stretch, in first spreads from the first centre.
        floor: the least standard deviation of prediction errors, in the same unit, above 0.
    """
    radians = dominant(readings)
    best, least = whitening.start(), math.inf
    for order, price in ((whitening.SHORTEST, 0.0), (whitening.SIZE, _MEANS)):
        for wave, dearer in ((0.0, 0.0), (radians, _WAVE)) if radians else ((0.0, 0.0),):
            state = whitening.start(order, wave, doubt=1.0 / len(readings))
            state["before"] = [1.0, *[readings[0]] * (whitening.SIZE - 1)]
            for place, reading in enumerate(readings):
                state, _ = whitening.whiten(state, reading, floor, learning=True, choosing=place >= _SETTLED)
            lost = 0.5 * len(readings) * math.log(whitening.scale(state) ** 2 + floor * floor) + price + dearer
            if lost < least:
                best, least = state, lost
    return best


def dominant(readings: Sequence[float]) -> float:
    """Radians a reading of the season that the readings show most, 0 where there are too few to tell one."""
    count = len(readings)
    if count < FEWEST:
        return 0.0
    values = np.array(readings)
    past = np.column_stack([np.ones(count - 2), values[1:-1], values[:-2]])
    errors = values[2:] - past @ np.linalg.lstsq(past, values[2:], rcond=None)[0]
    power = np.abs(np.fft.rfft(errors, _FINER * count)) ** 2
    first, last = math.ceil(_FINER * CYCLES), int(_FINER * count / _SHORTEST)
    return 2.0 * math.pi * (first + int(np.argmax(power[first:last]))) / (_FINER * count)
