"""`kerbwatch models promote|rollback`: people bring a model into service, or go back to the one before, by signed acts.

It decides nothing about models: `streams.promotion` does; it refuses to name one before two people (R3 and R8) have said so of the
very same model, context and mode. No topic feeds it.

Source: paper 4.5.3, 4.6 (approval by R3 and R8, immediate roll-back), SC-6, SC-10.
"""

from datetime import UTC, datetime
from typing import Annotated

import typer

from inference.provenance.registry import registry_of
from infra.db import writing
from responders.console.tables import AsJson, Comment, print_json
from responders.engine.store import Store
from responders.people import desk
from responders.people.access import Deed
from responders.people.login import Actor, Code, logged_in
from responders.people.roles import named
from responders.playbooks.chosen import in_force
from responders.rollouts.store import Rollouts
from streams import promotion
from streams.console.models import Model, find
from streams.events import Context, Mode

_SHORT = 12

InContext = Annotated[Context, typer.Option("--context", help="Where it is to serve.")]
InMode = Annotated[Mode, typer.Option("--mode", help="As which of the context's two models.")]


def promote(  # noqa: PLR0917 - typer makes options of them
    model: Model,
    context: InContext,
    comment: Comment,
    mode: InMode = Mode.NORMAL,
    actor: Actor = None,
    code: Code = None,
    as_json: AsJson = False,
) -> None:
    """Let a model serve a context, all of it at once; the gate must have passed it for that context.

    A data scientist (R3) and a SecMLOps engineer (R8) must, two different people, each giving this command within a day.

    Example: `kerbwatch models promote 4f2a --context urban -m "better at night"`
    """
    with logged_in(actor, code) as login:
        registry = registry_of(login.settings)
        digest = find(registry, model)
        target = f"{digest}/{context}/{mode}"
        login.wants(Deed.PROMOTE, target)
        promotion.require_fit(registry, login.settings, digest, context, mode)
        login.does(Deed.PROMOTE, target, comment)
        now, changed = datetime.now(UTC), None
        with writing(login.sessions) as session:
            agreed = desk.agreement(session, Deed.PROMOTE, target, now)
            if not agreed.missing:
                people = agreed.people
                changed = promotion.promote(
                    session, registry, login.settings, digest, context, mode, by=people, comment=comment, now=now
                )
                desk.use(session, agreed)
    if changed is not None:
        _report(changed, as_json=as_json)
    elif as_json:
        print_json({"digest": digest, "by": agreed.people, "missing": agreed.missing})
    else:
        typer.echo(f"{digest[:_SHORT]}: on record; waits for {named(agreed.missing)}, another person, with the same command")


def rollback(
    context: InContext, comment: Comment, mode: InMode = Mode.NORMAL, actor: Actor = None, as_json: AsJson = False
) -> None:
    """Go back at once to the last model that served there before, verifies and is not suspected; one person may.

    A rollout that is in service there is cancelled by it.

    Example: `kerbwatch models rollback --context urban -m "misses cyclists"`
    """
    with logged_in(actor) as login:
        act = login.does(Deed.ROLL_BACK, f"{context}/{mode}", comment)
        now, settings = datetime.now(UTC), login.settings
        rollouts = Rollouts(Store(login.sessions, in_force(settings), settings.worker_lost_s, settings.clock_allowance_s))
        with writing(login.sessions) as session:
            changed = promotion.rollback(
                session, rollouts, registry_of(settings), settings, context, mode,
                actor=login.name, comment=comment, now=now, act_id=act.id,
            )  # fmt: skip
    _report(changed, as_json=as_json)


def _report(changed: promotion.Changed, *, as_json: bool) -> None:
    if as_json:
        print_json(changed)
    elif changed.before == changed.digest:
        typer.echo(f"{changed.digest[:_SHORT]} is the {changed.mode} model of {changed.context} already; nothing was changed")
    else:
        gate = f", judged by the {changed.rules} rules" if changed.rules else ""
        typer.echo(
            f"{changed.digest[:_SHORT]} follows {changed.before[:_SHORT]} as the {changed.mode} model of {changed.context}{gate}; "
            f"workers take it at decision {changed.decision_id[:8]}: see `kerbwatch models list`"
        )
    if changed.cancelled and not as_json:
        typer.echo(f"rollout {changed.cancelled[:8]} is cancelled: see `kerbwatch rollouts show {changed.cancelled[:8]}`")
