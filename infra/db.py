"""The database: opening it, reading, writing, migrating; SQLite in `home` by default, PostgreSQL by address.

It decides how transactions run so that both databases behave alike: a writer on SQLite takes the lock at once (BEGIN IMMEDIATE)
and so never loses work half-way, writers take turns, readers never wait (WAL). It refuses to let a driver's error out, and to make
a database where one is merely looked for: what cannot be reached is `Unavailable`, and no message shows a password. No topic feeds
it.

Source: design (infra), https://www.sqlite.org/wal.html, SQLAlchemy 2.0 "pysqlite: transactional DDL and SAVEPOINT".
"""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session, sessionmaker

from infra.job_tables import JobRow  # noqa: F401 - its tables belong to the others
from infra.people_tables import PersonRow  # noqa: F401 - same
from infra.settings import Settings
from infra.tables import Table
from streams.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

Sessions = sessionmaker[Session]

AT_ONCE = 200
"""Conditions in one OR: SQLite takes fewer than 500 that are two deep."""
_BUSY_S = 15.0
"""A writer waits so long for another; longer means that one hangs, and waiting on would hide it."""
_CONNECT_S = 5
_MIGRATIONS = Path(__file__).parent / "migrations"
_UNMIGRATED = ("no such table", "no such column", "does not exist")


def open_database(settings: Settings) -> Sessions:
    """Sessions of the database that the settings name; nothing is connected yet.

    Raises BadInput if the address is not one of SQLite or PostgreSQL.
    """
    return sessionmaker(engine_of(settings), expire_on_commit=False)


def engine_of(settings: Settings, *, make: bool = False) -> Engine:
    """The engine behind `open_database`. Raises BadInput for an address that does not hold.

    Where it is SQLite and there is no file, connecting raises Unavailable; with `make` it makes file and folder.
    """
    url = _address(settings)
    try:
        if url.get_backend_name() == "postgresql":
            return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": _CONNECT_S})
        if url.database and make:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        engine = create_engine(url, connect_args={"timeout": _BUSY_S})
    except (ArgumentError, NoSuchModuleError) as error:
        raise BadInput(f"database address does not hold: {error}; mend KERBWATCH_DATABASE_URL") from error
    if not make:
        event.listen(engine, "do_connect", _require_file)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _address(settings: Settings) -> URL:
    try:
        url = make_url(settings.database)
    except ArgumentError:
        raise BadInput("database address is none: mend KERBWATCH_DATABASE_URL (sqlite:///FILE or postgresql://...)") from None
    if url.get_backend_name() not in {"sqlite", "postgresql"}:
        raise BadInput(f"database {url.get_backend_name()} is not supported: mend KERBWATCH_DATABASE_URL (sqlite or postgresql)")
    return url.set(drivername="postgresql+psycopg") if url.get_backend_name() == "postgresql" else url


def _require_file(_dialect: object, _record: object, arguments: Sequence[Any], _options: object) -> None:
    """A wrong path must not look like an empty database."""
    path = arguments[0]
    if not path.startswith((":memory:", "file:")) and not Path(path).exists():
        raise Unavailable(f"there is no database {path}: mend KERBWATCH_HOME or KERBWATCH_DATABASE_URL, or make it: `kerbwatch up`")


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN would come too late; ours is below
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    if not connection.get_execution_options().get("writes"):
        connection.exec_driver_sql("BEGIN")
        return
    with _turn(connection.engine.url.database):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def _turn(database: str | None) -> Iterator[None]:
    """Held while waiting for the lock, so that who comes back for it at once queues behind who waits.

    SQLite's waiters look again at intervals; one that writes batch after batch would starve them (a person's act beside a storm
    waited 7 s, measured).
    """
    if not database:
        yield
        return
    try:
        gate = Path(f"{database}.turn").open("ab")  # noqa: SIM115 - closed below, which gives the turn away
    except OSError as error:
        raise Unavailable(f"database {database} cannot be written: {error.strerror}; see that its folder may be written") from error
    with gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        yield


@contextmanager
def reading(sessions: Sessions) -> Iterator[Session]:
    """A session that sees one moment of the database and changes nothing. Raises Unavailable if it cannot be reached."""
    engine = sessions.kw["bind"]
    with (
        _mapped(engine),
        sessions(bind=engine.execution_options(isolation_level="REPEATABLE READ") if _is_postgres(engine) else engine) as session,
    ):
        yield session


@contextmanager
def writing(sessions: Sessions) -> Iterator[Session]:
    """One transaction: committed when the block ends, rolled back when it raises.

    Raises Unavailable if the database cannot be reached, has not been migrated, or is locked for too long; nothing was written
    then.
    """
    engine = sessions.kw["bind"]
    with _mapped(engine), sessions(bind=engine.execution_options(writes=True)) as session, session.begin():
        yield session


def alone_on(session: Session, table: str) -> None:
    """Let no other transaction add to `table` before this one ends; readers go on. On SQLite a writer is alone anyway."""
    if _is_postgres(session.get_bind()):
        session.connection().exec_driver_sql(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")


def _is_postgres(bind: Engine | Connection) -> bool:
    return bind.dialect.name == "postgresql"


@contextmanager
def _mapped(engine: Engine) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        where = engine.url.render_as_string(hide_password=True)
        cause = str(error.orig).strip().splitlines()[0] if error.orig is not None else type(error).__name__
        if any(sign in cause for sign in _UNMIGRATED):
            raise Unavailable(f"database {where} lacks our tables ({cause}): run `kerbwatch up`, which migrates it") from error
        if _is_outage(error):
            raise Unavailable(f"database {where} cannot be used: {cause}; see that it runs and may be written") from error
        raise


def _is_outage(error: DBAPIError) -> bool:
    return error.connection_invalidated or type(error).__name__ in {"OperationalError", "InterfaceError"}


def migrate(settings: Settings) -> None:
    """Bring the database to this version's tables; does nothing where they are there already.

    Raises Unavailable if it cannot be reached or was made by a newer kerbwatch.
    """
    from alembic import command  # noqa: PLC0415 - a third of a second that only migrating needs
    from alembic.config import Config  # noqa: PLC0415 - same
    from alembic.util.exc import CommandError  # noqa: PLC0415 - same

    engine = engine_of(settings, make=True)
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    try:
        with _mapped(engine), engine.execution_options(writes=True).begin() as connection:
            if _is_postgres(engine):
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7021)")  # two set-ups at once: the second waits
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise Unavailable(f"database was made by another kerbwatch ({error}): use that version, or restore a backup") from error
    finally:
        engine.dispose()


def insert_into(session: Session, table: type[Table]) -> "sqlite.Insert | postgresql.Insert":
    """An INSERT of the session's own dialect, which knows ON CONFLICT."""
    if not _is_postgres(session.get_bind()):
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - a command on SQLite does not wait for it

    return postgresql.insert(table)
