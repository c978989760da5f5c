"""Attacks stay within their bound, reach their objective, repeat exactly, leave the network as it was, and agree with ART."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import nn

from inference.attacks.deepfool import deepfool
from inference.attacks.gradient import ascend, fgsm, fgsm_batch, pgd
from inference.attacks.norms import norms, sent
from inference.attacks.objectives import Objective, ground
from inference.attacks.patch import Patched, Place, patch
from inference.networks.csp_nano import CspNano, Maps, to_bytes
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


class Tiny(nn.Module):
    """Another network that says maps: two convolutions and a batch norm that would move."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))

    def forward(self, pictures: torch.Tensor) -> Maps:
        out = self.seen(pictures / 64 - 2)
        return Maps(out[:, :1], out[:, 1:2] + math.log(12), out[:, 2:], out)


def tiny() -> Tiny:
    torch.manual_seed(8)
    return Tiny()


def patched(network: nn.Module, place: Place, seed: int = 0, steps: int = 12) -> Patched:
    return patch(network, noise(), [SOMEBODY], place, np.random.default_rng(seed), steps=steps)


ATTACKS: dict[str, Callable[[nn.Module], Picture]] = {
    "fgsm": lambda network: fgsm(network, noise(), None, 0.03),
    "pgd": lambda network: pgd(network, [noise()], [[SOMEBODY]], 0.03, 3)[0],
    "hide": lambda network: pgd(network, [noise()], [[SOMEBODY]], 0.03, 3, objective=Objective.HIDE)[0],
    "appear": lambda network: pgd(network, [noise()], [[SOMEBODY]], 0.03, 3, objective=Objective.APPEAR)[0],
    "deepfool": lambda network: deepfool(network, [noise()], 0.03, [[SOMEBODY]], threshold=0.01, steps=4)[0],
    "patch": lambda network: patched(network, Place.PERSON, steps=3).picture,
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("training", [False, True])
def test_every_attack_on_any_network_leaves_weights_statistics_mode_and_gradients_alone(name: str, training: bool) -> None:
    network = tiny().train(training)
    network.seen[0].eval()  # a part in another mode stays in it
    before = {key: value.clone() for key, value in network.state_dict().items()}
    first = ATTACKS[name](network)
    assert np.array_equal(ATTACKS[name](network), first)
    assert not np.array_equal(first, noise())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in network.parameters())
    assert network.training is training
    assert not network.seen[0].training


def said(network: nn.Module, picture: Picture) -> tuple[float, float]:
    """The most that a cell of somebody says, and a cell of nobody."""
    masks = ground([[SOMEBODY]], *picture.shape[:2])
    with torch.no_grad():
        centre = network.eval()(torch.from_numpy(picture).permute(2, 0, 1)[None].float()).centre
    return float(centre[masks.somebody > 0].max()), float(centre[masks.nobody > 0].max())


def test_people_are_hidden_or_appear_as_the_objective_says() -> None:
    network = tiny()
    clean = said(network, noise())
    hidden = said(network, pgd(network, [noise()], [[SOMEBODY]], 0.05, 5, objective=Objective.HIDE)[0])
    shown = said(network, pgd(network, [noise()], [[SOMEBODY]], 0.05, 5, objective=Objective.APPEAR)[0])
    assert hidden[0] < clean[0]
    assert shown[1] > clean[1]


@pytest.mark.parametrize("place", Place)
def test_a_patch_changes_its_rectangle_only_and_serves_its_end(place: Place) -> None:
    network = tiny()
    done = patched(network, place)
    left, top, wide, tall = done.rectangle_px
    outside = done.picture.copy()
    outside[top : top + tall, left : left + wide] = noise()[top : top + tall, left : left + wide]
    assert np.array_equal(outside, noise())
    x, y, w, h = SOMEBODY.box_px
    meets = left < x + w and x < left + wide and top < y + h and y < top + tall
    assert meets is (place is Place.PERSON)
    untrained = patched(network, place, steps=0)
    assert untrained.rectangle_px == done.rectangle_px
    masks = ground([[SOMEBODY]], 64, 96)
    mask = masks.somebody if place is Place.PERSON else masks.nobody
    means = []
    for picture in (untrained.picture, done.picture):
        with torch.no_grad():
            means.append(float(network.eval()(torch.from_numpy(picture).permute(2, 0, 1)[None].float()).centre[mask > 0].mean()))
    assert (means[1] < means[0]) is (place is Place.PERSON)


def test_a_patch_that_nobody_can_wear_is_refused() -> None:
    with pytest.raises(BadInput, match="nobody"):
        patch(tiny(), noise(), [], Place.PERSON, np.random.default_rng(0))


@given(npst.arrays(np.uint8, (6, 5, 3)), npst.arrays(np.uint8, (6, 5, 3)))
@settings(max_examples=40, deadline=None)
def test_norms_are_those_of_the_difference(clean: Picture, attacked: Picture) -> None:
    given_norms, apart = norms(clean, attacked), attacked.astype(float) - clean
    assert given_norms.linf == np.abs(apart).max()
    assert given_norms.l2 == pytest.approx(np.linalg.norm(apart))
    assert given_norms.rms == pytest.approx(given_norms.l2 / math.sqrt(90))
    assert given_norms.rms <= given_norms.linf
    assert given_norms.kept == pytest.approx(1.0)
    assert norms(attacked, clean).l2 == given_norms.l2


def test_jpeg_takes_part_of_a_perturbation_and_a_worse_jpeg_more(network: CspNano) -> None:
    smooth = sent(np.tile(np.linspace(40, 200, 96).astype(np.uint8)[None, :, None], (64, 1, 3)), 90)
    attacked = fgsm(network, smooth, [SOMEBODY], 0.03)
    whole, good, bad = (norms(smooth, attacked, quality) for quality in (None, 92, 50))
    assert whole.kept == 1.0
    assert 1.0 > good.kept > bad.kept
    with pytest.raises(BadInput, match="quality"):
        norms(smooth, attacked, 0)


def test_on_a_classifier_fgsm_and_pgd_agree_with_art() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 4)).eval()
    clean, labels = torch.rand(12, 3, 4, 4), torch.arange(12) % 4
    criterion = nn.CrossEntropyLoss()
    reference = PyTorchClassifier(model, criterion, (3, 4, 4), 4, clip_values=(0.0, 1.0), device_type="cpu")
    eps, steps = 0.05, 6
    for theirs, step, number in (
        (FastGradientMethod(reference, eps=eps), eps, 1),
        (ProjectedGradientDescent(reference, eps=eps, eps_step=0.02, max_iter=steps, verbose=False), 0.02, steps),
    ):
        expected = torch.from_numpy(theirs.generate(clean.numpy(), labels.numpy()))
        ours = ascend(
            lambda pictures: criterion(model(pictures / 255), labels),
            clean * 255,
            eps=torch.tensor(eps * 255),
            step=torch.tensor(step * 255),
            steps=number,
        )
        assert torch.allclose(ours / 255, expected, atol=1e-5)
        assert not torch.allclose(expected, clean, atol=0.01)
