"""Adversarial patches: a rectangle of free pixels, on a person to make them vanish, or beside everybody to make somebody appear.

It decides where the rectangle lies (seeded) and what is in it: projected gradient ascent within it, averaged over small changes of
light and position, so that it works on the next frame too. Not a pixel outside changes, and nothing bounds those inside but
0..255: people see such an attack, and it can be printed. On a copy, as all attacks here; its pictures enter on topic `frames`.

Source: Brown et al. 2017 (adversarial patch, expectation over transformations); Thys et al., CVPRW 2019 (on people).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn

from inference.attacks.batch import LEVELS, believed, load, unhurt, unload
from inference.attacks.gradient import ascend
from inference.attacks.objectives import Objective, rising
from streams.errors import BadInput
from streams.sources.base import Person, Picture

_VIEWS = 2  # changed copies a step: light within 15 %, position within 2 px, which is less than a cell
_LIGHT = 0.15
_SHIFT_PX = 2
_STEP = 24.0  # levels a step, falling to a tenth
_LAST = 0.1
_TRIES = 200


class Place(StrEnum):
    """Where a patch is put, and to what end."""

    PERSON = "person"  # on the chest of the tallest counted person, who is to vanish
    BACKGROUND = "background"  # where nobody is; somebody is to appear


@dataclass(frozen=True)
class Patched:
    """A picture with its patch at (left, top, width, height) in pixels; `target` is who was to vanish."""

    picture: Picture
    rectangle_px: tuple[int, int, int, int]
    target: Person | None


def patch(
    network: nn.Module,
    picture: Picture,
    people: Sequence[Person] | None,
    place: Place,
    rng: Generator,
    *,
    share: float = 0.3,
    steps: int = 30,
) -> Patched:
    """Put an optimised patch into one picture.

    Args:
        network: the white box, N x 3 x H x W to `Maps`; left as it is.
        picture: H x W x 3, uint8 RGB, any size.
        people: who is there; None: those the network sees itself.
        place: where, and so to what end.
        rng: decides place, first pixels and the changes of light and position.
        share: of the person's height (of the picture's height on the background) that the square's side measures, 0..1.
        steps: of one forward and one backward pass over two copies each.

    Raises:
        BadInput: if share is not within 0..1, nobody is there to wear the patch, or no place is free of people.
    """
    if not 0 < share <= 1:
        raise BadInput(f"a patch's share {share} is not within 0..1; it is of a height, e.g. 0.3")
    size_px = (picture.shape[0], picture.shape[1])
    with unhurt(network) as device:
        clean = load([picture], device)
        persons = believed(network, clean, size_px)[0] if people is None else people
        target = _tallest(persons) if place is Place.PERSON else None
        left, top, wide, tall = _on(target, size_px, share) if target else _beside(persons, size_px, share, rng)
        where = torch.zeros_like(clean[:, :1])
        where[:, :, top : top + tall, left : left + wide] = 1.0
        noise = torch.from_numpy(rng.uniform(0, LEVELS, clean.shape).astype(np.float32)).to(device)
        at = torch.where(where > 0, noise, clean)
        # everybody but the target is ignored: hiding is about that one person
        about = [one if one == target else replace(one, ignore=True) for one in persons] if target else list(persons)
        rise = rising(network, [about] * _VIEWS, clean.expand(_VIEWS, -1, -1, -1), _OBJECTIVES[place])
        full = torch.tensor(LEVELS)
        for step in range(steps):
            size = torch.tensor(_STEP * (1 - (1 - _LAST) * step / steps))
            gains = 1 + rng.uniform(-_LIGHT, _LIGHT, _VIEWS)
            shifts = rng.integers(-_SHIFT_PX, _SHIFT_PX + 1, (_VIEWS, 2))

            def seen(now: Tensor, gains: NDArray[np.float64] = gains, shifts: NDArray[np.int64] = shifts) -> Tensor:
                views = [
                    torch.roll(now, (int(down), int(right)), (2, 3)) * float(gain)
                    for gain, (down, right) in zip(gains, shifts, strict=True)
                ]
                return rise(torch.cat(views).clamp(0, LEVELS))

            at = ascend(seen, at, eps=full, step=size, steps=1, origin=clean, where=where)
    return Patched(unload(at, size_px)[0], (left, top, wide, tall), target)


_OBJECTIVES = {Place.PERSON: Objective.HIDE, Place.BACKGROUND: Objective.APPEAR}


def _tallest(people: Sequence[Person]) -> Person:
    counted = [person for person in people if not person.ignore]
    if not counted:
        raise BadInput("nobody in the picture can wear a patch; give people, or put it on the background")
    return max(counted, key=lambda person: person.box_px[3])


def _on(person: Person, size_px: tuple[int, int], share: float) -> tuple[int, int, int, int]:
    x, y, w, h = person.box_px
    side = min(max(1, round(share * h)), *size_px)
    left = int(np.clip(round(x + w / 2 - side / 2), 0, size_px[1] - side))
    return left, int(np.clip(round(y + 0.35 * h - side / 2), 0, size_px[0] - side)), side, side


def _beside(people: Sequence[Person], size_px: tuple[int, int], share: float, rng: Generator) -> tuple[int, int, int, int]:
    side = min(max(1, round(share * size_px[0])), *size_px)
    for _ in range(_TRIES):
        left, top = int(rng.integers(size_px[1] - side + 1)), int(rng.integers(size_px[0] - side + 1))
        boxes = (person.box_px for person in people)
        if all(left >= x + w or x >= left + side or top >= y + h or y >= top + side for x, y, w, h in boxes):
            return left, top, side, side
    raise BadInput(f"no place for a patch of {side} px without people in {size_px[1]} x {size_px[0]} px; take a smaller share")
