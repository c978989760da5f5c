"""What several test files share: a clean environment, and the real broker, started once a run."""

import gc
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from infra import clients, kafka
from infra.provision import provision
from infra.settings import Settings, read_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees the developer's own settings."""
    for name in list(os.environ):
        if name.startswith("KERBWATCH_") and name not in {"KERBWATCH_CACHE", "KERBWATCH_SHARED_DATA"}:
            monkeypatch.delenv(name)
    yield
    gc.unfreeze()  # a test that calls `main` must not keep the others' garbage


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], tuple[int, ...]]:
    """Hands out that many ports that nobody listens on, none twice."""
    given: set[int] = set()

    def hand_out(count: int) -> tuple[int, ...]:
        ports: list[int] = []
        while len(ports) < count:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            if port not in given:
                given.add(port)
                ports.append(port)
        return tuple(ports)

    return hand_out


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A home of this run; its path is short, because a Unix socket's may have 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="kw-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def broker(home: Path, free_ports: Callable[[int], tuple[int, ...]]) -> Iterator[Settings]:
    """The settings of a real broker that runs, with topics and permissions, for the whole run."""
    port, controller = free_ports(2)
    settings = replace(read_settings(), home=home, kafka_port=port, kafka_controller_port=controller)
    try:
        kafka.up(settings)
        yield settings
    finally:
        kafka.down(settings)


@pytest.fixture(scope="session")
def fresh_topics() -> Callable[[Settings], None]:
    """A function that empties a broker between two stories: every topic and consumer group goes, the table's topics come anew.

    Stop whoever reads and writes first; it waits for killed members of groups to lapse.
    """

    def empty(settings: Settings) -> None:
        until = time.monotonic() + 30
        with closing(clients.admin(settings)) as admin:
            while groups := [group["group_id"] for group in admin.list_groups()]:
                assert time.monotonic() < until, f"somebody is still in {groups}"
                admin.delete_groups(groups)
                time.sleep(0.1)
            topics = [name for name in admin.list_topics() if not name.startswith("__")]
            if topics:
                admin.delete_topics(topics)
            # The broker's own view lags behind the deletion; topics that it still shows would not be made anew.
            while [name for name in admin.list_topics() if not name.startswith("__")]:
                assert time.monotonic() < until, "topics do not go"
                time.sleep(0.1)
            provision(admin)

    return empty
