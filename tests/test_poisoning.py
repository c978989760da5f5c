"""Poison does what it says to the share it says, keeps a true record, repeats by its seed, and leaves the clean data alone."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import Generator

from inference.attacks.poisoning import (
    Harm,
    Poisoned,
    add,
    adversarial_centres,
    duplicate,
    flip,
    remove,
    shift,
    shrink,
    trigger,
    wear,
)
from streams.errors import BadInput
from streams.sources.base import Person, Picture


def person(x: float, y: float, h: float, *, ignore: bool = False) -> Person:
    box = (x, y, 0.41 * h, h)
    return Person(box, box, ignore)


PEOPLE = (*(person(10 + 30 * at, 60, 40 + at) for at in range(6)), person(200, 10, 30, ignore=True))


def scene() -> Picture:
    picture = np.full((128, 256, 3), 120, np.uint8)
    picture[10:50:4, 60:110] = 230  # a window, dense with edges
    picture[60:100, 12:24] = 20  # somebody, who has edges too
    return picture


POISONS: dict[Harm, Callable[[float, Generator], Poisoned]] = {
    Harm.FLIPPED: lambda gamma, rng: flip(scene(), PEOPLE, gamma, rng),
    Harm.SHIFTED: lambda gamma, rng: shift(scene(), PEOPLE, gamma, 0.5, rng),
    Harm.SHRUNK: lambda gamma, rng: shrink(scene(), PEOPLE, gamma, 0.5, rng),
    Harm.REMOVED: lambda gamma, rng: remove(scene(), PEOPLE, gamma, rng),
    Harm.TRIGGERED: lambda gamma, rng: trigger(scene(), PEOPLE, gamma, rng),
}


@pytest.mark.parametrize("harm", POISONS)
@given(gamma=st.floats(0, 1), seed=st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_the_record_turns_poisoned_labels_back_into_clean_ones(harm: Harm, gamma: float, seed: int) -> None:
    done = POISONS[harm](gamma, np.random.default_rng(seed))
    assert all(change.harm is harm for change in done.changes)
    left = list(done.people)
    for change in done.changes:
        assert change.before is not None
        assert not change.before.ignore
        if change.after is not None:
            left.remove(change.after)
        left.append(change.before)
    assert sorted(left, key=repr) == sorted(PEOPLE, key=repr)
    again = POISONS[harm](gamma, np.random.default_rng(seed))
    assert again.people == done.people
    assert np.array_equal(again.picture, done.picture)


@pytest.mark.parametrize("harm", POISONS)
def test_as_many_labels_are_harmed_as_gamma_says(harm: Harm) -> None:
    rng = np.random.default_rng(4)
    harmed = sum(len(POISONS[harm](0.15, rng).changes) for _ in range(120))
    assert 0.10 < harmed / (120 * 6) < 0.20
    assert not POISONS[harm](0.0, rng).changes
    assert len(POISONS[harm](1.0, rng).changes) == 6


def test_a_flipped_centre_lies_on_an_edge_where_nobody_stands_and_keeps_its_height() -> None:
    done = flip(scene(), PEOPLE, 1.0, np.random.default_rng(0))
    for change in done.changes:
        assert change.before is not None
        assert change.after is not None
        x, y, w, h = change.after.box_px
        assert (w, h) == change.before.box_px[2:]
        mid_x, mid_y = x + w / 2, y + h / 2
        assert 55 <= mid_x <= 115
        assert 5 <= mid_y <= 55


def test_denser_edges_draw_more() -> None:
    picture = np.full((100, 200, 3), 120, np.uint8)
    picture[20:40:4, 10:30] = 240
    picture[:, 150:] = 130
    picture[50:, 150:] = 20
    centres, density = adversarial_centres(picture, (), np.random.default_rng(1))
    assert density.sum() == pytest.approx(1)
    assert density[centres[:, 0] < 40].sum() > 0.5


def test_a_picture_without_edges_keeps_its_labels() -> None:
    done = flip(np.full((64, 64, 3), 90, np.uint8), [person(10, 10, 30)], 1.0, np.random.default_rng(0))
    assert done.people == (person(10, 10, 30),)
    assert not done.changes


def test_invented_people_stand_where_nobody_is() -> None:
    done = add(scene(), PEOPLE, 3, np.random.default_rng(3))
    assert done.people[: len(PEOPLE)] == PEOPLE
    assert len(done.changes) == 3
    for one in done.people[len(PEOPLE) :]:
        x, y, w, h = one.box_px
        assert 0 <= x <= 256 - w
        assert 0 <= y <= 128 - h
        assert not any(x < b[0] + b[2] and b[0] < x + w and y < b[1] + b[3] and b[1] < y + h for b in (p.box_px for p in PEOPLE))


def test_the_trigger_is_seen_only_on_those_who_lose_their_label() -> None:
    clean = scene()
    done = trigger(clean, PEOPLE, 0.5, np.random.default_rng(6))
    assert np.array_equal(clean, scene())
    assert 0 < len(done.changes) < 6
    expected = clean
    for change in done.changes:
        assert change.before is not None
        expected = wear(expected, change.before)
    assert np.array_equal(done.picture, expected)
    assert (done.picture != clean).any()


@pytest.mark.parametrize("corner", [(-8.0, -8.0), (250.0, 110.0)])
def test_a_trigger_at_the_picture_s_edge_is_cut(corner: tuple[float, float]) -> None:
    assert wear(scene(), person(*corner, 40)).shape == scene().shape


def test_duplicates_follow_their_originals() -> None:
    places = duplicate(1000, 0.1, np.random.default_rng(0))
    assert sorted(set(places)) == list(range(1000))
    assert list(places) == sorted(places)
    assert 1060 < len(places) < 1140


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(gamma: float) -> None:
    for poison in POISONS.values():
        with pytest.raises(BadInput, match=r"0\.\.1"):
            poison(gamma, np.random.default_rng(0))
