"""SSDLite on MobileNetV2, as published: the second architecture, and the teacher that CSP-nano is held against.

It is the pretrained detector whose backbone CSP-nano starts from, whole: extra layers, six predictors, anchors, box codes and
suppression, filled from the pinned graph (`inference.networks.pretrained`) and equal to it. It decides nothing about service and is
never trained here. It refuses sizes at which it has nothing to say. No topic feeds it: measuring, pseudo-labels and votes do.

The network takes any size, but its coarse levels were trained at 300 x 300 alone: at larger inputs they see people in empty sky,
with scores above 0.9. `Pass` therefore names how many levels, from the finest, are asked; away from 300 x 300 ask two or three.

    level   features from                 stride  anchors a cell   anchor scale (of 300 px)
    0       block 13's expansion, 576 c   16      3                0.1 (square), 0.2 (2:1, 1:2)
    1       last layer, 1280 c            32      6                0.35
    2..5    layer_19_2_..., 512 to 128 c  64..512 6                0.5, 0.65, 0.8, 0.95

Source: SSD (Liu et al., ECCV 2016), MobileNetV2 (Sandler et al., CVPR 2018) section 6.2; anchors, codes, suppression and the limit
of 100 boxes as the graph's constants state them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import nms  # type: ignore[import-untyped] # ships no types

from inference.networks.csp_nano import Backbone, ConvNorm, SameConv
from inference.networks.pretrained import SHA256, fill, fill_biased, fill_layer, graph_file, read_constants
from streams.errors import BadInput
from streams.events import Box
from streams.sources.base import Picture

ANCHOR_PX = 300.0
"""What anchor scales are shares of, at every input size."""
LEVELS = 6
NMS_IOU = 0.6
MOST = 100
"""Boxes of one picture at most."""

_SCALES = (0.35, 0.5, 0.65, 0.8, 0.95)
_ASPECTS = (1.0, 2.0, 0.5, 3.0, 0.3333, 1.0)
_FINEST = ((0.1, 1.0), (0.2, 2.0), (0.2, 0.5))  # (scale, width over height)
_EXTRAS = ((1280, 256, 512), (512, 128, 256), (256, 128, 256), (256, 64, 128))
_INWARD = (576, 1280, 512, 256, 256, 128)
_CODE_SCALE = (10.0, 10.0, 5.0, 5.0)  # of (ty, tx, th, tw)
_LONGEST = 20.0  # exp of more is no size of a person: keeps an absurd input from overflowing
_SIDE_PX = (32, 4096)
_TAP = 13


@dataclass(frozen=True)
class Pass:
    """One look at a picture: stretched to `height_px` x `width_px`, judged by the finest `levels` levels (1..6)."""

    height_px: int
    width_px: int
    levels: int

    def __post_init__(self) -> None:
        low, high = _SIDE_PX
        if not (low <= self.height_px <= high and low <= self.width_px <= high and 1 <= self.levels <= LEVELS):
            raise BadInput(f"{self} is no way to look: sides are {low} to {high} px, levels 1 to {LEVELS}")


AS_SHIPPED = (Pass(300, 300, LEVELS),)
"""How the graph looks at every picture: all of it at 300 x 300, the aspect not kept."""
PYRAMID = (Pass(304, 608, 3), Pass(512, 1024, 2), Pass(1024, 2048, 1))
"""For 2 : 1 street scenes with people of all sizes."""


class Extra(nn.Module):
    """A coarser level: 1x1 narrows, depthwise 3x3 halves the sides, 1x1 widens; ReLU6 after each."""

    def __init__(self, inward: int, narrow: int, outward: int) -> None:
        super().__init__()
        self.narrow = ConvNorm(inward, narrow)
        self.depthwise = ConvNorm(narrow, narrow, 3, 2, groups=narrow)
        self.widen = ConvNorm(narrow, outward)

    def forward(self, x: Tensor) -> Tensor:
        """N x inward x h x w to N x outward x ceil(h/2) x ceil(w/2)."""
        out: Tensor = self.widen(self.depthwise(self.narrow(x)))
        return out


class Predictor(nn.Module):
    """What one level says of its anchors: `values` numbers each."""

    def __init__(self, inward: int, anchors: int, values: int) -> None:
        super().__init__()
        self.values = values
        self.depthwise = ConvNorm(inward, inward, 3, groups=inward)
        self.out = SameConv(inward, anchors * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        """N x inward x h x w to N x (h * w * anchors) x values, row by row."""
        said: Tensor = self.out(self.depthwise(x))
        return said.permute(0, 2, 3, 1).reshape(len(said), -1, self.values)


class SsdLite(nn.Module):
    """The network; 3.0 million parameters. Get a filled one from `pretrained_ssdlite`."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.last = ConvNorm(320, 1280)
        self.extras = nn.ModuleList(Extra(*sizes) for sizes in _EXTRAS)
        counts = [len(_FINEST)] + [len(_ASPECTS)] * (LEVELS - 1)
        self.boxes = nn.ModuleList(Predictor(inward, count, 4) for inward, count in zip(_INWARD, counts, strict=True))
        self.classes = nn.ModuleList(Predictor(inward, count, 2) for inward, count in zip(_INWARD, counts, strict=True))

    def features(self, pictures: Tensor, levels: int = LEVELS) -> list[Tensor]:
        """N x 3 x H x W, RGB, 0..255, to the feature maps of the finest levels."""
        x = self.backbone.stem(pictures * (2.0 / 255.0) - 1.0)
        taps: list[Tensor] = []
        for index, block in enumerate(self.backbone.blocks):
            if index == _TAP:
                taps.append(block.get_submodule("expand")(x))
                if levels == 1:
                    return taps
            x = block(x)
        taps.append(self.last(x))
        for extra in list(self.extras)[: levels - 2]:
            taps.append(extra(taps[-1]))
        return taps

    def forward(self, pictures: Tensor, levels: int = LEVELS) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        """What is said of every anchor.

        Returns:
            Box codes N x A x 4 (ty, tx, th, tw), logits N x A x 2 (nobody, person), and each level's rows and columns.
        """
        taps = self.features(pictures, levels)
        codes = torch.cat([predictor(tap) for predictor, tap in zip(self.boxes, taps, strict=False)], dim=1)
        logits = torch.cat([predictor(tap) for predictor, tap in zip(self.classes, taps, strict=False)], dim=1)
        return codes, logits, [(int(tap.shape[2]), int(tap.shape[3])) for tap in taps]


