"""Reading a frozen TensorFlow graph without TensorFlow, and refusing anything but the pinned file."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.networks.csp_nano import CspNano
from inference.networks.pretrained import NOTICE, fill, graph_file, read_constants
from streams.errors import BrokenContract, Tampered, Unavailable


@pytest.fixture(scope="module")
def constants() -> dict[str, np.ndarray]:
    try:
        return read_constants(graph_file())
    except Unavailable as error:
        pytest.skip(str(error))


def test_the_installed_graph_is_the_pinned_one_and_is_read_whole(constants: dict[str, np.ndarray]) -> None:
    assert constants["FeatureExtractor/MobilenetV2/Conv/weights"].shape == (3, 3, 3, 32)
    assert constants["FeatureExtractor/MobilenetV2/expanded_conv_16/project/weights"].shape == (1, 1, 960, 320)
    assert all(np.isfinite(values).all() for name, values in constants.items() if "MobilenetV2" in name)


def test_a_filled_backbone_sees_edges_and_a_random_one_is_told_apart(constants: dict[str, np.ndarray]) -> None:
    network = CspNano().eval()
    fill(network.backbone, constants)
    weights = constants["FeatureExtractor/MobilenetV2/Conv/weights"]
    assert torch.equal(network.backbone.stem[0].weight[5, 1], torch.from_numpy(weights[:, :, 1, 5]))
    depthwise = constants["FeatureExtractor/MobilenetV2/expanded_conv_3/depthwise/depthwise_weights"]
    assert torch.equal(network.backbone.blocks[3].depthwise[0].weight[7, 0], torch.from_numpy(depthwise[:, :, 7, 0]))


def test_a_missing_constant_is_named(constants: dict[str, np.ndarray]) -> None:
    short = {name: values for name, values in constants.items() if "expanded_conv_2/expand/BatchNorm/beta" not in name}
    with pytest.raises(BrokenContract, match="expanded_conv_2/expand/BatchNorm/beta is missing"):
        fill(CspNano().backbone, short)


def test_another_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    other = tmp_path / "graph.pb"
    other.write_bytes(b"\x0a\x03abc")
    with pytest.raises(Tampered, match="do not use it"):
        read_constants(other)


@pytest.mark.parametrize("data", [b"\x0a\xff", b"\x0a\x05abc", b"\x0f", b"\x80" * 12])
def test_bytes_that_are_no_graph_are_refused_not_crashed_on(tmp_path: Path, data: bytes) -> None:
    broken = tmp_path / "graph.pb"
    broken.write_bytes(data)
    with pytest.raises(Tampered, match="protobuf"):
        read_constants(broken, hashlib.sha256(data).hexdigest())


def test_the_notice_names_licence_and_holder() -> None:
    assert "MIT License, Copyright (c) 2018 cftang" in NOTICE
