"""What is decided about a model on its way into service, with no database and no clock."""

from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from incident_events import NORMAL, at

from responders.people.roles import Role
from responders.rollouts.comparison import Limits, Tally
from responders.rollouts.deciding import decide, evolve
from responders.rollouts.rollout import (
    LIVE,
    NOTHING,
    OVER,
    Act,
    Decision,
    Failed,
    Gated,
    Happening,
    Progress,
    Rollout,
    Serve,
    Staged,
    State,
    Tick,
    Verb,
)
from streams.errors import BadInput
from streams.events import Context, Mode, RolloutPhase, rollout_share

CANDIDATE = "c" * 64
LIMITS = Limits(compared=10, served=5, agreement=0.6, settle_s=30, phase_s=100)
ASKED = Rollout(
    id="r1", context=Context.URBAN, incident_id="i1", requested_by="responder", requested_at=at(0), normal_digest=NORMAL,
    limits=LIMITS, since=at(0), heard_at=at(0),
)  # fmt: skip


def tally(compared: int = 0, served: int = 0, *, agreement: float = 0.9, people: float = 1.0, latency: float = 1.0) -> Tally:
    return Tally(
        compared=compared, agreement=agreement * compared, people=round(200 * people) * compared, beside=200 * compared,
        infer_ms=40 * latency * compared, beside_ms=40.0 * compared, served=served, scored=compared + served,
        inconsistency=0.1 * (compared + served),
    )  # fmt: skip


def tick(time_s: float, seen: Tally = NOTHING, *, mode: Mode = Mode.NORMAL, agreeing: str = "w1 w2", alarm: str = "") -> Tick:
    return Tick(at(time_s), mode, ("w1", "w2"), tuple(agreeing.split()), ("cam1", "cam2"), seen, alarm)


def says(verb: Verb, actor: str, time_s: float, *roles: Role, role: Role | None = None, normal: str = NORMAL) -> Act:
    return Act(f"{verb}-{actor}-{time_s}", at(time_s), verb, actor, "for a test", roles, role, normal)


MADE = (Progress(at(1), "collecting data", 0, 5, 60.0), Staged(at(60), CANDIDATE), Gated(at(70), CANDIDATE, passed=True, why="0.9"))
APPROVED = (
    *MADE,
    says(Verb.APPROVE, "trainer-1", 80, Role.DATA_SCIENTIST),
    says(Verb.APPROVE, "security-1", 81, Role.SECMLOPS_ENGINEER),
)
SHADOWED = (*APPROVED, tick(82), tick(90, tally(12)))
FULL = (*SHADOWED, tick(91, tally(12)), tick(95, tally(12, 6)))
DONE = (*FULL, tick(96, tally(12, 6)), tick(126, tally(12, 40)))


def run(*events: Happening, start: Rollout = ASKED) -> tuple[Rollout, list[Decision]]:
    rollout, decisions = start, []
    for event in events:
        decisions += decide(rollout, event)
        rollout = evolve(rollout, event)
    return rollout, decisions


def served(decisions: list[Decision]) -> list[tuple[RolloutPhase | None, str | None]]:
    return [(decision.phase, decision.normal_digest) for decision in decisions if isinstance(decision, Serve)]


def test_a_model_passes_gate_people_shadow_and_canary_and_becomes_the_normal_one() -> None:
    rollout, decisions = run(*DONE)
    assert rollout.state is State.DONE
    assert served(decisions) == [(RolloutPhase.SHADOW, None), (RolloutPhase.CANARY, None), (None, CANDIDATE)]
    states = list(dict.fromkeys(decision.state for decision in decisions))
    assert states == [
        State.TRAINING, State.GATING, State.AWAITING_APPROVAL, State.SHADOW, State.CANARY, State.FULL, State.DONE,
    ]  # fmt: skip


def test_the_gate_has_the_last_word_over_everybody() -> None:
    rollout, decisions = run(*MADE[:2], Gated(at(70), CANDIDATE, passed=False, why="0.5 of 0.8"), *APPROVED[3:])
    assert rollout.state is State.REJECTED
    assert "0.5 of 0.8" in rollout.why
    assert served(decisions) == []


def test_a_verdict_on_another_candidate_counts_for_nothing() -> None:
    rollout, _ = run(*MADE[:2], Gated(at(70), "d" * 64, passed=True, why="fine"))
    assert rollout.state is State.GATING


ANEW = (Staged(at(65), "d" * 64), Gated(at(75), "d" * 64, passed=True, why="0.95"))


