"""DeepFool for centre-and-scale detectors: the smallest change of a picture, in L2, that takes its people's centres away.

The decision boundary: a person counts as found while any cell that would make a matching box (within a third of its width and
height from its middle) says more than a bound, which is the smaller of two: the serving threshold, and the most that any cell where
nobody stands says. So a person is lost when they are neither served nor ranked above the background; the attack lowers people's
centres and may raise the strongest empty cell to meet them, which misaligns what is detected. All people of a picture have to be
lost. With one cell this is binary DeepFool; of several, each step solves all their linearised boundaries together (see `walk`).
It refuses nothing about strength but a negative overshoot; what is not crossed within `steps` and `radius` stays uncrossed.
Deterministic, on a copy of the network. Attacked pictures enter on the topic `frames`, like any other.

Source: DeepFool, Moosavi-Dezfooli et al., CVPR 2016, algorithms 1 and 2; paper 5.1.2 (x + (1 + xi) r).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from inference.attacks.batch import LEVELS, believed, load, unhurt, unload
from inference.attacks.objectives import ground
from streams.errors import BadInput
from streams.sources.base import Person, Picture

STEPS = 15
"""Iterations after which DeepFool gives up."""
RADIUS = 0.5
"""Largest root mean square change of a picture's channels, in levels. A street of the synthetic city needs 0.2 to 0.4 on the plain
network, and 0.6 to 2.2 on an adversarially trained one: without a radius DeepFool always wins, and robustness is the distance."""
_NOISE = 0.1  # logits: bfloat16 and float32 differ by less, so what is crossed in the one is in the other
_SLACK = 1e-4  # a gradient shorter than this has no direction


class Walked(NamedTuple):
    """Where a walk ended, N x ...; whether each picture's boundaries are all crossed there, and after how many steps."""

    moved: Tensor
    crossed: Tensor
    steps: Tensor


def deepfool(
    network: nn.Module,
    pictures: Sequence[Picture],
    xi: float,
    people: Sequence[Sequence[Person]] | None = None,
    *,
    threshold: float = 0.3,
    steps: int = STEPS,
    radius: float = RADIUS,
) -> list[Picture]:
    """Same-sized pictures, changed as little as it takes for the network to lose their people.

    Eight-bit rounding would undo small changes, so boundaries are looked at on rounded pictures: a step that rounding undid is
    taken again, further. The overshoot then lengthens the whole change and is rounded too, which moves every channel at least as
    far; the result is looked at once more, and where overshooting went back over the boundary the picture before it is kept.
    There is no cap on a single channel other than 0..255: DeepFool bounds the L2 norm, not the largest change.

    Args:
        network: the white box, N x 3 x H x W to `Maps`; left as it is.
        pictures: H x W x 3, uint8 RGB, all of one size.
        xi: overshoot, at least 0; the paper's 0.01..0.05.
        people: whom to lose; None: those the network sees itself. Ignored people are left alone.
        threshold: what a cell must say to be served, 0..1 (the card's).
        steps: iterations at most, of one forward and one backward pass each.
        radius: root mean square change at most, in levels before rounding; `math.inf` for the textbook's unbounded search.

    Returns:
        New pictures; one without people to lose comes back as it was.

    Raises:
        BadInput: if xi is negative, threshold is not within 0..1, or pictures are not as said.
    """
    if not (xi >= 0 and 0 < threshold < 1):
        raise BadInput(f"DeepFool was given xi {xi} and threshold {threshold}; xi is at least 0, threshold within 0..1")
    with unhurt(network) as device:
        clean = load(pictures, device)
        size_px = (pictures[0].shape[0], pictures[0].shape[1])
        persons = believed(network, clean, size_px) if people is None else people
        margins = centre_margins(network, persons, clean, threshold)
        inside = torch.zeros_like(clean[:1])
        inside[:, :, : size_px[0], : size_px[1]] = 1.0
        moved = walk(margins, clean, xi=xi, steps=steps, radius=radius, whole=True, where=inside).moved
    return unload(moved, size_px)


