"""Which weights served where and when, and what may be named or gone back to, on both databases."""

import json
from datetime import timedelta
from pathlib import Path

import alembic.command as alembic
import msgspec
import pytest
from a_model import a_registry, a_verdict, add, judged_frame
from alembic.config import Config
from incident_events import NOON, act, at, signal
from sqlalchemy import select

from inference.provenance import history
from inference.provenance.approvals import approvals
from inference.provenance.registry import Registry
from inference.provenance.verdicts import put_verdict
from infra.db import _MIGRATIONS, Sessions, engine_of, migrate, open_database, reading, writing
from infra.settings import Settings
from infra.tables import EffectRow, RolloutRow, TimelineRow
from responders.engine import assignments
from responders.engine.incident import Verb
from responders.engine.store import Store
from responders.people import people
from responders.people.roles import Role
from responders.playbooks import playbooks
from responders.proof.keeping import record_judged
from responders.rollouts.comparison import Limits
from responders.rollouts.rollout import OVER, Rollout, State
from responders.rollouts.rollout import Approval as RolloutApproval
from responders.rollouts.store import Rollouts, rollout_of
from streams import codec
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import Context, Kind, Mode, ModelState, Phase, RolloutPhase
from streams.promotion import going_back, promote, rollback, vouch
from streams.topics import MODEL_STATE

pytest_plugins = ["databases"]


class Deployment:
    """A database, a registry with a normal and a safe model that setup named, and two people who may promote."""

    def __init__(self, sessions: Sessions, home: Path) -> None:
        self.sessions, self.home, self.settings = sessions, home, Settings(home=home)
        self.registry: Registry = a_registry(home)
        self.normal, self.safe = add(self.registry, home, 1), add(self.registry, home, 2, Mode.SAFE)
        self.store = Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)
        self.store.assign(Context.URBAN, self.normal, self.safe, NOON)
        with writing(sessions) as session:
            people.put(session, "trainer-1", [Role.DATA_SCIENTIST], "root", NOON)
            people.put(session, "security-1", [Role.SECMLOPS_ENGINEER], "root", NOON)

    def candidate(self, number: int, *, passed: bool = True) -> str:
        digest = add(self.registry, self.home, number)
        put_verdict(self.registry, a_verdict(digest, passed=passed))
        return digest

    def promote(
        self, digest: str, *, seconds: float, by: tuple[str, ...] = ("trainer-1", "security-1"), mode: Mode = Mode.NORMAL
    ) -> None:
        with writing(self.sessions) as session:
            promote(session, self.registry, self.settings, digest, Context.URBAN, mode, by=by, comment="better", now=at(seconds))

    def rollback(self, seconds: float) -> str:
        with writing(self.sessions) as session:
            back = rollback(
                session,
                Rollouts(self.store),
                self.registry,
                self.settings,
                Context.URBAN,
                Mode.NORMAL,
                actor="trainer-1",
                comment="worse",
                now=at(seconds),
                act_id=f"act-{seconds}",
            )
            return back.digest

    def candidate_in(self, state: State, digest: str) -> Rollout:
        """A rollout of `digest` in this state, since a minute after noon."""
        incident = self.store.accept(signal(Phase.RAISED, 10, 14), at(3)).incident_ids[0]
        phase = {State.SHADOW: RolloutPhase.SHADOW, State.CANARY: RolloutPhase.CANARY}.get(state)
        with writing(self.sessions) as session:
            model = assignments.assigned(session, Context.URBAN, Mode.NORMAL)
            rollout = Rollout(
                id="r1", context=Context.URBAN, incident_id=incident, requested_by="trainer-1", requested_at=NOON,
                normal_digest=model, limits=Limits(), since=at(60), heard_at=NOON, candidate_digest=digest, state=state,
                phase=phase, share=0.2 if phase else 0.0,
            )  # fmt: skip
            session.add(
                RolloutRow(
                    id="r1", incident_id=incident, context=Context.URBAN, state=state, over=state in OVER,
                    candidate_digest=digest, phase=phase, share=rollout.share, requested_at=NOON,
                    body=msgspec.json.encode(rollout),
                )
            )  # fmt: skip
        return rollout

    def rollout(self) -> Rollout:
        with reading(self.sessions) as session:
            return rollout_of(session.get_one(RolloutRow, "r1"))

    def asked(self) -> list[ModelState]:
        query = select(EffectRow.payload).where(EffectRow.topic == MODEL_STATE.name).order_by(EffectRow.number)
        with reading(self.sessions) as session:
            return [codec.decode(payload, MODEL_STATE, ModelState).event for payload in session.scalars(query)]


