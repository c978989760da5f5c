"""Embeddings: has the kind of picture changed, by numbers that no single feature shows, with a declared run length.

Decides about one camera's embeddings, in order; refuses one of another length, or with a number that is none.
Topic: detections (`Features.embedding`).

Each embedding is reduced to how far it lies from those before it, in their own scatter (Hotelling's T squared with a mean and a
covariance that go on learning at 1/n while nothing is suspected); the logarithm of that is one reading more for `Drift`, which
deals with its dependence, its law and the budget. A change in any direction makes it grow. The price: a shift along one direction
of many stands out less than it would to a test that knew the direction.

Source: Hotelling 1947; Sherman, Morrison 1950 (the inverse covariance, one embedding at a time).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict, cast

import numpy as np

from detectors.base import Observation, State, Status, Verdict
from detectors.drift.feature import Drift

RIDGE = 1e-4  # variance that every direction has before anything is known
NEAREST, FURTHEST = 1e-6, 1e6  # bounds of T squared per dimension
FAR = 4.0  # of it, beyond which an embedding teaches less; honest ones in 16 dimensions lie below 3


class _Memory(TypedDict):
    """The state."""

    learned: int
    mean: list[float]
    inverse: list[list[float]]  # of the sum of squares about the mean
    inner: State


@dataclass(frozen=True)
class EmbeddingDrift:
    """Drift of Hotelling's T squared.

    arl: declared mean embeddings between two false alarms. size: numbers in an embedding, 24 at most for a state of bounded size.
    learn: embeddings before the first verdict. limit: an embedding with a number further from zero is refused.
    """

    arl: int
    size: int = 16
    learn: int = 600
    limit: float = 1e6

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return f"embedding-drift(arl={self.arl:g},size={self.size:g},learn={self.learn:g},limit={self.limit:g})"

    @cached_property
    def inner(self) -> Drift:
        """What judges the distances; the first few say little, and are not shown to it."""
        return Drift(arl=self.arl, learn=self.learn - self.unseen, resolution=1e-2, limit=100.0)

    @cached_property
    def unseen(self) -> int:
        """Embeddings that only teach the mean and the covariance."""
        return 4 * self.size

    def start(self) -> State:
        """Before the first embedding."""
        memory: _Memory = {
            "learned": 0,
            "mean": [0.0] * self.size,
            "inverse": (np.eye(self.size) / RIDGE).tolist(),
            "inner": self.inner.start(),
        }
        return cast("State", memory)

    def pardon(self, state: State) -> State:
        """As if the last embeddings had not been (`Drift.pardon`)."""
        memory = cast("_Memory", state)
        return cast("State", {**memory, "inner": self.inner.pardon(memory["inner"])})

    def step(self, state: State, seen: Observation) -> tuple[State, Verdict]:
        """One embedding (`seen.parts`) further; `state` is left untouched; never raises on any numbers."""
        embedding = seen.parts
        if len(embedding) != self.size:
            return state, Verdict(Status.REFUSED, reason=f"the embedding has {len(embedding)} numbers, not {self.size}")
        if not all(math.isfinite(part) and abs(part) <= self.limit for part in embedding):
            return state, Verdict(Status.REFUSED, reason=f"the embedding holds what is no number within {self.limit:g} of zero")
        memory = cast("_Memory", state)
        learned, inverse = memory["learned"], np.array(memory["inverse"])
        away = np.array(embedding) - np.array(memory["mean"])
        pull = inverse @ away
        reach = float(away @ pull) * learned / (learned + 1)
        inner, verdict = memory["inner"], Verdict(Status.LEARNING)
        if learned >= self.unseen:
            # With n embeddings the squared distance per dimension is near 1 when multiplied by n.
            square = max(NEAREST, min(FURTHEST, reach * learned / self.size))
            inner, verdict = self.inner.step(inner, Observation(seen.sequence, seen.time_s, math.log(square)))
            if square > FAR:  # one frame in the hands of an attacker must not widen what is usual: it teaches as if it lay nearer
                nearer = math.sqrt(FAR / square)
                away, pull, reach = away * nearer, pull * nearer, reach * nearer * nearer
        after: _Memory = {**memory, "inner": inner}
        if verdict.status is not Status.ALARM and learned < 20 * self.learn:
            share = learned / (learned + 1)
            after["learned"] = learned + 1
            after["mean"] = (np.array(memory["mean"]) + away / (learned + 1)).tolist()
            after["inverse"] = (inverse - np.outer(pull, pull) * (share / (1.0 + reach))).tolist() if learned else memory["inverse"]
        return cast("State", after), verdict
