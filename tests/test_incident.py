"""What is decided about an incident, with no database and no clock."""

from dataclasses import replace
from datetime import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from incident_events import act, at, signal

from responders.engine.deciding import decide, evolve
from responders.engine.incident import (
    Act,
    Decision,
    Happening,
    Incident,
    Outcome,
    Page,
    Record,
    Resolution,
    Serve,
    SetAside,
    Tick,
    Verb,
    opened,
)
from responders.engine.windows import joined, missing
from responders.playbooks import playbooks
from responders.playbooks.playbooks import State
from streams.errors import BadInput
from streams.events import Context, Kind, Mode, Phase, Severity, Signal, Window

BOOKS = playbooks.load()
RAISED = signal(Phase.RAISED, 10, 14)
CALM = signal(Phase.CALM, 10, 60)


def tick(seconds: float, asked: Mode, live: str = "w1 w2", agreeing: str | None = None) -> Tick:
    return Tick(at(seconds), asked, tuple(live.split()), tuple((live if agreeing is None else agreeing).split()))


def run(*events: Happening, kind: Kind = Kind.EVASION) -> tuple[Incident, list[Decision]]:
    """A whole story; the first event is the signal that opens it."""
    first = events[0]
    assert not isinstance(first, (Act, Tick))
    incident = opened(first, BOOKS[kind])
    decisions: list[Decision] = []
    for event in events:
        decisions += decide(incident, event)
        incident = evolve(incident, event)
    return incident, decisions


def served(decisions: list[Decision]) -> list[Mode]:
    return [decision.mode for decision in decisions if isinstance(decision, Serve)]


def windows(decisions: list[Decision]) -> list[tuple[int, int]]:
    return [(d.window.first_sequence, d.window.last_sequence) for d in decisions if isinstance(d, SetAside)]


CONTAINED = (RAISED, tick(4, Mode.SAFE))
RECOVERING = (*CONTAINED, CALM)
RECOVERED = (*RECOVERING, tick(14, Mode.NORMAL))


def test_an_attack_is_contained_recovered_from_and_closed() -> None:
    incident, decisions = run(*RECOVERED)
    assert incident.state is State.CLOSED
    assert incident.resolution is Resolution.RECOVERED
    assert served(decisions) == [Mode.SAFE, Mode.NORMAL]
    assert windows(decisions) == [(10, 14), (15, 60)]
    assert (incident.detected_at, incident.contained_at) == (RAISED.time, at(4))
    assert (incident.recovered_at, incident.closed_at) == (at(14), at(14))
    assert not incident.needs_safe
    assert not incident.escalated


def test_states_come_in_the_order_of_the_drawing() -> None:
    _, decisions = run(*RECOVERED)
    seen = list(dict.fromkeys(decision.state for decision in decisions))
    assert seen == [State.OPEN, State.CONTAINING, State.CONTAINED, State.RECOVERING, State.CLOSED]


def test_ongoing_signals_extend_the_quarantine_by_what_is_new_only() -> None:
    ongoing = [signal(Phase.ONGOING, 10, last) for last in (18, 25, 18, 30)]
    _, decisions = run(RAISED, *ongoing)
    assert windows(decisions) == [(10, 14), (15, 18), (19, 25), (26, 30)]


def test_a_signal_that_reaches_further_back_extends_the_quarantine_backwards() -> None:
    _, decisions = run(RAISED, signal(Phase.RAISED, 4, 14, detector="other"))
    assert windows(decisions) == [(10, 14), (4, 9)]


def test_a_camera_that_started_anew_gets_a_window_of_its_own() -> None:
    _, decisions = run(RAISED, signal(Phase.ONGOING, 0, 3, epoch=2))
    assert windows(decisions) == [(10, 14), (0, 3)]


@pytest.mark.parametrize(
    "moment",
    [
        tick(4, Mode.SAFE, live="", agreeing=""),
        tick(4, Mode.SAFE, agreeing="w1"),
        tick(4, Mode.NORMAL),
    ],
    ids=["no worker lives", "one has not reported", "the context is asked for something else"],
)
def test_the_switch_counts_only_when_every_live_worker_reports_it(moment: Tick) -> None:
    incident, _ = run(RAISED, moment)
    assert incident.state is State.CONTAINING


@pytest.mark.parametrize(("live", "named"), [("", "no worker is alive"), ("w1 w2", "w2")])
def test_no_report_in_time_escalates_once_and_does_not_succeed(live: str, named: str) -> None:
    moments = [tick(seconds, Mode.SAFE, live=live, agreeing="w1" if live else "") for seconds in range(4, 60)]
    incident, decisions = run(RAISED, *moments)
    assert incident.state is State.CONTAINING
    assert incident.contained_at is None
    assert named in incident.escalated
    assert [d.action for d in decisions].count("escalate") == 1


