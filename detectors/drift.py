"""Drift: has one feature of one camera changed for good, said with a declared mean time between false alarms.

Decides about one feature's readings, in order; refuses to know what the feature is, and refuses readings that are no usable number.
Topic: detections (through `features.py`).

Video readings depend on their neighbours, which is what breaks drift tests made for independent data. So readings are averaged
over short blocks, which also keeps a passing lorry from being a change, and the block means are whitened: an autoregression of
order 3 with an intercept, learned by recursive least squares, predicts each one, and the test sees only standardised one-step
prediction errors that carry the model's own estimation error ("recursive residuals"). Errors are clipped, so that no single block
moves the test or the baseline far, and centred again by their own running mean, because clipped errors of a skewed feature do not
average zero. Two-sided CUSUMs with a small and a middling allowance run on the result; their thresholds follow from the declared
mean time between false alarms. The baseline goes on learning with a gain of 1/n while nothing is suspected, then rests: learning
for ever would follow a slow change.

Source: Brown, Durbin, Evans 1975 (recursive residuals); Hawkins 1987 (self-starting CUSUM); Siegmund 1985, section 2.6.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import TypedDict, cast

from detectors.base import Json, Observation, State, Status, Verdict

ORDER = 3
WARM = 32  # block means kept as they are, for a first robust centre and spread
CLIP = 3.0  # standard deviations
ALLOWANCES = (0.1, 0.4)  # of the prediction errors' standard deviation: twice these are the shifts caught soonest
ARMS = tuple((sign, allowance) for allowance in ALLOWANCES for sign in (1.0, -1.0))
WIDEST = 50.0  # first spreads from the first centre; keeps the state bounded whatever comes
SIEGMUND_OVERSHOOT = 1.166
MARGIN = 2.0  # over the declared run length, for what Siegmund's formula does not know: learned baselines, heavy tails (measured)
HALF_WAY = 0.5  # of the evidence for an alarm: from here on readings are suspicious, and the baseline stops learning
LEAST_DEVIATION = 0.3  # of clipped errors: a feature that hardly ever moves must not make its rare moves huge


class _Memory(TypedDict):
    """The state after WARM blocks; before that only `block`, `count`, `last` and `warm` exist."""

    block: list[float]  # readings of the unfinished block
    count: int  # blocks taken in
    learned: int  # blocks that the baseline has learned from
    last: int  # sequence of the last reading of the last block
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
    quiet: int  # blocks in a row that look calm while alarmed


@dataclass(frozen=True)
class Drift:
    """A self-starting, two-sided CUSUM on whitened block means.

    arl: declared mean readings between two false alarms. block: readings per mean. learn: readings before the first verdict, 100
    blocks or more. resolution: the smallest spread of prediction errors taken seriously, in the feature's unit; wobbles below it
    are ignored. limit: a reading further from zero is refused. dwell: calm readings in a row that end an alarm.
    """

    arl: int
    block: int = 1
    learn: int = 300
    resolution: float = 1e-3
    limit: float = 1e6
    dwell: int = 300

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return (
            f"drift(arl={self.arl:g},block={self.block},learn={self.learn},resolution={self.resolution:g},limit={self.limit:g},"
            f"dwell={self.dwell})"
        )

    @cached_property
    def thresholds(self) -> tuple[float, ...]:
        """Each arm's alarm threshold, so that all arms together keep `arl` (union bound)."""
        return tuple(threshold(allowance, MARGIN * self.arl / self.block * len(ARMS)) for _, allowance in ARMS)

    @cached_property
    def first(self) -> int:
        """Blocks before the first verdict."""
        return max(WARM, self.learn // self.block)

    @cached_property
    def rest(self) -> int:
        """Blocks after which the baseline stops learning: its error is then far below the smallest allowance."""
        return 20 * self.first

    def start(self) -> State:
        """Before the first reading."""
        return {"block": [], "count": 0, "last": -1, "warm": []}

    def step(self, state: State, seen: Observation) -> tuple[State, Verdict]:
        """One reading further; never raises."""
        if not math.isfinite(seen.value):
            return state, Verdict(Status.REFUSED, reason="the reading is not a finite number")
        if abs(seen.value) > self.limit:
            return state, Verdict(Status.REFUSED, reason=f"the reading lies beyond the limit of {self.limit:g}")
        block = [*cast("list[float]", state["block"]), seen.value]
        if len(block) < self.block:
            held = {**state, "block": cast("Json", block)}
            return held, self._say(cast("_Memory", held), 0.0)
        mean = sum(block) / self.block
        if "warm" in state:
            after = self._warm_up(state, mean, seen.sequence)
            return after, self._say(cast("_Memory", after), 0.0)
        memory, score = self._judge(cast("_Memory", state), mean, seen.sequence)
        return cast("State", memory), self._say(memory, score)

    def _warm_up(self, state: State, mean: float, sequence: int) -> State:
        warm = [*cast("list[float]", state["warm"]), mean]
        if len(warm) < WARM:
            return {"block": [], "count": len(warm), "last": sequence, "warm": cast("Json", warm)}
        centre = median(warm)
        spread = max(1.4826 * median([abs(value - centre) for value in warm]), self.resolution)
        size = ORDER + 1
        memory: _Memory = {
            "block": [],
            "count": WARM,
            "learned": 0,
            "last": sequence,
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
        return cast("State", memory)

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

    def _judge(self, memory: _Memory, value: float, sequence: int) -> tuple[_Memory, float]:
        """One block further: whiten, standardise, add to the CUSUMs. Returns the block's score as well."""
        count = memory["count"] + 1
        calm = memory["alarm"] is None and self._evidence(memory["sums"])[0] < HALF_WAY
        learning = count <= self.first or (calm and memory["learned"] < self.rest)
        after, strange = self._predict(memory, value, learning=learning)
        after["block"], after["count"], after["last"] = [], count, sequence
        errors, mean, scatter = memory["errors"], memory["mean"], memory["scatter"]
        if learning and count > self.first // 3:
            after["errors"] = errors + 1
            after["mean"] = mean + (strange - mean) / (errors + 1)
            after["scatter"] = scatter + (strange - mean) * (strange - after["mean"])
        if count <= self.first:
            return after, abs(strange)
        deviation = max(math.sqrt(scatter / max(errors - 1, 1)), LEAST_DEVIATION)
        score = (strange - mean) / (deviation * math.sqrt(1.0 + 1.0 / max(errors, 1)))
        self._add(memory, after, score)
        return after, abs(score)

    def _add(self, memory: _Memory, after: _Memory, score: float) -> None:
        """One standardised error into the CUSUMs; begins, goes on with or ends an alarm."""
        sums = [max(0.0, total + sign * score - allowance) for total, (sign, allowance) in zip(memory["sums"], ARMS, strict=True)]
        begins = [
            memory["last"] + 1 if not before else begin for before, begin in zip(memory["sums"], memory["begins"], strict=True)
        ]
        evidence, leader = self._evidence(sums)
        after["sums"], after["begins"] = sums, begins
        if memory["alarm"] is None:
            if evidence >= 1.0:
                after["alarm"], after["quiet"] = begins[leader], 0
            else:
                return
        elif evidence < HALF_WAY:
            after["quiet"] = memory["quiet"] + 1
            if after["quiet"] * self.block >= self.dwell:
                after["alarm"], after["quiet"] = None, 0
            return
        else:
            after["quiet"] = 0
        # During an alarm the sums start again whenever they get half way: a change that stays keeps pushing them there.
        after["sums"] = [0.0] * len(ARMS)

    def _evidence(self, sums: list[float]) -> tuple[float, int]:
        """The largest CUSUM in units of its threshold, and which it is."""
        return max((total / top, arm) for arm, (total, top) in enumerate(zip(sums, self.thresholds, strict=True)))

    def _say(self, memory: _Memory, score: float) -> Verdict:
        if "warm" in memory or memory["count"] < self.first:
            return Verdict(Status.LEARNING, score)
        evidence, leader = self._evidence(memory["sums"])
        if memory["alarm"] is not None:
            unusual = 2 * memory["quiet"] * self.block < self.dwell
            return Verdict(Status.ALARM, score, 1.0 + evidence, memory["alarm"], unusual)
        if evidence >= HALF_WAY:
            return Verdict(Status.SUSPICIOUS, score, evidence, memory["begins"][leader])
        return Verdict(Status.NORMAL, score, evidence)


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
