"""How soon a change can be told by who knows everything but which change it is: what not knowing that costs by itself.

Decides the delay of a bank of exact likelihood ratios, one for each change that the bench tries, up and down. It knows the calm
law, the dependence, the season and every change's size; only the level it has learned from as many readings as the detector. What
a detector takes longer than this is the price of having learned the rest; what this takes longer than the oracle is the price of
the question. It refuses to be called a bound: other shares of the budget among the changes move a little from one to another. No
topic.

Source: Shin, Ramdas, Rinaldo 2022 (mixtures of Shiryaev-Roberts sums); Lorden 1971 (delay: log run length by information).
"""

import math

import numpy as np

from detectors.drift.sequential import shares
from streams.bench.drift.trials import SIZES, Array, Change, Law, Shift, moves, noise, ratios

BETS: tuple[tuple[Shift, float], ...] = tuple(
    ((change, size), sign) for change in Change for size in SIZES for sign in ((1.0,) if change is Change.SPREAD else (1.0, -1.0))
)
"""The changes it bets on, and to which side."""
_STREAMS = 1_000
_CALM = 3_000
_SPANS = (100, 300, 1_000, _CALM)
_SETTLE = 300
_SAMPLE = 100_000


class Bank:
    """The bank for one law, and its thresholds at some run lengths."""

    def __init__(self, law: Law, run_lengths: Array, *, seed: int) -> None:
        self._law, self._rng = law, np.random.default_rng(seed)
        self._ratios = [ratios(law, shift) for shift, _ in BETS]
        self.weights = np.array(shares(tuple(self._information(shift) for shift, _ in BETS), float(np.median(run_lengths))))
        sums, top, tops = np.zeros((len(BETS), _STREAMS)), np.zeros(_STREAMS), {}
        for passed in range(1, _CALM + 1):
            sums = self._add(sums, noise(law, self._rng, _STREAMS, None))
            top = np.maximum(top, self.weights @ sums)
            if passed in _SPANS:
                tops[passed] = top
        # The time to the first alarm is all but exponential, so this many of the streams stay below the threshold for so long.
        spans = [max((span for span in _SPANS if span <= length), default=_SPANS[0]) for length in run_lengths]
        self.thresholds = np.array(
            [np.quantile(tops[span], math.exp(-span / length)) for span, length in zip(spans, run_lengths, strict=True)]
        )

    def delays(self, change: Shift, *, learned: int, most: int) -> Array:
        """Its mean delay at each run length, counted as the oracle's; `most` where no alarm came by then.

        The level is what `learned` readings before the change and those after it have shown: a step is partly learned.
        """
        law, rng = self._law, self._rng
        sums = np.zeros((len(BETS), _STREAMS))
        for _ in range(_SETTLE):
            sums = self._add(sums, noise(law, rng, _STREAMS, None))
        sums[:, self.weights @ sums >= self.thresholds.min()] = 0.0
        at_once, after = moves(law, change)
        found = np.full((len(self.thresholds), _STREAMS), most)
        for passed in range(most):
            sums = self._add(
                sums, noise(law, rng, _STREAMS, change) + (after * learned / (learned + passed) if passed else at_once)
            )
            found[(self.weights @ sums >= self.thresholds[:, None]) & (found == most)] = passed + 1
            if (found < most).all():
                break
        delays: Array = found.mean(axis=1)
        return delays

    def _information(self, change: Shift) -> float:
        """Nats that a reading gives for a change that has come and stays."""
        values = noise(self._law, np.random.default_rng(1), _SAMPLE, change) + moves(self._law, change)[1]
        return float(ratios(self._law, change)[0](values).mean())

    def _add(self, sums: Array, values: Array) -> Array:
        after = np.empty_like(sums)
        for row, ((_, sign), (ever, jump)) in enumerate(zip(BETS, self._ratios, strict=True)):
            own = sign * values
            further = np.exp(ever(own))
            after[row] = (1.0 + sums[row]) * further if jump is None else sums[row] * further + np.exp(jump(own))
        # Beyond every threshold; keeps sums finite.
        return np.minimum(after, 1e100)
