"""Evasion that knows it is watched: PGD that raises the detector's loss and keeps our own cues where the clean picture has them.

What it knows: the weights, how a frame is changed for its second look, and which cues are read from the two centre maps (mean,
largest and signed change). What it does not know: the calibration's coefficients, which frames are looked at twice, and the safe
model. It decides how the two aims share a step: while a cue stands above the clean picture's own, the step leads down the cue, with
what would lower the loss taken out of it; otherwise it leads up the loss. Gradients go through the second look as if it were a
slight blur, in the mirror if need be (those of 8-bit pictures are zero almost everywhere), while its values are the real ones. It
refuses to call itself strong enough: a detector that bears it has borne this one. On a copy, deterministic; its pictures enter on
the topic `frames`, like any other.

Source: Bryniarski et al., ICLR 2022 (selective, orthogonal steps against detectors); Athalye et al., ICML 2018 (gradients through
what has none); Tramer et al., NeurIPS 2020 (why a detector is to be attacked so).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from inference.attacks.batch import LEVELS, believed, load, unhurt, unload
from inference.attacks.objectives import Objective, rising
from inference.networks.csp_nano import GRAIN, GREY, STRIDE
from streams.errors import BadInput
from streams.sources.base import Person, Picture

STEPS = 12
_STEP = 0.25  # of the bound
_BLUR = (0.25, 0.5, 0.25)
_SLACK = 1.05  # of the clean picture's cue, up to which a cue is no reason to give way
_LARGEST_CELLS = 4  # averaged for the largest change: one cell's gradient alone would only hand the place on
_MEAN, _LARGEST, _SIGNED = 0.005, 0.2, 0.003  # what the cues of an honest picture come to, as their units
_NOTHING = 1e-12


@dataclass(frozen=True)
class SecondLook:
    """How the attacked system looks again: what becomes of a picture (same shape), and whether left and right are swapped."""

    change: Callable[[Picture], Picture]
    mirrored: bool


def adaptive(
    network: nn.Module,
    picture: Picture,
    people: Sequence[Person] | None,
    eps: float,
    second: SecondLook,
    *,
    objective: Objective = Objective.UNTARGETED,
    steps: int = STEPS,
) -> Picture:
    """A picture changed within `eps` so that the network errs, and a second look moves its view no more than the clean picture's.

    Args:
        network: the white box, N x 3 x H x W to `Maps`; left as it is.
        picture: H x W x 3, uint8 RGB, any size.
        people: whom the attack is about; None: those the network sees itself.
        eps: largest change of a channel, as a share of 255, in whole levels.
        second: how the attacked system looks again.
        objective: what the attacker is after.
        steps: each with two forward passes and two gradients.

    Returns:
        A new picture.

    Raises:
        BadInput: if eps is not within 0..1 or the picture is no uint8 H x W x 3.
    """
    if not 0.0 <= eps <= 1.0:
        raise BadInput(f"attack strength {eps} is not within 0..1; it is a share of 255, e.g. 0.03")
    most = float(np.floor(eps * LEVELS + 1e-9))
    size_px = (picture.shape[0], picture.shape[1])
    with unhurt(network) as device:
        clean = load([picture], device)
        persons = believed(network, clean, size_px) if people is None else [people]
        rise = rising(network, persons, clean, objective)
        watched = _watched(network, second, size_px)
        with torch.no_grad():
            usual = watched(clean) * _SLACK
        at = clean
        for number in range(steps):
            step = _STEP * most * (1.0 - 0.8 * number / steps)
            at = at.detach().requires_grad_()
            up = torch.autograd.grad(rise(at), at)[0]
            seen = nnf.relu(watched(at) - usual).sum()
            if float(seen.detach()) > 0.0:
                down = torch.autograd.grad(seen, at)[0]
                along = (down * up).sum() / (up * up).sum().clamp_min(_NOTHING)
                # only what would lower the loss is taken out: where both aims agree nothing is lost
                direction = -(down - along.clamp_min(0.0) * up)
            else:
                direction = up
            at = torch.clamp(at.detach() + step * direction.sign(), min=clean - most, max=clean + most).clamp(0.0, LEVELS)
    return unload(at, size_px)[0]


def _watched(network: nn.Module, second: SecondLook, size_px: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """The three cues of one padded picture as a vector, each in units of what an honest picture has; with gradients."""
    line = torch.tensor(_BLUR)
    kernel = (line[:, None] * line[None])[None, None].repeat(3, 1, 1, 1)
    height, width = size_px
    columns = -(-width // STRIDE)

    def says(pictures: Tensor) -> Tensor:
        with torch.autocast(pictures.device.type, dtype=torch.bfloat16):
            centre: Tensor = network(pictures).centre
        return torch.sigmoid(centre.float())[..., :columns]

    def cues(padded: Tensor) -> Tensor:
        real = load([second.change(unload(padded.detach(), size_px)[0])], padded.device)
        smooth = nnf.conv2d(
            nnf.pad(padded[..., :height, :width], (1, 1, 1, 1), mode="replicate"), kernel.to(padded.device), groups=3
        )
        smooth = nnf.pad(smooth.flip(3) if second.mirrored else smooth, (0, -width % GRAIN, 0, -height % GRAIN), value=float(GREY))
        other = says(smooth + (real - smooth).detach())
        change = says(padded) - (other.flip(3) if second.mirrored else other)
        largest = change.abs().flatten().topk(_LARGEST_CELLS).values.mean()
        return torch.stack([change.abs().mean() / _MEAN, largest / _LARGEST, change.mean().abs() / _SIGNED])

    return cues