def centre_margins(
    network: nn.Module, people: Sequence[Sequence[Person]], clean: Tensor, threshold: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """The boundaries of the module's docstring: how far each cell of the centre map is from being lost, N x cells, in logits.

    The function returned takes pictures (n x 3 x H x W) and which of the N these are. Cells that are nobody's are -1 (crossed).
    """
    masks = ground(people, clean.shape[2], clean.shape[3], clean.device)
    served = math.log(threshold / (1 - threshold))

    def margins(pictures: Tensor, which: Tensor) -> Tensor:
        with torch.autocast(pictures.device.type, dtype=torch.bfloat16):
            centre = network(pictures).centre
        logit = centre.float()
        elsewhere = logit.masked_fill(masks.nobody[which] == 0, -math.inf).flatten(1).amax(1)
        bound = elsewhere.clamp(min=-20.0, max=served)[:, None]  # a picture full of people has no elsewhere
        return torch.where(masks.somebody[which].flatten(1) > 0, logit.flatten(1) - bound + _NOISE, -1.0)

    return margins


def class_margins(logits: Callable[[Tensor], Tensor], labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The boundary of a classifier (algorithm 2): that to the nearest other class by linearisation, N x 1.

    Args:
        logits: pictures to N x classes.
        labels: N, the classes to leave.
    """

    def margins(pictures: Tensor, which: Tensor) -> Tensor:
        said = logits(pictures)
        own = said.gather(1, labels[which, None])
        apart = own - said
        lengths = [
            torch.autograd.grad(apart[:, other].sum(), pictures, retain_graph=True)[0].flatten(1).norm(dim=1)
            for other in range(said.shape[1])
        ]
        far = apart.detach().abs() / (torch.stack(lengths, 1) + _SLACK)
        nearest = far.scatter(1, labels[which, None], math.inf).argmin(1, keepdim=True)
        return apart.gather(1, nearest)

    return margins


def walk(
    margins: Callable[[Tensor, Tensor], Tensor],
    clean: Tensor,
    *,
    xi: float,
    steps: int,
    radius: float = math.inf,
    whole: bool = False,
    where: Tensor | None = None,
) -> Walked:
    """DeepFool's iteration over any boundaries, a batch at once; pictures that have crossed drop out of it.

    A step goes along g, the sum of m grad m over the margins m > 0, by (sum of m^2) / |g|^2. With one margin that is DeepFool's
    m grad m / |grad m|^2; with several it is exact where their gradients are equally long and either at right angles or the same.

    Args:
        margins: pictures, and their places in the batch, to N x K numbers: positive before a boundary, not after. All have to be
            crossed.
        clean: N x ..., 0..255.
        xi: overshoot, applied at the end.
        steps: at most.
        radius: root mean square of the change at most, before the overshoot and rounding.
        whole: pictures are rounded to whole levels, and margins taken there.
        where: 1 where pixels may move (1 x ...); None: everywhere.
    """
    change = torch.zeros_like(clean)
    crossed = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
    taken = torch.zeros(len(clean), dtype=torch.long, device=clean.device)
    longest = radius * math.sqrt(clean[0].numel() if where is None else float(where.sum()))

    def put(length: float, which: Tensor) -> Tensor:
        at = (clean[which] + length * change[which]).clamp(0.0, LEVELS)
        return at.round() if whole else at

    for step in range(steps + 1):
        active = torch.nonzero(~crossed).flatten()
        if not len(active):
            break
        at = put(1.0, active).requires_grad_()
        left = margins(at, active).clamp(min=0.0)
        square = left.detach().square().sum(1)
        crossed[active] = square == 0
        taken[active] = step
        if step == steps or not bool((square > 0).any()):
            continue
        pull = torch.autograd.grad(0.5 * left.square().sum(), at)[0]
        if where is not None:
            pull = pull * where
        length = pull.flatten(1).square().sum(1)
        far = torch.where(length > _SLACK**4, square / length.clamp(min=_SLACK**4), 0.0)
        moved = change[active] - far.view(-1, *[1] * (clean.ndim - 1)) * pull
        if not whole:
            moved = (clean[active] + moved).clamp(0.0, LEVELS) - clean[active]
        norm = moved.flatten(1).norm(dim=1).clamp(min=_SLACK)
        change[active] = moved * (longest / norm).clamp(max=1.0).view(-1, *[1] * (clean.ndim - 1))
    everyone = torch.arange(len(clean), device=clean.device)
    final = put(1 + xi, everyone)
    again = margins(final.requires_grad_(), everyone).detach().amax(1) <= 0
    back = crossed & ~again  # the overshoot went round the corner
    kept = torch.where(back.view(-1, *[1] * (clean.ndim - 1)), put(1.0, everyone), final.detach())
    return Walked(kept.detach(), crossed | again, taken)
