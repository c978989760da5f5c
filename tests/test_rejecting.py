"""A model under suspicion does not come back because somebody said no, or closed an incident alone."""

from dataclasses import replace
from importlib.resources import files

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from incident_events import NORMAL, SAFE, act, answering, at, signal, status
from sqlalchemy import select

from inference.provenance.history import suspected
from infra.db import Sessions, reading, writing
from infra.tables import Assignment, EffectRow, IncidentRow, JudgedFrame
from responders.engine import past
from responders.engine.deciding import decide, evolve
from responders.engine.incident import Act, Decision, Happening, Incident, Page, Resolution, Tick, Verb, opened
from responders.engine.store import Store
from responders.people import people
from responders.people.roles import Role
from responders.playbooks import playbooks
from responders.playbooks.playbooks import State
from streams import codec
from streams.errors import BadInput
from streams.events import Context, Kind, Mode, ModelState, Phase, Window
from streams.topics import MODEL_STATE

pytest_plugins = ["databases"]

BOOKS = playbooks.load()
R3, R4, R6, R7, R8 = (
    Role.DATA_SCIENTIST,
    Role.DATA_ENGINEER,
    Role.DEVOPS_ENGINEER,
    Role.MLOPS_ENGINEER,
    Role.SECMLOPS_ENGINEER,
)
DETECTORS = {Kind.COMPROMISE: "answers", Kind.TAMPERING: "model-check", Kind.POISONING: "newcomer"}
"""What makes the safe model serve."""


def tick(seconds: float, asked: Mode = Mode.NORMAL) -> Tick:
    return Tick(at(seconds), asked, ("w1",), ("w1",))


def says(verb: Verb, who: str, role: Role, seconds: float, resolution: Resolution = Resolution.HANDLED) -> Act:
    return act(verb, "x", seconds, actor=who, roles=(role,), resolution=resolution)


def play(kind: Kind, *events: Happening, detector: str | None = None) -> tuple[Incident, list[Decision]]:
    """The incident that such a detector opens, contained, and what happens then."""
    raised = signal(Phase.RAISED, 1, 5, kind=kind, detector=detector or DETECTORS[kind])
    incident = opened(raised, BOOKS[kind])
    decisions: list[Decision] = []
    for told in (raised, tick(4, Mode.SAFE), *events):
        event = answering(told, incident) if isinstance(told, Act) else told
        decisions += decide(incident, event)
        incident = evolve(incident, event)
    return incident, decisions


def approved(incident: Incident, seconds: float = 20) -> Incident:
    """Everything that is asked of people, done by as many people."""
    while incident.asks:
        for n, role in enumerate(incident.asks):
            said = says(Verb.APPROVE, f"{role}-{n}", role, seconds)
            incident = evolve(incident, answering(said, incident))
    return incident


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_no_leaves_the_safe_model_serving_and_the_step_to_be_done(kind: Kind) -> None:
    before, _ = play(kind)
    role = before.asks[0]
    incident, decisions = play(kind, says(Verb.REJECT, "person-1", role, 6), tick(7), tick(8))
    assert (incident.step.name, incident.state, incident.needs_safe) == (before.step.name, State.CONTAINED, True)
    assert not incident.did(before.step.name)
    assert f"{before.step.name} was rejected by person-1" in incident.escalated
    assert isinstance(decisions[-1], Page), "people are called"
    done = approved(incident)
    assert done.state is State.RECOVERING, "a later approval still completes it"
    assert evolve(done, tick(30)).state is State.CLOSED


def test_a_no_begins_the_approvals_and_the_time_limit_anew() -> None:
    one = says(Verb.APPROVE, "security-1", R8, 5)
    incident, _ = play(
        Kind.COMPROMISE, one, tick(6), says(Verb.REJECT, "scientist-1", R3, 7), says(Verb.APPROVE, "scientist-1", R3, 8)
    )
    assert incident.asks == (R8,)
    late = evolve(evolve(incident, tick(9)), tick(9 + 3600))
    assert "roll_back took longer than 3600 s" in late.escalated


