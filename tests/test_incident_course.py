"""How an incident's course turns: suspicion, lasting calm, severity, calls, approvals, failed steps, another kind after all."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from incident_events import act, answering, at, signal

from responders.engine.deciding import decide, evolve
from responders.engine.incident import Act, Decision, Happening, Incident, Outcome, Page, Resolution, Serve, Tick, Verb, opened
from responders.engine.severity import grade
from responders.people.roles import Role
from responders.playbooks import playbooks
from responders.playbooks.playbooks import State
from streams.errors import BadInput
from streams.events import Cause, Context, Diagnosis, Kind, Mode, Phase, Severity, Signal

BOOKS = playbooks.load()
W = ("w1", "w2")
DAY_S = 24 * 3600


def tick(seconds: float, asked: Mode = Mode.NORMAL, agreeing: tuple[str, ...] = W, judged: float | None = None) -> Tick:
    return Tick(at(seconds), asked, W, agreeing, judged_at=None if judged is None else at(judged))


def play(kind: Kind, *events: Happening) -> tuple[Incident, list[Decision]]:
    first = events[0]
    assert isinstance(first, Signal)
    incident = opened(first, BOOKS[kind])
    decisions: list[Decision] = []
    for told in events:
        event = answering(told, incident) if isinstance(told, Act) else told
        decisions += decide(incident, event)
        incident = evolve(incident, event)
    return incident, decisions


def said(phase: Phase, last: int, kind: Kind = Kind.DRIFT, **more: object) -> Signal:
    given_ = {"severity": Severity.LOW, "kind": kind, **more}
    return signal(phase, 1, last, **given_)  # type: ignore[arg-type]


def diagnosed(one: Signal, cause: Cause, confidence: float) -> Signal:
    return msgspec.structs.replace(one, diagnosis=Diagnosis(cause=cause, confidence=confidence, evidence=("x",)))


def actions(decisions: list[Decision]) -> list[str]:
    return [decision.action for decision in decisions]


def pages(decisions: list[Decision]) -> list[Role]:
    return [decision.role for decision in decisions if isinstance(decision, Page)]


def approval(name: str, role: Role, seconds: float, verb: Verb = Verb.APPROVE) -> Act:
    return act(verb, "x", seconds, actor=name, roles=(role,))


# -- onset and calm ----------------------------------------------------------------------------------------------------


def test_one_signal_is_a_suspicion_and_nobody_is_called() -> None:
    incident, decisions = play(Kind.BAD_INPUT, said(Phase.RAISED, 5, Kind.BAD_INPUT), tick(3), tick(4))
    assert incident.state is State.SUSPECTED
    assert actions(decisions) == ["suspect"]


def test_a_suspicion_that_passes_closes_without_a_call() -> None:
    incident, decisions = play(Kind.BAD_INPUT, said(Phase.RAISED, 5, Kind.BAD_INPUT), said(Phase.CALM, 9, Kind.BAD_INPUT))
    assert (incident.state, incident.resolution) == (State.CLOSED, Resolution.PASSED)
    assert not pages(decisions)


def test_a_suspicion_opens_at_the_second_signal_or_when_silence_outlasts_its_dwell() -> None:
    raised = said(Phase.RAISED, 5, Kind.BAD_INPUT)
    assert play(Kind.BAD_INPUT, raised, said(Phase.ONGOING, 9, Kind.BAD_INPUT))[0].state is State.OPEN
    waited, decisions = play(Kind.BAD_INPUT, raised, tick(3), tick(32.9))
    assert waited.state is State.SUSPECTED
    assert evolve(waited, tick(33)).state is State.OPEN
    assert actions(decisions) == ["suspect"]


def test_what_is_grave_opens_at_once() -> None:
    incident, decisions = play(Kind.BAD_INPUT, said(Phase.RAISED, 5, Kind.BAD_INPUT, severity=Severity.HIGH))
    assert incident.state is State.OPEN
    assert actions(decisions) == ["open", "page"]


def test_calm_has_to_last_in_judged_frames_and_silence_proves_nothing() -> None:
    calm = said(Phase.CALM, 50, Kind.TRAFFIC)
    incident, _ = play(Kind.TRAFFIC, said(Phase.RAISED, 5, Kind.TRAFFIC), said(Phase.ONGOING, 9, Kind.TRAFFIC), calm)
    for moment in (tick(1000), tick(1001, judged=10), tick(1002, judged=24.9)):
        incident = evolve(incident, moment)
        assert incident.state is State.OPEN
    assert evolve(incident, tick(1003, judged=25)).state is State.CLOSED
    again = evolve(incident, said(Phase.ONGOING, 60, Kind.TRAFFIC))
    assert evolve(again, tick(1003, judged=99)).state is State.OPEN


def test_two_senders_are_closed_by_the_word_of_people_only() -> None:
    told = [said(phase, last, Kind.TRAFFIC, detector="senders", severity=Severity.HIGH) for phase, last in
            ((Phase.RAISED, 5), (Phase.CALM, 9))]  # fmt: skip
    incident, _ = play(Kind.TRAFFIC, *told, tick(60, judged=60))
    assert incident.step.name == "change_key"
    assert incident.asks == (Role.DEVOPS_ENGINEER,)
    done = evolve(incident, answering(approval("operator-1", Role.DEVOPS_ENGINEER, 70), incident))
    assert done.state is State.CLOSED
    assert {one.step: one.outcome for one in done.ended}["change_key"] is Outcome.MANUAL


# -- severity ----------------------------------------------------------------------------------------------------------


def test_severity_says_by_which_rule_it_came() -> None:
    incident, decisions = play(Kind.EVASION, signal(Phase.RAISED, 1, 5))
    assert incident.severity is Severity.CRITICAL
    assert "one worse in urban" in decisions[0].what
    highway = signal(Phase.RAISED, 1, 5, context=Context.HIGHWAY)
    assert play(Kind.EVASION, highway)[0].severity is Severity.HIGH


def test_many_cameras_and_a_sure_diagnosis_make_it_worse() -> None:
    incident, decisions = play(Kind.DRIFT, said(Phase.RAISED, 5), replace(tick(1), cameras=3))
    assert (incident.severity, actions(decisions)[-1]) == (Severity.MEDIUM, "worse")
    sure = diagnosed(said(Phase.ONGOING, 9), Cause.ATTACK, 0.9)
    assert evolve(incident, sure).severity is Severity.CRITICAL
    unsure = diagnosed(said(Phase.ONGOING, 9), Cause.ATTACK, 0.7)
    assert evolve(incident, unsure).severity is Severity.MEDIUM


@given(
    st.sampled_from(sorted(BOOKS)), st.sampled_from(Severity), st.sampled_from(Context), st.integers(1, 9),
    st.none() | st.tuples(st.sampled_from(Cause), st.floats(0, 1)),
)  # fmt: skip
def test_no_grade_is_below_what_a_detector_says_or_falls_with_more_cameras(
    kind: Kind, severity: Severity, context: Context, cameras: int, found: tuple[Cause, float] | None
) -> None:
    order = list(Severity)
    incident = opened(signal(Phase.RAISED, 1, 5, kind=kind, context=context), BOOKS[kind])
    diagnosis = None if found is None else Diagnosis(cause=found[0], confidence=found[1], evidence=())
    one = msgspec.structs.replace(incident, said=severity, diagnosis=diagnosis)
    grades = [order.index(grade(msgspec.structs.replace(one, cameras=count))[0]) for count in range(1, cameras + 1)]
    assert grades == sorted(grades)
    assert grades[0] >= order.index(severity)


# -- calling people ----------------------------------------------------------------------------------------------------


def test_nobody_acknowledges_in_time_so_the_next_role_is_called_until_the_chain_ends() -> None:
    moments = [tick(seconds, Mode.SAFE, ()) for seconds in range(4, 2000, 10)]
    incident, decisions = play(Kind.EVASION, signal(Phase.RAISED, 1, 5), *moments)
    called = pages(decisions)
    # The second is for containment that nobody reported.
    assert called == [Role.SECMLOPS_ENGINEER, Role.SECMLOPS_ENGINEER, Role.MLOPS_ENGINEER, Role.DEVOPS_ENGINEER]
    assert "nobody acknowledged" in incident.escalated
    numbers = [decision.number for decision in decisions if isinstance(decision, Page)]
    assert numbers == list(range(1, len(called) + 1))


def test_acknowledging_stops_the_calls() -> None:
    moments = [tick(seconds, Mode.SAFE, ()) for seconds in range(4, 2000, 10)]
    _, decisions = play(Kind.EVASION, signal(Phase.RAISED, 1, 5), act(Verb.ACKNOWLEDGE, "x", 3), *moments)
    assert pages(decisions) == [Role.SECMLOPS_ENGINEER]


def test_a_snooze_is_silent_until_its_end_and_then_calls_again() -> None:
    snoozed = act(Verb.SNOOZE, "x", 3, snooze_s=600)
    incident, decisions = play(Kind.EVASION, signal(Phase.RAISED, 1, 5), snoozed, *(tick(s, Mode.SAFE, ()) for s in range(4, 603)))
    assert pages(decisions) == [Role.SECMLOPS_ENGINEER]
    waking = list(decide(incident, tick(603, Mode.SAFE, ())))
    assert actions(waking) == ["awake", "page"]


def test_a_snoozed_suspicion_of_something_grave_still_contains() -> None:
    incident, decisions = play(Kind.EVASION, signal(Phase.RAISED, 1, 5), act(Verb.SNOOZE, "x", 3), tick(4, Mode.SAFE))
    assert incident.state is State.CONTAINED
    assert Mode.SAFE in [decision.mode for decision in decisions if isinstance(decision, Serve)]


def test_what_is_mild_calls_nobody_until_it_goes_wrong() -> None:
    story = (said(Phase.RAISED, 5, Kind.TRAFFIC), said(Phase.ONGOING, 9, Kind.TRAFFIC), tick(3))
    incident, decisions = play(Kind.TRAFFIC, *story)
    assert not pages(decisions)
    assert pages(list(decide(incident, tick(3 + 1800)))) == [Role.SECMLOPS_ENGINEER]


def test_assigning_names_who_looks_after_it() -> None:
    incident, decisions = play(Kind.EVASION, signal(Phase.RAISED, 1, 5), act(Verb.ASSIGN, "x", 3))
    assert incident.assignee == "operator-2"
    assert "to operator-2" in decisions[-1].what


@pytest.mark.parametrize("verb", [Verb.ASSIGN, Verb.SNOOZE, Verb.RECLASSIFY, Verb.APPROVE, Verb.REJECT])
def test_an_act_that_lacks_what_its_verb_needs_is_refused(verb: Verb) -> None:
    with pytest.raises(BadInput, match=f"{verb} needs"):
        Act("i", at(0), "x", verb, "operator-1", "why")


# -- approvals and failed steps ----------------------------------------------------------------------------------------


HARMFUL = (diagnosed(said(Phase.RAISED, 5), Cause.ATTACK, 0.9),)


def test_drift_alone_switches_nothing_and_harmful_drift_asks_first() -> None:
    incident, decisions = play(Kind.DRIFT, *HARMFUL, tick(4))
    assert incident.asks == (Role.SECMLOPS_ENGINEER,)
    assert not incident.needs_safe
    approved = evolve(incident, answering(approval("operator-1", Role.SECMLOPS_ENGINEER, 5), incident))
    assert approved.needs_safe
    assert evolve(approved, tick(6, Mode.SAFE)).state is State.CONTAINED
    assert pages(decisions) == [Role.SECMLOPS_ENGINEER]


def test_a_rejected_step_is_left_out_with_the_reports_it_would_have_led_to_and_with_its_undo() -> None:
    incident, _ = play(Kind.DRIFT, *HARMFUL, approval("operator-1", Role.SECMLOPS_ENGINEER, 5, Verb.REJECT))
    assert (incident.step.name, incident.needs_safe) == ("watch", False)
    closed = evolve(incident, said(Phase.CALM, 90))
    assert closed.state is State.CLOSED
    outcomes = {one.step: one.outcome for one in closed.ended}
    assert (outcomes["safe_mode"], outcomes["restore"]) == (Outcome.FAILURE, Outcome.SKIPPED)
    assert closed.recovered_at is None


def test_an_approval_needs_the_right_role_and_two_different_people() -> None:
    story = (signal(Phase.RAISED, 1, 5, kind=Kind.COMPROMISE), tick(4, Mode.SAFE))
    both = act(Verb.APPROVE, "x", 6, actor="operator-1", roles=(Role.DATA_SCIENTIST, Role.SECMLOPS_ENGINEER))
    incident, decisions = play(Kind.COMPROMISE, *story, approval("operator-2", Role.DEVOPS_ENGINEER, 5), both, both)
    assert incident.step.name == "roll_back"
    assert actions(decisions)[-3:] == ["refused", "approve", "refused"]
    done = evolve(incident, answering(approval("operator-3", Role.SECMLOPS_ENGINEER, 8), incident))
    assert done.state is State.RECOVERING


def test_an_answer_counts_for_the_step_and_the_occasion_it_was_given_for_and_no_other() -> None:
    story = (signal(Phase.RAISED, 1, 5, kind=Kind.POISONING, detector="newcomer"), tick(4, Mode.SAFE))
    reviewed = (approval("data-1", Role.DATA_ENGINEER, 5), approval("security-1", Role.SECMLOPS_ENGINEER, 6))
    before, _ = play(Kind.POISONING, *story)
    after, _ = play(Kind.POISONING, *story, *reviewed)
    assert (before.step.name, after.step.name) == ("review", "trace_models")
    late = answering(approval("security-2", Role.SECMLOPS_ENGINEER, 7), before)
    for verb in (Verb.APPROVE, Verb.REJECT):
        [refused] = decide(after, replace(late, verb=verb))
        assert refused.what == (
            f"{verb}: it was for step review, which is not asked for now; "
            "asked for now: step trace_models, by R3 (data scientist) and R8 (SecMLOps engineer)"
        )
        assert evolve(after, replace(late, verb=verb)).asking == after.asking

    traced = (approval("science-1", Role.DATA_SCIENTIST, 8), approval("security-1", Role.SECMLOPS_ENGINEER, 9))
    relapse = (signal(Phase.CALM, 1, 60, kind=Kind.POISONING, detector="newcomer"), *traced, tick(13, Mode.NORMAL, ()),
               tick(29, Mode.NORMAL, ()), tick(30, Mode.SAFE))  # fmt: skip
    again, _ = play(Kind.POISONING, *story, *reviewed, *relapse)
    assert (again.step.name, again.relapses) == ("review", 1)
    [refused] = decide(again, late)
    assert "step review, as it was asked for before; asked for now: step review" in refused.what
    assert evolve(again, replace(late, asking=again.asking)).voices


@pytest.mark.parametrize(("later_s", "still", "counts"), [
    (DAY_S - 1, {"data-1": (Role.DATA_ENGINEER, Role.DATA_SCIENTIST)}, True),
    (DAY_S, {"data-1": (Role.DATA_ENGINEER,)}, False),
    (60, {"data-1": (Role.DATA_SCIENTIST,)}, False),
    (60, {}, False),
])  # fmt: skip
def test_what_somebody_approved_counts_for_a_day_and_while_they_have_the_role(
    later_s: float, still: dict[str, tuple[Role, ...]], counts: bool
) -> None:
    story = (signal(Phase.RAISED, 1, 5, kind=Kind.POISONING, detector="newcomer"), tick(4, Mode.SAFE))
    first, second = approval("data-1", Role.DATA_ENGINEER, 5), approval("security-1", Role.SECMLOPS_ENGINEER, 5 + later_s)
    incident, decisions = play(Kind.POISONING, *story, first, replace(second, still=still))
    assert (incident.step.name == "trace_models") is counts
    said = next(decision.what for decision in reversed(decisions) if decision.action == "approve")
    assert ("what data-1 said counts no more (a day old, or the role or the key is theirs no more)" in said) is not counts
    if not counts:
        assert incident.asks == (Role.DATA_ENGINEER,)
        again = answering(
            replace(approval("data-1", Role.DATA_ENGINEER, 6 + later_s), still={"security-1": second.roles}), incident
        )
        assert evolve(incident, again).step.name == "trace_models"


def test_an_approval_that_nobody_asks_for_is_refused() -> None:
    _, decisions = play(Kind.EVASION, signal(Phase.RAISED, 1, 5), approval("operator-1", Role.SECMLOPS_ENGINEER, 5))
    assert actions(decisions)[-1] == "refused"


def test_reports_that_do_not_come_are_asked_for_again_under_a_new_decision() -> None:
    _, decisions = play(Kind.EVASION, signal(Phase.RAISED, 1, 5), *(tick(s, Mode.SAFE, ("w1",)) for s in range(4, 60)))
    asked = [decision for decision in decisions if isinstance(decision, Serve)]
    assert [one.again for one in asked] == [False, True]
    assert asked[0].id != asked[1].id


def test_a_way_back_that_fails_ends_in_safe_mode_with_people_called() -> None:
    story = (signal(Phase.RAISED, 1, 5), tick(4, Mode.SAFE), signal(Phase.CALM, 1, 60), tick(13, Mode.NORMAL, ()))
    incident, decisions = play(Kind.EVASION, *story, tick(29, Mode.NORMAL, ()))
    assert (incident.step.name, incident.needs_safe, incident.relapses) == ("await_safe_mode", True, 1)
    assert "await_normal_mode took longer" in incident.escalated
    assert {one.step: one.outcome for one in incident.ended}["await_normal_mode"] is Outcome.FAILURE
    assert pages(decisions)[-1] is Role.SECMLOPS_ENGINEER
    back = evolve(evolve(incident, tick(30, Mode.SAFE)), tick(31, Mode.NORMAL))
    assert back.state is State.CLOSED


# -- another kind after all --------------------------------------------------------------------------------------------


def test_reclassifying_keeps_the_undo_of_what_was_done() -> None:
    story = (signal(Phase.RAISED, 1, 5), tick(4, Mode.SAFE), act(Verb.RECLASSIFY, "x", 6, kind=Kind.CAMERA))
    incident, decisions = play(Kind.EVASION, *story)
    assert (incident.kind, incident.raised_as, incident.needs_safe) == (Kind.CAMERA, Kind.EVASION, True)
    assert [step.name for step in incident.playbook.steps] == ["watch", "restore", "await_normal_mode", "close"]
    assert "Severity" in decisions[-1].what
    calm = evolve(incident, signal(Phase.CALM, 1, 60))
    going_back = evolve(calm, tick(40, Mode.SAFE, judged=40))
    assert (going_back.state, going_back.needs_safe) == (State.RECOVERING, False)
    assert evolve(going_back, tick(41)).state is State.CLOSED


def test_reclassifying_to_a_kind_that_serves_the_safe_model_asks_for_it_once() -> None:
    story = (signal(Phase.RAISED, 1, 5), tick(4, Mode.SAFE), act(Verb.RECLASSIFY, "x", 6, kind=Kind.COMPROMISE))
    incident, decisions = play(Kind.EVASION, *story, tick(7, Mode.SAFE))
    assert incident.step.name == "roll_back"
    assert [decision.mode for decision in decisions if isinstance(decision, Serve)] == [Mode.SAFE]


def test_a_reclassified_incident_still_hears_the_detectors_that_raised_it() -> None:
    incident, _ = play(Kind.EVASION, signal(Phase.RAISED, 1, 5), act(Verb.RECLASSIFY, "x", 6, kind=Kind.CAMERA))
    assert incident.takes(Kind.EVASION)
    assert incident.takes(Kind.CAMERA)
    assert not incident.takes(Kind.DRIFT)


KINDS = st.sampled_from(sorted(BOOKS))
EVENTS = st.one_of(
    st.builds(
        lambda phase, last, kind: signal(phase, 1, 1 + last, kind=kind, detector="d"),
        st.sampled_from(Phase), st.integers(0, 60), KINDS,
    ),
    st.builds(
        tick,
        st.floats(0, 1e5), st.sampled_from(Mode), st.sampled_from([(), ("w1",), W]), st.none() | st.floats(0, 1e5),
    ),
    st.builds(
        lambda verb, s, kind, roles, who: act(verb, "x", s, kind=kind, roles=tuple(roles), actor=who),
        st.sampled_from(Verb), st.integers(0, 1000), KINDS, st.lists(st.sampled_from(Role), max_size=2),
        st.sampled_from(["operator-1", "operator-2"]),
    ),
)  # fmt: skip


@given(KINDS, st.lists(EVENTS, max_size=30))
def test_in_every_playbook_safe_mode_is_left_only_through_its_undo_and_the_reports_of_it(
    kind: Kind, events: list[Happening]
) -> None:
    first = signal(Phase.RAISED, 1, 5, kind=kind, detector="d")
    incident, ids = opened(first, BOOKS[kind]), []
    for event in (first, *events):
        decisions, after = decide(incident, event), evolve(incident, event)
        assert decide(incident, event) == decisions
        assert msgspec.json.decode(msgspec.json.encode(after), type=Incident) == after
        ids += [decision.id for decision in decisions]
        if incident.needs_safe and not after.needs_safe:
            asked = [d.mode for d in decisions if isinstance(d, Serve)]
            second_close = isinstance(event, Act) and event.verb is Verb.CLOSE
            assert Mode.NORMAL in asked or second_close
        if after.state is State.CLOSED and incident.state is not State.CLOSED and after.resolution is Resolution.RECOVERED:
            assert (
                after.calm
                or Outcome.MANUAL in {one.outcome for one in after.ended}
                or any(one.outcome is Outcome.FAILURE for one in after.ended)
            )
        assert not (after.state in {State.SUSPECTED, State.CLOSED} and any(isinstance(d, Page) for d in decisions))
        incident = after
    assert len(ids) == len(set(ids))
