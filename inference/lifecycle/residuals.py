"""How far a picture's labels and a verified model disagree, and the most that golden pictures of the same source disagree.

It decides what disagreement is (four measures, below) and what of it is still usual: the worst golden picture's of that source, or
the prediction limit for one more such picture if that is further. It refuses to call anything poison (`vetting` does), and says
nothing of a source of which too few golden pictures are known. No topic feeds it.

Limits are learned, since each model and source has its own: a hardened model is seldom sure of anybody, and a drawn crowd is seen
less exactly than a photographed couple. A classifier taught on harmed golden labels did worse: of 70 clean pictures it had not
seen it held back more than a third, as golden sets are small.

Source: paper 4.6 (cross-validation against known clean data); prediction limit of one further value, Student's t (Hahn and Meeker
1991, section 4.8): conformal ranks would need hundreds of golden pictures of each source.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped] # ships no types

from inference.networks.targets import NMS_IOU
from streams.events import Box
from streams.sources.base import Person
from streams.sources.scenery import Weather

Sides = tuple[float, float, float, float]
"""Left, top, width, height."""

_ENOUGH = 12  # golden pictures without which a source has no limits of its own
_OFF, _TALLER = 0.05, 0.12  # usual errors of a box: of its middle in heights, of the logarithm of its height
_HEAVY = 4.0  # degrees of freedom: errors have heavy tails
_NONE = 14.0  # the most surprise, e.g. where the model has no box at all
_MEET = 0.25  # overlap (IoU) from which a box may be a label's own
_NEAR = 0.7  # of the height: how far a label may have been moved
_DOUBT = 0.02  # score that is as good as none
_BEYOND = 0.6  # of the height, where a label without an own box has it


class Measure(StrEnum):
    """What is compared."""

    SURPRISE = "surprise"  # of a label: how little any box, however unsure, accounts for its place and size; logarithmic
    BESIDE = "beside"  # of a label: how much surer a box near it, which is nobody's, is than its own; logarithmic
    UNLABELLED = "unlabelled"  # of a box that is no label's: how sure it is; logit
    STIRRED = "stirred"  # of the picture: what squeezing moves of the centre map, 0..1


@dataclass(frozen=True)
class Residual:
    """One disagreement. `value`: larger is worse; `label`: the place of the label it is about; `words` say what it is."""

    measure: Measure
    value: float
    words: str
    label: int | None = None


@dataclass(frozen=True)
class Limits:
    """The most that is usual, by source and measure; `known` are the golden pictures they come from."""

    most: Mapping[str, Mapping[Measure, float]]
    known: int

    def of(self, pool: str) -> Mapping[Measure, float]:
        """Of the pool's source, or of all golden pictures where it has too few of its own; empty where these are too few."""
        return self.most.get(source(pool), self.most.get("", {}))


def source(pool: str) -> str:
    """Where a pool's pictures are from: drawn streets of all weathers are one source."""
    head, _, tail = pool.rpartition("-")
    return head if tail in set(Weather) else pool


def limits(golden: Iterable[tuple[str, Sequence[Residual]]], share: float) -> Limits:
    """What is usual, from each golden picture's pool and residuals.

    Args:
        golden: one pair a picture.
        share: of further pictures like them, 0..1, whose worst value may lie beyond a limit, each measure by itself.
    """
    worst: dict[str, list[dict[Measure, float]]] = {"": []}
    for pool, found in golden:
        own: dict[Measure, float] = {}
        for one in found:
            own[one.measure] = max(own.get(one.measure, -math.inf), one.value)
        worst.setdefault(source(pool), []).append(own)
        worst[""].append(own)
    most: dict[str, dict[Measure, float]] = {}
    for name, pictures in worst.items():
        for measure in Measure:
            values = np.array([one[measure] for one in pictures if measure in one])
            if len(values) >= _ENOUGH:
                reach = stats.t.ppf(1 - share, len(values) - 1) * math.sqrt(1 + 1 / len(values)) * values.std(ddof=1)
                most.setdefault(name, {})[measure] = float(max(values.max(), values.mean() + reach))
    return Limits(most, len(worst[""]))


