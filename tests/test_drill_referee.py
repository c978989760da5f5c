"""The referee believes the records alone, and passes no round in which a promise was not kept."""

from pathlib import Path

import numpy as np
import pytest
from drill_records import NOON, a_good_one, a_round, a_stage, at, attacked, incident, judged
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from infra.db import writing
from infra.tables import Assignment, IncidentRow, JudgedFrame, NoticeRow, NotificationRow, QuarantinedFrame, TimelineRow
from responders.playbooks.playbooks import State
from streams.drill import referee, scenario
from streams.drill.filming import Filmed
from streams.drill.referee import Notes, Outcome
from streams.drill.scenario import Expect
from streams.drill.staging import Stage
from streams.events import Context, Kind, Mode
from streams.ledger import Ledger
from streams.sources.base import Shot
from tests.frames import a_frame


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return a_stage(tmp_path)


def test_a_round_in_which_all_came_as_expected_passes_with_its_clocks(stage: Stage) -> None:
    a_good_one(stage)
    made = a_round(stage)
    assert (made.faults, made.passed) == ((), True)
    assert (made.seconds_to_detect, made.seconds_to_contain) == (0.6, 1.5)
    assert made.seconds_to_recover == pytest.approx(12.0 - 0.5 - 1 / 3, abs=0.01)
    assert (made.attacked, made.attacked_not_quarantined, made.wrong_weights) == (2, 0, 0)
    assert (made.kind_right, made.disturbed, made.false_incidents) == (True, (), ())


def test_an_alarm_before_the_attack_is_a_false_one_and_no_quick_detection(stage: Stage) -> None:
    a_good_one(stage)
    with writing(stage.sessions) as session:
        session.scalars(select(IncidentRow)).one().detected_at = at(0.4)
    made = a_round(stage)
    assert made.false_incidents == ("evasion on gate, before the attack",)
    assert (made.passed, made.seconds_to_detect) == (False, None)


def test_an_incident_between_two_rounds_is_a_false_one_though_it_has_closed(stage: Stage) -> None:
    a_good_one(stage)
    with writing(stage.sessions) as session:
        incident(session, kind=Kind.POISONING)
        session.get_one(IncidentRow, "gate-poisoning").opened_at = at(-12.0)
    assert a_round(stage).false_incidents == ("poisoning on gate, between rounds",)


def test_attacked_frames_that_nobody_set_aside_fail_a_round_that_asks_for_it(stage: Stage) -> None:
    a_good_one(stage)
    with writing(stage.sessions) as session:
        session.delete(session.scalars(select(QuarantinedFrame)).first())
    made = a_round(stage)
    assert made.attacked_not_quarantined == 1
    assert "1 of 2 attacked frames were not set aside" in made.faults


def test_frames_of_the_other_camera_that_nobody_judged_are_a_disturbance(stage: Stage) -> None:
    a_good_one(stage)
    with Ledger(stage.cameras[Context.HIGHWAY].ledger) as ledger:
        for number in (1, 2):
            frame = a_frame(b"", id=f"bridge-{number}", epoch=1, sequence=number, time=at(number))
            ledger.sending(number, frame, None, Shot("s", 0.0, np.zeros((1, 1, 3), np.uint8), None))
            ledger.landed(number, 0, number)
    assert a_round(stage).disturbed == ("1 frames of bridge were not judged",)


def test_nothing_found_is_a_failed_round(stage: Stage) -> None:
    attacked(stage, 0.5, 2)
    made = a_round(stage)
    assert (made.passed, made.kind_right) == (False, False)
    assert "evasion was not opened" in made.faults
    assert "detected never, within 5 s at most" in made.faults


def test_an_incident_on_the_other_camera_is_a_false_one(stage: Stage) -> None:
    a_good_one(stage)
    with writing(stage.sessions) as session:
        incident(session, "bridge", Kind.TRAFFIC)
    made = a_round(stage)
    assert made.false_incidents == ("traffic on bridge",)
    assert not made.passed