@pytest.fixture
def here(sessions: Sessions, database: Settings) -> Deployment:
    return Deployment(sessions, database.home)


def test_names_hold_until_the_next_of_their_role(here: Deployment) -> None:
    better = here.candidate(3)
    here.promote(better, seconds=60)
    with reading(here.sessions) as session:
        told = history.named(session, Context.URBAN)
        assert history.named(session, Context.HIGHWAY) == ()
    assert [(one.mode, one.weights_digest, one.since, one.until, one.actor) for one in told] == [
        (Mode.NORMAL, here.normal, NOON, at(60), "setup"),
        (Mode.SAFE, here.safe, NOON, None, "setup"),
        (Mode.NORMAL, better, at(60), None, "trainer-1, security-1"),
    ]


def test_a_promotion_tells_the_workers_and_setup_does_not_take_it_back(here: Deployment) -> None:
    better = here.candidate(3)
    here.promote(better, seconds=60)
    state = here.asked()[-1]
    assert (state.weights_digest, state.reference_digest, state.mode) == (better, better, Mode.NORMAL)
    here.promote(better, seconds=61)
    assert not here.store.assign(Context.URBAN, here.normal, here.safe, at(62))
    assert not here.store.assign(Context.URBAN, "c" * 64, "d" * 64, at(63))  # a new release: what serves goes on serving
    assert here.asked()[-1] == state
    with reading(here.sessions) as session:
        assert assignments.assigned(session, Context.URBAN, Mode.NORMAL) == better
        assert assignments.assigned(session, Context.URBAN, Mode.SAFE) == here.safe
        assert not assignments.never_named(session, Context.URBAN, Mode.NORMAL, here.normal)


def test_while_the_safe_model_serves_a_promotion_changes_only_the_reference(here: Deployment) -> None:
    here.store.accept(signal(Phase.RAISED, 10, 14), at(3))
    assert here.asked()[-1].mode is Mode.SAFE
    better = here.candidate(3)
    here.promote(better, seconds=60)
    state = here.asked()[-1]
    assert (state.weights_digest, state.reference_digest, state.mode) == (here.safe, better, Mode.SAFE)


def test_served_stretches_are_sums_of_judged_frames_however_they_come(here: Deployment) -> None:
    frames = [judged_frame(n, here.normal) for n in range(5)] + [
        judged_frame(n, here.safe, mode=Mode.SAFE, decision="d1") for n in range(5, 8)
    ]
    with writing(here.sessions) as session:
        record_judged(session, frames[3:])
    for again in (frames, frames):
        with writing(here.sessions) as session:
            record_judged(session, again)
    with reading(here.sessions) as session:
        told = history.served(session)
        assert history.served(session, digest=here.safe) == told[1:]
        assert history.served(session, Context.HIGHWAY) == ()
    assert [(one.weights_digest, one.mode, one.first_at, one.last_at, one.frames) for one in told] == [
        (here.normal, Mode.NORMAL, at(0), at(4), 5),
        (here.safe, Mode.SAFE, at(5), at(7), 3),
    ]


def test_a_frame_is_found_by_id_and_by_place(here: Deployment) -> None:
    with writing(here.sessions) as session:
        record_judged(session, [judged_frame(7, here.safe, mode=Mode.SAFE, decision="d1")])
    with reading(here.sessions) as session:
        found = history.judged(session, "cam1:1:7")
        assert found is not None
        assert (found.weights_digest, found.mode, found.decision_id) == (here.safe, Mode.SAFE, "d1")
        assert found.judged_time - found.camera_time == timedelta(seconds=0.1)
        assert history.judged(session, found.frame_id) == found
        assert history.judged(session, "cam1:1:8") is None
        for nonsense in ("", "cam1:1", "cam1:-1:7", "' OR 1=1 --", f"cam1:1:{'9' * 30}"):
            with pytest.raises(BadInput, match="names no frame"):
                history.judged(session, nonsense)


def test_weights_under_an_open_incident_are_suspected_until_it_closes(here: Deployment) -> None:
    with writing(here.sessions) as session:
        record_judged(
            session,
            [judged_frame(12, here.normal), judged_frame(13, here.safe, mode=Mode.SAFE, decision="d1"), judged_frame(40, "e" * 64)],
        )
    here.store.accept(signal(Phase.RAISED, 10, 14), at(3))
    with reading(here.sessions) as session:
        assert list(history.suspected(session)) == [here.normal]


