"""A drill is a file that is checked before anything is harmed; what it found is read from the records, never from promises."""

import threading
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from infra.db import Sessions, migrate, open_database, writing
from infra.settings import Settings
from infra.tables import Assignment, IncidentRow, JudgedFrame, QuarantinedFrame, TimelineRow
from responders.playbooks.playbooks import State, load
from streams import chaos
from streams.drill import cli, referee, scenario, scoreboard
from streams.drill.filming import Filmed
from streams.drill.referee import Notes, Outcome
from streams.drill.scenario import Expect, parse
from streams.drill.staging import Stage
from streams.errors import BadInput
from streams.events import Context, Kind, Mode
from streams.ledger import Ledger
from streams.sources.base import Shot
from tests.frames import a_frame

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
DIGESTS = {Mode.NORMAL: "a" * 64, Mode.SAFE: "b" * 64}
FGSM = files("streams").joinpath("drill", "scenarios", "01-evasion-fgsm.toml").read_text(encoding="utf-8")
DEAD = files("streams").joinpath("drill", "scenarios", "26-dead-worker.toml").read_text(encoding="utf-8")


def test_every_attack_of_the_chaos_producer_has_a_drill() -> None:
    played = {part for one in scenario.load().values() for step in one.method if step.attack for part in step.attack.split("+")}
    assert played == set(chaos.ATTACKS)


def test_every_packaged_scenario_holds_and_there_are_at_least_fifteen() -> None:
    known = scenario.load()
    assert len(known) >= 15
    assert {"storm", "false-positive", "dead-worker", "tampered-model", "drift-recovers", "poison"} <= set(known)
    assert {one.security for one in known.values()} == {True, False}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('do = "attack"', 'do = "atack"', "atack"),
        ('attack = "fgsm"\n', "", r"method\[0\].attack: missing for attack"),
        ("for_s = 8", 'for_s = 8\nprocess = "infer"', r"method\[0\].process: not for attack"),
        ('incidents = ["evasion"]', 'incidents = ["evason"]', "evason"),
        ('end = "closed"', 'end = "over"', "over"),
        ('name = "evasion-fgsm"', 'name = "Evasion"', "name"),
        ("within_s = 90", "withn_s = 90", "withn_s"),
        ("within_s = 90", "within_s = 1 2", "line"),
    ],
)
def test_a_scenario_that_does_not_hold_is_refused_by_file_and_key(old: str, new: str, says: str) -> None:
    assert old in FGSM
    with pytest.raises(BadInput, match=rf"(?s)x\.toml.*{says}"):
        parse(FGSM.replace(old, new, 1), "x.toml")


def test_what_a_method_stops_must_be_resumed_somewhere() -> None:
    with pytest.raises(BadInput, match="infer is stopped and nothing resumes it"):
        parse(DEAD.replace('do = "resume"', 'do = "kill"'), "x.toml")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    settings = Settings(home=tmp_path)
    migrate(settings)
    sessions = open_database(settings)
    cameras = {
        context: Filmed(name, context, settings, tmp_path / f"{name}.jsonl", seed=1)
        for context, name in ((Context.URBAN, "gate"), (Context.HIGHWAY, "bridge"))
    }
    with writing(sessions) as session:
        for context in Context:
            session.add(
                Assignment(
                    context=context, normal_digest="a" * 64, safe_digest="b" * 64, asked_mode=Mode.NORMAL, decision_id=context,
                    asked_at=NOON, changes=0,
                )
            )  # fmt: skip
    return Stage(settings, sessions, cameras, DIGESTS, lambda _line: None)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def judged(session: Session, camera: str, number: int, seconds: float, mode: Mode = Mode.NORMAL) -> None:
    context = Context.URBAN if camera == "gate" else Context.HIGHWAY
    session.add(
        JudgedFrame(
            frame_id=f"{camera}-{number}", camera_id=camera, context=context, epoch=1, sequence=number,
            weights_digest=DIGESTS[mode], mode=mode, decision_id="d", frame_partition=0, frame_offset=number,
            camera_time=at(seconds - 0.3), judged_time=at(seconds), people=1, inconsistency=None,
        )
    )  # fmt: skip


def incident(session: Session, camera: str = "gate", kind: Kind = Kind.EVASION, state: State = State.CLOSED) -> None:
    session.add(
        IncidentRow(
            id=f"{camera}-{kind}", kind=kind, camera_id=camera, context=Context.URBAN, state=state, severity="high",
            needs_safe=False, escalated="", resolution=None, signals=1, opened_at=at(1.1),
            impact_at=None, detected_at=at(1.0), acknowledged_at=None,
            contained_at=at(2.0), recovered_at=at(12.0), closed_at=at(12.0), body=b"{}",
        )
    )  # fmt: skip
    session.flush()
    for number, (action, seconds) in enumerate(
        (
            ("open", 1.0),
            ("quarantine", 1.0),
            ("serve", 1.1),
            ("contained", 2.0),
            ("serve", 10.0),
            ("restored", 12.0),
            ("closed", 12.0),
        )
    ):
        session.add(
            TimelineRow(
                incident_id=f"{camera}-{kind}", decision_id=f"{camera}-{kind}-{number}", time=at(seconds), state=state,
                actor="responder", action=action, what=action, cause_id="c",
            )
        )  # fmt: skip


