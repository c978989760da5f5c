"""`kerbwatch incidents ack|note|close`, and all else that people say to an incident: signed acts.

It turns a command into an act and gives it to the desk (`desk.py`) and, once admitted, to the store, like every other event; what
follows from it is sent by the responder. It refuses an act without a comment.

Source: paper 4.7 (defined roles and immediate actions), SC-10.
"""

from datetime import UTC, datetime
from typing import Annotated

import typer

from infra.db import reading
from responders import playbooks, records, rollout, rollout_cli
from responders.access import Deed
from responders.cli import AsJson, Comment, Id, app, print_json
from responders.incident import Act, Resolution, Verb
from responders.login import Actor, Code, Login, logged_in
from responders.roles import Role
from responders.store import Store
from streams.errors import BadInput

AsRole = Annotated[Role | None, typer.Option("--role", help="The role you act in, if you have several that would do.")]


@app.command()
def ack(incident: Id, comment: Comment, actor: Actor = None, as_json: AsJson = False) -> None:
    """Acknowledge: you have seen it and look after it. Example: kerbwatch incidents ack 3f2a -m "looking at the camera"."""
    with logged_in(actor) as login:
        _act(login, Verb.ACKNOWLEDGE, incident, comment, as_json=as_json)


@app.command()
def note(incident: Id, comment: Comment, actor: Actor = None, as_json: AsJson = False) -> None:
    """Add a note to the timeline. Example: kerbwatch incidents note 3f2a -m "sticker found on the lens"."""
    with logged_in(actor) as login:
        _act(login, Verb.NOTE, incident, comment, as_json=as_json)


@app.command()
def close(
    incident: Id,
    comment: Comment,
    resolution: Annotated[Resolution, typer.Option(help="What it was.")] = Resolution.HANDLED,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Close an incident; safe mode is undone first. Example: kerbwatch incidents close 3f2a --resolution false_alarm -m "a bus".

    It is closed once every live worker reports the normal model; closing it a second time does not wait for them.
    """
    if resolution is Resolution.RECOVERED:
        raise BadInput("recovered is what the system proves by itself; close with handled or false_alarm")
    with logged_in(actor) as login:
        _act(login, Verb.CLOSE, incident, comment, resolution=resolution, as_json=as_json)


@app.command()
def approve(  # noqa: PLR0917 - typer makes options of them
    incident: Id, comment: Comment, actor: Actor = None, code: Code = None, role: AsRole = None, as_json: AsJson = False
) -> None:
    """Approve the retrained model of an incident. Example: kerbwatch incidents approve 3f2a --actor data-scientist -m "gate read".

    Two different people must: a data scientist (R3) and a SecMLOps engineer (R8), each with their second factor.
    """
    with logged_in(actor, code) as login:
        rollout_cli.act(login, rollout.Verb.APPROVE, incident, comment, role, as_json=as_json)


@app.command()
def reject(incident: Id, comment: Comment, actor: Actor = None, code: Code = None, as_json: AsJson = False) -> None:
    """Reject the retrained model of an incident; one person is enough. Example: kerbwatch incidents reject 3f2a -m "no nights"."""
    with logged_in(actor, code) as login:
        rollout_cli.act(login, rollout.Verb.REJECT, incident, comment, as_json=as_json)


_DEEDS = {Verb.ACKNOWLEDGE: Deed.ACKNOWLEDGE, Verb.NOTE: Deed.NOTE, Verb.CLOSE: Deed.CLOSE}


def _act(
    login: Login, verb: Verb, incident: str, comment: str, *, as_json: bool, resolution: Resolution = Resolution.HANDLED
) -> None:
    settings, sessions = login.settings, login.sessions
    with reading(sessions) as session:
        id_ = records.find(session, incident)
    told = (("resolution", resolution.value),) if verb is Verb.CLOSE else ()
    admitted = login.does(_DEEDS[verb], id_, comment, *told)
    now = datetime.now(UTC)
    act = Act(admitted.id, now, id_, verb, login.name, comment, resolution)
    store = Store(sessions, playbooks.load(), settings.worker_lost_s, settings.clock_allowance_s)
    if not store.accept(act, now).decisions:
        raise BadInput(f"incident {id_} is closed; it takes notes only (`kerbwatch incidents note`)")
    with reading(sessions) as session:
        after = records.shown(session, id_).incident
    if as_json:
        print_json(after)
    elif verb is Verb.CLOSE and after.closed_at is None:
        typer.echo(f"incident {id_} is {after.state}: it closes once every live worker reports the normal model")
    else:
        typer.echo(f"incident {id_}: {verb} by {login.name} is on record; it is {after.state}")
