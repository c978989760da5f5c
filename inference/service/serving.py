"""Serves one verified model: same-sized pictures in, people, centre maps and embeddings out.

It decides where a person is (the card's threshold, suppression in `inference.networks.targets`) and nothing else; which model
serves is told to it, and weights that do not verify are not loaded. On a CPU the network runs as an ONNX graph in onnxruntime,
about three times as fast as torch; on CUDA it runs in torch. Both are the same network: the graph is exported from the verified
weights on loading and compared with it before the first picture. Fed by the topic `frames` through the worker; its views become
`detections`.

Source: CSP section 3.4 and upstream's decoding for the boxes; ONNX opset 17; random sign projections (Achlioptas 2003).
"""

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inference.networks.csp_nano import GRAIN, GREY, STRIDE, CspNano
from inference.networks.targets import decode
from inference.provenance.registry import Registry
from streams.errors import BadInput, BrokenContract, Unavailable
from streams.events import Box
from streams.sources.base import Picture

EMBEDDING = 16
"""Numbers in an embedding."""

_FEATURES = 96
_OPSET = 17
_AGREES = 1e-3  # largest difference between graph and network
_OUTPUTS = ("said", "height", "offset", "embedding")
_Maps = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
_Engine = Callable[[NDArray[np.uint8]], _Maps]


@dataclass(frozen=True)
class View:
    """What the model saw in one picture of H x W pixels.

    boxes: people, best first. heat: ceil(H/4) x ceil(W/4), how sure it is that a person's middle is in a cell, 0..1.
    embedding: 16 numbers that change when the kind of picture changes (pooled stride-16 features, projected).
    """

    boxes: tuple[Box, ...]
    heat: NDArray[np.float32]
    embedding: NDArray[np.float32]


