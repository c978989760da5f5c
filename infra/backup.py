"""Copies of the database, each restored at once to see that it can be.

It decides how a copy is taken (SQLite's backup API, PostgreSQL's `pg_dump`, each of one moment), where it lies
(`home/backups/STAMP.db` or `.dump`, readable by the owner only) and how many are kept. It refuses to call a copy good that was not
restored into a database of its own with the same number of rows in every table and the same root over the audit log. Keys, sealed
frames and the registry are files: back the home folder up beside it. No topic feeds it.

Source: https://www.sqlite.org/backup.html, PostgreSQL "pg_dump" (--snapshot), NIST SP 800-53 CP-9(1) (testing for reliability).
"""

import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, create_engine, func, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from infra.db import engine_of
from infra.merkle import leaf_hash, roots
from infra.settings import Settings
from infra.tables import AuditRow, Table
from streams.errors import Tampered, Unavailable

KEPT = 14
"""So many copies stay; the oldest goes when another one has been proven."""
_LIMIT_S = 1800
_SUFFIXES = (".db", ".dump")


@dataclass(frozen=True)
class Census:
    """What a database holds: rows by table, and the root over its audit log's entries, hashed anew."""

    rows: Mapping[str, int]
    root: bytes


@dataclass(frozen=True)
class Backup:
    """A copy that was restored and found whole."""

    path: Path
    size_bytes: int
    census: Census


def back_up(settings: Settings, now: datetime) -> Backup:
    """Copy the database, restore the copy, compare, and let the oldest copies go.

    Raises Unavailable without database, disk or PostgreSQL's programs, Tampered if the copy is not what was copied; nothing is kept
    then.
    """
    folder = settings.home.resolve() / "backups"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = engine_of(settings)
    lite = engine.dialect.name == "sqlite"
    path = folder / f"{now:%Y%m%dT%H%M%SZ}{_SUFFIXES[0] if lite else _SUFFIXES[1]}"
    try:
        with _told(), tempfile.TemporaryDirectory(prefix=".copy-", dir=folder) as scratch:
            fresh = Path(scratch) / path.name
            fresh.touch(0o600)
            before = _copy_sqlite(settings, fresh) if lite else _dump(engine.url, fresh)
            after = _open_sqlite(fresh, Path(scratch)) if lite else _restore(engine.url, fresh, now)
            _compare(before, after)
            fresh.replace(path)
    finally:
        engine.dispose()
    for old in copies(settings)[:-KEPT]:
        old.unlink()
    return Backup(path, path.stat().st_size, before)


def copies(settings: Settings) -> tuple[Path, ...]:
    """The copies of this home, oldest first."""
    folder = settings.home.resolve() / "backups"
    return tuple(sorted(path for path in folder.glob("*") if path.suffix in _SUFFIXES and path.stem.endswith("Z")))


def census(connection: Connection) -> Census:
    """What a database holds, by this connection's transaction."""
    tables = sorted(Table.metadata.tables.items())
    rows = {name: connection.scalar(select(func.count()).select_from(table)) or 0 for name, table in tables}
    bodies = connection.execute(select(AuditRow.body).order_by(AuditRow.number)).yield_per(1000)
    size = rows[AuditRow.__tablename__]
    return Census(rows, next((root for _, root in roots((leaf_hash(row.body) for row in bodies), {size})), b""))


def _compare(before: Census, after: Census) -> None:
    wrong = [f"{name} has {after.rows[name]} rows, not {count}" for name, count in before.rows.items() if after.rows[name] != count]
    if before.root != after.root:
        wrong.append("the audit log has another root")
    if wrong:
        raise Tampered(f"the copy does not restore to what was copied: {'; '.join(wrong)}; see whether the disk is sound")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        cause = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise Unavailable(f"the database cannot be backed up or restored: {cause}; see that it runs and may be read") from error
    except OSError as error:
        raise Unavailable(f"the back-up cannot be written: {error.strerror}; make room") from error


def _copy_sqlite(settings: Settings, fresh: Path) -> Census:
    engine = engine_of(settings)
    try:
        with engine.begin() as connection:
            found = census(connection)  # its reads hold the moment that is copied
            source = connection.connection.driver_connection
            assert isinstance(source, sqlite3.Connection)
            with closing(sqlite3.connect(fresh)) as target:
                source.backup(target)
    finally:
        engine.dispose()
    return found


def _open_sqlite(fresh: Path, scratch: Path) -> Census:
    restored = scratch / "restored.db"
    shutil.copy(fresh, restored)
    engine = create_engine(f"sqlite:///{restored}")
    try:
        with engine.connect() as connection:
            fault = connection.scalar(text("PRAGMA integrity_check"))
            if fault != "ok":
                raise Tampered(f"the copy is damaged ({fault}): see whether the disk is sound")
            return census(connection)
    finally:
        engine.dispose()


def _dump(url: URL, fresh: Path) -> Census:
    engine = create_engine(url, isolation_level="REPEATABLE READ")
    try:
        with engine.begin() as connection:
            moment = connection.scalar(text("SELECT pg_export_snapshot()"))
            found = census(connection)
            _run(url, ["pg_dump", "--format=custom", "--no-owner", f"--snapshot={moment}", f"--file={fresh}"])
    finally:
        engine.dispose()
    return found


def _restore(url: URL, fresh: Path, now: datetime) -> Census:
    """Into a database that is made for it and goes again; the user needs the right to make one (CREATEDB)."""
    name = f"kerbwatch_restore_{now:%Y%m%d%H%M%S%f}"
    beside = url.set(database=name)
    control = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with control.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE template0'))
            try:
                _run(beside, ["pg_restore", "--no-owner", "--exit-on-error", f"--dbname={name}", str(fresh)])
                engine = create_engine(beside)
                try:
                    with engine.connect() as restored:
                        return census(restored)
                finally:
                    engine.dispose()
            finally:
                connection.execute(text(f'DROP DATABASE "{name}"'))
    finally:
        control.dispose()


def _run(url: URL, words: Sequence[str]) -> None:
    """One of PostgreSQL's programs; the address and password go by environment, so that no process list shows them."""
    program = shutil.which(words[0])
    if program is None:
        raise Unavailable(
            f"{words[0]} is not installed, and PostgreSQL is backed up with it (Debian: apt-get install postgresql-client)"
        )
    plain = {"PGHOST": url.host, "PGPORT": url.port, "PGUSER": url.username, "PGPASSWORD": url.password, "PGDATABASE": url.database}
    address = {name: str(value) for name, value in plain.items() if value is not None}
    try:
        subprocess.run(  # noqa: S603 - a program of ours by its full path, no shell
            [program, *words[1:]], env=os.environ | address, check=True, capture_output=True, text=True, timeout=_LIMIT_S
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{words[0]} did not end within {_LIMIT_S} s") from error
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{words[0]} failed: {error.stderr.strip()[:500]}; is it as new as the server?") from error
