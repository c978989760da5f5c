"""What runs out is told in time, to R6 and R8, and not every hour."""

import shlex
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from incident_events import NORMAL, SAFE, act, at, signal
from msgspec.json import decode
from msgspec.structs import replace
from sqlalchemy import select

from infra import certificates
from infra.db import Sessions, reading
from infra.settings import Settings
from infra.tables import NoticeRow
from responders.engine.incident import Act, Resolution, Verb
from responders.engine.store import Store
from responders.notify.notices import Notice, Sort
from responders.people.roles import Role
from responders.playbooks import playbooks
from responders.regular.schedule import Outcome, job_of
from streams.console import jobs
from streams.console.jobs import Run
from streams.events import Context, Phase, Severity

pytest_plugins = ["databases"]

HOUR_S = 3600.0
EARLY = "NIS2: early warning to CSIRT or authority (article 23)"


@pytest.fixture
def store(sessions: Sessions) -> Store:
    made = Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)
    made.assign(Context.URBAN, NORMAL, SAFE, at(0))
    return made


def reminded(database: Settings, sessions: Sessions, now: datetime) -> list[Notice]:
    """Do the job; every reminder that there is then."""
    said = jobs.carry_out("deadlines", Run(database, sessions, now))
    assert (said.outcome, said.waits) == (Outcome.DONE, "")
    with reading(sessions) as session:
        bodies = session.scalars(select(NoticeRow.body).order_by(NoticeRow.created_at))
        return [one for one in (decode(body, type=Notice) for body in bodies) if one.sort is Sort.REMINDER]


def of_reports(notices: list[Notice]) -> list[tuple[str, str]]:
    return [(one.role, one.what.split(": the time")[0]) for one in notices if ": the time to report" in one.what]


def attacked(store: Store) -> str:
    return store.accept(signal(Phase.RAISED, 10, 14, severity=Severity.HIGH), at(0)).incident_ids[0]


def noted(store: Store, id_: str, hour: float, words: str) -> None:
    store.accept(
        Act(f"n{hour}", at(hour * HOUR_S), id_, Verb.NOTE, "operator-1", words, roles=(Role.SECMLOPS_ENGINEER,)), at(hour * HOUR_S)
    )


def test_certificates_are_reminded_of_each_week_and_each_day_of_the_last_one(database: Settings, sessions: Sessions) -> None:
    def told(days_left: float) -> int:
        return len(reminded(database, sessions, end - timedelta(days=days_left)))

    assert reminded(database, sessions, at(0)) == []  # nobody made any here
    certificates.make_certificates(database, at(0))
    end = min(end for end in certificates.expiry(database).values() if end)
    assert told(30.1) == 0
    assert told(29.9) == told(29.8) == 2
    assert told(10) > 2
    before = told(6.9)
    assert [told(left) for left in (6.9, 5.9, 4.9)] == [before, before + 2, before + 4]
    notices = reminded(database, sessions, end + timedelta(hours=3))
    assert {(one.sort, one.role) for one in notices} == {(Sort.REMINDER, "R6"), (Sort.REMINDER, "R8")}
    assert "ends in 30 days" in notices[0].what
    assert "ended 3.0 hours ago" in notices[-1].what
    assert "`kerbwatch keys init`" in notices[0].what


def test_certificates_made_anew_are_reminded_of_no_more(database: Settings, sessions: Sessions) -> None:
    certificates.make_certificates(database, at(0) - timedelta(days=350))
    assert len(reminded(database, sessions, at(0))) == 2
    certificates.make_certificates(database, at(0))
    assert len(reminded(database, sessions, at(0) + timedelta(days=8))) == 2


def test_a_reporting_deadline_is_reminded_of_once_when_a_quarter_of_its_time_is_left(
    store: Store, database: Settings, sessions: Sessions
) -> None:
    attacked(store)
    assert of_reports(reminded(database, sessions, at(17.9 * HOUR_S))) == []
    for hour in (18.1, 19.1, 25):
        assert of_reports(reminded(database, sessions, at(hour * HOUR_S))) == [("R6", EARLY), ("R8", EARLY)]
    assert len(of_reports(reminded(database, sessions, at(55 * HOUR_S)))) == 6  # two of 72 hours more


def test_an_acknowledgement_moves_the_deadline_and_its_reminder(store: Store, database: Settings, sessions: Sessions) -> None:
    id_ = attacked(store)
    store.accept(act(Verb.ACKNOWLEDGE, id_, 10 * HOUR_S), at(10 * HOUR_S))
    assert of_reports(reminded(database, sessions, at(27 * HOUR_S))) == []
    [notice, _] = reminded(database, sessions, at(28.5 * HOUR_S))
    assert "ends in 5.5 hours, 2026-11-22 22:00 UTC" in notice.what


def test_a_note_that_it_was_reported_ends_that_reminder_and_no_other(store: Store, database: Settings, sessions: Sessions) -> None:
    id_ = attacked(store)
    [notice, _] = reminded(database, sessions, at(23 * HOUR_S))
    *_, words = shlex.split(notice.what.split("`")[-2])
    store.accept(act(Verb.ACKNOWLEDGE, id_, 23.5 * HOUR_S), at(23.5 * HOUR_S))  # counts anew from now on
    noted(store, id_, 24, "not yet reported")
    noted(store, id_, 25, words)
    told = of_reports(reminded(database, sessions, at((23.5 + 71) * HOUR_S)))
    assert [name for _, name in told].count(EARLY) == 2
    assert len(told) == 2 + 4


def test_a_false_alarm_and_what_was_due_long_ago_are_reminded_of_no_more(
    store: Store, database: Settings, sessions: Sessions
) -> None:
    alarm = attacked(store)
    assert of_reports(reminded(database, sessions, at(30 * 24 * HOUR_S))) == []
    assert of_reports(reminded(database, sessions, at(20 * HOUR_S))) != []
    store.accept(act(Verb.CLOSE, alarm, 21 * HOUR_S, resolution=Resolution.FALSE_ALARM), at(21 * HOUR_S))
    assert len(of_reports(reminded(database, sessions, at(60 * HOUR_S)))) == 2


def test_deadlines_that_do_not_hold_are_told_as_a_failed_job(database: Settings, sessions: Sessions, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text("[[deadline]]\n")
    said = jobs.carry_out("deadlines", Run(replace(database, deadlines=own), sessions, at(0)))
    assert said.outcome is Outcome.FAILED
    assert "own.toml does not hold" in said.waits


def test_the_job_comes_often_enough_for_a_day_s_deadline() -> None:
    assert job_of("deadlines").next_after(at(0)) - at(0) <= timedelta(hours=1)
