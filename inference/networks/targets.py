"""From people to the maps a network should say (targets), how wrong it was (losses), and from maps back to boxes (decoding).

Pure arithmetic on arrays: it knows no network, no file and no time. People are given as CityPersons gives them, by head-to-foot
height with a fixed aspect of 0.41, so a box's width follows from its height, and a person is one cell, its middle. The serving and
the training side of the detector share this module, so that what is learnt is what is read. Boxes leave on the topic `detections`.

Shapes: h x w cells of 4 px (`inference.networks.csp_nano`); N maps stacked. Source: CSP (Liu et al., CVPR 2019) sections 3.2-3.4;
the numbers are checked against upstream's own on two real crops (tests/test_network.py).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as nnf

from inference.networks.csp_nano import STRIDE, Maps
from streams.events import Box
from streams.sources.base import Person

ASPECT = 0.41
"""Width over height of a walking person, as CityPersons draws its boxes."""
NMS_IOU = 0.5
"""Two boxes that overlap by more are one person."""
MOST_CANDIDATES = 1000
"""An attacked picture may light thousands of cells, and suppression is quadratic."""

_GAMMA, _BETA = 2, 4  # focal exponent, and how fast the penalty falls off around a middle
_CENTRE_WEIGHT, _HEIGHT_WEIGHT, _OFFSET_WEIGHT = 0.01, 1.0, 0.1
_PATCH = 2  # the height is taught in this many cells around a middle
_EPS = 1e-10
_LONGEST = 12.0  # exp(12) cells is beyond any picture: keeps a broken height map from overflowing


class Targets(NamedTuple):
    """What the maps should be; float32, N x 1 x h x w, offsets N x 2 x h x w."""

    middle: Tensor  # K: 1 in the cell of a person's middle
    bump: Tensor  # G: Gaussian over each box, 0..1
    judged: Tensor  # M: 0 where an ignored person stands
    height: Tensor  # ln(height in cells)
    height_known: Tensor  # 1 where `height` counts
    offset: Tensor  # (y, x), -0.5..0.5


class Losses(NamedTuple):
    """The three parts, already weighted (0.01, 1, 0.1): they add up to the loss. Scalars."""

    centre: Tensor
    height: Tensor
    offset: Tensor

    @property
    def total(self) -> Tensor:
        """What training lowers and an attack raises."""
        return self.centre + self.height + self.offset


def draw(people: Sequence[Person], height_px: int, width_px: int) -> Targets:
    """Targets of one picture (N = 1). Ignored people only clear `judged`; others override them.

    Upstream leaves the height patch of a person within two cells of the top or left edge empty, by a slip with negative indices;
    here it is cut at the edge.
    """
    rows, columns = height_px // STRIDE, width_px // STRIDE
    maps = np.zeros((7, rows, columns), dtype=np.float32)
    middle, bump, judged, height, known, off_y, off_x = maps
    judged[:] = 1.0
    for person in (one for one in people if one.ignore):
        a, b, c, d = _corners(person)
        judged[max(0, int(b)) : max(0, math.ceil(d)), max(0, int(a)) : max(0, math.ceil(c))] = 0.0
    for person in (one for one in people if not one.ignore):
        a, b, c, d = _corners(person)
        x, y = int((a + c) / 2), int((b + d) / 2)
        if not (0 <= y < rows and 0 <= x < columns):
            continue  # its middle is outside the picture, so no cell can answer for it
        left, top, right, bottom = max(0, math.ceil(a)), max(0, math.ceil(b)), min(columns, int(c)), min(rows, int(d))
        if right > left and bottom > top:
            shape = np.outer(_gaussian(bottom - top), _gaussian(right - left))
            region = (slice(top, bottom), slice(left, right))
            bump[region] = np.maximum(bump[region], shape)
            judged[region] = 1.0
        middle[y, x] = judged[y, x] = 1.0
        patch = (slice(max(0, y - _PATCH), y + _PATCH + 1), slice(max(0, x - _PATCH), x + _PATCH + 1))
        height[patch] = math.log(max(d - b, 0.5))
        known[patch] = 1.0
        off_y[y, x], off_x[y, x] = (b + d) / 2 - y - 0.5, (a + c) / 2 - x - 0.5
    one = torch.from_numpy(maps)[None]
    return Targets(one[:, 0:1], one[:, 1:2], one[:, 2:3], one[:, 3:4], one[:, 4:5], one[:, 5:7])


def stack(targets: Sequence[Targets], device: torch.device | None = None) -> Targets:
    """Targets of same-sized pictures, one batch."""
    return Targets(*(torch.cat(parts).to(device) for parts in zip(*targets, strict=True)))


def losses(maps: Maps, targets: Targets) -> Losses:
    """How far N pictures' maps are from their targets; float32 whatever the maps came in.

    Sums over cells, divided by the number of people in the whole batch, as CSP does: a batch without people is held to saying
    nothing. Centre: focal, gentle around a middle (gamma 2, beta 4). Height: smooth L1 of the ratio to the target.
    """
    logit = maps.centre.float()
    said = torch.sigmoid(logit)
    people = targets.middle.sum().clamp(min=1.0)
    weight = targets.middle * (1 - said) ** _GAMMA + (targets.judged - targets.middle) * (1 - targets.bump) ** _BETA * said**_GAMMA
    entropy = nnf.binary_cross_entropy_with_logits(logit, targets.middle, reduction="none")
    centre = _CENTRE_WEIGHT * (weight * entropy).sum() / people
    scale = targets.height + _EPS
    # where the height does not count the ratio is meaningless (division by next to nothing), so it is replaced before the loss
    ratio = torch.where(targets.height_known > 0, maps.height.float() / scale, torch.ones_like(scale))
    known = targets.height_known.sum().clamp(min=1.0)
    height = (
        _HEIGHT_WEIGHT * (nnf.smooth_l1_loss(ratio, torch.ones_like(ratio), reduction="none") * targets.height_known).sum() / known
    )
    apart = nnf.smooth_l1_loss(maps.offset.float(), targets.offset, reduction="none")
    offset = _OFFSET_WEIGHT * (apart * targets.middle).sum() / people
    return Losses(centre, height, offset)


def decode(  # noqa: PLR0917 - three maps, and what to make of them
    said: NDArray[np.float32],
    height: NDArray[np.float32],
    offset: NDArray[np.float32],
    size_px: tuple[int, int],
    threshold: float,
    most: int = MOST_CANDIDATES,
) -> tuple[Box, ...]:
    """People in one picture, best first.

    Args:
        said: h x w, the centre map as probabilities. height: h x w, ln(cells). offset: 2 x h x w (y, x), cells.
        height: see above.
        offset: see above.
        size_px: picture height and width; boxes are cut at its far edges and moved in at its near ones, as CSP does.
        threshold: cells that say more are candidates.
        most: so many of the best candidates are looked at; CSP itself has no such bound.
    """
    rows, columns = np.nonzero(said > threshold)
    scores = said[rows, columns]
    best = np.argsort(-scores, kind="stable")[:most]
    rows, columns, scores = rows[best], columns[best], scores[best]
    tall = np.exp(np.minimum(height[rows, columns], _LONGEST)) * STRIDE
    wide = ASPECT * tall
    x = np.maximum((columns + offset[1, rows, columns] + 0.5) * STRIDE - wide / 2, 0.0)
    y = np.maximum((rows + offset[0, rows, columns] + 0.5) * STRIDE - tall / 2, 0.0)
    corners = np.stack([x, y, np.minimum(x + wide, size_px[1]), np.minimum(y + tall, size_px[0])], axis=1)
    inside = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    corners, scores = corners[inside], scores[inside]
    return tuple(
        Box(float(x1), float(y1), float(x2 - x1), float(y2 - y1), min(1.0, float(score)))
        for (x1, y1, x2, y2), score in ((corners[index], scores[index]) for index in _suppress(corners))
    )


def _suppress(corners: NDArray[np.float64]) -> list[int]:
    """Greedy non-maximum suppression of boxes sorted best first (n x 4 corners); CSP's convention counts both edge pixels."""
    areas = (corners[:, 2] - corners[:, 0] + 1) * (corners[:, 3] - corners[:, 1] + 1)
    left = np.arange(len(corners))
    kept = []
    while left.size:
        first, left = int(left[0]), left[1:]
        kept.append(first)
        near = np.maximum(corners[first, :2], corners[left, :2])
        far = np.minimum(corners[first, 2:], corners[left, 2:])
        shared = np.maximum(far - near + 1, 0.0).prod(axis=1)
        left = left[shared / (areas[first] + areas[left] - shared) <= NMS_IOU]
    return kept


def _corners(person: Person) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in cells."""
    x, y, w, h = person.box_px
    return x / STRIDE, y / STRIDE, (x + w) / STRIDE, (y + h) / STRIDE


def _gaussian(length: int) -> NDArray[np.float64]:
    sigma = 0.3 * ((length - 1) * 0.5 - 1) + 0.8
    return np.asarray(np.exp(-((np.arange(length) - length // 2) ** 2) / (2 * sigma**2)), np.float64)
