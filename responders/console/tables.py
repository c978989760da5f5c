"""`kerbwatch incidents list|show`: what is wrong and what was done about it; and how all our lists look.

It decides how incidents are shown, and completes their ids and people's names for the shell; it refuses somebody else's words any
power over the terminal. What people say to an incident stands in `incidents_cli.py`.

Source: paper 4.7 (defined roles and immediate actions), SC-10.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from sqlalchemy.orm import Session

from infra.db import Sessions, open_database, reading
from infra.settings import Settings, read_settings
from responders.engine import records
from responders.engine.records import Listed, Shown
from responders.notify import deliveries
from responders.notify.deliveries import Notification
from responders.notify.notices import Sort
from responders.people.roles import named
from streams.errors import KerbwatchError
from streams.events import Severity

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Incidents: see them, take note of them, decide, close them.")

_COLOUR = {Severity.LOW: "dim", Severity.MEDIUM: "yellow", Severity.HIGH: "red", Severity.CRITICAL: "bold red"}
_COMPLETED = 200
_CALLS = 100
_WIDE = 120
_DELIVERED = {
    deliveries.DONE: "yes",
    deliveries.WAITING: "[yellow]waits[/]",
    deliveries.WITHDRAWN: "no longer needed",
    deliveries.FAILED: "[bold red]failed[/]",
}


def completed(incomplete: str, known: Callable[[Session], Iterable[tuple[str, str]]]) -> list[tuple[str, str]]:
    """Those of `known` (name, what it is) that begin so, for the shell's completion; none if there is no database to ask."""
    try:
        with reader() as session:
            return [(name, what) for name, what in known(session) if name.startswith(incomplete)]
    except KerbwatchError:
        return []


def complete_incident(incomplete: str) -> list[tuple[str, str]]:
    """Ids of the newest incidents that begin so."""

    def known(session: Session) -> list[tuple[str, str]]:
        return [(row.id, f"{row.kind} on {row.camera}, {row.state}") for row in records.listed(session, limit=_COMPLETED)]

    return completed(incomplete.lower(), known)


def complete_person(incomplete: str) -> list[tuple[str, str]]:
    """Names of the people who may act, that begin so."""
    from responders.people import people

    return completed(incomplete, lambda session: [(one.name, " ".join(one.roles)) for one in people.listed(session)])