def residuals(people: Sequence[Person], boxes: Sequence[Box]) -> list[Residual]:
    """All disagreements of a picture's labels (an ignored one only excuses boxes) with a model's boxes of every score.

    Raises ValueError for a label without height.
    """
    counted = [at for at, one in enumerate(people) if not one.ignore]
    scores = np.array([one.score for one in boxes])
    free = np.array([not covered(one, people) for one in boxes], bool)
    if not counted:
        return _unlabelled(boxes, free)
    if not boxes:
        return [Residual(Measure.SURPRISE, _NONE, "the verified model sees nobody anywhere", at) for at in counted]
    labels = np.array([_middle(people[at].box_px) for at in counted])
    seen = np.array([_middle(sides(one)) for one in boxes])
    tall = labels[:, None, 2]
    away = np.hypot(seen[None, :, 0] - labels[:, None, 0], seen[None, :, 1] - labels[:, None, 1]) / tall
    taller = np.log(seen[None, :, 2] / tall)
    apart = (away / _OFF) ** 2 + (taller / _TALLER) ** 2
    surprise = np.minimum((_HEAVY / 2) * np.log1p(apart / _HEAVY) - np.log(scores)[None], _NONE)
    shares = np.array([[overlap(people[at].box_px, sides(one)) for one in boxes] for at in counted])
    own = _matched(shares)
    free &= shares.max(0) < NMS_IOU
    free[own[own >= 0]] = False
    found = []
    for row, at in enumerate(counted):
        best = int(surprise[row].argmin())
        words = f"nearest box of the verified model {away[row, best]:.2f} heights away, {math.exp(taller[row, best]):.2f} as tall"
        found.append(Residual(Measure.SURPRISE, float(surprise[row, best]), words, at))
        near = float((scores * (free & (away[row] < _NEAR))).max())
        mine, off = (float(scores[own[row]]), float(away[row, own[row]])) if own[row] >= 0 else (0.0, _BEYOND)
        backed = mine * math.exp(-((off / (2 * _OFF)) ** 2) / 2)
        words = f"beside a person whom the verified model sees ({near:.2f}) and nobody labels"
        found.append(Residual(Measure.BESIDE, math.log((near + _DOUBT) / (backed + _DOUBT)), words, at))
    return found + _unlabelled(boxes, free)


def overlap(one: Sides, two: Sides) -> float:
    """Intersection over union of two boxes, 0..1."""
    common = shared(one, two)
    return common / (one[2] * one[3] + two[2] * two[3] - common) if common else 0.0


def shared(one: Sides, two: Sides) -> float:
    """The area that two boxes have in common, px^2."""
    wide = min(one[0] + one[2], two[0] + two[2]) - max(one[0], two[0])
    high = min(one[1] + one[3], two[1] + two[3]) - max(one[1], two[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def sides(box: Box) -> Sides:
    """A box as labels have it."""
    return box.x_px, box.y_px, box.w_px, box.h_px


def covered(box: Box, people: Sequence[Person]) -> bool:
    """Whether half of a box lies on somebody who is to be ignored."""
    own = sides(box)
    return any(one.ignore and shared(own, one.box_px) > 0.5 * own[2] * own[3] for one in people)


def _unlabelled(boxes: Sequence[Box], free: NDArray[np.bool_]) -> list[Residual]:
    """The surest box that is no label's; of none, a score of next to nothing, so that a golden picture without any counts too."""
    box = max((one for one, is_free in zip(boxes, free, strict=True) if is_free), key=lambda one: one.score, default=None)
    score = min(1 - _DOUBT / 2, max(_DOUBT / 2, box.score if box else 0.0))
    where = f"a person without a label at {box.x_px:.0f}, {box.y_px:.0f} ({box.h_px:.0f} px): {box.score:.2f}" if box else ""
    return [Residual(Measure.UNLABELLED, math.log(score / (1 - score)), where)]


def _matched(shares: NDArray[np.float64]) -> NDArray[np.intp]:
    """For each label the box that is its own, each box once, best overlap first; -1 for none."""
    left = shares.copy()
    own = np.full(len(left), -1, np.intp)
    while left.max(initial=0.0) > _MEET:
        label, box = np.unravel_index(int(left.argmax()), left.shape)
        own[label] = box
        left[label], left[:, box] = -1.0, -1.0
    return own


def _middle(box: Sides) -> tuple[float, float, float]:
    """Middle (x, y) and height."""
    x, y, w, h = box
    return x + w / 2, y + h / 2, h
