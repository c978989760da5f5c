"""Anybody's detector as ours: a Python function, an ONNX file or a TorchScript file behind one small protocol.

It translates forms (layout, scale, order of corners, sizes) and nothing else: it neither repairs nor clips what a model answers, so
that `kerbwatch models check` (`inference.service.conformance`) sees what a camera would. It refuses a file whose SHA-256 is not the
card's, answers of a shape the card does not promise, and numbers that are no numbers. A TorchScript file carries code that loading
runs: its digest in the card is the word of whoever wrote the card that this code may run. No topic; `kerbwatch models measure` and
`kerbwatch models check` use it (docs/your-own-model.md).

A model file is described by a card beside it, TOML:

    name = "my-detector"
    file = "my-detector.onnx"
    format = "onnx"                  # or "torchscript"
    sha256 = "..."
    [input]
    name = "pictures"                # ONNX: the input's name
    layout = "NCHW"                  # or "NHWC"
    kind = "float32"                 # or "uint8"
    channels = "RGB"                 # or "BGR"
    scale = [0.0039, 0.0039, 0.0039] # value = pixel * scale + shift, by channel
    shift = [0.0, 0.0, 0.0]
    size_px = [300, 300]             # height, width; left out: the picture's own, padded at the right and below
    grain = 32                       # to multiples of this
    [output]
    boxes = "boxes"                  # ONNX: the output's name; TorchScript: its place, e.g. "0"
    scores = "scores"
    form = "corners"                 # x1 y1 x2 y2; "box": x y w h; "centre": cx cy w h
    relative = false                 # true: shares of the input's sides; false: its pixels
    person = 1                       # which column of the scores is a person; left out where there is one score a box
    logits = false                   # true: scores go through a sigmoid
    nms_iou = 0.5                    # suppress here; left out where the model does

Shapes: boxes N x K x 4, scores N x K or N x K x classes, float; K may differ from call to call.
"""

import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, Protocol

import cv2
import msgspec
import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray
from onnx import load_model_from_string
from onnx.external_data_helper import uses_external_data
from torchvision.ops import nms  # type: ignore[import-untyped] # ships no types

from inference.networks.csp_nano import GREY
from streams.errors import BadInput, BrokenContract, KerbwatchError, Tampered, Unavailable
from streams.events import Box, Digest
from streams.sources.base import Picture

_LARGEST = 1 << 30
_LARGEST_CARD = 1 << 16
_MOST_BOXES = 100_000
_Batch = NDArray[np.uint8] | NDArray[np.float32]
_Answer = tuple[NDArray[np.float32], NDArray[np.float32]]
_Row = Sequence[float]


class Detector(Protocol):
    """What finds people. `digest` names exactly what answers: it changes when the answers could."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, lower-case hex."""
        ...

    def detect(self, pictures: Sequence[Picture], threshold: float) -> list[tuple[Box, ...]]:
        """People in each picture, best first: those that score more than `threshold`.

        Args:
            pictures: H x W x 3, RGB, uint8, of any sizes from 1 px, in any number; left as they are.
            threshold: 0..1.

        Returns:
            One tuple a picture, in order; boxes in the picture's pixels and inside it.

        Raises:
            BadInput: if something is no such picture.
        """
        ...


@dataclass(frozen=True)
class FromFunction:
    """A Python function as a detector.

    function: takes one picture (H x W x 3, RGB, uint8) and gives rows (left, top, width, height, score) in pixels, any order.
    digest: SHA-256 of whatever decides its answers; the caller's word, nothing here can check it.
    """

    function: Callable[[Picture], Iterable[_Row]]
    name: str
    digest: Digest

    def detect(self, pictures: Sequence[Picture], threshold: float) -> list[tuple[Box, ...]]:
        """See `Detector`. Raises BrokenContract if the function's answer is no list of five finite numbers each."""
        found = []
        for picture in checked(pictures):
            rows = np.asarray([tuple(row) for row in self.function(picture)], np.float64)
            rows = rows.reshape(0, 5) if not rows.size else rows
            if rows.ndim != 2 or rows.shape[1] != 5:  # noqa: PLR2004 - left, top, width, height, score
                raise BrokenContract(f"{self.name} answered with shape {rows.shape}; give rows of left, top, width, height, score")
            found.append(_boxes(self.name, rows[:, :4], rows[:, 4], threshold))
        return found


