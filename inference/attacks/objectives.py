"""What an attack is after: any error, people who vanish, or people who are not there.

It decides which cells of a centre map stand for somebody and which for nobody, and turns an objective into a number to raise. It
moves no pixel. No topic feeds it.

Source: untargeted, paper 5.1.2 eq. (2); vanishing and fabrication after TOG (Chow et al., ESORICS 2020), here on centre maps.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from inference.networks.csp_nano import STRIDE
from inference.networks.targets import Targets, draw, losses, stack
from streams.sources.base import Person

_REACH = 1 / 3  # a box of the right size moved by a third of its width or height still overlaps by one half


class Objective(StrEnum):
    """What an attack raises."""

    UNTARGETED = "untargeted"  # the training loss against the people
    HIDE = "hide"  # people vanish: what their cells say is lowered
    APPEAR = "appear"  # people appear: what cells outside all people say is raised


class Ground(NamedTuple):
    """Who stands where, as float32 masks of cells, N x 1 x h x w."""

    somebody: Tensor
    """1 where a centre would be that of a counted person: within a third of the box's width and height from its middle."""
    nobody: Tensor
    """1 outside all boxes, those of ignored people too."""


def ground(people: Sequence[Sequence[Person]], height_px: int, width_px: int, device: torch.device | None = None) -> Ground:
    """Masks of N pictures of height x width px (multiples of 4), on the device."""
    rows, columns = height_px // STRIDE, width_px // STRIDE
    somebody = torch.zeros(len(people), 1, rows, columns)
    nobody = torch.ones(len(people), 1, rows, columns)
    for index, persons in enumerate(people):
        for person in persons:
            x, y, w, h = (side / STRIDE for side in person.box_px)
            nobody[index, 0, _cells(y, y + h), _cells(x, x + w)] = 0.0
            if not person.ignore:
                mid_y, mid_x = y + h / 2, x + w / 2
                near = (_cells(mid_y - h * _REACH, mid_y + h * _REACH), _cells(mid_x - w * _REACH, mid_x + w * _REACH))
                somebody[index, 0, near[0], near[1]] = 1.0
    return Ground(somebody.to(device), nobody.to(device))


def rising(
    network: nn.Module, people: Sequence[Sequence[Person]], clean: Tensor, objective: Objective
) -> Callable[[Tensor], Tensor]:
    """The scalar that an attack on the N padded pictures `clean` raises, as a function of such pictures."""
    height_px, width_px, device = clean.shape[2], clean.shape[3], clean.device
    if objective is Objective.UNTARGETED:
        return raised_loss(network, stack([draw(some, height_px, width_px) for some in people], device))
    masks = ground(people, height_px, width_px, device)

    def centres(pictures: Tensor) -> Tensor:
        with torch.autocast(pictures.device.type, dtype=torch.bfloat16):
            centre = network(pictures).centre
        # its slope is what a cell says, so cells that matter to a threshold weigh most
        said = nnf.softplus(centre.float())
        return -(said * masks.somebody).sum() if objective is Objective.HIDE else (said * masks.nobody).sum()

    return centres


def raised_loss(network: nn.Module, targets: Targets) -> Callable[[Tensor], Tensor]:
    """The training loss against the targets, as a function of the pictures."""

    def loss(pictures: Tensor) -> Tensor:
        with torch.autocast(pictures.device.type, dtype=torch.bfloat16):  # only the gradient's sign is used
            maps = network(pictures)
        return losses(maps, targets).total

    return loss


def _cells(start: float, stop: float) -> slice:
    first = max(0, int(start))
    return slice(first, max(first + 1, int(-(-stop // 1)), 0))
