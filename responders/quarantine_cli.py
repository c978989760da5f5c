"""`kerbwatch quarantine`: what was set aside, and what people say to it.

It decides how frames in quarantine are shown. No topic feeds it.

Source: paper 4.6 (automatic quarantine and manual review by R4 and R8).
"""

from typing import Annotated

import typer
from rich.console import Console

from responders import quarantine, records
from responders.cli import AsJson, plain, print_json, reader, table, utc

app = typer.Typer(no_args_is_help=True, help="Frames that were set aside.")

_SHORT = 12


@app.callback()
def quarantine_commands() -> None:
    """Frames that were set aside."""  # a group of one would otherwise take the command's name for its argument


@app.command("list")
def list_quarantine(
    incident: Annotated[str | None, typer.Option(help="Only this incident's frames; its id, or the beginning of it.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List frames in quarantine, newest first. Example: kerbwatch quarantine list --incident 3f2a."""
    with reader() as session:
        wanted = None if incident is None else records.find(session, incident)
        frames, total = quarantine.listed(session, wanted, limit)
    if as_json:
        print_json({"total": total, "frames": frames})
        return
    shown = table("incident", "camera", "epoch", "frame", "sealed (UTC)", "why", title=f"{total} frames in quarantine")
    for frame in frames:
        where = (frame.incident_id[:_SHORT], frame.camera, str(frame.epoch), str(frame.sequence))
        shown.add_row(*where, utc(frame.sealed_at), plain(frame.reason))
    Console().print(shown)
