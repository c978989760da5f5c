"""Which training samples are fit to be trained on: stages that look in turn, each with a reason and a score for what it finds.

It decides what is suspicious: (1) numbers far from the golden set's, (2) labels that a verified model contradicts outright, (3)
more disagreement with it than any golden picture of that source has, (4) pictures that look perturbed, (5) doubles, small patches
that return in many pictures. What has a finding is quarantined, and people decide (R4 and R8); it refuses to mend or drop a sample
by itself. Pure over samples, what is known of the golden set and the verified model's answers (`ask` gets them). No topic feeds it.

Source: paper 4.6 (multi-stage validation: statistical anomalies, cross-validation against known clean data, adversarial screening);
label errors by a trusted model after Northcutt et al. 2021 (confident learning); Xu, Evans, Qi 2018 for stage 4.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from inference.lifecycle.findings import Finding, Stage
from inference.lifecycle.recurrence import Repeated, doubles, recurring
from inference.lifecycle.residuals import Limits, Measure, Residual, covered, limits, overlap, residuals, sides
from inference.lifecycle.traits import Reference, Trait, traits
from inference.service.cues import inconsistency, squeeze
from inference.service.serving import Served
from inference.training.samples import Sample
from streams.events import Box
from streams.sources.base import Person

_STRIDE = 4
_LOW = 0.02  # boxes that score less are not even looked at
_SAID = 0.1  # boxes that score less say nothing by themselves
_TOUCHES = 0.1  # overlap from which a label may be that person's, moved
_REACH = 1 / 3  # a middle moved by a third of a box's sides still finds it (IoU one half)


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits; each was set on clean data so that few of its samples are held back (docs/data-and-gate.md).

    far: how many times the golden set's range a number may lie outside it.
    aspect: how far a label's width over height may be from 0.41.
    unseen: a label where the model says less than this anywhere near its middle is contradicted.
    unlabelled: a person seen by more than this, and by no label, is one whose label is missing.
    edges: share of edge pixels in a box from which a contradicted label is said to lie on mere texture.
    beside: overlap (IoU) of a label with the nearest person seen, below which it was moved.
    inconsistency: what squeezing may move of the centre map, where too few golden pictures are known to say it.
    fine: how many times the golden largest detail may be exceeded.
    recurrence: in how many places a patch must return.
    usual: share of clean pictures that may disagree with the model more than is usual, in each measure (`residuals.limits`).
    """

    far: float = 1.0
    aspect: float = 0.06
    unseen: float = 0.08
    unlabelled: float = 0.65
    edges: float = 0.12
    beside: float = 0.45
    inconsistency: float = 0.35
    fine: float = 1.25
    recurrence: int = 4
    usual: float = 0.005


@dataclass(frozen=True)
class Answer:
    """What a verified model says to one picture.

    boxes: people, from a low score on. heat: ceil(H/4) x ceil(W/4), 0..1. inconsistency: `inference.service.cues.inconsistency`.
    """

    boxes: tuple[Box, ...]
    heat: NDArray[np.float32]
    inconsistency: float


def ask(served: Served, samples: Iterable[Sample]) -> Iterator[Answer]:
    """A verified model's answers, one for each sample in turn; two forward passes each."""
    for sample in samples:
        plain = served.look([sample.picture], _LOW)[0]
        squeezed = served.look([squeeze(sample.picture)], _LOW)[0]
        yield Answer(plain.boxes, plain.heat, inconsistency(plain, squeezed))


@dataclass(frozen=True)
class Known:
    """What is known of the golden set: its numbers, and how far the model that is asked disagrees with its labels."""

    numbers: Reference
    limits: Limits


def known(numbers: Reference, samples: Sequence[Sample], answers: Sequence[Answer], rules: Rules) -> Known:
    """Of golden samples and the model's answers to them; the same model is to be asked about what is vetted."""
    pairs = [(one.origin, _residuals(one, answer)) for one, answer in zip(samples, answers, strict=True)]
    return Known(numbers, limits(pairs, rules.usual))


