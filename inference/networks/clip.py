"""CLIP's RN50 towers, as far as VLPD builds on them, and a reader of OpenAI's file that runs nothing in it.

It maps pixels and words to features and decides nothing. Weights are never executed: OpenAI's archive is TorchScript, whose
loader runs the code in the file, so the tensors are read out of it with nothing but a list of allowed names (paper 4.4, EE-2: a
pretrained model from outside is vetted before use). Texts come as token numbers; the tokenizer is not here. No topic.

Shapes (N pictures of H x W, both multiples of 32; w = 64 in RN50): stem N x w x H/4 x W/4; layer1 4w at stride 4, layer2 8w at 8,
layer3 16w at 16, layer4 32w at 32, or at 16 when dilated.

Source: Radford et al., ICML 2021, section 2.4; openai/CLIP clip/model.py for layer names and the archive's layout (facts).
"""

import hashlib
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from streams.errors import BadInput, Tampered

CONTEXT = 77
"""Tokens in a text, padded with zeros."""
_EXPANSION = 4
_BLOCKS = (3, 4, 6, 3)
_STORAGES = {"FloatStorage": torch.float32, "HalfStorage": torch.float16, "LongStorage": torch.int64, "BoolStorage": torch.bool}
_LARGEST_BYTES = 1 << 30
RN50_SHA256 = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
"""Of OpenAI's RN50.pt; its own download address states it."""


class Bottleneck(nn.Module):
    """CLIP's residual block: every convolution has stride 1, a pool after the second one does the striding.

    dilation 2 keeps the resolution of the layer before it (VLPD's layer4); the weights are the same either way.
    """

    def __init__(self, inward: int, planes: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        outward = planes * _EXPANSION
        self.conv1, self.bn1 = nn.Conv2d(inward, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3, self.bn3 = nn.Conv2d(planes, outward, 1, bias=False), nn.BatchNorm2d(outward)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or inward != outward:
            shortcut = {"-1": nn.AvgPool2d(stride), "0": nn.Conv2d(inward, outward, 1, bias=False), "1": nn.BatchNorm2d(outward)}
            self.downsample = nn.Sequential(OrderedDict(shortcut))

    def forward(self, x: Tensor) -> Tensor:
        """N x inward x h x w to N x 4 planes x h/stride x w/stride."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(self.avgpool(out)))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


class PictureTower(nn.Module):
    """The convolutions of CLIP's picture tower; `top` leaves layer4 out, which VLPD builds dilated."""

    def __init__(self, width: int = 64, *, top: bool = True) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv2, self.bn2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv3, self.bn3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        inward = width
        for number, blocks in enumerate(_BLOCKS if top else _BLOCKS[:3]):
            setattr(self, f"layer{number + 1}", layer(inward, width * 2**number, blocks, 1 if number == 0 else 2))
            inward = width * 2**number * _EXPANSION

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """N x 3 x H x W, normalised, to the outputs of all layers, finest first."""
        x = torch.relu(self.bn1(self.conv1(pictures)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = self.avgpool(torch.relu(self.bn3(self.conv3(x))))
        found = []
        for number in range(1, 5):
            if hasattr(self, f"layer{number}"):
                x = getattr(self, f"layer{number}")(x)
                found.append(x)
        return found


def layer(inward: int, planes: int, blocks: int, stride: int, dilation: int = 1) -> nn.Sequential:
    """Blocks of one layer; the first one strides and widens."""
    first = Bottleneck(inward, planes, stride, dilation)
    return nn.Sequential(first, *(Bottleneck(planes * _EXPANSION, planes, 1, dilation) for _ in range(blocks - 1)))


class TextTower(nn.Module):
    """CLIP's text transformer; one unit vector a text. Named as in OpenAI's archive, sizes taken from its tensors."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        words, width = state["token_embedding.weight"].shape
        self.token_embedding = nn.Embedding(words, width)
        self.positional_embedding = nn.Parameter(torch.empty_like(state["positional_embedding"]))
        blocks = {name.split(".")[2] for name in state if name.startswith("transformer.resblocks.")}
        heads = max(1, width // 64)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(_TextBlock(width, heads) for _ in blocks)})
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty_like(state["text_projection"]))
        own = set(self.state_dict())
        self.load_state_dict({name: value.float() for name, value in state.items() if name in own})
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        """N x L token ids to N x E unit vectors; a text is read at its end, the largest id."""
        length = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positional_embedding[:length]
        later = torch.full((length, length), float("-inf")).triu(1)
        blocks = self.transformer["resblocks"]
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            x = block(x, later)
        ends = self.ln_final(x)[torch.arange(len(tokens)), tokens.argmax(-1)]
        return nnf.normalize(ends @ self.text_projection, dim=-1)


class _TextBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        parts = {"c_fc": nn.Linear(width, 4 * width), "gelu": _QuickGelu(), "c_proj": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(parts))

    def forward(self, x: Tensor, later: Tensor) -> Tensor:
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, need_weights=False, attn_mask=later)[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class _QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def read_archive(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """All tensors of a TorchScript archive by name, in float32 where they are floats, without running any of its code.

    Raises Tampered if its bytes do not hash to `sha256` (None: not compared), BadInput if it is no such archive, is too large, or
    asks for more than tensors need.
    """
    try:
        _compared(path, sha256)
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST_BYTES:
                raise BadInput(f"{path} unpacks to more than {_LARGEST_BYTES >> 20} MiB; this is not CLIP's RN50")
            index = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if index is None:
                raise BadInput(f"{path} has no data.pkl; it is no TorchScript archive")
            root = index.removesuffix("data.pkl")
            with archive.open(index) as stream:
                top = _Tensors(stream, lambda key: archive.read(f"{root}data/{key}")).load()
        found: dict[str, Tensor] = {}
        _walk(top, "", found, set())
    # torch and pickle name what is wrong inside a file in any of these
    except (
        OSError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        LookupError,
        EOFError,
        ValueError,
        TypeError,
        RuntimeError,
    ) as error:
        raise BadInput(f"{path} is no TorchScript archive that can be read safely: {error}") from error
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}


def _compared(path: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise Tampered(f"{path} has SHA-256 {found}, expected {sha256}: do not use it, fetch it again from its publisher")


class _Record:
    """A module in the archive: only its attributes are taken."""

    def __setstate__(self, state: object) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})


class _Tensors(pickle.Unpickler):
    """Reads the archive's index; every name that is not listed here is refused, so nothing in it can be called."""

    def __init__(self, stream: Any, storage: Callable[[str], bytes]) -> None:
        super().__init__(stream)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".", maxsplit=1)[0] == "__torch__":
            return type(name, (_Record,), {})
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
            return lambda value, _: value
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no tensor needs")

    def persistent_load(self, pid: Any) -> Tensor:
        _, kind, key, *_ = pid
        data = self._storage(str(key))
        return torch.frombuffer(bytearray(data), dtype=kind) if data else torch.empty(0, dtype=kind)


def _rebuilt(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: object) -> Tensor:
    if math.prod(size) > len(storage):  # with a stride of 0 a small file would fill the memory
        raise pickle.UnpicklingError(f"a tensor of {tuple(size)} does not fit the {len(storage)} numbers it is made of")
    return torch.as_strided(storage, tuple(size), tuple(stride), offset).clone()


def _walk(record: object, prefix: str, found: dict[str, Tensor], seen: set[int]) -> None:
    if id(record) in seen:  # modules may be shared, and a made-up file may go in circles
        return
    seen.add(id(record))
    for name, value in vars(record).items():
        if isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, _Record):
            _walk(value, f"{prefix}{name}.", found, seen)
