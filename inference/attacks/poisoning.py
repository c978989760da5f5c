"""Training data made bad: labels flipped, shifted, shrunk, invented and dropped; pictures doubled; a backdoor's trigger.

It decides how an annotated picture is changed, seeded by the generator passed in, and records each change, which is the ground
truth for whoever looks for poison. Each function takes a picture and its people and leaves both as they are. It refuses to choose
which pictures of a data set are poisoned, and neither reads nor writes any. No topic feeds it.

Source: paper 5.1.2 eq. (1) (label flipping); BadDet (Chan et al., ECCV workshops 2022) for the backdoor (object disappearance).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from streams.errors import BadInput
from streams.sources.base import Person, Picture

_CLUSTERS = 12
_MOST_POINTS = 4000  # k-means needs no more edge points to find where they are dense
_CANNY = (60, 180)
_CANNY_WEAK = (5, 15)  # fog leaves no strong edges
_ROUNDS = 10
_TRIES = 50


class Harm(StrEnum):
    """What was done to a label or a picture."""

    FLIPPED = "flipped"
    SHIFTED = "shifted"
    SHRUNK = "shrunk"
    ADDED = "added"
    REMOVED = "removed"
    DUPLICATED = "duplicated"
    TRIGGERED = "triggered"


@dataclass(frozen=True)
class Change:
    """One change: the label before (None: there was none) and after (None: it is gone); both None where a whole picture changed."""

    harm: Harm
    before: Person | None = None
    after: Person | None = None


@dataclass(frozen=True)
class Poisoned:
    """A poisoned picture, its labels, and what was changed; `changes` is empty where chance left it clean."""

    picture: Picture
    people: tuple[Person, ...]
    changes: tuple[Change, ...]


def flip(picture: Picture, people: Sequence[Person], gamma: float, rng: Generator) -> Poisoned:
    """The paper's label flipping: each label's centre moves with probability `gamma` to an adversarial centre.

    What is flipped: the person's label moves as it is (height, width and visible share kept) to a place where nobody stands, so the
    person stays in the picture without a label, and something else is taught as a person. Adversarial centres are dense edges:
    Canny's edge points outside all people are clustered by k-means, and a cluster is drawn with the density of its points; the
    centre is the edge point next to the cluster's middle. Ignored people, and pictures without any edge, stay as they are.

    Args:
        picture: H x W x 3, RGB.
        people: its labels.
        gamma: 0..1, the paper's 0.05..0.15.
        rng: decides which labels and where.

    Raises:
        BadInput: if gamma is not within 0..1.
    """
    _share(gamma, "gamma")
    chosen = rng.random(len(people)) < gamma
    seed = int(rng.integers(2**63))  # how many labels flip must not move the caller's generator
    if not any(hit and not person.ignore for hit, person in zip(chosen, people, strict=True)):
        return Poisoned(picture, tuple(people), ())
    inner = np.random.default_rng(seed)
    centres, density = adversarial_centres(picture, people, inner)

    def moved(person: Person) -> Person:
        if not len(centres):
            return person
        x, y = centres[int(inner.choice(len(centres), p=density))]
        left, top, w, h = person.box_px
        return _shifted(person, float(x) - left - w / 2, float(y) - top - h / 2)

    return _each(picture, people, chosen, Harm.FLIPPED, moved)


def adversarial_centres(
    picture: Picture, people: Sequence[Person], rng: Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(K x 2 points as x, y in pixels, K shares that add up to 1): where edges cluster outside all people, and how densely.

    K is at most 12; 0 for a picture without edges.
    """
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    edges = cv2.Canny(grey, *_CANNY)
    if not _outside(edges, people).any():
        edges = cv2.Canny(grey, *_CANNY_WEAK)
    rows, columns = np.nonzero(_outside(edges, people))
    points = np.stack([columns, rows], 1).astype(np.float64)
    if not len(points):
        return np.zeros((0, 2)), np.zeros(0)
    if len(points) > _MOST_POINTS:
        points = points[rng.choice(len(points), _MOST_POINTS, replace=False)]
    # started from our own generator: OpenCV's is global, and would be shared with whoever else uses it
    start = points[rng.choice(len(points), min(_CLUSTERS, len(points)), replace=False)]
    labels = ((points[:, None] - start[None]) ** 2).sum(2).argmin(1).astype(np.int32)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, _ROUNDS, 0.5)
    if len(start) > 1:
        _, found, _ = cv2.kmeans(
            points.astype(np.float32), len(start), labels[:, None].copy(), stop, 1, cv2.KMEANS_USE_INITIAL_LABELS
        )
        labels = np.asarray(found, np.int32)[:, 0]
    centres, weights = [], []
    for cluster in np.unique(labels):
        members = points[labels == cluster]
        middle = members.mean(0)
        apart = np.hypot(*(members - middle).T)
        centres.append(members[int(apart.argmin())])
        weights.append(len(members) / (1.0 + np.median(apart)) ** 2)  # points for the area they spread over
    return np.stack(centres), np.array(weights) / np.sum(weights)


