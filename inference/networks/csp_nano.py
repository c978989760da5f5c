"""CSP-nano: where is the middle of a person, and how tall is that person, at every fourth pixel.

It maps pixels to maps and decides nothing: thresholds and boxes are `inference.networks.targets`', weights come from
`inference.provenance.registry`. A MobileNetV2 up to its last bottleneck (the 1280-channel layer is left out) feeds a light top-down
head. TensorFlow's SAME padding and its batch-norm epsilon are kept, because the pretrained weights
(`inference.networks.pretrained`) were made with them: torch's symmetric padding moves every feature by a pixel. Worked on by the
inference worker, for frames of the topic `frames`.

Shapes (N pictures of H x W pixels, both multiples of 32; c = channels):

    pictures           N x 3 x H    x W       float, RGB, 0..255
    stage stride 4     N x 24       x H/4  x W/4     blocks 1-2   (stem and block 0: 16 c at stride 2)
    stage stride 8     N x 32       x H/8  x W/8     blocks 3-5
    stage stride 16    N x 96       x H/16 x W/16    blocks 6-12
    stage stride 32    N x 320      x H/32 x W/32    blocks 13-16
    head               N x 64       at each stride, from coarse to fine: 1x1 -> add the coarser level -> depthwise 3x3 -> 1x1
    centre             N x 1        x H/4  x W/4     logit: is the middle of a person in this cell
    height             N x 1        x H/4  x W/4     ln(height in cells of 4 px)
    offset             N x 2        x H/4  x W/4     (y, x) from the cell's middle to the person's, in cells
    features           N x 96       x H/16 x W/16    the stride-16 stage, for embeddings

Source: CSP (Liu et al., CVPR 2019) sections 3.1-3.2 for the outputs and the prior; MobileNetV2 (Sandler et al., CVPR 2018) table 2.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as nnf

from streams.errors import BadInput, BrokenContract

STRIDE = 4
"""Pixels a cell of the output maps, in both directions."""
GREY = 127
"""What lies outside a picture: the network's zero."""
GRAIN = 32
"""Picture sides must be multiples of this."""
PRIOR = 0.01
"""What the centre map says everywhere before training (CSP: bias -ln(99))."""

# MobileNetV2, table 2: (expansion, channels, repeats, first stride).
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_TAPS = (2, 5, 12, 16)  # the last block of each stride
_TAP_CHANNELS = (24, 32, 96, 320)
_HEAD = 64
_EPS = 1e-3  # TensorFlow's batch norm; 3.7 % of the pretrained variances are below 1e-4, so it matters
_COUNTER = "num_batches_tracked"  # batch norm's, which never moves here
_TYPICAL_HEIGHT_PX = 80.0  # where the height map starts before training


