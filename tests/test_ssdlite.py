"""SSDLite equals the published graph (executed by OpenCV, another implementation), and finds people as recorded."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.networks.pretrained import _fields, graph_file
from inference.networks.ssdlite import LEVELS, Pass, SsdLiteDetector, anchors, corners, pretrained_ssdlite
from infra.settings import read_settings
from streams.errors import BadInput, Unavailable
from streams.sources.base import Picture

INPUT = "Preprocessor/sub"
KINDS = {"BoxEncodingPredictor": 4, "ClassPredictor": 2}


@pytest.fixture(scope="module")
def teacher() -> SsdLiteDetector:
    try:
        return SsdLiteDetector(pretrained_ssdlite())
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def graph(teacher: SsdLiteDetector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The very nodes of the published file, between its preprocessing and its predictors' convolutions, for OpenCV to run."""
    assert teacher
    nodes = {bytes(next(value for field, value in _fields(node) if field == 1)).decode(): node for _, node in graph_nodes()}
    wanted: dict[str, memoryview] = {}
    ahead = [f"BoxPredictor_{level}/{kind}/BiasAdd" for level in range(LEVELS) for kind in KINDS]
    while ahead:
        name = ahead.pop()
        if name not in wanted and name != INPUT:
            wanted[name] = nodes[name]
            ahead += [bytes(value).decode().split(":")[0] for field, value in _fields(nodes[name]) if field == 3]
    place = message(1, INPUT.encode()) + message(2, b"Placeholder") + message(5, message(1, b"dtype") + message(2, b"\x30\x01"))
    path = tmp_path_factory.mktemp("graph") / "cut.pb"
    ordered = [place] + [bytes(node) for name, node in nodes.items() if name in wanted]
    path.write_bytes(b"".join(message(1, node) for node in ordered))
    return path


def graph_nodes() -> Iterator[tuple[int, memoryview]]:
    return ((field, value) for field, value in _fields(memoryview(graph_file().read_bytes())) if field == 1)


def message(field: int, value: bytes) -> bytes:
    size, out = len(value), bytearray([field << 3 | 2])
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes([*out, size]) + value


def a_picture(height: int, width: int, seed: int = 0) -> Picture:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
    return np.ascontiguousarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


@pytest.mark.parametrize("size", [(300, 300), (352, 480), (311, 417)])
def test_codes_and_logits_equal_the_graphs(teacher: SsdLiteDetector, graph: Path, size: tuple[int, int]) -> None:
    pixels = a_picture(*size).astype(np.float32)
    net = cv2.dnn.readNetFromTensorflow(str(graph))
    net.setInput(np.ascontiguousarray((pixels * np.float32(2 / 255) - 1).transpose(2, 0, 1)[None]), INPUT)
    names = [(level, kind) for level in range(LEVELS) for kind in KINDS]
    said = net.forward([f"BoxPredictor_{level}/{kind}/Conv2D" for level, kind in names])  # where OpenCV puts the bias
    with torch.inference_mode():
        taps = teacher.network.features(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        for (level, kind), theirs in zip(names, said, strict=True):
            if taps[level].shape[2:] == (1, 1):
                continue  # OpenCV pads a single cell otherwise than TensorFlow
            part = (teacher.network.boxes if kind == "BoxEncodingPredictor" else teacher.network.classes)[level]
            ours = part.out(part.depthwise(taps[level])).numpy()
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() < 1e-4, (level, kind)


def test_there_are_1917_anchors_where_the_graph_has_them(teacher: SsdLiteDetector) -> None:
    with torch.inference_mode():
        codes, logits, grids = teacher.network(torch.zeros(1, 3, 300, 300))
    made = anchors(grids, 300, 300)
    assert codes.shape == (1, 1917, 4)
    assert logits.shape == (1, 1917, 2)
    assert grids == [(19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
    assert np.allclose(made[:3, 2:], [[30, 30], [60 / 2**0.5, 60 * 2**0.5], [60 * 2**0.5, 60 / 2**0.5]], atol=1e-3)
    assert np.allclose(made[-1], [150, 150, 292.40, 292.40], atol=0.01)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_corners_undo_the_published_coding_of_boxes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    around = np.concatenate([rng.uniform(0, 300, (9, 2)), rng.uniform(5, 200, (9, 2))], axis=1).astype(np.float32)
    y, x, tall, wide = np.concatenate([rng.uniform(0, 300, (9, 2)), rng.uniform(5, 200, (9, 2))], axis=1).T
    codes = np.stack(
        [
            (y - around[:, 0]) / around[:, 2] * 10,
            (x - around[:, 1]) / around[:, 3] * 10,
            np.log(tall / around[:, 2]) * 5,
            np.log(wide / around[:, 3]) * 5,
        ],
        axis=1,
    ).astype(np.float32)
    expected = np.stack([x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2], axis=1)
    assert np.allclose(corners(codes, around), expected, atol=1e-2)


def test_a_person_is_found_in_a_photograph_and_nobody_on_grey(teacher: SsdLiteDetector) -> None:
    assert teacher.detect([np.full((300, 300, 3), 127, np.uint8)], 0.5) == [()]
    path = Path(read_settings().shared_data) / "pennfudan" / "PNGImages" / "FudanPed00001.png"
    if not path.is_file():
        pytest.skip(f"{path} is not there: set KERBWATCH_SHARED_DATA")
    picture = np.ascontiguousarray(cv2.imread(str(path))[:, :, ::-1])
    boxes = teacher.detect([picture], 0.5)[0]
    assert any(abs(box.x_px + box.w_px / 2 - 231) < 20 and abs(box.y_px + box.h_px / 2 - 306) < 30 for box in boxes), boxes


def test_a_way_to_look_that_cannot_be_is_refused() -> None:
    for wrong in ((8, 300, 6), (300, 9000, 6), (300, 300, 0), (300, 300, 7)):
        with pytest.raises(BadInput, match="no way to look"):
            Pass(*wrong)
