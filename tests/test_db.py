"""The database holds what it promises, on SQLite and PostgreSQL alike."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from infra.db import Sessions, engine_of, migrate, open_database, reading, writing
from infra.settings import Secret, Settings
from infra.tables import InboxRow, Table, WorkerRow
from streams.errors import BadInput, BrokenContract, Unavailable

pytest_plugins = ["databases"]

Look = Callable[[Sessions], AbstractContextManager[Session]]
NOON = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)


def test_migrations_make_the_tables_that_the_models_describe(sessions: Sessions) -> None:
    with sessions.kw["bind"].connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), Table.metadata) == []


def test_migrating_again_changes_nothing(database: Settings, sessions: Sessions) -> None:
    with writing(sessions) as session:
        session.add(InboxRow(event_id="e", accepted_at=NOON))
    migrate(database)
    with reading(sessions) as session:
        assert session.scalar(select(InboxRow.event_id)) == "e"


def test_two_set_ups_at_once_migrate_once(tmp_path: Path) -> None:
    settings, faults = Settings(home=tmp_path), []

    def run() -> None:
        try:
            migrate(settings)
        except Exception as error:  # noqa: BLE001 - a thread's fault is shown by the assertion below
            faults.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_times_come_back_utc_aware_with_microseconds(sessions: Sessions) -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5)))
    with writing(sessions) as session:
        session.add(InboxRow(event_id="e", accepted_at=elsewhere))
    with reading(sessions) as session:
        got = session.scalar(select(InboxRow.accepted_at))
    assert got == NOON
    assert got.tzinfo is UTC


def test_a_naive_time_is_refused(sessions: Sessions) -> None:
    with pytest.raises(Exception, match="no time zone") as caught, writing(sessions) as session:
        session.add(InboxRow(event_id="e", accepted_at=NOON.replace(tzinfo=None)))
    assert isinstance(caught.value.__cause__ or caught.value, BrokenContract)


def test_what_raises_inside_a_writer_leaves_nothing_behind(sessions: Sessions) -> None:
    def write_and_fail() -> None:
        with writing(sessions) as session:
            session.add(InboxRow(event_id="e", accepted_at=NOON))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    with reading(sessions) as session:
        assert session.scalar(select(InboxRow.event_id)) is None


def test_writers_take_turns_instead_of_failing(sessions: Sessions) -> None:
    with writing(sessions) as session:
        session.add(WorkerRow(worker_id="w", said_at=NOON, heard_at=NOON, body=b"0"))

    def add_one() -> None:
        for _ in range(10):
            with writing(sessions) as session:
                row = session.get_one(WorkerRow, "w", with_for_update=True)
                row.body = str(int(row.body) + 1).encode()

    threads = [threading.Thread(target=add_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(sessions) as session:
        assert session.get_one(WorkerRow, "w").body == b"40"


def test_a_reader_does_not_wait_for_a_writer(sessions: Sessions) -> None:
    with writing(sessions) as writer:
        writer.add(InboxRow(event_id="e", accepted_at=NOON))
        writer.flush()
        with reading(sessions) as reader:
            assert reader.scalar(select(InboxRow.event_id)) is None


def test_only_our_own_errors_come_out_of_an_outage(tmp_path: Path) -> None:
    settings = Settings(database_url=Secret("postgresql://kerb:s3cret@127.0.0.1:9/none"))
    with pytest.raises(Unavailable) as caught:
        migrate(settings)
    assert "s3cret" not in str(caught.value)
    unmigrated = open_database(Settings(home=tmp_path))
    (tmp_path / "kerbwatch.db").touch()
    with pytest.raises(Unavailable, match="kerbwatch up"), reading(unmigrated) as session:
        session.scalar(select(InboxRow.event_id))


@pytest.mark.parametrize("look", [reading, writing])
def test_a_wrong_path_is_told_and_makes_no_database(tmp_path: Path, look: Look) -> None:
    settings = Settings(home=tmp_path / "wrong")
    sessions = open_database(settings)
    with pytest.raises(Unavailable, match=r"no database .*/wrong/kerbwatch\.db.*KERBWATCH_HOME"), look(sessions) as session:
        session.scalar(select(InboxRow.event_id))
    assert list(tmp_path.iterdir()) == []
    migrate(settings)
    with look(open_database(settings)) as session:
        assert session.scalar(select(InboxRow.event_id)) is None


def test_a_database_of_a_newer_kerbwatch_is_left_alone(database: Settings, sessions: Sessions) -> None:
    with writing(sessions) as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Unavailable, match="another kerbwatch"):
        migrate(database)


@pytest.mark.parametrize("address", ["mysql://here/x", "no address at all"])
def test_an_address_that_does_not_hold_is_refused(address: str) -> None:
    with pytest.raises(BadInput, match="KERBWATCH_DATABASE_URL"):
        engine_of(Settings(database_url=Secret(address)))


def test_one_open_incident_stands_for_a_camera_context_and_kind(sessions: Sessions) -> None:
    insert = (
        "INSERT INTO incidents (id, kind, camera_id, context, state, severity, needs_safe, escalated, signals, opened_at, "
        "detected_at, body) VALUES (:id, 'evasion', 'cam', 'urban', :state, 'high', false, '', 1, '2026-11-21 00:00:00.000000', "
        "'2026-11-21 00:00:00.000000', :body)"
    )
    with writing(sessions) as session:
        for id_, state in (("a", "closed"), ("b", "closed"), ("c", "open")):
            session.execute(text(insert), {"id": id_, "state": state, "body": b"{}"})
    with pytest.raises(IntegrityError), writing(sessions) as session:
        session.execute(text(insert), {"id": "d", "state": "contained", "body": b"{}"})
