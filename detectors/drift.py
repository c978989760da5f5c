"""Drift: has one feature of one camera changed for good, said with a declared mean time between false alarms.

Decides about one feature's readings, in order; refuses to know what the feature is, and refuses readings that are no usable number.
Topic: detections (through `features.py`).

Video readings depend on their neighbours, which is what breaks drift tests made for independent data. So the readings are first
whitened: an autoregression of order 3 with an intercept, learned by recursive least squares, predicts each reading, and the test
sees only standardised one-step prediction errors that carry the model's own estimation error ("recursive residuals"). Errors are
clipped, so that no single reading moves the test or the baseline far, and centred again by their own running mean, because
clipped errors of a skewed feature do not average zero. Two-sided CUSUMs with a small and a middling allowance run on the result;
their thresholds follow from the declared mean time between false alarms. The baseline goes on learning with a gain of 1/n while
nothing is suspected, then rests: learning for ever would follow a slow change.

Source: Brown, Durbin, Evans 1975 (recursive residuals); Hawkins 1987 (self-starting CUSUM); Siegmund 1985, section 2.6.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import TypedDict, cast

from detectors.base import Observation, State, Status, Verdict

ORDER = 3
WARM = 32  # readings kept as they are, for a first robust centre and spread
CLIP = 3.0  # standard deviations
ALLOWANCES = (0.1, 0.4)  # of the prediction errors' standard deviation: twice these are the shifts caught soonest
ARMS = tuple((sign, allowance) for allowance in ALLOWANCES for sign in (1.0, -1.0))
WIDEST = 50.0  # first spreads from the first centre; keeps the state bounded whatever comes
SIEGMUND_OVERSHOOT = 1.166
MARGIN = 2.0  # over the declared run length, for what Siegmund's formula does not know: learned baselines, heavy tails (measured)
HALF_WAY = 0.5  # of the evidence for an alarm: from here on readings are suspicious, and the baseline stops learning
LEAST_DEVIATION = 0.3  # of clipped errors: a feature that hardly ever moves must not make its rare moves huge


class _Memory(TypedDict):
    """The state after WARM readings; before that only `count`, `last` and `warm` exist."""

    count: int  # readings taken in
    learned: int  # readings that the baseline has learned from
    last: int  # sequence of the last reading taken in
    centre: float
    spread: float
    lags: list[float]  # newest first, in first spreads from the first centre
    weights: list[float]  # intercept, then one per lag
    inverse: list[float]  # inverse information matrix, rows one after the other
    squares: float  # sum of squared clipped errors
    errors: int  # how many standardised errors the next two have seen
    mean: float
    scatter: float
    sums: list[float]  # one CUSUM per arm
    begins: list[int]  # where each arm left zero
    alarm: int | None  # where the alarmed stretch begins
    quiet: int  # readings in a row that look calm while alarmed


@dataclass(frozen=True)
class Drift:
    """A self-starting, two-sided CUSUM on whitened readings.

    arl: declared mean readings between two false alarms. learn: readings before the first verdict (100 or more).
    resolution: the smallest spread of prediction errors taken seriously, in the feature's unit; below it wobbles are ignored.
    limit: a reading further from zero is refused. dwell: calm readings in a row that end an alarm.
    """

    arl: int
    learn: int = 300
    resolution: float = 1e-3
    limit: float = 1e6
    dwell: int = 300

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return f"drift(arl={self.arl},learn={self.learn},resolution={self.resolution:g},limit={self.limit:g},dwell={self.dwell})"

    @cached_property
    def thresholds(self) -> tuple[float, ...]:
        """Each arm's alarm threshold, so that all arms together keep `arl` (union bound)."""
        return tuple(threshold(allowance, MARGIN * self.arl * len(ARMS)) for _, allowance in ARMS)

    @cached_property
    def rest(self) -> int:
        """Readings after which the baseline stops learning: its error is then far below the smallest allowance."""
        return 20 * self.learn

    def start(self) -> State:
        """Before the first reading."""
        return {"count": 0, "last": -1, "warm": []}

    def step(self, state: State, seen: Observation) -> tuple[State, Verdict]:
        """One reading further; never raises."""
        if not math.isfinite(seen.value):
            return state, Verdict(Status.REFUSED, reason="the reading is not a finite number")
        if abs(seen.value) > self.limit:
            return state, Verdict(Status.REFUSED, reason=f"the reading lies beyond the limit of {self.limit:g}")
        if "warm" in state:
            return self._warm_up(state, seen), Verdict(Status.LEARNING)
        return self._judge(cast("_Memory", state), seen)

    def _warm_up(self, state: State, seen: Observation) -> State:
        warm = [*cast("list[float]", state["warm"]), seen.value]
        if len(warm) < WARM:
            return {"count": len(warm), "last": seen.sequence, "warm": cast("State", {"warm": warm})["warm"]}
        centre = median(warm)
        spread = max(1.4826 * median([abs(value - centre) for value in warm]), self.resolution)
        size = ORDER + 1
        memory: _Memory = {
            "count": 0,
            "learned": 0,
            "last": seen.sequence,
            "centre": centre,
            "spread": spread,
            "lags": [0.0] * ORDER,
            "weights": [0.0] * size,
            "inverse": [100.0 if row == column else 0.0 for row in range(size) for column in range(size)],
            "squares": 1.0,  # one pretended error of one spread: the scale before anything is known
            "errors": 0,
            "mean": 0.0,
            "scatter": 0.0,
            "sums": [0.0] * len(ARMS),
            "begins": [0] * len(ARMS),
            "alarm": None,
            "quiet": 0,
        }
        for value in warm:
            memory, _ = self._predict(memory, value, learning=True)
        return cast("State", {**memory, "count": WARM})

    def _predict(self, memory: _Memory, value: float, *, learning: bool) -> tuple[_Memory, float]:
        """Takes one reading into the autoregression; returns its clipped, standardised prediction error as well."""
        reading = max(-WIDEST, min(WIDEST, (value - memory["centre"]) / memory["spread"]))
        lags, weights = memory["lags"], memory["weights"]
        regressors = (1.0, *lags)
        expected = sum([a * b for a, b in zip(weights, regressors, strict=True)])
        floor = self.resolution / memory["spread"]
        sigma = max(math.sqrt(memory["squares"] / (memory["learned"] + 1)), floor)
        after: _Memory = {**memory}
        if learning:
            size = ORDER + 1
            inverse = memory["inverse"]
            rows = [inverse[start : start + size] for start in range(0, size * size, size)]
            pull = [sum([a * b for a, b in zip(row, regressors, strict=True)]) for row in rows]
            widen = 1.0 + max(0.0, sum([a * b for a, b in zip(pull, regressors, strict=True)]))
            strange = max(-CLIP, min(CLIP, (reading - expected) / (sigma * math.sqrt(widen))))
            share = strange * sigma / math.sqrt(widen)
            after["weights"] = [weight + share * part for weight, part in zip(weights, pull, strict=True)]
            after["inverse"] = [
                old - one * other / widen for old, (one, other) in zip(inverse, [(a, b) for a in pull for b in pull], strict=True)
            ]
            after["squares"] = memory["squares"] + (strange * sigma) ** 2
            after["learned"] = memory["learned"] + 1
        else:
            strange = max(-CLIP, min(CLIP, (reading - expected) / sigma))
        after["lags"] = [reading, *lags[:-1]]
        return after, strange

    def _judge(self, memory: _Memory, seen: Observation) -> tuple[State, Verdict]:
        count = memory["count"] + 1
        evidence = max([total / top for total, top in zip(memory["sums"], self.thresholds, strict=True)])
        learning = count <= self.learn or (memory["alarm"] is None and evidence < HALF_WAY and memory["learned"] < self.rest)
        after, strange = self._predict(memory, seen.value, learning=learning)
        after["count"], after["last"] = count, seen.sequence
        errors, mean, scatter = memory["errors"], memory["mean"], memory["scatter"]
        if learning and count > self.learn // 3:
            after["errors"] = errors + 1
            after["mean"] = mean + (strange - mean) / (errors + 1)
            after["scatter"] = scatter + (strange - mean) * (strange - after["mean"])
        if count <= self.learn:
            return cast("State", after), Verdict(Status.LEARNING, score=abs(strange))
        deviation = max(
            math.sqrt(scatter / max(errors - 1, 1)), 0.3
        )  # a feature that hardly ever moves must not make its rare moves huge
        score = (strange - mean) / (deviation * math.sqrt(1.0 + 1.0 / errors))
        return self._weigh(memory, after, score)

    def _weigh(self, memory: _Memory, after: _Memory, score: float) -> tuple[State, Verdict]:
        """Adds one standardised error to the CUSUMs and reads the verdict off them."""
        sums = [max(0.0, total + sign * score - allowance) for total, (sign, allowance) in zip(memory["sums"], ARMS, strict=True)]
        begins = [
            memory["last"] + 1 if not before else begin for before, begin in zip(memory["sums"], memory["begins"], strict=True)
        ]
        evidence, leader = max((total / top, arm) for arm, (total, top) in enumerate(zip(sums, self.thresholds, strict=True)))
        after["sums"], after["begins"] = sums, begins
        since = memory["alarm"]
        if since is None and evidence < 1.0:
            suspicious = evidence >= HALF_WAY
            return cast("State", after), Verdict(
                Status.SUSPICIOUS if suspicious else Status.NORMAL,
                score=abs(score),
                evidence=evidence,
                since_sequence=begins[leader] if suspicious else None,
            )
        if since is None:
            since = begins[leader]
        # While alarmed the sums start again whenever they get half way: a change that stays keeps pushing them there.
        unusual = evidence >= HALF_WAY
        quiet = 0 if unusual else memory["quiet"] + 1
        if unusual:
            after["sums"] = [0.0] * len(ARMS)
        if quiet >= self.dwell:
            after["alarm"], after["quiet"] = None, 0
            return cast("State", after), Verdict(Status.NORMAL, score=abs(score), evidence=evidence)
        after["alarm"], after["quiet"] = since, quiet
        return cast("State", after), Verdict(
            Status.ALARM, score=abs(score), evidence=1.0 + evidence, since_sequence=since, unusual=unusual
        )


def threshold(allowance: float, run_length: float) -> float:
    """Threshold of a one-sided CUSUM with this allowance and, on independent standard normal readings, this mean run length.

    Source: Siegmund 1985, (2.51): run length = (exp(2kb) - 2kb - 1) / (2k^2) with b = threshold + 1.166.
    """
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        grown = min(2 * allowance * (middle + SIEGMUND_OVERSHOOT), 700.0)
        if (math.exp(grown) - grown - 1) / (2 * allowance**2) < run_length:
            low = middle
        else:
            high = middle
    return high
