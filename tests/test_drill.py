"""A drill is a file that is checked before anything is harmed; its hands do what the file says, and its rounds are counted."""

import threading
import time
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import cast

import pytest
from drill_records import FGSM, a_stage, incident

from infra.db import Sessions, writing
from infra.settings import Settings
from infra.tables import IncidentRow
from responders.playbooks.playbooks import State, load
from streams import chaos
from streams.drill import cli, prepared, scenario, scoreboard, staging
from streams.drill.filming import Filmed
from streams.drill.referee import Outcome
from streams.drill.scenario import Step, parse
from streams.drill.staging import Stage
from streams.errors import BadInput, Unavailable
from streams.events import Context, Kind, Mode
from streams.sources.base import Picture

DEAD = files("streams").joinpath("drill", "scenarios", "26-dead-worker.toml").read_text(encoding="utf-8")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return a_stage(tmp_path)


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


def test_the_scoreboard_says_how_fast_every_round_was_beside_those_with_a_limit() -> None:
    known = (parse(FGSM, "x.toml"), parse(DEAD, "y.toml"))
    rounds = [outcome("evasion-fgsm", 1, 1.0), outcome("dead-worker", 2, 9.0), outcome("dead-worker", 3, None)]
    made = scoreboard.as_json(scoreboard.board(known, rounds, command="c", machine="m", date="d"))
    assert made["seconds_to_detect"] == {"p50": 1.0, "p95": 1.0, "rounds": 1}
    assert made["seconds_to_detect_all"] == {"p50": 5.0, "p95": 8.6, "rounds": 2}
    assert made["seconds_to_contain_all"] == made["seconds_to_detect_all"]


def test_a_scenario_that_is_named_twice_has_one_line() -> None:
    known = parse(FGSM, "x.toml")
    rounds = [outcome("evasion-fgsm", n, 1.0) for n in (1, 2)]
    made = scoreboard.board([known, known], rounds, command="c", machine="m", date="d")
    assert [(line.name, line.rounds) for line in made.scenarios] == [("evasion-fgsm", 2)]


def test_a_drill_without_a_round_has_not_passed() -> None:
    assert not scoreboard.board([], [], command="c", machine="m", date="d").passed


CHAFF = files("streams").joinpath("drill", "scenarios", "43-chaff.toml").read_text(encoding="utf-8")


def test_the_hands_wait_for_and_close_what_the_scenario_is_about_not_the_newest(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[list[str]] = []
    monkeypatch.setattr(staging, "command", lambda words, _settings: said.append(list(words)))
    chaff = parse(CHAFF, "x.toml")
    _, wait, close = chaff.method
    with writing(stage.sessions) as session:
        incident(session, kind=Kind.DRIFT, state=State.OPEN)
    with pytest.raises(Unavailable, match=r"gate \(traffic\) has no open incident"):
        stage.do(close, chaff)
    with pytest.raises(Unavailable, match=r"gate \(traffic\) came to open"):
        stage.wait("gate", {Kind.TRAFFIC}, State.OPEN, limit_s=0.0)
    with writing(stage.sessions) as session:
        incident(session, kind=Kind.TRAFFIC, state=State.OPEN)
        session.get_one(IncidentRow, "gate-traffic").opened_at -= timedelta(seconds=60)
    stage.do(wait, chaff)
    stage.do(close, chaff)
    stage.do(Step(do=close.do, resolution=close.resolution, kind=Kind.DRIFT), chaff)
    assert [words[2] for words in said] == ["gate-traffic", "gate-drift"]


def test_clean_hours_and_pictures_in_the_making_end_when_the_drill_does(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Filmed, "start", lambda _: None)
    threading.Timer(0.2, stage.stop.set).start()
    began = time.monotonic()
    with pytest.raises(Unavailable, match="ended by hand"):
        stage.clean(6, 1200.0)
    assert time.monotonic() - began < 5.0
    monkeypatch.setattr(chaos, "attack", lambda *_: Nothing())
    with pytest.raises(Unavailable, match="ended by hand"):
        prepared.prepare(stage.cameras[Context.URBAN], ["pgd"], 3, cast("chaos.Means", None), stage.meanwhile)


class Nothing:
    """An attack that changes nothing."""

    lossless = False

    def on_picture(self, picture: Picture, *_: object) -> Picture:
        return picture


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