def test_a_worker_that_falls_behind_speaks_against_the_newest_weights_that_served_its_context_then(here: Deployment) -> None:
    newest = "e" * 64
    canary = [judged_frame(40 + n, newest if n % 2 else here.normal, decision="canary") for n in range(5)]
    with writing(here.sessions) as session:
        record_judged(session, [*(judged_frame(n, here.normal) for n in range(40)), *canary])
    behind = signal(Phase.RAISED, 1, 2, camera="worker-1", kind=Kind.HEALTH, detector="backlog", epoch=0, time_s=44)
    [incident] = here.store.accept(behind, at(44)).incident_ids
    with writing(here.sessions) as session:  # what follows it has done nothing
        record_judged(session, [judged_frame(50, here.normal, decision="back"), judged_frame(60, "f" * 64, decision="later")])
    with reading(here.sessions) as session:
        assert history.suspected(session) == {newest: (incident,)}
    here.store.accept(act(Verb.CLOSE, incident, 70), at(70))
    with reading(here.sessions) as session:
        assert history.suspected(session) == {}


def test_a_worker_that_falls_behind_under_weights_that_nothing_preceded_speaks_against_none(here: Deployment) -> None:
    with writing(here.sessions) as session:
        record_judged(session, [judged_frame(n, here.normal) for n in range(40)])
    here.store.accept(
        signal(Phase.RAISED, 1, 2, camera="worker-1", kind=Kind.HEALTH, detector="backlog", epoch=0, time_s=44), at(44)
    )
    with reading(here.sessions) as session:
        assert history.suspected(session) == {}


def test_a_worker_that_falls_behind_while_the_safe_model_serves_speaks_against_none(here: Deployment) -> None:
    with writing(here.sessions) as session:
        safe = [judged_frame(20 + n, here.safe, mode=Mode.SAFE, decision="d1") for n in range(3)]
        record_judged(session, [judged_frame(1, here.normal), *safe])
    behind = signal(Phase.RAISED, 1, 2, camera="worker-1", kind=Kind.HEALTH, detector="backlog", epoch=0, time_s=30)
    here.store.accept(behind, at(30))
    with reading(here.sessions) as session:
        assert history.suspected(session) == {}


@pytest.mark.parametrize(
    ("by", "said"),
    [
        (("trainer-1",), "two people"),
        (("trainer-1", "trainer-1"), "two people"),
        (("trainer-1", "stranger-1"), "stranger-1 has no role"),
        ((), "nobody was named"),
    ],
)
def test_one_person_cannot_promote(here: Deployment, by: tuple[str, ...], said: str) -> None:
    better = here.candidate(3)
    with pytest.raises(BadInput, match=said):
        here.promote(better, seconds=60, by=by)
    assert len(here.asked()) == 1


def test_who_let_a_model_into_service_is_signed_and_kept(here: Deployment) -> None:
    better = here.candidate(3)
    here.promote(better, seconds=60)
    here.promote(better, seconds=61)
    [said] = approvals(here.registry, better)
    assert [(by.actor, by.role, by.comment, by.time) for by in said.approvals] == [
        ("trainer-1", "R3", "better", at(60)),
        ("security-1", "R8", "better", at(60)),
    ]
    [path] = (here.registry.root / "approvals" / better).rglob("approvals.json")
    statement = json.loads(path.read_bytes())
    assert statement["subject"] == [{"name": "weights.safetensors", "digest": {"sha256": better}}]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"security-1", b"security-9"))
    with pytest.raises(Tampered, match=r"approvals\.json was changed"):
        approvals(here.registry, better)


