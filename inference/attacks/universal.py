"""One perturbation for all pictures of a camera: computed once from pictures the attacker has, laid over whatever comes next.

It decides how the one perturbation is grown: pass after pass over the pictures, each batch moving it a step up, within
the bound. It needs no gradient when it is used, so it is the attack of somebody who has seen the weights once and afterwards
only sits in the video line. It refuses to fit itself to the picture it is laid over. Deterministic, on a copy of nothing: the
network is left as it was found. Its pictures enter on the topic `frames`, like any other.

Source: Moosavi-Dezfooli et al., CVPR 2017 (one perturbation for all pictures; theirs adds up DeepFool's steps); Shafahi et al.,
AAAI 2020 (the same by signed steps over batches, which is done here).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from inference.attacks.batch import LEVELS, believed, load, unhurt
from inference.attacks.objectives import Objective, rising
from streams.errors import BadInput
from streams.sources.base import Person, Picture

PASSES = 8
"""Over all pictures; the step falls from half the bound to a tenth of that."""
_BATCH = 4


def universal(
    network: nn.Module,
    pictures: Sequence[Picture],
    people: Sequence[Sequence[Person]] | None,
    eps: float,
    *,
    objective: Objective = Objective.UNTARGETED,
    passes: int = PASSES,
) -> NDArray[np.int16]:
    """The perturbation that raises the objective over all given pictures together.

    Args:
        network: the white box, N x 3 x H x W to `Maps`; left as it is.
        pictures: H x W x 3, uint8 RGB, all of one size; of the place that is to be attacked, but not the frames themselves.
        people: whom the attack is about, picture by picture; None: those the network sees itself.
        eps: largest change of a channel, as a share of 255, in whole levels.
        objective: what the attacker is after.
        passes: over all pictures.

    Returns:
        H x W x 3 levels to add, each within the bound.

    Raises:
        BadInput: if eps is not within 0..1, there is no picture, or they differ in size.
    """
    if not 0.0 <= eps <= 1.0:
        raise BadInput(f"attack strength {eps} is not within 0..1; it is a share of 255, e.g. 0.03")
    most = float(np.floor(eps * LEVELS + 1e-9))
    with unhurt(network) as device:
        clean = load(pictures, device)
        height, width = pictures[0].shape[:2]
        persons = believed(network, clean, (height, width)) if people is None else people
        batches = [slice(start, start + _BATCH) for start in range(0, len(pictures), _BATCH)]
        rises = [rising(network, persons[part], clean[part], objective) for part in batches]
        over = torch.zeros_like(clean[:1])
        for number in range(passes):
            step = most * (0.5 - 0.45 * number / max(1, passes - 1))
            for part, rise in zip(batches, rises, strict=True):
                at = over.detach().requires_grad_()
                raised = rise((clean[part] + at).clamp(0.0, LEVELS))
                over = (over + step * torch.autograd.grad(raised, at)[0].sign()).clamp(-most, most)
    levels: NDArray[np.int16] = over[0, :, :height, :width].permute(1, 2, 0).round().cpu().numpy().astype(np.int16)
    return levels


def laid_over(picture: Picture, levels: NDArray[np.int16]) -> Picture:
    """The picture (H x W x 3) under a perturbation: cut where that is larger, repeated where it is smaller."""
    height, width = picture.shape[:2]
    down, right = -(-height // levels.shape[0]), -(-width // levels.shape[1])
    whole = np.tile(levels, (down, right, 1))[:height, :width]
    out: Picture = np.clip(picture.astype(np.int16) + whole, 0, int(LEVELS)).astype(np.uint8)
    return out