def test_weather_that_opens_a_security_incident_fails_and_an_allowed_drift_does_not(stage: Stage) -> None:
    with writing(stage.sessions) as session:
        incident(session, kind=Kind.DRIFT)
    weather = Expect(allowed=(Kind.DRIFT,))
    assert a_round(stage, expect=weather).passed
    with writing(stage.sessions) as session:
        incident(session, kind=Kind.EVASION)
    assert a_round(stage, expect=weather).false_incidents == ("evasion on gate",)


def test_frames_judged_by_the_wrong_weights_are_counted_on_both_cameras(stage: Stage) -> None:
    a_good_one(stage)
    with writing(stage.sessions) as session:
        judged(session, "gate", 20, 6.0)  # normal, though the safe model was confirmed at 2 and normal asked for at 10
        judged(session, "gate", 21, 11.0)  # on the way back: either may judge
        judged(session, "gate", 22, 7.0, Mode.SAFE)
        session.get_one(JudgedFrame, "gate-22").weights_digest = "c" * 64  # it says safe, and is neither model
        judged(session, "bridge", 2, 3.0, Mode.SAFE)
    assert a_round(stage).wrong_weights == 3


def test_a_late_one_an_open_one_and_a_missing_act_are_faults_in_words(stage: Stage) -> None:
    attacked(stage, -9.0, 2)  # before the round: not this round's frames
    with writing(stage.sessions) as session:
        incident(session, state=State.CONTAINED)
    expect = Expect(
        incidents=(Kind.EVASION,), end=State.CLOSED, contain_within_s=0.5, actions=("escalate",), escalates=True, witness=False
    )
    assert set(a_round(stage, expect=expect).faults) == {
        "evasion is contained, not closed",
        "contained after 2 s, within 0.5 s at most",
        "the timeline shows no escalate",
        "nobody was called",
    }


def test_steady_means_judged_lately_nothing_open_and_normal_asked(stage: Stage) -> None:
    cameras = tuple(stage.cameras.values())
    assert referee.unsteady(stage, cameras, NOON) == ["gate is not judged", "bridge is not judged"]
    with writing(stage.sessions) as session:
        judged(session, "gate", 1, 0.0)
        judged(session, "bridge", 1, 0.0)
    assert referee.unsteady(stage, cameras, at(3.0)) == []
    with writing(stage.sessions) as session:
        incident(session, state=State.CONTAINED)
        session.get_one(Assignment, Context.URBAN).asked_mode = Mode.SAFE
    assert referee.unsteady(stage, cameras, at(3.0)) == [
        "gate has an open incident (evasion)",
        "urban is not asked to be served by its normal model",
    ]


KNOWN = scenario.load()


def played(stage: Stage, name: str, **noted: object) -> Outcome:
    """That scenario's outcome from what the records hold."""
    notes = Notes(1, at(0.0), at(-30.0))
    for key, value in noted.items():
        setattr(notes, key, value)
    return referee.judge(KNOWN[name], stage, notes, [])


def test_detection_counts_to_the_incident_not_to_the_signal(stage: Stage) -> None:
    a_good_one(stage)
    with writing(stage.sessions) as session:
        session.scalars(select(IncidentRow)).one().opened_at = at(61.0)
    made = a_round(stage)
    assert made.seconds_to_detect == 60.5
    assert "detected after 60.5 s, within 5 s at most" in made.faults


def test_one_incident_must_show_all_that_is_expected_not_several_together(stage: Stage) -> None:
    attacked(stage, 0.5, 6)
    with writing(stage.sessions) as session:
        incident(session, kind=Kind.TRAFFIC)
        incident(session, kind=Kind.DRIFT)
        acts = (("gate-traffic", "open"), ("gate-traffic", "close"), ("gate-traffic", "closed"), ("gate-drift", "close"))
        session.execute(delete(TimelineRow))
        for number, (row, action) in enumerate(acts):
            show(session, row, number, action)
    assert "the timeline shows no close" not in played(stage, "chaff").faults
    with writing(stage.sessions) as session:
        session.delete(session.scalars(select(TimelineRow).where(TimelineRow.decision_id == "gate-traffic/1")).one())
    assert "the timeline shows no close" in played(stage, "chaff").faults


