"""What is measured of a picture and of the model's view of it."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

import inference
from detectors import catalogue
from detectors.base import Observation, Status
from detectors.calibration import judge
from inference.attacks.gradient import fgsm
from inference.provenance.registry import Registry, read_card
from inference.service import cues
from inference.service.serving import load
from streams.events import Box, Context, InputScores
from streams.sources.base import Picture
from streams.sources.street import Street


def view(heat: NDArray[np.float32], boxes: tuple[Box, ...] = ()) -> SimpleNamespace:
    """A model's view, as `inference.service.serving.View`."""
    return SimpleNamespace(boxes=boxes, heat=heat, embedding=np.array([0.25, -1.5], np.float32))


def flat(level: float = 0.1) -> SimpleNamespace:
    return view(np.full((16, 24), level, np.float32))


@settings(max_examples=25, deadline=None)
@given(picture=arrays(np.uint8, st.tuples(st.integers(16, 40), st.integers(16, 400), st.just(3))))
def test_features_of_any_picture_are_what_the_event_allows(picture: NDArray[np.uint8]) -> None:
    seen = cues.features(picture, flat())
    assert min(seen.brightness, seen.contrast, seen.sharpness) >= 0
    assert max(seen.brightness, seen.contrast, seen.sharpness) <= 1


def test_white_is_bright_and_flat_and_noise_is_sharp() -> None:
    white = cues.features(np.full((64, 64, 3), 255, np.uint8), flat())
    noise = cues.features(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8), flat())
    assert (white.brightness, white.contrast, white.sharpness) == (1.0, 0.0, 0.0)
    assert noise.contrast > 0.1
    assert noise.sharpness > 0.05


def test_people_are_counted_and_averaged_and_nobody_is_all_zeros() -> None:
    picture = np.zeros((32, 64, 3), np.uint8)
    two = cues.features(picture, view(np.zeros((8, 16), np.float32), (Box(0, 0, 10, 40, 0.5), Box(9, 0, 20, 80, 0.9))))
    assert (two.people, two.score_mean, two.score_max, two.height_mean_px) == (2, pytest.approx(0.7), 0.9, 60)
    none = cues.features(picture, flat())
    assert (none.people, none.score_mean, none.score_max, none.height_mean_px) == (0, 0, 0, 0)
    assert none.heat == pytest.approx(0.1)
    assert none.embedding == (0.25, -1.5)


def test_the_squeezed_picture_is_close_to_an_honest_one_and_of_the_same_shape() -> None:
    ramp = np.tile(np.linspace(0, 255, 90, dtype=np.uint8)[None, :, None], (50, 1, 3))
    squeezed = cues.squeeze(ramp)
    assert (squeezed.shape, squeezed.dtype) == (ramp.shape, np.uint8)
    assert np.abs(squeezed.astype(int) - ramp).mean() < 4


def test_inconsistency_is_none_for_equal_views_and_grows_with_what_appears_or_vanishes() -> None:
    person = np.full((16, 24), 0.1, np.float32)
    person[4:8, 10:13] = 0.9
    assert cues.inconsistency(flat(), flat()) == 0
    vanished = cues.inconsistency(view(person), flat())
    assert vanished == cues.inconsistency(flat(), view(person))
    assert 0 < cues.inconsistency(flat(0.1), flat(0.101)) < 0.1 < vanished < cues.inconsistency(flat(0), flat(1)) <= 1


@pytest.mark.parametrize("wild", [np.nan, np.inf])
def test_a_view_that_is_not_finite_is_wholly_inconsistent_and_still_makes_an_event(wild: float) -> None:
    heat = np.full((16, 24), wild, np.float32)
    assert cues.inconsistency(view(heat), flat()) == 1.0
    assert 0 <= cues.features(np.zeros((32, 32, 3), np.uint8), view(heat)).heat <= 1


def test_a_second_look_is_in_the_mirror_and_says_how_far_and_which_way_the_map_moves() -> None:
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[16:32, 32:48] = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert (cues.mirrored(picture) == picture[:, ::-1]).all()
    person = np.full((16, 24), 0.1, np.float32)
    person[4:8, 3:6] = 0.9
    same = cues.second_look(view(person), view(person[:, ::-1]), picture)
    assert (same.inconsistency, same.largest, same.signed) == (0, 0, 0)
    hidden = cues.second_look(flat(), view(person[:, ::-1]), picture)
    conjured = cues.second_look(view(person), flat(), picture)
    assert hidden.largest == conjured.largest == pytest.approx(0.8)
    assert -1 <= hidden.signed < -0.9 < 0.9 < conjured.signed <= 1
    assert hidden.inconsistency == conjured.inconsistency > 0.5
    assert conjured.heat > hidden.heat
    assert hidden.weak == 1.0 > conjured.weak
    assert same.blot > 10 * same.high_pass > 0


@pytest.mark.parametrize("wild", [np.nan, np.inf])
def test_cues_of_a_view_that_is_not_finite_are_what_the_event_allows(wild: float) -> None:
    seen = cues.second_look(view(np.full((16, 24), wild, np.float32)), flat(), np.zeros((20, 20, 3), np.uint8))
    assert (seen.inconsistency, seen.largest) == (1.0, 1.0)
    decoded = msgspec.json.decode(msgspec.json.encode(InputScores(reference_digest="a" * 64, **asdict(seen))), type=InputScores)
    assert decoded.heat is not None


def test_the_shipped_model_and_its_calibration_tell_attacked_street_pictures_from_honest_ones(tmp_path: Path) -> None:
    weights = Path(inference.__file__).parent / "weights"
    registry = Registry(tmp_path)
    digest = registry.put(weights / "csp-nano.safetensors", read_card(weights / "csp-nano.json"))
    served, network = load(registry, digest, threads=1), registry.network(digest)
    detector = catalogue.ALL["evasion"].detector

    def likely(picture: Picture, context: str) -> float:
        plain, other = served.look([picture, cues.mirrored(picture)])
        scores = InputScores(reference_digest=digest, **asdict(cues.second_look(plain, other, picture)))
        judged = judge(scores, Context(context))
        assert judged is not None
        assert not judged.generic
        return judged.probability

    for context in ("urban", "highway"):
        street = Street(Context(context), seed=921, fps=4.0)
        usual = [likely(sent(street.shot(20 * number).picture), context) for number in range(4)]
        strange = [likely(sent(fgsm(network, street.shot(20 * number).picture, None, 0.03)), context) for number in range(2)]
        assert max(usual) < min(strange)
        state = detector.start()
        for number in range(32):
            state, verdict = detector.step(state, Observation(4 * number, 0.0, usual[number % 4]))
            assert verdict.status is not Status.ALARM
        statuses = []
        for number in range(32, 44):
            state, verdict = detector.step(state, Observation(4 * number, 0.0, strange[number % 2]))
            statuses.append(verdict.status)
        assert Status.ALARM in statuses


def sent(picture: Picture) -> Picture:
    """As a camera sends it: JPEG at quality 92."""
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
