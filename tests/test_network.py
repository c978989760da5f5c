"""CSP-nano's shapes, targets, losses and decoding; the last three against upstream's own numbers on two real crops."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.networks.csp_nano import CspNano, Maps, SameConv, from_bytes, to_bytes
from inference.networks.targets import ASPECT, Targets, decode, draw, losses, stack
from infra.settings import read_settings
from streams.errors import BadInput, BrokenContract
from streams.sources.base import Person


def person(x1: float, y1: float, x2: float, y2: float, *, ignore: bool = False) -> Person:
    box = (x1, y1, x2 - x1, y2 - y1)
    return Person(box, box, ignore)


@pytest.fixture(scope="module")
def upstream() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    folder = Path(read_settings().shared_data) / "csp_vlpd_fixture"
    if not (folder / "expected.json").is_file():
        pytest.skip(f"{folder} is not there: set KERBWATCH_SHARED_DATA")
    with np.load(folder / "maps.npz") as maps:
        return json.loads((folder / "expected.json").read_text()), dict(maps)


@pytest.fixture(scope="module")
def drawn(upstream: tuple[dict[str, Any], dict[str, np.ndarray]]) -> Targets:
    pictures = [
        [person(*box) for box in crop["gts_xyxy"]] + [person(*box, ignore=True) for box in crop["ignores_xyxy"]]
        for crop in upstream[0]["inputs"]
    ]
    return stack([draw(people, 256, 512) for people in pictures])


def test_the_maps_have_the_shapes_of_the_legend() -> None:
    with torch.no_grad():
        maps = CspNano().eval()(torch.zeros(2, 3, 64, 96))
    assert [tuple(part.shape) for part in maps] == [(2, 1, 16, 24), (2, 1, 16, 24), (2, 2, 16, 24), (2, 96, 4, 6)]
    assert torch.sigmoid(maps.centre).mean() == pytest.approx(0.01, rel=0.5)


def test_a_side_that_is_no_multiple_of_32_is_refused() -> None:
    with pytest.raises(BrokenContract, match="multiples of 32"):
        CspNano()(torch.zeros(1, 3, 64, 100))


def test_same_padding_puts_the_odd_pixel_behind() -> None:
    conv = SameConv(1, 1, 3, 2, bias=False)
    torch.nn.init.ones_(conv.weight)
    out = conv(torch.ones(1, 1, 4, 4))[0, 0]
    assert out.tolist() == [[9.0, 6.0], [6.0, 4.0]]


def test_batch_norm_statistics_never_move() -> None:
    network = CspNano().train()
    before = network.backbone.stem[1].running_mean.clone()
    network(torch.rand(1, 3, 32, 32) * 255)
    assert torch.equal(network.backbone.stem[1].running_mean, before)


def test_weights_survive_the_way_to_bytes_and_back() -> None:
    network = CspNano()
    again = from_bytes(to_bytes(network))
    assert to_bytes(again) == to_bytes(network)
    with pytest.raises(BadInput, match="no CSP-nano weights"):
        from_bytes(b"something else")


def test_targets_are_upstreams(drawn: Targets, upstream: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
    maps = upstream[1]
    assert np.array_equal(drawn.bump[:, 0], maps["pos"][:, 0])
    assert np.array_equal(drawn.judged[:, 0], maps["pos"][:, 1])
    assert np.array_equal(drawn.middle[:, 0], maps["pos"][:, 2])
    assert np.array_equal(drawn.height[:, 0], maps["scale"][:, 0])
    assert np.array_equal(drawn.height_known[:, 0], maps["scale"][:, 1])
    assert np.array_equal(drawn.offset, maps["offset"][:, :2])


def test_losses_are_upstreams(drawn: Targets, upstream: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
    expected, maps = upstream
    said = Maps(*(torch.from_numpy(maps[name]) for name in ("pred_cls", "pred_reg", "pred_off")), torch.empty(0))
    found = losses(said._replace(centre=torch.logit(said.centre.double()).float()), drawn)
    assert found.centre.item() == pytest.approx(expected["losses"]["cls"], abs=1e-5)
    assert found.height.item() == pytest.approx(expected["losses"]["reg"], abs=1e-5)
    assert found.offset.item() == pytest.approx(expected["losses"]["off"], abs=1e-5)
    nobody = losses(said._replace(centre=torch.logit(said.centre)), stack([draw([], 256, 512)] * 2))
    assert nobody.centre.item() == pytest.approx(expected["losses_no_pedestrian"]["cls"], abs=1e-5)
    assert nobody.height.item() == nobody.offset.item() == 0.0


def test_decoding_is_upstreams(upstream: tuple[dict[str, Any], dict[str, np.ndarray]], drawn: Targets) -> None:
    expected, maps = upstream
    for index in range(2):
        predicted = maps["pred_cls"][index, 0], maps["pred_reg"][index, 0], maps["pred_off"][index]
        exact = drawn.middle[index, 0].numpy(), drawn.height[index, 0].numpy(), drawn.offset[index].numpy()
        for said, wanted in ((predicted, "decode_from_predictions"), (exact, "decode_from_targets")):
            boxes = decode(*said, (256, 512), 0.1, most=1 << 20)
            ours = [(b.x_px, b.y_px, b.x_px + b.w_px, b.y_px + b.h_px, b.score) for b in boxes]
            golden = expected[wanted][index]
            assert len(ours) == len(golden)
            assert [box.score for box in boxes] == [box[4] for box in golden]  # suppression's order
            # 1.5e-5 px is one float32 step at 256 px, which is what the golden corners are kept in
            assert np.allclose(sorted(ours), sorted(map(tuple, golden)), rtol=1e-7, atol=1e-5)


@given(st.integers(20, 200), st.floats(40, 260), st.floats(110, 150))
@settings(max_examples=30, deadline=None)
def test_a_person_drawn_as_targets_is_decoded_again(height: int, x: float, y: float) -> None:
    one = person(x - ASPECT * height / 2, y - height / 2, x + ASPECT * height / 2, y + height / 2)
    targets = draw([one], 256, 320)
    boxes = decode(targets.middle[0, 0].numpy(), targets.height[0, 0].numpy(), targets.offset[0].numpy(), (256, 320), 0.5)
    assert len(boxes) == 1
    found = (boxes[0].x_px, boxes[0].y_px, boxes[0].w_px, boxes[0].h_px)
    assert found == pytest.approx((max(0.0, one.box_px[0]), *one.box_px[1:]), abs=0.1)


def test_an_ignored_person_clears_the_mask_and_a_person_at_the_edge_keeps_a_patch() -> None:
    targets = draw([person(40, 40, 80, 140, ignore=True), person(-4, 2, 8, 12)], 160, 160)
    assert targets.judged[0, 0, 20, 12] == 0
    assert targets.middle.sum() == 1
    assert targets.height_known[0, 0, 0, 0] == 1


def test_decoding_bounds_what_a_flood_of_cells_costs() -> None:
    everywhere = np.full((80, 160), 0.9, np.float32)
    boxes = decode(everywhere, np.full((80, 160), 2.0, np.float32), np.zeros((2, 80, 160), np.float32), (320, 640), 0.3)
    assert 0 < len(boxes) <= 1000