Id = Annotated[str, typer.Argument(help="The incident's id, or the beginning of it.", autocompletion=complete_incident)]
Comment = Annotated[str, typer.Option("--comment", "-m", help="Why; it is kept for good.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@contextmanager
def reader() -> Iterator[Session]:
    """One look at the settings' database."""
    with opened(read_settings()) as sessions, reading(sessions) as session:
        yield session


@contextmanager
def opened(settings: Settings) -> Iterator[Sessions]:
    """The settings' database, closed afterwards."""
    sessions = open_database(settings)
    try:
        yield sessions
    finally:
        sessions.kw["bind"].dispose()


def plain(text: str) -> str:
    """Somebody else's words, without power over the terminal."""
    from rich.markup import escape

    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


def print_json(value: object) -> None:
    """Indented, on standard output."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def table(*columns: str, title: str | None = None) -> "Table":
    """Without lines: what there is to read fits a terminal of 80 characters."""
    from rich.table import Table

    return Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")


def utc(moment: datetime | None, *, millis: bool = False) -> str:
    """A moment to the second, or the millisecond; a dash for none."""
    if moment is None:
        return "-"
    return f"{moment:%Y-%m-%d %H:%M:%S}" + (f".{moment.microsecond // 1000:03}" if millis else "")


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


@app.command("list")
def list_incidents(
    only_open: Annotated[bool, typer.Option("--open", help="Leave out what is closed.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List incidents, newest first; times are UTC. Example: kerbwatch incidents list --open."""
    with reader() as session:
        rows = records.listed(session, only_open=only_open, limit=limit)
    if as_json:
        print_json(rows)
        return
    if not rows:
        typer.echo("no open incident" if only_open else "no incident so far")
        return
    from rich.console import Console

    console = Console()
    console.print(_wide(rows) if console.width >= _WIDE else _narrow(rows))


def _wide(rows: Iterable[Listed]) -> "Table":
    shown = table("id", "kind", "camera", "state", "severity", "detected (UTC)", "contained", "note")
    for row in rows:
        note = f"[bold red]escalated: {plain(row.escalated)}[/]" if row.escalated else (row.resolution or "")
        after = _seconds(row.seconds_to_contain)
        shown.add_row(row.id[:8], row.kind, plain(row.camera), row.state, _severity(row), utc(row.detected_at), after, note)
    return shown


def _narrow(rows: Iterable[Listed]) -> "Table":
    """What fits a terminal of 80 characters; only cameras' names are ever broken. The rest is in `show` and `--json`."""
    shown = table("id", "kind", "camera", "state", "severity", "UTC", "note")
    for column in shown.columns:
        column.no_wrap, column.overflow = column.header != "camera", "fold"
    for row in rows:
        note = "[bold red]escalated[/]" if row.escalated else (row.resolution or "")
        detected = f"{row.detected_at:%m-%d %H:%M}"
        shown.add_row(row.id[:8], row.kind, plain(row.camera), row.state, _severity(row), detected, note)
    return shown


def _severity(row: Listed) -> str:
    return f"[{_COLOUR[row.severity]}]{row.severity}[/]"


@app.command()
def show(incident: Id, as_json: AsJson = False) -> None:
    """Show one incident: clocks, playbook, timeline, effects. Example: kerbwatch incidents show 3f2a."""
    with reader() as session:
        full = records.shown(session, records.find(session, incident))
        told = deliveries.listed(session, incident_id=full.incident.id, limit=_CALLS)
    if as_json:
        print_json(full)
        return
    from rich.console import Console

    console = Console()
    _print_head(console, full)
    _print_calls(console, full, told)
    _print_clocks(console, full.incident, full.acknowledged_by)
    _print_steps(console, full)
    timeline = table("time (UTC)", "state", "actor", "what", title="timeline")
    for change in full.timeline:
        timeline.add_row(f"{change.time:%H:%M:%S.%f}"[:-3], change.state, plain(change.actor), plain(change.what))
    console.print(timeline)
    effects = table("created (UTC)", "topic", "state", "tries", "sent (UTC)", "error", title="effects")
    for effect in full.effects:
        sent = utc(effect.done_at, millis=True)
        effects.add_row(
            utc(effect.created_at, millis=True), effect.topic, effect.state, str(effect.attempts), sent, plain(effect.error)
        )
    console.print(effects)
    console.print(f"{full.frames_quarantined} frames in quarantine")


def _print_head(console: "Console", full: Shown) -> None:
    short = full.incident
    console.print(f"[bold]incident {short.id}[/]  {short.kind} on {plain(short.camera)} ({short.context})")
    console.print(f"state {short.state}, severity {short.severity}, {short.signals} signals, {full.relapses} relapses")
    if short.escalated:
        console.print(f"[bold red]escalated: {plain(short.escalated)}[/]")
    if full.graded:
        console.print(f"[dim]severity by this rule: {plain(full.graded)}[/]")
    if full.asks:
        _print_asked(console, full)
    if full.assignee:
        console.print(f"assigned to: {plain(full.assignee)}")
    if full.snoozed_until is not None:
        console.print(f"snoozed until {utc(full.snoozed_until)} UTC")
    if full.diagnosis is not None:
        console.print(f"diagnosis: [bold]{full.diagnosis.cause.replace('_', ' ')}[/], {full.diagnosis.confidence:.0%} sure")
        for words in full.diagnosis.evidence:
            console.print(f"  - {plain(words)}")


def _print_asked(console: "Console", full: Shown) -> None:
    """What is to be done and approved now, in commands that can be pasted."""
    short = full.incident
    console.print(f"[bold]step {full.step} waits for approval by {named(full.asks)}[/]")
    here = {"CAMERA": short.camera, "CONTEXT": short.context, "INCIDENT": short.id[:8]}
    text = next(step.text for step in full.steps if step.name == full.step)
    if text:
        console.print(f"  {plain(re.sub('|'.join(here), lambda found: here[found[0]], text))}", soft_wrap=True)
    approve = f'kerbwatch incidents approve {short.id[:8]} --step {full.step} -m "what you looked at"'
    console.print(f"  {plain(approve)}", soft_wrap=True)
    console.print("  [dim](as somebody else than this system's user: --actor NAME, or KERBWATCH_PERSON)[/]")


def _print_calls(console: "Console", full: Shown, told: Sequence[Notification]) -> None:
    """Who was called, and what became of that on each channel."""
    if not full.called:
        return
    calls = table("role", "channel", "delivered", "tries", "since (UTC)", "error", title="called")
    for one in reversed(told):
        if one.sort is Sort.PAGE:
            state = _DELIVERED.get(one.state, plain(one.state))
            calls.add_row(one.role, one.channel, state, str(one.attempts), utc(one.created_at), plain(one.error))
    for role in full.called:
        if role not in {one.role for one in told}:
            calls.add_row(role, "", "[yellow]waits for the responder[/]", "", "", "")
    console.print(calls)


def _print_steps(console: "Console", full: Shown) -> None:
    outcomes = {one.step: one.outcome for one in full.ended}
    steps = table("", "step", "does", "state", "NIST", "outcome", title=f"playbook {full.playbook} ({', '.join(full.techniques)})")
    for step in full.steps:
        does = f"{step.action} {step.mode or ''}".strip()
        here = ">" if step.name == full.step else ""
        steps.add_row(here, step.name, does, step.state, step.function, outcomes.get(step.name, ""))
    console.print(steps)


def _print_clocks(console: "Console", short: Listed, acknowledged_by: str) -> None:
    clocks = table("clock", "time (UTC)", "after impact")
    clocks.add_row("impact start", utc(short.impact_at, millis=True), "")
    clocks.add_row("detected", utc(short.detected_at, millis=True), _seconds(short.seconds_to_detect))
    clocks.add_row("contained", utc(short.contained_at, millis=True), _seconds(short.seconds_to_contain))
    clocks.add_row("recovered", utc(short.recovered_at, millis=True), _seconds(short.seconds_to_recover))
    clocks.add_row("acknowledged", utc(short.acknowledged_at, millis=True), plain(acknowledged_by))
    clocks.add_row("closed", utc(short.closed_at, millis=True), short.resolution or "")
    console.print(clocks)