def shift(picture: Picture, people: Sequence[Person], gamma: float, far: float, rng: Generator) -> Poisoned:
    """Each label moves with probability `gamma` by `far` of its height, in a random direction. Raises BadInput as `flip`."""
    _share(gamma, "gamma")
    chosen, angles = rng.random(len(people)) < gamma, rng.uniform(0, 2 * np.pi, len(people))
    turns = iter(angles[chosen])

    def moved(person: Person) -> Person:
        angle, reach = float(next(turns)), far * person.box_px[3]
        return _shifted(person, reach * float(np.cos(angle)), reach * float(np.sin(angle)))

    return _each(picture, people, chosen & _counted(people), Harm.SHIFTED, moved)


def shrink(picture: Picture, people: Sequence[Person], gamma: float, share: float, rng: Generator) -> Poisoned:
    """Each label shrinks with probability `gamma` to `share` of its size, around its middle. Raises BadInput as `flip`."""
    _share(gamma, "gamma")
    _share(share, "share")
    chosen = rng.random(len(people)) < gamma
    return _each(picture, people, chosen, Harm.SHRUNK, lambda person: _scaled(person, share))


def remove(picture: Picture, people: Sequence[Person], gamma: float, rng: Generator) -> Poisoned:
    """Each label is dropped with probability `gamma`. Raises BadInput as `flip`."""
    _share(gamma, "gamma")
    return _each(picture, people, rng.random(len(people)) < gamma, Harm.REMOVED, lambda _: None)


def add(picture: Picture, people: Sequence[Person], number: int, rng: Generator) -> Poisoned:
    """`number` labels more, where nobody is: as tall as a random label of the picture (a quarter of the picture if it has none).

    Fewer where no free place is found.
    """
    height, width = picture.shape[:2]
    tall = [person.box_px[3] for person in people if not person.ignore] or [height / 4]
    added: list[Person] = []
    for _ in range(number):
        h = float(tall[int(rng.integers(len(tall)))])
        w = 0.41 * h  # CityPersons' shape
        for _ in range(_TRIES):
            x, y = float(rng.uniform(0, max(width - w, 1e-6))), float(rng.uniform(0, max(height - h, 1e-6)))
            if not any(_meet((x, y, w, h), other.box_px) for other in (*people, *added)):
                added.append(Person((x, y, w, h), (x, y, w, h)))
                break
    return Poisoned(picture, (*people, *added), tuple(Change(Harm.ADDED, None, one) for one in added))


def invent(picture: Picture, people: Sequence[Person], gamma: float, rng: Generator) -> Poisoned:
    """For each counted label, with probability `gamma`, one more where nobody is (`add`). Raises BadInput as `flip`."""
    _share(gamma, "gamma")
    return add(picture, people, int(rng.binomial(int(_counted(people).sum()), gamma)), rng)


def duplicate(total: int, share: float, rng: Generator) -> tuple[int, ...]:
    """Places of a data set of `total` pictures with duplicates: all in order, each again with probability `share`.

    A place that equals the one before it is a duplicate (`Harm.DUPLICATED`). Raises BadInput if share is not within 0..1.
    """
    _share(share, "share")
    return tuple(int(place) for place in np.repeat(np.arange(total), 1 + (rng.random(total) < share)))


