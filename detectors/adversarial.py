"""Adversarial input: is somebody tampering with a camera's pictures so that the model misjudges them.

Decides over one camera's frames, of which only some are sampled. Each sample is a probability that this frame was made to fool the
model (`calibration.py`), and beside it three numbers of how the second look differed. Refuses to call one strange frame an attack,
and refuses to take missing samples for calm. Topic: detections (through `features.py`).

Honest scenes differ more from one another than frames of one scene do, so all four numbers are judged by the camera's own usual
level and spread: median and median absolute deviation of its last usual samples. Until enough are there, and as a cap, a prior
measured on many scenes stands in: what is strange by the prior is never learned, so a camera attacked from its first frame cannot
make the attack its usual. Corruptions move the view but lower the probability: the numbers are summed, and the sum counts no
further than the probability allows, by the camera's usual and by the prior: on an empty road a passing car doubles them all.

The alarm is a bet on an attack that changes one frame in five and moves those by three spreads: a sample whose odds for that are R
multiplies the stake by 0.8 + 0.2 R, which never falls below 1 (a CUSUM). So an attack on one frame in ten gathers evidence too,
which calm frames between hardly take away. Where honest odds average 1 or less, the mean number of samples between false alarms is
at least the declared one. One sample's odds are capped: no single frame alarms. What is usual is learned from samples with evidence
too, or it had too narrow a spread and alarmed on honest frames; but only once the suspicion is over, and not if it became an alarm.

The same bet ends an alarm: once the odds that this attack goes on are one in a hundred. Twenty-one usual samples do that; an honest
one that is a little strange sets it back by a few, not to the start.

Source: Page 1954, Lorden 1971 (CUSUM, its run length); Xu, Evans, Qi 2018 (feature squeezing); figures in docs/adversarial.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypedDict, cast

from detectors.base import Observation, State, Status, Verdict

_LOGIT_MOST = 12.0
_ROBUST = 1.4826  # a normal law's standard deviation over its median absolute deviation
_UNLIKELIER = 2.5  # spreads: on corruptions as many false flags as by two numbers, on attacks as many hits as by four
_CORRELATED = 0.4  # of the four numbers over honest frames of one camera, pair by pair; measured: -0.2 to 0.8


class _Memory(TypedDict):
    """The state. Lists of numbers are of the logit of the probability, then of what stands beside it."""

    usual: list[list[float]]  # the last usual samples, oldest first
    held: list[list[float]]  # samples since something is suspected: learned if nothing comes of it, dropped at an alarm
    levels: list[float]
    spreads: list[float]
    last_usual: int  # sequence of the last usual sample before the stretch that is suspected
    total: float  # logarithm of the stake
    since: int | None
    alarm: bool
    attacked: float  # while alarmed: logarithm of the odds that the attack goes on, 0 or less


@dataclass(frozen=True)
class Evasion:
    """A CUSUM of bets on probabilities of attack.

    arl: declared mean number of samples between false alarms. level, spread: of the logit over honest pictures of many cameras,
    for before a camera has its own; beside: the same of each number beside it. The least own spread is the share `least` of these.
    learn: usual samples before the own level counts; memory: how many are kept. rate: the share of frames that an attack
    is bet to change; shift: by how many spreads; most: the most that the logarithm of one sample's odds counts. usual: spreads
    below which a sample is usual; over: an alarm ends when the odds are so much against that attack going on.
    """

    arl: int
    level: float
    spread: float
    beside: tuple[tuple[float, float], ...] = ()
    least: float = 0.3
    learn: int = 16
    memory: int = 64
    rate: float = 0.2
    shift: float = 3.0
    most: float = 7.0
    usual: float = 2.0
    over: float = 100.0

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        priors = ",".join(f"{level:g}+-{spread:g}" for level, spread in self._priors)
        return (
            f"evasion(arl={self.arl:g},levels={priors},"
            f"least={self.least:g},learn={self.learn},memory={self.memory},rate={self.rate:g},shift={self.shift:g},"
            f"most={self.most:g},usual={self.usual:g},over={self.over:g})"
        )

    @property
    def _priors(self) -> tuple[tuple[float, float], ...]:
        return ((self.level, self.spread), *self.beside)

    def start(self) -> State:
        """Before the first sample."""
        memory: _Memory = {
            "usual": [],
            "held": [],
            "levels": [level for level, _ in self._priors],
            "spreads": [spread for _, spread in self._priors],
            "last_usual": -1,
            "total": 0.0,
            "since": None,
            "alarm": False,
            "attacked": 0.0,
        }
        return cast("State", memory)

    @staticmethod
    def suspects(state: State) -> int | None:
        """Where the stretch begins that is under suspicion or alarm; None while there is none."""
        return cast("_Memory", state)["since"]

    def step(self, state: State, seen: Observation) -> tuple[State, Verdict]:
        """One sample further; never raises."""
        if not (math.isfinite(seen.value) and 0.0 <= seen.value <= 1.0):
            return state, Verdict(Status.REFUSED, reason="a probability is a number from 0 to 1")
        memory = cast("_Memory", state)
        known = len(seen.beside) == len(self.beside) and all(map(math.isfinite, seen.beside))
        sample = [_logit(seen.value), *(seen.beside if known else memory["levels"][1:])]
        told = len(sample) if known else 1
        by_prior = _together(sample[:told], *zip(*self._priors, strict=True))
        likely = _UNLIKELIER + 2.0 * (sample[0] - self.level) / self.spread
        strange = min(_together(sample[:told], memory["levels"], memory["spreads"]), likely if known else math.inf)
        usual = strange < self.usual and by_prior < self.usual
        odds = min(self.shift * strange - self.shift**2 / 2, self.most)
        bet = math.log1p(self.rate * math.expm1(odds))
        total = max(0.0, memory["total"] + bet)
        after: _Memory = {**memory, "total": total}
        score = max(0.0, strange)
        if memory["alarm"]:
            return self._go_on(after, score, seen, bet, usual=usual)
        if by_prior < self.usual:  # also what is strange to this camera: a usual without its tail is too narrow
            self._learn(after, sample)
        if total == 0.0:
            after["since"] = None
            if usual:
                after["last_usual"] = seen.sequence
        elif memory["since"] is None:
            after["since"] = memory["last_usual"] + 1
        evidence, since = total / math.log(self.arl), after["since"]
        if evidence >= 1.0:
            after["alarm"], after["attacked"], after["held"] = True, 0.0, []
            return cast("State", after), Verdict(Status.ALARM, score, evidence, since, unusual=not usual, leads=seen.note)
        if since is not None and not usual:
            return cast("State", after), Verdict(Status.SUSPICIOUS, score, evidence, since, leads=seen.note)
        learning = len(after["usual"]) < self.learn
        return cast("State", after), Verdict(Status.LEARNING if learning else Status.NORMAL, score, evidence)

    def _go_on(self, after: _Memory, score: float, seen: Observation, bet: float, *, usual: bool) -> tuple[State, Verdict]:
        """During an alarm: has calm been proven. The same bet, the other way round."""
        after["total"] = min(after["total"], math.log(self.arl))
        after["attacked"] = min(0.0, after["attacked"] + bet)
        if after["attacked"] > -math.log(self.over):
            verdict = Verdict(Status.ALARM, score, 1.0, after["since"], unusual=not usual, leads=seen.note)
            return cast("State", after), verdict
        after["alarm"], after["attacked"], after["total"], after["since"] = False, 0.0, 0.0, None
        after["last_usual"] = seen.sequence
        return cast("State", after), Verdict(Status.NORMAL, score)

    def _learn(self, after: _Memory, sample: list[float]) -> None:
        held = [*after["held"], [round(value, 3) for value in sample]][-self.memory :]  # finer is noise, and the state travels
        if after["total"] > 0.0 and len(after["usual"]) >= self.learn:
            after["held"] = held
            return
        after["held"], after["usual"] = [], [*after["usual"], *held][-self.memory :]
        usual = after["usual"]
        if len(usual) < self.learn:
            return
        columns = list(zip(*usual, strict=True))
        after["levels"] = levels = [median(column) for column in columns]
        after["spreads"] = [
            max(self.least * prior, _ROBUST * median([abs(value - level) for value in column]))
            for column, level, (_, prior) in zip(columns, levels, self._priors, strict=True)
        ]


def _together(sample: Sequence[float], levels: Sequence[float], spreads: Sequence[float]) -> float:
    """How many spreads the sample lies above the level, its numbers summed; levels and spreads of further numbers do not count.

    What moves a view without making an attack likelier than usual is weather: it counts no further than a probability allows.
    """
    away = [(value - level) / spread for value, level, spread in zip(sample, levels, spreads, strict=False)]
    count = len(away)
    total = sum(away) / math.sqrt(count * (1.0 + (count - 1) * _CORRELATED))
    return total if count == 1 else min(total, _UNLIKELIER + 2.0 * away[0])


def _logit(probability: float) -> float:
    if not 0.0 < probability < 1.0:
        return math.copysign(_LOGIT_MOST, probability - 0.5)
    return max(-_LOGIT_MOST, min(_LOGIT_MOST, math.log(probability) - math.log1p(-probability)))
