"""Drift detectors on streams whose truth is known: run lengths, delays, and the oracle that nobody can beat.

Decides what a stream, a change and an oracle are; refuses to judge a detector. No topic. Chance comes from
the seed that is handed in.

A change of the level is a step, in standard deviations of the readings. A change of the spread multiplies the noise that drives the
readings by 1 + size; a change of the shape gives that noise a skew of that size (a gamma law) and leaves its mean and spread alone.
The oracle is a CUSUM that knows both laws, the dependence and the season, and for a level both what the step does at once and what
it does ever after; its threshold is set by simulation to the run length that the detector was measured to have.

Source: Page 1954; Lorden 1971; Moustakides 1986 (no test with that run length has a shorter worst delay on independent readings).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import signal, stats  # type: ignore[import-untyped] # ships no types

from detectors.base import Detector, Observation, State, Status

Array = NDArray[np.float64]
SIZES = (0.5, 1.0, 2.0)
_SETTLE = 300  # readings before an oracle's change
_THRESHOLD_READINGS = 6_000_000
_SPANS = (100, 300, 1_000, 6_000)  # readings over which an oracle's highest sums are taken
_ORACLES = 1_000
_CHUNK = 256
_LATER = 1_000_000  # sequence of the first changed reading


class Change(StrEnum):
    """What changes."""

    LEVEL = "level"
    SPREAD = "spread"
    SHAPE = "shape"


Shift = tuple[Change, float]
"""What changes, and by how much."""


@dataclass(frozen=True)
class Law:
    """Readings of mean 0 and, without the season, standard deviation 1: AR(1) with `phi`, driven by noise.

    heavy: the noise is Student t with 3 degrees of freedom, else Gaussian. season: readings in one period of a sine of height 1,
    or 0.
    """

    name: str
    phi: float = 0.0
    heavy: bool = False
    season: int = 0

    @property
    def drive(self) -> float:
        """Standard deviation of the noise."""
        return math.sqrt(1.0 - self.phi**2)


LAWS = (
    Law("i.i.d."),
    Law("AR(1) 0.5", phi=0.5),
    Law("AR(1) 0.9", phi=0.9),
    Law("AR(1) 0.99", phi=0.99),
    Law("season of 200, AR(1) 0.5", phi=0.5, season=200),
    Law("Student t3", heavy=True),
    Law("Student t3, AR(1) 0.9", phi=0.9, heavy=True),
)


class Source:
    """One stream of a law, from a seed; it can be told to change, and goes on from where it is."""

    def __init__(self, law: Law, *seed: int) -> None:
        self._law, self._rng = law, np.random.default_rng(seed)
        self._last = float(self._rng.standard_normal())
        self._phase, self._taken = float(self._rng.random()), 0

    def take(self, count: int, change: Shift | None = None) -> Array:
        """The next readings."""
        law = self._law
        drive = noise(law, self._rng, count, change)
        values: Array = signal.lfilter([law.drive], [1.0, -law.phi], drive, zi=[law.phi * self._last])[0]
        self._last = float(values[-1])
        if law.season:
            values = values + np.sin(2 * np.pi * ((self._taken + np.arange(count)) / law.season + self._phase))
        self._taken += count
        return values + change[1] if change is not None and change[0] is Change.LEVEL else values


def noise(law: Law, rng: np.random.Generator, count: int, change: Shift | None) -> Array:
    """What drives the readings: mean 0 and, but for a change of the spread, deviation 1. A step of the level is no part of it."""
    kind, size = change if change is not None else (None, 0.0)
    if kind is Change.SHAPE:
        shape = 4.0 / size**2
        return (rng.gamma(shape, 1.0, count) - shape) / math.sqrt(shape)
    drive = rng.standard_t(3, count) / math.sqrt(3) if law.heavy else rng.standard_normal(count)
    return drive * (1.0 + size) if kind is Change.SPREAD else drive


def _begun(detector: Detector, learned: State, state: State) -> State:
    """As it is right after an alarm: the baseline stays where the detector can tell it from the evidence."""
    rearm: Callable[[State, State], State] | None = getattr(detector, "rearm", None)
    return rearm(learned, state) if rearm is not None else learned


def learned(detector: Detector, values: Array) -> State:
    """The detector's state after these readings, its evidence included."""
    state = detector.start()
    for number, value in enumerate(values.tolist()):
        state, _ = detector.step(state, Observation(number, float(number), value))
    return state


def false_alarms(detector: Detector, law: Law, *, learn: int, calm: int, streams: int, seed: int) -> tuple[int, int]:
    """Alarms without a change, and the readings in which they came, after each stream's first `learn` readings.

    Each stream has a baseline of its own, learned before the count begins. After an alarm the detector starts again.
    """
    alarms = 0
    for stream in range(streams):
        values = Source(law, seed, stream).take(learn + calm)
        state = learned(detector, values[:learn])
        known = state = _begun(detector, state, state)
        for number, value in enumerate(values[learn:].tolist(), learn):
            state, verdict = detector.step(state, Observation(number, float(number), value))
            if verdict.status is Status.ALARM:
                alarms += 1
                state = _begun(detector, known, state)
    return alarms, streams * calm


def baselines(detector: Detector, law: Law, *, learn: int, streams: int, seed: int) -> list[State]:
    """The detector's state after `learn` calm readings of each stream, whatever it said of them."""
    return [learned(detector, Source(law, seed, stream).take(learn)) for stream in range(streams)]