def vet(samples: Sequence[Sample], answers: Sequence[Answer], golden: Known, rules: Rules) -> tuple[Finding, ...]:
    """All findings, sample by sample. Raises ValueError if there are not as many answers as samples."""
    found = [one for sample, answer in zip(samples, answers, strict=True) for one in examine(sample, answer, golden, rules)]
    found += returning(samples, rules)
    order = {(one.origin, one.name): at for at, one in enumerate(samples)}
    return tuple(sorted(found, key=lambda one: (order[one.pool, one.name], one.stage, one.label or 0)))


def examine(sample: Sample, answer: Answer, golden: Known, rules: Rules) -> list[Finding]:
    """What the stages find that look at one sample by itself (1 to 4)."""
    found = statistics(sample, golden.numbers, rules)
    if any(not _is_box(sample, one) for one in sample.people):
        return found  # the later stages measure by its sides
    found += agreement(sample, answer, rules)
    found += cross_validation(sample, answer, golden.limits)
    return found + adversarial(sample, answer, golden, rules)


def returning(samples: Sequence[Sample], rules: Rules) -> list[Finding]:
    """Stage 5: doubles and triggers, which show only beside other pictures."""
    found = [_repeated(samples, one, Stage.DUPLICATE) for one in doubles(samples)]
    return found + [_repeated(samples, one, Stage.TRIGGER) for one in recurring(samples, rules.recurrence)]


def statistics(sample: Sample, golden: Reference, rules: Rules) -> list[Finding]:
    """Stage 1: labels that are no boxes, and numbers far outside the golden set's of the same pool."""
    for at, person in enumerate(sample.people):
        if not _is_box(sample, person):
            return [_finding(sample, Stage.STATISTICS, "a label is no box within the picture", 1.0, at)]
    found = []
    counted = [at for at, one in enumerate(sample.people) if not one.ignore]
    for at in counted:
        _, _, w, h = sample.people[at].box_px
        if abs(w / h - 0.41) > rules.aspect:
            found.append(_finding(sample, Stage.STATISTICS, f"label of shape {w / h:.2f} where people have 0.41", 1.0, at))
    for trait, values in traits(sample).items():
        known = golden.of(sample.origin, trait)
        if trait is Trait.ASPECT or not len(known):
            continue
        low, high = float(known.min()), float(known.max())
        room = rules.far * max(high - low, 0.02 * max(1.0, abs(high)))
        for place, value in enumerate(values):
            beyond = max(low - room - value, value - high - room)
            if beyond > 0:
                label = counted[place] if len(values) == len(counted) and trait in _OF_LABELS else None
                reason = f"{trait} {value:.3f}, golden ones lie within {low:.3f} to {high:.3f}"
                found.append(_finding(sample, Stage.STATISTICS, reason, min(1.0, 0.5 + beyond / (2 * room)), label))
    return found


def agreement(sample: Sample, answer: Answer, rules: Rules) -> list[Finding]:
    """Stage 2: labels where the verified model sees nobody, people it sees without a label, labels beside the person."""
    found = []
    edges: NDArray[np.uint8] | None = None
    seen = [box for box in answer.boxes if box.score > rules.unlabelled]
    best = [max((overlap(sides(box), one.box_px) for one in sample.people), default=0.0) for box in seen]
    free = [box for box, share in zip(seen, best, strict=True) if share < rules.beside and not covered(box, sample.people)]
    for at, person in enumerate(sample.people):
        if person.ignore:
            continue
        heat = _said(answer.heat, person.box_px)
        near = max((overlap(sides(box), person.box_px) for box in free), default=0.0)
        own = max((overlap(sides(box), person.box_px) for box in answer.boxes if box.score > _SAID), default=0.0)
        if near > _TOUCHES and own < rules.beside:
            reason = f"label beside the person whom the verified model sees: overlap {near:.2f}"
            found.append(_finding(sample, Stage.AGREEMENT, reason, 1.0 - near, at))
        elif heat < rules.unseen:
            if edges is None:
                edges = np.asarray(cv2.Canny(cv2.cvtColor(sample.picture, cv2.COLOR_RGB2GRAY), 60, 180), np.uint8)
            dense = _inside(edges, person.box_px)
            where = f"on texture (edges {dense:.0%})" if dense > rules.edges else "where the verified model sees nobody"
            found.append(_finding(sample, Stage.AGREEMENT, f"label {where}: {heat:.3f}", 1.0 - heat / rules.unseen / 2, at))
    beside = [at for at, one in enumerate(sample.people) if not one.ignore]
    for box in free:
        if not any(overlap(sides(box), sample.people[at].box_px) > 0 for at in beside):
            reason = f"a person without a label at {box.x_px:.0f}, {box.y_px:.0f} ({box.h_px:.0f} px): {box.score:.2f}"
            found.append(_finding(sample, Stage.AGREEMENT, reason, box.score))
    return found


