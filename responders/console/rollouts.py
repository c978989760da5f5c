"""`kerbwatch rollouts`, and what people say to a retrained model: how it gets its two signatures.

It decides how rollouts are shown and turns a command into a signed act; who may do what is decided in `access.py` and `rollout.py`.

Source: paper 4.6 (approval by R3 and R8), SC-10.
"""

from datetime import UTC, datetime
from typing import Annotated

import typer
from msgspec.structs import asdict
from rich.console import Console

from infra.db import reading
from infra.settings import read_settings
from responders.console.tables import AsJson, completed, opened, plain, print_json, table, utc
from responders.engine.store import Store
from responders.people.login import Login
from responders.people.roles import Role, named
from responders.playbooks.chosen import in_force
from responders.rollouts import store as rollout_store
from responders.rollouts.comparison import figures
from responders.rollouts.rollout import DEEDS, Rollout, State, Verb
from responders.rollouts.store import Former, Rollouts, nobody_goes_back

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Retrained models on their way into service.")


def complete_rollout(incomplete: str) -> list[tuple[str, str]]:
    """Ids of the newest rollouts that begin so."""
    return completed(
        incomplete.lower(), lambda session: [(row.id, f"{row.context}, {row.state}") for row in rollout_store.listed(session)]
    )


RolloutId = Annotated[
    str, typer.Argument(help="The rollout's id or its incident's, or the beginning of it.", autocompletion=complete_rollout)
]


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
        shown.add_row(row.id[:8], row.incident_id[:8], row.context, row.state, candidate, asked, plain(_waits_for(row)))
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
    console.print(f"state {found.state}{f': {plain(found.why)}' if found.why else ''}; waits for: {plain(_waits_for(found))}")
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


def act(
    login: Login,
    verb: Verb,
    text: str,
    comment: str,
    role: Role | None = None,
    *,
    former: Former = nobody_goes_back,
    as_json: bool,
) -> None:
    """A person's word on the rollout that `text` names, signed; `former` chooses what comes back for a normal model that goes.

    Raises BadInput in plain words for what is refused.
    """
    settings, sessions = login.settings, login.sessions
    with reading(sessions) as session:
        found = rollout_store.find(session, text)
    told = () if role is None else (("role", role.value),)
    admitted = login.does(DEEDS[verb], found.id, comment, *told)
    store = Store(sessions, in_force(settings), settings.worker_lost_s, settings.clock_allowance_s)
    after = Rollouts(store, former=former).act(found.id, verb, login.name, comment, role, datetime.now(UTC), id_=admitted.id)
    if as_json:
        print_json(after)
    else:
        if lapsed := [given.actor for given in found.approvals if given not in after.approvals]:
            typer.echo(f"the approval by {', '.join(lapsed)} counts no more: it is more than a day old, or the role is gone")
        typer.echo(f"rollout {after.id[:8]}: {verb} is on record; it is {after.state}, waits for: {_waits_for(after)}")


def _waits_for(rollout: Rollout) -> str:
    match rollout.state:
        case State.REQUESTED | State.TRAINING | State.GATING:
            if rollout.paused:
                return f"`kerbwatch rollouts resume {rollout.id[:8]}`: the run is paused"
            return rollout.escalated or f"the run ({rollout.step or 'not begun'}, {rollout.left_s:.0f} s left)"
        case State.AWAITING_APPROVAL:
            return f"approval by {named(rollout.missing)}"
        case State.SHADOW | State.CANARY | State.FULL:
            return "frames and time" if rollout.reported else "the workers' reports"
        case _:
            return "nothing"