class Maps(NamedTuple):
    """What the network says of N pictures; shapes in the module's legend."""

    centre: Tensor
    height: Tensor
    offset: Tensor
    features: Tensor


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: the smaller half first, so stride 2 on an even side pads (0, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        """N x C x h x w to N x C' x ceil(h/stride) x ceil(w/stride)."""
        pads: list[int] = []
        for axis in (3, 2):  # functional.pad goes from the last axis backwards
            # int(): a traced shape would otherwise become a graph node that ONNX cannot pad with
            size, kernel, stride = int(x.shape[axis]), self.kernel_size[axis - 2], self.stride[axis - 2]
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        if pads[0] == pads[1] and pads[2] == pads[3]:
            return nnf.conv2d(x, self.weight, self.bias, self.stride, (pads[2], pads[0]), self.dilation, self.groups)
        return nnf.conv2d(nnf.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm, and ReLU6 unless `linear`."""

    def __init__(
        self, inward: int, outward: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, linear: bool = False
    ) -> None:
        norm = nn.BatchNorm2d(outward, eps=_EPS)
        conv = SameConv(inward, outward, kernel, stride, groups=groups, bias=False)
        super().__init__(conv, norm, *(() if linear else (nn.ReLU6(),)))


class Bottleneck(nn.Module):
    """MobileNetV2's inverted residual: widen, filter each channel, narrow without activation, add the input where shapes agree."""

    def __init__(self, inward: int, outward: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inward * expansion
        self.expand = ConvNorm(inward, wide) if expansion > 1 else None
        self.depthwise = ConvNorm(wide, wide, 3, stride, groups=wide)
        self.project = ConvNorm(wide, outward, linear=True)
        self.adds = stride == 1 and inward == outward

    def forward(self, x: Tensor) -> Tensor:
        """N x inward x h x w to N x outward x h/stride x w/stride."""
        wide = x if self.expand is None else self.expand(x)
        out: Tensor = self.project(self.depthwise(wide))
        return x + out if self.adds else out


class Backbone(nn.Module):
    """MobileNetV2 without its 1280-channel layer; hands out its features at strides 4, 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32, 3, 2)
        blocks: list[nn.Module] = []
        inward = 32
        for expansion, channels, repeats, first in _STAGES:
            for repeat in range(repeats):
                blocks.append(Bottleneck(inward, channels, first if repeat == 0 else 1, expansion))
                inward = channels
        self.blocks = nn.ModuleList(blocks)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """N x 3 x H x W in -1..1 to the four taps, finest first."""
        x = self.stem(pictures)
        taps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _TAPS:
                taps.append(x)
        return taps


class Fuse(nn.Module):
    """One level of the head: bring a tap to the head's width, add the coarser level, look around, mix."""

    def __init__(self, inward: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(inward, _HEAD, 1)
        self.around = SameConv(_HEAD, _HEAD, 3, groups=_HEAD)
        self.mix = nn.Conv2d(_HEAD, _HEAD, 1)

    def forward(self, tap: Tensor, coarser: Tensor | None) -> Tensor:
        """N x inward x h x w and, unless this is the coarsest, N x 64 x h/2 x w/2, to N x 64 x h x w."""
        x = self.lateral(tap)
        if coarser is not None:
            x = x + nnf.interpolate(coarser, scale_factor=2.0, mode="nearest")
        x = nnf.relu(x)
        return nnf.relu(x + self.mix(self.around(x)))


class CspNano(nn.Module):
    """The detector; 1.9 million parameters. Batch-norm statistics never move, in training either.

    They belong to the pretrained weights: with 3.7 % of the variances near zero, a few small batches would wreck them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.fuse = nn.ModuleList(Fuse(channels) for channels in _TAP_CHANNELS)
        self.out = nn.Conv2d(_HEAD, 4, 1)
        assert self.out.bias is not None
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            self.out.bias.copy_(torch.tensor([-math.log((1 - PRIOR) / PRIOR), math.log(_TYPICAL_HEIGHT_PX / STRIDE), 0.0, 0.0]))

    def train(self, mode: bool = True) -> "CspNano":
        """Training mode for everything but batch norm."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, pictures: Tensor) -> Maps:
        """N x 3 x H x W, RGB, 0..255, to `Maps`.

        Raises:
            BrokenContract: if a side is no multiple of 32; pad first (`inference.service.serving` does).
        """
        height, width = (int(side) for side in pictures.shape[2:])
        if height % GRAIN or width % GRAIN:
            raise BrokenContract(
                f"CSP-nano was given {width} x {height} px; both sides must be multiples of {GRAIN}: pad the picture first"
            )
        taps: Sequence[Tensor] = self.backbone(pictures * (2.0 / 255.0) - 1.0)
        x: Tensor | None = None
        for level in (3, 2, 1, 0):
            x = self.fuse[level](taps[level], x)
        centre, tall, offset = self.out(x).split((1, 1, 2), dim=1)
        return Maps(centre, tall, offset, taps[2])


def to_bytes(network: nn.Module) -> bytes:
    """A network's weights as a safetensors file: kernels in half precision (half the size), batch norm and biases in full."""
    return save(
        {
            name: (value.half() if value.ndim > 1 else value).contiguous()
            for name, value in network.state_dict().items()
            if not name.endswith(_COUNTER)
        }
    )


def from_bytes(data: bytes) -> CspNano:
    """A network with the weights of a safetensors file, in evaluation mode. Raises BadInput if they are not CSP-nano's."""
    network = CspNano()
    try:
        state = {name: value.float() for name, value in load(data).items()}
        counters = {name: value for name, value in network.state_dict().items() if name.endswith(_COUNTER)}
        network.load_state_dict(state | counters)
    except (SafetensorError, RuntimeError) as error:  # torch names missing and misshapen weights in a RuntimeError
        raise BadInput(
            f"these {len(data)} bytes hold no CSP-nano weights: {error}; use a file written by `kerbwatch train`"
        ) from error
    return network.eval().to(memory_format=torch.channels_last)
