"""How good a detector is on annotated pictures: recall, precision, average precision, log-average miss rate, false boxes a picture.

Pure counting over boxes; it runs no model and chooses no threshold. Matching follows the official CityPersons script as far as it
matters for figures on a model card (greedy by score, IoU 0.5, ignored people take any number of boxes); the miss rate counts a
missing operating point as recall 0, so that too few pictures cannot flatter. No topic feeds it.

Source: Dollar et al., PAMI 2012 (log-average miss rate, nine points from 0.01 to 1 false positive per picture); PASCAL VOC 2010
(area under the precision-recall curve, interpolated).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.events import Box
from streams.sources.base import Person

IOU = 0.5
"""A box that overlaps a person by this much has found that person."""

_REFERENCES = (0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000)  # false positives per picture


@dataclass(frozen=True)
class Quality:
    """Figures over some pictures. Shares 0..1; None where nothing was there to count.

    recall, precision, false_per_picture: of boxes that score more than the threshold. average_precision, miss_rate: of all boxes.
    """

    pictures: int
    people: int
    recall: float | None
    precision: float | None
    average_precision: float | None
    miss_rate: float | None
    false_per_picture: float


def measure(found: Sequence[Sequence[Box]], people: Sequence[Sequence[Person]], threshold: float) -> Quality:
    """Compare the boxes found in each picture (any low score included) with the people in it.

    Raises ValueError if there are not as many lists of boxes as lists of people.
    """
    scores: list[float] = []
    hits: list[bool] = []
    counted = 0
    for boxes, persons in zip(found, people, strict=True):
        counted += sum(not person.ignore for person in persons)
        for score, hit in _match(boxes, persons):
            scores.append(score)
            hits.append(hit)
    order = np.argsort(-np.array(scores), kind="stable")
    right = np.array(hits, bool)[order]
    true, false = np.cumsum(right, dtype=np.int64), np.cumsum(~right, dtype=np.int64)
    above = int((np.array(scores) > threshold).sum())
    good = int(true[above - 1]) if above else 0
    return Quality(
        pictures=len(found),
        people=counted,
        recall=good / counted if counted else None,
        precision=good / above if above else None,
        average_precision=_area(true, false, counted) if counted else None,
        miss_rate=_miss_rate(true / counted, false / len(found)) if counted else None,
        false_per_picture=(above - good) / len(found) if found else 0.0,
    )


def _match(boxes: Sequence[Box], people: Sequence[Person]) -> list[tuple[float, bool]]:
    """(score, is somebody) of each box that counts; boxes on ignored people drop out."""
    counted = [person.box_px for person in people if not person.ignore]
    ignored = [person.box_px for person in people if person.ignore]
    taken: set[int] = set()
    judged = []
    for box in sorted(boxes, key=lambda one: -one.score):
        place = (box.x_px, box.y_px, box.w_px, box.h_px)
        free = [(_shared(place, other) / _union(place, other), at) for at, other in enumerate(counted) if at not in taken]
        overlap, at = max(free, default=(0.0, -1))
        if overlap >= IOU:
            taken.add(at)
            judged.append((box.score, True))
        elif not any(_shared(place, other) / (box.w_px * box.h_px) >= IOU for other in ignored):
            judged.append((box.score, False))
    return judged


def _shared(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    tall = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0.0, wide) * max(0.0, tall)


def _union(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return a[2] * a[3] + b[2] * b[3] - _shared(a, b)


def _area(true: NDArray[np.int64], false: NDArray[np.int64], counted: int) -> float:
    if not true.size:
        return 0.0
    best = np.maximum.accumulate((true / (true + false))[::-1])[::-1]
    return float((np.diff(true / counted, prepend=0.0) * best).sum())


def _miss_rate(recall: NDArray[np.float64], false_per_picture: NDArray[np.float64]) -> float:
    missed = []
    for reference in _REFERENCES:
        reached = recall[false_per_picture <= reference]
        missed.append(1.0 - (float(reached[-1]) if reached.size else 0.0))
    return float(np.exp(np.log(np.maximum(missed, 1e-10)).mean()))
