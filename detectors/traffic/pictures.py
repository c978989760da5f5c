"""What a camera shows, seen by its fingerprint alone: a picture that stands still, a stretch of the past shown again.

Decides by how 8 x 8 means of luminance change from frame to frame; refuses to judge what the picture shows. Topic: detections.

A parked car is a still picture to people, but a sensor's noise never stands still, and a mean over a cell still carries it. The
direction in which each cell changes from one frame to the next is 64 bits that no second moment repeats. A stretch that is shown
again repeats them, also when it was encoded again, made lighter or darker, or scaled: a change keeps its sign. Where the scene
itself repeats (a flashing sign, a slow cloud) bits agree with several pasts at once, or in a few cells only: a replay agrees with
one past, much better than with the moments beside it.

Source: Oostveen, Kalker, Haitsma 2002 (signs of how block means change as a video's fingerprint); Page 1954 (the sums).
"""

import base64
from dataclasses import dataclass
from typing import TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from detectors.base import State, Status, Verdict
from detectors.traffic.sighting import Alarm, Sighting, silent, weigh
from detectors.triage.layout import CELLS

_STILL = 2
"""Most change of a cell of a picture that stands still, in 1/256 grey level: rounding."""
_TELLING = 6
"""Least change of a cell that says in which direction."""
_PAIRS, _QUADS, _BYTES, _SUM = (np.uint64(int(byte * 8, 16)) for byte in ("55", "33", "0f", "01"))


class _FrozenMemory(TypedDict):
    cells: list[int]
    run: int  # frames in a row that did not move
    since_s: float  # when that began
    since: int
    usual: int  # the longest run while learning
    seen: int
    alarm: Alarm


@dataclass(frozen=True)
class Frozen:
    """The picture does not move at all, not even by its noise: for `frames` frames and `seconds`, and three times its usual.

    Some cameras send each picture twice, or stand still at night because their encoder does: the longest run of still frames among
    the first `learn` is usual, up to `most`. dwell: moving frames in a row that end an alarm.
    """

    frames: int = 20
    seconds: float = 3.0
    learn: int = 300
    most: int = 200
    dwell: int = 20

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return (
            f"frozen(frames={self.frames:g},seconds={self.seconds:g},learn={self.learn:g},most={self.most:g},dwell={self.dwell:g})"
        )

    def start(self) -> State:
        """Before the first frame."""
        memory: _FrozenMemory = {
            "cells": [], "run": 0, "since_s": 0.0, "since": 0, "usual": 0, "seen": 0, "alarm": silent(),
        }  # fmt: skip
        return cast("State", memory)

    def step(self, state: State, seen: Sighting) -> tuple[State, Verdict]:
        """One frame further; never raises."""
        if len(seen.cells) != CELLS:
            return state, Verdict(Status.REFUSED, reason="the frame has no fingerprint")
        memory = cast("_FrozenMemory", state)
        after: _FrozenMemory = {**memory, "cells": list(seen.cells), "seen": min(memory["seen"] + 1, self.learn)}
        still = bool(memory["cells"]) and all(
            abs(now - before) <= _STILL for now, before in zip(seen.cells, memory["cells"], strict=True)
        )
        if not still:
            after["run"], after["since_s"], after["since"] = 0, seen.time_s, seen.sequence
            amount = -1.0
        else:
            after["run"] = memory["run"] + 1
            if after["seen"] < self.learn:
                after["usual"] = max(memory["usual"], min(after["run"], self.most))
            limit = max(self.frames, 3 * (after["usual"] if after["seen"] >= self.learn else self.most))
            amount = float(after["run"] >= limit and seen.time_s - after["since_s"] >= self.seconds)
        alarm = memory["alarm"] if memory["alarm"]["on"] or amount <= 0.0 else {**memory["alarm"], "since": after["since"]}
        words = f"the picture has not moved at all, not even by its noise, for {after['run']} frames"
        after["alarm"], verdict = weigh(alarm, seen.sequence, amount, dwell=self.dwell, score=float(after["run"]), words=words)
        return cast("State", after), verdict


class _ReplayedMemory(TypedDict):
    cells: list[int]
    past: str  # base64: 8 bytes a frame, which cells grew lighter, newest first
    count: int  # frames in it
    leads: list[list[float]]  # [frames back, strength] of the pasts that may be shown again, the strongest first
    usual: dict[str, list[float]]  # by context: frames it was learned from, and the most strength among them
    alarm: Alarm


