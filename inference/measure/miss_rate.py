"""The log-average miss rate of pedestrian detection, exactly as the official CityPersons script computes it, or for short windows.

It decides which people count in a setup, which box has found whom, and what a miss rate is; it reads no file
(`inference.measure.files`) and runs no model. Pure counting. `official` reproduces the script to the last bit that matters, its
quirk below 100 pictures included; `windowed` counts a reference that no operating point reaches as recall 0, so that few pictures
cannot flatter. No topic.

A stream is evaluated in windows:

    recent = Rolling(SETUPS["Reasonable"], pictures=200)
    for truth, found in stream:
        recent.add(truth, found)
        miss_rate = recent.row().log_average_miss_rate

Source: cvgroup-njust/CityPersons, evaluation/eval_script (rules restated in our words); Dollar et al., PAMI 2012, for the
measure; the Caltech toolbox's rule for missing operating points in `windowed`.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from streams.events import Box
from streams.sources.base import Person

REFERENCES = (0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000)
"""False positives a picture at which recall is read; the script's own rounded constants."""
IOU = 0.5
"""A box that overlaps a person by this much has found that person."""

_INFINITE = 1e10  # as the script writes it
_MOST_BOXES = 1000  # best boxes of a picture that are looked at
_LEEWAY = 1.25  # boxes so much outside the heights of a setup are left out
_FLOOR = 1e-10  # a miss rate of 0 at one reference would make the whole mean 0; the windowed one keeps it above this


class Mode(StrEnum):
    """What a reference is worth that no operating point reaches: the final recall (official, a quirk), or nothing."""

    OFFICIAL = "official"
    WINDOWED = "windowed"


@dataclass(frozen=True)
class Setup:
    """Who counts: heights in pixels and visible shares, inclusive at both ends."""

    name: str
    height_px: tuple[float, float]
    visible: tuple[float, float]


def _setup(name: str, low_px: float, high_px: float, low: float, high: float = _INFINITE) -> tuple[str, Setup]:
    return name, Setup(name, (low_px, high_px), (low, high))


SETUPS: Mapping[str, Setup] = dict((
    _setup("Reasonable", 50, _INFINITE, 0.65),
    _setup("Reasonable_small", 50, 75, 0.65),
    _setup("Reasonable_occ=heavy", 50, _INFINITE, 0.2, 0.65),
    _setup("All", 20, _INFINITE, 0.2),
    _setup("bare", 50, _INFINITE, 0.9),
    _setup("partial", 50, _INFINITE, 0.65, 0.9),
    _setup("heavy", 50, _INFINITE, 0.0, 0.65),
    _setup("middle", 75, 100, 0.65),
    _setup("large", 100, _INFINITE, 0.65),
    _setup("Reasonable+Heavy", 50, _INFINITE, 0.2),
))  # fmt: skip
"""The script's four setups, then those that papers add."""
EVERYBODY = Setup("everybody", (0.0, _INFINITE), (0.0, _INFINITE))
"""All who are not marked to be ignored."""


@dataclass(frozen=True)
class Annotation:
    """A person in the truth: full box (left, top, width, height), the height that setups go by, the visible share 0..1."""

    box_px: tuple[float, float, float, float]
    height_px: float
    visible: float
    ignore: bool


@dataclass(frozen=True)
class Match:
    """What one picture adds to a measurement: its boxes' scores by falling score, and whether each found somebody.

    `soaked`: boxes on ignored people, which count neither way. `counted`, `ignored`: people.
    """

    scores: NDArray[np.float64]
    hits: NDArray[np.bool_]
    soaked: int
    counted: int
    ignored: int


class Row(Struct, frozen=True, kw_only=True):
    """One setup's result. `log_average_miss_rate` and `recall_at` (at the nine references) are None where nobody counts."""

    setup: str
    log_average_miss_rate: float | None
    images: int
    counted: int
    ignored: int
    true_positives: int
    false_positives: int
    matched_to_ignored: int
    recall_at: tuple[float, ...] | None


def annotation(person: Person) -> Annotation:
    """A person of a source as truth; the visible share is that of the visible box's area."""
    _, _, width, height = person.box_px
    seen = person.visible_px[2] * person.visible_px[3] / (width * height)
    return Annotation(person.box_px, height, seen, person.ignore)


def evaluate(
    truth: Sequence[Sequence[Annotation]],
    found: Sequence[Sequence[Box]],
    setups: Sequence[Setup] = tuple(SETUPS.values()),
    mode: Mode = Mode.OFFICIAL,
) -> tuple[Row, ...]:
    """One row a setup, in their order.

    Args:
        truth: people of each picture, in the order of the pictures' ids (equal scores are ranked by it); pictures without people
            count.
        found: boxes of the same pictures, any order; equal scores keep theirs.
        setups: who counts.
        mode: see `Mode`.

    Raises:
        ValueError: if there are not as many lists of boxes as of people.
    """
    overlaps = [_Overlaps(people, boxes) for people, boxes in zip(truth, found, strict=True)]
    return tuple(summed([one.match(setup) for one in overlaps], setup, mode) for setup in setups)


