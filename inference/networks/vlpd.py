"""VLPD: a centre-and-scale detector on CLIP's RN50 that learns where people are beside what else a street has, by words.

It maps pixels to maps and decides nothing. Names of its parts are the authors', so that their checkpoints load as they are.
Without such a checkpoint, or CLIP's weights and a training run, what it says is noise; docs/vlpd.md says what is proven and what
is not. No topic.

Shapes (N pictures, H and W multiples of 16; w = 64): trunk layers as in `inference.networks.clip`, layer4 dilated at stride 16;
neck p3, p4, p5 N x 4w x H/4 x W/4; score map N x 10 x H/16 x W/16, the cosine of each cell with ten words; centre, height and
offset as in `inference.networks.csp_nano`.

Source: VLPD (Liu et al., CVPR 2023) sections 3.2 to 3.4; CSP (Liu et al., CVPR 2019) section 3.2; lmy98129/VLPD net/ for names
(facts).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as nnf

from inference.networks.clip import CONTEXT, PictureTower, layer
from inference.networks.csp_nano import PRIOR, Maps
from streams.errors import BadInput, BrokenContract

WORDS = ("ground", "building", "tree", "human", "car", "bus", "bicycle", "truck", "traffic sign", "sky")
"""What a cell can be; its order is that of the score map's channels."""
_START, _A_PICTURE_OF, _END = 49406, (320, 1674, 539), 49407
_WORD_TOKENS = ((2461,), (2307,), (2677,), (2751,), (1615,), (2840,), (11652,), (4629,), (3399, 2292), (2390,))
HUMAN = WORDS.index("human")
GRAIN = 16
"""Picture sides must be multiples of this."""

_MEAN, _DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, not CLIP's own, as the authors do
_L2_SCALE, _L2_FLOOR = 10.0, 1e-10
_NORM_MOMENTUM = 0.01
_UNUSED = ("backbone.visual.layer4.", "backbone.visual.attnpool.")  # some of the authors' checkpoints keep CLIP's own top


class Whole(NamedTuple):
    """All that VLPD says of N pictures: what every detector of the kind says, the score map, and the features PSC contrasts."""

    maps: Maps
    score_map: Tensor
    contrast: Tensor


class L2Norm(nn.Module):
    """Each cell's channels brought to length 1, then scaled by a learned number a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), _L2_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """N x C x h x w to the same."""
        # torch's norm passes 0 back where a cell is all zero; a root of a sum of squares would pass NaN
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True) + _L2_FLOOR
        out: Tensor = x / length * self.weight[:, None, None]
        return out


class _Trunk(nn.Module):
    """CLIP's convolutions with a dilated top, the neck and the score map; the authors' `backbone`."""

    zeroshot_weights: Tensor

    def __init__(self, words: Tensor, width: int) -> None:
        super().__init__()
        neck, top, common = 4 * width, 32 * width, words.shape[0]
        self.visual = PictureTower(width, top=False)
        self.dilated_layer4 = layer(16 * width, 8 * width, 3, 1, dilation=2)
        self.conv1, self.conv2 = nn.Conv2d(top, top, 1), nn.Conv2d(top, common, 1)
        self.register_buffer("zeroshot_weights", words)
        self.p3 = nn.ConvTranspose2d(8 * width, neck, 4, stride=2, padding=1)
        self.p4 = nn.ConvTranspose2d(16 * width, neck, 4, stride=4)
        self.p5 = nn.ConvTranspose2d(top, neck, 4, stride=4)
        self.p3_l2, self.p4_l2, self.p5_l2 = L2Norm(neck), L2Norm(neck), L2Norm(neck)
        self.feat = nn.Conv2d(3 * neck + words.shape[1], neck, 3, padding=1, bias=False)
        self.feat_bn = nn.BatchNorm2d(neck, momentum=_NORM_MOMENTUM)
        for part in (self.p3, self.p4, self.p5, self.feat):
            nn.init.xavier_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalised pictures to (fused features, layer3, score map, contrast features)."""
        _, fine, middle = self.visual(pictures)
        coarse = self.dilated_layer4(middle)
        contrast = torch.cat([self.p3_l2(self.p3(fine)), self.p4_l2(self.p4(middle)), self.p5_l2(self.p5(coarse))], 1)
        score_map = cosines(self.conv2(self.conv1(coarse)), self.zeroshot_weights)
        near = nnf.interpolate(score_map, contrast.shape[2:])  # nearest
        fused = torch.relu(self.feat_bn(self.feat(torch.cat([contrast, near], 1))))
        return fused, middle, score_map, contrast


