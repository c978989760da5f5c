"""Drift: has one feature of one camera changed for good, said with a declared mean time between false alarms.

Decides about one feature's readings, in order; refuses to know what the feature is, and refuses readings that are no usable number.
Topic: detections (through `features.py`).

Three steps. A reading is whitened (`whitening.py`): predicted from those before it, for video readings depend on their neighbours.
The prediction error gets its place among those seen while all was calm (`laws.py`), for errors are seldom Gaussian. A bank of
likelihood ratios gathers evidence for a change of level, spread or shape (`sequential.py`), and alarms at the declared run length.
The baseline goes on learning with a gain of 1/n while nothing is suspected, then rests: learning for ever would follow a slow
change.

Source: Hawkins 1987 (self-starting tests); Shin, Ramdas, Rinaldo 2022 (the guarantee).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import TypedDict, cast

from detectors.base import Json, Observation, State, Status, Verdict
from detectors.drift import laws, seasons, sequential, whitening

WARM = 32  # block means kept as they are, for a first robust centre and spread
HALF_WAY = 0.5  # of the evidence for an alarm, in logarithms: what lies below comes and goes while all is calm
MARGIN = 1.5  # over the declared run length: what the bank does not know is that calm laws are learned, not given (measured)
HEARD_DIGITS = 2  # of readings in first spreads; far below any noise
REFIT = 1.1  # the baseline is laid anew whenever it has learned so much more
RESTS = 20  # times the first stretch: then the baseline's error is far below the smallest change looked for


class _Memory(TypedDict):
    """The state after WARM blocks; before that only `block`, `count`, `last` and `warm` exist."""

    block: list[float]  # readings of the unfinished block
    count: int  # blocks taken in
    last: int  # sequence of the last reading of the last block
    centre: float
    spread: float
    heard: list[float]  # readings that `seasons.py` chooses by; empty once it has
    whitener: whitening.Whitener
    law: laws.Law
    refit: int  # errors learned at which the law is fitted again
    bets: sequential.Bets | None  # none before the first fit
    sums: list[float]
    total: float  # of the sums
    begin: int  # where it last was below half-way
    leads: str  # the kind of change that the last alarm was for
    alarm: int | None  # where the alarmed stretch begins
    unsettled: int  # blocks to come that are not judged, for what they are predicted from is not known
    quiet: int  # blocks in a row that look calm while alarmed


LAYOUT = 3  # of the state


@dataclass(frozen=True)
class Drift:
    """A self-starting bank of Shiryaev-Roberts sums on whitened, ranked block means.

    arl: declared mean readings between two false alarms. block: readings per mean. learn: readings before the first verdict, 100
    blocks or more. resolution: the smallest spread of prediction errors taken seriously, in the feature's unit, above 0; wobbles
    below it are ignored. limit: a reading further from zero is refused. dwell: calm readings in a row that end an alarm.
    """

    arl: int
    block: int = 1
    learn: int = 600
    resolution: float = 1e-3
    limit: float = 1e6
    dwell: int = 300

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict, and the layout of the state: one that was written by another starts anew."""
        return (
            f"drift-{LAYOUT}(arl={self.arl:g},block={self.block},learn={self.learn},resolution={self.resolution:g},limit={self.limit:g},"
            f"dwell={self.dwell})"
        )

    @cached_property
    def threshold(self) -> float:
        """What the bank's evidence alarms at: the declared run length in blocks, and a margin."""
        return max(2.0, MARGIN * self.arl / self.block)

    @cached_property
    def again(self) -> float:
        """The bank's evidence that keeps an alarm up: while all is calm, one dwell in five or fewer reaches it."""
        return min(self.threshold, 5.0 * self.dwell / self.block)

    @cached_property
    def first(self) -> int:
        """Blocks before the first verdict."""
        return max(3 * WARM, self.learn // self.block)

    def start(self) -> State:
        """Before the first reading."""
        return {"block": [], "count": 0, "last": -1, "warm": []}

    def rearm(self, learned: State, state: State) -> State:
        """As if calm had just been proven: the baseline of `learned`, an earlier state, with the last readings of `state`."""
        if "warm" in learned:
            return learned
        then, now = cast("_Memory", learned), cast("_Memory", state)
        whitener = whitening.carried(then["whitener"], now["whitener"])
        here: _Memory = {**then, "block": now["block"], "last": now["last"], "whitener": whitener}
        return cast("State", {**here, "sums": sequential.start(), "total": 0.0, "alarm": None, "quiet": 0})

    def pardon(self, state: State) -> State:
        """As if the last readings had not been: no evidence, no alarm; the next few blocks only show from what to predict.

        For readings that something else explains. What they taught the baseline stays: a few of hundreds.
        """
        if "warm" in state:
            return {**state, "block": []}
        memory = cast("_Memory", state)
        level = memory["whitener"]["mean"]
        whitener: whitening.Whitener = {**memory["whitener"], "before": [1.0, *[level] * (whitening.SIZE - 1)]}
        calm: _Memory = {**memory, "block": [], "whitener": whitener, "unsettled": whitening.LAGS}
        return cast("State", {**calm, "sums": sequential.start(), "total": 0.0, "alarm": None, "quiet": 0})

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
        whitener = whitening.start()
        for value in warm:
            whitener, _ = whitening.whiten(whitener, (value - centre) / spread, self.resolution / spread, learning=True)
        memory: _Memory = {
            "block": [],
            "count": WARM,
            "last": sequence,
            "centre": centre,
            "spread": spread,
            "heard": [round((value - centre) / spread, HEARD_DIGITS) for value in warm],
            "whitener": whitener,
            "law": laws.start(),
            "refit": 0,
            "bets": None,
            "sums": sequential.start(),
            "total": 0.0,
            "begin": 0,
            "leads": "",
            "alarm": None,
            "unsettled": 0,
            "quiet": 0,
        }
        return cast("State", memory)

    def _judge(self, memory: _Memory, value: float, sequence: int) -> tuple[_Memory, float]:
        """One block further: whiten, rank, add to the bank. Returns the block's score as well."""
        count = memory["count"] + 1
        early = 2 * count <= self.first
        settled, alarmed = not memory["unsettled"], memory["alarm"] is not None
        learning = settled and (count <= self.first or (not alarmed and memory["whitener"]["learned"] < RESTS * self.first))
        spread, floor = memory["spread"], self.resolution / memory["spread"]
        reading = (value - memory["centre"]) / spread
        whitener, error = whitening.whiten(
            memory["whitener"], reading, floor, learning=learning, choosing=early, following=settled and not alarmed
        )
        after: _Memory = {**memory, "block": [], "count": count, "last": sequence, "whitener": whitener}
        if early:
            bounded = max(-whitening.WIDEST, min(whitening.WIDEST, reading))
            after["heard"] = [*memory["heard"][-seasons.MOST + 1 :], round(bounded, HEARD_DIGITS)]
        elif memory["heard"]:
            before, after["heard"] = whitener["before"], []
            after["whitener"] = whitener = {**seasons.choose([*memory["heard"], reading], floor), "before": before}
        law = memory["law"]
        score = laws.score(law, error)
        if learning and not early:
            after["law"] = laws.learn(law, error, score)
            if after["law"]["seen"] >= memory["refit"] or count == self.first:
                self._fit(after)
        if not settled:
            after["unsettled"] = memory["unsettled"] - 1
        elif count > self.first:
            self._add(memory, after, score)
        return after, abs(score)

    def _fit(self, after: _Memory) -> None:
        """Lays the baseline anew over what has been learned."""
        whitener = after["whitener"]
        coarse = whitening.scale(whitener) <= self.resolution / after["spread"]
        after["law"] = law = laws.fit(after["law"], coarse=coarse)
        after["refit"] = math.ceil(law["seen"] * REFIT)
        answer = [*whitening.answer(whitener, sequential.EARLY), whitening.remains(whitener)]
        after["bets"] = sequential.bets(law, whitening.swing(whitener), answer, coarse=coarse)

    def _add(self, memory: _Memory, after: _Memory, score: float) -> None:
        """One score into the bank; begins, goes on with or ends an alarm."""
        if memory["bets"] is None:
            return
        sums = sequential.add(memory["sums"], score, memory["bets"], self.threshold)
        after["sums"], after["total"] = sums, (total := sum(sums))
        if memory["total"] <= self.threshold**HALF_WAY:
            after["begin"] = memory["last"] + 1
        if memory["alarm"] is None:
            if total < self.threshold:
                return
            after["alarm"], after["quiet"], after["leads"] = _since(after), 0, sequential.leading(sums)
        elif total < self.again:
            after["quiet"] = memory["quiet"] + 1
            if after["quiet"] * self.block >= self.dwell:
                after["alarm"], after["quiet"] = None, 0
            return
        else:
            after["quiet"] = 0
        # During an alarm the sums start again whenever they say more than chance does in that time: a change that stays does that.
        after["sums"], after["total"] = sequential.start(), 0.0

    def _say(self, memory: _Memory, score: float) -> Verdict:
        if "warm" in memory or memory["count"] < self.first:
            return Verdict(Status.LEARNING, score)
        evidence = math.log1p(memory["total"]) / math.log1p(self.threshold)
        if memory["alarm"] is not None:
            unusual = 2 * memory["quiet"] * self.block < self.dwell
            return Verdict(Status.ALARM, score, 1.0 + evidence, memory["alarm"], unusual, leads=memory["leads"])
        if evidence >= HALF_WAY:
            return Verdict(Status.SUSPICIOUS, score, evidence, _since(memory), leads=sequential.leading(memory["sums"]))
        return Verdict(Status.NORMAL, score, evidence)


def _since(memory: _Memory) -> int:
    """Where the change began: evidence grows by a factor, so its first half took as long as what came after it."""
    return max(0, 2 * memory["begin"] - (memory["last"] + 1))
