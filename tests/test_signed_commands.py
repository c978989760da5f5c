"""Commands outside an incident that people sign: retraining is asked for, golden data is vouched for."""

from datetime import UTC, datetime

import pytest
from a_person import Phone, newcomer
from incident_events import NORMAL, SAFE, at, signal
from sqlalchemy import select
from typer import Typer
from typer.testing import CliRunner, Result

from inference.lifecycle.golden import Reviewer, open_golden
from inference.training.pools import Pools
from inference.training.samples import streets
from infra.db import Sessions, reading, writing
from infra.keys import make_people_key, person_key_file
from infra.people_tables import ActRow
from infra.settings import Settings
from infra.tables import EffectRow, RolloutRow, TimelineRow
from responders.engine.store import Store
from responders.people import desk
from responders.people.acts import Signed
from responders.people.roles import Role
from responders.playbooks import playbooks
from responders.rollouts.rollout import Rollout
from streams import codec
from streams.console import golden, retraining
from streams.demo import retraining as demo_retraining
from streams.errors import BadInput, KerbwatchError
from streams.events import AuditEntry, Context, Phase
from streams.sources.scenery import Weather
from streams.topics import AUDIT

pytest_plugins = ["databases"]

EVERYBODY = {
    "data-scientist": Role.DATA_SCIENTIST,
    "data-engineer": Role.DATA_ENGINEER,
    "secmlops-engineer": Role.SECMLOPS_ENGINEER,
    "stakeholder": Role.BUSINESS_STAKEHOLDER,
}


@pytest.fixture
def phones(database: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> dict[str, Phone]:
    monkeypatch.setenv("KERBWATCH_HOME", str(database.home))
    if database.database_url is not None:
        monkeypatch.setenv("KERBWATCH_DATABASE_URL", database.database_url.reveal())
    monkeypatch.setattr("os.nice", lambda _by: 0)
    with writing(sessions) as session:
        return {name: newcomer(session, database, name, [role], datetime.now(UTC)) for name, role in EVERYBODY.items()}


def run(command: object, *words: str) -> Result:
    app = Typer()
    app.command()(command)  # type: ignore[type-var]
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refused(sessions: Sessions) -> list[tuple[str, str]]:
    with reading(sessions) as session:
        bodies = session.scalars(select(EffectRow.payload).where(EffectRow.topic == AUDIT.name).order_by(EffectRow.number))
        entries = [codec.decode(body, AUDIT, AuditEntry).event for body in bodies]
    return [(entry.actor, entry.why.split(":")[0]) for entry in entries if entry.action == "people.refuse"]


@pytest.mark.usefixtures("phones")
def test_a_retraining_is_asked_for_by_a_signed_act_and_gone_on_with_by_anybody(
    database: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)
    store.assign(Context.URBAN, NORMAL, SAFE, at(0))
    [incident] = store.accept(signal(Phase.RAISED, 10, 14), at(3)).incident_ids
    runs: list[Rollout] = []

    def trained(_settings: Settings, _sessions: Sessions, _report: object, asked: Rollout) -> Rollout:
        runs.append(asked)
        return asked

    monkeypatch.setattr(retraining, "_run", trained)
    words = ("--reason", incident[:8], "--budget", "short", "--actor")
    for actor, why in (("stakeholder", "has R1"), ("nobody-known", "no key at")):
        with pytest.raises(KerbwatchError, match=why):
            run(retraining.retrain, *words, actor)
    assert refused(sessions) == [("stakeholder", "retrain"), ("nobody-known", "retrain")]
    assert runs == []

    run(retraining.retrain, *words, "data-scientist")
    with reading(sessions) as session:
        [row] = session.query(RolloutRow)
        [act] = session.query(ActRow)
        request = session.scalars(select(TimelineRow).where(TimelineRow.action == "rollout.request")).one()
        assert desk.check(session).faults == ()
    assert (act.actor, act.deed, act.target) == ("data-scientist", "retrain", incident)
    assert dict(Signed(act.body, act.signature).statement().details) == {"budget": "short"}
    assert (request.actor, request.cause_id, runs[0].requested_by) == ("data-scientist", act.id, "data-scientist")
    person_key_file(database, "data-scientist").unlink()
    run(retraining.retrain, *words, "data-scientist")
    assert [one.id for one in runs] == [row.id, row.id]
    with writing(sessions) as session:
        session.delete(session.get_one(ActRow, act.number))
    with reading(sessions) as session:
        assert "rollout.request by data-scientist was signed by nobody" in desk.check(session).faults[0]


def test_golden_data_needs_two_peoples_word_on_the_very_same_samples(
    database: Settings, sessions: Sessions, phones: dict[str, Phone], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [one for place in range(12) for one in streets(Context.URBAN, Weather.DAY, [place], (0,), size=(128, 64))]
    monkeypatch.setattr(golden, "training_pools", lambda _folder: Pools((drawn,), [], []))

    def vouch(name: str, *more: str) -> Result:
        with writing(sessions) as session:
            phones[name].rest(session, name)
        return run(golden.golden, "-m", f"{name} looked", "--actor", name, "--code", phones[name].code(), *more)

    assert "waits for R8" in vouch("data-engineer").stdout
    assert "waits for R8" in vouch("data-engineer").stdout
    with pytest.raises(BadInput, match=r"has R3 .*R4 .*or R8"):
        vouch("data-scientist")
    assert "waits for R4" in vouch("secmlops-engineer", "--share", "0.5").stdout, "other samples"
    assert not (database.home / "golden").exists()
    said = vouch("secmlops-engineer", "--json").stdout
    known = open_golden(database).golden
    assert known.digest in said
    assert [(one.role, one.reviewer, one.comment) for one in known.reviews] == [
        (Reviewer.R4, "data-engineer", "data-engineer looked"),
        (Reviewer.R8, "secmlops-engineer", "secmlops-engineer looked"),
    ]
    with reading(sessions) as session:
        signed = {row.actor: row.time for row in session.scalars(select(ActRow).order_by(ActRow.number.desc())) if row.used_by}
    assert {one.reviewer: one.time for one in known.reviews} == signed
    assert "R4 data-engineer: data-engineer looked" in run(golden.golden).stdout
    assert "waits for R8" in vouch("data-engineer").stdout, "what was used counts for nothing more"


def test_the_demos_people_vouch_for_its_golden_data_and_can_act(
    database: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = streets(Context.URBAN, Weather.DAY, [0], (0,), size=(128, 64))
    monkeypatch.setattr("inference.training.samples.streets", lambda *_more, **_named: list(drawn))
    monkeypatch.setattr(demo_retraining, "as_sent", lambda _places: [])
    monkeypatch.setattr(demo_retraining, "Weather", [Weather.DAY])
    make_people_key(database)  # as setting up does
    secrets = demo_retraining.prepare(database, datetime.now(UTC))
    known = open_golden(database).golden
    assert [(one.role, one.reviewer) for one in known.reviews] == [
        (Reviewer.R4, "data-engineer"),
        (Reviewer.R8, "secmlops-engineer"),
    ]
    assert set(secrets) == {"data-scientist", "data-engineer", "secmlops-engineer"}
    with reading(sessions) as session:
        assert desk.check(session) == desk.Checked(2, ())
