"""`kerbwatch quarantine`: what was set aside, how it looks, and what two people decide about it.

It decides how frames in quarantine are shown, and turns a command into a signed act; who may do what is decided in `access.py`, and
nothing is released or discarded before both people have said so of the very same frames. No topic feeds it.

Source: paper 4.6 (automatic quarantine and manual review by R4 and R8).
"""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from infra.db import reading, writing
from responders import desk, quarantine, records, review
from responders.access import Deed
from responders.cli import AsJson, Comment, Id, complete_incident, completed, plain, print_json, reader, table, utc
from responders.login import Actor, Code, Login, logged_in
from responders.quarantine import Standing
from responders.roles import named
from streams.errors import BadInput

app = typer.Typer(no_args_is_help=True, help="Frames that were set aside: see them, release or discard them.")

_SHORT = 12


def complete_frame(incomplete: str) -> list[tuple[str, str]]:
    """The newest frames that were set aside, as CAMERA:EPOCH:SEQUENCE, that begin so."""
    return completed(incomplete, lambda session: [(name, "") for name in review.named_frames(session)])


Frame = Annotated[
    str | None, typer.Option(help="Only this frame: its id, or CAMERA:EPOCH:SEQUENCE.", autocompletion=complete_frame)
]


@app.command("list")
def list_quarantine(
    incident: Annotated[
        str | None,
        typer.Option(help="Only this incident's frames; its id, or the beginning of it.", autocompletion=complete_incident),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    reviewed: Annotated[bool, typer.Option("--all", help="What people released or discarded as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """List frames in quarantine, newest first. Example: kerbwatch quarantine list --incident 3f2a."""
    with reader() as session:
        wanted = None if incident is None else records.find(session, incident)
        frames, total = quarantine.listed(session, wanted, limit, reviewed=reviewed)
    if as_json:
        print_json({"total": total, "frames": frames})
        return
    title = f"{total} frames that were set aside" if reviewed else f"{total} frames in quarantine"
    shown = table("incident", "camera", "epoch", "frame", "sealed (UTC)", "state", "why", title=title)
    for frame in frames:
        where = (frame.incident_id[:_SHORT], frame.camera, str(frame.epoch), str(frame.sequence))
        state = frame.state if frame.state is Standing.SEALED else f"{frame.state} by {plain(frame.reviewed_by)}"
        shown.add_row(*where, utc(frame.sealed_at), state, plain(frame.reason))
    Console().print(shown)


@app.command()
def release(  # noqa: PLR0917 - typer makes options of them
    incident: Id, comment: Comment, frame: Frame = None, actor: Actor = None, code: Code = None, as_json: AsJson = False
) -> None:
    """Let an incident's frames out of quarantine. Example: kerbwatch quarantine release 3f2a -m "fog, no attack".

    A data engineer (R4) and a SecMLOps engineer (R8) must, two different people, each giving this command within a day. The
    frames may be trained on again; the sealed files stay as evidence.
    """
    with logged_in(actor, code) as login:
        _decide(login, Deed.RELEASE, incident, frame, comment, as_json=as_json)


@app.command()
def discard(  # noqa: PLR0917 - typer makes options of them
    incident: Id, comment: Comment, frame: Frame = None, actor: Actor = None, code: Code = None, as_json: AsJson = False
) -> None:
    """Destroy an incident's frames in quarantine, for good. Example: kerbwatch quarantine discard 3f2a -m "faces, no consent".

    A data engineer (R4) and a SecMLOps engineer (R8) must, two different people, each giving this command within a day.
    """
    with logged_in(actor, code) as login:
        _decide(login, Deed.DISCARD, incident, frame, comment, as_json=as_json)


def _decide(login: Login, deed: Deed, incident: str, frame: str | None, comment: str, *, as_json: bool) -> None:
    with reading(login.sessions) as session:
        about = review.chosen(session, incident, frame)
    login.does(deed, about.target, comment, ("frames", str(len(about.frames))))
    now = datetime.now(UTC)
    with writing(login.sessions) as session:
        agreed = desk.agreement(session, deed, about.target, now)
        if not agreed.missing:
            again = review.chosen(session, incident, frame)
            if again.target != about.target:
                raise BadInput("other frames stand in quarantine than a moment ago: look again (`kerbwatch quarantine list`)")
            review.settle(session, login.settings, again, deed, agreed.people, comment, now)
            desk.use(session, agreed)
    if as_json:
        print_json({"frames": len(about.frames), "done": not agreed.missing, "by": agreed.people, "missing": agreed.missing})
    elif agreed.missing:
        typer.echo(
            f"{len(about.frames)} frames: on record; waits for {named(agreed.missing)}, another person, with the same command"
        )
    else:
        what = "released" if deed is Deed.RELEASE else "destroyed"
        typer.echo(f"{len(about.frames)} frames {what}, as {' and '.join(agreed.people)} decided")