class Served:
    """A loaded model; get it from `load`. Not to be shared between threads that call `look` at once."""

    def __init__(self, digest: str, threshold: float, engine: _Engine) -> None:
        self.digest = digest
        self.threshold = threshold
        self._engine = engine

    def look(self, pictures: Sequence[Picture], threshold: float | None = None) -> list[View]:
        """Judge same-sized RGB pictures (H x W x 3, uint8) in one forward pass; one view each, in order.

        Args:
            pictures: any size; padded with grey at the right and below to multiples of 32.
            threshold: 0..1, instead of the card's (for measuring).

        Raises:
            BadInput: if sizes differ or something is no uint8 picture.
            BrokenContract: if the model's answer is not finite.
        """
        if not pictures:
            return []
        if any(one.shape != pictures[0].shape or one.ndim != 3 or one.shape[2] != 3 or one.dtype != np.uint8 for one in pictures):  # noqa: PLR2004 - H x W x RGB
            raise BadInput(
                f"one forward pass takes same-sized H x W x 3 uint8 pictures, was given {[one.shape for one in pictures][:4]}"
            )
        height, width = pictures[0].shape[:2]
        batch = np.full((len(pictures), height + -height % GRAIN, width + -width % GRAIN, 3), GREY, np.uint8)
        for place, picture in zip(batch, pictures, strict=True):
            place[:height, :width] = picture
        said, tall, offset, embedding = self._engine(batch)
        if not all(np.isfinite(part).all() for part in (said, tall, offset, embedding)):
            raise BrokenContract(
                f"model {self.digest[:12]} answered with numbers that are not finite: take it out of service and report it"
            )
        rows, columns = -(-height // STRIDE), -(-width // STRIDE)
        limit = self.threshold if threshold is None else threshold
        views = []
        for index in range(len(pictures)):
            heat = np.ascontiguousarray(said[index, 0, :rows, :columns])
            boxes = decode(heat, tall[index, 0], offset[index], (height, width), limit)
            views.append(View(boxes, heat, embedding[index]))
        return views


def load(registry: Registry, digest: str, device: str = "cpu", threads: int = 2) -> Served:
    """The model of that digest, verified and ready; takes about two seconds on a CPU.

    Args:
        registry: where the model is kept.
        digest: which.
        device: "cpu" or "cuda".
        threads: CPU threads of one forward pass.

    Raises:
        Tampered, Unavailable: as `Registry.read`; Unavailable also where there is no such device.
        BrokenContract: if graph and network disagree.
    """
    graph = _Graph(registry.network(digest)).eval()
    if device == "cpu":
        engine = _onnx_engine(graph, threads)
    elif device == "cuda" and torch.cuda.is_available():
        engine = _torch_engine(graph.to("cuda").to(memory_format=torch.channels_last), torch.device("cuda"))
    else:
        raise Unavailable(f"no device {device!r} here; set KERBWATCH_DEVICE to cpu, or to cuda on a machine with an NVIDIA GPU")
    return Served(digest, registry.card(digest).threshold, engine)


class _Graph(nn.Module):
    """The network as it is served: N x H x W x 3 uint8 in; probabilities, heights, offsets and embeddings out."""

    def __init__(self, network: CspNano) -> None:
        super().__init__()
        self.network = network
        # signs from a hash: the same projection on every machine, with no file and no generator whose stream might change
        bits = np.unpackbits(
            np.frombuffer(b"".join(hashlib.sha256(b"embedding %d" % row).digest() for row in range(_FEATURES)), np.uint8)
        )
        signs = bits.reshape(_FEATURES, 256)[:, :EMBEDDING].astype(np.float32) * 2 - 1
        self.register_buffer("projection", torch.from_numpy(signs / np.sqrt(np.float32(_FEATURES))), persistent=False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        maps = self.network(pictures.permute(0, 3, 1, 2).float())
        assert isinstance(self.projection, Tensor)
        return torch.sigmoid(maps.centre), maps.height, maps.offset, maps.features.mean((2, 3)) @ self.projection


def _torch_engine(graph: _Graph, device: torch.device) -> _Engine:
    def run(batch: NDArray[np.uint8]) -> _Maps:
        with torch.inference_mode():
            said, tall, offset, embedding = (part.cpu().numpy() for part in graph(torch.from_numpy(batch).to(device)))
        return said, tall, offset, embedding

    return run


def _onnx_engine(graph: _Graph, threads: int) -> _Engine:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # waiting threads sleep: a worker shares its cores with broker and agents, where spinning made a frame cost three times the time
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(_export(graph), options, providers=["CPUExecutionProvider"])

    def run(batch: NDArray[np.uint8]) -> _Maps:
        said, tall, offset, embedding = session.run(list(_OUTPUTS), {"pictures": batch})
        return said, tall, offset, embedding

    trial = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)  # not the exported size: the axes must be free
    apart = max(
        float(np.abs(a - b).max()) for a, b in zip(run(trial), _torch_engine(graph, torch.device("cpu"))(trial), strict=True)
    )
    if not apart <= _AGREES:
        versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
        raise BrokenContract(
            f"the ONNX graph and the network differ by {apart:.2g}, more than {_AGREES}: report this, with {versions}"
        )
    return run


def _export(graph: _Graph) -> bytes:
    free = {0: "n", 2: "rows", 3: "columns"}
    axes = {"pictures": {0: "n", 1: "height", 2: "width"}, "said": free, "height": free, "offset": free, "embedding": {0: "n"}}
    data = io.BytesIO()
    with warnings.catch_warnings():
        # torch's tracing exporter is deprecated in favour of one that needs a further package (onnxscript) and three times as long
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph, (torch.zeros((1, 64, 64, 3), dtype=torch.uint8),), data,  # type: ignore[arg-type] # streams are taken
            opset_version=_OPSET, dynamo=False,
            input_names=["pictures"], output_names=list(_OUTPUTS), dynamic_axes=axes,
        )  # fmt: skip
    return data.getvalue()