def cross_validation(sample: Sample, answer: Answer, golden: Limits) -> list[Finding]:
    """Stage 3: labels and people about whom sample and model disagree more than in any golden picture of that source."""
    most = golden.of(sample.origin)
    found = []
    for one in _residuals(sample, answer):
        limit = most.get(one.measure, math.inf)
        if one.measure is not Measure.STIRRED and one.value > limit:
            reason = f"{one.words}; {one.measure} {one.value:.2f}, golden pictures stay below {limit:.2f}"
            score = 1.0 - 0.5 * math.exp(limit - one.value)
            found.append(_finding(sample, Stage.CROSS_VALIDATION, reason, score, one.label))
    return found


def adversarial(sample: Sample, answer: Answer, golden: Known, rules: Rules) -> list[Finding]:
    """Stage 4: pictures that are seen otherwise once squeezed, or with more of the finest detail than golden ones have."""
    found = []
    most = golden.limits.of(sample.origin).get(Measure.STIRRED, rules.inconsistency)
    if answer.inconsistency > most:
        reason = f"squeezing changes what the model sees: {answer.inconsistency:.2f}, {most:.2f} is usual at most"
        found.append(_finding(sample, Stage.ADVERSARIAL, reason, answer.inconsistency))
    known = golden.numbers.of(sample.origin, Trait.FINE)
    fine = traits(sample)[Trait.FINE][0]
    if len(known) and fine > rules.fine * float(known.max()):
        reason = f"fine detail {fine:.4f}, golden pictures have {known.max():.4f} at most"
        found.append(_finding(sample, Stage.ADVERSARIAL, reason, min(1.0, fine / (2 * rules.fine * float(known.max())))))
    return found


def fit(samples: Sequence[Sample], findings: Sequence[Finding]) -> tuple[list[Sample], list[Sample]]:
    """(those without a finding, those to be quarantined)."""
    held = {(one.pool, one.name) for one in findings}
    return [one for one in samples if (one.origin, one.name) not in held], [
        one for one in samples if (one.origin, one.name) in held
    ]


_OF_LABELS = (Trait.HEIGHT, Trait.MIDDLE_X, Trait.FOOT_Y)


def _is_box(sample: Sample, person: Person) -> bool:
    """Whether a label lies in its picture, if only with a part; ignored ones count as they are."""
    height, width = sample.picture.shape[:2]
    x, y, w, h = person.box_px
    return all(map(math.isfinite, (x, y, w, h))) and w > 0 and h > 0 and (person.ignore or (-w < x < width and -h < y < height))


def _residuals(sample: Sample, answer: Answer) -> list[Residual]:
    return [*residuals(sample.people, answer.boxes), Residual(Measure.STIRRED, answer.inconsistency, "")]


def _said(heat: NDArray[np.float32], box: tuple[float, float, float, float]) -> float:
    """The most that the centre map says within a third of a box's sides from its middle."""
    x, y, w, h = (side / _STRIDE for side in box)
    rows = slice(max(0, int(y + h / 2 - _REACH * h)), max(1, math.ceil(y + h / 2 + _REACH * h)))
    columns = slice(max(0, int(x + w / 2 - _REACH * w)), max(1, math.ceil(x + w / 2 + _REACH * w)))
    region = heat[rows, columns]
    return float(region.max()) if region.size else 0.0


def _inside(edges: NDArray[np.uint8], box: tuple[float, float, float, float]) -> float:
    x, y, w, h = (round(side) for side in box)
    region = edges[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)]
    return float((region > 0).mean()) if region.size else 0.0


def _finding(sample: Sample, stage: Stage, reason: str, score: float, label: int | None = None) -> Finding:
    return Finding(pool=sample.origin, name=sample.name, stage=stage, reason=reason, score=round(score, 4), label=label)


def _repeated(samples: Sequence[Sample], one: Repeated, stage: Stage) -> Finding:
    return _finding(samples[one.sample], stage, one.reason, one.score)
