"""The command `kerbwatch models check`: opens a detector by name or file, shows which promises it keeps.

It decides how a detector is named; what it owes is `inference.service.conformance`'s. No topic.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from inference.lifecycle.measuring import detector_of
from inference.networks.adapters import Detector, FromFunction, open_model
from inference.networks.ssdlite import SsdLiteDetector, pretrained_ssdlite
from inference.provenance.registry import SHIPPED, digest_of
from inference.service.conformance import Conformance, check
from streams.errors import KerbwatchError
from streams.sources.base import Picture


def check_model(
    name: Annotated[str, typer.Argument(help="A card (.toml), ssdlite, a shipped model, or a .safetensors file.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check that a detector keeps the promises that the rest relies on. Example: `kerbwatch models check my-model.toml`."""
    console = Console(stderr=True)
    try:
        with TemporaryDirectory() as scratch, console.status("opening") as status:
            found = check(_opened(name, Path(scratch)), tick=status.update)
    except KerbwatchError as error:
        typer.secho(f"kerbwatch: {error}", err=True, fg=typer.colors.RED)
        raise typer.Exit(error.exit_code) from error
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        Console().print(_table(found))
    raise typer.Exit(0 if found.holds else 1)


def _opened(name: str, scratch: Path) -> Detector:
    if name.endswith(".toml"):
        return open_model(Path(name))
    if name == "ssdlite":
        return SsdLiteDetector(pretrained_ssdlite())
    look, _ = detector_of(name, scratch)

    def rows(picture: Picture) -> list[tuple[float, float, float, float, float]]:
        return [(box.x_px, box.y_px, box.w_px, box.h_px, box.score) for box in look([picture])[0]]

    shipped = SHIPPED / f"{name}.safetensors"
    return FromFunction(rows, name, digest_of((shipped if shipped.is_file() else Path(name)).read_bytes()))


def _table(found: Conformance) -> Table:
    times = "" if found.latency_ms is None else f"; {found.latency_ms:.1f} ms a picture of 640 x 320, {found.cores:.2f} cores"
    table = Table(title=f"{found.name}, {found.digest[:12]}{times}")
    for column in ("", "promise", "seen", "what to do"):
        table.add_column(column)
    for one in found.findings:
        table.add_row("holds" if one.holds else "FAILS", one.promise, one.seen, one.todo)
    return table
