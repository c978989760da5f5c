"""White-box evasion: pictures changed within a bound so that the detector errs - FGSM in one step, PGD in several.

Used by the red team (chaos producer), by adversarial training and by the robustness figures, always on a copy: neither the
network's weights nor the given picture change, and no gradient is left behind. Untargeted: the loss of
`inference.networks.targets` is raised against given people, or against what the network itself believes. Deterministic. Nothing
here decides whether a picture was attacked; that is the detectors'. Attacked pictures enter on the topic `frames`, like any
other.

Source: FGSM, Goodfellow et al., ICLR 2015; PGD, Madry et al., ICLR 2018; paper 5.1.2 (attacks), Algorithm 1 (in training).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nnf

from inference.networks.csp_nano import GRAIN, GREY, CspNano
from inference.networks.targets import Targets, decode, draw, losses, stack
from streams.errors import BadInput, BrokenContract
from streams.sources.base import Person, Picture

_BELIEVED = 0.25  # cells above this are the network's own people when none are given
_LEVELS = 255.0


def fgsm(network: CspNano, picture: Picture, people: Sequence[Person] | None, eps: float) -> Picture:
    """One step of `eps` up the loss's sign.

    Args:
        network: the white box; left as it is.
        picture: H x W x 3, uint8 RGB, any size.
        people: whom the loss is against; None: those the network sees itself (an attacker without labels).
        eps: largest change of a channel, as a share of 255 (0.03 is about 8 levels).

    Returns:
        A new picture whose every channel differs by at most `eps`, measured after rounding to 8 bits.

    Raises:
        BadInput: if eps is not within 0..1 or the picture is no uint8 H x W x 3.
    """
    return fgsm_batch(network, [picture], None if people is None else [people], eps)[0]


def fgsm_batch(
    network: CspNano, pictures: Sequence[Picture], people: Sequence[Sequence[Person]] | None, eps: float
) -> list[Picture]:
    """`fgsm` on same-sized pictures at once. Raises BadInput as `fgsm` does, and for sizes that differ."""
    return _attack(network, pictures, people, eps, steps=1, step=eps)


def pgd(
    network: CspNano, pictures: Sequence[Picture], people: Sequence[Sequence[Person]] | None, eps: float, steps: int
) -> list[Picture]:
    """`steps` steps of 2.5 eps / steps, each brought back into the bound; starts at the picture. Arguments and errors as `fgsm`."""
    return _attack(network, pictures, people, eps, steps=steps, step=2.5 * eps / steps)


def _attack(
    network: CspNano, pictures: Sequence[Picture], people: Sequence[Sequence[Person]] | None, eps: float, *, steps: int, step: float
) -> list[Picture]:
    if not 0.0 <= eps <= 1.0:
        raise BadInput(f"attack strength {eps} is not within 0..1; it is a share of 255, e.g. 0.03")
    if len({one.shape for one in pictures}) != 1 or pictures[0].dtype != np.uint8 or pictures[0].ndim != 3:  # noqa: PLR2004 - H x W x 3
        given = [(one.shape, str(one.dtype)) for one in pictures][:4]
        raise BadInput(f"an attack takes same-sized uint8 pictures of H x W x 3, was given {given}")
    height, width = pictures[0].shape[:2]
    device = next(network.parameters()).device
    clean = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float()
    # the same grey border as in serving, so that the gradient is that of what is served
    padded = nnf.pad(clean, (0, -width % GRAIN, 0, -height % GRAIN), value=float(GREY)).contiguous(
        memory_format=torch.channels_last
    )
    wanted = stack([_believed(network, one, (height, width)) for one in padded], device) if people is None else None
    if people is not None:
        wanted = stack([draw(some, *padded.shape[2:]) for some in people], device)
    assert wanted is not None
    # whole levels and rounding down: 8-bit pictures can be changed by whole levels only
    most = np.floor(eps * _LEVELS + 1e-9)
    raised = raise_loss(network, padded, wanted, eps=torch.tensor(most), step=torch.tensor(step * _LEVELS), steps=steps)
    out = raised[:, :, :height, :width].round().clamp(0, _LEVELS).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    moved = max(int(np.abs(new.astype(np.int16) - old).max(initial=0)) for new, old in zip(out, pictures, strict=True))
    if moved > most:
        raise BrokenContract(f"the attack moved a pixel by {moved} levels, its bound is {most:.0f}: report this")
    return list(np.ascontiguousarray(out))


def raise_loss(
    network: CspNano, start: Tensor, targets: Targets, *, eps: Tensor, step: Tensor, steps: int, origin: Tensor | None = None
) -> Tensor:
    """Signed gradient ascent within a box around `origin` (default: `start`); the inner loop of the paper's Algorithm 1.

    Args:
        network: whose loss is raised; its parameters get no gradient.
        start: N x 3 x H x W, 0..255, where to begin.
        targets: the truth that the loss is against.
        eps: levels of 0..255, one number or N x 1 x 1 x 1.
        step: levels a step, same shapes.
        steps: at least 1.
        origin: the clean pictures if `start` is already moved.
    """
    clean = start if origin is None else origin
    at = start.detach()
    for _ in range(steps):
        at = at.detach().requires_grad_()
        with torch.autocast(at.device.type, dtype=torch.bfloat16):  # twice as fast; only the gradient's sign is used
            maps = network(at)
        gradient = torch.autograd.grad(losses(maps, targets).total, at)[0]
        at = torch.clamp(at.detach() + step * gradient.sign(), min=clean - eps, max=clean + eps).clamp(0.0, _LEVELS)
    return at.detach()


def _believed(network: CspNano, picture: Tensor, size_px: tuple[int, int]) -> Targets:
    """Targets drawn from the network's own boxes on one padded picture (3 x H x W)."""
    with torch.no_grad():
        maps = network(picture[None])
    said, height = torch.sigmoid(maps.centre)[0, 0].cpu().numpy(), maps.height[0, 0].cpu().numpy()
    boxes = decode(said, height, maps.offset[0].cpu().numpy(), size_px, _BELIEVED)
    people = [Person((box.x_px, box.y_px, box.w_px, box.h_px), (box.x_px, box.y_px, box.w_px, box.h_px)) for box in boxes]
    return draw(people, *picture.shape[1:])
