"""`kerbwatch incidents ack|note|assign|snooze|reclassify|approve|reject|close`: what people say to an incident, signed.

It turns a command into an act and gives it to the desk (`desk.py`) and, once admitted, to the store, like every other event; what
follows from it is sent by the responder. What only an act needs, the act loads: a list does not wait for it. It refuses an act
without a comment, and says in plain words why another was refused.

Source: paper 4.7 (defined roles and immediate actions), SC-10.
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer
from msgspec.structs import replace

from infra.db import reading
from infra.tables import IncidentRow
from responders.console.tables import AsJson, Comment, Id, app, complete_person, plain, print_json
from responders.engine import records
from responders.engine.incident import Act, Resolution, Verb
from responders.engine.past import incident_of
from responders.people import people
from responders.people.access import Deed
from responders.people.login import Actor, Code, Login, logged_in
from responders.people.roles import Role, named
from responders.playbooks.playbooks import State
from streams.errors import BadInput
from streams.events import Kind

__all__ = ["app"]


class What(StrEnum):
    """What may wait for people's approval in an incident."""

    STEP = "step"  # of its playbook
    MODEL = "model"  # that was retrained for it


AsRole = Annotated[Role | None, typer.Option("--role", help="The role you act in for a model, if you have both (R3, R8).")]
Which = Annotated[What | None, typer.Option("--what", help="Which of the two, where both wait.")]
AsStep = Annotated[str | None, typer.Option("--step", help="The step you mean; the one that is asked for now, if not given.")]
_DEEDS = {
    Verb.ACKNOWLEDGE: Deed.ACKNOWLEDGE,
    Verb.NOTE: Deed.NOTE,
    Verb.ASSIGN: Deed.ASSIGN,
    Verb.SNOOZE: Deed.SNOOZE,
    Verb.RECLASSIFY: Deed.RECLASSIFY,
    Verb.APPROVE: Deed.APPROVE_STEP,
    Verb.REJECT: Deed.REJECT_STEP,
    Verb.CLOSE: Deed.CLOSE,
}
_LONGEST_SNOOZE_H = 72.0


@app.command()
def ack(incident: Id, comment: Comment, actor: Actor = None, as_json: AsJson = False) -> None:
    """Acknowledge: you have seen it and look after it. Example: kerbwatch incidents ack 3f2a -m "looking at the camera"."""
    with logged_in(actor) as login:
        _say(login, Verb.ACKNOWLEDGE, incident, comment, as_json=as_json)


@app.command()
def note(incident: Id, comment: Comment, actor: Actor = None, as_json: AsJson = False) -> None:
    """Add a note to the timeline. Example: kerbwatch incidents note 3f2a -m "sticker found on the lens"."""
    with logged_in(actor) as login:
        _say(login, Verb.NOTE, incident, comment, as_json=as_json)


