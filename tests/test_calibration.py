"""A probability from cues: known data come back, files say where they are from, a foreign digest is told."""

import json
import math
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from looks import look
from msgspec.structs import replace

from detectors import calibration
from detectors.calibration import GENERIC, Calibration, calibrations, judge, names, read, terms, written
from inference.provenance.registry import SHIPPED, digest_of
from streams.bench.calibration.cases import FITTED_SEEDS, HELD_OUT_SEEDS
from streams.bench.calibration.fit import Row, auroc, fit
from streams.events import Context, InputScores

NORMAL = digest_of((SHIPPED / "csp-nano.safetensors").read_bytes())
SHARE = st.floats(0, 1)


def test_the_shipped_normal_model_has_a_calibration_of_its_own_in_both_contexts_and_others_the_generic() -> None:
    for context in Context:
        own, foreign = judge(look(NORMAL), context), judge(look("f" * 64), context)
        assert own is not None
        assert foreign is not None
        assert (own.generic, foreign.generic) == (False, True)


def test_every_file_says_which_pictures_and_weights_it_is_from_and_none_of_the_benchmarks_streets() -> None:
    for file in files("detectors").joinpath("calibrations").iterdir():
        told = json.loads(file.read_text(encoding="utf-8"))
        made = told["made"]
        assert set(made) >= {"command", "date", "weights", "fitted_to", "held_out", "pictures"}
        assert not set(made["fitted_to"]) & set(made["held_out"])
        seeds = {int(name.rpartition("-")[2]) for name in made["fitted_to"] if name.startswith(("urban", "highway"))}
        assert seeds <= set(FITTED_SEEDS)
        held = {int(name.rpartition("-")[2]) for name in made["held_out"] if name.startswith(("urban", "highway"))}
        assert held <= set(HELD_OUT_SEEDS)
        assert {read(written(read(each))) == read(each) for each in told["contexts"].values()} == {True}


@settings(deadline=None)
@given(st.builds(InputScores, reference_digest=st.just(NORMAL), inconsistency=SHARE, largest=SHARE, signed=st.floats(-1, 1), weak=SHARE, heat=SHARE, high_pass=SHARE, blot=SHARE), st.sampled_from(Context))  # fmt: skip # noqa: E501 - one event's fields
def test_any_cues_make_a_probability(scores: InputScores, context: Context) -> None:
    likely = calibration.probability(scores, context)
    assert likely is not None
    assert 0 < likely < 1


@pytest.mark.parametrize("name", ["inconsistency", "largest", "signed", "weak", "heat", "high_pass", "blot"])
def test_without_any_one_cue_there_is_no_probability(name: str) -> None:
    assert judge(replace(look(NORMAL), **{name: None}), Context.URBAN) is None


def test_a_fit_finds_the_law_that_pictures_were_drawn_from_and_ranks_new_ones() -> None:
    rng = np.random.default_rng(0)

    def row(number: int, *, attack: bool) -> Row:
        moved = 0.05 + 0.3 * rng.random() + (0.25 if attack else 0.0)
        scores = replace(look(NORMAL), inconsistency=moved, signed=float(rng.uniform(-1, 1)))
        kind = "pgd" if attack else "clean"
        return Row(str(number), "urban", "x", fitted=True, attack=attack, kind=kind, strength=0, sent="image/jpeg", scores=scores)

    made = fit([row(number, attack=number % 2 == 0) for number in range(400)])
    scored = {
        attack: np.array([calibration.logit(terms(row(n, attack=attack).scores) or (), made) for n in range(200)])
        for attack in (True, False)
    }
    assert auroc(scored[True], scored[False]) > 0.9
    even = np.mean([1 / (1 + math.exp(-value)) for value in (*scored[True], *scored[False])])
    assert even == pytest.approx(0.5, abs=0.05), "half of the pictures were attacked"


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([1.0, 2.0]), np.array([1.0, 0.0])) == pytest.approx(0.875)


def test_far_from_all_that_was_calibrated_on_a_square_stops_to_grow() -> None:
    one = Calibration((0.0,) * 7, (1.0,) * 7, tuple(float(name == "change*change") for name in names()))
    near, far = (calibration.logit((value, *(0.0,) * 6), one) for value in (-1.0, -100.0))
    assert near == 1.0
    assert far == calibration.logit((-5.0, *(0.0,) * 6), one)
    assert set(calibrations()) >= {GENERIC, NORMAL}