def test_a_late_report_still_contains_and_the_escalation_stays_on_record() -> None:
    incident, _ = run(RAISED, tick(4, Mode.SAFE, agreeing=""), tick(30, Mode.SAFE, agreeing=""), tick(31, Mode.SAFE))
    assert incident.state is State.CONTAINED
    assert incident.contained_at == at(31)
    assert incident.escalated


@given(st.lists(st.floats(0, 1e6), max_size=30))
def test_silence_never_closes(times: list[float]) -> None:
    for mode in Mode:
        incident, _ = run(RAISED, *(tick(4 + seconds, mode) for seconds in sorted(times)))
        assert incident.state in {State.CONTAINING, State.CONTAINED}


def test_an_attack_that_outlasts_its_limit_calls_a_human() -> None:
    incident, _ = run(*CONTAINED, tick(5, Mode.SAFE), tick(5 + 1801, Mode.SAFE))
    assert incident.state is State.CONTAINED
    assert "no proof of calm" in incident.escalated


def test_calm_counts_only_once_every_detector_that_raised_has_said_it() -> None:
    other = signal(Phase.RAISED, 12, 16, detector="other")
    incident, _ = run(RAISED, other, tick(4, Mode.SAFE), CALM)
    assert incident.state is State.CONTAINED
    assert evolve(incident, signal(Phase.CALM, 12, 61, detector="other")).state is State.RECOVERING


def test_an_old_calm_that_arrives_late_is_not_calm() -> None:
    old_calm = signal(Phase.CALM, 2, 9)
    incident, _ = run(*CONTAINED, signal(Phase.ONGOING, 10, 30), old_calm)
    assert incident.state is State.CONTAINED


def test_calm_before_containment_is_remembered() -> None:
    incident, decisions = run(RAISED, CALM, tick(15, Mode.SAFE))
    assert incident.state is State.RECOVERING
    assert served(decisions) == [Mode.SAFE, Mode.NORMAL]


def test_a_relapse_goes_back_to_safe_mode_and_the_second_waits_for_a_human() -> None:
    first = (signal(Phase.RAISED, 70, 74), tick(16, Mode.SAFE), signal(Phase.CALM, 70, 90))
    second = (signal(Phase.RAISED, 95, 99), tick(22, Mode.SAFE), signal(Phase.CALM, 95, 120), tick(30, Mode.SAFE))
    incident, decisions = run(*RECOVERING, *first, *second)
    assert incident.relapses == 2
    assert incident.state is State.CONTAINED
    assert incident.needs_safe
    assert "human" in incident.escalated
    assert served(decisions) == [Mode.SAFE, Mode.NORMAL, Mode.SAFE, Mode.NORMAL, Mode.SAFE]
    assert windows(decisions) == [(10, 14), (15, 60), (70, 74), (75, 90), (95, 99), (100, 120)]
    closing, _ = evolve(incident, act(Verb.CLOSE, incident.id, 40)), None
    assert closing.state is State.RECOVERING
    assert evolve(closing, tick(41, Mode.NORMAL)).state is State.CLOSED


def test_normal_service_that_must_wait_for_another_incident_is_not_late() -> None:
    held = [tick(seconds, Mode.SAFE) for seconds in range(15, 200, 5)]
    incident, _ = run(*RECOVERING, *held, tick(200, Mode.NORMAL, agreeing=""), tick(202, Mode.NORMAL))
    assert incident.state is State.CLOSED
    assert not incident.escalated


def test_a_humans_close_undoes_safe_mode_in_the_closed_loop_first() -> None:
    incident, decisions = run(*CONTAINED, act(Verb.CLOSE, "x", 6, resolution=Resolution.FALSE_ALARM))
    assert incident.state is State.RECOVERING
    assert served(decisions) == [Mode.SAFE, Mode.NORMAL]
    assert evolve(incident, signal(Phase.ONGOING, 10, 40)).state is State.RECOVERING
    assert evolve(incident, signal(Phase.RAISED, 41, 44)).state is State.CONTAINING
    done = evolve(incident, tick(7, Mode.NORMAL))
    assert (done.state, done.resolution) == (State.CLOSED, Resolution.FALSE_ALARM)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("moments", [(2,), (4,), (6,), (2, 6), (6, 8)], ids=str)
def test_whenever_people_close_no_step_is_passed_without_an_outcome(kind: Kind, moments: tuple[int, ...]) -> None:
    raised = signal(Phase.RAISED, 10, 14, kind=kind, time_s=1)
    events: list[Happening] = [tick(3, Mode.SAFE), tick(5, Mode.SAFE), tick(7, Mode.NORMAL)]
    events += [act(Verb.CLOSE, "x", second) for second in moments]
    incident, _ = run(raised, *sorted(events, key=lambda event: event.time), kind=kind)
    passed = incident.playbook.steps[: incident.position + (incident.closed_at is not None)]
    assert {step.name for step in passed} <= {one.step for one in incident.ended}