def pretrained_ssdlite() -> SsdLite:
    """The published detector, in evaluation mode. Raises Unavailable without the package, Tampered if it is another file."""
    network, constants = SsdLite(), read_constants(graph_file())
    fill(network.backbone, constants)
    root = "FeatureExtractor/MobilenetV2/"
    fill_layer(network.last, constants, f"{root}Conv_1/", "weights")
    for index, (extra, (_, narrow, outward)) in enumerate(zip(network.extras, _EXTRAS, strict=True), start=2):
        assert isinstance(extra, Extra)
        second = f"{root}layer_19_2_Conv2d_{index}_3x3_s2_{outward}"
        fill_layer(extra.narrow, constants, f"{root}layer_19_1_Conv2d_{index}_1x1_{narrow}/", "weights")
        fill_layer(extra.depthwise, constants, f"{second}_depthwise/", "depthwise_weights")
        fill_layer(extra.widen, constants, f"{second}/", "weights")
    for kind, predictors in (("BoxEncodingPredictor", network.boxes), ("ClassPredictor", network.classes)):
        for index, predictor in enumerate(predictors):
            assert isinstance(predictor, Predictor)
            scope = f"BoxPredictor_{index}/{kind}"
            fill_layer(predictor.depthwise, constants, f"{scope}_depthwise/", "depthwise_weights")
            fill_biased(predictor.out, constants, f"{scope}/")
    return network.eval().to(memory_format=torch.channels_last)


def anchors(grids: Sequence[tuple[int, int]], height_px: int, width_px: int) -> NDArray[np.float32]:
    """(y, x, height, width) in pixels of every anchor's middle and size, A x 4, in the network's order.

    Args:
        grids: rows and columns of each level, finest first.
        height_px: of the input.
        width_px: same.
    """
    parts = []
    for level, (rows, columns) in enumerate(grids):
        shapes = _FINEST if level == 0 else _shapes(level)
        sizes = np.array([(scale / math.sqrt(aspect), scale * math.sqrt(aspect)) for scale, aspect in shapes]) * ANCHOR_PX
        y, x = np.meshgrid(
            (np.arange(rows) + 0.5) * height_px / rows, (np.arange(columns) + 0.5) * width_px / columns, indexing="ij"
        )
        middles = np.repeat(np.stack([y.ravel(), x.ravel()], axis=1), len(sizes), axis=0)
        parts.append(np.concatenate([middles, np.tile(sizes, (rows * columns, 1))], axis=1))
    return np.asarray(np.concatenate(parts), np.float32)


