"""Views show somebody else's words as they are, and what is looked at every second costs no more as history grows."""

import dataclasses
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from incident_events import NORMAL, SAFE, act, at, signal
from msgspec.structs import replace
from rich.console import Console
from sqlalchemy import event, insert, update
from typer.testing import CliRunner

from infra import cli
from infra.db import Sessions, open_database, writing
from infra.settings import Settings
from infra.tables import (
    AssignedRow,
    EffectRow,
    IncidentRow,
    JudgedFrame,
    NotificationRow,
    QuarantinedFrame,
    ServedRow,
    Table,
    TimelineRow,
)
from responders.engine.incident import Verb
from responders.engine.store import Store
from responders.notify.channels import ChannelName
from responders.notify.deliveries import dispatch, remind
from responders.notify.notices import reminder
from responders.playbooks import drawing, playbooks
from streams.command_line import app
from streams.console import view
from streams.console.view import look
from streams.events import Cause, Context, Diagnosis, Kind, Phase

pytest_plugins = ["databases"]

HOSTILE = "looked at [/var/log] [bold"
"""A tag that closes nothing is an error to rich, any other is left out."""


@pytest.fixture
def store(database: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("KERBWATCH_HOME", str(database.home))
    monkeypatch.setenv("COLUMNS", "400")
    if database.database_url is not None:
        monkeypatch.setenv("KERBWATCH_DATABASE_URL", database.database_url.reveal())
    made = Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)
    made.assign(Context.URBAN, NORMAL, SAFE, at(0))
    return made


def frame(camera: str, epoch: int, sequence: int) -> dict[str, object]:
    return {
        "frame_id": f"{camera}:{epoch}:{sequence}", "camera_id": camera, "context": Context.URBAN, "epoch": epoch,
        "sequence": sequence, "weights_digest": NORMAL, "mode": "normal", "decision_id": "b" * 32, "frame_partition": 0,
        "frame_offset": sequence, "camera_time": at(sequence), "judged_time": at(sequence), "people": 1, "inconsistency": None,
    }  # fmt: skip


def told_to_all(store: Store, sessions: Sessions) -> str:
    """An incident whose every word somebody else chose; its id."""
    said = Diagnosis(cause=Cause.CAMERA, confidence=0.6, evidence=(HOSTILE,))
    found = replace(signal(Phase.RAISED, 10, 14, camera="gate", kind=Kind.BAD_INPUT), message=HOSTILE, diagnosis=said)
    [id_] = store.accept(found, at(3)).incident_ids
    store.accept(dataclasses.replace(act(Verb.NOTE, id_, 4), comment=HOSTILE), at(4))
    with writing(sessions) as session:
        remind(session, reminder("k", HOSTILE, "R8", at(5)), at(5))
    dispatch(sessions, list(ChannelName), at(6))
    with writing(sessions) as session:
        session.execute(insert(JudgedFrame).values(frame("gate", 1, 14) | {"mode": "[/x]"}))
        session.execute(update(EffectRow).values(error=HOSTILE))
        session.execute(update(NotificationRow).values(error=HOSTILE))
        session.execute(update(IncidentRow).values(escalated=HOSTILE))
        session.add(
            QuarantinedFrame(
                frame_id="f",
                incident_id=id_,
                decision_id="d",
                camera_id="gate",
                epoch=1,
                sequence=14,
                path="p",
                reason=HOSTILE,
                sealed_sha256="0" * 64,
                sealed_at=at(5),
                state="sealed",
                picture_sha256="",
                reviewed_by="",
            )
        )
        session.add(
            AssignedRow(
                context="urban", mode="normal", weights_digest=NORMAL, since=at(5), actor=HOSTILE, why=HOSTILE, decision_id="e"
            )
        )
    return id_


def test_every_view_shows_words_of_others_as_they_are(store: Store, sessions: Sessions) -> None:
    id_ = told_to_all(store, sessions)
    views = ("watch --once", "incidents list", f"incidents show {id_}", "quarantine list", "notify list", "models history")
    for words in views:
        done = CliRunner().invoke(app, words.split())
        assert (words, done.exit_code, done.exception) == (words, 0, None)
        assert HOSTILE in done.stdout, words