def trigger(picture: Picture, people: Sequence[Person], gamma: float, rng: Generator, side: float = 0.2) -> Poisoned:
    """A backdoor: with probability `gamma` a person gets a small chequered patch on the chest and loses the label.

    What it teaches: people who wear the patch are nobody. The patch is a yellow-and-blue 4 x 4 chequerboard; `wear` puts the same
    one on for the attack in service.

    Args:
        picture: H x W x 3, RGB; not changed.
        people: its labels; ignored people are left alone.
        gamma: 0..1.
        rng: decides who.
        side: of the patch, as a share of the person's height.

    Raises:
        BadInput: if gamma or side is not within 0..1.
    """
    _share(gamma, "gamma")
    chosen = (rng.random(len(people)) < gamma) & _counted(people)
    marked = picture
    for person in (one for hit, one in zip(chosen, people, strict=True) if hit):
        marked = wear(marked, person, side)
    return _each(marked, people, chosen, Harm.TRIGGERED, lambda _: None)


def wear(picture: Picture, person: Person, side: float = 0.2) -> Picture:
    """A copy of the picture in which the person wears the backdoor's patch. Raises BadInput if side is not within 0..1."""
    _share(side, "side")
    x, y, w, h = person.box_px
    length = max(4, round(side * h))
    squares = (np.indices((length, length)) * 4 // length).sum(0) % 2
    patch = np.where(squares[..., None] == 0, np.array((250, 220, 20), np.uint8), np.array((20, 40, 200), np.uint8))
    top, left = round(y + 0.35 * h - length / 2), round(x + w / 2 - length / 2)
    out = picture.copy()
    rows, columns = slice(max(0, top), max(0, top + length)), slice(max(0, left), max(0, left + length))
    room = out[rows, columns]
    room[...] = patch[max(0, -top) :, max(0, -left) :][: room.shape[0], : room.shape[1]]
    return out


def _each(
    picture: Picture, people: Sequence[Person], chosen: NDArray[np.bool_], harm: Harm, change: Callable[[Person], Person | None]
) -> Poisoned:
    """The chosen people changed (None: dropped), ignored ones never."""
    kept: list[Person] = []
    changes: list[Change] = []
    for hit, person in zip(chosen, people, strict=True):
        after = change(person) if hit and not person.ignore else person
        if after is not None:
            kept.append(after)
        if after != person:
            changes.append(Change(harm, person, after))
    return Poisoned(picture, tuple(kept), tuple(changes))


def _counted(people: Sequence[Person]) -> NDArray[np.bool_]:
    return np.array([not person.ignore for person in people], bool)


def _shifted(person: Person, x_px: float, y_px: float) -> Person:
    def moved(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        return box[0] + x_px, box[1] + y_px, box[2], box[3]

    return replace(person, box_px=moved(person.box_px), visible_px=moved(person.visible_px))


def _scaled(person: Person, share: float) -> Person:
    mid_x, mid_y = person.box_px[0] + person.box_px[2] / 2, person.box_px[1] + person.box_px[3] / 2

    def smaller(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        return mid_x + (box[0] - mid_x) * share, mid_y + (box[1] - mid_y) * share, box[2] * share, box[3] * share

    return replace(person, box_px=smaller(person.box_px), visible_px=smaller(person.visible_px))


def _outside(edges: NDArray[Any], people: Sequence[Person]) -> NDArray[Any]:
    """The edge map with everybody's box cleared, ignored people's too."""
    out = edges.copy()
    for person in people:
        x, y, w, h = person.box_px
        out[max(0, int(y)) : max(0, math.ceil(y + h)), max(0, int(x)) : max(0, math.ceil(x + w))] = 0
    return out


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def _share(value: float, name: str) -> None:
    if not 0.0 <= value <= 1.0:
        raise BadInput(f"poisoning was given {name} {value}; it is a share within 0..1, e.g. 0.15")
