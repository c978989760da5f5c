"""`kerbwatch drill`: scored scenarios on a real stack of their own.

It decides in which order scenarios are played, and what is said meanwhile; how a round goes is in `rounds.py`. It starts a stack in
a home that is the drill's to clear, and stops it. No topic feeds it.

Source: paper 4.7 (the response plan is exercised); Principles of Chaos Engineering.
"""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table

from inference.measure.artefacts import machine
from infra.db import open_database
from infra.settings import Settings, read_settings
from streams import stack
from streams.demo.story import demo_home, interrupts, wait_until_served
from streams.drill import rounds, scoreboard
from streams.drill.filming import Filmed
from streams.drill.referee import Outcome
from streams.drill.scenario import Scenario, load
from streams.drill.staging import Stage
from streams.errors import BadInput
from streams.events import Context, Mode

_CAMERAS = {Context.URBAN: "gate", Context.HIGHWAY: "bridge"}
_WARM = 110  # pictures that both cameras have shown before the first round: input scores have a usual level by then
_LOOK_S = 0.5
_ROUNDS_EACH = 2
"""Rounds with an attack that one camera takes part in: the third within its playbook's time would rightly be held in safe mode."""


def drill(
    scenario: Annotated[
        list[str] | None,
        typer.Option("--scenario", help="Only this one; may be given more than once."),
    ] = None,
    rounds_: Annotated[int | None, typer.Option("--rounds", min=1, help="How many in all; one a scenario if not given.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Say which scenarios there are, and play none.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write the scoreboard to this file too (JSON).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Play scored scenarios on a stack of their own. Example: `kerbwatch drill --scenario evasion-fgsm --rounds 3`."""
    known = load()
    if listed:
        _list(list(known.values()), as_json=as_json)
        return
    unknown = [name for name in scenario or () if name not in known]
    if unknown:
        raise BadInput(f"no scenario {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = [known[name] for name in scenario] if scenario else [one for one in known.values() if not one.long]
    if out is not None:
        _try(out)
    console = Console(stderr=True)
    made: list[Outcome] = []
    words = "".join(f" --scenario {name}" for name in scenario or ())

    def counted() -> scoreboard.Board:
        return scoreboard.board(
            chosen,
            made,
            command=f"kerbwatch drill{words}{f' --rounds {rounds_}' if rounds_ else ''}",
            machine=machine(),
            date=f"{datetime.now(UTC):%Y-%m-%d}",
        )

    def keep(outcome: Outcome) -> None:
        made.append(outcome)
        if out is not None:  # after each round: what was played is not lost to what comes later
            _write(out, counted(), console)

    with interrupts() as stop, ExitStack() as left:
        settings = left.enter_context(demo_home(read_settings(), console))
        left.callback(stack.stop, settings)
        play(settings, chosen, rounds_ or len(chosen), stop, console, keep)
    if stop.is_set() and not made:
        raise typer.Exit(130)
    board = counted()
    _tell(board, as_json=as_json)
    if stop.is_set() or not board.passed:
        raise typer.Exit(130 if stop.is_set() else 1)


def _tell(board: scoreboard.Board, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(scoreboard.as_json(board), indent=2))
        return
    Console().print(scoreboard.as_table(board))
    for line in scoreboard.in_words(board):
        Console().print(f"  {line}", highlight=False)


def _try(out: Path) -> None:
    """Raises BadInput where the board could not be written, before hours are spent on it; what is there stays as it is."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        there = out.exists()
        out.open("ab").close()
        if not there:  # an empty board would be none
            out.unlink()
    except OSError as error:
        raise BadInput(f"{out} cannot be written: {error.strerror}; give another file (--out)") from error


def _write(out: Path, board: scoreboard.Board, console: Console) -> None:
    try:
        out.write_text(json.dumps(scoreboard.as_json(board), indent=2) + "\n", encoding="utf-8")
    except OSError as error:  # the drill goes on: the board is printed at its end
        console.print(f"[red]{out} cannot be written[/]: {error.strerror}")


def play(
    settings: Settings,
    chosen: Sequence[Scenario],
    number: int,
    stop: threading.Event,
    console: Console,
    keep: Callable[[Outcome], None],
) -> None:
    """So many rounds of these scenarios in turn, on a stack that is started for them; each outcome goes to `keep` at once.

    A fault of a round is its outcome, and the next one is played. Raises Unavailable if the stack does not start.
    """
    weights = stack.start(settings, datetime.now(UTC), lambda step: console.print(f"[dim]setting up:[/] {step}"))
    wait_until_served(settings, stop)
    with _stage(settings, weights, stop, console) as stage:
        over_since = datetime.now(UTC)
        for turn, scenario in enumerate(islice(chain.from_iterable(repeat(chosen)), number), 1):
            began = datetime.now(UTC)
            with console.status("") as status:
                say = partial(_show, status, f"round {turn} of {number}")
                made: Outcome | None
                try:
                    if scenario.security:
                        _relieve(stage, scenario.context, stop, say)
                    made = rounds.play(stage, scenario, turn, over_since, stop, say)
                except Exception as error:  # noqa: BLE001 - the rounds that were played are not lost to what ended this one
                    made = rounds.failed(scenario, turn, began, [f"the round broke off: {rounds.words(error)}"])
            over_since = datetime.now(UTC)
            if made is None or stop.is_set():
                return
            keep(made)
            mark = "[green]passed[/]" if made.passed else "[red]failed[/]"
            console.print(f"round {turn} of {number}: {mark} {scenario.name} ({made.took_s:g} s) {'; '.join(made.faults)}")


@contextmanager
def _stage(settings: Settings, weights: stack.Weights, stop: threading.Event, console: Console) -> Iterator[Stage]:
    """Both cameras at work, warm; ended, and everything mended, when the block is left."""
    folder = settings.home.resolve() / "cameras"
    cameras = {
        context: Filmed(name, context, settings, folder / f"{name}.jsonl", seed=11 + place)
        for place, (context, name) in enumerate(_CAMERAS.items())
    }
    digests = {Mode.NORMAL: weights.normal, Mode.SAFE: weights.safe}
    stage = Stage(settings, open_database(settings), cameras, digests, lambda line: console.print(f"[dim]{line}[/]"), stop)
    try:
        for camera in cameras.values():
            camera.start()
        with console.status("both cameras warm up"):
            while any(camera.shown < _WARM for camera in cameras.values()) and not stop.wait(_LOOK_S):
                for camera in cameras.values():
                    camera.must_play()
        yield stage
    finally:
        stage.end()


def _relieve(stage: Stage, context: Context, stop: threading.Event, say: Callable[[str], None]) -> None:
    """Count a round against the context's camera; another takes its place after so many.

    Alarms of one camera that begin anew and anew are a finding of their own (`chaff`), and in fifty rounds they would be.
    """
    camera = stage.cameras[context]
    camera.rounds += 1
    if camera.rounds <= _ROUNDS_EACH:
        return
    name, _, number = camera.camera_id.partition("-")
    other = f"{name}-{int(number or 1) + 1}"
    place = camera.ledger.with_name(f"{other}.jsonl")
    fresh = Filmed(other, context, stage.settings, place, seed=camera.seed + len(_CAMERAS), rounds=1)
    fresh.start()
    while fresh.shown < _WARM and not stop.wait(_LOOK_S):
        say(f"{other} takes the place of {camera.camera_id} and warms up, {_WARM - fresh.shown} pictures left")
        fresh.must_play()
    camera.stop()
    stage.cameras[context] = fresh


def _show(status: Status, turn: str, line: str) -> None:
    status.update(f"{turn}: {line}")


def _list(scenarios: Sequence[Scenario], *, as_json: bool) -> None:
    if as_json:
        keys = ("name", "title", "hypothesis", "techniques", "long")
        timed = [one.expect.answers_within_s is not None for one in scenarios]
        known = [{key: getattr(one, key) for key in keys} | {"timed": by} for one, by in zip(scenarios, timed, strict=True)]
        typer.echo(json.dumps(known))
        return
    table = Table("scenario", "what is done", "ATLAS", title=f"{len(scenarios)} scenarios", title_justify="left")
    for one in scenarios:
        table.add_row(one.name, one.title, " ".join(one.techniques))
    Console().print(table)
