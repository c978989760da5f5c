"""`kerbwatch notify`: whether people can be reached, and what was told whom.

It decides how deliveries are shown; it refuses to send anything but a test. Real notices are sent by the responder.

Source: paper 4.7 (notification).
"""

import getpass
import os
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from infra.db import reading
from infra.log import set_up_logs
from infra.settings import read_settings
from responders.console.tables import AsJson, opened, plain, print_json, table, utc
from responders.engine import records
from responders.notify import deliveries
from responders.notify.channels import ChannelName
from responders.notify.from_settings import set_up, wanted
from responders.notify.notices import trial
from streams.errors import Unavailable

app = typer.Typer(no_args_is_help=True, add_completion=False, help="How people are told of incidents: see it, try it.")


@app.command("test")
def send_test(channel: Annotated[ChannelName, typer.Argument(help="Which channel.")], as_json: AsJson = False) -> None:
    """Send a test by one channel, and say whether it was taken. Example: kerbwatch notify test webhook."""
    settings = read_settings()
    target = wanted(settings, channel)
    if channel is ChannelName.CONSOLE:
        set_up_logs("notify")
    notice = trial(channel, getpass.getuser(), datetime.now(UTC))
    with opened(settings) as sessions:
        error = deliveries.attempt(sessions, target, notice, lambda: datetime.now(UTC), f"test-{os.getpid()}")
    if error:
        raise Unavailable(f"the test was not delivered: {error}")
    if as_json:
        print_json({"channel": channel, "key": notice.key, "delivered": True})
    else:
        typer.echo(f"{channel} took the test; see that it arrived")


@app.command("list")
def list_deliveries(
    incident: Annotated[str | None, typer.Option(help="Only this incident's; its id, or the beginning of it.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List what people were told, or are to be, newest first. Example: kerbwatch notify list --incident 3f2a."""
    settings = read_settings()
    with opened(settings) as sessions, reading(sessions) as session:
        which = None if incident is None else records.find(session, incident)
        rows = deliveries.listed(session, incident_id=which, limit=limit)
    if as_json:
        print_json(rows)
        return
    if not rows:
        typer.echo("nobody was told anything so far")
        return
    shown = table("incident", "channel", "for", "state", "tries", "since (UTC)", "what")
    for row in rows:
        what = plain(row.what) + (f"\n[red]{plain(row.error)}[/]" if row.error else "")
        sort = row.sort if not row.role else f"{row.sort} {row.role}"
        shown.add_row(row.incident_id[:8] or "-", row.channel, sort, row.state, str(row.attempts), utc(row.created_at), what)
    Console().print(shown)


@app.command("channels")
def list_channels(as_json: AsJson = False) -> None:
    """List the channels, and what each one lacks; 1 if settings do not hold. Example: kerbwatch notify channels."""
    rows = set_up(read_settings())
    if as_json:
        print_json(rows)
    else:
        shown = table("channel", "set up", "lacks")
        for row in rows:
            shown.add_row(row.channel, "[red]FAULTY[/]" if row.faulty else "yes" if row.usable else "no", plain(row.why))
        Console().print(shown)
    if any(row.faulty for row in rows):
        raise typer.Exit(1)
