"""Regular work is done once, by one process, also when it was missed; and never to an open incident's harm."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from incident_events import NOON, NORMAL, SAFE, act, at, status
from incident_events import signal as finding
from msgspec.structs import replace
from typer.testing import CliRunner

from inference.lifecycle.findings import Finding, Stage
from inference.lifecycle.held import Standing, held, hold, id_of, open_held, reviewed, settle_held
from inference.training.samples import Sample
from infra import supervise
from infra.checkpoints import kept_notes
from infra.db import Sessions, reading, writing
from infra.metrics import Service
from infra.settings import Settings
from infra.tables import AuditRow, EffectRow, JudgedFrame, NoticeRow, QuarantinedFrame
from responders.engine.incident import Verb
from responders.engine.store import Store
from responders.notify.channels import ChannelName
from responders.notify.deliveries import deliver, dispatch
from responders.notify.notices import Notice
from responders.playbooks import playbooks
from responders.proof import auditing
from responders.proof.keeping import record_audit
from responders.quarantine.quarantine import kept_out, open_frame
from responders.regular import schedule
from responders.regular.schedule import JOBS, LEASE, Job, Outcome
from responders.regular.scheduler import Scheduler
from streams import codec, commands
from streams.command_line import app
from streams.console import jobs
from streams.console.jobs import Audited, Run, other_than_before
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import AuditEntry, Context, ModelState, Phase, event_id
from streams.topics import MODEL_STATE

pytest_plugins = ["databases"]

EVIDENCE = JOBS[0]
QUIET = NOON + timedelta(minutes=5)
"""Evidence is due five minutes later, everything else an hour later or more."""


def due(sessions: Sessions, now: datetime) -> list[str]:
    with writing(sessions) as session:
        return [job.name for job in schedule.due(session, now)]


def done(sessions: Sessions, job: Job, began: datetime) -> None:
    with writing(sessions) as session:
        schedule.begin(session, job, began)
        schedule.end(session, job, Outcome.DONE, "fine", began + timedelta(seconds=5))


def a_closed_incident(sessions: Sessions, camera: str = "cam1") -> str:
    store = Store(sessions, playbooks.load(), worker_lost_s=60, clock_allowance_s=60)
    store.assign(Context.URBAN, NORMAL, SAFE, at(0))
    [id_] = store.accept(finding(Phase.RAISED, 10, 14, camera=camera), at(3)).incident_ids
    for moment in (4, 10):
        with reading(sessions) as session:
            rows = session.query(EffectRow).filter_by(topic=MODEL_STATE.name).order_by(EffectRow.number).all()
        asked = codec.decode(rows[-1].payload, MODEL_STATE, ModelState).event
        store.accept(status("w1", moment, asked), at(moment))
        store.accept(finding(Phase.CALM, 15, 40, camera=camera), at(9))
    return id_


def entries(sessions: Sessions, first: int, count: int) -> None:
    made = [
        AuditEntry(
            id=event_id("entry", number),
            source="t/t",
            time=NOON,
            subject="s",
            actor="a",
            action="x",
            target="t",
            why="w",
            cause_id="c",
        )
        for number in range(first, first + count)
    ]
    with writing(sessions) as session:
        record_audit(session, [codec.encode(entry) for entry in made])


def test_cron_times_are_utc_and_strictly_later() -> None:
    assert EVIDENCE.next_after(NOON) == NOON + timedelta(minutes=10)
    assert EVIDENCE.next_after(NOON - timedelta(microseconds=1)) == NOON
    monthly = schedule.job_of("drill")
    assert monthly.next_after(NOON) == datetime(2026, 12, 1, 5, tzinfo=NOON.tzinfo)
    assert all(job.next_after(NOON) > NOON for job in JOBS)
    assert set(jobs.BY_NAME) == {job.name for job in JOBS}
    with pytest.raises(BadInput, match="no job is called 'tea'; there are evidence"):
        schedule.job_of("tea")


def test_missed_runs_are_caught_up_by_one_run_longest_overdue_first(sessions: Sessions) -> None:
    assert due(sessions, NOON) == []  # what was never looked at was not missed
    late = due(sessions, NOON + timedelta(days=3))
    assert late[:3] == ["checkpoint", "deadlines", "evidence"]
    assert len(late) == len(set(late)) == 7
    done(sessions, EVIDENCE, NOON + timedelta(days=3))
    assert "evidence" not in due(sessions, NOON + timedelta(days=3, minutes=9))
    assert "evidence" in due(sessions, NOON + timedelta(days=3, minutes=10))


def test_one_job_at_a_time_and_a_lost_one_again(sessions: Sessions) -> None:
    due(sessions, QUIET)
    began = QUIET + timedelta(minutes=5)
    with writing(sessions) as session:
        schedule.begin(session, EVIDENCE, began)
    assert due(sessions, began + timedelta(minutes=1)) == []
    with pytest.raises(BadInput, match="has been running since"), writing(sessions) as session:
        schedule.begin(session, EVIDENCE, began + timedelta(seconds=1))
    lost = began + timedelta(seconds=EVIDENCE.limit_s + 1)
    with reading(sessions) as session:
        assert schedule.listed(session, lost)[0].outcome is Outcome.LOST
    assert due(sessions, lost)[0] == "evidence"
    done(sessions, EVIDENCE, lost)


def test_one_scheduler_is_elected_and_another_takes_over_when_it_dies(sessions: Sessions) -> None:
    def elect(holder: str, now: datetime) -> bool:
        with writing(sessions) as session:
            return schedule.elect(session, holder, now)

    assert elect("a", NOON)
    assert not elect("b", NOON + LEASE / 2)
    assert elect("a", NOON + LEASE / 2)
    assert not elect("b", NOON + LEASE)
    assert elect("b", NOON + LEASE * 1.5)
    assert not elect("a", NOON + LEASE * 2)


def test_the_elected_scheduler_starts_what_is_due_once(
    database: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Scheduler(database, sessions, "a"), Scheduler(database, sessions, "b")
    started: list[str] = []

    def start(_: Scheduler, job: Job) -> "subprocess.Popen[bytes]":
        started.append(job.name)
        return subprocess.Popen([sys.executable, "-c", "pass"])

    monkeypatch.setattr(Scheduler, "_start", start)
    assert first.turn(QUIET) is None
    later = QUIET + timedelta(minutes=5)
    assert first.turn(later) == "evidence"
    assert second.turn(later) is None
    assert first.turn(later) is None  # it runs, or has not said yet that it did
    process = first._running
    assert process is not None
    process.process.wait(20)
    done(sessions, EVIDENCE, later)
    assert first.turn(later + timedelta(seconds=20)) is None
    assert started == ["evidence"]


@pytest.mark.parametrize("begins", [True, False])
def test_a_job_whose_process_dies_holds_up_nobody_and_is_told(
    database: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, begins: bool
) -> None:
    scheduler, later = Scheduler(database, sessions, "a"), QUIET + timedelta(hours=1)

    def start(_: Scheduler, job: Job) -> "subprocess.Popen[bytes]":
        if begins:
            with writing(sessions) as session:
                schedule.begin(session, job, later)
        process = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
        process.wait(20)
        return process

    monkeypatch.setattr(Scheduler, "_start", start)
    scheduler.turn(QUIET)
    first = scheduler.turn(later)
    second = scheduler.turn(later + timedelta(seconds=20))
    assert {first, second} == {"evidence", "checkpoint"}  # the first is not tried again and again, and the other waits for nobody
    scheduler.turn(later + timedelta(seconds=40))
    with reading(sessions) as session:
        rows = {row.name: row for row in schedule.listed(session, later + timedelta(seconds=40))}
        told = sorted(json.loads(row.body)["what"] for row in session.query(NoticeRow))
    assert {rows[name].outcome for name in ("evidence", "checkpoint")} == {Outcome.FAILED}
    assert "without a word (exit status -9)" in rows["evidence"].said
    assert [one.split(":")[0] for one in told] == ["scheduled job checkpoint failed", "scheduled job evidence failed"]


def test_a_run_that_a_person_began_meanwhile_stays_theirs(
    database: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, later = Scheduler(database, sessions, "a"), QUIET + timedelta(minutes=5)

    def refused(_: Scheduler, job: Job) -> "subprocess.Popen[bytes]":
        with writing(sessions) as session:
            schedule.begin(session, job, later)
        process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({BadInput.exit_code})"])
        process.wait(20)
        return process

    monkeypatch.setattr(Scheduler, "_start", refused)
    scheduler.turn(QUIET)
    assert scheduler.turn(later) == "evidence"
    scheduler.turn(later + timedelta(seconds=20))
    with reading(sessions) as session:
        assert schedule.listed(session, later + timedelta(seconds=20))[0].outcome is Outcome.RUNNING


def test_a_checkpoint_is_signed_only_over_a_log_that_holds(database: Settings, sessions: Sessions) -> None:
    run = Run(database, sessions, NOON)
    assert jobs.carry_out("checkpoint", run).outcome is Outcome.DONE
    entries(sessions, 0, 5)
    assert "5 entries hold, as do 1 checkpoints" in jobs.carry_out("checkpoint", run).text
    entries(sessions, 5, 3)
    with reading(sessions) as session:
        assert auditing.check(session, database).checkpoints == 2
    with writing(sessions) as session:
        session.get_one(AuditRow, 2).body += b" "
    said = jobs.carry_out("checkpoint", run)
    assert (said.outcome, "audit entry 2 is not the one" in said.text) == (Outcome.FAILED, True)
    assert len(kept_notes(database)) == 2


def test_history_that_was_rewritten_whole_is_told_by_the_checkpoint(database: Settings, sessions: Sessions) -> None:
    """Who can write to the database mends hashes too; the files beside it stay."""
    entries(sessions, 0, 4)
    with reading(sessions) as session:
        auditing.checkpoint(session, database)
    with writing(sessions) as session:
        session.query(AuditRow).delete()
    entries(sessions, 100, 6)
    with reading(sessions) as session, pytest.raises(Tampered, match="an entry below 4 was changed"):
        auditing.check(session, database)
    with writing(sessions) as session:
        session.query(AuditRow).delete()
    with reading(sessions) as session, pytest.raises(Tampered, match="entries were removed"):
        auditing.check(session, database)


def test_retention_destroys_what_is_old_but_nothing_of_a_camera_with_an_open_incident(
    database: Settings, sessions: Sessions
) -> None:
    old = NOON - timedelta(days=1000)
    Store(sessions, playbooks.load(), 60, 60).assign(Context.URBAN, NORMAL, SAFE, at(0))
    Store(sessions, playbooks.load(), 60, 60).accept(finding(Phase.RAISED, 10, 14, camera="open"), at(3))
    with writing(sessions) as session:
        for camera, moment in (("open", old), ("calm", old), ("calm", NOON)):
            name = f"{camera}-{moment:%Y}"
            path = database.home / "quarantine" / f"{name}.sealed"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"sealed")
            session.add(quarantined(name, camera, moment))
            session.add(judged(name, camera, moment))
    said = jobs.carry_out("retention", Run(database, sessions, NOON))
    assert said.text == "1 quarantined frames and 0 training samples destroyed, 1 records of frames dropped"
    assert {path.stem for path in (database.home / "quarantine").glob("*.sealed")} == {"open-2024", "calm-2026"}
    with reading(sessions) as session:
        gone = session.get_one(QuarantinedFrame, "calm-2024")
        assert (gone.state, gone.sealed_key, gone.reviewed_by) == ("discarded", None, "schedule")
        assert {row.frame_id for row in session.query(JudgedFrame)} == {"open-2024", "calm-2026"}
        assert any(b"quarantine.expire" in row.payload for row in session.query(EffectRow).filter_by(topic="audit"))


def test_retention_takes_nothing_back_that_people_released(database: Settings, sessions: Sessions) -> None:
    old = NOON - timedelta(days=1000)
    path = database.home / "quarantine" / "fog.sealed"
    path.parent.mkdir()
    path.write_bytes(b"sealed")
    with writing(sessions) as session:
        row = quarantined("fog", "calm", old)
        row.state, row.reviewed_at, row.reviewed_by = "released", old, "data, security"
        session.add(row)
    assert jobs.carry_out("retention", Run(database, sessions, NOON)).text.startswith("1 quarantined frames")
    assert not path.exists()
    with reading(sessions) as session:
        kept = session.get_one(QuarantinedFrame, "fog")
        assert (kept.state, kept.reviewed_at, kept.reviewed_by, kept.sealed_key) == ("released", old, "data, security", None)
        assert kept_out(database, session) == frozenset()
        with pytest.raises(Unavailable, match="let go since"):
            open_frame(database, kept)
        assert b"1 of them were released and stay so" in b"".join(row.payload for row in session.query(EffectRow))
    assert jobs.carry_out("retention", Run(database, sessions, NOON)).text.startswith("0 quarantined frames")


def test_old_training_samples_are_let_go_and_reminded_of_before_but_not_those_of_an_open_incident(
    database: Settings, sessions: Sessions
) -> None:
    store = Store(sessions, playbooks.load(), 60, 60)
    store.assign(Context.URBAN, NORMAL, SAFE, at(0))
    [open_] = store.accept(finding(Phase.RAISED, 10, 14, camera="training-data"), at(3)).incident_ids
    some = [Sample("drawn", name, np.full((48, 64, 3), 90, np.uint8), ()) for name in ("old", "released", "evidence", "new")]
    by = {one.name: one for one in some}

    def hold_back(name: str, days: int, incident: str = "") -> None:
        why = Finding(pool="drawn", name=name, stage=Stage.STATISTICS, reason="dark", score=0.6)
        hold(database, [by[name]], [why], NOON - timedelta(days=days), incident)

    hold_back("old", 200)
    hold_back("released", 200)
    hold_back("evidence", 200, open_)
    hold_back("new", 8)
    settle_held(database, [id_of(by["released"])], Standing.RELEASED, "data-1, security-1", NOON)
    assert "3 training samples have waited for 7 days" in jobs.carry_out("reminders", Run(database, sessions, NOON)).waits
    said = jobs.carry_out("retention", Run(database, sessions, NOON))
    assert said.text.startswith("0 quarantined frames and 2 training samples destroyed")
    assert {one.name: one.standing for one in held(database)} == {
        "old": Standing.DISCARDED, "released": Standing.RELEASED, "evidence": Standing.SEALED, "new": Standing.SEALED
    }  # fmt: skip
    assert reviewed(database, [by["released"]], ()) == (), "what people let go is trained on, though the copy is gone"
    for name in ("old", "released"):
        with pytest.raises(Unavailable, match="its picture is gone"):
            open_held(database, id_of(by[name]))
    assert "0 training samples destroyed" in jobs.carry_out("retention", Run(database, sessions, NOON)).text


def quarantined(name: str, camera: str, moment: datetime) -> QuarantinedFrame:
    return QuarantinedFrame(
        frame_id=name,
        incident_id="1" * 32,
        decision_id="d",
        camera_id=camera,
        epoch=int(moment.year),
        sequence=1,
        path=f"quarantine/{name}.sealed",
        sealed_sha256="0" * 64,
        reason="r",
        sealed_at=moment,
        state="sealed",
        sealed_key=b"key",
        picture_sha256="",
        reviewed_by="",
    )


def judged(name: str, camera: str, moment: datetime) -> JudgedFrame:
    return JudgedFrame(
        frame_id=name,
        camera_id=camera,
        context="urban",
        epoch=int(moment.year),
        sequence=1,
        weights_digest=NORMAL,
        mode="normal",
        decision_id="d",
        frame_partition=0,
        frame_offset=0,
        camera_time=moment,
        judged_time=moment,
        people=0,
        inconsistency=None,
    )


def test_reminders_name_closed_incidents_that_nobody_wrote_about(database: Settings, sessions: Sessions) -> None:
    id_ = a_closed_incident(sessions)
    said = jobs.carry_out("reminders", Run(database, sessions, at(3600)))
    assert f"1 closed incidents have no review ({id_[:8]})" in said.waits
    Store(sessions, playbooks.load(), 60, 60).accept(act(Verb.NOTE, id_, 7200), at(7200))
    assert jobs.carry_out("reminders", Run(database, sessions, at(7300))).text == "nothing waits"


def test_evidence_waits_for_the_log_and_is_sealed_in_the_end(database: Settings, sessions: Sessions) -> None:
    id_ = a_closed_incident(sessions)
    bundle = database.home / "evidence" / f"{id_}.tar"
    said = jobs.carry_out("evidence", Run(database, sessions, at(60)))
    assert (said.text.startswith("0 bundles sealed, 1 are tried again"), bundle.exists()) == (True, False)
    assert jobs.carry_out("evidence", Run(database, sessions, at(13 * 3600))).text == "1 bundles sealed"
    assert bundle.stat().st_mode & 0o777 == 0o400
    assert jobs.carry_out("evidence", Run(database, sessions, at(14 * 3600))).text == "0 bundles sealed"


def test_a_golden_audit_without_a_golden_set_is_skipped_not_failed(database: Settings, sessions: Sessions) -> None:
    said = jobs.carry_out("golden", Run(database, sessions, NOON))
    assert (said.outcome, said.waits) == (Outcome.SKIPPED, "")


def test_the_same_weights_must_answer_the_golden_set_as_they_did_first() -> None:
    first = Audited(golden="a" * 64, weights="b" * 64, performance=0.9, time=NOON)
    later = msgspec.structs.replace(first, time=at(60))
    assert other_than_before([], first) == other_than_before([first], later) == ""
    worse = msgspec.structs.replace(later, performance=0.7)
    assert other_than_before([first, later], worse) == "bbbbbbbbbbbb did 0.900 on 2026-11-21 and does 0.700 now"
    assert other_than_before([first], msgspec.structs.replace(worse, weights="c" * 64)) == ""


KNOWN = [
    {"name": "first", "long": False, "timed": False},
    {"name": "hours", "long": True, "timed": False},
    {"name": "storm", "long": False, "timed": True},
    {"name": "second", "long": False, "timed": False},
]


class Drills:
    """Stands for `kerbwatch`: knows three scenarios; `says` is what playing one comes to (scoreboard's faults, None: no end)."""

    def __init__(self, says: list[str] | None) -> None:
        self.says = says
        self.asked: list[tuple[str, ...]] = []
        self.settings: list[Settings] = []

    def __call__(self, words: list[str], settings: Settings, limit_s: float = 0) -> str:  # noqa: ARG002 - the real one has it
        self.asked.append(tuple(words[:3]))
        self.settings.append(settings)
        if "--list" in words:
            return json.dumps(KNOWN)
        if words == ["down"]:
            return "stopped"
        if self.says is not None:
            board = Path(words[words.index("--out") + 1])
            board.parent.mkdir(parents=True, exist_ok=True)
            board.write_text(json.dumps({"scenarios": [{"name": words[2], "faults": self.says}]}))
        if self.says != []:
            raise Unavailable("kerbwatch drill did not end within 1500 s" if self.says is None else "kerbwatch drill failed")
        return "{}"


def a_deployment(database: Settings) -> Settings:
    """One that tells people, at a broker elsewhere."""
    told = {"webhook_url": "https://pager.example", "smtp_host": "mail.example", "kafka_host": "broker.example"}
    return replace(database, **told, alertmanager_url="http://alerts.example", key_file=Path("mine.key"))


def test_the_drill_of_the_month_shares_nothing_with_the_deployment_and_is_never_one_of_hours(
    database: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    drills, deployment = Drills([]), a_deployment(database)
    monkeypatch.setattr(commands, "command", drills)
    said = [jobs.carry_out("drill", Run(deployment, sessions, NOON + timedelta(days=30 * n))) for n in range(4)]
    assert {one.outcome for one in said} == {Outcome.DONE}
    assert sorted(one.text.split(" in ")[0] for one in said) == ["first passed"] * 2 + ["second passed"] * 2
    assert drills.asked.count(("down",)) == len(said)
    environments = [supervise.environment(one) for one in drills.settings]
    ours = supervise.environment(deployment)
    shared = {name for one in environments for name in one if name.startswith("KERBWATCH_") and one[name] == ours.get(name)}
    places = {"HOME", "DATABASE_URL", "KEY_FILE", "KAFKA_HOST", "KAFKA_PORT", "KAFKA_CONTROLLER_PORT", "METRICS_PORT"}
    assert not shared & {f"KERBWATCH_{name}" for name in places | {"WEBHOOK_URL", "SMTP_HOST", "ALERTMANAGER_URL"}}
    assert {one["KERBWATCH_HOME"] for one in environments} == {str(deployment.home.resolve() / "drill")}
    near = range(deployment.metrics_port, deployment.metrics_port + len(Service))
    assert all(one.metrics_port - max(near) > 1 and one.kafka_port not in near for one in drills.settings)


@pytest.mark.parametrize(
    ("says", "reason"), [(["late", "false incident"], "late; false incident"), (None, "did not end within 1500 s")]
)
def test_a_drill_that_fails_says_why_and_its_stack_is_stopped(
    database: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, says: list[str] | None, reason: str
) -> None:
    drills = Drills(says)
    monkeypatch.setattr(commands, "command", drills)
    stale = database.home / "drill" / "scoreboard.json"
    stale.parent.mkdir()
    stale.write_text(json.dumps({"scenarios": [{"name": "first", "faults": ["of last month"]}]}))
    said = jobs.carry_out("drill", Run(database, sessions, NOON))
    assert said.outcome is Outcome.FAILED
    assert reason in said.text
    assert reason in said.waits
    assert re.search(r"load \d+\.\d on \d+ cores", said.text)
    assert "last month" not in said.text
    assert drills.asked[-1] == ("down",)


def test_the_real_commands_of_a_drill_are_what_the_job_gives(database: Settings) -> None:
    """No stack is started: the scenarios are listed, and what was never started is stopped."""
    apart = jobs._apart(database)
    known = json.loads(commands.command(["drill", "--list", "--json"], apart, limit_s=jobs._LIST_S))
    assert sum(not one["long"] for one in known) >= 15
    assert commands.command(["down"], apart) == "nothing was running"


def test_a_command_that_takes_too_long_may_stop_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a drill does with its stack."""
    code = f"""
import pathlib, signal, sys, time
def leave(*_):
    pathlib.Path({str(tmp_path / "stopped")!r}).touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
pathlib.Path({str(tmp_path / "began")!r}).touch()
time.sleep(60)
"""
    monkeypatch.setattr(commands, "_ours", lambda _words: [sys.executable, "-c", code])
    with pytest.raises(Unavailable, match="did not end within 3 s"):
        commands.command(["drill"], Settings(home=tmp_path), limit_s=3)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["began", "stopped"]


def test_the_command_lists_and_runs_and_tells_people_what_failed(
    database: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERBWATCH_HOME", str(database.home))
    monkeypatch.setattr(os, "nice", lambda _: 0)
    if database.database_url is not None:
        monkeypatch.setenv("KERBWATCH_DATABASE_URL", database.database_url.reveal())
    ran = CliRunner().invoke(app, ["schedule", "run", "checkpoint", "--json"])
    assert (ran.exit_code, json.loads(ran.stdout)["outcome"]) == (0, "done")

    def fail(_: Run) -> jobs.Said:
        raise Unavailable("no disk")

    monkeypatch.setitem(jobs.BY_NAME, "backup", fail)
    assert CliRunner().invoke(app, ["schedule", "run", "backup"]).exit_code == 1
    rows = {row["name"]: row for row in json.loads(CliRunner().invoke(app, ["schedule", "list", "--json"]).stdout)}
    assert (rows["checkpoint"]["outcome"], rows["backup"]["outcome"], rows["backup"]["said"]) == ("done", "failed", "no disk")
    assert "no disk" in CliRunner().invoke(app, ["schedule", "list"]).stdout.replace("\n", " ")
    with reading(sessions) as session:
        [notice] = session.query(NoticeRow)
    assert b"scheduled job backup failed: no disk" in notice.body
    told: list[str] = []

    class Wire:
        name = ChannelName.WEBHOOK

        def send(self, notices: Sequence[Notice]) -> None:
            told.extend(one.what for one in notices)

    later = notice.created_at + timedelta(minutes=1)
    assert dispatch(sessions, [Wire.name], later) == 1
    deliver(sessions, Wire(), lambda: later, "one")
    assert told == ["scheduled job backup failed: no disk"]


STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
OBEDIENT = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print(flush=True); time.sleep(60)"


@pytest.mark.parametrize(("code", "ends_as"), [(OBEDIENT, 7), (STUBBORN, -signal.SIGKILL)])
def test_a_job_that_hangs_is_asked_to_end_then_ended_and_waits_for_its_next_time(
    database: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, code: str, ends_as: int
) -> None:
    job = schedule.job_of("drill")
    first = job.next_after(NOON)

    def start(_: Scheduler, job: Job) -> "subprocess.Popen[bytes]":
        with writing(sessions) as session:
            schedule.begin(session, job, first)
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)

    monkeypatch.setattr(schedule, "JOBS", (job,))
    monkeypatch.setattr(Scheduler, "_start", start)
    scheduler = Scheduler(database, sessions, "a")
    scheduler.turn(NOON)
    assert scheduler.turn(first) == "drill"
    assert scheduler._running is not None
    process = scheduler._running.process
    assert process.stdout is not None
    process.stdout.readline()  # it is at work, and has said how it takes SIGTERM
    over = first + timedelta(seconds=job.limit_s + 1)
    assert scheduler.turn(over) is None
    if ends_as < 0:
        assert process.poll() is None
        scheduler.turn(over + timedelta(minutes=4))
    assert process.wait(20) == ends_as
    process.stdout.close()
    assert scheduler.turn(over + timedelta(minutes=5)) is None  # it would hang again: not before its next time
    with reading(sessions) as session:
        [row] = schedule.listed(session, over)
    assert (row.outcome, row.said) == (Outcome.FAILED, "took longer than 2400 s and was ended")
    assert row.next_at == job.next_after(over)
    with reading(sessions) as session:
        [notice] = session.query(NoticeRow)
    assert b"scheduled job drill failed: took longer than 2400 s" in notice.body


def told_to_end(_: Run) -> jobs.Said:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)
    return jobs.Said("never")


def told_to_end_at_the_terminal(_: Run) -> jobs.Said:
    raise KeyboardInterrupt


def at_fault(_: Run) -> jobs.Said:
    raise ZeroDivisionError("by nothing\nat all")


@pytest.mark.parametrize(
    ("happens", "exit_code", "said"),
    [
        (told_to_end, 128 + signal.SIGTERM, "was told to end before it was done"),
        (told_to_end_at_the_terminal, 130, "was told to end before it was done"),
        (at_fault, 1, "broke off, which is a fault of ours: ZeroDivisionError: by nothing"),
    ],
)
def test_whatever_ends_a_run_is_on_record_and_told_and_the_job_can_be_run_again(  # noqa: PLR0917 - fixtures and cases
    database: Settings,
    sessions: Sessions,
    monkeypatch: pytest.MonkeyPatch,
    happens: Callable[[Run], jobs.Said],
    exit_code: int,
    said: str,
) -> None:
    monkeypatch.setenv("KERBWATCH_HOME", str(database.home))
    monkeypatch.setattr(os, "nice", lambda _: 0)
    if database.database_url is not None:
        monkeypatch.setenv("KERBWATCH_DATABASE_URL", database.database_url.reveal())
    ended = []

    def job(run: Run) -> jobs.Said:
        try:
            return happens(run)
        finally:
            ended.append("what it started")

    monkeypatch.setitem(jobs.BY_NAME, "backup", job)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    assert CliRunner().invoke(app, ["schedule", "run", "backup"]).exit_code == exit_code
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == before
    assert ended == ["what it started"]
    with reading(sessions) as session:
        row = next(one for one in schedule.listed(session, datetime.now(UTC)) if one.name == "backup")
        [notice] = session.query(NoticeRow)
    assert (row.outcome, row.said) == (Outcome.FAILED, said)
    assert f"scheduled job backup failed: {said}".encode() in notice.body
    monkeypatch.setitem(jobs.BY_NAME, "backup", lambda _: jobs.Said("fine"))
    assert CliRunner().invoke(app, ["schedule", "run", "backup"]).exit_code == 0
