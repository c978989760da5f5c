"""`kerbwatch schedule`: regular work, listed and run.

It decides nothing about when (`responders.regular.schedule`) or what (`streams.console.jobs`); it puts each run on record, however
it ends, and what waits for a person is told on the notifiers' channels. It refuses to run a job twice at once. No topic feeds it.

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

from infra.db import Sessions, reading, writing
from infra.settings import read_settings
from responders.console.tables import AsJson, opened, plain, print_json, table, utc
from responders.regular import schedule
from responders.regular.schedule import Job, Outcome
from streams.console import jobs

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Regular work: checks, back-ups, retention, drills, reminders.")


def complete_job(incomplete: str) -> list[tuple[str, str]]:
    """Jobs that begin so."""
    return [(job.name, job.what) for job in schedule.JOBS if job.name.startswith(incomplete)]


JobName = Annotated[str, typer.Argument(help="Which job; `list` names them.", autocompletion=complete_job)]


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
def run_job(name: JobName, as_json: AsJson = False) -> None:
    """Do one job now; 1 if it fails. Example: kerbwatch schedule run backup."""
    job = schedule.job_of(name)
    settings, began = read_settings(), datetime.now(UTC)
    os.nice(max(0, job.nice - os.nice(0)))
    with opened(settings) as sessions, _ends_in_order():
        with writing(sessions) as session:
            before = schedule.last_begun(session, job)
            schedule.begin(session, job, began)
        console = Console(stderr=True)
        with _put_on_record(sessions, job, began, before):
            with console.status(job.what) if console.is_terminal else nullcontext():
                said = jobs.carry_out(name, jobs.Run(settings, sessions, began))
            ended = datetime.now(UTC)
            with writing(sessions) as session:
                schedule.end(session, job, said.outcome, said.text, ended, waits=said.waits)
    if as_json:
        took_s = round((ended - began).total_seconds(), 3)
        print_json({"name": name, "outcome": said.outcome, "said": said.text, "took_s": took_s})
    else:
        typer.echo(f"{name}: {said.outcome}: {plain(said.text)}")
    if said.outcome is Outcome.FAILED:
        raise typer.Exit(1)


@contextmanager
def _put_on_record(sessions: Sessions, job: Job, began: datetime, before: datetime | None) -> Iterator[None]:
    """Whatever ends the run is on record as its end: a run that says nothing would hold up all the others until its limit."""
    try:
        yield
    except BaseException as error:
        now = datetime.now(UTC)
        why = schedule.too_long(job, now - began) or _broken_off(error)
        with writing(sessions) as session:
            schedule.settle(session, job, why, now, since=before)
        raise


def _broken_off(error: BaseException) -> str:
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return "was told to end before it was done"
    first = next(iter(str(error).splitlines()), "")
    return f"broke off, which is a fault of ours: {type(error).__name__}: {first[:500]}"


@contextmanager
def _ends_in_order() -> Iterator[None]:
    """SIGTERM, or a terminal that closes, ends the job by way of its own ends, so that what it started is stopped."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup's
            signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