def test_a_run_that_was_trained_anew_while_the_gate_tested_it_has_its_new_candidate_tested() -> None:
    rollout, decisions = run(*MADE[:2], Progress(at(62), "training", 1, 5, 9.0), ANEW[0])
    assert (rollout.state, rollout.candidate_digest) == (State.GATING, "d" * 64)
    assert CANDIDATE[:12] in decisions[-1].what
    late = (MADE[1], MADE[2], Gated(at(76), CANDIDATE, passed=False, why="0.1"))
    assert run(*late, start=rollout) == (rollout, []), "the first candidate's late words count no more"
    passed, _ = run(*late, ANEW[1], *late, start=rollout)
    assert (passed.state, passed.candidate_digest, passed.gate) == (State.AWAITING_APPROVAL, "d" * 64, "0.95")


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (says(Verb.APPROVE, "trainer-1", 81, Role.DATA_SCIENTIST, Role.SECMLOPS_ENGINEER), "another person"),
        (says(Verb.APPROVE, "trainer-2", 81, Role.DATA_SCIENTIST), "R8"),
        (says(Verb.APPROVE, "stranger-1", 81), "not known"),
        (says(Verb.APPROVE, "devops-1", 81, Role.DEVOPS_ENGINEER), "R6"),
        (says(Verb.APPROVE, "trainer-2", 81, *Role, role=Role.DATA_SCIENTIST), "R8"),
    ],
    ids=["one person twice", "the same role twice", "a stranger", "another role", "a role that is filled"],
)
def test_two_approvals_come_from_two_people_of_the_two_roles(second: Act, why: str) -> None:
    rollout, decisions = run(*MADE, says(Verb.APPROVE, "trainer-1", 80, Role.DATA_SCIENTIST, Role.SECMLOPS_ENGINEER), second)
    assert rollout.state is State.AWAITING_APPROVAL
    assert [approval.actor for approval in rollout.approvals] == ["trainer-1"]
    assert (decisions[-1].actor, decisions[-1].action) == (second.actor, "refuse")
    assert why in decisions[-1].what


@pytest.mark.parametrize(
    ("hours", "gone", "why"),
    [(24.0, (), "more than a day ago"), (1.0, ("trainer-1",), "that role no longer")],
    ids=["a day old", "a lost role"],
)
def test_an_approval_counts_for_a_day_and_as_long_as_its_giver_has_the_role(hours: float, gone: tuple[str, ...], why: str) -> None:
    first = APPROVED[3]
    late = replace(says(Verb.APPROVE, "security-1", 80 + 3600 * hours, Role.SECMLOPS_ENGINEER), gone=gone)
    rollout, decisions = run(*MADE, first, late)
    assert (rollout.state, rollout.missing) == (State.AWAITING_APPROVAL, (Role.DATA_SCIENTIST,))
    assert [decision.action for decision in decisions[-2:]] == ["lapse", "approve"]
    assert "trainer-1" in decisions[-2].what
    assert why in decisions[-2].what
    again = says(Verb.APPROVE, "trainer-2", 90 + 3600 * hours, Role.DATA_SCIENTIST)
    assert run(again, start=rollout)[0].state is State.SHADOW
    in_time = says(Verb.APPROVE, "security-1", 79 + 3600 * 24, Role.SECMLOPS_ENGINEER)
    assert run(*MADE, first, in_time)[0].state is State.SHADOW


def test_approvals_before_the_gate_has_spoken_are_refused() -> None:
    rollout, decisions = run(*MADE[:2], *APPROVED[3:], MADE[2])
    assert rollout.state is State.AWAITING_APPROVAL
    assert [decision.action for decision in decisions].count("refuse") == 2


@pytest.mark.parametrize("verb", [Verb.REJECT, Verb.CANCEL])
def test_one_person_of_either_role_can_stop_it(verb: Verb) -> None:
    rollout, decisions = run(*MADE, says(verb, "security-1", 80, Role.SECMLOPS_ENGINEER))
    assert rollout.state in {State.REJECTED, State.CANCELLED}
    assert decisions[-1].actor == "security-1"
    assert run(*MADE, says(verb, "stranger-1", 80))[0].state is State.AWAITING_APPROVAL


@pytest.mark.parametrize(
    "moment",
    [
        tick(90, tally(12, agreement=0.5)),
        tick(90, tally(12, people=1.6)),
        tick(90, tally(12, people=0.6)),
        tick(90, tally(12, latency=1.6)),
        tick(190, tally(9)),
    ],
    ids=["disagrees", "sees too many", "sees too few", "too slow", "too few frames in time"],
)
def test_a_candidate_that_does_worse_beside_the_serving_model_is_returned(moment: Tick) -> None:
    rollout, decisions = run(*APPROVED, tick(82), moment)
    assert rollout.state is State.RETURNED
    assert served(decisions)[1:] == [(None, None)]


