"""The whole stack on one machine: what must exist before anything runs, and starting and stopping it.

`set_up` may be repeated at will: it makes what is missing and changes nothing else. Weights that a later version ships go into the
registry only: what serves goes on serving, and `set_up` says so. Order of starting: keys, broker, topics and
permissions, database, weights, processes; of stopping: the reverse.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer

from inference.provenance.registry import registry_of, shipped
from infra import certificates, clients, kafka, supervise
from infra.cli import show_all
from infra.db import migrate, open_database, reading
from infra.keys import model_key, quarantine_key
from infra.metrics import Service
from infra.provision import provision
from infra.settings import Settings, read_settings
from responders.engine import assignments
from responders.engine.store import Store
from responders.people.login import first_operator
from responders.playbooks.chosen import in_force
from streams.events import Context, Mode
from streams.policy import DEMO_MARK

Say = Callable[[str], None]


@dataclass(frozen=True)
class Weights:
    """The digests of the two models that this version ships; a new context starts with them."""

    normal: str
    safe: str


def set_up(settings: Settings, now: datetime, say: Say) -> Weights:
    """Everything that must exist before the processes run; a broker on this machine is started, another one provisioned.

    `say` is told each step in plain words. Raises Unavailable or Tampered, naming the next step.
    """
    say("keys and certificates")
    certificates.make_certificates(settings, now)
    quarantine_key(settings)
    if settings.kafka_host in kafka.LOCAL_HOSTS:
        say(f"Kafka at {settings.bootstrap} (the first time its jars are fetched)")
        kafka.up(settings)
    else:
        say(f"topics and permissions on {settings.bootstrap}")
        with closing(clients.admin(settings)) as admin:
            provision(admin)
    say("database")
    migrate(settings)
    if name := first_operator(settings, now):
        say(f"first operator: {name} (`kerbwatch people whoami` says what that is)")
    say("model registry")
    weights = install_weights(settings)
    store = open_store(settings)
    for context in Context:
        store.assign(context, weights.normal, weights.safe, now)
    for line in unjudged(store, weights):
        say(line)
    return weights


def unjudged(store: Store, weights: Weights) -> tuple[str, ...]:
    """A line for each shipped model that never served: what goes on serving in its place, and how it is brought into service."""
    lines = []
    with reading(store.sessions) as session:
        for mode, digest in ((Mode.NORMAL, weights.normal), (Mode.SAFE, weights.safe)):
            contexts = [context for context in Context if assignments.never_named(session, context, mode, digest)]
            if contexts:
                serving = {context: assignments.assigned(session, context, mode)[:12] for context in contexts}
                kept = ", ".join(f"{now} in {context}" for context, now in serving.items())
                lines.append(
                    f"this version ships another {mode} model, {digest[:12]}: it is in the registry and serves nothing; the former "
                    f"go on serving ({kept}). To bring it in: `kerbwatch gate {digest[:12]}`, then for each context `kerbwatch "
                    f"models promote {digest[:12]} --mode {mode} --context {contexts[0]} -m WHY` by two people"
                )
    return tuple(lines)


def install_weights(settings: Settings) -> Weights:
    """The shipped models, put into the registry of this home, signed with its own key and verified."""
    model_key(settings)
    digests = shipped(registry_of(settings))
    return Weights(normal=digests[Mode.NORMAL], safe=digests[Mode.SAFE])


def open_store(settings: Settings) -> Store:
    """The incident store of this deployment."""
    return Store(open_database(settings), in_force(settings), settings.worker_lost_s, settings.clock_allowance_s)


def start(settings: Settings, now: datetime, say: Say, services: Sequence[Service] = tuple(Service)) -> Weights:
    """Set up, then start these processes and wait until they stay alive."""
    weights = set_up(settings, now, say)
    say(f"processes: {', '.join(services)}")
    supervise.up(settings, services)
    return weights


def stop(settings: Settings) -> bool:
    """Stop processes and the local broker; data stays. Returns whether anything ran."""
    ran = supervise.down(settings)
    return kafka.down(settings) or ran


def setup_command() -> None:
    """Make keys, broker, topics, database and model registry, and start no process. Example: `kerbwatch setup`."""
    settings = read_settings()
    (settings.home / DEMO_MARK).unlink(missing_ok=True)
    weights = set_up(settings, datetime.now(UTC), _print_step)
    typer.echo(f"shipped weights: {weights.normal[:12]} normal, {weights.safe[:12]} safe")


def up_command(
    services: Annotated[list[Service] | None, typer.Argument(help="Only these processes; all if none is named.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Set up and start everything; repeat it freely. Example: `kerbwatch up`."""
    settings = read_settings()
    (settings.home / DEMO_MARK).unlink(missing_ok=True)
    start(settings, datetime.now(UTC), _print_step, tuple(services or Service))
    show_all(settings, as_json=as_json)


def _print_step(step: str) -> None:
    typer.echo(f"setting up: {step}", err=True)
