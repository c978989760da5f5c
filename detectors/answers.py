"""What a model answers, held against pictures that stay as they are: answers that are none, and people whom a new model misses.

Decides whether the model's view has changed in a way that the pictures do not explain; refuses to judge while the picture itself is
not usual, and before enough was seen. Drift cannot say this: other weights have baselines of their own. Topic: detections.

Source: paper 4.6 (staged deployment, poisoned models), 4.7 (model performance monitoring).
"""

from dataclasses import dataclass
from typing import TypedDict, cast

from detectors.base import State, Status, Verdict
from detectors.traffic.sighting import Alarm, Sighting, silent, weigh
from detectors.triage.lately import Lately


class _Memory(TypedDict):
    alarm: Alarm


@dataclass(frozen=True)
class Answers:
    """The model answers with nothing, with people everywhere, or is one that nobody ordered: `frames` in a row.

    many: heat over usual that counts as everywhere; steady: spreads from usual within which the picture counts as unchanged.
    """

    frames: int = 12
    many: float = 4.0
    steady: float = 3.0
    dwell: int = 20

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return f"answers(frames={self.frames:g},many={self.many:g},steady={self.steady:g},dwell={self.dwell:g})"

    def start(self) -> State:
        """Before the first frame."""
        return _silent()

    def step(self, state: State, seen: Sighting) -> tuple[State, Verdict]:
        """One frame further; never raises."""
        lately = seen.lately
        if lately is None:
            return state, Verdict(Status.REFUSED, reason="nothing is known of what is usual")
        words = ""
        if lately.stranger:
            words = "the weights that answer are not those that the context's order names"
        elif _steady(lately, self.steady) and lately.blank:
            words = "the model sees as good as nothing in pictures that are as usual"
        elif _steady(lately, self.steady) and lately.heat > self.many:
            words = f"the model sees people everywhere, {lately.heat:.0f} times as much as usual, in pictures that are as usual"
        amount = 1.0 if words else -1.0
        return _weighed(state, seen, amount / self.frames, self.dwell, abs(lately.heat - 1.0), words)


@dataclass(frozen=True)
class Newcomer:
    """A model that is new here misses people: whom the one before sees on the same frames, or more than usual are gone since.

    agreement, missed: of the two models on the same frames, below and above which it counts. share: people and heat over usual
    below which it counts since the model is new, for `fresh` frames; steady: as above. frames: in a row.
    """

    agreement: float = 0.85
    missed: float = 0.25
    share: float = 0.8
    fresh: int = 600
    steady: float = 3.0
    frames: int = 24
    dwell: int = 40

    @property
    def name(self) -> str:
        """Every parameter that can change a verdict."""
        return (
            f"newcomer(agreement={self.agreement:g},missed={self.missed:g},share={self.share:g},fresh={self.fresh:g},"
            f"steady={self.steady:g},frames={self.frames:g},dwell={self.dwell:g})"
        )

    def start(self) -> State:
        """Before the first frame."""
        return _silent()

    def step(self, state: State, seen: Sighting) -> tuple[State, Verdict]:
        """One frame further; never raises."""
        lately = seen.lately
        if lately is None:
            return state, Verdict(Status.REFUSED, reason="nothing is known of what is usual")
        words = ""
        if lately.agreement < self.agreement and lately.missed > self.missed:
            words = f"the new model does not see {lately.missed:.0%} of the people that the one before it sees on the same frames"
        elif lately.newcomer < self.fresh and _steady(lately, self.steady) and max(lately.people, lately.heat) < self.share:
            words = f"since a new model answers, {1 - lately.people:.0%} fewer people are seen in pictures that are as usual"
        amount = 1.0 if words else -1.0
        return _weighed(state, seen, amount / self.frames, self.dwell, lately.missed, words)


def _silent() -> State:
    memory: _Memory = {"alarm": silent()}
    return cast("State", memory)


def _steady(lately: Lately, within: float) -> bool:
    return lately.known and lately.seen and lately.picture < within


def _weighed(state: State, seen: Sighting, amount: float, dwell: int, score: float, words: str) -> tuple[State, Verdict]:  # noqa: PLR0917 only the two above call it
    alarm, verdict = weigh(cast("_Memory", state)["alarm"], seen.sequence, amount, dwell=dwell, score=score, words=words)
    after: _Memory = {"alarm": alarm}
    return cast("State", after), verdict
