"""A retrained model in the database: two people's words, live figures, the outbox, restarts; on SQLite and PostgreSQL alike."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from a_person import Phone, newcomer
from click.testing import Result
from incident_events import NORMAL, SAFE, at, signal, status
from msgspec.structs import replace
from rich.console import Console
from sqlalchemy import select
from sqlalchemy.orm import Session
from test_keeping import detections
from typer.testing import CliRunner

from infra.db import Sessions, reading, writing
from infra.keys import person_key_file, replace_person_key
from infra.metrics import Metrics, Service
from infra.people_tables import ActRow
from infra.settings import Settings
from infra.tables import AuditRow, ComparisonRow, EffectRow, NoticeRow, TimelineRow
from responders.console.rollouts import complete_rollout
from responders.engine import assignments
from responders.engine.outbox import gate_said
from responders.engine.store import Store
from responders.notify.notices import Notice, Sort
from responders.people import desk, people
from responders.people.acts import public_of
from responders.people.roles import Role
from responders.playbooks import playbooks
from responders.proof.keeping import record_judged
from responders.rollouts import metrics as rollout_metrics
from responders.rollouts import store as rollout_store
from responders.rollouts.comparison import SHORT
from responders.rollouts.rollout import Failed, Gated, Progress, Rollout, Staged, State, Verb
from responders.rollouts.store import Rollouts
from streams import codec
from streams.command_line import app
from streams.console import jobs
from streams.demo.retraining import Story, introduce
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import (
    AuditEntry,
    Cause,
    Comparison,
    Context,
    Detections,
    Diagnosis,
    Kind,
    Mode,
    ModelState,
    Phase,
    RolloutPhase,
    Severity,
)
from streams.topics import AUDIT, MODEL_STATE

pytest_plugins = ["databases"]

CANDIDATE = "c" * 64


class Site:
    """A town with one incident that is over, and a clock."""

    def __init__(self, settings: Settings, sessions: Sessions) -> None:
        self.sessions, self.settings = sessions, settings
        self.now = at(3)
        self.sequence = 1000
        self.vouched: list[str] = []
        self.loads = True
        self.unfit, self.away = "", False
        self.phones: dict[str, Phone] = {}
        self.store = Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)
        for context in Context:
            self.store.assign(context, NORMAL, SAFE, at(0))
        self.incident_id = self.store.accept(signal(Phase.RAISED, 10, 14, kind=Kind.EVASION), at(3)).incident_ids[0]
        self.report()
        self.store.accept(signal(Phase.CALM, 10, 60), self.passes(1))
        self.report()
        with writing(sessions) as session:
            for name, role in (
                ("trainer-1", Role.DATA_SCIENTIST),
                ("security-1", Role.SECMLOPS_ENGINEER),
                ("devops-1", Role.DEVOPS_ENGINEER),
            ):
                self.phones[name] = newcomer(session, settings, name, [role], self.now)

    @property
    def rollouts(self) -> Rollouts:
        """A responder that has just been started: nothing is kept but the database."""
        store = Store(self.sessions, playbooks.load(), 6, 5)
        return Rollouts(store, lambda _context, digest: self.vouched.append(digest), self.former)

    def former(self, session: Session, context: Context) -> str:
        """As a roll-back chooses, without a registry: the newest former model; none while `unfit` says why."""
        if self.away:
            raise Unavailable("the registry is away")
        if self.unfit:
            raise BadInput(self.unfit)
        return assignments.former(session, context, Mode.NORMAL)[0].weights_digest

    def name(self, digest: str) -> None:
        """People name a normal model."""
        with writing(self.sessions) as session:
            assignments.assign(session, Context.URBAN, Mode.NORMAL, digest, actor="trainer-1", why="people", now=self.passes(1))

    def passes(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    def asked(self) -> ModelState:
        with reading(self.sessions) as session:
            rows = session.scalars(select(EffectRow).where(EffectRow.topic == "model-state", EffectRow.key == "urban"))
            last = max(rows, key=lambda row: row.number)
        return codec.decode(last.payload, MODEL_STATE, ModelState).event

    def report(self) -> None:
        asked = self.asked()
        said = status("w1", (self.passes(0.1) - at(0)).total_seconds(), asked)
        (serving,) = said.serving
        loaded = asked.candidate.weights_digest if asked.candidate is not None and self.loads else None
        self.store.accept(replace(said, serving=(replace(serving, candidate_digest=loaded),)), self.now)

    def rollout(self) -> Rollout:
        with reading(self.sessions) as session:
            return rollout_store.find(session, self.incident_id)

    def made(self) -> Rollout:
        """A candidate that has passed the gate."""
        rollout = self.rollouts.request(self.incident_id, "responder", short=True, now=self.passes(1))
        for event in (
            Progress(self.passes(1), "training", 1, 9, 9.0),
            Staged(self.passes(1), CANDIDATE),
            Gated(self.passes(1), CANDIDATE, passed=True, why="0.93 of clean at FGSM 0.03"),
        ):
            rollout = self.rollouts.hear(rollout.id, event, self.now)
        return rollout

    def approved(self, made: Rollout | None = None) -> Rollout:
        id_ = (made or self.made()).id
        self.rollouts.act(id_, Verb.APPROVE, "trainer-1", "read", None, self.passes(1))
        return self.rollouts.act(id_, Verb.APPROVE, "security-1", "read too", None, self.passes(1))

    def judge(self, count: int, *, agreement: float = 0.9) -> None:
        """New frames, as the worker judges them by what it is asked for now."""
        asked = self.asked()
        batch: list[Detections] = []
        for _ in range(count):
            self.sequence += 1
            seen = detections(self.sequence, asked.weights_digest)
            if asked.candidate is not None:
                answers, second = asked.weights_digest, CANDIDATE
                if asked.candidate.phase is RolloutPhase.CANARY:
                    answers, second = second, answers
                people_seen, took = seen.features.people, seen.timings.infer_ms
                beside = Comparison(weights_digest=second, people=people_seen, score_mean=0.5, agreement=agreement, infer_ms=took)
                seen = replace(seen, weights_digest=answers, compared=beside)
            batch.append(seen)
        for _ in range(2):  # at least once
            with writing(self.sessions) as session:
                record_judged(session, batch)

    def tick(self, seconds: float = 1.0) -> Rollout:
        self.rollouts.tick(self.passes(seconds))
        return self.rollout()

    def to(self, state: State, made: Rollout | None = None) -> Rollout:
        """As far as this step, with workers that obey and frames that please."""
        rollout = self.approved(made)
        for _ in range(10):
            if rollout.state is state:
                return rollout
            self.report()
            rollout = self.tick()
            self.judge(40)
            rollout = self.tick(SHORT.settle_s if rollout.state is State.FULL else 1.0)
        raise AssertionError(f"{rollout.state}: {rollout.why}")


@pytest.fixture
def site(database: Settings, sessions: Sessions) -> Site:
    return Site(database, sessions)


def test_a_retrained_model_becomes_the_normal_one_through_a_fresh_responder_at_every_step(site: Site) -> None:
    site.to(State.DONE)
    asked = site.asked()
    assert (asked.weights_digest, asked.reference_digest, asked.mode) == (CANDIDATE, CANDIDATE, Mode.NORMAL)
    assert asked.candidate is None
    assert site.vouched == [CANDIDATE]
    with reading(site.sessions) as session:
        effects = session.scalars(select(EffectRow).where(EffectRow.topic == "model-state").order_by(EffectRow.number)).all()
        actions = session.scalars(select(TimelineRow.action).where(TimelineRow.action.startswith("rollout"))).all()
    phases = [
        state.candidate.phase
        for state in (codec.decode(row.payload, MODEL_STATE, ModelState).event for row in effects)
        if state.candidate is not None
    ]
    assert phases == [RolloutPhase.SHADOW, RolloutPhase.CANARY]
    assert [action.removeprefix("rollout.") for action in actions] == [
        "request", "training", "staged", "gate", "ask", "approve", "approve", "serve", "reported", "serve", "reported", "serve",
        "reported", "done",
    ]  # fmt: skip


def test_metrics_are_told_of_the_newest_rollout_and_its_proof(site: Site) -> None:
    with reading(site.sessions) as session:
        assert rollout_metrics.newest(session) == ()
    site.to(State.CANARY)
    site.report()
    site.tick()
    site.judge(7)
    metrics = Metrics(Service.RESPOND)
    with reading(site.sessions) as session:
        rollout_metrics.show(metrics, rollout_metrics.newest(session))
    urban = {"context": "urban"}
    assert metrics.registry.get_sample_value("kerbwatch_rollout_info", {**urban, "state": "canary", "digest": CANDIDATE[:12]}) == 1
    assert metrics.registry.get_sample_value("kerbwatch_rollout_proof_frames", urban) == 7
    assert metrics.registry.get_sample_value("kerbwatch_rollout_wanted_frames", urban) == SHORT.served


@pytest.mark.parametrize(("passed", "words"), [(True, [True]), (False, [False])])
def test_the_gate_s_word_is_told_from_a_person_s_by_the_audit_trail(site: Site, passed: bool, words: list[bool]) -> None:
    if passed:
        site.rollouts.act(site.made().id, Verb.REJECT, "trainer-1", "not now", None, site.passes(1))
    else:
        rollout = site.rollouts.request(site.incident_id, "responder", short=True, now=site.passes(1))
        site.rollouts.hear(rollout.id, Staged(site.passes(1), CANDIDATE), site.now)
        site.rollouts.hear(rollout.id, Gated(site.passes(1), CANDIDATE, passed=False, why="0.2 of clean"), site.now)
    assert site.rollout().state is State.REJECTED
    with reading(site.sessions) as session:
        rows = session.scalars(select(EffectRow).where(EffectRow.topic == AUDIT.name).order_by(EffectRow.number)).all()
    said = [gate_said(codec.decode(row.payload, AUDIT, AuditEntry).event) for row in rows]
    assert [word for word in said if word is not None] == words


def test_frames_that_come_twice_count_once(site: Site) -> None:
    site.approved()
    site.judge(7)
    with reading(site.sessions) as session:
        row = session.scalars(select(ComparisonRow)).one()
    assert (row.weights_digest, row.compared, row.served) == (CANDIDATE, 7, 0)
    assert row.agreement == pytest.approx(6.3)


def test_frames_nobody_compares_leave_no_sums(site: Site) -> None:
    site.judge(5)
    with reading(site.sessions) as session:
        assert session.scalars(select(ComparisonRow)).all() == []


def test_a_worker_that_cannot_load_the_candidate_does_not_report_it(site: Site) -> None:
    site.approved()
    site.loads = False
    for _ in range(20):
        site.report()
        rollout = site.tick()
    assert rollout.state is State.RETURNED
    assert "w1" in rollout.why


def test_a_worse_candidate_goes_and_the_serving_model_stays(site: Site) -> None:
    site.approved()
    site.report()
    site.tick()
    site.judge(40, agreement=0.3)
    rollout = site.tick()
    assert rollout.state is State.RETURNED
    assert "agreement 0.30" in rollout.why
    assert site.asked().candidate is None
    assert site.asked().weights_digest == NORMAL


def test_an_incident_on_the_candidates_frames_brings_the_former_model_back(site: Site) -> None:
    site.to(State.FULL)
    site.report()
    site.tick()
    site.judge(3)
    site.store.accept(signal(Phase.RAISED, 1100, 1104, time_s=200), site.passes(1))
    rollout = site.tick()
    assert rollout.state is State.RETURNED
    asked = site.asked()
    assert (asked.mode, asked.weights_digest, asked.reference_digest, asked.candidate) == (Mode.SAFE, SAFE, NORMAL, None)


@pytest.mark.parametrize("state", [State.CANARY, State.FULL])
def test_a_worker_that_falls_behind_under_the_candidate_returns_it(site: Site, state: State) -> None:
    site.to(state)
    site.report()
    site.tick()
    site.judge(3)
    seconds = (site.now - at(0)).total_seconds()
    behind = signal(Phase.RAISED, 1000, 2000, camera="worker-1", kind=Kind.HEALTH, detector="backlog", epoch=0, time_s=seconds)
    [incident] = site.store.accept(behind, site.passes(1)).incident_ids
    rollout = site.tick()
    assert rollout.state is State.RETURNED
    assert incident[:8] in rollout.why
    assert (site.asked().reference_digest, site.asked().candidate) == (NORMAL, None)


@pytest.mark.parametrize(
    ("cause", "returned"),
    [(Cause.MODEL, True), (Cause.POISON, True), (Cause.CORRUPTION, False)],
    ids=["model", "poison", "weather"],
)
def test_drift_speaks_against_the_candidate_where_its_diagnosis_is_harmful(site: Site, cause: Cause, returned: bool) -> None:
    site.to(State.FULL)
    site.report()
    site.tick()
    site.judge(3)
    found = Diagnosis(cause=cause, confidence=0.9, evidence=("as a test says",))
    drift = signal(Phase.RAISED, site.sequence - 1, site.sequence, kind=Kind.DRIFT, severity=Severity.LOW, time_s=200)
    [incident] = site.store.accept(replace(drift, diagnosis=found), site.passes(1)).incident_ids
    after = site.tick()
    assert (after.state is State.RETURNED, incident[:8] in after.why) == (returned, returned)


@pytest.mark.parametrize(
    ("state", "camera", "detector", "returned"),
    [
        (State.FULL, "w1", "model-check", True),
        (State.CANARY, "w1", "model-check", False),
        (State.FULL, "log-check", "log-check", False),
    ],
    ids=["its bytes", "its predecessor's bytes", "the audit log"],
)
def test_tampering_speaks_against_the_candidate_where_its_bytes_are_meant(
    site: Site, state: State, camera: str, detector: str, returned: bool
) -> None:
    site.to(state)
    site.report()
    site.tick()
    site.judge(3)
    altered = signal(Phase.RAISED, 1000, 1000, camera=camera, kind=Kind.TAMPERING, detector=detector, epoch=0, time_s=200)
    site.store.accept(altered, site.passes(1))
    assert (site.tick().state is State.RETURNED) == returned


def test_what_people_rolled_away_from_during_training_does_not_come_back(site: Site) -> None:
    left = "d" * 64
    site.name(left)
    made = site.made()  # asked for while `left` served
    site.name(NORMAL)
    rollout = site.to(State.FULL, made)
    assert rollout.normal_digest == NORMAL
    site.report()
    site.tick()
    site.judge(3)
    site.store.accept(signal(Phase.RAISED, site.sequence - 1, site.sequence, time_s=200), site.passes(1))
    assert site.tick().state is State.RETURNED
    assert site.asked().reference_digest == NORMAL


def test_while_the_registry_is_away_a_return_waits_and_does_not_end_where_it_is(site: Site) -> None:
    site.to(State.FULL)
    site.report()
    site.tick()
    site.judge(3)
    site.away = True
    site.store.accept(signal(Phase.RAISED, site.sequence - 1, site.sequence, time_s=200), site.passes(1))
    assert site.tick().state is State.FULL
    site.away = False
    assert site.tick().state is State.RETURNED
    assert site.asked().reference_digest == NORMAL


def test_where_no_former_model_may_come_back_the_normal_one_stays_and_people_are_told(site: Site) -> None:
    site.to(State.FULL)
    site.report()
    site.tick()
    site.judge(3)
    site.unfit = f"{NORMAL[:12]} is suspected in open incident 1234"
    site.store.accept(signal(Phase.RAISED, site.sequence - 1, site.sequence, time_s=200), site.passes(1))
    assert site.tick().state is State.RETURNED
    asked = site.asked()
    assert (asked.mode, asked.weights_digest, asked.reference_digest) == (Mode.SAFE, SAFE, CANDIDATE)
    with reading(site.sessions) as session:
        told = session.scalars(select(TimelineRow.what).where(TimelineRow.action == "rollout.serve")).all()
    assert "stays the normal model, for nothing else may be" in told[-1]
    assert "suspected in open incident 1234" in told[-1]


def test_safe_mode_takes_the_cameras_from_a_canary_at_once(site: Site) -> None:
    site.to(State.CANARY)
    site.store.accept(signal(Phase.RAISED, 5, 9, camera="cam2", time_s=200), site.passes(1))
    asked = site.asked()
    assert asked.mode is Mode.SAFE
    assert asked.candidate is not None
    assert asked.candidate.phase is RolloutPhase.SHADOW
    assert site.tick().state is State.SHADOW


def test_a_model_that_the_registry_does_not_vouch_for_is_never_promoted(site: Site) -> None:
    site.to(State.CANARY)
    site.report()
    site.tick()
    site.judge(40)

    def refuse(_context: Context, digest: str) -> None:
        raise Tampered(f"verdict of {digest[:12]} was changed")

    Rollouts(site.store, refuse).tick(site.passes(1))
    assert site.rollout().state is State.RETURNED
    assert "was changed" in site.rollout().why
    assert site.asked().weights_digest == NORMAL


def test_a_model_that_cannot_be_vouched_for_now_waits_without_stopping_the_clock_and_goes_back_in_the_end(site: Site) -> None:
    site.to(State.CANARY)
    site.report()
    site.tick()
    site.judge(40)

    def lacks(_context: Context, _digest: str) -> None:
        raise Unavailable("no key to sign models with: run `kerbwatch keys init`")

    def breaks(_context: Context, _digest: str) -> None:
        raise PermissionError("approvals cannot be written")

    keyless = Rollouts(site.store, lacks)
    assert keyless.tick(site.passes(1)) == ()
    assert Rollouts(site.store, breaks).tick(site.passes(1)) == ()
    assert (site.rollout().state, site.asked().weights_digest) == (State.CANARY, NORMAL)
    keyless.tick(site.passes(SHORT.phase_s))
    assert site.rollout().state is State.RETURNED
    assert "no key to sign models with" in site.rollout().why
    assert site.asked().candidate is None


def test_a_model_that_is_vouched_for_at_last_is_promoted(site: Site) -> None:
    site.to(State.CANARY)
    site.report()
    site.tick()
    site.judge(40)

    def lacks(_context: Context, _digest: str) -> None:
        raise Unavailable("no key to sign models with: run `kerbwatch keys init`")

    Rollouts(site.store, lacks).tick(site.passes(1))
    assert site.tick().state is State.FULL
    assert site.asked().weights_digest == CANDIDATE


def test_one_context_has_one_rollout_at_a_time_and_asking_again_finds_it(site: Site) -> None:
    first = site.rollouts.request(site.incident_id, "a", short=True, now=site.passes(1))
    assert site.rollouts.request(site.incident_id, "b", short=False, now=site.passes(1)) == first
    other = site.store.accept(signal(Phase.RAISED, 5, 9, camera="cam2", time_s=200), site.passes(1)).incident_ids[0]
    with pytest.raises(BadInput, match="one at a time"):
        site.rollouts.request(other, "b", short=True, now=site.passes(1))
    site.rollouts.act(first.id, Verb.CANCEL, "trainer-1", "not now", None, site.passes(1))
    assert site.rollouts.request(other, "b", short=True, now=site.passes(1)).state is State.REQUESTED


def told(site: Site) -> list[tuple[str, str]]:
    with reading(site.sessions) as session:
        bodies = session.scalars(select(NoticeRow.body).order_by(NoticeRow.created_at, NoticeRow.id))
        notices = [msgspec.json.decode(body, type=Notice) for body in bodies]
    return sorted((one.role, one.what) for one in notices if one.sort is Sort.REMINDER)


def test_those_who_approve_are_told_when_they_are_asked_and_reminded_as_long_as_they_are_waited_for(site: Site) -> None:
    made = site.made()
    for _ in range(2):
        site.rollouts.hear(made.id, Gated(site.passes(1), CANDIDATE, passed=True, why="0.93 of clean at FGSM 0.03"), site.now)
    [(first, words), (second, same)] = told(site)
    assert (first, second, words) == (Role.DATA_SCIENTIST, Role.SECMLOPS_ENGINEER, same)
    assert "0.93 of clean" in words
    assert f"kerbwatch incidents approve {site.incident_id[:8]}" in words

    def waits() -> str:
        return jobs.carry_out("reminders", jobs.Run(site.settings, site.sessions, site.now)).waits

    assert f"rollouts wait for approval: {made.id[:8]} of urban for R3 (data scientist) and R8" in waits()
    site.rollouts.act(made.id, Verb.APPROVE, "trainer-1", "read", None, site.passes(1))
    assert f"{made.id[:8]} of urban for R8" in waits()
    site.passes(25 * 3600)
    assert "for R3 (data scientist) and R8" in waits(), "an approval counts for a day"
    site.rollouts.act(made.id, Verb.REJECT, "security-1", "too late", None, site.passes(1))
    assert "wait for approval" not in waits()
    assert len(told(site)) == 2, "a person did that, and knows"


def test_those_who_approve_are_told_of_a_return_with_what_serves_then(site: Site) -> None:
    site.to(State.FULL)
    site.report()
    site.tick()
    site.judge(3)
    before = told(site)
    site.store.accept(signal(Phase.RAISED, site.sequence - 1, site.sequence, time_s=200), site.passes(1))
    site.tick()
    site.tick()
    new = [one for one in told(site) if one not in before]
    assert [role for role, _ in new] == [Role.DATA_SCIENTIST, Role.SECMLOPS_ENGINEER]
    assert all("is returned: incident" in what and f"back to {NORMAL[:12]}" in what for _, what in new)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Failed(at(5000), "no golden data"), "is failed: no golden data"),
        (Gated(at(5000), CANDIDATE, passed=False, why="0.2"), "is rejected: "),
    ],
    ids=["failed", "refused by the gate"],
)
def test_those_who_approve_are_told_of_a_run_that_ends_in_nothing(site: Site, event: Failed | Gated, words: str) -> None:
    rollout = site.rollouts.request(site.incident_id, "responder", short=True, now=site.passes(1))
    site.rollouts.hear(rollout.id, Staged(site.passes(1), CANDIDATE), site.now)
    for _ in range(2):
        site.rollouts.hear(rollout.id, event, event.time)
    assert [role for role, what in told(site) if words in what] == [Role.DATA_SCIENTIST, Role.SECMLOPS_ENGINEER]


def test_one_signed_act_asks_for_one_rollout_even_after_that_is_over(site: Site) -> None:
    first = site.rollouts.request(site.incident_id, "a", short=True, now=site.passes(1), act_id="act-1")
    site.rollouts.act(first.id, Verb.CANCEL, "trainer-1", "not now", None, site.passes(1))
    again = site.rollouts.request(site.incident_id, "a", short=True, now=site.passes(1), act_id="act-1")
    assert (again.id, again.state) == (first.id, State.CANCELLED)
    assert site.rollouts.request(site.incident_id, "a", short=True, now=site.passes(1), act_id="act-2").id != first.id


# -- the commands --------------------------------------------------------------------------------------------------

Command = Callable[..., Result]


@pytest.fixture
def command(database: Settings, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("KERBWATCH_HOME", str(database.home))
    monkeypatch.setenv("COLUMNS", "250")
    if database.database_url is not None:
        monkeypatch.setenv("KERBWATCH_DATABASE_URL", database.database_url.reveal())

    def run(*words: str) -> Result:
        result = CliRunner().invoke(app, list(words))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def test_two_people_approve_by_command_and_everything_they_tried_is_on_record(site: Site, command: Command) -> None:
    site.made()
    id_ = site.incident_id

    def approve(actor: str, *more: str) -> Result:
        code = site.phones[actor].code() if actor in site.phones else "123456"
        return command("incidents", "approve", id_, "--actor", actor, "--code", code, "-m", "curves read", *more)

    with pytest.raises(BadInput, match="six digits"):
        command("incidents", "approve", id_, "--actor", "trainer-1", "-m", "curves read")
    approve("trainer-1")
    for actor, error, why in (
        ("trainer-1", BadInput, "another person"),
        ("devops-1", BadInput, "R6"),
        ("stranger-1", Unavailable, "no key"),
    ):
        with pytest.raises(error, match=why):
            approve(actor)
    assert "R8 (SecMLOps engineer)" in command("rollouts", "list").stdout
    assert "missing" in command("rollouts", "show", id_[:8]).stdout
    approve("security-1")
    shown = json.loads(command("rollouts", "show", id_, "--json").stdout)
    assert shown["rollout"]["state"] == "shadow"
    assert [given["actor"] for given in shown["rollout"]["approvals"]] == ["trainer-1", "security-1"]
    with reading(site.sessions) as session:
        bodies = session.scalars(select(EffectRow.payload).where(EffectRow.topic == "audit").order_by(EffectRow.number)).all()
        assert session.scalars(select(AuditRow)).all() == []  # the keeper writes those
    said = [codec.decode(body, AUDIT, AuditEntry).event for body in bodies]
    refused = [(entry.actor, entry.action) for entry in said if entry.action.endswith(".refuse")]
    assert refused == [
        ("trainer-1", "people.refuse"),
        ("trainer-1", "rollout.refuse"),
        ("devops-1", "people.refuse"),
        ("stranger-1", "people.refuse"),
    ]
    signed = {entry.id: entry for entry in said if entry.action == "people.act"}
    approvals = [entry for entry in said if entry.action == "rollout.approve"]
    assert {entry.cause_id for entry in approvals} <= {entry.cause_id for entry in signed.values()}


def test_an_approval_of_somebody_who_was_removed_since_does_not_count_and_the_command_says_whose(
    site: Site, command: Command
) -> None:
    site.made()

    def approve(actor: str) -> str:
        code = site.phones[actor].code()
        return command("incidents", "approve", site.incident_id, "--actor", actor, "--code", code, "-m", "curves read").stdout

    approve("trainer-1")
    with writing(site.sessions) as session:
        people.drop(session, "trainer-1", "security-1", site.now)
    said = approve("security-1")
    assert "the approval by trainer-1 counts no more" in said
    assert "waits for: approval by R3" in said
    assert site.rollout().state is State.AWAITING_APPROVAL
    with writing(site.sessions) as session:
        site.phones["trainer-2"] = newcomer(session, site.settings, "trainer-2", [Role.DATA_SCIENTIST], site.now)
    assert "it is shadow" in approve("trainer-2")


def test_an_approval_that_was_signed_with_a_key_that_is_theirs_no_more_does_not_count(site: Site, command: Command) -> None:
    site.made()

    def approve(actor: str) -> str:
        with writing(site.sessions) as session:
            site.phones[actor].rest(session, actor)
        code = site.phones[actor].code()
        return command("incidents", "approve", site.incident_id, "--actor", actor, "--code", code, "-m", "curves read").stdout

    approve("trainer-1")
    with writing(site.sessions) as session:  # the key was stolen: they were removed and added again
        public = public_of(replace_person_key(person_key_file(site.settings, "trainer-1")))
        people.give_key(session, "trainer-1", public, "security-1", datetime.now(UTC))
    said = approve("security-1")
    assert "the approval by trainer-1 counts no more" in said
    assert site.rollout().state is State.AWAITING_APPROVAL
    assert "it is shadow" in approve("trainer-1")


def test_one_person_can_reject_and_cancel(site: Site, command: Command) -> None:
    site.made()

    def reject(actor: str) -> Result:
        return command(
            "incidents", "reject", site.incident_id, "--actor", actor, "--code", site.phones[actor].code(), "-m", "no nights"
        )

    with pytest.raises(BadInput, match="R3"):
        reject("devops-1")
    assert "rejected" in reject("trainer-1").stdout
    with pytest.raises(BadInput, match="any more"):
        command("rollouts", "cancel", site.incident_id, "--actor", "trainer-1", "-m", "too late")


def test_a_rollouts_id_is_completed_and_a_wrong_one_brings_the_nearest(site: Site, command: Command) -> None:
    id_ = site.made().id
    assert complete_rollout(id_[:4]) == [(id_, "urban, awaiting_approval")]
    wrong = id_[:9] + ("0" if id_[9] != "0" else "1") + id_[10:]
    with pytest.raises(BadInput, match=f"did you mean {id_}"):
        command("rollouts", "show", wrong)


def test_what_is_not_there_is_said_so(site: Site, command: Command) -> None:
    assert "no rollout so far" in command("rollouts", "list").stdout
    code = site.phones["trainer-1"].code()
    with pytest.raises(BadInput, match="kerbwatch retrain"):
        command("incidents", "approve", site.incident_id, "--what", "model", "--actor", "trainer-1", "--code", code, "-m", "what?")


def test_the_demos_people_log_in_with_key_and_code(site: Site, database: Settings) -> None:
    if database.database_url is not None:
        pytest.skip("the demo lives on SQLite")
    site.made()
    with writing(site.sessions) as session:
        secrets = introduce(session, database, site.now)
    story = Story(database, ExitStack(), Console(quiet=True), secrets)
    for state in (State.AWAITING_APPROVAL, State.SHADOW):
        story._approve(site.rollout())
        assert site.rollout().state is state
    given = {approval.actor: approval.role for approval in site.rollout().approvals}
    assert given == {"data-scientist": Role.DATA_SCIENTIST, "secmlops-engineer": Role.SECMLOPS_ENGINEER}
    with reading(site.sessions) as session:
        acts = session.scalars(select(ActRow)).all()
        assert desk.check(session).faults == ()
    assert [(act.actor, act.with_code) for act in acts] == [("data-scientist", True), ("secmlops-engineer", True)]
