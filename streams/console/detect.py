"""`kerbwatch detect`: any detector of the catalogue over a column of a CSV file, for people's own recordings.

It decides what of a file is a reading, where the baseline ends, and how a detector goes on after an alarm; refuses cells that are
no number, and tells which. No detector is made here: parameters other than the asked-for run length come from the catalogue, or,
for `default`, from the spread of the baseline. No topic.

A detector learns from the first rows, where alarms do not count. After an alarm it starts again with what it had learned from
them: the rows since then may be of the change. So a change that stays is told again and again, a change back is none, and a false
alarm costs nothing but itself. Where a detector predicts from the last readings it keeps those (`rearm`).
"""

import csv
import difflib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from responders.console.tables import plain
from streams.camera import JsonOption
from streams.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from detectors.base import Detector

DEFAULT = "default"
MOST_BYTES = 512 * 1024 * 1024
_LEAST_TRAINING = 100
_MOST_TRAINING = 2_000
_ARL = 10_000
_SMALLEST = 1e-3  # of the baseline's spread: wobbles below it are rounding
_NAMED = 20
_TOLD = 30


@dataclass(frozen=True)
class Column:
    """A file's readings: row numbers from 0 without the heading, values, and the rows whose cell is no finite number."""

    rows: tuple[int, ...]
    values: tuple[float, ...]
    refused: tuple[int, ...]

    @property
    def length(self) -> int:
        """Rows in the file."""
        return len(self.rows) + len(self.refused)


@dataclass(frozen=True)
class Alarm:
    """The row at which it was raised, the row from which on the detector suspects it, and the kind of change if it tells."""

    row: int
    since: int
    leads: str


@dataclass(frozen=True)
class Found:
    """What a detector said of a column. `refused` names the first rows without a usable reading; `refusals` counts them all."""

    file: str
    column: str
    detector: str
    arl: int
    train_rows: int
    rows: int
    alarms: tuple[int, ...]
    findings: tuple[Alarm, ...]
    refusals: int
    refused: tuple[int, ...]


def read_column(path: Path, column: str) -> Column:
    """The column of a CSV file whose first line names its columns.

    Raises BadInput for a file that is not there, too large, no text or without that column; the nearest names are told.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadInput(f"{path} has more than {MOST_BYTES // 1024**2} MiB: cut it into parts")
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.reader(file)
            names = [name.strip() for name in next(table, [])]
            place = _place(path, names, column)
            numbers = [_number(row[place]) if place < len(row) else None for row in table if row]
    except OSError as error:
        raise BadInput(f"{path} is not readable: {error.strerror}; check path and permissions") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} is no CSV file in UTF-8: {error}") from error
    good = [(row, number) for row, number in enumerate(numbers) if number is not None]
    return Column(
        rows=tuple(row for row, _ in good),
        values=tuple(number for _, number in good),
        refused=tuple(row for row, number in enumerate(numbers) if number is None),
    )


def _place(path: Path, names: list[str], column: str) -> int:
    if column in names:
        return names.index(column)
    if not names:
        raise BadInput(f"{path} is empty: give a CSV file whose first line names its columns")
    near = difflib.get_close_matches(column, names, n=3, cutoff=0.4)
    which = f"did you mean {' or '.join(near)}" if near else f"it has {', '.join(names[:_NAMED])}"
    raise BadInput(f"{path} has no column {column!r}: {which}")


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def choose(name: str, arl: int | None, training: Sequence[float]) -> tuple["Detector", int]:
    """The detector of that name, and its declared run length in readings.

    Drift detectors learn from just as many readings as `training` has; `default` takes its unit from their spread.

    Raises BadInput for an unknown name, and for an `arl` where none can be set.
    """
    from detectors import catalogue  # noqa: PLC0415 - river takes a second to load, and `kerbwatch --help` needs none of it
    from detectors.drift.feature import Drift  # noqa: PLC0415 - same

    if name == DEFAULT:
        low, high = sorted(training)[len(training) // 10], sorted(training)[-len(training) // 10]
        spread = (high - low) or (max(training) - min(training)) or 1.0
        made: Detector = Drift(arl=arl or _ARL, block=1, learn=len(training), resolution=_SMALLEST * spread, limit=float("inf"))
        return made, arl or _ARL
    if name not in catalogue.ALL:
        near = difflib.get_close_matches(name, [DEFAULT, *catalogue.ALL], n=3, cutoff=0.4)
        told = f"did you mean {' or '.join(near)}" if near else f"there are {', '.join([DEFAULT, *catalogue.ALL])}"
        raise BadInput(f"no detector {name!r}: {told}")
    entry = catalogue.ALL[name]
    made = entry.detector
    can: dict[str, Any] = {field.name: None for field in fields(made)}  # type: ignore[arg-type] # detectors are dataclasses
    if arl is not None and "arl" not in can:
        raise BadInput(
            f"{name} has no run length to choose, it is made for {entry.arl} readings: leave out --arl, or use {DEFAULT}"
        )
    if "arl" in can:
        changed: Any = replace(made, arl=arl or entry.arl, learn=len(training))  # type: ignore[type-var] # same
        made = changed
    return made, arl or entry.arl


def follow(detector: "Detector", column: Column, training: int) -> Iterator[tuple[int, Alarm | None, bool]]:
    """The detector over all readings: for each its row, an alarm if one is raised there, and whether it was refused.

    The first `training` readings are its baseline: no alarm counts among them.
    """
    from detectors.base import Observation, Status  # noqa: PLC0415 - with the detectors

    rearm = getattr(detector, "rearm", None)
    state = learned = detector.start()
    for number, (row, value) in enumerate(zip(column.rows, column.values, strict=True)):
        # Sequences count readings, so that a stretch is told in readings; rows are what people see.
        state, verdict = detector.step(state, Observation(number, float(row), value))
        alarmed, alarm = verdict.status is Status.ALARM, None
        if number < training:
            learned = learned if alarmed else state
            state = learned if number == training - 1 else state
        elif alarmed:
            since = number if verdict.since_sequence is None else max(training, min(number, verdict.since_sequence))
            alarm = Alarm(row, column.rows[since], verdict.leads)
            state = rearm(learned, state) if rearm else learned
        yield row, alarm, verdict.status is Status.REFUSED


def detect(path: Path, column: str, name: str, arl: int | None, train_rows: int | None, *, quiet: bool) -> tuple[Found, Column]:
    """Runs a detector over a column of a file; `quiet` shows no progress. Raises BadInput for what does not hold."""
    readings = read_column(path, column)
    train_rows = train_rows or max(_LEAST_TRAINING, min(_MOST_TRAINING, readings.length // 5))
    training = sum(row < train_rows for row in readings.rows)
    if train_rows < _LEAST_TRAINING:
        raise BadInput(f"a baseline of {train_rows} rows says too little: give --train-rows {_LEAST_TRAINING} or more")
    if training < _LEAST_TRAINING or len(readings.rows) <= training:
        raise BadInput(
            f"{path} has {len(readings.rows)} usable rows in column {column!r}, {training} of them for the baseline: "
            f"it takes {_LEAST_TRAINING} for that, and more to judge"
        )
    detector, declared = choose(name, arl, readings.values[:training])
    steps = follow(detector, readings, training)
    if not quiet:
        steps = iter(
            track(steps, f"{name} over {plain(path.name)}", len(readings.rows), console=Console(stderr=True), transient=True)
        )
    findings, refused = [], list(readings.refused)
    for row, alarm, was_refused in steps:
        findings += [alarm] if alarm is not None else []
        refused += [row] if was_refused else []
    found = Found(
        file=str(path), column=column, detector=detector.name, arl=declared, train_rows=train_rows, rows=readings.length,
        alarms=tuple(alarm.row for alarm in findings), findings=tuple(findings),
        refusals=len(refused), refused=tuple(sorted(refused)[:_NAMED]),
    )  # fmt: skip
    return found, readings


def draw(found: Found, column: Column, path: Path) -> None:
    """The stream with its baseline and its alarms, as the picture that `path`'s ending names. Raises BadInput if it cannot be."""
    import matplotlib as mpl  # noqa: PLC0415 - it takes a second to load

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    figure, axes = plt.subplots(figsize=(12, 4))
    axes.plot(column.rows, column.values, linewidth=0.6, color="C0")
    axes.axvspan(0, found.train_rows, color="grey", alpha=0.15, label="baseline")
    for number, alarm in enumerate(found.findings):
        axes.axvspan(alarm.since, alarm.row, color="C1", alpha=0.25, label=None if number else "suspected since")
        axes.axvline(alarm.row, color="C3", linewidth=0.9, label=None if number else "alarm")
    axes.set(title=f"{Path(found.file).name}: {len(found.alarms)} alarms", xlabel="row", ylabel=found.column)
    axes.legend(fontsize=8, loc="upper left")
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=110)
    except ValueError as error:
        raise BadInput(f"cannot draw {path}: {error}") from error
    except OSError as error:
        raise Unavailable(f"cannot write {path}: {error.strerror}; check path and permissions") from error
    finally:
        plt.close(figure)


