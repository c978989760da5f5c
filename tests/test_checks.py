"""An audit log that no longer holds opens an incident for people, and touches no model."""

from datetime import timedelta

from incident_events import NOON, NORMAL, SAFE
from test_schedule import entries

from infra.db import Sessions, reading, writing
from infra.settings import Settings
from infra.tables import AuditRow
from responders.engine.records import listed, shown
from responders.engine.store import Store
from responders.people.roles import Role
from responders.playbooks import playbooks
from responders.playbooks.playbooks import State
from responders.regular.checks import found
from streams.console import jobs
from streams.console.jobs import Run
from streams.events import Context, Kind, Mode, Phase

pytest_plugins = ["databases"]


def test_a_log_that_was_changed_opens_one_incident_and_asks_people(database: Settings, sessions: Sessions) -> None:
    store = Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)
    store.assign(Context.URBAN, NORMAL, SAFE, NOON)
    entries(sessions, 0, 3)
    jobs.carry_out("checkpoint", Run(database, sessions, NOON))
    with reading(sessions) as session:
        assert listed(session) == (), "a log that holds opens nothing"
    with writing(sessions) as session:
        session.get_one(AuditRow, 1).body += b" "
    for hour in (1, 2):
        jobs.carry_out("checkpoint", Run(database, sessions, NOON + timedelta(hours=hour)))
    with reading(sessions) as session:
        [one] = listed(session)
        full = shown(session, one.id)
    assert (one.kind, one.state, one.camera, one.signals) == (Kind.TAMPERING, State.CONTAINED, "log-check", 2)
    assert (full.step, full.asks) == ("repair", (Role.DEVOPS_ENGINEER, Role.SECMLOPS_ENGINEER))
    assert "tampering is at least high" in full.graded
    assert "audit entry 1 is not the one" in full.timeline[0].what
    assert {effect.topic for effect in full.effects} == {"incidents", "audit"}, "no model is switched over a log"
    assert {step.mode for step in full.steps} >= {Mode.SAFE}
    assert full.steps[2].approval == (Role.DEVOPS_ENGINEER, Role.SECMLOPS_ENGINEER)


def test_jobs_that_check_nothing_of_the_kind_say_nothing() -> None:
    assert found("backup", "no space", NOON) is None
    calm = found("checkpoint", "", NOON)
    assert calm is not None
    assert calm.phase is Phase.CALM
