"""Labels and a model's boxes disagree by as much as they are apart, and what is usual is learned from golden pictures."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.lifecycle.residuals import Measure, Residual, limits, residuals, source
from inference.training.samples import shaped
from streams.events import Box
from streams.sources.base import Person

PERSON = shaped((100.0, 50.0, 41.0, 100.0))


def box(person: Person, score: float = 0.9) -> Box:
    return Box(*person.box_px, score)


def moved(person: Person, x_px: float, y_px: float = 0.0) -> Person:
    x, y, w, h = person.box_px
    return shaped((x + x_px, y + y_px, w, h))


def worst(people: Sequence[Person], boxes: Sequence[Box]) -> dict[Measure, float]:
    found: dict[Measure, float] = {}
    for one in residuals(people, boxes):
        found[one.measure] = max(found.get(one.measure, -np.inf), one.value)
    return found


@given(near=st.floats(0, 150), further=st.floats(0, 150), angle=st.floats(0, 2 * np.pi), score=st.floats(0.02, 1))
def test_the_further_a_label_is_from_the_person_the_greater_the_surprise(
    near: float, further: float, angle: float, score: float
) -> None:
    way = np.array([np.cos(angle), np.sin(angle)])
    one, two = (worst([moved(PERSON, *(far * way))], [box(PERSON, score)]) for far in (near, near + further))
    assert one[Measure.SURPRISE] <= two[Measure.SURPRISE] + 1e-9


def test_a_shrunk_label_surprises_though_its_middle_is_right() -> None:
    x, y, w, h = PERSON.box_px
    small = Person((x + 0.2 * w, y + 0.2 * h, 0.6 * w, 0.6 * h), PERSON.visible_px)
    assert worst([small], [box(PERSON)])[Measure.SURPRISE] > worst([PERSON], [box(PERSON)])[Measure.SURPRISE] + 3


def test_a_person_whose_label_is_gone_is_told_in_a_crowd_too() -> None:
    beside = moved(PERSON, 25)  # the two overlap
    both = [box(PERSON), box(beside, 0.8)]
    assert worst([PERSON, beside], both)[Measure.UNLABELLED] < -3
    assert worst([PERSON], both)[Measure.UNLABELLED] == pytest.approx(np.log(0.8 / 0.2))
    assert worst([PERSON, replace(beside, ignore=True)], both)[Measure.UNLABELLED] < -3


def test_a_label_beside_the_person_it_was_taken_from_is_told() -> None:
    stray = box(moved(PERSON, 30), 0.05)  # something weak where the label went
    assert worst([moved(PERSON, 30)], [box(PERSON), stray])[Measure.BESIDE] > 2
    assert worst([PERSON], [box(PERSON), stray])[Measure.BESIDE] < 0


def test_a_label_where_the_model_sees_nobody_anywhere_is_the_greatest_surprise() -> None:
    (one,) = residuals([PERSON], [])
    assert (
        one.value
        >= worst([moved(PERSON, 900)], [box(PERSON)])[Measure.SURPRISE]
        > worst([moved(PERSON, 30)], [box(PERSON)])[Measure.SURPRISE]
    )
    assert residuals([], [])[0].value < -4


def test_weathers_of_drawn_streets_are_one_source_and_other_pools_are_their_own() -> None:
    assert {source(f"urban-{weather}") for weather in ("day", "dusk", "rain", "fog")} == {"urban"}
    assert source("penn-fudan") == "penn-fudan"
    assert source("live-gate") == "live-gate"


@given(st.integers(0, 2**32 - 1))
def test_limits_are_each_source_s_own_and_hold_back_about_the_declared_share(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def pictures(pool: str, level: float, number: int) -> list[tuple[str, list[Residual]]]:
        return [(pool, [Residual(Measure.SURPRISE, value, "")]) for value in rng.normal(level, 1, number)]

    found = limits([*pictures("urban-day", 0, 20), *pictures("urban-fog", 0, 20), *pictures("penn-fudan", 9, 40)], 0.01)
    assert found.known == 80
    town, photographs = found.of("urban-rain"), found.of("penn-fudan")
    assert 1.2 < town[Measure.SURPRISE] < 6
    assert 10.2 < photographs[Measure.SURPRISE] < 15
    assert found.of("live-gate")[Measure.SURPRISE] >= photographs[Measure.SURPRISE] - 5  # of all together
    beyond = np.mean(rng.normal(0, 1, 2000) > town[Measure.SURPRISE])
    assert beyond < 0.12  # a limit from 40 values; 0.01 on average over seeds


def test_too_few_golden_pictures_say_nothing() -> None:
    few = [("penn-fudan", [Residual(Measure.STIRRED, 0.1, "")])] * 11
    assert limits(few, 0.01).of("penn-fudan") == {}
    assert Measure.STIRRED in limits([*few, *few], 0.01).of("penn-fudan")
