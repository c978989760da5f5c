"""FGSM and PGD stay within their bound, raise the loss, repeat exactly, and leave the network as it was."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.attacks.gradient import fgsm, fgsm_batch, pgd
from inference.networks.csp_nano import CspNano, to_bytes
from inference.networks.targets import draw, losses
from streams.errors import BadInput
from streams.sources.base import Person, Picture

SOMEBODY = Person((30.0, 10.0, 20.5, 50.0), (30.0, 10.0, 20.5, 50.0))


@pytest.fixture(scope="module")
def network() -> CspNano:
    torch.manual_seed(3)
    return CspNano().eval()


def noise(height: int = 64, width: int = 96) -> Picture:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)


def loss(network: CspNano, picture: Picture) -> float:
    with torch.no_grad():
        maps = network(torch.from_numpy(picture).permute(2, 0, 1)[None].float())
    return losses(maps, draw([SOMEBODY], *picture.shape[:2])).total.item()


@given(st.floats(0.0, 0.2), st.sampled_from([(64, 96), (50, 70), (33, 32)]))
@settings(max_examples=12, deadline=None)
def test_no_pixel_moves_further_than_the_bound(network: CspNano, eps: float, size: tuple[int, int]) -> None:
    picture = noise(*size)
    attacked = fgsm(network, picture, [SOMEBODY], eps)
    assert attacked.dtype == np.uint8
    assert attacked.shape == picture.shape
    assert np.abs(attacked.astype(int) - picture).max() <= eps * 255 + 1e-6


def test_the_loss_rises_and_more_steps_raise_it_further(network: CspNano) -> None:
    clean = loss(network, noise())
    once = loss(network, fgsm(network, noise(), [SOMEBODY], 0.03))
    often = loss(network, pgd(network, [noise()], [[SOMEBODY]], 0.03, 5)[0])
    assert clean < once < often


def test_an_attack_is_repeatable_and_leaves_network_and_picture_alone(network: CspNano) -> None:
    before, picture = to_bytes(network), noise()
    kept = picture.copy()
    assert np.array_equal(fgsm(network, picture, None, 0.03), fgsm(network, picture, None, 0.03))
    assert to_bytes(network) == before
    assert all(weight.grad is None for weight in network.parameters())
    assert np.array_equal(picture, kept)


def test_a_batch_is_attacked_as_its_pictures_are(network: CspNano) -> None:
    pictures = [noise(), np.ascontiguousarray(noise()[::-1])]
    together = fgsm_batch(network, pictures, [[SOMEBODY], [SOMEBODY]], 0.03)
    # a batch sums in another order, so a gradient near zero may change its sign
    assert np.mean(together[0] != fgsm(network, pictures[0], [SOMEBODY], 0.03)) < 0.1


@pytest.mark.parametrize("eps", [-0.1, 1.5, float("nan")])
def test_a_strength_that_is_no_share_is_refused(network: CspNano, eps: float) -> None:
    with pytest.raises(BadInput, match=r"0\.\.1"):
        fgsm(network, noise(), None, eps)


def test_pictures_of_different_sizes_are_refused(network: CspNano) -> None:
    with pytest.raises(BadInput, match="same-sized"):
        fgsm_batch(network, [noise(), noise(32, 32)], None, 0.03)