def test_a_rollout_is_vouched_for_by_the_gate_and_its_approvals_are_kept(here: Deployment) -> None:
    better, refused = here.candidate(3), here.candidate(4, passed=False)
    incident = here.store.accept(signal(Phase.RAISED, 10, 14), at(3)).incident_ids[0]
    rollout = Rollout(
        id="r1",
        context=Context.URBAN,
        incident_id=incident,
        requested_by="trainer-1",
        requested_at=NOON,
        normal_digest=here.normal,
        limits=Limits(),
        since=NOON,
        heard_at=NOON,
        candidate_digest=better,
        approvals=(RolloutApproval("trainer-1", Role.DATA_SCIENTIST, at(50), "looks right"),),
    )
    with writing(here.sessions) as session:
        session.add(
            RolloutRow(
                id="r1", incident_id=incident, context=Context.URBAN, state="full", over=False, candidate_digest=better,
                phase=None, share=0.0, requested_at=NOON, body=msgspec.json.encode(rollout),
            )
        )  # fmt: skip
    asked = vouch(here.sessions, here.registry, here.settings)
    asked(Context.URBAN, better)
    asked(Context.URBAN, better)
    [said] = approvals(here.registry, better)
    assert [(by.actor, by.role, by.comment) for by in said.approvals] == [("trainer-1", "R3", "looks right")]
    with pytest.raises(BadInput, match="refused"):
        asked(Context.URBAN, refused)


def test_nobody_can_promote_what_the_gate_refused_or_never_saw_or_what_was_changed(here: Deployment) -> None:
    with pytest.raises(BadInput, match="nobody can promote it"):
        here.promote(here.candidate(3, passed=False), seconds=60)
    with pytest.raises(BadInput, match="no verdict"):
        here.promote(add(here.registry, here.home, 4), seconds=60)
    with pytest.raises(BadInput, match="is a normal model"):
        here.promote(here.candidate(5), seconds=60, mode=Mode.SAFE)
    changed = here.candidate(6)
    (here.registry.root / changed / "card.json").chmod(0o644)
    (here.registry.root / changed / "card.json").write_text("{}")
    with pytest.raises(Tampered, match=r"card\.json was changed"):
        here.promote(changed, seconds=60)
    assert len(here.asked()) == 1


def test_a_roll_back_skips_what_is_suspected_and_what_does_not_verify(here: Deployment) -> None:
    second, third, fourth = (here.candidate(number) for number in (3, 4, 5))
    for number, digest in enumerate((second, third, fourth)):
        here.promote(digest, seconds=60 + number)
    with writing(here.sessions) as session:
        record_judged(session, [judged_frame(12, third)])
    here.store.accept(signal(Phase.RAISED, 10, 14), at(100))
    (here.registry.root / second / "weights.safetensors").chmod(0o644)
    (here.registry.root / second / "weights.safetensors").write_bytes(b"")
    assert here.rollback(110) == here.normal
    assert here.asked()[-1].reference_digest == here.normal


def test_a_rollout_goes_back_to_the_model_that_a_roll_back_would_name(here: Deployment) -> None:
    second, third, fourth = (here.candidate(number) for number in (3, 4, 5))
    former = going_back(here.registry, here.settings)
    here.promote(second, seconds=60)
    here.promote(third, seconds=61)
    assert here.rollback(62) == second
    here.promote(fourth, seconds=63)
    with reading(here.sessions) as session:
        assert former(session, Context.URBAN) == second, "not to what people left"
    with writing(here.sessions) as session:
        record_judged(session, [judged_frame(12, second)])
    here.store.accept(signal(Phase.RAISED, 10, 14), at(100))
    with reading(here.sessions) as session:
        assert former(session, Context.URBAN) == here.normal, "not to what is suspected"
    here.promote(here.candidate(6), seconds=110)
    for digest in (here.normal, fourth):
        (here.registry.root / digest / "weights.safetensors").chmod(0o644)
        (here.registry.root / digest / "weights.safetensors").write_bytes(b"")
    with reading(here.sessions) as session, pytest.raises(BadInput, match="no former normal model to go back to"):
        former(session, Context.URBAN)


def test_a_registry_that_is_away_is_no_reason_to_stay_with_a_model(here: Deployment) -> None:
    here.promote(here.candidate(3), seconds=60)
    former = going_back(here.registry, here.settings)
    root = here.registry.root
    root.rename(root.with_name("away"))
    with reading(here.sessions) as session, pytest.raises(Unavailable, match="try again once the registry is there"):
        former(session, Context.URBAN)
    root.with_name("away").rename(root)
    with reading(here.sessions) as session:
        assert former(session, Context.URBAN) == here.normal


def test_a_roll_back_with_nowhere_to_go_says_why(here: Deployment) -> None:
    with pytest.raises(BadInput, match="no former normal model to go back to: there was none"):
        here.rollback(60)
    here.promote(here.candidate(3), seconds=60)
    with writing(here.sessions) as session:
        record_judged(session, [judged_frame(12, here.normal)])
    here.store.accept(signal(Phase.RAISED, 10, 14), at(100))
    with pytest.raises(BadInput, match="is suspected in open incident"):
        here.rollback(110)


