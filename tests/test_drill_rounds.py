"""A round fails for what was not steady, came late or was not undone; whatever breaks is its outcome, and no round is lost."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import cast

import pytest
from drill_records import FGSM, NOON, a_stage
from msgspec.structs import replace
from rich.console import Console
from typer.testing import CliRunner

from infra.settings import Settings
from streams import stack
from streams.attacks import Chaff
from streams.command_line import app
from streams.drill import cli, referee, rounds, scoreboard
from streams.drill.filming import Filmed
from streams.drill.referee import Notes, Outcome
from streams.drill.scenario import Do, Scenario, Step, parse
from streams.drill.staging import Stage
from streams.errors import BadInput, Unavailable
from streams.events import Context

MEND, MEND_MORE = Step(do=Do.CALM), Step(do=Do.RESTORE)


@dataclass
class World:
    """What the referee sees, in its place: what is not steady by time, whether what is expected has come, what broke."""

    unsteady: Callable[[Sequence[Filmed]], list[str]] = lambda _cameras: []
    expected: Callable[[], bool] = lambda: True
    opened: list[str] = field(default_factory=list)
    judged: list[tuple[Notes, list[str]]] = field(default_factory=list)
    judge_breaks: Exception | None = None

    def judge(self, scenario: Scenario, _stage: Stage, notes: Notes, after: Sequence[str]) -> Outcome:
        if self.judge_breaks is not None:
            raise self.judge_breaks
        self.judged.append((notes, list(after)))
        return Outcome(scenario.name, notes.round, passed=not after, faults=tuple(after))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    seen = World()
    monkeypatch.setattr(referee, "unsteady", lambda _stage, cameras, _now: seen.unsteady(cameras))
    monkeypatch.setattr(referee, "left_open", lambda *_: list(seen.opened))
    monkeypatch.setattr(referee, "since", lambda *_: [])
    monkeypatch.setattr(referee, "expected", lambda *_: seen.expected())
    monkeypatch.setattr(referee, "judge", seen.judge)
    for name, value in (("_LOOK_S", 0.01), ("_SETTLE_S", 0.3), ("_STILL_S", 0.05)):
        monkeypatch.setattr(rounds, name, value)
    return seen


@dataclass
class Hands:
    """A stage's hands: what they did, and what each step raises or how long it takes."""

    done: list[Do] = field(default_factory=list)
    raises: dict[Do, Exception] = field(default_factory=dict)
    takes_s: float = 0.0

    def do(self, step: Step, _scenario: Scenario) -> None:
        self.done.append(step.do)
        time.sleep(self.takes_s)
        if step.do in self.raises:
            raise self.raises[step.do]


