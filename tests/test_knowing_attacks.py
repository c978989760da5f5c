"""Two attacks that prepare themselves: one perturbation for all pictures, and one that knows how it is looked for."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import inference
from inference.attacks.adaptive import SecondLook, adaptive
from inference.attacks.batch import load
from inference.attacks.gradient import pgd
from inference.attacks.objectives import Objective, rising
from inference.attacks.universal import laid_over, universal
from inference.networks.csp_nano import CspNano, from_bytes
from inference.service.cues import mirrored, squeeze
from streams.errors import BadInput
from streams.events import Context
from streams.sources.base import Person, Picture
from streams.sources.street import Street

STREET = Street(Context.URBAN, seed=930, width_px=192, height_px=96)
EPS = 8 / 255
MIRROR, STRAIGHT = SecondLook(mirrored, mirrored=True), SecondLook(squeeze, mirrored=False)


@pytest.fixture(scope="module")
def network() -> CspNano:
    return from_bytes((Path(inference.__file__).parent / "weights" / "csp-nano.safetensors").read_bytes()).eval()


def shot(number: int) -> tuple[Picture, tuple[Person, ...]]:
    one = STREET.shot(number)
    return one.picture, one.people or ()


def raised(network: CspNano, number: int, picture: Picture) -> float:
    """The training loss against the people of a shot."""
    clean, people = shot(number)
    with torch.no_grad():
        return float(
            rising(network, [people], load([clean], torch.device("cpu")), Objective.UNTARGETED)(
                load([picture], torch.device("cpu"))
            )
        )


def moved(network: CspNano, picture: Picture, second: SecondLook) -> float:
    """Mean change of the centre map in a second look."""
    with torch.no_grad():
        plain, other = (
            torch.sigmoid(network(load([one], torch.device("cpu"))).centre) for one in (picture, second.change(picture))
        )
    return float((plain - (other.flip(3) if second.mirrored else other)).abs().mean())


def test_one_perturbation_serves_pictures_it_was_not_made_on_and_noise_of_its_size_does_not(network: CspNano) -> None:
    known = [shot(number) for number in (0, 30, 60, 90)]
    levels = universal(network, [picture for picture, _ in known], [people for _, people in known], EPS, passes=5)
    assert np.abs(levels).max() == 8
    noise = np.random.default_rng(1).choice((-8, 8), levels.shape).astype(np.int16)
    for number in (140,):
        picture, _ = shot(number)
        under = raised(network, number, laid_over(picture, levels))
        assert under > 1.5 * raised(network, number, picture)
        assert under > 1.5 * raised(network, number, laid_over(picture, noise))


def test_it_is_the_same_each_time_and_leaves_the_network_as_it_was(network: CspNano) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    training = network.train()
    first, second = (universal(training, [shot(0)[0]], None, 4 / 255, passes=2) for _ in range(2))
    assert np.array_equal(first, second)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training
    network.eval()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50))
def test_a_perturbation_is_laid_over_pictures_of_any_size(height: int, width: int) -> None:
    levels = np.random.default_rng(0).integers(-3, 4, (20, 30, 3), np.int16)
    picture = np.full((height, width, 3), 254, np.uint8)
    under = laid_over(picture, levels).astype(int) - picture
    expected = np.array([[levels[row % 20, column % 30] for column in range(width)] for row in range(height)])
    assert np.array_equal(under, np.minimum(expected, 1))


@pytest.mark.parametrize("second", [MIRROR, STRAIGHT])
def test_who_knows_the_second_look_stays_below_its_cues_and_still_does_harm(network: CspNano, second: SecondLook) -> None:
    picture, people = shot(0)
    plain = pgd(network, [picture], [people], EPS, 4)[0]
    knowing = adaptive(network, picture, people, EPS, second, steps=10)
    assert np.abs(knowing.astype(int) - picture).max() <= 8
    clean, seen, hidden = (moved(network, one, second) for one in (picture, plain, knowing))
    assert hidden < 0.6 * seen
    assert hidden < 3 * clean
    assert raised(network, 0, knowing) > 1.2 * raised(network, 0, picture)


def test_it_asks_the_second_look_that_it_is_given(network: CspNano) -> None:
    asked: list[tuple[int, ...]] = []

    def note(picture: Picture) -> Picture:
        asked.append(picture.shape)
        return picture

    picture, people = shot(0)
    adaptive(network, picture, people, EPS, SecondLook(note, mirrored=False), steps=2)
    assert asked == [picture.shape] * 3  # the clean picture's cues, then one look a step


WAYS: dict[str, Callable[[CspNano, float], NDArray[np.generic]]] = {
    "universal": lambda network, eps: universal(network, [shot(0)[0]], None, eps),
    "adaptive": lambda network, eps: adaptive(network, shot(0)[0], None, eps, MIRROR),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("eps", [-0.1, 1.5, float("nan")])
def test_a_strength_that_is_no_share_is_refused(network: CspNano, way: str, eps: float) -> None:
    with pytest.raises(BadInput, match=r"0\.\.1"):
        WAYS[way](network, eps)
