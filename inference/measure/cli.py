"""The command `kerbwatch evaluate`: reads truth and detections, prints rows. It decides nothing (`inference.measure.miss_rate`)."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from inference.measure.files import read
from inference.measure.miss_rate import REFERENCES, SETUPS, Mode, Row, evaluate
from streams.errors import BadInput, KerbwatchError


def evaluate_command(
    truth: Annotated[Path, typer.Argument(metavar="GT", help="Truth in the official form (val_gt.json).")],
    found: Annotated[Path, typer.Argument(metavar="DT", help="Detections: a list of image_id, category_id, bbox, score.")],
    setup: Annotated[list[str] | None, typer.Option(help=f"Who counts, may be repeated: {', '.join(SETUPS)}.")] = None,
    mode: Annotated[Mode, typer.Option(help="official, or windowed for few pictures.")] = Mode.OFFICIAL,
    as_json: Annotated[bool, typer.Option("--json", help="A list of rows as JSON.")] = False,
) -> None:
    """The log-average miss rate of detections, as the official CityPersons script computes it.

    Example: kerbwatch evaluate val_gt.json detections.json --setup Reasonable --json
    """
    try:
        unknown = [name for name in setup or () if name not in SETUPS]
        if unknown:
            raise BadInput(f"no setup {unknown[0]!r}; there are {', '.join(SETUPS)}")
        rows = evaluate(*read(truth, found), [SETUPS[name] for name in setup or SETUPS], mode)
    except KerbwatchError as error:
        typer.secho(f"kerbwatch: {error}", err=True, fg=typer.colors.RED)
        raise typer.Exit(error.exit_code) from error
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
    else:
        Console().print(_table(rows, mode))


def _table(rows: tuple[Row, ...], mode: Mode) -> Table:
    title = f"Log-average miss rate, {mode}, {rows[0].images} pictures"
    note = "@: recall at so many false boxes a picture; -: nobody counts"
    table = Table(title=title, caption=note, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("setup", "miss rate", "people", "found", "false", *(f"@ {at:g}" for at in REFERENCES[::4])):
        table.add_column(name, justify="left" if name == "setup" else "right", no_wrap=True)
    for row in rows:
        rate = "-" if row.log_average_miss_rate is None else f"{100 * row.log_average_miss_rate:.2f} %"
        recalls = ["-"] * 3 if row.recall_at is None else [f"{value:.3f}" for value in row.recall_at[::4]]
        table.add_row(row.setup, rate, str(row.counted), str(row.true_positives), str(row.false_positives), *recalls)
    return table