def match(people: Sequence[Annotation], boxes: Sequence[Box], setup: Setup) -> Match:
    """Which boxes of one picture have found somebody in a setup: greedy by score, see the module's source."""
    return _Overlaps(people, boxes).match(setup)


def summed(matches: Sequence[Match], setup: Setup, mode: Mode) -> Row:
    """The row that pictures' matches add up to; equal scores are ranked by the order of the pictures."""
    counted = sum(one.counted for one in matches)
    scores = np.concatenate([one.scores for one in matches]) if matches else np.zeros(0)
    hits = np.concatenate([one.hits for one in matches]) if matches else np.zeros(0, np.bool_)
    right = hits[np.argsort(-scores, kind="stable")]
    true, false = np.cumsum(right), np.cumsum(~right)
    recall_at = _recall_at(true / counted, false / len(matches), mode) if counted else None
    return Row(
        setup=setup.name,
        log_average_miss_rate=None if recall_at is None else _averaged(recall_at, mode),
        images=len(matches),
        counted=counted,
        ignored=sum(one.ignored for one in matches),
        true_positives=int(right.sum()),
        false_positives=int((~right).sum()),
        matched_to_ignored=sum(one.soaked for one in matches),
        recall_at=recall_at,
    )


class Rolling:
    """The miss rate of a stream's last pictures, each matched once."""

    def __init__(self, setup: Setup, pictures: int) -> None:
        self._setup = setup
        self._matches: deque[Match] = deque(maxlen=pictures)

    def add(self, people: Sequence[Annotation], boxes: Sequence[Box]) -> None:
        """Take in the next picture; the oldest leaves when the window is full."""
        self._matches.append(match(people, boxes, self._setup))

    def row(self) -> Row:
        """What the window amounts to now."""
        return summed(list(self._matches), self._setup, Mode.WINDOWED)


class _Overlaps:
    """One picture's boxes and people, and how far each pair overlaps; every setup asks the same overlaps."""

    def __init__(self, people: Sequence[Annotation], boxes: Sequence[Box]) -> None:
        self._people = people
        best = sorted(boxes, key=lambda box: -box.score)[:_MOST_BOXES]
        self._scores = np.array([box.score for box in best], np.float64)
        self._heights = np.array([box.h_px for box in best], np.float64)
        mine = np.array([(box.x_px, box.y_px, box.w_px, box.h_px) for box in best], np.float64).reshape(-1, 1, 4)
        theirs = np.array([person.box_px for person in people], np.float64).reshape(1, -1, 4)
        near = np.maximum(mine[..., :2], theirs[..., :2])
        far = np.minimum(mine[..., :2] + mine[..., 2:], theirs[..., :2] + theirs[..., 2:])
        sides = far - near
        shared = np.where((sides > 0).all(-1), sides[..., 0] * sides[..., 1], 0.0)
        area, other = mine[..., 2] * mine[..., 3], theirs[..., 2] * theirs[..., 3]
        self._of_union = shared / (area + other - shared)
        with np.errstate(invalid="ignore"):  # a box so small that its area is 0 lies on nobody
            self._of_box = shared / area

    def match(self, setup: Setup) -> Match:
        """See `match`."""
        low, high = setup.height_px
        out = [not _counts(person, setup) for person in self._people]
        counted = [at for at, ignored in enumerate(out) if not ignored]
        passed = [at for at, ignored in enumerate(out) if ignored]
        kept = np.flatnonzero((self._heights >= low / _LEEWAY) & (self._heights < high * _LEEWAY))
        taken: set[int] = set()
        scores, hits, soaked = [], [], 0
        for box in kept:
            person = _nearest(self._of_union[box], [at for at in counted if at not in taken])
            if person is not None:
                taken.add(person)
            elif _nearest(self._of_box[box], passed) is not None:
                soaked += 1
                continue
            scores.append(self._scores[box])
            hits.append(person is not None)
        return Match(np.array(scores, np.float64), np.array(hits, np.bool_), soaked, len(counted), len(passed))


def _nearest(overlaps: NDArray[np.float64], among: Sequence[int]) -> int | None:
    """Who of `among` overlaps most, and by at least IOU; of equal ones the last."""
    best, nearest = IOU, None
    for at in among:
        if overlaps[at] >= best:
            best, nearest = overlaps[at], at
    return nearest


def _counts(person: Annotation, setup: Setup) -> bool:
    (low, high), (least, most) = setup.height_px, setup.visible
    return not person.ignore and low <= person.height_px <= high and least <= person.visible <= most


def _recall_at(recall: NDArray[np.float64], false_per_picture: NDArray[np.float64], mode: Mode) -> tuple[float, ...]:
    read = []
    for reference in REFERENCES:
        reached = np.flatnonzero(false_per_picture <= reference)
        if reached.size:
            read.append(float(recall[reached[-1]]))
        else:
            read.append(float(recall[-1]) if mode is Mode.OFFICIAL and recall.size else 0.0)
    return tuple(read)


def _averaged(recall_at: tuple[float, ...], mode: Mode) -> float:
    missed = 1.0 - np.array(recall_at)
    if mode is Mode.WINDOWED:
        missed = np.maximum(missed, _FLOOR)
    return float(np.exp(np.log(missed).mean())) if missed.all() else 0.0
