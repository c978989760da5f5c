"""`kerbwatch bench detectors`: every claim about detection, measured by its part of the bench, in one table.

It decides which parts run, in what order, and which claims their figures are held against; it measures nothing itself: drift
(`drift`), adversarial input (`adversarial`), triage (`triage`) and poisoned training data (`data trial`) are measured
where they are. After each part the summary is written anew, so that a run that was stopped keeps what it has. No topic.

Source: `docs/detection.md` says what each figure means.
"""

import os
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from inference.measure.artefacts import machine
from infra.files import write_whole
from infra.settings import Settings, read_settings
from streams.bench import claims
from streams.bench.claims import Claim
from streams.bench.drift.command import Budget
from streams.bench.drift.command import measured as drift
from streams.errors import BadInput


class Part(StrEnum):
    """What is measured."""

    DRIFT = "drift"
    ADVERSARIAL = "adversarial"
    TRIAGE = "triage"
    POISONING = "poisoning"
    ALL = "all"


MINUTES = {
    Budget.QUICK: {Part.DRIFT: 4, Part.ADVERSARIAL: 15, Part.TRIAGE: 9, Part.POISONING: 5},
    Budget.FULL: {Part.DRIFT: 30, Part.ADVERSARIAL: 240, Part.TRIAGE: 35, Part.POISONING: 15},
}
"""Of one core, from nothing; what was measured before is kept in the home and costs seconds."""
ROUNDS = {Budget.QUICK: 5, Budget.FULL: 20}
"""Drills of each kind."""
RATES = {Budget.QUICK: "0.1", Budget.FULL: "0.01,0.05,0.1,0.2,0.5"}
"""Shares of the training data that are harmed."""


class Measured(Struct, frozen=True):
    """One part: where its figures are, and how long they took; None where they are from before."""

    part: str
    file: str
    took_s: float | None


class Summary(Struct, frozen=True):
    """What the command writes: each part's file (beside the summary), and each claim with its figure."""

    command: str
    date: str
    machine: str
    parts: tuple[Measured, ...]
    claims: tuple[Claim, ...]


def detectors(
    part: Annotated[Part, typer.Option(help="What is measured.")] = Part.ALL,
    budget: Annotated[Budget, typer.Option(help="How much: half an hour for all parts, or a night.")] = Budget.QUICK,
    workers: Annotated[int, typer.Option(help="Processes, for drift.", min=1)] = os.cpu_count() or 1,
    out: Annotated[Path | None, typer.Option(help="Folder for JSON and plots; in home if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Every claim about detection, measured. Example: `kerbwatch bench detectors --part drift --budget quick`.

    Writes NAME.json and plots for each part and detectors.json over all. A run that was stopped goes on where it was.
    """
    settings = read_settings()
    folder = out or settings.home / "bench" / "detectors" / budget
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [one for one in Part if one is not Part.ALL and part in {one, Part.ALL}]
    told = Console(stderr=True)
    minutes = MINUTES[budget]
    told.print(
        f"about {sum(minutes[one] for one in chosen)} minutes of one core from nothing ("
        + ", ".join(f"{one} {minutes[one]}" for one in chosen)
        + f"); kept figures cost seconds; results go to {folder}"
    )
    command = f"kerbwatch bench detectors --part {part} --budget {budget}"
    took: dict[Part, float] = {}
    for one in chosen:
        begun = time.monotonic()
        # What machines read is the summary alone; what each part prints goes where people look.
        with redirect_stdout(sys.stderr if as_json else sys.stdout):
            _measure(one, settings, budget, workers, folder)
        took[one] = round(time.monotonic() - begun, 1)
        summary = summarise(folder, command, took)
        write_whole(folder / "detectors.json", msgspec.json.format(msgspec.json.encode(summary), indent=1) + b"\n", mode=0o644)
    if as_json:
        typer.echo(msgspec.json.encode(summary).decode())
        return
    show(summary, folder, Console())


def summarise(folder: Path, command: str, took: Mapping[Part, float]) -> Summary:
    """Every claim whose figures are in the folder: of the parts just measured, in so many seconds, and of others from before.

    Raises:
        BadInput: a part just measured left no figures.
    """
    parts, found = [], []
    for one in (part for part in Part if part is not Part.ALL):
        try:
            found += list(claims.read(one, folder / f"{one}.json"))
        except BadInput:
            if one in took:
                raise
            continue
        parts.append(Measured(one, f"{one}.json", took.get(one)))
    return Summary(command, datetime.now(UTC).isoformat(timespec="seconds"), machine(), tuple(parts), tuple(found))


def _measure(part: Part, settings: Settings, budget: Budget, workers: int, folder: Path) -> None:
    """Runs one part as its own command does; what needs torch is loaded only here."""
    if part is Part.DRIFT:
        drift(budget, workers, folder, settings)
    elif part is Part.ADVERSARIAL:
        from streams.bench.adversarial import command as adversarial  # noqa: PLC0415 - it loads torch

        adversarial.adversarial(adversarial.Budget(budget), folder, as_json=False)
    elif part is Part.TRIAGE:
        from streams.bench.triage import command as triage  # noqa: PLC0415 - it loads torch

        triage.triage(ROUNDS[budget], tuning=False, out=folder, kept=None, fresh=False, as_json=False)
    else:
        from inference.lifecycle.cli import trial_command  # noqa: PLC0415 - it loads torch

        trial_command(RATES[budget], folder, as_json=False)


def show(summary: Summary, folder: Path, console: Console) -> None:
    """One line for each claim, and where the figures are."""
    table = Table("part", "claim", "aim", "measured", "met", box=None)
    for claim in summary.claims:
        table.add_row(claim.part, claim.claim, claim.aim, claim.measured, {True: "yes", False: "NO", None: ""}[claim.met])
    console.print(table)
    for one in summary.parts:
        took = "from before" if one.took_s is None else f"{one.took_s:.0f} s"
        console.print(f"{one.part}: {folder / one.file} ({took})", soft_wrap=True)
