"""The synthetic street: the same for the same seed, with ground truth that fits its pixels."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.errors import BadInput
from streams.events import Context
from streams.sources.scenery import Weather
from streams.sources.street import Street

streets = st.builds(
    Street,
    context=st.sampled_from(Context),
    weather=st.sampled_from(Weather),
    seed=st.integers(0, 10_000),
    width_px=st.sampled_from((128, 256)),
    height_px=st.sampled_from((64, 128)),
)


@settings(max_examples=8, deadline=None)
@given(streets, st.integers(0, 5_000))
def test_same_seed_and_number_give_the_same_pixels_whichever_way_they_are_reached(street: Street, number: int) -> None:
    first = street.shot(number)
    height, width = first.picture.shape[:2]
    other = Street(street.context, street.weather, street.seed, width_px=width, height_px=height)
    other.shot(number + 1)
    second = other.shot(number)
    assert np.array_equal(first.picture, second.picture)
    assert first.people == second.people
    assert first.picture.dtype == np.uint8


@settings(max_examples=8, deadline=None)
@given(streets, st.integers(0, 5_000))
def test_visible_box_lies_inside_the_full_box_and_inside_the_picture(street: Street, number: int) -> None:
    shot = street.shot(number)
    height, width = shot.picture.shape[:2]
    assert shot.people is not None
    for person in shot.people:
        (x, y, w, h), (vx, vy, vw, vh) = person.box_px, person.visible_px
        assert vw > 0
        assert vh > 0
        assert x - 1e-6 <= vx
        assert vx + vw <= x + w + 1e-6
        assert y - 1e-6 <= vy
        assert vy + vh <= y + h + 1e-6
        assert vx >= 0
        assert vy >= 0
        assert vx + vw <= width
        assert vy + vh <= height
        assert w / h == pytest.approx(0.41)


def test_iterating_gives_the_shots_by_number_and_ends_when_told() -> None:
    street = Street(Context.URBAN, seed=3, frames=3, width_px=128, height_px=64, fps=2.0)
    shots = list(street)
    assert [shot.time_s for shot in shots] == [0.0, 0.5, 1.0]
    assert all(np.array_equal(shot.picture, street.shot(number).picture) for number, shot in enumerate(shots))
    assert len(list(itertools.islice(Street(Context.URBAN, width_px=128, height_px=64), 5))) == 5


def test_a_person_is_where_the_truth_says() -> None:
    """Without its people the street differs from itself inside their boxes, and (noise apart) nowhere far from them."""
    street, empty = Street(Context.URBAN, seed=20), Street(Context.URBAN, seed=20)
    empty._walkers = []
    inside, outside = [], []
    for number in (0, 40, 80):
        shot = street.shot(number)
        changed = np.abs(shot.picture.astype(int) - empty.shot(number).picture).max(axis=2)
        near = np.zeros(changed.shape, bool)
        assert shot.people is not None
        for person in shot.people:
            x, y, w, h = person.box_px
            vx, vy, vw, vh = (int(side) for side in person.visible_px)
            near[max(0, int(y - 0.1 * h)) : int(y + 1.2 * h), max(0, int(x - 0.6 * w)) : int(x + 1.6 * w)] = True
            if not person.ignore:
                inside.append((changed[vy : vy + vh, vx : vx + vw] > 12).mean())
        outside.append((changed[~near] > 12).mean())
    assert len(inside) > 20
    assert np.mean(inside) > 0.35
    assert max(outside) < 0.001


def test_towns_have_people_of_all_sizes_and_highways_hardly_any() -> None:
    people = [
        [
            p.box_px[3]
            for seed in range(8)
            for p in Street(context, seed=seed, width_px=320, height_px=160).shot(7).people or ()
            if not p.ignore
        ]
        for context in Context
    ]
    urban, highway = (
        dict(zip(Context, people, strict=True))[Context.URBAN],
        dict(zip(Context, people, strict=True))[Context.HIGHWAY],
    )
    assert len(urban) > 50
    assert min(urban) < 25
    assert max(urban) > 55
    assert len(highway) < 6


def test_some_are_partly_hidden_and_none_is_listed_without_a_visible_pixel() -> None:
    shares = [
        p.visible_px[2] * p.visible_px[3] / (p.box_px[2] * p.box_px[3])
        for seed in range(6)
        for p in Street(Context.URBAN, seed=seed, width_px=320, height_px=160).shot(11).people or ()
    ]
    assert sum(share < 0.5 for share in shares) >= 5
    assert min(shares) > 0


def test_weathers_differ_as_they_should() -> None:
    pictures = {
        weather: Street(Context.URBAN, weather, seed=5, width_px=320, height_px=160).shot(0).picture.astype(float)
        for weather in Weather
    }
    grey = {weather: picture.mean(axis=2) for weather, picture in pictures.items()}
    assert grey[Weather.DUSK].mean() < 0.75 * grey[Weather.DAY].mean()
    assert grey[Weather.RAIN].mean() < grey[Weather.DAY].mean()
    middle = np.s_[45:75, 135:185]  # far away, where fog is thick
    assert grey[Weather.FOG][middle].std() < 0.7 * grey[Weather.DAY][middle].std()


@pytest.mark.parametrize(
    "wrong",
    [{"width_px": 10}, {"height_px": 9999}, {"fps": 0.0}, {"frames": 0}, {"seed": -1}, {"weather": "hail"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_makes_no_street_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="synthetic street"):
        Street(Context.URBAN, **wrong)  # type: ignore[arg-type]
