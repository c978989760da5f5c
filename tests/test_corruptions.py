"""Honest pictures made worse: the same by the same seed, worse by severity, and never the given picture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.corruptions import CORRUPTIONS, SEVERITIES
from streams.errors import BadInput
from streams.events import Context
from streams.sources.base import Picture
from streams.sources.street import Street

STREET = Street(Context.URBAN, seed=901, width_px=384, height_px=192).shot(40).picture


def corrupted(name: str, severity: int, picture: Picture = STREET, seed: int = 3) -> Picture:
    return CORRUPTIONS[name](picture, severity, np.random.default_rng(seed))


def apart(one: Picture, other: Picture) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def test_there_are_the_fifteen_of_the_source_shake_and_another_camera() -> None:
    assert len(CORRUPTIONS) == 17
    assert list(CORRUPTIONS)[-2:] == ["shake", "other camera"]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_is_seeded_leaves_the_picture_alone_and_gets_worse_with_severity(name: str) -> None:
    before = STREET.copy()
    pictures = [corrupted(name, severity) for severity in SEVERITIES]
    assert np.array_equal(before, STREET)
    assert all(one.shape == STREET.shape and one.dtype == np.uint8 for one in pictures)
    assert np.array_equal(corrupted(name, 3), pictures[2])
    distances = [np.mean([apart(corrupted(name, severity, seed=seed), STREET) for seed in range(3)]) for severity in (1, 3, 5)]
    assert 0.2 < distances[0] < distances[1] < distances[2] < 90


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_can_be_seen_before_is_still_to_be_seen_at_the_worst(name: str) -> None:
    worst = corrupted(name, 5)
    blocks = [one.astype(float).reshape(24, 8, 48, 8, 3).mean((1, 3)).ravel() for one in (STREET, worst)]
    assert np.corrcoef(*blocks)[0, 1] > 0.65


@pytest.mark.parametrize("name", ["gaussian noise", "shot noise", "impulse noise", "snow", "elastic", "shake"])
def test_chance_is_the_generators(name: str) -> None:
    assert not np.array_equal(corrupted(name, 3, seed=1), corrupted(name, 3, seed=2))


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(CORRUPTIONS)),
    severity=st.sampled_from(SEVERITIES),
    size=st.tuples(st.integers(3, 40), st.integers(3, 90)),
)
def test_any_size_and_flat_pictures_are_borne(name: str, severity: int, size: tuple[int, int]) -> None:
    flat = np.full((*size, 3), 130, np.uint8)
    assert corrupted(name, severity, flat).shape == flat.shape


def test_blur_takes_edges_and_noise_makes_some() -> None:
    def edges(picture: Picture) -> float:
        return float(np.abs(np.diff(picture.astype(float), axis=1)).mean())

    usual = edges(STREET)
    for name in ("defocus blur", "motion blur", "zoom blur", "fog", "contrast"):
        assert edges(corrupted(name, 5)) < 0.8 * usual, name
    for name in ("gaussian noise", "shot noise", "impulse noise"):
        assert edges(corrupted(name, 5)) > 1.5 * usual, name


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_a_severity_that_does_not_exist_is_refused(severity: int) -> None:
    with pytest.raises(BadInput, match="1 to 5"):
        corrupted("fog", severity)
