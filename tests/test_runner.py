"""Responders' names for their leases: never two alike among the living, and a dead one's at once for whoever follows it."""

import multiprocessing
import socket
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from incident_events import NORMAL, SAFE, at, signal
from test_responding import App

from infra.db import Sessions, migrate
from infra.metrics import Metrics, Service
from infra.settings import Settings
from responders.engine.effects import Carried, carry_out
from responders.engine.runner import claim
from responders.engine.store import Store
from responders.notify.channels import ChannelName
from responders.notify.deliveries import Delivered, deliver, dispatch
from responders.notify.notices import Notice
from responders.playbooks import playbooks
from streams.app import Rim
from streams.events import Context, Event, Phase
from streams.responding import Responder
from streams.topics import Topic

pytest_plugins = ["databases"]

LATER = at(60)


class Place:
    """Where one responder sends to, by a port and a channel; `between` happens while it sends for the first time."""

    def __init__(self, sessions: Sessions, name: str) -> None:
        self.sessions, self.runner = sessions, name
        self.sent: list[str] = []
        self.between: Callable[[], object] = list

    def carry(self) -> Carried:
        return carry_out(self.sessions, self, lambda: LATER, self.runner)

    def tell(self) -> Delivered:
        return deliver(self.sessions, Mail(self), lambda: LATER, self.runner)

    def got(self, *ids: str) -> None:
        first, self.sent = not self.sent, [*self.sent, *ids]
        if first:
            self.between()

    def send(self, _topic: Topic, _key: str, event: Event) -> None:
        self.got(event.id)


class Mail:
    """Its channel."""

    name = ChannelName.WEBHOOK

    def __init__(self, place: Place) -> None:
        self.place = place

    def send(self, notices: Sequence[Notice]) -> None:
        self.place.got(*(one.key for one in notices))


def attacked(sessions: Sessions) -> None:
    store = Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)
    for context in Context:
        store.assign(context, NORMAL, SAFE, at(0))
    store.accept(signal(Phase.RAISED, 10, 14), at(3))
    dispatch(sessions, [ChannelName.WEBHOOK], at(3))


def test_two_responders_of_one_name_send_nothing_twice(database: Settings, sessions: Sessions) -> None:
    attacked(sessions)
    claims = [claim(database), claim(database)]
    one, two = (Place(sessions, each.name) for each in claims)
    others: list[Carried] = []
    one.between = lambda: others.append(two.carry())
    assert one.carry().sent == len(one.sent) > 5
    assert others == [Carried()], "what the first is sending is not its namesake's to send"
    assert two.sent == []


def test_two_responders_of_one_name_tell_people_once(database: Settings, sessions: Sessions) -> None:
    attacked(sessions)
    claims = [claim(database), claim(database)]
    one, two = (Place(sessions, each.name) for each in claims)
    others: list[Delivered] = []
    one.between = lambda: others.append(two.tell())
    assert one.tell() == Delivered(sent=1)
    assert others == [Delivered()]
    assert two.sent == []


def hold(settings: Settings, told: Connection) -> None:
    """A responder's life: it says its name, and lives until it is killed."""
    mine = claim(settings)
    told.send(mine.name)
    told.recv()


def test_a_name_goes_to_the_next_as_soon_as_its_holder_is_killed_and_not_before(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(settings, there))
    process.start()
    assert here.poll(60)
    held = here.recv()
    beside = claim(settings)
    assert (beside.taken, beside.name != held) == (True, True)
    process.kill()
    process.join(30)
    after = claim(settings)
    assert (after.taken, after.name) == (False, held)
    assert after.name.startswith(f"responder-1/{socket.gethostname()}/")
    assert claim(Settings(home=tmp_path, responder_id="responder-2")).name != held


def test_homes_and_hosts_share_no_name_and_where_there_are_no_locks_nobody_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = claim(Settings(home=tmp_path / "a"))
    assert claim(Settings(home=tmp_path / "b")).name != first.name
    (tmp_path / "copy" / "run").mkdir(parents=True)
    (tmp_path / "copy" / "run" / "responder-1.lock").write_bytes((tmp_path / "a" / "run" / "responder-1.lock").read_bytes())
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    copied = claim(Settings(home=tmp_path / "copy"))
    assert copied.name.split("/")[2] == first.name.split("/")[2]
    assert copied.name != first.name

    def no_locks(*_: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert claim(Settings(home=tmp_path / "c")).name != claim(Settings(home=tmp_path / "c")).name


def test_responders_started_twice_in_one_home_hold_their_work_apart(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    migrate(settings)
    rims = [Rim(App(), Service.RESPOND, Metrics(Service.RESPOND)) for _ in range(2)]  # type: ignore[arg-type]
    names = [responder._runner for responder in [Responder(rim, settings) for rim in rims]]
    assert len(set(names)) == 2
    assert all(name.startswith("responder-1/") for name in names)
