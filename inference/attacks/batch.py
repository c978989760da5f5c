"""Between 8-bit pictures and the tensors that attacks work on, and the care an attack owes the network it is run against.

It decides how pictures are padded (as serving pads them), how a moved tensor becomes a picture again, whom an attacker without
labels attacks, that a network is left as it was found, and how that is proven. It refuses pictures of different sizes and knows no
attack. No topic feeds it.

Source: `inference.service.serving` for the grey border; paper 5.1.2 for the attacker who holds the white box.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from inference.networks.csp_nano import GRAIN, GREY, to_bytes
from inference.networks.targets import decode
from inference.provenance.registry import digest_of
from streams.errors import BadInput, BrokenContract
from streams.sources.base import Person, Picture

LEVELS = 255.0
"""A channel's highest level."""
_BELIEVED = 0.25  # cells above this are the network's own people when none are given


@contextmanager
def unhurt(network: nn.Module) -> Iterator[torch.device]:
    """Lends a network out in evaluation mode, so that no batch-norm statistic moves, and gives every module its mode back.

    Yields the device of its weights. Attacks ask for gradients of pictures only, so weights get none.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield next(network.parameters()).device
    finally:
        for module, mode in modes.items():
            module.training = mode


def unmoved(network: nn.Module, digests: Collection[str]) -> None:
    """Raises BrokenContract unless the network is still what a weights file with one of these SHA-256 holds.

    Whoever measures a model after attacking it asks this before the figures count.
    """
    if (found := digest_of(to_bytes(network))) not in digests:
        expected = " or ".join(digest[:12] for digest in digests)
        raise BrokenContract(
            f"the attacked network is {found[:12]} now, its file is {expected}: an attack changed it, no figure counts; report this"
        )


def load(pictures: Sequence[Picture], device: torch.device) -> Tensor:
    """N x 3 x H' x W' float, 0..255, with serving's grey border to multiples of 32, so that gradients are of what is served.

    Raises:
        BadInput: if there is no picture, sizes differ, or something is no uint8 picture of H x W x 3.
    """
    if len({one.shape for one in pictures}) != 1 or any(one.dtype != np.uint8 or one.shape[2:] != (3,) for one in pictures):
        given = [(one.shape, str(one.dtype)) for one in pictures][:4]
        raise BadInput(f"an attack takes same-sized uint8 pictures of H x W x 3, was given {given}")
    height, width = pictures[0].shape[:2]
    clean = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float()
    padded = nnf.pad(clean, (0, -width % GRAIN, 0, -height % GRAIN), value=float(GREY))
    return padded.contiguous(memory_format=torch.channels_last)


def unload(moved: Tensor, size_px: tuple[int, int]) -> list[Picture]:
    """Rounded to 8 bits and cut to (height, width)."""
    cut = moved[:, :, : size_px[0], : size_px[1]].round().clamp(0, LEVELS).to(torch.uint8)
    return [np.ascontiguousarray(one) for one in cut.permute(0, 2, 3, 1).cpu().numpy()]


def believed(network: nn.Module, padded: Tensor, size_px: tuple[int, int]) -> list[list[Person]]:
    """The people that the network itself sees in each picture of a padded batch."""
    seen = []
    for one in padded:
        with torch.no_grad():
            maps = network(one[None])
        said, tall = torch.sigmoid(maps.centre.float())[0, 0].cpu().numpy(), maps.height.float()[0, 0].cpu().numpy()
        boxes = decode(said, tall, maps.offset.float()[0].cpu().numpy(), size_px, _BELIEVED)
        places = [(box.x_px, box.y_px, box.w_px, box.h_px) for box in boxes]
        seen.append([Person(place, place) for place in places])
    return seen