class Input(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model wants its pictures; see the module's legend."""

    name: str = "pictures"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    kind: Literal["float32", "uint8"] = "float32"
    channels: Literal["RGB", "BGR"] = "RGB"
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    size_px: tuple[Annotated[int, msgspec.Meta(ge=1, le=8192)], Annotated[int, msgspec.Meta(ge=1, le=8192)]] | None = None
    grain: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1


class Output(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model answers; see the module's legend."""

    boxes: str = "boxes"
    scores: str = "scores"
    form: Literal["corners", "box", "centre"] = "corners"
    relative: bool = False
    person: Annotated[int, msgspec.Meta(ge=0)] | None = None
    logits: bool = False
    nms_iou: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] | None = None


class ModelCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model file is and how it is spoken to."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
    file: str
    format: Literal["onnx", "torchscript"]
    sha256: Digest
    input: Input = Input()
    output: Output = Output()


@dataclass(frozen=True)
class FromFile:
    """A model file as a detector; get it from `open_model`. `answer` maps a batch to boxes (N x K x 4) and scores."""

    card: ModelCard
    answer: Callable[[_Batch], _Answer]

    @property
    def name(self) -> str:
        """As the card says."""
        return self.card.name

    @property
    def digest(self) -> str:
        """SHA-256 of the model's file."""
        return self.card.sha256

    def detect(self, pictures: Sequence[Picture], threshold: float) -> list[tuple[Box, ...]]:
        """See `Detector`. Raises BrokenContract if the model's answer is not what its card promises."""
        return [self._look(picture, threshold) for picture in checked(pictures)]

    def _look(self, picture: Picture, threshold: float) -> tuple[Box, ...]:
        batch, (down, across) = prepared(picture, self.card.input)
        boxes, scores = self.answer(batch)
        out = self.card.output
        fits = boxes.ndim == 3 and boxes.shape[0] == 1 and boxes.shape[2] == 4 and scores.shape[:2] == boxes.shape[:2]  # noqa: PLR2004 - 1 x K x 4
        if not fits or scores.ndim != (2 if out.person is None else 3) or boxes.shape[1] > _MOST_BOXES:
            raise BrokenContract(
                f"{self.name} answered with boxes {boxes.shape} and scores {scores.shape}; "
                "mend `output` in its card: boxes are N x K x 4, scores N x K, or N x K x classes with `person`"
            )
        if out.person is not None and out.person >= scores.shape[2]:
            raise BrokenContract(
                f"{self.name} has {scores.shape[2]} classes, none is number {out.person}: mend `person` in its card"
            )
        said = np.asarray(scores[0] if out.person is None else scores[0, :, out.person], np.float64)
        if out.logits:
            said = 1.0 / (1.0 + np.exp(-np.clip(said, -60.0, 60.0)))
        first = 1 if self.card.input.layout == "NHWC" else 2
        unit_y, unit_x = (batch.shape[first], batch.shape[first + 1]) if out.relative else (1, 1)
        rows = _as_boxes(boxes[0].astype(np.float64), out.form) * np.array([unit_x / across, unit_y / down] * 2)
        kept = _boxes(self.name, rows, said, threshold)
        return kept if out.nms_iou is None else _suppressed(kept, out.nms_iou)


def read_model_card(path: Path) -> ModelCard:
    """A card. Raises BadInput naming the file and the field that does not hold, Unavailable if it is not there."""
    try:
        data = path.read_bytes()
        if len(data) > _LARGEST_CARD:
            raise BadInput(f"{path} has {len(data)} bytes: no card is so long")
        return msgspec.toml.decode(data, type=ModelCard)
    except FileNotFoundError as error:
        raise Unavailable(f"no model card {path}: check the path") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no model card: {error}; the form is in docs/your-own-model.md") from error


def open_model(card_file: Path, threads: int = 1) -> FromFile:
    """The detector that a card describes, on the CPU; the model's file lies beside the card.

    Args:
        card_file: the TOML file.
        threads: of one forward pass of an ONNX model; TorchScript takes torch's.

    Raises:
        Tampered: if the file's SHA-256 is not the card's; nothing of it was then read, or run.
        BadInput: if the card or the model does not hold. Unavailable: if a file is missing.
    """
    card = read_model_card(card_file)
    if Path(card.file).name != card.file:
        raise BadInput(f"{card_file}: `file` is {card.file!r}; name a file beside the card, without a folder")
    path = card_file.parent / card.file
    if not path.is_file():
        raise Unavailable(f"{path} is missing: `file` in {card_file} names it")
    if path.stat().st_size > _LARGEST:
        raise BadInput(f"{path} has more than {_LARGEST} bytes: nothing of it was read")
    data = path.read_bytes()
    found = sha256(data).hexdigest()
    if found != card.sha256:
        code = ", and loading TorchScript runs the code in it" if card.format == "torchscript" else ""
        raise Tampered(
            f"{path} has SHA-256 {found}, its card says {card.sha256}{code}: if you trust this very file, write its SHA-256 "
            f"into {card_file}; otherwise fetch it again"
        )
    try:
        return FromFile(card, _onnx(card, data, threads) if card.format == "onnx" else _torchscript(card, data))
    except KerbwatchError:
        raise
    except Exception as error:  # whatever onnxruntime's fifteen kinds of error, onnx or torch have to say of a foreign file
        raise BadInput(f"{path} does not open as {card.format}: {str(error)[:400]}") from error


def checked(pictures: Sequence[Picture]) -> Sequence[Picture]:
    """The pictures. Raises BadInput if one is not H x W x 3 uint8 with a pixel at least."""
    for picture in pictures:
        shape: tuple[int, ...] = getattr(picture, "shape", ())
        kind = getattr(picture, "dtype", None)
        if len(shape) != 3 or shape[2] != 3 or 0 in shape or kind != np.uint8:  # noqa: PLR2004 - H x W x RGB
            raise BadInput(f"a picture is H x W x 3 uint8 numbers, was given {shape} {kind}")
    return pictures


def prepared(picture: Picture, wants: Input) -> tuple[_Batch, tuple[float, float]]:
    """One picture as a batch of one, and how many of the input's pixels one of the picture's is (down, across)."""
    height, width = picture.shape[0], picture.shape[1]
    if wants.size_px is not None:
        tall, wide = wants.size_px
        sized = np.asarray(cv2.resize(picture, (wide, tall), interpolation=cv2.INTER_LINEAR), np.uint8)
        scale = (tall / height, wide / width)
    else:
        sized = np.full((height + -height % wants.grain, width + -width % wants.grain, 3), GREY, np.uint8)
        sized[:height, :width] = picture
        scale = (1.0, 1.0)
    if wants.channels == "BGR":
        sized = sized[:, :, ::-1]
    values: _Batch = sized
    if wants.kind == "float32":
        values = sized.astype(np.float32) * np.array(wants.scale, np.float32) + np.array(wants.shift, np.float32)
    return np.ascontiguousarray(values[None] if wants.layout == "NHWC" else values.transpose(2, 0, 1)[None]), scale


def _onnx(card: ModelCard, data: bytes, threads: int) -> Callable[[_Batch], _Answer]:
    if any(uses_external_data(tensor) for tensor in load_model_from_string(data).graph.initializer):
        raise BadInput(f"{card.file} keeps weights in further files, which its SHA-256 does not cover: save it as one file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    inputs, outputs = ([one.name for one in some] for some in (session.get_inputs(), session.get_outputs()))
    missing = [name for name in (card.output.boxes, card.output.scores) if name not in outputs]
    if inputs != [card.input.name] or missing:
        raise BadInput(f"{card.file} has inputs {inputs} and outputs {outputs}; its card names {card.input.name!r} and {missing}")

    def answer(batch: _Batch) -> _Answer:
        boxes, scores = session.run([card.output.boxes, card.output.scores], {card.input.name: batch})
        return boxes, scores

    return answer


def _torchscript(card: ModelCard, data: bytes) -> Callable[[_Batch], _Answer]:
    places = [text for text in (card.output.boxes, card.output.scores) if not text.isdecimal()]
    if places:
        raise BadInput(f'TorchScript answers have no names: write {places} in the card as places, e.g. "0" and "1"')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch prefers torch.export, people have these files
        module = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()  # type: ignore[no-untyped-call] # torch types half of what it offers

    def answer(batch: _Batch) -> _Answer:
        with torch.inference_mode():
            said = module(torch.from_numpy(batch))
        if not isinstance(said, tuple | list) or len(said) <= max(int(card.output.boxes), int(card.output.scores)):
            raise BrokenContract(f"{card.name} answered with {type(said).__name__}; let it return a tuple of boxes and scores")
        return said[int(card.output.boxes)].cpu().numpy(), said[int(card.output.scores)].cpu().numpy()

    return answer


def _as_boxes(boxes: NDArray[np.float64], form: str) -> NDArray[np.float64]:
    """K x 4 in one of the forms to (left, top, width, height)."""
    if form == "corners":
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    if form == "centre":
        return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)
    return boxes


def _boxes(name: str, rows: NDArray[np.float64], scores: NDArray[np.float64], threshold: float) -> tuple[Box, ...]:
    """Rows (left, top, width, height) above the threshold, best first."""
    if not (np.isfinite(rows).all() and np.isfinite(scores).all()):
        raise BrokenContract(f"{name} answered with numbers that are not finite: take it out of service and report it")
    order = [at for at in np.argsort(-scores, kind="stable").tolist() if scores[at] > threshold]
    values = rows.tolist()
    return tuple(Box(values[at][0], values[at][1], values[at][2], values[at][3], float(scores[at])) for at in order)


def _suppressed(boxes: tuple[Box, ...], iou: float) -> tuple[Box, ...]:
    if not boxes:
        return ()
    corners = torch.tensor([(one.x_px, one.y_px, one.x_px + one.w_px, one.y_px + one.h_px) for one in boxes])
    return tuple(boxes[at] for at in nms(corners, torch.tensor([one.score for one in boxes]), iou).tolist())
