"""A restored back-up is older than the newest checkpoint: topic `audit` makes its log whole again, or nothing changes."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest
from sqlalchemy import delete, select
from test_audit_command import acts, command, entry, faults, here, keep, write
from typer.testing import CliRunner

from infra.clients import producer
from infra.db import Sessions, reading, writing
from infra.people_tables import ActRow
from infra.settings import Settings
from infra.tables import AuditRow, EffectRow
from responders.people.access import Deed
from responders.people.desk import agreement
from streams.command_line import app
from streams.console import catching_up
from streams.errors import Tampered
from streams.topics import AUDIT, Role

pytest_plugins = ["databases"]
assert here  # a fixture


@pytest.fixture
def topic(here: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What topic `audit` holds: the log, an act and a checkpoint later than the copy that is restored; then the copy is there."""
    with reading(sessions) as session:
        copied = session.query(AuditRow).count()
        sent = session.scalars(select(EffectRow.id)).all()
    acts(here, sessions, "said after the copy was made")
    keep(sessions)
    write(sessions, entry(12))
    command("checkpoint")
    with reading(sessions) as session:
        bodies = list(session.scalars(select(AuditRow.body).order_by(AuditRow.number)))
        last = session.scalars(select(ActRow.id).order_by(ActRow.number)).all()[-1]
    with writing(sessions) as session:
        session.execute(delete(AuditRow).where(AuditRow.number >= copied))
        session.execute(delete(EffectRow).where(EffectRow.id.not_in(sent)))
        session.execute(delete(ActRow).where(ActRow.id == last))

    def batches(_: Settings) -> Iterator[Sequence[bytes]]:
        yield bodies[:3]
        yield bodies[3:]

    monkeypatch.setattr(catching_up, "entries", batches)
    return bodies


def test_a_restored_log_is_made_whole_from_its_topic_and_checkpoints_hold_again(sessions: Sessions, topic: list[bytes]) -> None:
    with pytest.raises(Tampered, match="entries were removed"):
        command("checkpoint")
    said = json.loads(command("catch-up", "--json").stdout)
    assert (said["entries"], said["acts"], said["size"], said["checkpoints"], said["faults"]) == (2, 1, len(topic), 3, [])
    with reading(sessions) as session:
        assert list(session.scalars(select(AuditRow.body).order_by(AuditRow.number))) == topic
        back = session.scalars(select(ActRow).order_by(ActRow.number)).all()[-1]
        assert agreement(session, Deed(back.deed), back.target, back.time).acts == (), "it decides nothing a second time"
    assert (command("checkpoint").exit_code, faults()) == (0, "")
    assert json.loads(command("catch-up", "--json").stdout)["entries"] == 0


@pytest.mark.usefixtures("here")
def test_a_log_that_went_on_before_it_was_made_whole_is_left_as_it_is(sessions: Sessions, topic: list[bytes]) -> None:
    write(sessions, entry(20))  # a keeper that was started too soon
    with pytest.raises(Tampered, match="restore the copy again and give this before `kerbwatch up`"):
        command("catch-up")
    with reading(sessions) as session:
        assert session.query(AuditRow).count() == len(topic) - 1, "nothing was taken in"


def test_a_topic_that_lacks_what_was_signed_changes_nothing(
    here: Settings, sessions: Sessions, topic: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catching_up, "entries", lambda _: iter([topic[:-1]]))
    with pytest.raises(Tampered, match=r"entries were removed.*broker's log is lost"):
        command("catch-up")
    with reading(sessions) as session:
        assert session.query(AuditRow).count() == len(topic) - 2
    lost = here.home / "checkpoints" / "lost"  # as docs/schedule.md says
    lost.mkdir()
    (here.home / "checkpoints" / f"{len(topic)}.note").rename(lost / f"{len(topic)}.note")
    assert command("checkpoint").exit_code == 0
    assert faults() == ""
    result = CliRunner().invoke(app, ["audit", "verify", "--checkpoints", str(lost)])
    assert "entries were removed" in str(result.exception), "kept elsewhere they tell of it for good"


def test_the_topic_is_read_from_its_beginning_in_its_order_without_what_cannot_be_read(broker: Settings) -> None:
    sent = [entry(100), b"{}", entry(101), entry(102)]
    with closing(producer(broker, Role.RESPONDER)) as out:
        for value in sent:
            out.send(AUDIT.name, value, key=b"responder").get(timeout=30)
    read = [body for batch in catching_up.entries(broker) for body in batch]
    assert read[-3:] == [sent[0], sent[2], sent[3]]