def test_a_log_that_nobody_repaired_does_not_close() -> None:
    incident, _ = play(Kind.TAMPERING, says(Verb.REJECT, "devops-1", R6, 6), tick(7), detector="log-check")
    assert (incident.step.name, incident.state, incident.closed_at) == ("repair", State.CONTAINED, None)
    assert approved(incident).resolution is Resolution.HANDLED


def test_a_senders_key_that_nobody_changed_is_still_to_be_changed() -> None:
    incident, _ = play(
        Kind.TRAFFIC,
        signal(Phase.CALM, 1, 20, kind=Kind.TRAFFIC, detector="senders"),
        replace(tick(60), judged_at=at(60)),
        says(Verb.REJECT, "devops-1", R6, 61),
        detector="senders",
    )
    assert (incident.step.name, incident.state) == ("change_key", State.CONTAINED)
    assert evolve(incident, says(Verb.CLOSE, "devops-1", R6, 62)).state is State.CLOSED, "no model waits for it"


@pytest.mark.parametrize("kind", DETECTORS)
@pytest.mark.parametrize("times", [1, 3])
def test_one_persons_close_does_not_stand_for_what_others_have_to_do(kind: Kind, times: int) -> None:
    closes = [says(Verb.CLOSE, "devops-1", R6, 6 + n, Resolution.FALSE_ALARM) for n in range(times)]
    incident, decisions = play(kind, *closes, tick(20), tick(21))
    assert (incident.state, incident.needs_safe, incident.closed_at) == (State.CONTAINED, True, None)
    told = next(decision.what for decision in decisions if decision.action == "close")
    assert f"The safe model serves until {incident.step.name} is approved by" in told
    done = evolve(approved(incident), tick(30))
    assert (done.state, done.resolution) == (State.CLOSED, Resolution.FALSE_ALARM)


def test_what_was_approved_before_somebody_called_it_a_false_alarm_was_approved_for_another_reason() -> None:
    incident, _ = play(Kind.COMPROMISE, says(Verb.APPROVE, "security-1", R8, 5))
    said = answering(says(Verb.APPROVE, "scientist-1", R3, 7), incident)
    closed = evolve(incident, says(Verb.CLOSE, "devops-1", R6, 6, Resolution.FALSE_ALARM))
    assert set(closed.asks) == {R3, R8}
    assert evolve(closed, said).needs_safe, "signed before the close"


def test_a_no_takes_back_the_false_alarm() -> None:
    incident, _ = play(
        Kind.COMPROMISE, says(Verb.CLOSE, "devops-1", R6, 5, Resolution.FALSE_ALARM), says(Verb.REJECT, "scientist-1", R3, 6)
    )
    assert incident.resolution is None
    assert evolve(approved(incident), tick(30)).resolution is Resolution.HANDLED


def test_the_close_of_what_no_model_is_suspected_for_stays_one_persons() -> None:
    for kind in (Kind.EVASION, Kind.DRIFT, Kind.TRAFFIC):
        raised = signal(Phase.RAISED, 1, 5, kind=kind)
        incident = evolve(opened(raised, BOOKS[kind]), raised)
        if kind is Kind.DRIFT:
            incident = approved(incident)
        incident = evolve(incident, says(Verb.CLOSE, "devops-1", R6, 6, Resolution.FALSE_ALARM))
        assert incident.state in {State.RECOVERING, State.CLOSED}
        assert not incident.needs_safe


@pytest.mark.parametrize(("phase", "resolution"), [(Phase.CALM, Resolution.RECOVERED), (Phase.ONGOING, Resolution.HANDLED)])
def test_recovered_is_said_only_where_calm_was_proven(phase: Phase, resolution: Resolution) -> None:
    incident, _ = play(Kind.COMPROMISE, signal(phase, 1, 20, kind=Kind.COMPROMISE, detector="answers"))
    assert evolve(approved(incident), tick(30)).resolution is resolution


# -- the same model once more ------------------------------------------------------------------------------------------


