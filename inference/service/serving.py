"""Serves one verified model: same-sized pictures in, people, centre maps and embeddings out.

It decides where a person is (the card's threshold, suppression in `inference.networks.targets`) and nothing else; which model
serves is told to it, and weights that do not verify are not loaded. On a CPU the network runs as an ONNX graph in onnxruntime,
about three times as fast as torch; on CUDA it runs in torch, in half precision where that is asked for. All are the same network:
the graph is exported from the verified weights on loading and compared with it before the first picture. A quantised model
(`inference.service.quantised`) is a graph already, and is served as it was signed. Fed by the topic `frames` through the worker;
its views become `detections`.

Source: CSP section 3.4 and upstream's decoding for the boxes; ONNX opset 17; random sign projections (Achlioptas 2003).
"""

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray
from onnx import load_model_from_string
from onnx.external_data_helper import uses_external_data
from safetensors.numpy import load as load_tensors
from torch import Tensor, nn

from inference.networks.csp_nano import GRAIN, GREY, STRIDE, CspNano
from inference.networks.targets import decode
from inference.provenance.registry import INT8, Registry
from streams.errors import BadInput, BrokenContract, Unavailable
from streams.events import Box
from streams.sources.base import Picture

EMBEDDING = 16
"""Numbers in an embedding."""
GRAPH = "graph.onnx"
"""The name of the one tensor in a quantised model's file: an ONNX graph."""

_FEATURES = 96
_OPSET = 17
_AGREES = 1e-3  # largest difference between graph and network
_OUTPUTS = ("said", "height", "offset", "embedding")
_Maps = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
_Engine = Callable[[NDArray[np.uint8]], _Maps]
_TRIAL = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)  # not the exported size: the axes must be free


class Precision(StrEnum):
    """What the network calculates in: all of it in float32, or convolutions in half of that (weights stay as they were signed)."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


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


def load(
    registry: Registry, digest: str, device: str = "cpu", threads: int = 2, precision: Precision = Precision.FLOAT32
) -> Served:  # fmt: skip
    """The model of that digest, verified and ready; takes about two seconds on a CPU.

    Args:
        registry: where the model is kept.
        digest: which.
        device: "cpu" or "cuda"; a quantised model runs on the CPU alone.
        threads: CPU threads of one forward pass.
        precision: half precision is for CUDA; bfloat16 runs on a CPU too, in torch, and is slower there than the ONNX graph.

    Raises:
        Tampered, Unavailable: as `Registry.read`; Unavailable also where there is no such device, or not in that precision.
        BadInput: if the weights are neither CSP-nano's nor a quantised graph that stands alone.
        BrokenContract: if graph and network disagree.
    """
    card = registry.card(digest)
    if device not in {"cpu", "cuda"} or (device == "cuda" and not torch.cuda.is_available()):
        raise Unavailable(f"no device {device!r} here; set KERBWATCH_DEVICE to cpu, or to cuda on a machine with an NVIDIA GPU")
    if card.architecture.startswith(INT8):
        if device != "cpu" or precision is not Precision.FLOAT32:
            raise Unavailable(
                f"model {digest[:12]} is quantised, which is for a CPU: set KERBWATCH_DEVICE to cpu and KERBWATCH_PRECISION to "
                "float32, or serve its parent"
            )
        return Served(digest, card.threshold, _quantised_engine(registry.read(digest), threads))
    if device == "cpu" and precision is Precision.FLOAT16:
        raise Unavailable("float16 is for CUDA: on a CPU set KERBWATCH_PRECISION to float32 (the fastest there) or bfloat16")
    graph = _Graph(registry.network(digest)).eval()
    if device == "cpu" and precision is Precision.FLOAT32:
        engine = _onnx_engine(graph, threads)
    else:
        there = torch.device(device)
        engine = _torch_engine(graph.to(there).to(memory_format=torch.channels_last), there, precision)
    return Served(digest, card.threshold, engine)


def white_box(registry: Registry, digest: str) -> CspNano:
    """The network that attacks on a model are made with: its own, or its parent's where it is quantised, which has no gradient.

    Raises as `load`.
    """
    card = registry.card(digest)
    if not card.architecture.startswith(INT8):
        return registry.network(digest)
    if card.parent is None:
        raise BadInput(f"model {digest[:12]} is quantised and its card names no parent: make it with `kerbwatch models quantise`")
    return registry.network(card.parent)


def exported(network: CspNano) -> bytes:
    """The ONNX graph that serves a network on a CPU: N x H x W x 3 uint8 in, sides multiples of 32."""
    return _export(_Graph(network).eval())


def _quantised_engine(data: bytes, threads: int) -> _Engine:
    """The engine of a quantised model's file. Raises BadInput unless the graph stands alone and answers as ours do."""
    try:
        model = load_tensors(data)[GRAPH].tobytes()
        alone = not any(uses_external_data(tensor) for tensor in load_model_from_string(model).graph.initializer)
        run = _session_engine(model, threads) if alone else None
        shapes = tuple(part.shape for part in run(_TRIAL)) if run else ()
    except KeyError as error:
        raise BadInput(f"these {len(data)} bytes hold no quantised graph; make one with `kerbwatch models quantise`") from error
    except Exception as error:  # whatever onnxruntime's fifteen kinds of error or onnx have to say of a foreign graph
        raise BadInput(f"this quantised graph does not open: {str(error)[:400]}; use `kerbwatch models quantise`") from error
    if run is None:
        raise BadInput("this quantised graph keeps weights in further files, which its digest does not cover: none is served so")
    count, cells = len(_TRIAL), (_TRIAL.shape[1] // STRIDE, _TRIAL.shape[2] // STRIDE)
    if shapes != (wanted := ((count, 1, *cells), (count, 1, *cells), (count, 2, *cells), (count, EMBEDDING))):
        raise BadInput(f"this quantised graph answers with shapes {shapes}, not {wanted}; use `kerbwatch models quantise`")
    return run


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


def _torch_engine(graph: _Graph, device: torch.device, precision: Precision = Precision.FLOAT32) -> _Engine:
    kind = {Precision.FLOAT16: torch.float16, Precision.BFLOAT16: torch.bfloat16}.get(precision)

    def narrowed() -> AbstractContextManager[object]:
        return nullcontext() if kind is None else torch.autocast(device.type, kind)

    def run(batch: NDArray[np.uint8]) -> _Maps:
        with torch.inference_mode(), narrowed():
            parts = graph(torch.from_numpy(batch).to(device))
        said, tall, offset, embedding = (part.float().cpu().numpy() for part in parts)
        return said, tall, offset, embedding

    return run


def _session_engine(model: bytes, threads: int) -> _Engine:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # waiting threads sleep: a worker shares its cores with broker and agents, where spinning made a frame cost three times the time
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(batch: NDArray[np.uint8]) -> _Maps:
        said, tall, offset, embedding = session.run(list(_OUTPUTS), {"pictures": batch})
        return said, tall, offset, embedding

    return run


def _onnx_engine(graph: _Graph, threads: int) -> _Engine:
    run = _session_engine(_export(graph), threads)
    apart = max(
        float(np.abs(a - b).max()) for a, b in zip(run(_TRIAL), _torch_engine(graph, torch.device("cpu"))(_TRIAL), strict=True)
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
