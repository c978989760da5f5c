"""`kerbwatch models quantise`: an eight-bit copy of a model, its ranges read from pictures that models train on.

It decides which pictures those are: drawn streets of both contexts in all weathers, and photographs where there are any; none that
a figure or the gate is made from. How a model is quantised is `inference.service.quantised`; whether the copy may serve, the gate
says. No topic feeds it.

Source: paper section 6 (quantised models win back what protection costs).
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from inference.lifecycle.cli import find_model
from inference.provenance.registry import Registry, registry_of, shipped
from inference.service.quantised import quantise
from inference.training.pools import HELD_OUT, SPLIT_SEED, STREET_SEEDS, sources_of
from inference.training.samples import Sample, halved, penn_fudan, split, streets
from infra.keys import model_key
from infra.settings import read_settings
from streams.errors import KerbwatchError
from streams.events import Context, Digest
from streams.sources.scenery import Weather

_PLACES, _SHOTS = 2, (0, 70)
_EVERY_PHOTOGRAPH = 5


class Quantised(msgspec.Struct, frozen=True, kw_only=True):
    """What was made of what; sizes of the weights' files."""

    digest: Digest
    parent: Digest
    name: str
    pictures: int
    size_bytes: int
    parent_size_bytes: int


def calibration(shared_data: Path) -> list[Sample]:
    """Training pictures: 32 drawn ones, and every fifth training photograph at half its size where Penn-Fudan is at hand."""
    drawn = [
        one
        for context in Context
        for number, weather in enumerate(Weather)
        for one in streets(context, weather, [seed + 100 * number for seed in STREET_SEEDS[:_PLACES]], _SHOTS)
    ]
    if not (shared_data / "pennfudan").is_dir():
        return drawn
    photographs, _ = split(penn_fudan(shared_data / "pennfudan"), HELD_OUT, SPLIT_SEED)
    return drawn + [halved(one) for one in photographs[::_EVERY_PHOTOGRAPH]]


def quantised(registry: Registry, parent: str, samples: list[Sample], now: Callable[[], datetime]) -> Quantised:
    """Quantise a model of the registry into it. Raises as `inference.service.quantised.quantise`."""
    digest = quantise(registry, parent, samples, sources_of(samples), now)
    return Quantised(
        digest=digest,
        parent=parent,
        name=registry.card(digest).name,
        pictures=len(samples),
        size_bytes=len(registry.read(digest)),
        parent_size_bytes=len(registry.read(parent)),
    )


def quantise_model(
    model: Annotated[str, typer.Argument(help="The model's name, its digest or the beginning of it.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Make an eight-bit copy of a model, signed, beside it in the registry. Example: `kerbwatch models quantise csp-nano-safe`."""
    console = Console(stderr=True)
    try:
        settings = read_settings()
        model_key(settings)
        registry = registry_of(settings)
        shipped(registry)
        parent = find_model(registry, model)
        with console.status("drawing streets, reading photographs") as status:
            samples = calibration(settings.shared_data)
            status.update(f"reading the ranges of activations from {len(samples)} pictures")
            made = quantised(registry, parent, samples, lambda: datetime.now(UTC))
    except KerbwatchError as error:
        typer.secho(f"kerbwatch: {error}", err=True, fg=typer.colors.RED)
        raise typer.Exit(error.exit_code) from error
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(made), indent=2).decode())
        return
    share = made.size_bytes / made.parent_size_bytes
    typer.echo(f"{made.digest} is {made.name}, staged and signed, {share:.0%} of its parent's size")
    typer.echo(f"the gate comes next: `kerbwatch gate {made.digest[:12]}`, then `kerbwatch models promote {made.digest[:12]}`")
