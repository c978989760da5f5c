"""`kerbwatch incidents approve|reject`, `kerbwatch rollouts` and `kerbwatch people`: how a retrained model gets its two signatures.

It decides how rollouts are shown and turns a command into an act; who may do what is decided in `rollout.py` and is put on record.

Source: paper 4.6 (approval by R3 and R8), SC-10.
"""

import getpass
from datetime import UTC, datetime
from typing import Annotated

import typer
from msgspec.structs import asdict
from rich.console import Console

from infra.db import reading, writing
from infra.settings import read_settings
from responders import people, playbooks, rollout_store
from responders.cli import Actor, AsJson, Comment, Id, opened, plain, print_json, table, utc
from responders.comparison import figures
from responders.roles import Role, named
from responders.rollout import APPROVERS, Rollout, State, Verb
from responders.rollout_store import Rollouts
from responders.store import Store

app = typer.Typer(no_args_is_help=True, help="Retrained models on their way into service.")
people_app = typer.Typer(no_args_is_help=True, help="Who may approve: people and their roles.")

RolloutId = Annotated[str, typer.Argument(help="The rollout's id or its incident's, or the beginning of it.")]
AsRole = Annotated[Role | None, typer.Option("--role", help="The role you act in, if you have both (R3, R8).")]


def approve(incident: Id, comment: Comment, actor: Actor = None, role: AsRole = None, as_json: AsJson = False) -> None:
    """Approve the retrained model of an incident. Example: kerbwatch incidents approve 3f2a --actor data-scientist -m "gate read".

    Two different people must: a data scientist (R3) and a SecMLOps engineer (R8).
    """
    _act(Verb.APPROVE, incident, comment, actor, role, as_json=as_json)


def reject(incident: Id, comment: Comment, actor: Actor = None, as_json: AsJson = False) -> None:
    """Reject the retrained model of an incident; one person is enough. Example: kerbwatch incidents reject 3f2a -m "no nights"."""
    _act(Verb.REJECT, incident, comment, actor, None, as_json=as_json)


@app.command()
def cancel(rollout: RolloutId, comment: Comment, actor: Actor = None, as_json: AsJson = False) -> None:
    """Stop a rollout; a candidate in service goes at once. Example: kerbwatch rollouts cancel 9c1e -m "a better one comes"."""
    _act(Verb.CANCEL, rollout, comment, actor, None, as_json=as_json)


@app.command("list")
def list_rollouts(
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50, as_json: AsJson = False
) -> None:
    """List rollouts, newest first; times are UTC. Example: kerbwatch rollouts list."""
    with opened(read_settings()) as sessions, reading(sessions) as session:
        rows = rollout_store.listed(session, limit)
    if as_json:
        print_json(rows)
        return
    if not rows:
        typer.echo("no rollout so far; `kerbwatch retrain` begins one")
        return
    shown = table("id", "incident", "context", "state", "candidate", "asked for (UTC)", "waits for")
    for row in rows:
        candidate, asked = row.candidate_digest[:12] or "-", utc(row.requested_at)
        shown.add_row(row.id[:8], row.incident_id[:8], row.context, row.state, candidate, asked, _waits_for(row))
    Console().print(shown)


@app.command()
def show(rollout: RolloutId, as_json: AsJson = False) -> None:
    """Show one rollout: where it is, gate, approvals, live figures. Example: kerbwatch rollouts show 9c1e."""
    with opened(read_settings()) as sessions, reading(sessions) as session:
        found = rollout_store.find(session, rollout)
        seen = figures(rollout_store.tally_of(session, found).since(found.base))
    if as_json:
        print_json({"rollout": found, "figures": seen})
        return
    console = Console()
    console.print(f"[bold]rollout {found.id}[/]  {found.context}, for incident {found.incident_id[:8]}")
    console.print(f"state {found.state}{f': {plain(found.why)}' if found.why else ''}; waits for: {_waits_for(found)}")
    console.print(f"normal model {found.normal_digest[:12]}, candidate {found.candidate_digest[:12] or 'not yet made'}")
    if found.gate:
        console.print(f"gate: {plain(found.gate)}")
    approvals = table("role", "who", "when (UTC)", "why", title="approvals")
    for given in found.approvals:
        approvals.add_row(named([given.role]), plain(given.actor), utc(given.time), plain(given.comment))
    for role in found.missing:
        approvals.add_row(named([role]), "[yellow]missing[/]", "", "")
    console.print(approvals)
    console.print(f"live, in this step: {seen or 'no frame yet'}")
    limits = ", ".join(f"{name} {value:g}" for name, value in asdict(found.limits).items())
    console.print(f"held to: {limits}")


@people_app.command("add")
def add_person(
    name: Annotated[str, typer.Argument(help="What `--actor` calls them.")],
    role: Annotated[list[Role], typer.Option(help="R1 to R8; several times for several roles.")],
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Let somebody act in these roles and no others. Example: kerbwatch people add data-scientist --role R3."""
    with opened(read_settings()) as sessions, writing(sessions) as session:
        person = people.put(session, name, role, actor or getpass.getuser(), datetime.now(UTC))
    if as_json:
        print_json(person)
    else:
        typer.echo(f"{plain(person.name)} acts as {named(person.roles)}")


@people_app.command("remove")
def remove_person(name: Annotated[str, typer.Argument(help="Who.")], actor: Actor = None) -> None:
    """Let somebody act no longer; what they did stays on record. Example: kerbwatch people remove data-scientist."""
    with opened(read_settings()) as sessions, writing(sessions) as session:
        people.drop(session, name, actor or getpass.getuser(), datetime.now(UTC))
    typer.echo(f"{plain(name)} may act no longer")


@people_app.command("list")
def list_people(as_json: AsJson = False) -> None:
    """List who may act in which roles. Example: kerbwatch people list."""
    with opened(read_settings()) as sessions, reading(sessions) as session:
        everybody = people.listed(session)
    if as_json:
        print_json(everybody)
        return
    if not everybody:
        typer.echo(f"nobody yet; approvals need {named(APPROVERS)}: `kerbwatch people add NAME --role R3`")
        return
    shown = table("name", "roles", "since (UTC)")
    for person in everybody:
        shown.add_row(plain(person.name), named(person.roles), utc(person.changed_at))
    Console().print(shown)


def _act(verb: Verb, text: str, comment: str, actor: str | None, role: Role | None, *, as_json: bool) -> None:
    settings = read_settings()
    with opened(settings) as sessions:
        with reading(sessions) as session:
            found = rollout_store.find(session, text)
        store = Store(sessions, playbooks.load(), settings.worker_lost_s, settings.clock_allowance_s)
        after = Rollouts(store).act(found.id, verb, actor or getpass.getuser(), comment, role, datetime.now(UTC))
    if as_json:
        print_json(after)
    else:
        typer.echo(f"rollout {after.id[:8]}: {verb} is on record; it is {after.state}, waits for: {_waits_for(after)}")


def _waits_for(rollout: Rollout) -> str:
    match rollout.state:
        case State.REQUESTED | State.TRAINING | State.GATING:
            return rollout.escalated or f"the run ({rollout.step or 'not begun'}, {rollout.left_s:.0f} s left)"
        case State.AWAITING_APPROVAL:
            return f"approval by {named(rollout.missing)}"
        case State.SHADOW | State.CANARY | State.FULL:
            return "frames and time" if rollout.reported else "the workers' reports"
        case _:
            return "nothing"
