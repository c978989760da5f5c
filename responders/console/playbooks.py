"""`kerbwatch playbooks`: what is done about each kind of incident, drawn, checked and exported.

It decides how playbooks are shown; it refuses a file that does not hold, naming file, line and key, and a playbook of another
standard that breaks it, naming the section. No topic feeds it: the packaged files do.

Source: paper 4.6, 4.7; OASIS CACAO 2.0.
"""

import json
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from responders.console.tables import AsJson, plain, print_json, table
from responders.playbooks import cacao, cacao_rules, drawing, playbooks
from responders.playbooks.playbooks import Playbook
from streams.errors import BadInput
from streams.events import Kind

app = typer.Typer(no_args_is_help=True, help="Playbooks: what is done about each kind of incident.")

_LARGEST = 1 << 20
AKind = Annotated[Kind, typer.Argument(help="The kind of incident.")]


class Listed(msgspec.Struct, frozen=True):
    """One playbook in short."""

    kind: Kind
    version: int
    title: str
    steps: tuple[str, ...]
    approvals: tuple[str, ...]
    calls: tuple[str, ...]
    techniques: tuple[str, ...]


class Checked(msgspec.Struct, frozen=True):
    """What came out for one file; it holds if there is no fault."""

    file: str
    faults: tuple[str, ...]


@app.command("list")
def list_playbooks(as_json: AsJson = False) -> None:
    """List all playbooks. Example: kerbwatch playbooks list."""
    rows = [_listed(one) for one in playbooks.load().values()]
    if as_json:
        print_json(rows)
        return
    shown = table("kind", "version", "steps", "approvals", "calls", "what it is for")
    for row in rows:
        shown.add_row(
            row.kind, str(row.version), str(len(row.steps)), " ".join(row.approvals), " ".join(row.calls), plain(row.title)
        )
    Console().print(shown)


def _listed(book: Playbook) -> Listed:
    asked = tuple(dict.fromkeys(role for step in book.steps for role in step.approval))
    names = tuple(step.name for step in book.steps)
    return Listed(book.kind, book.version, book.title, names, asked, tuple(one.role for one in book.calls), book.techniques)


@app.command()
def show(
    kind: AKind,
    drawn: Annotated[Path | None, typer.Option("--drawing", help="Write the steps as a drawing (SVG) to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a playbook's steps. Example: kerbwatch playbooks show evasion --drawing evasion.svg."""
    book = playbooks.load()[kind]
    if drawn is not None:
        drawn.write_text(drawing.svg(book), encoding="utf-8")
        typer.echo(f"drawn to {drawn}: open it in a browser", err=True)
    if as_json:
        print_json(book)
    elif drawn is None:
        Console().print(drawing.tree(book))


@app.command()
def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Files to check: ours (.toml), or CACAO 2.0 (.json). Ours, and their export, if none."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check playbooks; 1 if one does not hold. Example: kerbwatch playbooks check my-evasion.toml."""
    if files:
        found = [Checked(str(file), _faults(file)) for file in files]
    else:
        found = [Checked(f"{kind} and its export", tuple(cacao_rules.faults(cacao.export(book)))) for kind, book in _packaged()]
    if as_json:
        print_json(found)
    else:
        for one in found:
            typer.echo(f"{one.file}: {'; '.join(one.faults) or 'holds'}")
    if any(one.faults for one in found):
        raise typer.Exit(1)


def _packaged() -> list[tuple[Kind, Playbook]]:
    return sorted(playbooks.load().items())


def _faults(file: Path) -> tuple[str, ...]:
    try:
        with file.open("rb") as opened:
            body = opened.read(_LARGEST + 1)
        if len(body) > _LARGEST:
            return (f"{file} has more than {_LARGEST} bytes: no playbook is so long",)
        if file.suffix == ".json":
            return tuple(cacao_rules.faults(json.loads(body)))
        playbooks.parse(body.decode(), str(file))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, BadInput) as error:
        return (str(error),)
    return ()


@app.command()
def export(
    kinds: Annotated[list[Kind] | None, typer.Argument(help="Which; all if none is named.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write KIND.cacao.json files to; one can go to the output.")
    ] = None,
) -> None:
    """Export playbooks as CACAO 2.0 JSON. Example: kerbwatch playbooks export evasion --out playbooks."""
    books = playbooks.load()
    wanted = kinds or sorted(books)
    if out is None:
        if len(wanted) != 1:
            raise BadInput("several playbooks need a folder: give --out FOLDER, or name one kind")
        typer.echo(cacao.as_bytes(books[wanted[0]]).decode(), nl=False)
        return
    out.mkdir(parents=True, exist_ok=True)
    for kind in wanted:
        (out / f"{kind}.cacao.json").write_bytes(cacao.as_bytes(books[kind]))
    typer.echo(f"{len(wanted)} playbooks written to {out}")
