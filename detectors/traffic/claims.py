"""What a camera says beyond its pictures: which context it claims, and how often its alarms begin anew.

Decides whether a claimed context fits what the model sees, and whether alarms come in a flood that would tire people out; refuses
to guess where there is no baseline to compare with. No alarm is held back: a flood may hide a real attack. Topic: detections.

Source: paper 4.6 (contexts); MITRE ATLAS AML.T0046 (spamming a system with chaff).
"""

from dataclasses import dataclass
from itertools import starmap
from typing import TypedDict, cast

from detectors.base import State, Status, Verdict
from detectors.traffic.sighting import Alarm, Sighting, silent, weigh


class _Known(TypedDict):
    """What embeddings in one context look like to one model."""

    count: int
    mean: list[float]
    square: list[float]  # mean squared distance from the mean


class _ClaimMemory(TypedDict):
    known: dict[str, _Known]  # by "context/digest", the longest unused first
    alarm: Alarm


@dataclass(frozen=True)
class Claim:
    """The picture belongs to the other context: near to its baseline, far from that of the context claimed, `frames` in a row.

    Near and far are mean squared distances, each number of the embedding in its own standard deviations: below `near`, above `far`.
    A claimed context without a baseline of `learn` frames yet counts as far: a camera that changes its claim and nothing else is
    noticed too, and does not teach the new context its pictures. Compared under the same weights only. kept: baselines remembered.
    """

    near: float = 2.5
    far: float = 9.0
    learn: int = 300
    frames: int = 60
    kept: int = 6
    dwell: int = 60

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return (
            f"claim(near={self.near:g},far={self.far:g},learn={self.learn:g},frames={self.frames:g},kept={self.kept:g},"
            f"dwell={self.dwell:g})"
        )

    def start(self) -> State:
        """Before the first frame."""
        memory: _ClaimMemory = {"known": {}, "alarm": silent()}
        return cast("State", memory)

    def step(self, state: State, seen: Sighting) -> tuple[State, Verdict]:
        """One frame further; never raises."""
        if not seen.embedding or not all(abs(value) < 1e9 for value in seen.embedding):  # noqa: PLR2004 false for NaN as well
            return state, Verdict(Status.REFUSED, reason="the frame has no embedding of finite numbers")
        memory = cast("_ClaimMemory", state)
        mine = f"{seen.context}/{seen.digest}"
        own = memory["known"].get(mine)
        if own is not None and len(own["mean"]) != len(seen.embedding):
            own = None
        far = _away(own, seen.embedding) if own is not None and own["count"] >= self.learn else None
        nearest, other = min(
            (
                (_away(known, seen.embedding), key)
                for key, known in memory["known"].items()
                if key != mine
                and key.endswith(f"/{seen.digest}")
                and known["count"] >= self.learn
                and len(known["mean"]) == len(seen.embedding)
            ),
            default=(float("inf"), ""),
        )
        wrong = nearest < self.near and (far is None or far > self.far)
        place = other.partition("/")[0]
        words = f"it claims {seen.context}, but the picture is one of its {place} pictures: check the camera's context"
        alarm, verdict = weigh(
            memory["alarm"],
            seen.sequence,
            (1.0 if wrong else -1.0) / self.frames,
            dwell=self.dwell,
            score=0.0 if far is None else min(far, 1e9),
            words=words,
        )
        known = {key: value for key, value in memory["known"].items() if key != mine}
        if own is None or verdict.status is Status.NORMAL:
            own = _learned(own, seen.embedding, self.learn)
        known[mine] = own
        kept = dict(list(known.items())[-self.kept :])
        after: _ClaimMemory = {"known": kept, "alarm": alarm}
        return cast("State", after), verdict


def _away(known: _Known, embedding: tuple[float, ...]) -> float:
    """Mean squared distance in standard deviations, one far number counting 100 at the most."""

    def one(value: float, mean: float, square: float) -> float:
        return min(100.0, (value - mean) ** 2 / max(square, (0.02 * mean) ** 2, 1e-12))

    parts = list(starmap(one, zip(embedding, known["mean"], known["square"], strict=True)))
    return sum(parts) / len(parts)


def _learned(known: _Known | None, embedding: tuple[float, ...], learn: int) -> _Known:
    """One frame more; past `learn` frames it follows slowly, as light and season do."""
    if known is None:
        return {"count": 1, "mean": [round(value, 5) for value in embedding], "square": [0.0] * len(embedding)}
    count = min(known["count"] + 1, 10 * learn)
    mean, square = [], []
    for value, level, spread in zip(embedding, known["mean"], known["square"], strict=True):
        away = value - level
        mean.append(round(level + away / count, 6))
        square.append(round(spread + (away * away * (1 - 1 / count) - spread) / count, 9))
    return {"count": count, "mean": mean, "square": square}


class _ChaffMemory(TypedDict):
    levels: dict[str, float]  # alarms begun by detector, older ones fading
    time_s: float
    alarm: Alarm


@dataclass(frozen=True)
class Chaff:
    """Alarms of this camera begin anew again and again: `repeats` times within about `half_s` seconds, over all its detectors.

    The first alarm of each detector is free: one storm may trip them all, once. One finding tells of the whole flood, and ends
    when it has faded to a half. kept: detectors remembered.
    """

    repeats: float = 4.0
    half_s: float = 1800.0
    kept: int = 32

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return f"chaff(repeats={self.repeats:g},half_s={self.half_s:g},kept={self.kept:g})"

    def start(self) -> State:
        """Before the first frame."""
        memory: _ChaffMemory = {"levels": {}, "time_s": 0.0, "alarm": silent()}
        return cast("State", memory)

    def step(self, state: State, seen: Sighting) -> tuple[State, Verdict]:
        """One frame further; never raises."""
        memory = cast("_ChaffMemory", state)
        fade = 0.5 ** (max(0.0, seen.time_s - memory["time_s"]) / self.half_s)
        levels = {who: round(level * fade, 6) for who, level in memory["levels"].items() if level * fade > 0.05}  # noqa: PLR2004 forgotten
        for who in seen.raised:
            levels[who] = levels.pop(who, 0.0) + 1.0
        levels = dict(list(levels.items())[-self.kept :])
        again = sum(max(0.0, level - 1.0) for level in levels.values())
        limit = self.repeats / 2.0 if memory["alarm"]["on"] else self.repeats - 0.5
        amount = 1.0 if again >= limit else -1.0
        words = f"alarms of this camera begin anew again and again ({again:.0f} times of late), as if to tire people out"
        alarm, verdict = weigh(memory["alarm"], seen.sequence, amount, dwell=1, score=again, words=words)
        after: _ChaffMemory = {"levels": levels, "time_s": max(seen.time_s, memory["time_s"]), "alarm": alarm}
        return cast("State", after), verdict
