"""Anybody's detector behind our protocol: ONNX, TorchScript, a function; and the check that tells whether it conforms."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from inference.lifecycle.measuring import detector_of
from inference.networks import adapters
from inference.networks.adapters import FromFile, FromFunction, Input, ModelCard, Output, open_model, prepared
from inference.networks.ssdlite import SsdLiteDetector, pretrained_ssdlite
from inference.service.conformance import Conformance, check
from streams.errors import BadInput, BrokenContract, Tampered, Unavailable
from streams.events import Box
from streams.sources.base import Picture

DIGEST = sha256(b"a rule").hexdigest()


def middle(picture: Picture) -> list[tuple[float, float, float, float, float]]:
    """Two boxes that follow from the picture's size and brightness."""
    height, width = picture.shape[:2]
    bright = float(picture.mean()) / 255
    return [(0, 0, width / 2, height / 2, bright / 2), (width / 4, height / 4, width / 2, height / 2, 0.25 + bright / 2)]


@dataclass
class Faulty:
    """A conforming detector with one fault, to be put in by a test."""

    name: str = "faulty"
    digest: str = DIGEST
    asked: list[Picture] = field(default_factory=list)

    def detect(self, pictures: Sequence[Picture], threshold: float) -> list[tuple[Box, ...]]:
        return FromFunction(middle, self.name, DIGEST).detect(pictures, threshold)


class Random(Faulty):
    def detect(self, pictures: Sequence[Picture], threshold: float) -> list[tuple[Box, ...]]:
        self.asked += pictures[:1]
        return [boxes[: len(self.asked) % 2 + 1] for boxes in super().detect(pictures, threshold)]


class Backwards(Faulty):
    def detect(self, pictures: Sequence[Picture], threshold: float) -> list[tuple[Box, ...]]:
        return super().detect(pictures, threshold)[::-1]


class OnlyLarge(Faulty):
    def detect(self, pictures: Sequence[Picture], threshold: float) -> list[tuple[Box, ...]]:
        if any(min(one.shape[:2]) < 32 for one in pictures):
            raise ValueError("too small")
        return super().detect(pictures, threshold)


class NeverEmpty(Faulty):
    def detect(self, pictures: Sequence[Picture], threshold: float) -> list[tuple[Box, ...]]:
        return super().detect(pictures, threshold) or [()]


class Outside(Faulty):
    def detect(self, pictures: Sequence[Picture], threshold: float) -> list[tuple[Box, ...]]:
        return [tuple(Box(-5.0, *list_of(one)[1:]) for one in boxes) for boxes in super().detect(pictures, threshold)]


class Unsorted(Faulty):
    def detect(self, pictures: Sequence[Picture], threshold: float) -> list[tuple[Box, ...]]:
        return [boxes[::-1] for boxes in super().detect(pictures, threshold)]


class Deaf(Faulty):
    def detect(self, pictures: Sequence[Picture], threshold: float) -> list[tuple[Box, ...]]:
        return super().detect(pictures, min(threshold, 0.05))


class Draws(Faulty):
    def detect(self, pictures: Sequence[Picture], threshold: float) -> list[tuple[Box, ...]]:
        found = super().detect(pictures, threshold)
        for one in pictures:
            one[0, 0] ^= 1
        return found


class Nameless(Faulty):
    def __init__(self) -> None:
        super().__init__(digest="version 2")


class Trusting(Faulty):
    def detect(self, pictures: Sequence[Picture], threshold: float) -> list[tuple[Box, ...]]:
        good = [
            one if one.ndim == 3 and one.shape[2] == 3 and one.dtype == np.uint8 else np.zeros((8, 8, 3), np.uint8)
            for one in pictures
        ]
        return super().detect(good, threshold)


class Hoards(Faulty):
    def detect(self, pictures: Sequence[Picture], threshold: float) -> list[tuple[Box, ...]]:
        self.asked += [one.astype(np.float64) for one in pictures]
        return super().detect(pictures, threshold)


def list_of(box: Box) -> list[float]:
    return list(msgspec.structs.astuple(box))


def failed(result: Conformance) -> list[str]:
    return [one.promise for one in result.findings if not one.holds]


def test_a_conforming_function_keeps_every_promise() -> None:
    result = check(FromFunction(middle, "middle", DIGEST))
    assert failed(result) == []
    assert result.holds
    assert len(result.findings) == 12
    assert result.latency_ms is not None
    assert result.latency_ms < 1000
    assert all(not one.todo for one in result.findings)


