"""A copy of the database counts only once it was restored and found equal."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra import backup
from infra.backup import Census, back_up, copies
from infra.db import Sessions, open_database, reading, writing
from infra.merkle import leaf_hash
from infra.settings import Secret, Settings
from infra.tables import AuditRow, InboxRow
from streams.errors import Tampered, Unavailable

pytest_plugins = ["databases"]

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def filled(sessions: Sessions, database: Settings) -> Settings:
    if database.database_url is not None and shutil.which("pg_dump") is None:
        pytest.skip("pg_dump is not installed (Debian: apt-get install postgresql-client)")
    with writing(sessions) as session:
        session.add_all(InboxRow(event_id=f"e{number}", accepted_at=NOON) for number in range(40))
        session.add_all(AuditRow(number=n, event_id=f"a{n}", body=bytes([n]), leaf_hash=leaf_hash(bytes([n]))) for n in range(9))
    return database


def test_a_copy_restores_to_the_same_rows_and_the_same_log(filled: Settings) -> None:
    made = back_up(filled, NOON)
    assert (made.census.rows["inbox"], made.census.rows["audit_entries"]) == (40, 9)
    assert len(made.census.root) == 32
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert made.size_bytes > 0
    assert copies(filled) == (made.path,)


def test_a_copy_that_does_not_restore_the_same_is_not_kept(filled: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    real = backup.census
    seen: list[Census] = []

    def census(connection: object) -> Census:
        seen.append(real(connection))  # type: ignore[arg-type]
        return seen[-1] if len(seen) == 1 else Census({**seen[-1].rows, "inbox": 39}, b"\0" * 32)

    monkeypatch.setattr(backup, "census", census)
    with pytest.raises(Tampered, match="inbox has 39 rows, not 40; the audit log has another root"):
        back_up(filled, NOON)
    assert list((filled.home / "backups").iterdir()) == []


def test_only_the_newest_copies_stay(filled: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "KEPT", 2)
    made = [back_up(filled, NOON + timedelta(days=day)).path for day in range(3)]
    assert copies(filled) == tuple(made[1:])


def test_a_sqlite_copy_is_a_database_that_can_take_its_place(tmp_path: Path, migrated_file: Path) -> None:
    shutil.copy(migrated_file, tmp_path / "kerbwatch.db")
    settings = Settings(home=tmp_path)
    with writing(open_database(settings)) as session:
        session.add(InboxRow(event_id="kept", accepted_at=NOON))
    made = back_up(settings, NOON)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(made.path, other / "kerbwatch.db")
    with reading(open_database(Settings(home=other))) as session:
        assert session.get_one(InboxRow, "kept").accepted_at == NOON


def test_a_database_that_is_damaged_or_away_is_told_in_plain_words(tmp_path: Path, migrated_file: Path) -> None:
    data = bytearray(migrated_file.read_bytes())
    data[4096:40960] = bytes(36864)
    (tmp_path / "kerbwatch.db").write_bytes(data)
    with pytest.raises((Unavailable, Tampered), match=r"cannot be backed up|damaged"):
        back_up(Settings(home=tmp_path), NOON)
    with pytest.raises(Unavailable, match="cannot be backed up"):
        back_up(Settings(home=tmp_path, database_url=Secret("postgresql://nobody:s3cret@127.0.0.1:9/none")), NOON)
