"""A season is learned and taken out of the readings, and what a baseline does not need is left out of it."""

import json
import math

import numpy as np
import pytest

from detectors.base import Observation, State, Status
from detectors.drift.feature import Drift, seasons, whitening
from streams.bench.drift.trials import LAWS, Law, Source, learned

YEAR = Law("season of 90, AR(1) 0.5", phi=0.5, season=90)
FLOOR = 1e-3


def period(state: whitening.Whitener) -> float:
    return 2.0 * math.pi / state["season"][0]


def fed(detector: Drift, values: np.ndarray, state: State, first: int) -> tuple[State, list[int]]:
    """The state afterwards, and where it alarmed; after each alarm it begins again."""
    known, found = state, []
    for number, value in enumerate(values.tolist(), first):
        state, verdict = detector.step(state, Observation(number, 0.0, value))
        if verdict.status is Status.ALARM:
            found.append(number)
            state = detector.rearm(known, state)
    return state, found


@pytest.mark.parametrize("seed", range(3))
def test_a_seasons_length_is_found_and_little_of_the_level_is_predicted_away(seed: int) -> None:
    found = seasons.choose(Source(YEAR, seed).take(600).tolist(), FLOOR)
    assert period(found) == pytest.approx(90, abs=2.0)
    assert found["order"] == whitening.SHORTEST
    # An autoregression of 0.5 keeps half of a step; one that follows the season with running means kept a fifth.
    assert whitening.remains(found) == pytest.approx(0.5, abs=0.12)
    assert whitening.swing(found) == pytest.approx(1.0 / math.sqrt(0.75), abs=0.12)


@pytest.mark.parametrize("law", LAWS[:4], ids=lambda law: law.name)
def test_no_season_and_no_running_means_are_taken_for_needed_where_there_is_none(law: Law) -> None:
    for seed in range(2):
        found = seasons.choose(Source(law, seed).take(500).tolist(), FLOOR)
        assert (found["season"], found["order"]) == ([], whitening.SHORTEST)


def test_slow_weather_under_noise_needs_running_means() -> None:
    slow = Source(Law("slow", phi=0.98), 1).take(900)
    noisy = slow + np.random.default_rng(2).standard_normal(900)
    assert seasons.choose(noisy.tolist(), FLOOR)["order"] == whitening.SIZE


def test_a_stretch_too_short_to_hold_three_periods_has_no_season() -> None:
    assert seasons.dominant([0.0] * (seasons.FEWEST - 1)) == 0.0
    wave = np.sin(2 * np.pi * np.arange(150) / 75.0)
    assert 2 * np.pi / seasons.dominant(wave.tolist()) <= 50.0


def test_a_step_under_a_season_is_told_within_what_it_takes_without_one() -> None:
    waited = []
    for seed in range(3):
        never, detector, source = Drift(arl=10**12, learn=900), Drift(arl=1_000, learn=900), Source(YEAR, 7, seed)
        state = learned(never, source.take(1_500))
        _, found = fed(detector, source.take(300) + 1.0, detector.rearm(state, state), 1_500)
        waited.append(found[0] - 1_500)
    assert max(waited) <= 90


def test_after_an_alarm_the_season_goes_on_where_it_is() -> None:
    detector, source = Drift(arl=10_000, learn=900), Source(YEAR, 3)
    known, _ = fed(detector, source.take(1_500), detector.start(), 0)
    state, _ = fed(detector, source.take(45), known, 1_500)  # half a period on
    _, found = fed(detector, source.take(600), detector.rearm(known, state), 1_545)
    assert found == []


def test_at_rest_a_season_is_still_followed_though_its_clock_runs_a_little_slower() -> None:
    turns = np.concatenate([np.full(2_000, 1 / 30.0), np.full(8_000, 1 / 30.05)]).cumsum()
    values = Source(LAWS[0], 4).take(10_000) + np.sin(2 * np.pi * turns)
    state = seasons.choose(values[:600].tolist(), FLOOR)
    for value in values[600:2_000].tolist():
        state, _ = whitening.whiten(state, value, FLOOR, learning=True)
    squares = {}
    for following in (True, False):
        after, errors = state, []
        for value in values[2_000:].tolist():
            after, error = whitening.whiten(after, value, FLOOR, learning=False, following=following)
            errors.append(error)
        squares[following] = float(np.mean(np.square(errors[-2_000:])))
    assert after["learned"] == state["learned"]
    assert squares[True] < 1.1 < squares[False]


def test_the_readings_kept_for_the_choice_are_few_and_gone_when_it_is_made() -> None:
    detector, values = Drift(arl=1_000, learn=4_000), Source(YEAR, 5).take(2_010)
    state, _ = fed(detector, values[:1_999], detector.start(), 0)
    assert len(json.dumps(state)) < 16_384
    state, _ = fed(detector, values[1_999:], state, 1_999)
    assert state["heard"] == []


def test_two_first_readings_alike_fix_no_wild_weights() -> None:
    # It begins with two far readings alike and a fall: least squares that clipped the fall, yet counted it as told, kept 1.3.
    values = (Source(LAWS[6], 20_261_121, 18).take(1_000) + 1.56) / 0.545
    found = seasons.choose(values.tolist(), FLOOR)
    assert found["weights"][1] == pytest.approx(0.9, abs=0.1)
    assert found["mood"] == 0
