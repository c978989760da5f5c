"""Is a candidate as good in service as the model that it is to follow: live figures and what they are held to.

It decides when frames are enough and whether the candidate does worse; it refuses a verdict on fewer frames than the limits ask
for. Pure: the keeper counts (topic `detections`), `rollout.py` asks.

Source: paper 4.6 (staged deployment with performance validation at each stage).
"""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from streams.events import Share, rollout_share


class Limits(Struct, frozen=True, kw_only=True):
    """What a candidate must show in service. Shares 0..1, durations in seconds; "times" are ratios to the serving model.

    compared: frames judged by both before it may serve; served: frames it must serve as a canary; share: of the cameras that the
    canary serves, at least one. agreement: least mean F1 between its boxes and the serving model's. people: it may find so many
    times more or fewer people; latency: take so many times as long; evasion: so many times may the input's mean inconsistency grow
    between shadow and canary. reports_s: workers' time to obey; phase_s: longest time for shadow and for canary; settle_s: time in
    full service before it counts as done; silent_s: a run not heard of for so long makes people look.
    """

    compared: Annotated[int, Meta(ge=1)] = 2000
    served: Annotated[int, Meta(ge=1)] = 2000
    share: Share = 0.2
    agreement: Share = 0.6
    people: Annotated[float, Meta(ge=1.0)] = 1.5
    latency: Annotated[float, Meta(ge=1.0)] = 1.5
    evasion: Annotated[float, Meta(ge=1.0)] = 1.5
    reports_s: float = 15.0
    phase_s: float = 3600.0
    settle_s: float = 600.0
    silent_s: float = 120.0


SHORT = Limits(compared=12, served=24, agreement=0.5, people=2.0, latency=2.0, phase_s=120.0, settle_s=6.0)
"""For demonstrations: a minute instead of hours, and the looser limits that so few frames can hold."""


class Tally(Struct, frozen=True, kw_only=True):
    """Sums over live frames.

    compared: frames judged by candidate and serving model; over these agreement, people (the candidate's; `beside`: the serving
    model's) and infer_ms (`beside_ms`). served: frames that the candidate alone answered for. scored: frames with an
    inconsistency score, and its sum.
    """

    compared: int = 0
    agreement: float = 0.0
    people: int = 0
    beside: int = 0
    infer_ms: float = 0.0
    beside_ms: float = 0.0
    served: int = 0
    scored: int = 0
    inconsistency: float = 0.0

    def plus(self, other: "Tally") -> "Tally":
        """Both together."""
        return Tally(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})

    def since(self, earlier: "Tally") -> "Tally":
        """What came after `earlier`."""
        return Tally(**{name: getattr(self, name) - getattr(earlier, name) for name in self.__struct_fields__})


class Figures(Struct, frozen=True, kw_only=True):
    """A tally as means and ratios, candidate to serving model; None where there was nothing to count."""

    compared: int
    served: int
    agreement: float | None
    people: float | None
    latency: float | None
    inconsistency: float | None

    def __str__(self) -> str:
        """In words, for the record."""
        parts = [f"{self.compared} frames compared"] if self.compared else []
        parts += [f"{self.served} served"] if self.served else []
        parts += [f"agreement {self.agreement:.2f}"] if self.agreement is not None else []
        parts += [f"{self.people:.2f} times the people"] if self.people is not None else []
        parts += [f"{self.latency:.2f} times the time"] if self.latency is not None else []
        return ", ".join(parts)


def figures(tally: Tally) -> Figures:
    """Means and ratios of a tally."""
    return Figures(
        compared=tally.compared,
        served=tally.served,
        agreement=tally.agreement / tally.compared if tally.compared else None,
        people=(tally.people + 1) / (tally.beside + 1) if tally.compared else None,  # one more each: nobody is no ratio
        latency=tally.infer_ms / tally.beside_ms if tally.beside_ms else None,
        inconsistency=tally.inconsistency / tally.scored if tally.scored else None,
    )


def worse(seen: Figures, before: Figures | None, limits: Limits) -> str:
    """In which way the candidate does worse than its limits allow; empty where it does not. `before`: its figures in shadow."""
    if seen.agreement is not None and seen.agreement < limits.agreement:
        return f"agreement {seen.agreement:.2f}, at least {limits.agreement:g} is needed"
    if seen.people is not None and not 1 / limits.people <= seen.people <= limits.people:
        return f"{seen.people:.2f} times the people, {limits.people:g} times more or fewer are allowed"
    if seen.latency is not None and seen.latency > limits.latency:
        return f"{seen.latency:.2f} times the time, {limits.latency:g} are allowed"
    if before is not None and before.inconsistency and (seen.inconsistency or 0.0) > limits.evasion * before.inconsistency:
        return f"input scores {seen.inconsistency:.2f}, {before.inconsistency:.2f} in shadow"
    return ""


def reaching(limits: Limits, rollout_id: str, cameras: Sequence[str]) -> float:
    """The canary's share: what the limits say, or as much as reaches one of the cameras that are there."""
    first = min((rollout_share(rollout_id, camera) for camera in cameras), default=0.0)
    return min(1.0, max(limits.share, first + 2.0**-30))