def detect_command(  # noqa: PLR0917 typer's way to declare options
    stream: Annotated[Path, typer.Argument(help="A CSV file whose first line names its columns.")],
    column: Annotated[str, typer.Option("--column", help="Which column holds the readings.")],
    detector: Annotated[str, typer.Option("--detector", help="A detector of the catalogue by name, or `default`.")] = DEFAULT,
    arl: Annotated[
        int | None,
        typer.Option("--arl", min=10, help="Mean readings between two false alarms, where the detector lets one choose."),
    ] = None,
    train_rows: Annotated[
        int | None,
        typer.Option("--train-rows", min=1, help="Rows to learn from; a fifth of the file, 2,000 at most, if not given."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the stream with its alarms into this file (.png, .svg, .pdf).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a detector over a recording. Example: `kerbwatch detect speed.csv --column value --arl 5000 --plot speed.png`.

    Learns from the first rows and prints the rows (from 0, without the heading) at which it alarmed; after an alarm it starts again
    with the same baseline. Ends with 0 if there was none, 1 if there were some, 2 if the file does not hold.
    """
    found, readings = detect(stream, column, detector, arl, train_rows, quiet=as_json)
    if plot is not None:
        draw(found, readings, plot)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        typer.echo(_words(found))
    if found.alarms:
        raise typer.Exit(1)


def _words(found: Found) -> str:
    lines = [f"{found.detector} over {found.rows} rows of {found.column}, baseline from the first {found.train_rows}:"]
    lines += [
        f"  alarm at row {alarm.row}, suspected since row {alarm.since}{f' ({alarm.leads})' if alarm.leads else ''}"
        for alarm in found.findings[:_TOLD]
    ] or ["  no alarm"]
    if len(found.findings) > _TOLD:
        lines.append(f"  and {len(found.findings) - _TOLD} more, the last at row {found.findings[-1].row}; --json has all")
    if found.refusals:
        more = " and more" if found.refusals > len(found.refused) else ""
        lines.append(f"  {found.refusals} rows refused, no usable number: {', '.join(map(str, found.refused))}{more}")
    return "\n".join(lines)
