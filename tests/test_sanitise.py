"""Cleaning pictures before the model sees them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from inference.service.sanitise import chain
from inference.service.worker import cleaning
from infra.settings import Settings
from streams.errors import BadInput
from streams.events import Context, Mode
from streams.sources.street import Street

PICTURES = arrays(np.uint8, st.tuples(st.integers(16, 40), st.integers(16, 40), st.just(3)))


@settings(max_examples=10, deadline=None)
@given(picture=PICTURES)
def test_every_chain_keeps_shape_and_kind_and_leaves_the_given_picture_alone(picture: NDArray[np.uint8]) -> None:
    before = picture.copy()
    for text in ("", "median-3", "median-5", "jpeg-75", "bits-5", "bits-4+median-3+jpeg-60"):
        cleaned = chain(text)(picture)
        assert (cleaned.shape, cleaned.dtype) == (picture.shape, np.uint8)
    assert (picture == before).all()


def test_no_steps_change_nothing_and_bits_leave_as_many_levels() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (16, 1, 3))
    assert (chain("")(ramp) == ramp).all()
    assert len(np.unique(chain("bits-4")(ramp))) == 16
    assert (chain("bits-4")(chain("bits-4")(ramp)) == chain("bits-4")(ramp)).all()


@pytest.mark.parametrize("text", ["median-3", "jpeg-75", "median-3+jpeg-60"])
def test_a_perturbation_shrinks_more_than_an_honest_picture_changes(text: str) -> None:
    honest = Street(Context.URBAN, width_px=256, height_px=128).shot(5).picture
    signs = np.random.default_rng(1).choice((-8, 8), honest.shape)
    attacked = np.clip(honest.astype(int) + signs, 0, 255).astype(np.uint8)
    clean = chain(text)
    left = np.abs(clean(attacked).astype(int) - clean(honest)).mean()
    assert left < 0.9 * np.abs(attacked.astype(int) - honest).mean()
    assert np.abs(clean(honest).astype(int) - honest).mean() < 8


@pytest.mark.parametrize(
    "text", ["blur-3", "median-4", "median", "jpeg-5", "jpeg-96", "bits-8", "jpeg--75", "jpeg-²", "+", "median-3+" * 5]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        chain(text)


def test_the_settings_that_ship_are_chains() -> None:
    for text in (Settings().sanitise_normal, Settings().sanitise_safe):
        chain(text)


def test_a_mode_without_steps_is_not_cleaned_at_all_so_that_its_first_look_is_the_scores_plain_one() -> None:
    assert cleaning(Settings()).keys() == {Mode.SAFE}
    assert cleaning(Settings(sanitise_normal="median-3", sanitise_safe=" ")).keys() == {Mode.NORMAL}
