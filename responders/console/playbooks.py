"""`kerbwatch playbooks`: what is done about each kind of incident, drawn, checked and exported.

It decides how playbooks are shown; it refuses a file that does not hold, naming file, line and key, and a playbook of another
standard that breaks it, naming the section. No topic feeds it: files do, the packaged ones and the deployment's own (`chosen.py`).

Source: paper 4.6, 4.7; OASIS CACAO 2.0.
"""

import json
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from infra.settings import read_settings
from responders.console.tables import AsJson, plain, print_json, table
from responders.playbooks import cacao, cacao_rules, drawing
from responders.playbooks.chosen import Chosen, choose, read, text_of
from responders.playbooks.playbooks import Playbook
from streams.errors import BadInput, Unavailable
from streams.events import Kind

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Playbooks: what is done about each kind of incident.")

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
    source: str


class Checked(msgspec.Struct, frozen=True):
    """What came out for one file; it holds if there is no fault."""

    file: str
    faults: tuple[str, ...]


@app.command("list")
def list_playbooks(as_json: AsJson = False) -> None:
    """List all playbooks. Example: kerbwatch playbooks list."""
    chosen = _chosen()
    rows = [_listed(one, chosen.source(kind)) for kind, one in chosen.books.items()]
    if as_json:
        print_json(rows)
        return
    shown = table("kind", "version", "from", "steps", "approvals", "calls", "what it is for")
    for row in rows:
        asked, called = " ".join(row.approvals), " ".join(row.calls)
        shown.add_row(row.kind, str(row.version), plain(row.source), str(len(row.steps)), asked, called, plain(row.title))
    Console().print(shown)


def _chosen() -> Chosen:
    """What is in force; what is wrong in the settings' folder is said on the way."""
    chosen = choose(read_settings().playbooks)
    for fault in chosen.faults:
        typer.secho(f"kerbwatch: {fault}", err=True, fg=typer.colors.RED)
    return chosen


def _listed(book: Playbook, source: str) -> Listed:
    asked = tuple(dict.fromkeys(role for step in book.steps for role in step.approval))
    names = tuple(step.name for step in book.steps)
    calls = tuple(one.role for one in book.calls)
    return Listed(book.kind, book.version, book.title, names, asked, calls, book.techniques, source)


@app.command()
def show(
    kind: AKind,
    drawn: Annotated[Path | None, typer.Option("--drawing", help="Write the steps as a drawing (SVG) to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a playbook's steps. Example: kerbwatch playbooks show evasion --drawing evasion.svg."""
    chosen = _chosen()
    book = chosen.books[kind]
    if kind in chosen.own:
        typer.echo(f"from {chosen.source(kind)}", err=True)
    if drawn is not None:
        _write(drawn, drawing.svg(book).encode())
        typer.echo(f"drawn to {drawn}: open it in a browser", err=True)
    if as_json:
        print_json(book)
    elif drawn is None:
        Console().print(drawing.tree(book))


@app.command()
def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Files to check: ours (.toml), or CACAO 2.0 (.json). Those in force, and their export, if none."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check playbooks; 1 if one does not hold. Example: kerbwatch playbooks check my-evasion.toml."""
    found = [Checked(str(file), _faults(file)) for file in files] if files else _in_force()
    if as_json:
        print_json(found)
    else:
        for one in found:
            typer.echo(f"{one.file}: {'; '.join(one.faults) or 'holds'}")
    if any(one.faults for one in found):
        raise typer.Exit(1)


def _in_force() -> list[Checked]:
    settings = read_settings()
    chosen = choose(settings.playbooks)
    found = [
        Checked(f"{kind} ({chosen.source(kind)}) and its export", tuple(cacao_rules.faults(cacao.export(book))))
        for kind, book in sorted(chosen.books.items())
    ]
    return [*found, Checked(str(settings.playbooks), chosen.faults)] if chosen.faults else found


def _faults(file: Path) -> tuple[str, ...]:
    try:
        if file.suffix == ".json":
            return tuple(cacao_rules.faults(json.loads(text_of(file))))
        read(file)
    except RecursionError:
        return (f"{file}: brackets in brackets, deeper than any playbook goes",)
    except (json.JSONDecodeError, BadInput) as error:
        return (str(error),)
    return ()


def _write(file: Path, body: bytes) -> None:
    try:
        file.write_bytes(body)
    except OSError as error:
        raise Unavailable(f"{file} cannot be written: {error.strerror}; name a place where you may write") from error


@app.command()
def export(
    kinds: Annotated[list[Kind] | None, typer.Argument(help="Which; all if none is named.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write KIND.cacao.json files to; one can go to the output.")
    ] = None,
) -> None:
    """Export playbooks as CACAO 2.0 JSON. Example: kerbwatch playbooks export evasion --out playbooks."""
    chosen = _chosen()
    books, wanted = chosen.books, kinds or sorted(chosen.books)
    if out is None:
        if len(wanted) != 1:
            raise BadInput("several playbooks need a folder: give --out FOLDER, or name one kind")
        typer.echo(cacao.as_bytes(books[wanted[0]]).decode(), nl=False)
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{out} cannot be made: {error.strerror}; name a folder where you may write") from error
    for kind in wanted:
        _write(out / f"{kind}.cacao.json", cacao.as_bytes(books[kind]))
    own = "".join(f"; {kind} is from {chosen.source(kind)}" for kind in wanted if kind in chosen.own)
    typer.echo(f"{len(wanted)} playbooks written to {out}{own}")