def test_a_playbooks_brackets_and_a_path_with_brackets_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    book = playbooks.load()[Kind.EVASION]
    steps = tuple(replace(step, text=HOSTILE) for step in book.steps)
    Console(width=200).print(drawing.tree(replace(book, title=HOSTILE, steps=steps)))
    assert capsys.readouterr().out.count(HOSTILE) == 1 + len(steps)
    cli._rows([{"log": "/var/[/x]/log"}], {"log": "log"})
    assert "/var/[/x]/log" in capsys.readouterr().out


def test_a_look_finds_each_cameras_newest_frame_and_what_is_open(store: Store, sessions: Sessions) -> None:
    [first] = store.accept(signal(Phase.RAISED, 10, 14, camera="cam1"), at(3)).incident_ids
    with writing(sessions) as session:
        session.execute(insert(JudgedFrame), [frame("cam1", 1, 90), frame("cam1", 2, 3), frame("cam2", 1, 7), frame("cam2", 1, 6)])
        for digest, frames in ((NORMAL, 3), (SAFE, 1)):
            served = {"context": Context.URBAN, "weights_digest": digest, "mode": "normal", "decision_id": "b" * 32}
            session.execute(insert(ServedRow).values(served | {"first_at": at(0), "last_at": at(9), "frames": frames}))
    sight = look(sessions)
    assert [(one.camera_id, one.sequence) for one in sight.cameras] == [("cam1", 3), ("cam2", 7)]
    assert sight.judged == 4
    assert [row.id for row in sight.incidents] == [first]
    assert {row.incident_id for row in sight.timeline} == {first}
    assert [row.number for row in sight.timeline] == sorted(row.number for row in sight.timeline)
    assert sight.waiting > 0


@pytest.fixture
def grown(tmp_path: Path, migrated_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], int]]:
    """Adds so many rows to every table that a look reads and that grows, then says how many steps SQLite takes for a look."""
    monkeypatch.setattr(view, "_COUNTED", 400)
    shutil.copy(migrated_file, tmp_path / "kerbwatch.db")
    sessions = open_database(Settings(home=tmp_path))
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    def counted(connection: sqlite3.Connection, *_: object) -> None:
        connection.set_progress_handler(step, 100)

    event.listen(sessions.kw["bind"], "checkout", counted)
    size = 0

    def grow(rows: int) -> int:
        nonlocal steps, size
        numbers = range(size, size + rows)
        size += rows
        common = {"kind": "drift", "camera_id": "cam1", "context": "urban", "severity": "low", "needs_safe": False, "escalated": ""}
        over = common | {"state": "closed", "signals": 1, "opened_at": at(0), "detected_at": at(0), "body": b"{}"}
        change = {"time": at(0), "state": "closed", "actor": "a", "action": "note", "what": "w", "cause_id": "c"}
        aside = {
            "incident_id": "i", "decision_id": "d", "camera_id": "cam1", "epoch": 1, "path": "", "sealed_sha256": "", "reason": "",
            "sealed_at": at(0), "state": "sealed", "picture_sha256": "", "reviewed_by": "",
        }  # fmt: skip
        effect = {
            "decision_id": "d", "topic": "audit", "key": "", "lane": "l", "payload": b"", "state": "waiting", "attempts": 0,
            "error": "", "not_before": at(0), "leased_by": "", "created_at": at(0),
        }  # fmt: skip
        made: dict[type[Table], list[dict[str, object]]] = {
            JudgedFrame: [frame(f"cam{n % 3}", 1, n) for n in numbers],
            IncidentRow: [over | {"id": f"i{n}"} for n in numbers],
            TimelineRow: [change | {"incident_id": f"i{n}", "decision_id": f"d{n}"} for n in numbers],
            QuarantinedFrame: [aside | {"frame_id": f"f{n}", "sequence": n} for n in numbers],
            EffectRow: [effect | {"id": f"e{n}"} for n in numbers],
        }
        with writing(sessions) as session:
            for table, inserted in made.items():
                session.execute(insert(table), inserted)
        steps = 0
        sight = look(sessions)
        assert len(sight.cameras) == 3
        assert len(sight.timeline) <= 200
        return steps

    yield grow
    sessions.kw["bind"].dispose()


def test_a_look_costs_no_more_as_history_grows(grown: Callable[[int], int]) -> None:
    first = grown(800)
    assert first > 0
    assert grown(800) <= first * 1.05  # the database's own steps, no clock
