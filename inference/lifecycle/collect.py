"""What a retraining run sees: golden pictures, drawn or shared ones, and live ones of the context's own cameras, vetted.

It decides which pictures come together and what they are called; it refuses pictures that were set aside, data of which less than a
tenth is golden, and to mend what vetting found: that is held back, with reasons. No topic feeds it.

Live pictures have no truth. Their labels are where the context's two models agree; where only one sees somebody, nobody is counted
(ignored), so that an attack on one of them cannot teach the new model to miss people.

Source: paper 4.6 (cleaned datasets, golden dataset of at least 10 %, multi-stage validation).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from inference.lifecycle.findings import Finding
from inference.lifecycle.golden import SHARE, open_golden
from inference.lifecycle.held import reviewed
from inference.lifecycle.residuals import overlap
from inference.lifecycle.traits import Reference
from inference.lifecycle.vetting import Answer, Rules, ask, fit, known, vet
from inference.provenance.lineage import Material
from inference.provenance.manifest import Manifest, manifest_of
from inference.provenance.registry import Registry
from inference.service.serving import Served, load
from inference.training.pools import VALIDATION_SEEDS, Pools, sources_of, training_pools
from inference.training.samples import Sample, shaped, streets
from inference.training.train import PRESETS
from infra.settings import Settings
from streams.errors import BadInput
from streams.events import Box, Context
from streams.sources.base import Picture
from streams.sources.scenery import Weather

Report = Callable[[str, int, int, float], None]
"""Told how far the run is: step, done, of, seconds left."""


@dataclass(frozen=True)
class Vetting:
    """What came of vetting a run's pictures: how many were looked at, which are held back, and why."""

    offered: int
    refused: Sequence[Sample]
    findings: tuple[Finding, ...]


Tell = Callable[[Vetting], object]
"""Told what vetting said before anything is trained on the rest."""

GOLDEN_SHARE = 0.3
"""Of the crops of every batch."""
_LIVE_SHARE = 0.3  # of what is not golden
_AGREES = 0.5  # intersection over union at which two models mean the same person
_PLACES, _EACH, _SHOTS = 5000, 1, (0, 70)  # drawn places that no figure and no demonstration uses, how many a weather


class Budget(StrEnum):
    """How much a run may cost."""

    SHORT = "short"  # about a minute of training on two busy cores
    FULL = "full"


@dataclass(frozen=True)
class LivePicture:
    """A picture of one of the context's cameras; `digest` is the SHA-256 of its encoded bytes."""

    digest: str
    camera_id: str
    picture: Picture


@dataclass(frozen=True)
class Plan:
    """What is to be made, from which models, and which live pictures may be seen. `set_aside`: digests that may not."""

    rollout_id: str
    incident_id: str
    context: Context
    normal_digest: str
    safe_digest: str
    budget: Budget
    live: Sequence[LivePicture]
    set_aside: frozenset[str]
    requested_by: str

    @property
    def short(self) -> bool:
        """Whether the budget is the short one."""
        return self.budget is Budget.SHORT

    @property
    def seed(self) -> int:
        """The run's seed: the same rollout trains the same way."""
        return int(self.rollout_id[:7], 16)


@dataclass(frozen=True)
class Collected:
    """What a run trains on (golden pictures first, `shares` of crops by group), and what was held back, with reasons.

    The validation pictures of a full budget are none that it trains on, golden ones included.
    """

    pools: Pools
    shares: tuple[float, ...]
    materials: tuple[Material, ...]
    held: tuple[Finding, ...]


