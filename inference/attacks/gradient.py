"""White-box evasion: pictures changed within a bound so that the detector errs - FGSM in one step, PGD in several.

Used by the red team (chaos producer), by adversarial training and by the robustness figures, always on a copy: neither the
network's weights nor the given picture change, and no gradient is left behind. What is raised is the `Objective`, against given
people or against those that the network itself sees. Deterministic. Nothing here decides whether a picture was attacked: detectors
do. Attacked pictures enter on the topic `frames`, like any other.

Source: FGSM, Goodfellow et al., ICLR 2015; PGD, Madry et al., ICLR 2018; paper 5.1.2 (attacks), Algorithm 1 (in training).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from inference.attacks.batch import LEVELS, believed, load, unhurt, unload
from inference.attacks.objectives import Objective, raised_loss, rising
from inference.networks.targets import Targets
from streams.errors import BadInput, BrokenContract
from streams.sources.base import Person, Picture


def fgsm(
    network: nn.Module,
    picture: Picture,
    people: Sequence[Person] | None,
    eps: float,
    *,
    objective: Objective = Objective.UNTARGETED,
) -> Picture:
    """One step of `eps` up the sign of the objective's gradient.

    Args:
        network: the white box, N x 3 x H x W to `Maps`; left as it is.
        picture: H x W x 3, uint8 RGB, any size.
        people: whom the attack is about; None: those the network sees itself (an attacker without labels).
        eps: largest change of a channel, as a share of 255, in whole levels (0.03 is 7 levels).
        objective: what the attacker is after.

    Returns:
        A new picture whose every channel differs by at most `eps`, measured after rounding to 8 bits.

    Raises:
        BadInput: if eps is not within 0..1 or the picture is no uint8 H x W x 3.
    """
    return fgsm_batch(network, [picture], None if people is None else [people], eps, objective=objective)[0]


def fgsm_batch(
    network: nn.Module,
    pictures: Sequence[Picture],
    people: Sequence[Sequence[Person]] | None,
    eps: float,
    *,
    objective: Objective = Objective.UNTARGETED,
) -> list[Picture]:
    """`fgsm` on same-sized pictures at once. Raises BadInput as `fgsm` does, and for sizes that differ."""
    return _attack(network, pictures, people, eps, objective, steps=1, step=eps)


def pgd(
    network: nn.Module,
    pictures: Sequence[Picture],
    people: Sequence[Sequence[Person]] | None,
    eps: float,
    steps: int,
    *,
    objective: Objective = Objective.UNTARGETED,
) -> list[Picture]:
    """`steps` steps of 2.5 eps / steps, each brought back into the bound; starts at the picture. Arguments and errors as `fgsm`."""
    return _attack(network, pictures, people, eps, objective, steps=steps, step=2.5 * eps / steps)


def ascend(
    rise: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    eps: Tensor,
    step: Tensor,
    steps: int,
    origin: Tensor | None = None,
    where: Tensor | None = None,
) -> Tensor:
    """Signed gradient ascent of any scalar within a box around `origin` (default: `start`), and within 0..255.

    Args:
        rise: N x ... to the scalar to raise; of anything else it depends on, no gradient is taken.
        start: N x ..., 0..255, where to begin.
        eps: levels of 0..255, one number or a shape that broadcasts.
        step: levels a step, same shapes.
        steps: at least 1.
        origin: the clean pictures if `start` is already moved.
        where: 1 where pixels may move, 0 elsewhere; None: everywhere.
    """
    clean = start if origin is None else origin
    at = start.detach()
    for _ in range(steps):
        at = at.detach().requires_grad_()
        direction = torch.autograd.grad(rise(at), at)[0].sign()
        if where is not None:
            direction = direction * where
        at = torch.clamp(at.detach() + step * direction, min=clean - eps, max=clean + eps).clamp(0.0, LEVELS)
    return at.detach()


def raise_loss(
    network: nn.Module, start: Tensor, targets: Targets, *, eps: Tensor, step: Tensor, steps: int, origin: Tensor | None = None
) -> Tensor:
    """`ascend` on the training loss against the targets: the inner loop of the paper's Algorithm 1. Takes the network as it is."""
    return ascend(raised_loss(network, targets), start, eps=eps, step=step, steps=steps, origin=origin)


def _attack(
    network: nn.Module,
    pictures: Sequence[Picture],
    people: Sequence[Sequence[Person]] | None,
    eps: float,
    objective: Objective,
    *,
    steps: int,
    step: float,
) -> list[Picture]:
    if not 0.0 <= eps <= 1.0:
        raise BadInput(f"attack strength {eps} is not within 0..1; it is a share of 255, e.g. 0.03")
    # whole levels and rounding down: 8-bit pictures can be changed by whole levels only
    most = np.floor(eps * LEVELS + 1e-9)
    with unhurt(network) as device:
        clean = load(pictures, device)
        size_px = pictures[0].shape[:2]
        persons = believed(network, clean, (size_px[0], size_px[1])) if people is None else people
        rise = rising(network, persons, clean, objective)
        raised = ascend(rise, clean, eps=torch.tensor(most), step=torch.tensor(step * LEVELS), steps=steps)
    out = unload(raised, (size_px[0], size_px[1]))
    moved = max(int(np.abs(new.astype(np.int16) - old).max(initial=0)) for new, old in zip(out, pictures, strict=True))
    if moved > most:
        raise BrokenContract(f"the attack moved a pixel by {moved} levels, its bound is {most:.0f}: report this")
    return out
