"""The whole stack on one machine: what must exist before anything runs, and starting and stopping it.

`set_up` may be repeated at will: it makes what is missing and changes nothing else. Order of starting: keys, broker, topics and
permissions, database, weights, processes; of stopping: the reverse.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from inference.registry import Registry, shipped
from infra import certificates, clients, kafka, supervise
from infra.db import migrate, open_database
from infra.keys import quarantine_key
from infra.provision import provision
from infra.settings import Settings
from responders.playbooks import load
from responders.store import Store
from streams.events import Context, Mode

LOCAL_HOSTS = ("localhost", "127.0.0.1")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Weights:
    """The digests of the two models that every context starts with."""

    normal: str
    safe: str


def set_up(settings: Settings, now: datetime, say: Say) -> Weights:
    """Everything that must exist before the processes run; a broker on this machine is started, another one provisioned.

    `say` is told each step in plain words. Raises Unavailable or Tampered, naming the next step.
    """
    say("keys and certificates")
    certificates.make_certificates(settings, now)
    quarantine_key(settings)
    if settings.kafka_host in LOCAL_HOSTS:
        say(f"Kafka at {settings.bootstrap} (the first time its jars are fetched)")
        kafka.up(settings)
    else:
        say(f"topics and permissions on {settings.bootstrap}")
        with closing(clients.admin(settings)) as admin:
            provision(admin)
    say("database")
    migrate(settings)
    say("model registry")
    weights = install_weights(settings)
    store = open_store(settings)
    for context in Context:
        store.assign(context, weights.normal, weights.safe, now)
    return weights


def install_weights(settings: Settings) -> Weights:
    """The shipped models, put into the registry of this home and verified."""
    digests = shipped(Registry(settings.home / "registry"))
    return Weights(normal=digests[Mode.NORMAL], safe=digests[Mode.SAFE])


def open_store(settings: Settings) -> Store:
    """The incident store of this deployment."""
    return Store(open_database(settings), load(), settings.worker_lost_s, settings.clock_allowance_s)


def start(settings: Settings, now: datetime, say: Say) -> Weights:
    """Set up, then start all processes and wait until they stay alive."""
    weights = set_up(settings, now, say)
    say("inference worker, watcher, responder, keeper")
    supervise.up(settings)
    return weights


def stop(settings: Settings) -> bool:
    """Stop processes and the local broker; data stays. Returns whether anything ran."""
    ran = supervise.down(settings)
    return kafka.down(settings) or ran