def attacked(stage: Stage, seconds: float, frames: int) -> None:
    """The gate's ledger: so many attacked frames, three a second, from then on."""
    with Ledger(stage.cameras[Context.URBAN].ledger) as ledger:
        for number in range(frames):
            frame = a_frame(b"", id=f"gate-{number}", epoch=1, sequence=number, time=at(seconds + number / 3))
            ledger.sending(number, frame, "fgsm", Shot("s", 0.0, np.zeros((1, 1, 3), np.uint8), None))


def kept(session: Session, camera: str, number: int) -> None:
    session.add(
        QuarantinedFrame(
            frame_id=f"{camera}-{number}", incident_id="i", decision_id="d", camera_id=camera, epoch=1, sequence=number, path="p",
            sealed_sha256="0" * 64, reason="r", sealed_at=NOON,
        )
    )  # fmt: skip


def a_round(stage: Stage, **changes: object) -> Outcome:
    """The FGSM scenario's outcome from what the records hold; the stack is steady again afterwards."""
    known = parse(FGSM, "x.toml")
    return referee.judge(msgspec.structs.replace(known, **changes), stage, Notes(1, at(0.0), at(-30.0)), [])


def a_good_one(stage: Stage) -> None:
    """Two attacked frames, found after a second, contained after two, set aside, everything judged as asked."""
    attacked(stage, 0.5, 2)
    with writing(stage.sessions) as session:
        for number in range(2):
            judged(session, "gate", number, 0.9 + number / 3)
            kept(session, "gate", number)
        judged(session, "gate", 9, 5.0, Mode.SAFE)
        judged(session, "bridge", 1, 1.0)
        incident(session)


def test_a_round_in_which_all_came_as_expected_passes_with_its_clocks(stage: Stage) -> None:
    a_good_one(stage)
    made = a_round(stage)
    assert (made.faults, made.passed) == ((), True)
    assert (made.seconds_to_detect, made.seconds_to_contain) == (0.5, 1.5)
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


def outcome(name: str, number: int, detect: float | None, *faults: str) -> Outcome:
    return Outcome(name, number, not faults, faults, kinds=("evasion",), seconds_to_detect=detect, seconds_to_contain=detect)


def test_the_scoreboard_counts_rounds_percentiles_and_each_fault_once() -> None:
    known = (parse(FGSM, "x.toml"), parse(DEAD, "y.toml"))
    rounds = [outcome("evasion-fgsm", n, float(n)) for n in range(1, 5)] + [outcome("dead-worker", 5, 99.0, "late", "late")]
    made = scoreboard.board(known, rounds, command="c", machine="m", date="d")
    assert (made.rounds, made.rounds_passed, made.passed) == (5, 4, False)
    assert (made.seconds_to_detect.p50, made.seconds_to_detect.rounds) == (2.5, 4)  # the dead worker declares no limit
    assert [(line.name, line.passed, line.faults) for line in made.scenarios] == [
        ("evasion-fgsm", True, ()),
        ("dead-worker", False, ("late",)),
    ]
    assert scoreboard.as_json(made)["scenarios"][1]["rounds"] == 1  # type: ignore[index]


def test_a_tampered_byte_is_put_back(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "registry" / ("b" * 64) / "weights.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(range(100)))
    stage.tamper(Mode.SAFE)
    assert path.read_bytes() != bytes(range(100))
    stage.restore()
    assert path.read_bytes() == bytes(range(100))


def test_a_camera_is_relieved_after_two_attacks_by_one_that_has_warmed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    monkeypatch.setattr(Filmed, "start", lambda self: setattr(self, "shown", 1000))
    monkeypatch.setattr(Filmed, "stop", lambda self: ended.append(self.camera_id))
    settings = Settings(home=tmp_path)
    cameras = {Context.URBAN: Filmed("gate", Context.URBAN, settings, tmp_path / "gate.jsonl", seed=11)}
    stage = Stage(settings, cast("Sessions", None), cameras, {}, lambda _: None)
    at_work = []
    for _ in range(7):
        cli._relieve(stage, Context.URBAN, threading.Event(), lambda _: None)
        at_work.append(stage.cameras[Context.URBAN].camera_id)
    assert at_work == ["gate"] * 2 + ["gate-2"] * 2 + ["gate-3"] * 2 + ["gate-4"]
    assert ended == ["gate", "gate-2", "gate-3"]
    assert load()[Kind.EVASION].max_relapses >= cli._ROUNDS_EACH, "or the last round would be held in safe mode"
    assert stage.cameras[Context.URBAN].seed != 11