def test_a_roll_back_to_the_model_under_suspicion_is_refused_and_people_are_called() -> None:
    incident, _ = play(Kind.COMPROMISE)
    said = answering(says(Verb.APPROVE, "scientist-1", R3, 6), incident)
    decisions = decide(incident, replace(said, doubted=NORMAL))
    assert [decision.action for decision in decisions] == ["escalate", "refused", "page"]
    assert "the normal model is still aaaaaaaaaaaa" in decisions[1].what
    after = evolve(incident, replace(said, doubted=NORMAL))
    assert (after.asks, after.needs_safe) == ((R3, R8), True)
    again = replace(says(Verb.APPROVE, "security-1", R8, 7), asking=after.asking, doubted=NORMAL)
    assert [decision.action for decision in decide(after, again)] == ["refused"], "people were called for it once"


def test_two_people_may_say_that_nothing_is_wrong_with_it() -> None:
    incident, _ = play(Kind.COMPROMISE, says(Verb.CLOSE, "devops-1", R6, 5, Resolution.FALSE_ALARM))
    for who, role in (("scientist-1", R3), ("security-1", R8)):
        incident = evolve(incident, replace(says(Verb.APPROVE, who, role, 6), asking=incident.asking, doubted=NORMAL))
    assert incident.state is State.RECOVERING


def answered(sequence: int) -> JudgedFrame:
    """A frame of the camera that the normal model judged."""
    return JudgedFrame(
        frame_id=f"f{sequence}", camera_id="cam1", context="urban", epoch=1, sequence=sequence,
        weights_digest=NORMAL, mode="normal", decision_id="d", frame_partition=0, frame_offset=3,
        camera_time=at(1), judged_time=at(1), people=0, inconsistency=None,
    )  # fmt: skip


@pytest.mark.parametrize("weights", [NORMAL, "c" * 64], ids=["not rolled back", "rolled back"])
def test_the_store_knows_whose_answers_the_incident_is_about(sessions: Sessions, weights: str) -> None:
    store = Store(sessions, BOOKS, worker_lost_s=600, clock_allowance_s=600)
    store.assign(Context.URBAN, weights, SAFE, at(0))
    with sessions.begin() as session:
        session.add(answered(3))
    [id_] = store.accept(signal(Phase.RAISED, 1, 5, kind=Kind.COMPROMISE, detector="answers"), at(1)).incident_ids
    with reading(sessions) as session:
        rows = session.scalars(select(EffectRow).where(EffectRow.topic == MODEL_STATE.name).order_by(EffectRow.number))
        asked = codec.decode(list(rows)[-1].payload, MODEL_STATE, ModelState).event
    store.accept(status("w1", 4, asked), at(4))
    with writing(sessions) as session:
        people.put(session, "scientist-1", [R3], "root", at(0))
    for who, role, seconds in (("scientist-1", R3, 6), ("security-1", R8, 7)):
        with reading(sessions) as session:
            incident = msgspec.json.decode(session.get_one(IncidentRow, id_).body, type=Incident)
        said = act(Verb.APPROVE, id_, seconds, actor=who, roles=(role,))
        store.accept(answering(said, incident), at(seconds))
    with reading(sessions) as session:
        row = session.get_one(IncidentRow, id_)
        assert row.needs_safe is (weights == NORMAL)
        assert ("the normal model is still" in row.escalated) is (weights == NORMAL)


# -- other ways round --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.CAMERA, Kind.EVASION, Kind.TRAFFIC])
def test_calling_it_something_else_leaves_to_people_what_was_left_to_them(kind: Kind) -> None:
    incident, _ = play(Kind.COMPROMISE, act(Verb.RECLASSIFY, "x", 6, actor="mlops-1", roles=(R7,), kind=kind))
    incident = evolve(incident, signal(Phase.CALM, 1, 60, kind=Kind.COMPROMISE, detector="answers"))
    for seconds in range(30, 40):
        incident = evolve(incident, replace(tick(seconds, Mode.SAFE), judged_at=at(seconds + 60)))
    assert (incident.step.name, incident.needs_safe, incident.asks) == ("roll_back", True, (R3, R8))
    assert evolve(incident, says(Verb.CLOSE, "mlops-1", R7, 50)).needs_safe
    assert approved(incident, 60).state is State.RECOVERING