def collect(plan: Plan, settings: Settings, registry: Registry, *, threads: int, report: Report, tell: Tell) -> Collected:
    """Open, label, draw and vet what the run trains on. What people released is not held back again (`held.reviewed`).

    Raises:
        Unavailable: without a golden set, or without the shared data of a full budget.
        BadInput: if less than a tenth of it is golden.
        Tampered: if golden data or a model was changed.
    """
    report("opening the golden dataset", 0, 1, 0.0)
    golden = open_golden(settings)
    safe, normal = (load(registry, digest, threads=threads) for digest in (plan.safe_digest, plan.normal_digest))
    report("collecting pictures", 0, 1, 0.0)
    live = labelled(plan, safe, normal)
    pools = _drawn(plan) if plan.short else training_pools(settings.shared_data)
    known_good = {(one.origin, one.name) for one in golden.samples}
    fresh = [one for group in (*pools.groups, live) for one in group if (one.origin, one.name) not in known_good]
    findings = reviewed(settings, fresh, vetted(fresh, (safe, normal), golden.samples, golden.golden.statistics, report))
    fit_ones, refused = fit(fresh, findings)
    tell(Vetting(len(fresh), refused, findings))
    total = len(golden.samples) + len(fit_ones)
    if len(golden.samples) < SHARE * total:
        raise BadInput(f"{len(golden.samples)} golden pictures are less than {SHARE:.0%} of {total}: have more of them reviewed")
    kept = {(one.origin, one.name) for one in fit_ones}
    groups = [[one for one in group if (one.origin, one.name) in kept] for group in (*pools.groups, live)]
    usual = (1.0,) if plan.short else PRESETS["csp-nano-safe"].shares
    wanted = (*(share * (1 - _LIVE_SHARE) for share in usual), _LIVE_SHARE)
    filled = [(group, share) for group, share in zip(groups, wanted, strict=True) if group]
    scale = (1 - GOLDEN_SHARE) / sum(share for _, share in filled) if filled else 0.0
    return Collected(
        pools=Pools(
            (golden.samples, *(group for group, _ in filled)),
            [one.picture for one in fit_ones if not one.people],
            () if plan.short else [one for one in judges() if (one.origin, one.name) not in known_good],
        ),
        shares=(GOLDEN_SHARE if filled else 1.0, *(share * scale for _, share in filled)),
        materials=(golden.golden.manifest.material(), _manifest(plan, fit_ones).material()),
        held=findings,
    )


def judges() -> list[Sample]:
    """What a full run's epochs are judged by: drawn places of all weathers that no model of ours was trained on.

    No photographs: the model that a run begins with has learnt those that are not held out.
    """
    return [one for weather in Weather for one in streets(Context.URBAN, weather, VALIDATION_SEEDS, _SHOTS)]


def vetted(
    samples: Sequence[Sample], models: Sequence[Served], golden: Sequence[Sample], numbers: Reference, report: Report
) -> tuple[Finding, ...]:
    """What vetting finds when each of these models is asked in turn, each finding once.

    Two are asked because the normal one may be what the incident is about, and the safe one is too seldom sure of anybody to miss a
    label that is gone (`kerbwatch data trial`): what either holds against a picture counts.
    """
    found: list[Finding] = []
    every = [*golden, *samples]
    total, done, began = len(every) * len(models), 0, time.monotonic()
    for served in models:
        answers: list[Answer] = []
        for answer in ask(served, every):
            answers.append(answer)
            done += 1
            report("vetting pictures", done, total, (time.monotonic() - began) / done * (total - done))
        trusted = known(numbers, golden, answers[: len(golden)], Rules())
        found += vet(samples, answers[len(golden) :], trusted, Rules())
    return tuple(dict.fromkeys(found))


def labelled(plan: Plan, safe: Served, normal: Served) -> list[Sample]:
    """Live pictures with people where both models see them; who only one sees is ignored. What was set aside stays out."""
    samples = []
    for live in plan.live:
        if live.digest in plan.set_aside:
            continue
        both, alone = agreed(*(served.look([live.picture])[0].boxes for served in (safe, normal)))
        people = [shaped(_sides(box)) for box in both] + [shaped(_sides(box), ignore=True) for box in alone]
        samples.append(Sample(f"live-{live.camera_id}", live.digest[:16], live.picture, tuple(people)))
    return samples


def agreed(first: Sequence[Box], second: Sequence[Box]) -> tuple[list[Box], list[Box]]:
    """(people that both see, by the first's boxes; boxes that only one of them has)."""
    left = list(second)
    both: list[Box] = []
    alone: list[Box] = []
    for box in sorted(first, key=lambda one: -one.score):
        match = max(left, key=lambda other: overlap(_sides(box), _sides(other)), default=None)
        if match is not None and overlap(_sides(box), _sides(match)) >= _AGREES:
            left.remove(match)
            both.append(box)
        else:
            alone.append(box)
    return both, [*alone, *left]


def _sides(box: Box) -> tuple[float, float, float, float]:
    return box.x_px, box.y_px, box.w_px, box.h_px


def _drawn(plan: Plan) -> Pools:
    """Streets of the context in all weathers; for the highway as many of the town, since somebody has to be in them."""
    first = _PLACES + plan.seed % 1000 * _EACH * len(Weather)
    drawn: list[Sample] = []
    for context in dict.fromkeys((plan.context, Context.URBAN)):
        for number, weather in enumerate(Weather):
            drawn += streets(context, weather, range(first + _EACH * number, first + _EACH * (number + 1)), _SHOTS)
    return Pools((drawn,), [])


def _manifest(plan: Plan, samples: Sequence[Sample]) -> Manifest:
    return manifest_of(f"retraining-{plan.rollout_id[:8]}", samples, sources_of(samples))