class Vlpd(nn.Module):
    """The detector. `words`: E x 10 unit text embeddings, fixed; `width`: 64 is the real one, less is for tests."""

    def __init__(self, words: Tensor, width: int = 64) -> None:
        super().__init__()
        if words.ndim != 2 or words.shape[1] != len(WORDS):  # noqa: PLR2004 - E x 10
            raise BadInput(f"text embeddings must be E x {len(WORDS)}, these are {tuple(words.shape)}; see docs/vlpd.md")
        self.backbone = _Trunk(words, width)
        self.head = nn.ModuleDict({name: nn.Sequential(nn.Conv2d(4 * width, n, 1)) for name, n in _HEADS.items()})
        for name, weights in self.head.named_parameters():
            if name.endswith("weight"):
                nn.init.xavier_normal_(weights)
            else:
                nn.init.constant_(weights, -math.log((1 - PRIOR) / PRIOR) if name.startswith("cls") else 0.0)
        self.register_buffer("_mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("_deviation", torch.tensor(_DEVIATION)[:, None, None], persistent=False)

    def forward(self, pictures: Tensor) -> Maps:
        """N x 3 x H x W, RGB, 0..255, to `Maps`; centres are logits. Raises BrokenContract as `whole`."""
        return self.whole(pictures).maps

    def whole(self, pictures: Tensor) -> Whole:
        """All that it says, for training. Raises BrokenContract if a side is no multiple of 16."""
        if any(int(side) % GRAIN for side in pictures.shape[2:]):
            raise BrokenContract(f"VLPD was given {tuple(pictures.shape)}; both sides must be multiples of {GRAIN}: pad first")
        fused, middle, score_map, contrast = self.backbone(self.normalised(pictures))
        maps = Maps(self.head["cls"](fused), self.head["reg"](fused), self.head["offset"](fused), middle)
        return Whole(maps, score_map, contrast)

    def normalised(self, pictures: Tensor) -> Tensor:
        """0..255 to what trunk and teacher take."""
        assert isinstance(self._mean, Tensor)
        assert isinstance(self._deviation, Tensor)
        return (pictures - self._mean) / self._deviation


_HEADS = {"cls": 1, "reg": 1, "offset": 2}


class Teacher(nn.Module):
    """Frozen CLIP with its own layer4 (stride 32): what VLS wants the score map to be. It never trains."""

    def __init__(self, state: Mapping[str, Tensor], words: Tensor, width: int = 64) -> None:
        super().__init__()
        self.visual = PictureTower(width)
        top = 32 * width
        self.conv1, self.conv2 = nn.Conv2d(top, top, 1), nn.Conv2d(top, words.shape[0], 1)
        own = set(self.visual.state_dict())
        prefix = "visual."
        found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        self.visual.load_state_dict({name: value for name, value in found.items() if name in own})
        _project(self.conv1, found, "v_proj")
        _project(self.conv2, found, "c_proj")
        self.register_buffer("words", words)
        self.eval().requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in evaluation mode, whatever its owner does."""
        del mode
        return super().train(mode=False)

    def forward(self, normalised: Tensor) -> Tensor:
        """N x 3 x H x W to N x 10 x H/16 x W/16 cosines, enlarged from stride 32."""
        assert isinstance(self.words, Tensor)
        height, width = normalised.shape[2:]
        coarse = cosines(self.conv2(self.conv1(self.visual(normalised)[-1])), self.words)
        return nnf.interpolate(coarse, (height // 16, width // 16), mode="bilinear", align_corners=True)


def cosines(features: Tensor, words: Tensor) -> Tensor:
    """N x E x h x w features and E x C unit words to N x C x h x w cosines; no temperature."""
    return torch.einsum("nehw,ec->nchw", nnf.normalize(features, dim=1), words)


def prompts() -> Tensor:
    """The ten texts "a picture of WORD" as 10 x 77 token numbers.

    The numbers are CLIP's own for these words (facts; they stand here so that its list of merges is not needed).
    """
    out = torch.zeros((len(WORDS), CONTEXT), dtype=torch.int64)
    for row, word in enumerate(_WORD_TOKENS):
        text = (_START, *_A_PICTURE_OF, *word, _END)
        out[row, : len(text)] = torch.tensor(text)
    return out


def from_clip(state: Mapping[str, Tensor], words: Tensor, width: int = 64) -> Vlpd:
    """A VLPD to be trained: trunk, dilated top and score map from CLIP's tensors (`read_archive`), neck and head fresh.

    Raises BadInput naming what is missing or misshapen.
    """
    network = Vlpd(words, width)
    prefix = "visual."
    found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    try:
        own = set(network.backbone.visual.state_dict())
        network.backbone.visual.load_state_dict({name: value for name, value in found.items() if name in own})
        top = {name.removeprefix("layer4."): value for name, value in found.items() if name.startswith("layer4.")}
        network.backbone.dilated_layer4.load_state_dict(top)
        _project(network.backbone.conv1, found, "v_proj")
        _project(network.backbone.conv2, found, "c_proj")
    except (RuntimeError, KeyError) as error:
        raise BadInput(f"these are not CLIP's RN50 weights: {error}") from error
    return network


def read_checkpoint(path: Path, words: Tensor | None = None, width: int = 64) -> Vlpd:
    """A VLPD from a checkpoint in the authors' layout (their state dict, bare or under "model", with or without "module.").

    Args:
        path: safetensors, as `kerbwatch train-vlpd` writes; or the authors' .pth, read with tensors only, nothing in it is run.
        words: E x 10 text embeddings, needed where the checkpoint has none (it has none if it was saved on a GPU).
        width: 64 for the authors' own.

    Raises:
        BadInput: if it is no such checkpoint, or has no embeddings and none are given.
    """
    try:
        own = path.suffix == ".safetensors"
        content: Any = load(path.read_bytes()) if own else torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise BadInput(f"{path} is no checkpoint of tensors alone: {error}") from error
    state = content.get("model", content) if isinstance(content, dict) else {}
    named = {str(name).removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}
    kept = {name: value.float() if value.is_floating_point() else value for name, value in named.items()}
    kept = {name: value for name, value in kept.items() if not name.startswith(_UNUSED)}
    given = kept.get("backbone.zeroshot_weights", words)
    if given is None:
        raise BadInput(f"{path} holds no text embeddings; give them as E x {len(WORDS)} numbers, see docs/vlpd.md")
    network = Vlpd(given, width)
    try:
        network.load_state_dict(kept | {"backbone.zeroshot_weights": given})
    except RuntimeError as error:
        raise BadInput(f"{path} is no VLPD of width {width}: {error}") from error
    return network.eval()


def _project(conv: nn.Conv2d, state: Mapping[str, Tensor], name: str) -> None:
    """CLIP's attention pool has the projection as a matrix; here it is a 1x1 convolution with the same numbers."""
    weight, bias = state[f"attnpool.{name}.weight"], state[f"attnpool.{name}.bias"]
    conv.load_state_dict({"weight": weight[:, :, None, None], "bias": bias})