@pytest.mark.parametrize("state", [State.SHADOW, State.CANARY, State.FULL])
def test_a_roll_back_takes_the_candidate_with_it_in_the_same_breath(here: Deployment, state: State) -> None:
    second, newest = here.candidate(3), here.candidate(4)
    here.promote(second, seconds=50)
    here.candidate_in(state, newest)
    if state is State.FULL:
        here.promote(newest, seconds=55)
    expected = {State.SHADOW: here.normal, State.CANARY: second, State.FULL: second}[state]
    assert here.rollback(70) == expected
    asked, after = here.asked()[-1], here.rollout()
    assert (asked.reference_digest, asked.candidate) == (expected, None)
    assert (after.state, after.phase, after.why) == (State.CANCELLED, None, "rolled back: worse")
    with reading(here.sessions) as session:
        told = session.scalars(select(TimelineRow).where(TimelineRow.action == "rollout.cancelled")).one()
        audited = session.scalars(select(EffectRow).where(EffectRow.decision_id == told.decision_id, EffectRow.topic == "audit"))
        assert len(audited.all()) == 1
    assert (told.actor, told.cause_id) == ("trainer-1", "act-70")
    Rollouts(here.store).tick(at(4000))
    assert here.rollout() == after, "what was rolled back is never done"
    assert here.asked()[-1] == asked


def test_a_roll_back_that_cannot_be_leaves_the_candidate_where_it_is(here: Deployment) -> None:
    before = here.candidate_in(State.SHADOW, here.candidate(3))
    with pytest.raises(BadInput, match="there was none"):
        here.rollback(70)
    assert here.rollout() == before


def test_a_canary_is_left_for_the_model_that_still_serves_the_rest_unless_that_is_suspected(here: Deployment) -> None:
    second = here.candidate(3)
    here.promote(second, seconds=50)
    with writing(here.sessions) as session:
        record_judged(session, [judged_frame(12, second)])
    here.candidate_in(State.CANARY, here.candidate(4))  # its incident, on frames of `second`, is open
    assert here.rollback(70) == here.normal
    assert here.rollout().state is State.CANCELLED


def test_a_candidate_in_full_service_that_people_replace_is_not_done(here: Deployment) -> None:
    newest, another = here.candidate(3), here.candidate(4)
    here.candidate_in(State.FULL, newest)
    here.promote(newest, seconds=55)
    here.promote(another, seconds=65)
    Rollouts(here.store).tick(at(70))
    after = here.rollout()
    assert (after.state, another[:12] in after.why) == (State.CANCELLED, True)
    assert here.asked()[-1].reference_digest == another


def test_after_going_back_the_next_roll_back_does_not_return_to_what_was_left(here: Deployment) -> None:
    second, third = here.candidate(3), here.candidate(4)
    here.promote(second, seconds=60)
    here.promote(third, seconds=61)
    assert here.rollback(70) == second
    assert here.rollback(80) == here.normal


def test_what_older_versions_kept_is_carried_into_the_history(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    engine = engine_of(settings, make=True)
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    at_noon = "2026-11-21 12:00:0"
    frames = [
        (
            f"f{n}",
            "cam1",
            "urban",
            1,
            n,
            "a" * 64,
            "normal",
            "initial-urban",
            0,
            n,
            f"{at_noon}{n}",
            f"{at_noon}{n}.500000",
            1,
            None,
        )
        for n in range(3)
    ]
    with engine.execution_options(writes=True).begin() as connection:
        config.attributes["connection"] = connection
        alembic.upgrade(config, "0001")
        named = ("urban", "a" * 64, "b" * 64, "normal", "initial-urban", f"{at_noon}0.000000", 0)
        connection.exec_driver_sql("INSERT INTO model_assignments VALUES (?, ?, ?, ?, ?, ?, ?)", named)
        connection.exec_driver_sql("INSERT INTO judged_frames VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", frames)
    engine.dispose()
    migrate(settings)
    sessions = open_database(settings)
    with reading(sessions) as session:
        [stretch] = history.served(session)
        assert (stretch.frames, stretch.first_at, stretch.last_at) == (3, at(0.5), at(2.5))
        assert [(one.mode, one.weights_digest, one.since) for one in history.named(session)] == [
            (Mode.NORMAL, "a" * 64, NOON),
            (Mode.SAFE, "b" * 64, NOON),
        ]
    sessions.kw["bind"].dispose()