def test_input_that_turns_strange_under_the_canary_returns_it() -> None:
    strange = msgspec.structs.replace(tally(12, 6), inconsistency=0.1 * 12 + 0.2 * 6)
    assert run(*SHADOWED, tick(91, tally(12)), tick(95, strange))[0].state is State.RETURNED


@pytest.mark.parametrize("before", [SHADOWED, FULL], ids=["canary", "full"])
def test_an_incident_on_its_frames_returns_it_and_brings_the_former_model_back(before: tuple[Happening, ...]) -> None:
    rollout, decisions = run(*before, tick(100, tally(12, 6), alarm="abcdef"))
    assert rollout.state is State.RETURNED
    last = decisions[-1]
    assert isinstance(last, Serve)
    assert (last.phase, last.normal_digest, last.back) == (None, None, before is FULL)


def test_a_candidate_follows_the_model_that_is_the_normal_one_when_it_begins_to_serve() -> None:
    another = "d" * 64
    first, last = APPROVED[3:]
    assert isinstance(last, Act)
    assert run(*MADE, first, replace(last, normal_digest=another))[0].normal_digest == another
    assert run(*APPROVED)[0].normal_digest == NORMAL


@pytest.mark.parametrize("before", [APPROVED, SHADOWED, FULL], ids=["shadow", "canary", "full"])
def test_workers_that_do_not_report_in_time_return_it(before: tuple[Happening, ...]) -> None:
    reached, _ = run(*before)
    seconds = (reached.since - at(0)).total_seconds()
    late = [tick(seconds + 0.5 * n, tally(12, 6), agreeing="w1") for n in range(1, 40)]
    rollout, decisions = run(*late, start=reached)
    assert rollout.state is State.RETURNED
    assert "w2" in rollout.why
    assert len(served(decisions)) == 1


def test_safe_mode_holds_a_canary_and_never_lets_one_begin() -> None:
    rollout, decisions = run(*SHADOWED, tick(91, tally(12), mode=Mode.SAFE))
    assert rollout.state is State.SHADOW
    assert served(decisions)[-1] == (RolloutPhase.SHADOW, None)
    waits = (tick(92, tally(12), mode=Mode.SAFE), tick(96, tally(30), mode=Mode.SAFE))
    assert run(*waits, start=rollout)[0].state is State.SHADOW
    assert run(*waits, tick(97, tally(30)), start=rollout)[0].state is State.CANARY


def test_in_full_service_only_the_time_counts_in_which_it_serves() -> None:
    waits = [tick(96 + n, tally(12, 6), mode=Mode.SAFE) for n in range(0, 400, 10)]
    rollout, decisions = run(*FULL, tick(96, tally(12, 6)), *waits[1:])
    assert rollout.state is State.FULL
    assert [decision.action for decision in decisions[-2:]] == ["reported", "wait"]
    assert run(tick(500), tick(529), start=rollout)[0].state is State.FULL
    assert run(tick(500), tick(529), tick(529.5, mode=Mode.SAFE), tick(530), start=rollout)[0].state is State.FULL
    assert run(tick(500), tick(529), tick(530), start=rollout)[0].state is State.DONE
    safe_from_the_start = (*FULL, *waits[:4])
    assert run(*safe_from_the_start, tick(127), tick(150))[0].state is State.FULL
    assert run(*safe_from_the_start, tick(127), tick(157))[0].state is State.DONE


def test_a_canary_reaches_at_least_one_camera() -> None:
    rollout, _ = run(*SHADOWED)
    assert any(rollout_share(rollout.id, camera) < rollout.share for camera in ("cam1", "cam2"))
    assert rollout.share >= LIMITS.share


def test_a_silent_run_is_told_once_and_goes_on_when_it_speaks_again() -> None:
    silent = [tick(seconds) for seconds in range(100, 200, 10)]
    rollout, decisions = run(MADE[0], *silent)
    assert [decision.action for decision in decisions] == ["training", "escalate"]
    rollout, _ = run(Progress(at(210), "training", 3, 5, 30.0), start=rollout)
    assert (rollout.escalated, rollout.done) == ("", 3)


RUNNERS = (Role.MLOPS_ENGINEER,)


def test_a_paused_run_keeps_its_rollout_and_is_not_silent_and_goes_on_where_it_stood() -> None:
    rested, decisions = run(
        MADE[0], says(Verb.PAUSE, "mlops-1", 5, *RUNNERS), tick(4000), Progress(at(4001), "training", 4, 5, 1.0)
    )
    assert (rested.state, rested.paused, rested.done) == (State.TRAINING, True, 0)
    assert [decision.action for decision in decisions] == ["training", "pause"]
    going, decisions = run(says(Verb.RESUME, "mlops-1", 5000, *RUNNERS), tick(5060), tick(5130), start=rested)
    assert (going.state, going.paused) == (State.TRAINING, False)
    assert [decision.action for decision in decisions] == ["resume", "escalate"]
    assert run(*MADE[1:], start=going)[0].state is State.AWAITING_APPROVAL


