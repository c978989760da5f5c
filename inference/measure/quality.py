"""How good a detector is at its threshold: recall, precision, average precision, miss rate, false boxes a picture.

Pure counting over boxes on top of `inference.measure.miss_rate`, whose matching it uses; it runs no model and chooses no
threshold. No topic.

Source: PASCAL VOC 2010 (area under the interpolated precision-recall curve); the rest as in `inference.measure.miss_rate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.measure.miss_rate import EVERYBODY, Mode, Setup, annotation, match, summed
from streams.events import Box
from streams.sources.base import Person


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


def measure(
    found: Sequence[Sequence[Box]], people: Sequence[Sequence[Person]], threshold: float, setup: Setup = EVERYBODY
) -> Quality:
    """Compare the boxes found in each picture (any low score included) with the people in it.

    Raises ValueError if there are not as many lists of boxes as lists of people.
    """
    matches = [match([annotation(one) for one in some], boxes, setup) for boxes, some in zip(found, people, strict=True)]
    row = summed(matches, setup, Mode.WINDOWED)
    scores = np.concatenate([one.scores for one in matches]) if matches else np.zeros(0)
    hits = np.concatenate([one.hits for one in matches]) if matches else np.zeros(0, np.bool_)
    order = np.argsort(-scores, kind="stable")
    true = np.cumsum(hits[order], dtype=np.int64)
    above = int((scores > threshold).sum())
    good = int(true[above - 1]) if above else 0
    return Quality(
        pictures=row.images,
        people=row.counted,
        recall=good / row.counted if row.counted else None,
        precision=good / above if above else None,
        average_precision=_area(true, row.counted) if row.counted else None,
        miss_rate=row.log_average_miss_rate,
        false_per_picture=(above - good) / row.images if row.images else 0.0,
    )


def _area(true: NDArray[np.int64], counted: int) -> float:
    if not true.size:
        return 0.0
    best = np.maximum.accumulate((true / np.arange(1, true.size + 1))[::-1])[::-1]
    return float((np.diff(true / counted, prepend=0.0) * best).sum())