@app.command()
def assign(
    incident: Id,
    comment: Comment,
    to: Annotated[str, typer.Option(help="Who looks after it from now on.", autocompletion=complete_person)],
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Hand an incident to somebody. Example: kerbwatch incidents assign 3f2a --to data-scientist -m "drift is yours"."""
    with logged_in(actor) as login:
        with reading(login.sessions) as session:
            names = [person.name for person in people.listed(session)]
        if to not in names:
            raise BadInput(f"nobody is called {to!r}; {records.nearest(to, names) or 'see `kerbwatch people list`'}")
        _say(login, Verb.ASSIGN, incident, comment, ("to", to), as_json=as_json, assignee=to)


@app.command()
def snooze(
    incident: Id,
    comment: Comment,
    hours: Annotated[float, typer.Option(min=0.01, max=_LONGEST_SNOOZE_H, help="For so long.")] = 1.0,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Silence an incident's paging for a while. Example: kerbwatch incidents snooze 3f2a --hours 2 -m "parts are on the way"."""
    with logged_in(actor) as login:
        until = datetime.now(UTC) + timedelta(hours=hours)
        _say(login, Verb.SNOOZE, incident, comment, ("until", until.isoformat()), as_json=as_json, until=until)


@app.command()
def reclassify(
    incident: Id,
    comment: Comment,
    kind: Annotated[Kind, typer.Option(help="What it really is.")],
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Say what an incident really is. Example: kerbwatch incidents reclassify 3f2a --kind drift -m "fog".

    The steps that remain are that kind's; what is done stays done.
    """
    with logged_in(actor) as login:
        _say(login, Verb.RECLASSIFY, incident, comment, ("kind", kind.value), as_json=as_json, kind=kind)


@app.command()
def close(
    incident: Id,
    comment: Comment,
    resolution: Annotated[Resolution, typer.Option(help="What it was.")] = Resolution.HANDLED,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Close an incident; safe mode is undone first. Example: kerbwatch incidents close 3f2a --resolution false_alarm -m "a bus".

    It is closed once every live worker reports the normal model; closing it a second time does not wait for them. Where people have
    to do something before a model under suspicion may come back, it is closed once they have approved that step.
    """
    if resolution not in {Resolution.HANDLED, Resolution.FALSE_ALARM}:
        raise BadInput(f"{resolution} is what the system proves by itself; close with handled or false_alarm")
    with logged_in(actor) as login:
        _say(login, Verb.CLOSE, incident, comment, ("resolution", resolution.value), as_json=as_json, resolution=resolution)


@app.command()
def approve(  # noqa: PLR0917 - typer makes options of them
    incident: Id,
    comment: Comment,
    actor: Actor = None,
    code: Code = None,
    role: AsRole = None,
    what: Which = None,
    step: AsStep = None,
    as_json: AsJson = False,
) -> None:
    """Approve what waits: a playbook's step or a retrained model. Example: kerbwatch incidents approve 3f2a -m "gate read".

    A model needs two different people: a data scientist (R3) and a SecMLOps engineer (R8). A step names the roles that it needs.
    Each shows a second factor. What is signed names the step and counts for no other (--step, or the one that is shown).
    """
    with logged_in(actor, code) as login:
        if _waiting(login, incident, What.STEP if step else what) is What.STEP:
            _answer(login, Verb.APPROVE, incident, comment, step, as_json=as_json)
        else:
            from responders.console import rollouts
            from responders.rollouts import rollout

            rollouts.act(login, rollout.Verb.APPROVE, incident, comment, role, as_json=as_json)


@app.command()
def reject(  # noqa: PLR0917 - typer makes options of them
    incident: Id,
    comment: Comment,
    actor: Actor = None,
    code: Code = None,
    what: Which = None,
    step: AsStep = None,
    as_json: AsJson = False,
) -> None:
    """Reject what waits for approval; one person is enough. Example: kerbwatch incidents reject 3f2a -m "no nights"."""
    with logged_in(actor, code) as login:
        if _waiting(login, incident, What.STEP if step else what) is What.STEP:
            _answer(login, Verb.REJECT, incident, comment, step, as_json=as_json)
        else:
            from responders.console import rollouts
            from responders.rollouts import rollout

            rollouts.act(login, rollout.Verb.REJECT, incident, comment, as_json=as_json)


def _waiting(login: Login, text: str, what: What | None) -> What:
    """What of an incident waits for approval: its step where there is no model, so that the refusal is on record.

    Raises BadInput where both wait and nobody says which, and where there is neither incident nor rollout.
    """
    from responders.rollouts import rollout
    from responders.rollouts import store as rollout_store

    asks: tuple[Role, ...] = ()
    unknown: BadInput | None = None
    with reading(login.sessions) as session:
        try:
            asks = incident_of(session.get_one(IncidentRow, records.find(session, text))).asks
        except BadInput as error:
            unknown = error  # or a rollout's own id
        try:
            model = rollout_store.find(session, text).state is rollout.State.AWAITING_APPROVAL
        except BadInput as error:
            if what is What.MODEL:
                raise
            if unknown is not None:
                raise unknown from error
            return What.STEP
    if asks and model and what is None:
        raise BadInput(f"a step (by {named(asks)}) and a retrained model wait: say which, --what step or --what model")
    return what or (What.STEP if asks else What.MODEL)


def _answer(login: Login, verb: Verb, text: str, comment: str, step: str | None, *, as_json: bool) -> None:
    """Show what is asked for, and sign a yes or no to that step on that occasion."""
    with reading(login.sessions) as session:
        incident = incident_of(session.get_one(IncidentRow, records.find(session, text)))
    asking = incident.asking if step is None else replace(incident.asking, step=step)
    if incident.asks and asking == incident.asking:
        typer.echo(f"{verb} step {asking.step}, asked for of {named(incident.asks)}: {incident.step.text}", err=True)
    told = (("step", asking.step), ("asking", str(asking.number)))
    _say(login, verb, incident.id, comment, *told, as_json=as_json, asking=asking)


def _say(login: Login, verb: Verb, incident: str, comment: str, *told: tuple[str, str], as_json: bool, **more: Any) -> None:
    """Sign an act, have it admitted, carry it out, say what came of it; `told` is signed with it, `more` are the act's fields."""
    settings, sessions = login.settings, login.sessions
    with reading(sessions) as session:
        id_ = records.find(session, incident)
    admitted = login.does(_DEEDS[verb], id_, comment, *told)
    now = datetime.now(UTC)
    from responders.engine.store import Store
    from responders.playbooks.chosen import choose

    chosen = choose(settings.playbooks)
    for fault in chosen.faults if verb is Verb.RECLASSIFY else ():
        typer.echo(fault, err=True)
    store = Store(sessions, chosen.books, settings.worker_lost_s, settings.clock_allowance_s)
    done = store.accept(Act(admitted.id, now, id_, verb, login.name, comment, roles=admitted.roles, **more), now).decisions
    refused = next((decision.what for decision in done if decision.action == "refused"), None)
    if refused is not None:
        raise BadInput(f"{refused}. This is on record; see `kerbwatch incidents show {id_[:8]}`", on_record=True)
    if not done:
        raise BadInput(f'incident {id_} is closed; it takes notes only: `kerbwatch incidents note {id_[:8]} -m "..."`')
    with reading(sessions) as session:
        after = records.shown(session, id_).incident
    if as_json:
        print_json(after)
    elif verb is Verb.CLOSE and after.state is State.RECOVERING:
        typer.echo(f"incident {id_} is {after.state}: it closes once every live worker reports the normal model")
    elif verb is Verb.CLOSE and after.closed_at is None:
        typer.echo(f"incident {id_} is {after.state} still. {plain(done[0].what)}")
    else:
        typer.echo(f"incident {id_}: {verb} by {plain(login.name)} is on record; it is {after.state}")