def test_a_run_that_ended_before_it_heard_of_the_pause_is_judged_and_waits_for_people() -> None:
    rollout, _ = run(MADE[0], says(Verb.PAUSE, "mlops-1", 5, *RUNNERS), *MADE[1:])
    assert (rollout.state, rollout.paused) == (State.AWAITING_APPROVAL, False)


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ((MADE[0],), says(Verb.RESUME, "mlops-1", 99, *RUNNERS)),
        ((MADE[0], says(Verb.PAUSE, "mlops-1", 5, *RUNNERS)), says(Verb.PAUSE, "mlops-1", 99, *RUNNERS)),
        (MADE, says(Verb.PAUSE, "mlops-1", 99, *RUNNERS)),
        (FULL, says(Verb.PAUSE, "mlops-1", 99, *RUNNERS)),
        ((MADE[0],), says(Verb.PAUSE, "devops-1", 99, Role.DEVOPS_ENGINEER)),
    ],
    ids=["resume what runs", "pause what rests", "pause what waits for people", "pause what serves", "a role that may not"],
)
def test_only_a_run_can_rest_and_only_by_those_who_may_ask_for_one(before: tuple[Happening, ...], said: Act) -> None:
    reached, _ = run(*before)
    after, decisions = run(said, start=reached)
    assert [decision.action for decision in decisions] == ["refuse"]
    assert (after.state, after.paused) == (reached.state, reached.paused)


def test_a_run_that_fails_ends_it() -> None:
    rollout, _ = run(MADE[0], Failed(at(5), "no golden data"))
    assert (rollout.state, rollout.why) == (State.FAILED, "no golden data")


def test_an_act_says_who_and_why() -> None:
    with pytest.raises(BadInput, match="--comment"):
        Act("a", at(0), Verb.APPROVE, "trainer-1", " ")


EVENTS = st.one_of(
    st.sampled_from((*DONE, *ANEW)),
    st.builds(
        tick,
        st.integers(1, 300),
        st.builds(tally, st.integers(0, 40), st.integers(0, 40), agreement=st.sampled_from([0.3, 0.9])),
        mode=st.sampled_from(Mode),
        agreeing=st.sampled_from(["", "w1", "w1 w2"]),
        alarm=st.sampled_from(["", "", "abc"]),
    ),
    st.builds(
        says, st.sampled_from(Verb), st.sampled_from(["trainer-1", "trainer-2"]), st.integers(70, 300), st.sampled_from(Role)
    ),
    st.builds(Failed, st.integers(0, 300).map(at), st.just("broken")),
)


@given(st.integers(0, len(DONE)), st.lists(EVENTS, max_size=30), st.data())
def test_what_was_taken_in_once_changes_nothing_at_any_later_moment(
    told: int, events: list[Happening], data: st.DataObject
) -> None:
    rollout, decisions, taken = ASKED, [], []
    for event in [*DONE[:told], *events]:
        decisions += decide(rollout, event)
        after = evolve(rollout, event)
        if after is not rollout:
            taken.append(event)
        rollout = after
        for repeat in data.draw(st.lists(st.sampled_from(taken), max_size=3)) if taken else ():
            assert decide(rollout, repeat) == ()
            assert evolve(rollout, repeat) is rollout
    assert len({decision.id for decision in decisions}) == len(decisions)


@given(st.lists(EVENTS, max_size=40))
def test_whatever_happens_the_rules_hold(events: list[Happening]) -> None:
    rollout, ended = ASKED, None
    for event in [*MADE, *events]:
        decisions = decide(rollout, event)
        after = evolve(rollout, event)
        assert msgspec.json.decode(msgspec.json.encode(after), type=Rollout) == after  # it rests in the database
        if ended is not None:
            assert (after, decisions) == (ended, ())
        if after.state in LIVE:
            assert {approval.role for approval in after.approvals} == {Role.DATA_SCIENTIST, Role.SECMLOPS_ENGINEER}
            assert len({approval.actor for approval in after.approvals}) == 2
        if rollout.state in LIVE and after.state in OVER and after.state is not State.DONE:
            assert isinstance(decisions[-1], Serve)
            assert decisions[-1].phase is None
        if after.state is State.DONE:
            assert rollout.reported
            assert rollout.serves_since is not None
            assert event.time - rollout.serves_since >= timedelta(seconds=LIMITS.settle_s)
        if after.state in OVER:
            ended = after
        rollout = after