def show(session: Session, row: str, number: int, action: str, what: str = "") -> None:
    session.add(
        TimelineRow(
            incident_id=row, decision_id=f"{row}/{number}", time=at(1.5), state=State.OPEN, actor="responder", action=action,
            what=what or action, cause_id="c",
        )
    )  # fmt: skip


def test_an_effect_that_came_twice_fails_the_round_and_one_asked_for_again_does_not(stage: Stage) -> None:
    a_good_one(stage)
    with writing(stage.sessions) as session:
        again = "urban is to be served by its safe model, asked again: not every live worker has reported it"
        for number in range(2):
            show(session, "gate-evasion", number, "serve", again)
    assert a_round(stage).faults == ()
    with writing(stage.sessions) as session:
        for number, action in enumerate(("quarantine", "serve", "contained"), 2):
            show(session, "gate-evasion", number, action, f"{action} at {1.0 if action == 'quarantine' else 1.1}")
        show(session, "gate-evasion", 9, "contained", "contained at 2.0")
    assert set(a_round(stage).faults) == {
        "done more than once: serve 2 times for evasion",
        "done more than once: contained 2 times for evasion",
        "done more than once: 1 quarantine orders for frames of another, for evasion",
    }


def test_what_a_relapse_does_again_is_not_done_twice(stage: Stage) -> None:
    a_good_one(stage)
    with writing(stage.sessions) as session:
        show(session, "gate-evasion", 0, "relapse")
        show(session, "gate-evasion", 1, "contained", "contained at 2.0")
    assert a_round(stage).faults == ()


@pytest.mark.parametrize(("seconds", "tests"), [(1.0, False), (1.5, True), (2.5, False)])
def test_a_kill_tests_something_only_between_opening_and_containment(stage: Stage, seconds: float, *, tests: bool) -> None:
    a_good_one(stage)
    made = played(stage, "killed-responder", killed=[at(seconds)])
    assert ("the kill did not fall between opening and containment" not in made.faults) is tests
    assert played(stage, "killed-responder").faults == ("the kill did not fall between opening and containment",)


def storms(stage: Stage, signals: int, state: State = State.CLOSED) -> None:
    with writing(stage.sessions) as session:
        for number in range(8):
            incident(session, f"storm-{number + 1}", Kind.TRAFFIC, state)
            session.get_one(IncidentRow, f"storm-{number + 1}-traffic").signals = signals // 8


def called(stage: Stage, number: int, seconds: float) -> None:
    with writing(stage.sessions) as session:
        row = f"storm-{number}-traffic"
        key = f"{row}/{seconds}"
        session.add(NoticeRow(id=key, incident_id=row, body=b"{}", dispatched=True, created_at=NOON))
        session.flush()
        session.add(
            NotificationRow(
                key=key, incident_id=row, channel="console", sort="page", role="R8", state="done", attempts=1, error="",
                not_before=NOON, leased_by="", created_at=NOON, done_at=at(seconds),
            )
        )  # fmt: skip


def test_a_storm_is_counted_whole_and_once_and_calls_people_once(stage: Stage) -> None:
    storms(stage, 10_000 + 8)  # one calm each
    assert not referee.expected(KNOWN["storm"], stage, at(0.0))
    for number in range(1, 9):
        called(stage, number, 3.0)
    assert referee.expected(KNOWN["storm"], stage, at(0.0))
    assert played(stage, "storm", answered_s=0.9).faults == ()
    assert played(stage, "storm", answered_s=1.1).faults == ("the CLI answered after 1.1 s, within 1 s at most",)
    called(stage, 1, 64.0)
    assert played(stage, "storm", answered_s=0.9).faults == ("people were called 2 times, not 1",)


