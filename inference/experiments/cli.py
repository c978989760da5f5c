"""The commands `kerbwatch experiments ...`: the paper's Table 6, Figures 4 to 7 and section 6, on the data at hand.

It decides where results go and what is said meanwhile; what is trained and measured is in `paper`, how in `grid`. No
topic.
"""

import json
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from msgspec.structs import replace
from rich.console import Console
from rich.progress import Progress

from inference.experiments import figures, paper, report
from inference.experiments.data import HERE, Data, citypersons, here
from inference.experiments.grid import BUDGETS, Cell, Grid, Starts
from inference.experiments.overheads import EFFORTS, measure
from inference.experiments.overheads_report import write as write_overheads
from inference.measure.artefacts import machine
from inference.provenance.registry import SHIPPED, digest_of
from infra.settings import read_settings
from streams.errors import BadInput, KerbwatchError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="The paper's experiments, resumable."
)

_Data = Annotated[str, typer.Option("--data", help=f"{HERE}, or citypersons:FOLDER.")]
_Seeds = Annotated[int, typer.Option(min=1, help="How many seeds, counted from 1; intervals are over them.")]
_Budget = Annotated[str, typer.Option(help=f"One of {', '.join(BUDGETS)}.")]
_Out = Annotated[Path | None, typer.Option(help="Folder for results; default: experiments/results in the home.")]
_Threads = Annotated[int, typer.Option(help="CPU threads.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class _Session:
    """One command: its grid, and what it says on the way."""

    def __init__(self, name: str, data: str, seeds: int, budget: str, out: Path | None, threads: int) -> None:
        if budget not in BUDGETS:
            raise BadInput(f"no budget {budget!r}; there are {', '.join(BUDGETS)}")
        self.console = Console(stderr=True)
        settings = read_settings()
        self.budget = BUDGETS[budget]
        with self.console.status("drawing streets, reading photographs"):
            self.data = _data(data, settings.shared_data, self.budget.tests)
        self.seeds = tuple(range(1, seeds + 1))
        self.out = out or settings.home / "experiments" / "results"
        self.command = f"kerbwatch experiments {name} --data {data} --seeds {seeds} --budget {budget}"
        self._said = ""
        folder = settings.home / "experiments" / self.data.name.replace(":", "-")
        starts = Starts(*((SHIPPED / f"{name}.safetensors").read_bytes() for name in ("csp-nano", "csp-nano-safe")))
        self.starts = {"plain": digest_of(starts.plain), "hardened": digest_of(starts.hardened)}
        self.grid = Grid(folder, self.data, starts, self.budget, threads=threads, say=self._say, device=settings.device)

    def _say(self, line: str) -> None:
        """One line on a terminal, over itself; in a log, whenever something else begins."""
        began = line.split(":", maxsplit=1)[0]
        if self.console.is_terminal:
            self.console.print(f"\r{line[: self.console.width - 2]:<{self.console.width - 2}}", end="", highlight=False)
        elif began != self._said:
            self.console.print(line, highlight=False)
        self._said = began


def _command(name: str, about: str, work: Callable[["_Session"], list[Path]], seeds: int) -> None:
    """Register one experiment; all of them take the same options."""

    def command(
        data: _Data = HERE,
        seeds: _Seeds = seeds,
        budget: _Budget = "quick",
        out: _Out = None,
        threads: _Threads = 2,
        as_json: _Json = False,
    ) -> None:
        try:
            session = _Session(name, data, seeds, budget, out, threads)
            paths = work(session)
        except KerbwatchError as error:
            typer.secho(f"kerbwatch: {error}", err=True, fg=typer.colors.RED)
            raise typer.Exit(error.exit_code) from error
        if as_json:
            sys.stdout.buffer.write(paths[0].read_bytes())
        session.console.print("\n" + "\n".join(str(path) for path in paths), highlight=False)

    command.__doc__ = f"{about}\n\nExample: kerbwatch experiments {name} --seeds {seeds} --budget quick"
    app.command(name)(command)


def _table6(session: _Session) -> list[Path]:
    rows = [
        report.Measured(subset=subset, attack=attack, strategy=strategy, seed=seed, miss_rate=row.log_average_miss_rate)
        for seed in session.seeds
        for attack, strategy, cell, done in paper.table6(seed)
        for subset, row in session.grid.measured(cell, done).items()
    ]
    training = {name: session.grid.settings(Cell(defences=one, gamma=0.0, seed=1)) for name, one in paper.STRATEGIES.items()}
    settings = {
        "data": session.data.name,
        "starts": session.starts,
        "budget": session.budget,
        "attacks": paper.ATTACKS,
        "training": training,
    }
    return report.write(report.table6(rows, settings=settings, command=session.command, machine=machine()), session.out)


def _figure(name: str, plan: Callable[[int], Iterable[paper.Point]]) -> Callable[[_Session], list[Path]]:
    def work(session: _Session) -> list[Path]:
        points = []
        for seed in session.seeds:
            for point in plan(seed):
                rows = session.grid.measured(point.cell, point.attack)
                rates = {subset: row.log_average_miss_rate for subset, row in rows.items()}
                points.append(figures.Measured(panel=point.panel, line=point.line, x=point.x, seed=seed, miss_rate=rates))
        return _written(name, session, points)

    return work


def _figure7(session: _Session) -> list[Path]:
    points = []
    for seed in session.seeds:
        for line, cell in paper.figure7(seed):
            curve = (session.grid.trained(cell) / "curves.jsonl").read_text(encoding="utf-8").splitlines()
            judged = [rate for row in curve if (rate := json.loads(row).get("validation")) is not None]
            points += [
                figures.Measured(panel="validation", line=line, x=epoch, seed=seed, miss_rate={"all": rate})
                for epoch, rate in enumerate(judged, 1)
            ]
    return _written("figure7", session, points)


def _written(name: str, session: _Session, points: Iterable[figures.Measured]) -> list[Path]:
    figure = figures.Figure(
        name=name,
        command=session.command,
        machine=machine(),
        data=session.data.name,
        budget=session.budget,
        seeds=session.seeds,
        points=tuple(points),
    )
    return figures.write(figure, session.out)


def _data(name: str, shared_data: Path, tests: int) -> Data:
    if name == HERE:
        return here(shared_data, tests)
    kind, _, folder = name.partition(":")
    if kind != "citypersons" or not folder:
        raise BadInput(f"no data {name!r}; use {HERE}, or citypersons:FOLDER with leftImg8bit and annotations in it")
    return citypersons(Path(folder), tests)


_command("table6", "Table 6: all attacks on all subsets; undefended, each defence alone, and all together.", _table6, 3)
_command("radii", "Beside Table 6: DeepFool by how far it may go.", _figure("radii", paper.radii), 1)
_command("figure4", "Figure 4: each defence against attacks of rising strength.", _figure("figure4", paper.figure4), 1)
_command("figure5", "Figure 5: each defence against combined attacks of rising strength.", _figure("figure5", paper.figure5), 1)
_command("figure6", "Figure 6: strength of adversarial training against strength of attack.", _figure("figure6", paper.figure6), 1)
_command("figure7", "Figure 7: how much longer a defended model takes to converge, and to what.", _figure7, 1)


@app.command()
def overheads(
    budget: Annotated[str, typer.Option(help=f"One of {', '.join(EFFORTS)}.")] = "full",
    out: _Out = None,
    as_json: _Json = False,
) -> None:
    """What protection costs: time, memory, processor, quantised models; some minutes.

    Example: kerbwatch experiments overheads --budget quick
    """
    console = Console(stderr=True)
    try:
        if budget not in EFFORTS:
            raise BadInput(f"no budget {budget!r}; there are {', '.join(EFFORTS)}")
        settings = read_settings()
        with TemporaryDirectory(prefix="kwb") as folder, Progress(console=console, transient=True) as progress:
            task = progress.add_task("beginning", total=None)

            def say(what: str, done: int, total: int) -> None:
                progress.update(task, description=what, completed=done, total=total or None)

            found = measure(
                replace(settings, home=Path(folder)), EFFORTS[budget], now=lambda: datetime.now(UTC), say=say,
                command=f"kerbwatch experiments overheads --budget {budget}", machine=machine(),
            )  # fmt: skip
        paths = write_overheads(found, out or settings.home / "experiments" / "results")
    except KerbwatchError as error:
        typer.secho(f"kerbwatch: {error}", err=True, fg=typer.colors.RED)
        raise typer.Exit(error.exit_code) from error
    if as_json:
        sys.stdout.buffer.write(paths[0].read_bytes())
    console.print("\n".join(str(path) for path in paths), highlight=False)
