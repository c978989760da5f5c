"""river's drift detectors and its anomaly trees, behind guards of our own, as published yardsticks.

Decides nothing that river does not decide; refuses NaN, infinities and wild readings, one of which river's own would silence it for
good. Topic: detections (through `features.py`).

river's objects show their state to nobody, and pickle is no way to keep a state. So what is kept is what they were fed: the block
means since a known beginning, and each finished block runs a fresh object over them. When the record is full its older half is
dropped, so each is exactly river's, made to forget everything but the last `window` blocks now and then. Means of blocks, because
single readings of a video depend too much on their neighbours. Where river's own would draw at random, the seed is fixed.

Source: Bifet, Gavalda 2007 (ADWIN); Raab, Heusinger, Schleif 2020 (KSWIN); Page 1954 (Page-Hinkley); Tan, Ting, Liu 2011
(half-space trees); river 0.23 and later.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypedDict, cast

from river.anomaly import HalfSpaceTrees
from river.drift import ADWIN, KSWIN, PageHinkley

from detectors.base import Observation, State, Status, Verdict

_SEED = 1


class _Memory(TypedDict):
    """The state."""

    means: list[float]  # of finished blocks, oldest first
    begins: list[int]  # sequence at which each finished block begins
    block: list[float]  # readings of the unfinished one
    begun: int
    alarm: int | None  # where the alarmed stretch begins
    quiet: int  # blocks without a finding while alarmed


class _Guard(Protocol):
    """What the guards below have in common.

    unit: what readings are divided by, the feature's usual spread. block: readings per mean. window: blocks that are never
    forgotten. learn: blocks before the first verdict. limit: a reading further from zero is refused. dwell: quiet blocks that end
    an alarm.
    """

    @property
    def unit(self) -> float: ...
    @property
    def block(self) -> int: ...
    @property
    def window(self) -> int: ...
    @property
    def learn(self) -> int: ...
    @property
    def limit(self) -> float: ...
    @property
    def dwell(self) -> int: ...


_Look = Callable[[list[float]], int]
"""Block means to how many of the newest belong to a change; 0 if there is none."""


def _begin() -> State:
    memory: _Memory = {"means": [], "begins": [], "block": [], "begun": 0, "alarm": None, "quiet": 0}
    return cast("State", memory)


def _step(guard: _Guard, state: State, seen: Observation, look: _Look, *, forget: bool = True) -> tuple[State, Verdict]:
    """One reading further. `forget` says that what lies before a change goes; else the first `learn` blocks stay for good."""
    if not math.isfinite(seen.value) or abs(seen.value) > guard.limit:
        return state, Verdict(Status.REFUSED, reason=f"the reading is no number within {guard.limit:g} of zero")
    memory = cast("_Memory", state)
    after: _Memory = {**memory, "block": [*memory["block"], seen.value]}
    if not memory["block"]:
        after["begun"] = seen.sequence
    if len(after["block"]) < guard.block:
        return cast("State", after), _say(guard, after)
    means = [*memory["means"], sum(after["block"]) / guard.block / guard.unit]
    begins = [*memory["begins"], after["begun"]]
    after["block"] = []
    changed = look(means) if len(means) >= guard.learn else 0
    if changed:
        if after["alarm"] is None:
            after["alarm"] = begins[-changed]
        after["quiet"] = 0
    elif after["alarm"] is not None and len(means) >= guard.learn:
        after["quiet"] += 1
        if after["quiet"] >= guard.dwell:
            after["alarm"], after["quiet"] = None, 0
    first, kept = (0, changed) if forget else (guard.learn, 0)
    if (changed and forget) or len(means) >= first + 2 * guard.window:
        kept = kept or guard.window
        means, begins = means[:first] + means[first:][-kept:], begins[:first] + begins[first:][-kept:]
    after["means"], after["begins"] = means, begins
    return cast("State", after), _say(guard, after)


def _say(guard: _Guard, memory: _Memory) -> Verdict:
    if memory["alarm"] is not None:
        return Verdict(Status.ALARM, evidence=1.0, since_sequence=memory["alarm"], unusual=memory["quiet"] == 0)
    return Verdict(Status.LEARNING if len(memory["means"]) < guard.learn else Status.NORMAL)


def _name(guard: _Guard, word: str, own: str) -> str:
    return (
        f"{word}(unit={guard.unit:g},{own},block={guard.block:g},window={guard.window:g},learn={guard.learn:g},limit={guard.limit:g},"
        f"dwell={guard.dwell:g})"
    )


@dataclass(frozen=True)
class Adwin:
    """ADWIN on block means. delta: its confidence parameter; its bound takes changes far below 1 for nothing, hence `unit`."""

    unit: float
    delta: float = 0.002
    block: int = 10
    window: int = 100
    learn: int = 30
    limit: float = 1e6
    dwell: int = 30

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return _name(self, "adwin", f"delta={self.delta:g}")

    def start(self) -> State:
        """Before the first reading."""
        return _begin()

    def step(self, state: State, seen: Observation) -> tuple[State, Verdict]:
        """One reading further; never raises."""
        return _step(self, state, seen, self._look)

    def _look(self, means: list[float]) -> int:
        adwin = cast("Any", ADWIN)(delta=self.delta, clock=1, grace_period=self.learn)  # river's package carries no types
        for mean in means:
            adwin.update(mean)
        return max(1, int(adwin.width)) if adwin.drift_detected else 0


@dataclass(frozen=True)
class Kswin:
    """KSWIN on block means: the newest `recent` against as many of the `window` before. alpha: level of each test."""

    unit: float
    alpha: float = 1e-4
    recent: int = 30
    block: int = 10
    window: int = 100
    learn: int = 100
    limit: float = 1e6
    dwell: int = 30

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return _name(self, "kswin", f"alpha={self.alpha:g},recent={self.recent:g}")

    def start(self) -> State:
        """Before the first reading."""
        return _begin()

    def step(self, state: State, seen: Observation) -> tuple[State, Verdict]:
        """One reading further; never raises."""
        return _step(self, state, seen, self._look)

    def _look(self, means: list[float]) -> int:
        before = means[-self.window : -1]
        kswin = cast("Any", KSWIN)(
            alpha=self.alpha, window_size=self.window, stat_size=self.recent, seed=_SEED, window=before or None
        )
        kswin.update(means[-1])
        return self.recent if kswin.drift_detected else 0


@dataclass(frozen=True)
class Hinkley:
    """Page-Hinkley on block means. threshold: on its sum, in units; delta: what is forgiven per block."""

    unit: float
    threshold: float = 20.0
    delta: float = 0.1
    block: int = 10
    window: int = 100
    learn: int = 30
    limit: float = 1e6
    dwell: int = 30

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return _name(self, "page-hinkley", f"threshold={self.threshold:g},delta={self.delta:g}")

    def start(self) -> State:
        """Before the first reading."""
        return _begin()

    def step(self, state: State, seen: Observation) -> tuple[State, Verdict]:
        """One reading further; never raises."""
        return _step(self, state, seen, self._look)

    def _look(self, means: list[float]) -> int:
        hinkley = cast("Any", PageHinkley)(min_instances=self.learn, delta=self.delta, threshold=self.threshold, alpha=1.0)
        for number, mean in enumerate(means):
            hinkley.update(mean)
            if hinkley.drift_detected:
                return len(means) - number
        return 0


@dataclass(frozen=True)
class HalfSpace:
    """Half-space trees grown on the first `learn` block means; it alarms while the newest `recent` are `above` on average.

    above: of the score, 0 usual to 1 strange. reach: how far from the middle trees look, in units.
    """

    unit: float
    above: float = 0.9
    recent: int = 5
    reach: float = 8.0
    block: int = 10
    window: int = 20
    learn: int = 100
    limit: float = 1e6
    dwell: int = 30

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return _name(self, "half-space-trees", f"above={self.above:g},recent={self.recent:g},reach={self.reach:g}")

    def start(self) -> State:
        """Before the first reading."""
        return _begin()

    def step(self, state: State, seen: Observation) -> tuple[State, Verdict]:
        """One reading further; never raises."""
        return _step(self, state, seen, self._look, forget=False)

    def _look(self, means: list[float]) -> int:
        if len(means) < self.learn + self.recent:
            return 0
        trees = _grown(tuple(means[: self.learn]), self.reach)
        scores = [trees.score_one({"x": mean}) for mean in means[-self.recent :]]
        return self.recent if sum(scores) > self.above * self.recent else 0


@lru_cache(maxsize=64)
def _grown(means: tuple[float, ...], reach: float) -> Any:
    """The trees that these means grow: nothing but what they make of them, kept because growing is slow."""
    middle = sorted(means)[len(means) // 2]
    trees = cast("Any", HalfSpaceTrees)(
        n_trees=10, height=6, window_size=len(means), limits={"x": (middle - reach, middle + reach)}, seed=_SEED
    )
    for mean in means:
        trees.learn_one({"x": mean})
    return trees
