"""When a camera's frames come: too fast or too slow, frames missing, a clock that is behind, two senders under one name.

Decides about numbers and times alone; refuses to look at pictures, and to say again what intake has refused and told already
(repeats, frames out of order, times that go back or lie ahead: `inference.service.refusals`). Topic: detections.

All rates are in the camera's own time. What the network delays and bunches keeps the time that the camera gave it, so jitter,
a full broker and a worker that catches up are no findings. A camera that falls silent sends nothing to judge: that is the
dashboards' alert on missing data.

Source: paper 4.7 (traffic surveillance); MITRE ATLAS AML.T0029 (denial of service).
"""

import math
from dataclasses import dataclass
from typing import TypedDict, cast

from detectors.base import State, Status, Verdict
from detectors.traffic.sighting import Alarm, Sighting, silent, weigh

_FOLLOW_S = 3600.0
"""How slowly what counts as usual follows: an attack of minutes is not learned, a new setting is accepted in the end."""


class _RateMemory(TypedDict):
    last_s: float | None
    pace: list[float]  # the last seconds between two frames, oldest first
    seen: int
    usual: float  # mean of the logarithm of what `window` frames take
    low: float  # the least and the most of it while learning
    high: float
    alarm: Alarm


@dataclass(frozen=True)
class Rate:
    """Frames come `factor` times as fast or as slow as this camera's usual, over `window` frames.

    Usual is learned from `learn` frames, and so is how far it swings by itself: a limit lies `margin` times beyond that. Of a
    pause only `pause` usual intervals count: a gap is no slowness. dwell: frames at the usual rate that end an alarm.
    """

    window: int = 30
    learn: int = 300
    factor: float = 2.0
    margin: float = 1.5
    pause: float = 4.0
    dwell: int = 60

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return (
            f"rate(window={self.window:g},learn={self.learn:g},factor={self.factor:g},margin={self.margin:g},pause={self.pause:g},"
            f"dwell={self.dwell:g})"
        )

    def start(self) -> State:
        """Before the first frame."""
        memory: _RateMemory = {"last_s": None, "pace": [], "seen": 0, "usual": 0.0, "low": 0.0, "high": 0.0, "alarm": silent()}
        return cast("State", memory)

    def step(self, state: State, seen: Sighting) -> tuple[State, Verdict]:
        """One frame further; never raises."""
        memory = cast("_RateMemory", state)
        after: _RateMemory = {**memory, "last_s": seen.time_s}
        last_s = memory["last_s"]
        if last_s is None or seen.time_s <= last_s:  # the first one, or a clock that was set back: no interval
            after["alarm"], verdict = weigh(memory["alarm"], seen.sequence, 0.0, dwell=self.dwell)
            return cast("State", after), verdict
        interval = seen.time_s - last_s
        if memory["seen"]:
            interval = min(interval, self.pause * math.exp(memory["usual"]) / self.window)
        after["pace"] = [*memory["pace"], round(interval, 6)][-self.window :]
        if len(after["pace"]) < self.window:
            return cast("State", after), Verdict(Status.LEARNING)
        # Before anything is usual, long pauses are cut by the window's own middle.
        middle = sorted(after["pace"])[self.window // 2]
        took = math.log(max(1e-6, sum(min(each, self.pause * max(middle, 1e-6)) for each in after["pace"])))
        after["seen"] = count = min(memory["seen"] + 1, self.learn)
        if count == 1:
            after["usual"] = after["low"] = after["high"] = took
        elif count < self.learn:
            after["usual"] = memory["usual"] + (took - memory["usual"]) / count
            after["low"], after["high"] = min(memory["low"], took), max(memory["high"], took)
        if count < self.learn:
            return cast("State", after), Verdict(Status.LEARNING)
        shift = (1.0 - math.exp(-interval / _FOLLOW_S)) * (took - memory["usual"])
        after["usual"], after["low"], after["high"] = memory["usual"] + shift, memory["low"] + shift, memory["high"] + shift
        fast = took < min(memory["usual"] - math.log(self.factor), memory["low"] - math.log(self.margin))
        slow = took > max(memory["usual"] + math.log(self.factor), memory["high"] + math.log(self.margin))
        times = math.exp(abs(took - memory["usual"]))
        words = f"frames come {times:.1f} times as {'fast' if took < memory['usual'] else 'slow'} as usual"
        after["alarm"], verdict = weigh(
            memory["alarm"], seen.sequence, 1.0 if fast or slow else -1.0, dwell=self.dwell, score=times, words=words
        )
        return cast("State", after), verdict


class _HolesMemory(TypedDict):
    epoch: int
    number: int
    late: bool  # whether the frame before had waited
    recent: float  # holes, older ones fading
    usual: float  # the most of that while learning
    seen: int
    alarm: Alarm


@dataclass(frozen=True)
class Holes:
    """Frames are missing again and again: `holes` times and more within about `memory` frames, and three times what is usual.

    One reconnect is one hole, however wide. No hole is what somebody else has told: as many messages as intake refused in between,
    and what a worker left out that was `late_s` seconds behind. learn: frames from which the usual is learned. dwell: frames in a
    row without a hole that end an alarm.
    """

    holes: float = 4.0
    memory: int = 300
    learn: int = 600
    late_s: float = 5.0
    dwell: int = 150

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return (
            f"holes(holes={self.holes:g},memory={self.memory:g},learn={self.learn:g},late_s={self.late_s:g},dwell={self.dwell:g})"
        )

    def start(self) -> State:
        """Before the first frame."""
        memory: _HolesMemory = {
            "epoch": -1, "number": -1, "late": False, "recent": 0.0, "usual": 0.0, "seen": 0, "alarm": silent(),
        }  # fmt: skip
        return cast("State", memory)

    def step(self, state: State, seen: Sighting) -> tuple[State, Verdict]:
        """One frame further; never raises."""
        memory = cast("_HolesMemory", state)
        late = seen.waited_s > self.late_s
        after: _HolesMemory = {**memory, "epoch": seen.epoch, "number": seen.number, "late": late}
        missing = seen.number - memory["number"] - 1 - seen.refused if seen.epoch == memory["epoch"] else 0
        hole = missing > 0 and not late and not memory["late"]
        after["recent"] = recent = round(memory["recent"] * (1.0 - 1.0 / self.memory) + hole, 4)
        after["seen"] = min(memory["seen"] + 1, self.learn)
        if after["seen"] < self.learn:
            after["usual"] = max(memory["usual"], min(recent, self.memory / 4))
        limit = max(self.holes - 0.5, 3.0 * memory["usual"]) if after["seen"] >= self.learn else 3.0 * self.holes
        words = f"frames are missing: {max(missing, 0)} before this one, for the {recent:.0f}th time of late"
        amount = 1.0 if hole and (recent > limit or memory["alarm"]["on"]) else -1.0
        after["alarm"], verdict = weigh(memory["alarm"], seen.sequence, amount, dwell=self.dwell, score=recent, words=words)
        return cast("State", after), verdict


class _LagMemory(TypedDict):
    usual: float | None  # seconds from a frame's time to its judgement
    before: float
    last_s: float
    alarm: Alarm


@dataclass(frozen=True)
class Lag:
    """Frames are dated `late_s` seconds further back than usual, `frames` times in a row, and stay so: the camera's clock is wrong.

    A worker that catches up sees old frames too, but each less old than the one before: that is no finding.
    """

    late_s: float = 90.0
    frames: int = 20
    dwell: int = 60

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return f"lag(late_s={self.late_s:g},frames={self.frames:g},dwell={self.dwell:g})"

    def start(self) -> State:
        """Before the first frame."""
        memory: _LagMemory = {"usual": None, "before": 0.0, "last_s": 0.0, "alarm": silent()}
        return cast("State", memory)

    def step(self, state: State, seen: Sighting) -> tuple[State, Verdict]:
        """One frame further; never raises."""
        memory = cast("_LagMemory", state)
        usual = memory["usual"]
        # A camera seen for the first time is taken to be on time: else a wrong clock would be its usual one.
        base = 0.0 if usual is None else usual
        behind = seen.waited_s - base
        catching_up = seen.waited_s - memory["before"] < -0.25 * max(0.0, seen.time_s - memory["last_s"])
        wrong = behind > self.late_s and not catching_up
        after: _LagMemory = {**memory, "before": seen.waited_s, "last_s": seen.time_s}
        if behind <= self.late_s:
            passed_s = min(1.0, max(0.0, seen.time_s - memory["last_s"]))  # a pause says nothing
            after["usual"] = round(base + (passed_s / _FOLLOW_S if usual is not None else 1.0) * behind, 6)
        words = f"frames are dated {behind:.0f} s further back than usual: set the camera's clock"
        after["alarm"], verdict = weigh(
            memory["alarm"],
            seen.sequence,
            1.0 / self.frames if wrong else -1.0 / self.frames,
            dwell=self.dwell,
            score=max(0.0, behind),
            words=words,
        )
        return cast("State", after), verdict


class _SendersMemory(TypedDict):
    epoch: int
    epochs: dict[str, float]  # seconds of the last frame by epoch, oldest epoch first
    alarm: Alarm


@dataclass(frozen=True)
class Senders:
    """Frames of an earlier start come, dated after a later start of the same camera: two send under one name.

    A restart is no finding, nor are frames that were under way when it happened: they are dated before it. While a worker runs it
    refuses the elder sender and says so; this is what gets past a worker that has just started. kept: starts remembered.
    """

    kept: int = 4
    dwell: int = 300

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return f"senders(kept={self.kept:g},dwell={self.dwell:g})"

    def start(self) -> State:
        """Before the first frame."""
        memory: _SendersMemory = {"epoch": -1, "epochs": {}, "alarm": silent()}
        return cast("State", memory)

    def step(self, state: State, seen: Sighting) -> tuple[State, Verdict]:
        """One frame further; never raises."""
        memory = cast("_SendersMemory", state)
        key = str(seen.epoch)
        known = {epoch: last for epoch, last in memory["epochs"].items() if epoch != key}
        later = [last for epoch, last in known.items() if int(epoch) > seen.epoch]
        two = seen.epoch < memory["epoch"] and bool(later) and seen.time_s > max(later)
        after: _SendersMemory = {**memory, "epoch": seen.epoch}
        after["epochs"] = dict([*known.items(), (key, seen.time_s)][-self.kept :])
        words = "two senders use this camera's name: find the other one, and give this camera a new key"
        after["alarm"], verdict = weigh(
            memory["alarm"], seen.sequence, 1.0 if two else -1.0, dwell=self.dwell, score=float(two), words=words
        )
        return cast("State", after), verdict
