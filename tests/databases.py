"""Both databases for tests: SQLite in a file, and a throw-away PostgreSQL cluster started once a run where its binaries are.

Use: `pytest_plugins = ["databases"]` in a test module, then the fixtures `database` (settings) and `sessions` (migrated, empty).
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

from infra.db import Sessions, migrate, open_database
from infra.settings import Secret, Settings

_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a folder of its own is made in it
DIALECTS = ("sqlite", "postgresql")
_numbers = count()


def _binaries() -> Path | None:
    """Debian keeps them outside the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder for databases that nobody keeps: in memory, where the system has such a place."""
    with tempfile.TemporaryDirectory(prefix="kw-", dir=_MEMORY) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Address of a running cluster with a migrated database `template`; skips where PostgreSQL is not installed."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    as_user: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="kerbwatch-pg-", dir=_MEMORY))
    if os.getuid() == 0:  # initdb refuses root
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    data, port = folder / "data", _free_port()
    init = [*as_user, binaries / "initdb", "-D", data, "-U", "tests", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(init, cwd=folder, check=True, capture_output=True)
    options = ["-k", folder, "-h", "127.0.0.1", "-p", str(port), "-c", "fsync=off", "-c", "max_connections=40"]
    server = subprocess.Popen(
        [*as_user, binaries / "postgres", "-D", data, *options], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"postgresql://tests@127.0.0.1:{port}"
    try:
        _wait_for(server, f"{address}/postgres")
        _create(address, "template", "template1")
        migrate(Settings(database_url=Secret(f"{address}/template")))
        yield address
    finally:
        server.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
        server.wait(20)
        shutil.rmtree(folder)


def _wait_for(server: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(address, connect_timeout=2).close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _create(address: str, name: str, template: str) -> None:
    with psycopg.connect(f"{address}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')


@pytest.fixture(scope="session")
def fresh_postgresql(postgresql: str) -> Callable[[], Secret]:
    """Makes one more migrated, empty PostgreSQL database; its address."""

    def make() -> Secret:
        name = f"test{next(_numbers)}"
        _create(postgresql, name, "template")
        return Secret(f"{postgresql}/{name}")

    return make


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database, to be copied."""
    home = tmp_path_factory.mktemp("migrated")
    migrate(Settings(home=home))
    return home / "kerbwatch.db"


@pytest.fixture(params=DIALECTS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Settings of a migrated, empty database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_file"), tmp_path / "kerbwatch.db")
        yield Settings(home=tmp_path)
    else:
        yield Settings(home=tmp_path, database_url=request.getfixturevalue("fresh_postgresql")())


@pytest.fixture
def sessions(database: Settings) -> Iterator[Sessions]:
    """Sessions of that database; its connections are closed afterwards."""
    opened = open_database(database)
    yield opened
    opened.kw["bind"].dispose()