def test_a_close_does_not_wait_for_a_calm_that_cannot_come() -> None:
    incident, _ = play(Kind.COMPROMISE, act(Verb.RECLASSIFY, "x", 6, actor="mlops-1", roles=(R7,), kind=Kind.EVASION))
    closed = evolve(evolve(incident, says(Verb.CLOSE, "mlops-1", R7, 50)), tick(51, Mode.SAFE))
    assert (closed.step.name, closed.needs_safe, closed.asks) == ("roll_back", True, (R3, R8))
    assert approved(closed, 60).state is State.RECOVERING


def test_hundreds_of_findings_bar_neither_the_roll_back_nor_the_list_of_suspects(sessions: Sessions) -> None:
    store = Store(sessions, BOOKS, worker_lost_s=600, clock_allowance_s=600)
    store.assign(Context.URBAN, NORMAL, SAFE, at(0))
    windows = tuple(Window(epoch=1, first_sequence=10 * n, last_sequence=10 * n) for n in range(600))
    [id_] = store.accept(signal(Phase.RAISED, 1, 5, kind=Kind.COMPROMISE, detector="answers"), at(1)).incident_ids
    with writing(sessions) as session:
        row = session.get_one(IncidentRow, id_)
        row.body = msgspec.json.encode(msgspec.structs.replace(msgspec.json.decode(row.body, type=Incident), seen=windows))
        session.add(answered(5990))
    with reading(sessions) as session:
        assert past.doubted(session, "cam1", windows, session.get_one(Assignment, Context.URBAN)) == NORMAL
        assert suspected(session) == {NORMAL: (id_,)}


CLOSING = (Resolution.HANDLED, Resolution.FALSE_ALARM)
VERBS = (Verb.APPROVE, Verb.REJECT, Verb.CLOSE, Verb.RECLASSIFY, Verb.ACKNOWLEDGE)
HAPPENINGS = st.one_of(
    st.builds(
        lambda verb, s, kind, resolution: act(
            verb, "x", s, actor="alone-1", roles=(R6, R7, R8), kind=kind, resolution=resolution
        ),
        st.sampled_from(VERBS), st.integers(5, 1000), st.sampled_from(Kind), st.sampled_from(CLOSING),
    ),
    st.builds(lambda s, asked: replace(tick(s, asked), judged_at=at(s)), st.integers(5, 10**6), st.sampled_from(Mode)),
    st.builds(
        lambda phase, last, kind: signal(phase, 1, 5 + last, kind=kind, detector=DETECTORS[kind]),
        st.sampled_from(Phase), st.integers(0, 60), st.sampled_from(sorted(DETECTORS)),
    ),
)  # fmt: skip


@settings(max_examples=60)
@given(st.sampled_from(sorted(DETECTORS)), st.lists(HAPPENINGS, max_size=25))
def test_whatever_one_person_says_the_safe_model_goes_on_serving(kind: Kind, events: list[Happening]) -> None:
    incident, _ = play(kind)
    for told in events:
        event = answering(told, incident) if isinstance(told, Act) else told
        incident = evolve(incident, event)
        assert incident.needs_safe
        assert incident.closed_at is None


@pytest.mark.parametrize(("target", "holds"), [("safe_mode", True), ("restore", False), ("close", False), ("trace_models", True)])
def test_a_playbook_that_goes_on_as_if_a_no_were_a_yes_is_refused(target: str, holds: bool) -> None:
    text = (files("responders") / "playbooks" / "poisoning.toml").read_text(encoding="utf-8")
    changed = text.replace('name = "review"\n', f'name = "review"\non_failure = "{target}"\n', 1)
    if holds:
        assert playbooks.parse(changed, "x.toml")
        return
    with pytest.raises(BadInput, match=r"steps\[3\]\.on_failure: .* goes on as if people had done what they refused"):
        playbooks.parse(changed, "x.toml")
