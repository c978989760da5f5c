"""Adversarial input: is somebody tampering with a camera's pictures so that the model misjudges them.

Decides about one camera's inconsistency scores (how far the model's view moves when the picture is squeezed, 0..1), which arrive
only for sampled frames; refuses to call one strange frame an attack, and refuses to take missing samples for calm.
Topic: detections (through `features.py`).

A camera's usual level is learned from its own samples, as median and median absolute deviation of the last usual ones. Until enough
are there, and ever after as a cap, a prior measured on many clean scenes stands in: a sample that is strange by the prior is never
learned, so a camera attacked from its first frame cannot make the attack its normal. A one-sided CUSUM of the clipped, standardised
scores says when the strangeness is more than a passing one.

Source: Page 1954 (CUSUM); Xu, Evans, Qi 2018 (feature squeezing); measured figures in `catalogue.py`.
"""

import math
from dataclasses import dataclass
from statistics import median
from typing import TypedDict, cast

from detectors.base import Observation, State, Status, Verdict


class _Memory(TypedDict):
    """The state."""

    usual: list[float]  # the last usual scores, oldest first
    level: float
    spread: float
    last_usual: int  # sequence of the last usual sample before the stretch that is suspected
    total: float  # the CUSUM, in spreads
    since: int | None
    alarm: bool
    calm: int  # usual samples in a row while alarmed


@dataclass(frozen=True)
class Inconsistency:
    """A CUSUM on inconsistency scores; all thresholds in spreads above the usual level.

    prior_level, prior_spread: median score and its spread over clean scenes, for before a camera has its own; the least own spread
    is `least_spread`. learn: usual samples before the own level counts; memory: how many are kept. allowance: strangeness that is
    forgiven per sample; clip: the most that one sample counts; alarm: the sum that alarms. usual: below it a sample is usual;
    dwell: so many usual samples in a row end an alarm.
    """

    prior_level: float
    prior_spread: float
    least_spread: float
    learn: int = 16
    memory: int = 64
    allowance: float = 1.5
    clip: float = 4.0
    alarm: float = 7.5
    usual: float = 2.0
    dwell: int = 8

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return (
            f"inconsistency(prior={self.prior_level:g}+-{self.prior_spread:g},least={self.least_spread:g},learn={self.learn},"
            f"memory={self.memory},allowance={self.allowance:g},clip={self.clip:g},alarm={self.alarm:g},usual={self.usual:g},"
            f"dwell={self.dwell})"
        )

    def start(self) -> State:
        """Before the first sample."""
        memory: _Memory = {
            "usual": [],
            "level": self.prior_level,
            "spread": self.prior_spread,
            "last_usual": -1,
            "total": 0.0,
            "since": None,
            "alarm": False,
            "calm": 0,
        }
        return cast("State", memory)

    def step(self, state: State, seen: Observation) -> tuple[State, Verdict]:
        """One sample further; never raises."""
        if not (math.isfinite(seen.value) and 0.0 <= seen.value <= 1.0):
            return state, Verdict(Status.REFUSED, reason="an inconsistency score is a number from 0 to 1")
        memory = cast("_Memory", state)
        strange = (seen.value - memory["level"]) / memory["spread"]
        by_prior = (seen.value - self.prior_level) / self.prior_spread
        usual = strange < self.usual and by_prior < self.usual
        total = max(0.0, memory["total"] + max(-self.clip, min(self.clip, strange)) - self.allowance)
        after: _Memory = {**memory, "total": total}
        if memory["alarm"]:
            return self._go_on(after, strange, usual=usual, sequence=seen.sequence)
        if total == 0.0:
            after["since"] = None
            if usual:
                after["last_usual"] = seen.sequence
                self._learn(after, seen.value)
        elif memory["since"] is None:
            after["since"] = memory["last_usual"] + 1
        evidence, since = total / self.alarm, after["since"]
        if evidence >= 1.0:
            after["alarm"], after["calm"] = True, 0
            return cast("State", after), Verdict(Status.ALARM, max(0.0, strange), evidence, since, unusual=not usual)
        if since is not None and not usual:
            return cast("State", after), Verdict(Status.SUSPICIOUS, max(0.0, strange), evidence, since)
        learning = len(after["usual"]) < self.learn
        return cast("State", after), Verdict(Status.LEARNING if learning else Status.NORMAL, max(0.0, strange), evidence)

    def _go_on(self, after: _Memory, strange: float, *, usual: bool, sequence: int) -> tuple[State, Verdict]:
        """During an alarm: has calm been proven."""
        after["total"] = min(after["total"], self.alarm)
        after["calm"] = after["calm"] + 1 if usual else 0
        if after["calm"] < self.dwell:
            verdict = Verdict(Status.ALARM, max(0.0, strange), 1.0, after["since"], unusual=not usual)
            return cast("State", after), verdict
        after["alarm"], after["calm"], after["total"], after["since"], after["last_usual"] = False, 0, 0.0, None, sequence
        return cast("State", after), Verdict(Status.NORMAL, max(0.0, strange))

    def _learn(self, after: _Memory, value: float) -> None:
        after["usual"] = usual = [*after["usual"], round(value, 4)][-self.memory :]  # finer is noise, and the state travels
        if len(usual) >= self.learn:
            after["level"] = level = median(usual)
            after["spread"] = max(1.4826 * median([abs(each - level) for each in usual]), self.least_spread)
