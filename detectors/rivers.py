"""river's ADWIN behind our guards: a published detector to compare with, kept restart-safe.

Decides what ADWIN decides about the block means of one feature; refuses readings that are no usable number, which on its own would
silence it for good. Topic: detections (through `features.py`).

ADWIN lives in compiled code and shows its state to nobody, and pickle is no way to keep a state. So what is kept is what it was
fed: the block means since a known beginning, and each finished block runs a fresh ADWIN over them. When the record is full its
older half is dropped, so this is exactly ADWIN, made to forget everything but the last `window` blocks now and then. Means of
blocks, because single readings of a video depend too much on their neighbours.

Source: Bifet, Gavalda 2007 (ADWIN); river 0.23 and later.
"""

import math
from dataclasses import dataclass
from typing import Any, TypedDict, cast

from river.drift import ADWIN

from detectors.base import Observation, State, Status, Verdict


class _Memory(TypedDict):
    """The state."""

    means: list[float]  # of finished blocks, oldest first
    begins: list[int]  # sequence at which each finished block begins
    block: list[float]  # readings of the unfinished one
    begun: int
    alarm: int | None  # where the alarmed stretch begins
    quiet: int  # blocks without a finding while alarmed


@dataclass(frozen=True)
class Adwin:
    """ADWIN on block means. delta: its confidence parameter. block: readings per mean. window: blocks that are never forgotten.

    unit: what readings are divided by, for ADWIN's bound takes changes far below 1 for nothing: the feature's usual spread.
    learn: blocks before the first verdict. limit: a reading further from zero is refused. dwell: quiet blocks that end an alarm.
    """

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
        return (
            f"adwin(unit={self.unit:g},delta={self.delta:g},block={self.block},window={self.window},learn={self.learn},limit={self.limit:g},"
            f"dwell={self.dwell})"
        )

    def start(self) -> State:
        """Before the first reading."""
        memory: _Memory = {"means": [], "begins": [], "block": [], "begun": 0, "alarm": None, "quiet": 0}
        return cast("State", memory)

    def step(self, state: State, seen: Observation) -> tuple[State, Verdict]:
        """One reading further; never raises."""
        if not math.isfinite(seen.value) or abs(seen.value) > self.limit:
            return state, Verdict(Status.REFUSED, reason=f"the reading is no number within {self.limit:g} of zero")
        memory = cast("_Memory", state)
        after: _Memory = {**memory, "block": [*memory["block"], seen.value]}
        if not memory["block"]:
            after["begun"] = seen.sequence
        if len(after["block"]) < self.block:
            return cast("State", after), self._say(after)
        after["means"] = [*memory["means"], sum(after["block"]) / self.block / self.unit]
        after["begins"] = [*memory["begins"], after["begun"]]
        after["block"] = []
        self._look(after)
        if len(after["means"]) >= 2 * self.window:
            after["means"], after["begins"] = after["means"][-self.window :], after["begins"][-self.window :]
        return cast("State", after), self._say(after)

    def _look(self, after: _Memory) -> None:
        adwin = cast("Any", ADWIN)(delta=self.delta, clock=1, grace_period=self.learn)  # river's package carries no types
        for mean in after["means"]:
            adwin.update(mean)
        if adwin.drift_detected:
            kept = max(1, int(adwin.width))
            if after["alarm"] is None:
                after["alarm"] = after["begins"][-kept]
            after["means"], after["begins"], after["quiet"] = after["means"][-kept:], after["begins"][-kept:], 0
        elif after["alarm"] is not None:
            after["quiet"] += 1
            if after["quiet"] >= self.dwell:
                after["alarm"], after["quiet"] = None, 0

    def _say(self, memory: _Memory) -> Verdict:
        if memory["alarm"] is not None:
            return Verdict(Status.ALARM, evidence=1.0, since_sequence=memory["alarm"], unusual=memory["quiet"] == 0)
        return Verdict(Status.LEARNING if len(memory["means"]) < self.learn else Status.NORMAL)
