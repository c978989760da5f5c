"""A centre-and-scale network's boxes in torch, wherever it is not the served model that is asked.

It pads, runs and decodes as `inference.service.serving` does, but takes any network in memory: one in training, a candidate before
it is in the registry, an attacker's copy. It chooses no threshold and changes nothing in the network. No topic feeds it.

Source: CSP (Liu et al., CVPR 2019) section 3.4 for the decoding.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from inference.networks.csp_nano import GRAIN, GREY, Maps
from inference.networks.targets import decode
from streams.events import Box
from streams.sources.base import Picture

_AT_ONCE = 4


def padded(pictures: Sequence[Picture], device: torch.device) -> Tensor:
    """Same-sized pictures as N x 3 x H' x W' floats 0..255, with grey at the right and below up to multiples of 32."""
    height, width = pictures[0].shape[:2]
    values = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float()
    filled = nnf.pad(values, (0, -width % GRAIN, 0, -height % GRAIN), value=float(GREY))
    return filled.contiguous(memory_format=torch.channels_last)


def detect(network: nn.Module, pictures: Sequence[Picture], threshold: float) -> list[tuple[Box, ...]]:
    """People in pictures of any size (H x W x 3, uint8 RGB), best first; those next to each other of one size run together.

    Args:
        network: maps N x 3 x H x W (0..255) to `Maps`; asked in its evaluation mode, left in the mode it was in.
        pictures: in any number.
        threshold: 0..1; cells of the centre map that say more are people.
    """
    forward: Callable[[Tensor], Maps] = network
    device = next(network.parameters()).device
    found: list[tuple[Box, ...]] = []
    training = network.training
    network.eval()
    try:
        for _, same in groupby(pictures, key=lambda one: one.shape):
            group = list(same)
            for first in range(0, len(group), _AT_ONCE):
                part = group[first : first + _AT_ONCE]
                with torch.inference_mode():
                    maps = forward(padded(part, device))
                said, tall, offset = (
                    value.float().cpu().numpy() for value in (torch.sigmoid(maps.centre), maps.height, maps.offset)
                )
                size = (part[0].shape[0], part[0].shape[1])
                found += [decode(said[n, 0], tall[n, 0], offset[n], size, threshold) for n in range(len(part))]
    finally:
        network.train(training)
    return found