def corners(codes: NDArray[np.float32], around: NDArray[np.float32]) -> NDArray[np.float32]:
    """Box codes (... x 4) and their anchors (A x 4) to (left, top, right, bottom) in pixels, ... x 4."""
    ty, tx, th, tw = np.moveaxis(codes / np.array(_CODE_SCALE, np.float32), -1, 0)
    y, x = ty * around[:, 2] + around[:, 0], tx * around[:, 3] + around[:, 1]
    tall, wide = np.exp(np.minimum(th, _LONGEST)) * around[:, 2], np.exp(np.minimum(tw, _LONGEST)) * around[:, 3]
    return np.asarray(np.stack([x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2], axis=-1), np.float32)


@dataclass(frozen=True)
class SsdLiteDetector:
    """The published detector as one that can be asked for people (`inference.networks.adapters.Detector`).

    With several passes their boxes are put together before suppression. Pictures are resized by OpenCV, whose bilinear is half a
    pixel truer than the graph's own: log-average miss rate 0.245 against 0.251 on the 120 shared Penn-Fudan pictures.
    """

    network: SsdLite
    passes: tuple[Pass, ...] = AS_SHIPPED
    name: str = "ssdlite"

    @property
    def digest(self) -> str:
        """SHA-256 of the graph that the weights were read from."""
        return SHA256

    def detect(self, pictures: Sequence[Picture], threshold: float) -> list[tuple[Box, ...]]:
        """People in pictures of any size (H x W x 3, uint8 RGB), best first: those that score more than `threshold`, 0..1."""
        return [self._look(picture, threshold) for picture in pictures]

    def _look(self, picture: Picture, threshold: float) -> tuple[Box, ...]:
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:  # noqa: PLR2004 - H x W x RGB
            raise BadInput(f"a picture is H x W x 3 uint8 numbers, was given {picture.shape} {picture.dtype}")
        height, width = picture.shape[:2]
        found = [self._candidates(picture, one, threshold) for one in self.passes]
        edges = np.array([width, height, width, height], np.float32)
        boxes = np.clip(np.concatenate([some for some, _ in found]) * edges, 0.0, edges)
        scores = np.concatenate([some for _, some in found])
        whole = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        boxes, scores = boxes[whole], scores[whole]
        kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), NMS_IOU)[:MOST].tolist()
        return tuple(
            Box(float(x1), float(y1), float(x2 - x1), float(y2 - y1), float(scores[at]))
            for at, (x1, y1, x2, y2) in ((at, boxes[at].astype(np.float64)) for at in kept)
        )

    def _candidates(self, picture: Picture, look: Pass, threshold: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Corners as shares of the picture's sides (n x 4), and scores (n)."""
        sized = cv2.resize(picture, (look.width_px, look.height_px), interpolation=cv2.INTER_LINEAR)
        pixels = torch.from_numpy(sized).permute(2, 0, 1)[None].float()
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            codes, logits, grids = self.network(pixels.to(device).contiguous(memory_format=torch.channels_last), look.levels)
        scores = torch.sigmoid(logits[0, :, 1].float()).cpu().numpy()
        above = scores > threshold
        around = anchors(grids, look.height_px, look.width_px)[above]
        sides = np.array([look.width_px, look.height_px, look.width_px, look.height_px], np.float32)
        return corners(codes[0].float().cpu().numpy()[above], around) / sides, scores[above]


def _shapes(level: int) -> tuple[tuple[float, float], ...]:
    """(scale, width over height) of a level's anchors; the sixth is a square between this level's scale and the next one's."""
    scale, following = _SCALES[level - 1], (*_SCALES, 1.0)[level]
    scales = [scale] * (len(_ASPECTS) - 1) + [math.sqrt(scale * following)]
    return tuple(zip(scales, _ASPECTS, strict=True))