@pytest.mark.parametrize(
    ("faulty", "promise"),
    [
        (Random, "the same picture"),
        (Backwards, "a batch says"),
        (OnlyLarge, "pictures of any size"),
        (NeverEmpty, "no pictures"),
        (Outside, "boxes are finite"),
        (Unsorted, "scores lie in 0..1"),
        (Deaf, "a higher threshold"),
        (Draws, "pictures are left"),
        (Nameless, "the digest"),
        (Trusting, "what is no picture"),
        (Hoards, "memory stays"),
    ],
)
def test_each_fault_breaks_its_promise_and_says_what_to_do(faulty: Callable[[], Faulty], promise: str) -> None:
    result = check(faulty())
    broken = [one for one in result.findings if not one.holds]
    assert any(one.promise.startswith(promise) and one.todo and one.seen for one in broken), broken
    assert not result.holds


def test_the_published_detector_conforms() -> None:
    try:
        teacher = SsdLiteDetector(pretrained_ssdlite())
    except Unavailable as error:
        pytest.skip(str(error))
    assert failed(check(teacher)) == []


class Half(nn.Module):
    """Corners of the picture's middle, and a logit by its brightness; two classes."""

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        boxes = torch.tensor([[[0.25, 0.25, 0.75, 0.75], [0.0, 0.0, 0.5, 0.5]]])
        light = pictures.mean(dim=(1, 2, 3)) * 4 - 1
        one = torch.stack([torch.zeros_like(light), light], dim=1)
        return boxes.expand(len(pictures), 2, 4), torch.stack([one, one - 0.5], dim=1)


HALF = Output(boxes="0", scores="1", form="corners", relative=True, person=1, logits=True)


def written(folder: Path, data: bytes, form: str, output: Output) -> Path:
    wants = Input(scale=(1 / 255,) * 3)
    card = ModelCard(name="half", file="half.model", format=form, sha256=sha256(data).hexdigest(), input=wants, output=output)  # type: ignore[arg-type]
    (folder / "half.model").write_bytes(data)
    lines = [f'{name} = "{getattr(card, name)}"' for name in ("name", "file", "format", "sha256")]
    for table in ("input", "output"):
        lines.append(f"[{table}]")
        for name, value in msgspec.structs.asdict(getattr(card, table)).items():
            if value is not None:
                lines.append(f"{name} = {msgspec.json.encode(value).decode()}")
    path = folder / "half.toml"
    path.write_text("\n".join(lines))
    return path


