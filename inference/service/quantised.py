"""Makes an eight-bit copy of a model in the registry: the same answers, nearly, for about half the time on a CPU.

It decides what is quantised: activations to unsigned and weights to signed eight bits, a scale for each channel, ranges from
pictures; first and last layers stay float32, since the scores' last digits come from there. The copy is a model of its own: named
by its digest, with its own card (`parent` is what it was made from) and lineage, signed, served by `inference.service.serving`. It
refuses to quantise anything but a verified CSP-nano. It does not measure (`inference.experiments.quantisation` does) and promotes
nothing. No topic feeds it.

Source: paper section 6 (light-weight model in safe mode: 1.08x latency, 94 % of robustness kept); Jacob et al., CVPR 2018; for the
choice of types onnxruntime's advice for processors with VNNI, and the figures in docs/overheads.md.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (  # type: ignore[import-untyped]
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]
from safetensors.numpy import save

from inference.networks.csp_nano import GRAIN, GREY, CspNano
from inference.provenance.lineage import Lineage, this_code, this_machine, write_lineage
from inference.provenance.manifest import Labelled, PoolSource, manifest_of
from inference.provenance.registry import INT8, Card, Registry, digest_of
from inference.service.serving import GRAPH, exported
from streams.errors import BadInput
from streams.sources.base import Picture

_FIRST = {"Cast", "Transpose", "Mul", "Sub"}
_LAST = {"ReduceMean", "MatMul", "Sigmoid", "Split"}


class _Calibration(CalibrationDataReader):  # type: ignore[misc] # onnxruntime ships no types
    def __init__(self, pictures: Iterable[Picture]) -> None:
        self._left = iter(pictures)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next picture as the graph takes it; None after the last."""
        picture = next(self._left, None)
        if picture is None:
            return None
        height, width = picture.shape[:2]
        batch = np.full((1, height + -height % GRAIN, width + -width % GRAIN, 3), GREY, np.uint8)
        batch[0, :height, :width] = picture
        return {"pictures": batch}


def eight_bit(network: CspNano, pictures: Sequence[Picture]) -> bytes:
    """The network as an eight-bit ONNX graph; the same for the same weights and pictures. Takes some seconds.

    Args:
        network: left as it is.
        pictures: what the ranges of activations are read from, any sizes.

    Raises:
        BadInput: if there are no pictures.
    """
    if not pictures:
        raise BadInput("no pictures to read the ranges of activations from: give the kinds of pictures that the model will see")
    with TemporaryDirectory(prefix="kwb") as folder:
        full, plain, made = (Path(folder) / name for name in ("full.onnx", "plain.onnx", "made.onnx"))
        full.write_bytes(exported(network))
        quant_pre_process(full, plain, skip_symbolic_shape=True)
        nodes = onnx.load(plain).graph.node
        last = [node.name for node in nodes if node.op_type == "Conv"][-1]
        quantize_static(
            plain, made, _Calibration(pictures), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=[last, *(node.name for node in nodes if node.op_type in _FIRST | _LAST)],
        )  # fmt: skip
        return made.read_bytes()


def quantise(
    registry: Registry, parent: str, samples: Sequence[Labelled], sources: Iterable[PoolSource], now: Callable[[], datetime]
) -> str:  # fmt: skip
    """Make an eight-bit copy of a model and put it into the registry beside it; the copy's digest. One that is there stays.

    Args:
        registry: with keys, if the copy is to serve.
        parent: digest of a CSP-nano.
        samples: whose pictures calibrate it; labels are not used, but are in the manifest.
        sources: of the samples' pools.
        now: the time, UTC.

    Raises:
        Tampered, Unavailable: as `Registry.read`. BadInput: if the parent is no CSP-nano, or as `eight_bit`.
    """
    card = registry.card(parent)
    if card.architecture.startswith(INT8):
        raise BadInput(f"model {parent[:12]} is quantised already; its parent is {(card.parent or 'not named')[:12]}")
    started_at = now()
    weights = save({GRAPH: np.frombuffer(eight_bit(registry.network(parent), [one.picture for one in samples]), np.uint8)})
    digest, manifest = digest_of(weights), manifest_of(f"calibration of {card.name}", samples, sources)
    if digest in registry.digests():
        registry.verify(digest)
        return digest
    settings = {
        "activations": "uint8",
        "weights": "int8, by channel",
        "ranges": "smallest and largest",
        "float32": "first and last layers",
    }
    made = Card(
        name=f"{card.name}-int8",
        digest=digest,
        mode=card.mode,
        contexts=card.contexts,
        architecture=f"{INT8} onnx graph (opset 17, QDQ) of {card.architecture}"[:400],
        parent=parent,
        threshold=card.threshold,
        data=f"Ranges read from {len(samples)} pictures, manifest {manifest.digest}. Weights: see the parent's card.",
        settings=msgspec.Raw(msgspec.json.encode(settings)),
        commands=(f"kerbwatch models quantise {parent[:12]}",),
        figures=(),
        notes="Has no gradient: white-box attacks, the gate's too, are made on the parent and shown to it.",
        licence=card.licence,
    )
    lineage = Lineage(
        digest=digest,
        started_at=started_at,
        finished_at=now(),
        materials=(manifest.material(),),
        settings=dict(settings),
        code=this_code(),
        machine=this_machine("cpu"),
        parent=parent,
        figures={},
    )
    with TemporaryDirectory(prefix="kwb") as folder:
        path = Path(folder) / "weights.safetensors"
        path.write_bytes(weights)
        return registry.put(path, made, write_lineage(lineage))