@pytest.fixture
def hands(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Hands:
    ours = Hands()
    monkeypatch.setattr(stage, "do", ours.do)
    return ours


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return a_stage(tmp_path)


def a_scenario(**changes: object) -> Scenario:
    known = parse(FGSM, "x.toml")
    expect = replace(known.expect, within_s=0.1)
    return replace(known, **{"expect": expect, "watch_s": 0.0, "undo": (MEND, MEND_MORE), **changes})


def play(stage: Stage, scenario: Scenario | None = None, stop: threading.Event | None = None) -> Outcome | None:
    return rounds.play(stage, scenario or a_scenario(), 7, NOON, stop or threading.Event(), lambda _line: None)


def test_a_round_does_the_method_and_the_undo_and_is_judged(stage: Stage, hands: Hands, world: World) -> None:
    assert play(stage) == Outcome("evasion-fgsm", 7, passed=True, faults=())
    assert hands.done == [Do.ATTACK, Do.CALM, Do.RESTORE]
    assert world.judged[0][0].over_since == NOON


def test_nothing_is_harmed_where_all_is_not_steady_before(stage: Stage, hands: Hands, world: World) -> None:
    world.unsteady = lambda cameras: ["bridge is not judged"] if len(cameras) > 1 else []
    made = play(stage)
    assert made is not None
    assert (made.passed, made.faults) == (False, ("not steady before: bridge is not judged",))
    assert hands.done == []


def test_what_is_still_open_before_or_after_is_not_steady(stage: Stage, hands: Hands, world: World) -> None:
    world.opened = ["storm-1 has an open incident (traffic)"]
    made = play(stage)
    assert made is not None
    assert made.faults == ("not steady before: storm-1 has an open incident (traffic)",)
    world.opened = []

    def opens() -> bool:
        world.opened = ["storm-1 has an open incident (traffic)"]
        return True

    world.expected = opens
    made = play(stage)
    assert made is not None
    assert made.faults == ("not undone: storm-1 has an open incident (traffic)",)
    assert hands.done == [Do.ATTACK, Do.CALM, Do.RESTORE]


def test_a_calm_that_does_not_last_is_none(stage: Stage, hands: Hands, world: World) -> None:
    flickers: Iterator[bool] = (bool(n % 3) for n in range(10_000))
    world.unsteady = lambda cameras: [] if len(cameras) == 1 or next(flickers) else ["gate is not judged"]
    made = play(stage)
    assert made is not None
    assert not made.passed
    assert made.faults[0].startswith("not steady before: ")
    assert hands.done == []


def test_what_comes_too_late_fails_the_round_and_is_undone(stage: Stage, hands: Hands, world: World) -> None:
    world.expected = lambda: False
    made = play(stage)
    assert made is not None
    assert made.faults == ("what was expected had not come after 0.1 s",)
    assert hands.done == [Do.ATTACK, Do.CALM, Do.RESTORE]


def test_what_is_expected_must_not_come_before_the_attack_is_over(stage: Stage, hands: Hands, world: World) -> None:
    stage.cameras[Context.URBAN].add(Chaff(), 0, 9)
    assert world.expected()
    made = play(stage)
    assert made is not None
    assert made.faults == ("what was expected had not come after 0.1 s",)
    assert hands.done[0] is Do.ATTACK


def test_a_failed_undo_fails_the_round_and_the_next_undo_is_done_all_the_same(stage: Stage, hands: Hands, world: World) -> None:
    hands.raises = {Do.CALM: Unavailable("no broker"), Do.RESTORE: OSError("no file")}
    made = play(stage)
    assert made is not None
    assert made.faults == ("undo failed: no broker", "undo failed: OSError: no file")
    assert hands.done == [Do.ATTACK, Do.CALM, Do.RESTORE]
    assert world.judged


@pytest.mark.parametrize("error", [Unavailable("no camera"), RuntimeError("no camera")])
def test_a_step_that_fails_is_a_fault_and_is_undone(stage: Stage, hands: Hands, world: World, error: Exception) -> None:
    hands.raises = {Do.ATTACK: error}
    made = play(stage)
    assert made is not None
    assert not made.passed
    assert "no camera" in made.faults[0]
    assert hands.done == [Do.ATTACK, Do.CALM, Do.RESTORE]
    assert world.judged


def test_a_round_that_cannot_be_judged_is_a_failed_one_with_all_that_went_wrong(stage: Stage, hands: Hands, world: World) -> None:
    hands.raises = {Do.CALM: Unavailable("no broker")}
    world.judge_breaks = Unavailable("no database")
    made = play(stage)
    assert made is not None
    assert made.faults == ("undo failed: no broker", "the round broke off: no database")


def test_a_dead_camera_ends_the_wait_for_its_baseline(stage: Stage, hands: Hands, world: World) -> None:
    camera = stage.cameras[Context.URBAN]
    threading.Timer(0.05, setattr, (camera, "failed", OSError("no space left"))).start()
    made = play(stage, a_scenario(learn_s=260.0))
    assert made is not None
    assert made.faults == ("the round broke off: camera gate ended: no space left",)
    assert (hands.done, world.judged) == ([], [])


def test_the_witness_is_watched_while_a_step_blocks_and_while_all_is_undone(stage: Stage, hands: Hands, world: World) -> None:
    hands.takes_s = 0.1
    world.unsteady = lambda cameras: [f"after {'+'.join(hands.done)}"] if len(cameras) == 1 else []
    play(stage)
    assert world.judged[0][0].disturbed >= {"after attack", "after attack+calm", "after attack+calm+restore"}


def test_a_witness_that_cannot_be_watched_is_disturbed(stage: Stage, hands: Hands, world: World) -> None:
    hands.takes_s = 0.05

    def broken(cameras: Sequence[Filmed]) -> list[str]:
        if len(cameras) == 1:
            raise Unavailable("no database")
        return []

    world.unsteady = broken
    play(stage)
    assert world.judged[0][0].disturbed == {"it could not be watched: no database"}


def test_a_drill_that_is_ended_has_no_outcome_of_the_round_at_hand(stage: Stage, hands: Hands, world: World) -> None:
    stop = threading.Event()

    def ends() -> bool:
        stop.set()
        return False

    world.expected = ends
    assert play(stage, stop=stop) is None
    assert world.judged == []
    assert hands.done == [Do.ATTACK]


def test_a_kill_is_written_down_with_its_time(stage: Stage, hands: Hands, world: World) -> None:
    play(stage, a_scenario(method=(Step(do=Do.KILL),)))
    notes = world.judged[0][0]
    assert len(notes.killed) == 1
    assert notes.began < notes.killed[0] < datetime.now(notes.began.tzinfo)
    assert hands.done[0] is Do.KILL


def test_the_cli_is_timed_until_the_storm_is_worked_off(
    stage: Stage, hands: Hands, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Sequence[str]] = []

    def slow_once(words: Sequence[str], _settings: Settings, *, apart: bool) -> str:
        assert apart
        said.append(words)
        time.sleep(0.2 if len(said) == 7 else 0.0)
        return "[]"

    monkeypatch.setattr(rounds, "command", slow_once)
    world.expected = lambda: len(said) >= 8
    expect = replace(a_scenario().expect, answers_within_s=1.0, within_s=5.0)
    play(stage, a_scenario(expect=expect))
    assert len(said) == 8
    assert world.judged[0][0].answered_s == pytest.approx(0.2, abs=0.1)
    assert hands.done[0] is Do.ATTACK


# -- the whole drill -------------------------------------------------------------------------------------------------


@pytest.fixture
def a_drill(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`kerbwatch drill` without its stack; the list tells what was started."""
    begun: list[str] = []

    @contextmanager
    def staged(*_: object) -> Iterator[Stage]:
        yield stage

    monkeypatch.setattr(stack, "start", lambda *_: begun.append("stack"))
    monkeypatch.setattr(stack, "stop", lambda *_: None)
    monkeypatch.setattr(cli, "wait_until_served", lambda *_: None)
    monkeypatch.setattr(cli, "demo_home", lambda *_: nullcontext(Settings(home=tmp_path)))
    monkeypatch.setattr(cli, "_stage", staged)
    monkeypatch.setattr(cli, "_relieve", lambda *_: None)
    return begun


def test_one_round_that_breaks_loses_no_board_and_no_later_round(
    a_drill: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards: list[int] = []
    out = tmp_path / "board.json"

    def played(_stage: Stage, one: Scenario, turn: int, *_: object) -> Outcome:
        boards.append(json.loads(out.read_text())["rounds"] if out.exists() else 0)
        if turn == 2:
            raise Unavailable("camera gate ended")
        return Outcome(one.name, turn, passed=True, faults=())

    monkeypatch.setattr(rounds, "play", played)
    made = CliRunner().invoke(app, ["drill", "--scenario", "evasion-fgsm", "--rounds", "3", "--out", str(out), "--json"])
    assert made.exit_code == 1
    board = json.loads(out.read_text())
    assert (board["rounds"], board["rounds_passed"], board["passed"]) == (3, 2, False)
    assert board["outcomes"][1]["faults"] == ["the round broke off: camera gate ended"]
    assert boards == [0, 1, 2], "what was played is written after each round"
    assert a_drill == ["stack"]


def test_a_board_that_could_not_be_written_is_refused_before_anything_is_played(a_drill: list[str], tmp_path: Path) -> None:
    (tmp_path / "no").write_text("a file, no folder")
    made = CliRunner().invoke(app, ["drill", "--scenario", "evasion-fgsm", "--out", str(tmp_path / "no" / "board.json")])
    assert isinstance(made.exception, BadInput)
    assert "board.json cannot be written" in str(made.exception)
    assert a_drill == []


def test_trying_the_file_makes_its_folder_and_leaves_what_is_there_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "new" / "board.json"
    cli._try(out)
    assert out.parent.is_dir()
    assert not out.exists()
    out.write_text("before")
    cli._try(out)
    assert out.read_text() == "before"


def test_a_disk_that_fills_during_a_drill_ends_no_drill(tmp_path: Path) -> None:
    said: list[str] = []
    console = cast("Console", type("Quiet", (), {"print": lambda _self, line: said.append(line)})())
    cli._write(tmp_path, scoreboard.board([], [], command="c", machine="m", date="d"), console)
    assert "cannot be written" in said[0]
