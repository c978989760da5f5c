"""`kerbwatch schedule`: regular work, listed and run.

It decides nothing about when (`responders.regular.schedule`) or what (`streams.console.jobs`); it puts each run on record, and what
waits for a person is told on the notifiers' channels. It refuses to run a job twice at once. No topic feeds it.

Source: paper 4.7; NIST SP 800-61r3 (preparation, improvement).
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from infra.db import reading, writing
from infra.settings import read_settings
from responders.console.tables import AsJson, opened, plain, print_json, table, utc
from responders.notify.deliveries import remind
from responders.notify.notices import reminder
from responders.people.roles import Role
from responders.regular import schedule
from responders.regular.schedule import Outcome
from streams.console import jobs

app = typer.Typer(no_args_is_help=True, help="Regular work: checks, back-ups, retention, drills, reminders.")

_TERMINATED = 128 + signal.SIGTERM


@app.command("list")
def list_jobs(as_json: AsJson = False) -> None:
    """List regular work: last run, outcome, next run (UTC). Example: kerbwatch schedule list."""
    with opened(read_settings()) as sessions, reading(sessions) as session:
        rows = schedule.listed(session, datetime.now(UTC))
    if as_json:
        print_json(rows)
        return
    shown = table("job", "last run (UTC)", "outcome", "next run (UTC)", "what")
    for column in shown.columns[:4]:
        column.no_wrap = True
    for row in rows:
        colour = {Outcome.DONE: "green", Outcome.FAILED: "bold red", Outcome.LOST: "red"}.get(row.outcome, "dim")
        said = row.said if row.outcome in {Outcome.FAILED, Outcome.SKIPPED} else ""
        what = f"{row.what}{f': [bold]{plain(said)}[/]' if said else ''}"
        shown.add_row(row.name, utc(row.started_at)[:16], f"[{colour}]{row.outcome}[/]", utc(row.next_at)[:16], what)
    Console().print(shown)


@app.command("run")
def run_job(name: Annotated[str, typer.Argument(help="Which job; `list` names them.")], as_json: AsJson = False) -> None:
    """Do one job now; 1 if it fails. Example: kerbwatch schedule run backup."""
    job = schedule.job_of(name)
    settings, began = read_settings(), datetime.now(UTC)
    os.nice(max(0, job.nice - os.nice(0)))
    with opened(settings) as sessions, _ends_in_order():
        with writing(sessions) as session:
            schedule.begin(session, job, began)
        console = Console(stderr=True)
        with console.status(job.what) if console.is_terminal else nullcontext():
            said = jobs.carry_out(name, jobs.Run(settings, sessions, began))
        ended = datetime.now(UTC)
        with writing(sessions) as session:
            schedule.end(session, job, said.outcome, said.text, ended)
            if said.waits:
                remind(session, reminder(f"{name} {ended:%Y-%m-%d}", said.waits, Role.SECMLOPS_ENGINEER, ended), ended)
    if as_json:
        took_s = round((ended - began).total_seconds(), 3)
        print_json({"name": name, "outcome": said.outcome, "said": said.text, "took_s": took_s})
    else:
        typer.echo(f"{name}: {said.outcome}: {plain(said.text)}")
    if said.outcome is Outcome.FAILED:
        raise typer.Exit(1)


@contextmanager
def _ends_in_order() -> Iterator[None]:
    """SIGTERM ends the job by way of its own ends, so that what it started is stopped; the run then counts as lost."""

    def leave(*_: object) -> None:
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
