"""What of a judged frame reaches the detectors."""

import msgspec
from test_detectors import NORMAL, judged

from detectors import catalogue
from detectors.features import INPUT, PICTURE, VIEW, observations
from streams.events import Features, InputScores


def test_a_score_that_was_not_measured_is_absent_and_not_zero() -> None:
    assert "attack_probability" not in observations(judged(1))
    assert (
        0
        < observations(judged(4))["attack_probability"].value
        < 0.5
        < observations(judged(5, attacked=True))["attack_probability"].value
    )


def test_a_look_by_an_older_worker_that_lacks_cues_is_no_reading() -> None:
    event = judged(4)
    older = msgspec.structs.replace(event, scores=InputScores(reference_digest=NORMAL, inconsistency=0.9))
    assert "attack_probability" not in observations(older)


def test_scores_exist_only_where_somebody_was_seen() -> None:
    event = judged(1)
    assert "score_mean" not in observations(event)
    seen = Features(
        brightness=0.5, contrast=0.2, sharpness=0.1, people=2, score_mean=0.7, score_max=0.8, height_mean_px=90, heat=0.02
    )
    event = type(event)(**{**{name: getattr(event, name) for name in event.__struct_fields__}, "features": seen})
    assert observations(event)["score_mean"].value == 0.7
    assert set(observations(event)) == PICTURE | VIEW


def test_readings_carry_the_frames_sequence_and_the_cameras_time() -> None:
    event = judged(8)
    reading = observations(event, offset=100)["brightness"]
    assert (reading.sequence, reading.time_s) == (108, event.camera_time.timestamp())


def test_every_catalogue_entry_reads_a_feature_that_exists() -> None:
    assert {entry.reads for entry in catalogue.ALL.values()} <= PICTURE | VIEW | INPUT