@pytest.mark.parametrize("counted", [8, 9_992, 20_000])
def test_signals_of_a_storm_that_were_lost_or_counted_twice_fail_it(stage: Stage, counted: int) -> None:
    storms(stage, counted)
    assert f"{counted} of 10000 signals were counted" in played(stage, "storm", answered_s=0.9).faults


def test_what_a_round_opened_anywhere_is_not_steady_until_it_is_closed(stage: Stage) -> None:
    storms(stage, 10_000, State.OPEN)
    assert len(referee.left_open(stage, at(0.0))) == 8
    assert referee.left_open(stage, at(2.0)) == []
    with writing(stage.sessions) as session:
        incident(session, stage.settings.worker_id, Kind.TAMPERING, State.OPEN)
    assert referee.left_open(stage, at(2.0)) == ["worker-1 has an open incident (tampering)"]


def test_weather_in_which_the_camera_is_judged_by_the_safe_model_or_not_at_all_fails(stage: Stage) -> None:
    landed(stage.cameras[Context.URBAN], 30)
    assert played(stage, "weather-fog").faults == ("30 frames of gate were not judged",)
    with writing(stage.sessions) as session:
        for number in range(30):
            judged(session, "gate", number, 1 + number / 3)
    assert played(stage, "weather-fog").faults == ()
    with writing(stage.sessions) as session:
        for row in session.scalars(select(JudgedFrame)):
            row.weights_digest = "b" * 64
    assert played(stage, "weather-fog").faults == ("30 frames were judged by the wrong weights",)


def landed(camera: Filmed, frames: int) -> None:
    """The camera's ledger: so many frames that the broker has, three a second."""
    with Ledger(camera.ledger) as ledger:
        for number in range(frames):
            frame = a_frame(b"", id=f"{camera.camera_id}-{number}", epoch=1, sequence=number, time=at(0.5 + number / 3))
            ledger.sending(number, frame, None, Shot("s", 0.0, np.zeros((1, 1, 3), np.uint8), None))
            ledger.landed(number, 0, number)


def test_a_flood_for_which_the_model_is_switched_fails(stage: Stage) -> None:
    with writing(stage.sessions) as session:
        incident(session, kind=Kind.TRAFFIC)
    assert played(stage, "flood").faults == ()
    with writing(stage.sessions) as session:
        judged(session, "gate", 100, 1.5, Mode.SAFE)
    assert played(stage, "flood").faults == ("1 frames were judged by the wrong weights",)


def test_what_is_found_elsewhere_than_on_the_camera_is_not_found(stage: Stage) -> None:
    with writing(stage.sessions) as session:
        incident(session, "worker-1", Kind.TRAFFIC)
    made = played(stage, "wrong-context")
    assert not made.kind_right
    assert {"none of traffic was opened", "false incident: traffic on worker-1"} <= set(made.faults)


def test_a_place_that_the_scenario_names_is_where_a_kind_must_be_found(stage: Stage) -> None:
    with writing(stage.sessions) as session:
        incident(session, "training-data", Kind.POISONING)
        show(session, "training-data-poisoning", 0, "diagnose")
    assert played(stage, "poison", batch_refused=True).faults == ()


def test_clean_hours_that_nobody_judged_or_that_were_not_played_fail(stage: Stage) -> None:
    assert played(stage, "clean-hours").faults == ("0 clean cameras of 6 played",)
    for number in range(6):
        name = f"clean-{number + 1}"
        stage.extras.append(Filmed(name, Context.URBAN, stage.settings, stage.settings.home / f"{name}.jsonl", seed=1))
    landed(stage.extras[0], 2400)
    faults = played(stage, "clean-hours").faults
    assert "2400 frames of clean-1 were not judged" in faults
    assert "clean-2 sent 0 pictures of 2400" in faults
    with writing(stage.sessions) as session:
        judged(session, "clean-1", 1, 5.0, Mode.SAFE)
    assert {"2399 frames of clean-1 were not judged", "1 frames were judged by the wrong weights"} <= set(
        played(stage, "clean-hours").faults
    )