def test_a_wait_that_a_close_ends_was_ended_by_people_and_what_was_not_done_is_skipped() -> None:
    incident, _ = run(*CONTAINED, act(Verb.CLOSE, "x", 6), tick(7, Mode.NORMAL))
    assert {one.step: one.outcome for one in incident.ended}["watch"] is Outcome.MANUAL
    early, _ = run(RAISED, act(Verb.CLOSE, "x", 2), act(Verb.CLOSE, "x", 3))
    outcomes = {one.step: one.outcome for one in early.ended}
    assert (outcomes["await_safe_mode"], outcomes["watch"]) == (Outcome.MANUAL, Outcome.SKIPPED)
    assert (outcomes["await_normal_mode"], outcomes["close"]) == (Outcome.MANUAL, Outcome.SUCCESS)


def test_a_second_close_by_a_human_does_not_wait_for_the_workers() -> None:
    incident, _ = run(*CONTAINED, act(Verb.CLOSE, "x", 6), tick(7, Mode.NORMAL, live=""), act(Verb.CLOSE, "x", 8))
    assert incident.state is State.CLOSED
    assert incident.recovered_at is None


def test_acknowledging_records_actor_comment_and_the_first_time() -> None:
    incident, decisions = run(RAISED, act(Verb.ACKNOWLEDGE, "x", 5), act(Verb.ACKNOWLEDGE, "x", 9, actor="operator-2"))
    assert (incident.acknowledged_at, incident.acknowledged_by) == (at(5), "operator-1")
    assert [(d.actor, d.what) for d in decisions if d.action == "acknowledge"] == [
        ("operator-1", "acknowledge for a test"),
        ("operator-2", "acknowledge for a test"),
    ]


def test_a_closed_incident_takes_notes_and_nothing_else() -> None:
    incident, _ = run(*RECOVERED)
    for event in (RAISED, CALM, tick(20, Mode.SAFE), act(Verb.ACKNOWLEDGE, "x", 20), act(Verb.CLOSE, "x", 20)):
        assert decide(incident, event) == ()
        assert evolve(incident, event) is incident
    assert [d.action for d in decide(incident, act(Verb.NOTE, "x", 20))] == ["note"]


@pytest.mark.parametrize(("actor", "comment"), [("", "why"), ("operator-1", "  ")])
def test_a_human_act_needs_an_actor_and_a_comment(actor: str, comment: str) -> None:
    with pytest.raises(BadInput, match="--comment"):
        Act("i", at(0), "x", Verb.NOTE, actor, comment)


@pytest.mark.parametrize("kind", [Kind.DRIFT, Kind.TRAFFIC, Kind.BAD_INPUT, Kind.HEALTH, Kind.CAMERA])
def test_other_kinds_are_recorded_and_change_nothing(kind: Kind) -> None:
    def said(phase: Phase, last: int) -> Signal:
        return signal(phase, 1, last, kind=kind, severity=Severity.MEDIUM, context=Context.HIGHWAY)

    incident, decisions = run(said(Phase.RAISED, 5), tick(2, Mode.NORMAL), said(Phase.ONGOING, 9), kind=kind)
    assert incident.state is State.OPEN
    assert all(isinstance(decision, Record) for decision in decisions)
    calm = evolve(incident, said(Phase.CALM, 50))
    assert calm.state is State.OPEN, "calm has to last"
    assert evolve(calm, replace(tick(11, Mode.NORMAL), judged_at=at(10 + 60))).state is State.CLOSED
    assert evolve(incident, act(Verb.CLOSE, incident.id, 9)).resolution is Resolution.HANDLED
    limit = max(step.time_limit_s or 0 for step in BOOKS[kind].steps)
    since = evolve(incident, tick(3, Mode.NORMAL))
    assert evolve(since, tick(3 + limit, Mode.NORMAL)).escalated


def test_the_worst_severity_stays() -> None:
    worse = signal(Phase.ONGOING, 10, 20, severity=Severity.CRITICAL, context=Context.HIGHWAY)
    milder = signal(Phase.ONGOING, 10, 22, severity=Severity.LOW, context=Context.HIGHWAY)
    incident, decisions = run(signal(Phase.RAISED, 10, 14, context=Context.HIGHWAY), worse, milder)
    assert incident.severity is Severity.CRITICAL
    assert [d.action for d in decisions].count("worse") == 1


def test_a_state_survives_json() -> None:
    incident, _ = run(*RECOVERING)
    assert msgspec.json.decode(msgspec.json.encode(incident), type=Incident) == incident