def delays(detector: Detector, states: list[State], law: Law, change: Shift, *, learn: int, most: int, seed: int) -> Array:
    """Readings from the change to the alarm, the alarming one counted; `most` where none came by then.

    Args:
        detector: with the run length to be tried.
        states: from `baselines`, of a detector that differs in its run length alone; with the same `learn` and `seed`.
        law: of the stream.
        change: what changes, and by how much.
        learn: readings before the change.
        most: readings after it.
        seed: of the streams.
    """
    found = []
    for stream, begun in enumerate(states):
        source = Source(law, seed, stream)
        source.take(learn)
        found.append(_delay(detector, _quiet(detector, begun), source, change, most))
    return np.array(found, dtype=np.float64)


def _quiet(detector: Detector, state: State) -> State:
    """A state that is not alarmed, nor would be at this run length whatever comes: the change has to raise the alarm."""
    total, threshold = state.get("total"), getattr(detector, "threshold", math.inf)
    full = isinstance(total, float) and total >= threshold
    return _begun(detector, state, state) if full or state.get("alarm") is not None else state


def _delay(detector: Detector, state: State, source: Source, change: Shift, most: int) -> int:
    passed = 0
    while passed < most:
        for value in source.take(min(_CHUNK, most - passed), change).tolist():
            state, verdict = detector.step(state, Observation(_LATER + passed, 0.0, value))
            passed += 1
            if verdict.status is Status.ALARM:
                return passed
    return most


def oracle(law: Law, change: Shift, run_lengths: Array, *, most: int, seed: int) -> Array:
    """The oracle's mean delay at each of these mean run lengths, counted as in `delays`."""
    rng = np.random.default_rng(seed)
    ratio, jump = ratios(law, change)
    streams = _THRESHOLD_READINGS // _SPANS[-1]
    sums, top, tops = np.zeros(streams), np.zeros(streams), {}
    for passed in range(1, _SPANS[-1] + 1):
        sums = _cusum(sums, noise(law, rng, streams, None), ratio, jump)
        top = np.maximum(top, sums)
        if passed in _SPANS:
            tops[passed] = top
    # The time to the first alarm is all but exponential, so this many of the streams stay below the threshold for so long.
    spans = [max((span for span in _SPANS if span <= length), default=_SPANS[0]) for length in run_lengths]
    thresholds = np.array(
        [np.quantile(tops[span], math.exp(-span / length)) for span, length in zip(spans, run_lengths, strict=True)]
    )
    sums = np.zeros(_ORACLES)
    for _ in range(_SETTLE):
        sums = _cusum(sums, noise(law, rng, _ORACLES, None), ratio, jump)
    # With the lowest of these thresholds few of the streams would have alarmed in so short a time; those begin anew.
    sums[sums >= thresholds.min()] = 0.0
    at_once, after = moves(law, change)
    found = np.full((len(run_lengths), _ORACLES), most)
    for passed in range(most):
        sums = _cusum(sums, noise(law, rng, _ORACLES, change) + (after if passed else at_once), ratio, jump)
        found[(sums >= thresholds[:, None]) & (found == most)] = passed + 1
        if (found < most).all():
            break
    delays: Array = found.mean(axis=1)
    return delays


def moves(law: Law, change: Shift) -> tuple[float, float]:
    """What a step of the level adds to the noise: at once, and ever after."""
    jump = change[1] / law.drive if change[0] is Change.LEVEL else 0.0
    return jump, jump * (1.0 - law.phi)


_Ratio = Callable[[Array], Array]


def _cusum(sums: Array, noise: Array, ratio: _Ratio, jump: _Ratio | None) -> Array:
    further: Array = sums + ratio(noise)
    if jump is not None:
        further = np.maximum(further, jump(noise))
    return np.maximum(further, 0.0)


def ratios(law: Law, change: Shift) -> tuple[_Ratio, _Ratio | None]:
    """Log likelihood ratios of the noise: ever after the change, and at it where that is another one."""
    kind, size = change

    def calm(noise: Array) -> Array:
        density: Array = -2.0 * np.log1p(noise * noise) if law.heavy else -0.5 * noise * noise
        return density

    if kind is Change.SPREAD:
        return lambda noise: calm(noise / (1.0 + size)) - math.log1p(size) - calm(noise), None
    if kind is Change.SHAPE:
        shape = 4.0 / size**2
        base = (
            0.5 * math.log(shape) - math.lgamma(shape) - (math.log(2.0 / math.pi) if law.heavy else -0.5 * math.log(2.0 * math.pi))
        )

        def skewed(noise: Array) -> Array:
            # Nearly impossible rather than impossible, so that sums stay finite.
            place = np.maximum(shape + noise * math.sqrt(shape), 1e-300)
            density: Array = base + (shape - 1.0) * np.log(place) - place - calm(noise)
            return np.where(place > 1e-300, density, -1e3)  # noqa: PLR2004 - the same

        return skewed, None
    first, after = moves(law, change)
    return lambda noise: calm(noise - after) - calm(noise), lambda noise: calm(noise - first) - calm(noise)


def surely(alarms: int, readings: int) -> tuple[float, float]:
    """The mean run length that was measured, and the one that it exceeds with 95 % certainty (Poisson)."""
    return readings / max(alarms, 1), float(readings / (stats.chi2.ppf(0.95, 2 * (alarms + 1)) / 2))


def holds(alarms: int, readings: int, declared: float) -> bool:
    """Whether so many alarms are no evidence, at 95 %, that the declared run length is not kept."""
    return bool(stats.poisson.sf(alarms - 1, readings / declared) >= 0.05) if alarms else True  # noqa: PLR2004 - the level itself