def torchscript(folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates scripting; files of it are what we read
        torch.jit.script(Half()).save(str(folder / "made.pt"))
    return written(folder, (folder / "made.pt").read_bytes(), "torchscript", HALF)


def onnx_file(folder: Path) -> Path:
    """The same rule as an ONNX graph, written node by node."""
    nodes = [
        helper.make_node("ReduceMean", ["pictures"], ["light"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Reshape", ["light", "flat"], ["bright"]),
        helper.make_node("Mul", ["bright", "slope"], ["steep"]),
        helper.make_node("Add", ["steep", "starts"], ["scores"]),
        helper.make_node("Identity", ["places"], ["boxes"]),
    ]
    constants = {
        "flat": np.array([1, 1, 1], np.int64),
        "slope": np.array([[[0, 4], [0, 4]]], np.float32),
        "starts": np.array([[[0, -1], [-0.5, -1.5]]], np.float32),
        "places": np.array([[[0.25, 0.25, 0.75, 0.75], [0, 0, 0.5, 0.5]]], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("pictures", TensorProto.FLOAT, [1, 3, None, None])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, size]) for name, size in (("boxes", 4), ("scores", 2))],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return written(folder, model.SerializeToString(), "onnx", msgspec.structs.replace(HALF, boxes="boxes", scores="scores"))


@pytest.mark.parametrize("make", [torchscript, onnx_file])
def test_a_model_file_conforms_and_says_what_its_rule_says(make: Callable[[Path], Path], tmp_path: Path) -> None:
    model = open_model(make(tmp_path))
    assert failed(check(model)) == []
    boxes = model.detect([np.full((40, 80, 3), 255, np.uint8)], 0.5)[0]
    assert [list_of(one)[:4] for one in boxes] == [[20.0, 10.0, 40.0, 20.0], [0.0, 0.0, 40.0, 20.0]]
    assert np.allclose([one.score for one in boxes], 1 / (1 + np.exp([-3.0, -2.5])), atol=1e-6)
    assert model.digest == sha256((tmp_path / "half.model").read_bytes()).hexdigest()


def test_torchscript_of_another_digest_never_runs(tmp_path: Path) -> None:
    card = torchscript(tmp_path)
    (tmp_path / "half.model").write_bytes((tmp_path / "half.model").read_bytes() + b" ")
    with pytest.raises(Tampered, match=r"runs the code in it.*if you trust this very file"):
        open_model(card)


def test_a_card_that_does_not_fit_is_refused_in_plain_words(tmp_path: Path) -> None:
    card = onnx_file(tmp_path)
    text = card.read_text()
    card.write_text(text.replace('name = "pictures"', 'name = "images"'))
    with pytest.raises(BadInput, match=r"has inputs \['pictures'\]"):
        open_model(card)
    card.write_text(text.replace('"half.model"', '"../half.model"'))
    with pytest.raises(BadInput, match="without a folder"):
        open_model(card)
    card.write_text(text.replace("person = 1", "person = 7"))
    with pytest.raises(BrokenContract, match="none is number 7"):
        open_model(card).detect([np.zeros((8, 8, 3), np.uint8)], 0.1)
    card.write_text(text + "\ncolour = 1")
    with pytest.raises(BadInput, match="colour"):
        open_model(card)
    with pytest.raises(Unavailable, match="check the path"):
        open_model(tmp_path / "none.toml")


def test_bytes_that_are_no_model_are_refused(tmp_path: Path) -> None:
    for form in ("onnx", "torchscript"):
        with pytest.raises(BadInput, match="does not open"):
            open_model(written(tmp_path, b"\x08\x07nonsense", form, HALF))


def test_weights_outside_the_file_are_refused(tmp_path: Path) -> None:
    model = onnx.load(onnx_file(tmp_path).with_name("half.model"))
    tensor = model.graph.initializer[3]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret.bin")
    card = written(tmp_path, model.SerializeToString(), "onnx", msgspec.structs.replace(HALF, boxes="boxes", scores="scores"))
    with pytest.raises(BadInput, match="further files"):
        open_model(card)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_is_no_answer(value: float) -> None:
    with pytest.raises(BrokenContract, match="not finite"):
        FromFunction(lambda _: [(0, 0, value, 1, 0.5)], "broken", DIGEST).detect([np.zeros((8, 8, 3), np.uint8)], 0.1)
    with pytest.raises(BrokenContract, match="left, top, width"):
        FromFunction(lambda _: [(0, 0, 1, 1)], "short", DIGEST).detect([np.zeros((8, 8, 3), np.uint8)], 0.1)


def test_pictures_are_prepared_as_the_card_says() -> None:
    picture = np.zeros((30, 50, 3), np.uint8)
    picture[..., 0] = 200
    batch, scale = prepared(picture, Input(channels="BGR", grain=32, scale=(0.5, 0.5, 0.5), shift=(1.0, 2.0, 3.0)))
    assert batch.shape == (1, 3, 32, 64)
    assert scale == (1.0, 1.0)
    assert batch[0, :, 0, 0].tolist() == [1.0, 2.0, 103.0]
    batch, scale = prepared(picture, Input(kind="uint8", layout="NHWC", size_px=(60, 25)))
    assert batch.shape == (1, 60, 25, 3)
    assert batch.dtype == np.uint8
    assert scale == (2.0, 0.5)


@pytest.mark.parametrize(("form", "row"), [("corners", [2, 4, 8, 16]), ("box", [2, 4, 6, 12]), ("centre", [5, 10, 6, 12])])
def test_forms_of_boxes_mean_the_same_and_overlaps_are_suppressed(form: str, row: list[float]) -> None:
    output = Output(form=form, nms_iou=0.5)  # type: ignore[arg-type]
    card = ModelCard(name="rule", file="x", format="onnx", sha256=DIGEST, output=output)
    model = FromFile(card, lambda _: (np.array([[row, row]], np.float32), np.array([[0.4, 0.9]], np.float32)))
    assert model.detect([np.zeros((32, 32, 3), np.uint8)], 0.1) == [(Box(2.0, 4.0, 6.0, 12.0, float(np.float32(0.9))),)]


def test_the_legend_of_the_card_is_a_card_in_the_code_and_in_the_document_that_refusals_name(tmp_path: Path) -> None:
    path = tmp_path / "legend.toml"
    path.write_text("no card")
    with pytest.raises(BadInput, match="is no model card") as refused:
        adapters.read_model_card(path)
    document = Path(__file__).parent.parent / str(refused.value).rsplit(maxsplit=1)[-1]
    in_code = str(adapters.__doc__).split("TOML:\n")[1].split("Shapes:")[0]
    in_document = document.read_text().split("```toml\n")[1].split("```")[0]
    cards = []
    for legend in (in_code, in_document):
        text = legend.replace('sha256 = "..."', f'sha256 = "{DIGEST}"')
        path.write_text("\n".join(line.strip() for line in text.splitlines()))
        cards.append(adapters.read_model_card(path))
    assert cards[0] == cards[1]
    assert cards[0].output.nms_iou == 0.5


def test_a_card_is_measured_like_a_detector_of_ours(tmp_path: Path) -> None:
    card = onnx_file(tmp_path)
    look, threshold = detector_of(str(card), tmp_path / "scratch")
    white = np.full((40, 80, 3), 255, np.uint8)
    assert look([white]) == open_model(card).detect([white], 0.03)
    assert threshold == 0.5
    (tmp_path / "half.model").write_bytes(b"another")
    with pytest.raises(Tampered):
        detector_of(str(card), tmp_path / "scratch")