NEW = {
    "raised_as", "tries", "voices", "ended", "diagnosis", "said", "graded", "cameras", "called", "called_at", "pages", "quiet",
    "snoozed_until", "assignee",
}  # fmt: skip


def test_an_incident_that_was_open_before_playbooks_could_do_more_goes_on_by_its_own() -> None:
    incident, _ = run(*CONTAINED)
    body = {key: value for key, value in msgspec.to_builtins(incident).items() if key not in NEW}
    kept = {"name", "action", "state", "function", "mode", "time_limit_s", "mitigations"}
    book = body["playbook"]
    book["steps"] = [{key: value for key, value in step.items() if key in kept} for step in book["steps"]]
    body["playbook"] = {key: value for key, value in book.items() if key not in {"changed", "grading", "calls"}}
    body["findings"] = [{key: value for key, value in one.items() if key != "at"} for one in body["findings"]]
    old = msgspec.json.decode(msgspec.json.encode(body), type=Incident)
    recovering = evolve(old, CALM)
    assert (recovering.state, recovering.needs_safe) == (State.RECOVERING, False)
    closed = evolve(recovering, tick(14, Mode.NORMAL))
    assert (closed.state, closed.resolution, closed.severity) == (State.CLOSED, Resolution.RECOVERED, incident.severity)


EVENTS = st.one_of(
    st.builds(
        lambda phase, first, more, detector: signal(phase, first, first + more, detector=detector),
        st.sampled_from(Phase),
        st.integers(0, 50),
        st.integers(0, 20),
        st.sampled_from(["squeeze", "other"]),
    ),
    st.builds(
        lambda seconds, asked, live, agreeing: Tick(at(seconds), asked, live, agreeing),
        st.floats(0, 1e5),
        st.sampled_from(Mode),
        st.sampled_from([(), ("w1",), ("w1", "w2")]),
        st.sampled_from([(), ("w1",), ("w1", "w2")]),
    ),
    st.builds(lambda verb, seconds: act(verb, "x", seconds), st.sampled_from(Verb), st.integers(0, 1000)),
)


@given(st.lists(EVENTS, max_size=40))
def test_whatever_comes_in_whatever_order_the_promises_hold(events: list[Happening]) -> None:
    incident, ids, ordered = opened(RAISED, BOOKS[Kind.EVASION]), [], []
    calm_proved = human_closed = False
    for event in (RAISED, *events):
        decisions, after = decide(incident, event), evolve(incident, event)
        assert decide(incident, event) == decisions  # the same at every replay
        assert bool(decisions) <= (after is not incident)
        ids += [decision.id for decision in decisions]
        ordered += [d.window for d in decisions if isinstance(d, SetAside)]
        human_closed |= isinstance(event, Act) and event.verb is Verb.CLOSE
        if incident.quiet and after.quiet:
            assert not any(isinstance(decision, Page) for decision in decisions), "acknowledged: nobody is called"
        calm_proved |= after.calm
        if incident.state is State.CONTAINING and after.state is State.CONTAINED:
            assert isinstance(event, Tick)
            assert event.confirms(Mode.SAFE)
        if after.state is State.CLOSED:
            assert calm_proved or human_closed
            assert not after.needs_safe
        incident = after
    assert len(ids) == len(set(ids))
    frames = [(w.epoch, n) for w in ordered for n in range(w.first_sequence, w.last_sequence + 1)]
    assert len(frames) == len(set(frames)), "no frame is ordered into quarantine twice"
    suspicious = {(w.epoch, n) for w in incident.seen for n in range(w.first_sequence, w.last_sequence + 1)}
    assert set(frames) <= suspicious
    # What people hold for a drift is watched and not set aside any more.
    assert set(frames) == suspicious or incident.kind is not Kind.EVASION


SPANS = st.lists(
    st.builds(
        lambda epoch, first, more: Window(epoch=epoch, first_sequence=first, last_sequence=first + more),
        st.integers(0, 2),
        st.integers(0, 30),
        st.integers(0, 8),
    ),
    max_size=8,
).map(tuple)


def frames_of(spans: tuple[Window, ...]) -> list[tuple[int, int]]:
    return [(w.epoch, n) for w in spans for n in range(w.first_sequence, w.last_sequence + 1)]


@given(SPANS, SPANS)
def test_window_arithmetic_is_set_arithmetic(wanted: tuple[Window, ...], had: tuple[Window, ...]) -> None:
    assert sorted(frames_of(joined(wanted))) == sorted(set(frames_of(wanted)))
    assert sorted(frames_of(missing(joined(wanted), joined(had)))) == sorted(set(frames_of(wanted)) - set(frames_of(had)))


def test_detection_time_is_the_signals_own() -> None:
    incident, _ = run(RAISED)
    assert isinstance(incident.detected_at, datetime)
    assert incident.detected_at == RAISED.time