@dataclass(frozen=True)
class Replayed:
    """A stretch of the past is shown again: changes agree with it better than with the moments beside it.

    What counts is the share of cells that agree beyond what agrees beside it, and beyond chance (1/2), as a running mean over
    `span` frames: it alarms from `least` on, and `beyond` above what the scene reaches by repeating itself while learning in this
    context (`most` at most). past: frames remembered. nearest: frames back from which on it counts. learn: frames that learn what
    is usual. tries: pasts followed at a time.
    """

    past: int = 512
    nearest: int = 8
    span: int = 24
    least: float = 0.16
    beyond: float = 0.1
    most: float = 0.25
    learn: int = 300
    tries: int = 8
    dwell: int = 60

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return (
            f"replayed(past={self.past:g},nearest={self.nearest:g},span={self.span:g},least={self.least:g},beyond={self.beyond:g},"
            f"most={self.most:g},learn={self.learn:g},tries={self.tries:g},dwell={self.dwell:g})"
        )

    def start(self) -> State:
        """Before the first frame."""
        memory: _ReplayedMemory = {
            "cells": [], "past": "", "count": 0, "leads": [], "usual": {}, "alarm": silent(),
        }  # fmt: skip
        return cast("State", memory)

    def step(self, state: State, seen: Sighting) -> tuple[State, Verdict]:
        """One frame further; never raises."""
        if len(seen.cells) != CELLS:
            return state, Verdict(Status.REFUSED, reason="the frame has no fingerprint")
        memory = cast("_ReplayedMemory", state)
        after: _ReplayedMemory = {**memory, "cells": list(seen.cells)}
        if not memory["cells"]:
            return cast("State", after), Verdict(Status.LEARNING)
        changes = np.array(seen.cells) - np.array(memory["cells"])
        changes -= int(np.sort(changes)[CELLS // 2])  # the whole picture's light
        telling = np.abs(changes) >= _TELLING
        lighter = np.packbits(changes > 0)
        packed = base64.b64decode(memory["past"])
        after["past"] = base64.b64encode((lighter.tobytes() + packed)[: self.past * CELLS // 8]).decode()
        after["count"] = min(memory["count"] + 1, self.past)
        if telling.sum() >= CELLS // 4:
            after["leads"] = self._follow(memory["leads"], _agreement(packed, lighter, telling))
        back, strength = after["leads"][0] if after["leads"] else (0.0, 0.0)
        learned, usual = memory["usual"].get(seen.context, [0.0, 0.0])
        if learned < self.learn:
            learned, usual = learned + 1.0, max(usual, min(strength, self.most))
            after["usual"] = {**memory["usual"], seen.context: [learned, usual]}
        limit = max(self.least, self.beyond + (usual if learned >= self.learn else self.most))
        words = f"frames from {back + 1:.0f} frames ago are shown again"
        amount = 1.0 if strength >= limit else -1.0 if strength < limit / 2.0 else 0.0
        after["alarm"], verdict = weigh(
            memory["alarm"], seen.sequence, amount, dwell=self.dwell, score=strength / limit, words=words
        )
        return cast("State", after), verdict

    def _follow(self, leads: list[list[float]], better: NDArray[np.float64]) -> list[list[float]]:
        """The pasts worth following after one more frame, the strongest first."""
        gathered = {int(back): strength for back, strength in leads}
        if len(better) > self.nearest:
            for place in np.argpartition(-better[self.nearest :], min(2, len(better) - self.nearest - 1))[:3]:
                gathered.setdefault(int(place) + self.nearest, 0.0)
        summed = [
            [float(back), round(strength + (float(better[back]) - strength) / self.span, 5)]
            for back, strength in gathered.items()
            if back < len(better)
        ]
        return sorted((each for each in summed if each[1] > 0.0), key=lambda each: -each[1])[: self.tries]


def _agreement(packed: bytes, lighter: NDArray[np.uint8], telling: NDArray[np.bool_]) -> NDArray[np.float64]:
    """For each frame of the past, newest first: share of cells that agree, above its neighbours' and above chance."""
    differ = (np.frombuffer(packed, np.uint64) ^ lighter.view(np.uint64)) & np.packbits(telling).view(np.uint64)
    agree: NDArray[np.float64] = 1.0 - _ones(differ) / telling.sum()
    beside = np.full(len(agree), 0.5)
    beside[1:-1] = np.maximum(beside[1:-1], (agree[:-2] + agree[2:]) / 2.0)
    better: NDArray[np.float64] = agree - beside
    return better


def _ones(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Bits set in each word, by adding neighbours: numpy counts bits from version 2 on only."""
    one, two, four = (np.uint64(shift) for shift in (1, 2, 4))
    words = words - ((words >> one) & _PAIRS)
    words = (words & _QUADS) + ((words >> two) & _QUADS)
    counted: NDArray[np.uint64] = (((words + (words >> four)) & _BYTES) * _SUM) >> np.uint64(56)
    return counted
