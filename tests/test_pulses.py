"""An attack in pulses, with proven calm between them, ends in a safe mode that is held, as a relapse within one incident does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from incident_events import NORMAL, SAFE, act, at, signal, status
from msgspec.structs import replace
from sqlalchemy import select

from infra.db import Sessions, reading
from infra.tables import EffectRow, IncidentRow, TimelineRow
from responders.engine.deciding import advance
from responders.engine.incident import Happening, Incident, Resolution, Serve, Tick, Verb, opened
from responders.engine.store import Store
from responders.playbooks import playbooks
from responders.playbooks.playbooks import State
from streams import codec
from streams.events import Context, Kind, Mode, ModelState, Phase, Severity
from streams.topics import MODEL_STATE

pytest_plugins = ["databases"]

BOOKS = playbooks.load()
WITHIN_S = BOOKS[Kind.EVASION].relapse_within_s or 0.0


def pulse(begins_s: float, former: tuple[Incident, ...]) -> tuple[Incident, list[Mode]]:
    """One attack of some seconds, calm after it, and obedient workers; what the incident asked for."""
    first = round(begins_s * 5)
    raised = signal(Phase.RAISED, first, first + 4, time_s=begins_s)
    recent = [one for one in former if one.closed_at is not None and begins_s - (one.closed_at - at(0)).total_seconds() <= WITHIN_S]
    incident, asked = opened(raised, BOOKS[Kind.EVASION], recent), []
    events: tuple[Happening, ...] = (
        raised,
        Tick(at(begins_s + 2), Mode.SAFE, ("w1",), ("w1",)),
        signal(Phase.CALM, first, first + 40, time_s=begins_s + 8),
        Tick(at(begins_s + 10), Mode.NORMAL, ("w1",), ("w1",)),
    )
    for event in events:
        decisions, incident = advance(incident, event)
        asked += [decision.mode for decision in decisions if isinstance(decision, Serve)]
    return incident, asked


def pulses(gaps_s: list[float]) -> tuple[list[Incident], list[Mode]]:
    """So many pulses, until one is held; gaps between their beginnings."""
    found: list[Incident] = []
    asked: list[Mode] = []
    begins_s = 0.0
    for gap_s in gaps_s:
        begins_s += gap_s
        incident, modes = pulse(begins_s, tuple(found))
        found, asked = [*found, incident], [*asked, *modes]
        if incident.closed_at is None:
            break
    return found, asked


def test_ten_pulses_a_minute_apart_end_in_a_held_safe_mode() -> None:
    found, asked = pulses([60.0] * 10)
    assert [one.relapses for one in found] == [0, 1, 2]
    assert [one.state for one in found] == [State.CLOSED, State.CLOSED, State.CONTAINED]
    assert asked == [Mode.SAFE, Mode.NORMAL, Mode.SAFE, Mode.NORMAL, Mode.SAFE]
    assert "came back 2 times: safe mode stays until a human closes" in found[-1].escalated


@given(st.lists(st.floats(20, WITHIN_S), min_size=10, max_size=10))
def test_whatever_the_rhythm_within_the_playbooks_time_it_switches_as_often_as_one_incident_would(gaps_s: list[float]) -> None:
    _, asked = pulses(gaps_s)
    assert len(asked) == 2 * BOOKS[Kind.EVASION].max_relapses + 1


def test_what_comes_after_that_time_is_a_first_attack() -> None:
    found, _ = pulses([WITHIN_S + 60] * 5)
    assert [one.relapses for one in found] == [0] * 5


def test_a_first_relapse_is_on_record_and_calls_nobody_for_it() -> None:
    found, _ = pulses([60.0] * 2)
    assert not found[1].escalated


# -- in the store ------------------------------------------------------------------------------------------------------


class Town:
    """A store whose one worker obeys at once."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.store = Store(sessions, BOOKS, worker_lost_s=600, clock_allowance_s=600)
        self.store.assign(Context.URBAN, NORMAL, SAFE, at(0))

    def reports(self, seconds: float) -> None:
        with reading(self.sessions) as session:
            rows = session.scalars(select(EffectRow).where(EffectRow.topic == MODEL_STATE.name).order_by(EffectRow.number)).all()
        asked = codec.decode(rows[-1].payload, MODEL_STATE, ModelState).event
        self.store.accept(status("w1", seconds, asked), at(seconds))

    def pulse(self, begins_s: float, camera: str = "cam1", **more: object) -> IncidentRow:
        first = round(begins_s * 5)
        raised = signal(Phase.RAISED, first, first + 4, camera=camera, time_s=begins_s)
        [id_] = self.store.accept(raised, at(begins_s)).incident_ids
        self.reports(begins_s + 2)
        if more.get("closed_by_a_human"):
            self.store.accept(act(Verb.CLOSE, id_, begins_s + 4, resolution=Resolution.HANDLED), at(begins_s + 4))
        else:
            self.store.accept(signal(Phase.CALM, first, first + 40, camera=camera, time_s=begins_s + 8), at(begins_s + 8))
        self.reports(begins_s + 10)
        with reading(self.sessions) as session:
            return session.get_one(IncidentRow, id_)

    def timeline(self, incident: str) -> list[str]:
        with reading(self.sessions) as session:
            rows = select(TimelineRow.what).where(TimelineRow.incident_id == incident, TimelineRow.action == "relapse")
            return list(session.scalars(rows))


def test_the_store_counts_what_closed_by_itself_on_the_camera(sessions: Sessions) -> None:
    town = Town(sessions)
    rows = [town.pulse(60.0 * n) for n in range(1, 4)]
    assert [row.state for row in rows] == ["closed", "closed", "contained"]
    assert town.timeline(rows[1].id) == ["an incident of this kind has just closed by itself here, time 1"]
    other = town.pulse(300, camera="cam2")
    assert (other.state, town.timeline(other.id)) == ("recovering", []), "its own; cam1's keeps the context in safe mode"


@pytest.mark.parametrize(("gap_s", "by_hand"), [(60, True), (WITHIN_S + 60, False)], ids=["a human closed", "long ago"])
def test_a_humans_close_and_time_begin_the_count_anew(sessions: Sessions, gap_s: float, by_hand: bool) -> None:
    town = Town(sessions)
    rows = [town.pulse(gap_s * n, closed_by_a_human=by_hand) for n in range(1, 5)]
    assert [row.state for row in rows] == ["closed"] * 4
    assert [town.timeline(row.id) for row in rows] == [[]] * 4


def test_a_drift_that_is_only_watched_is_not_held() -> None:
    """Held means that the safe model is not left; where it does not serve, calm ends the incident as ever."""
    raised = signal(Phase.RAISED, 1, 5, kind=Kind.DRIFT, severity=Severity.LOW, context=Context.HIGHWAY)
    before = replace(opened(raised, BOOKS[Kind.DRIFT]), relapses=1, resolution=Resolution.RECOVERED, contained_at=at(1))
    incident = opened(raised, BOOKS[Kind.DRIFT], [before])
    assert incident.held
    for event in (
        raised,
        signal(Phase.ONGOING, 1, 9, kind=Kind.DRIFT, severity=Severity.LOW, context=Context.HIGHWAY),
        signal(Phase.CALM, 1, 50, kind=Kind.DRIFT, severity=Severity.LOW, context=Context.HIGHWAY),
        Tick(at(50), Mode.NORMAL, ("w1",), ("w1",), judged_at=at(200)),
    ):
        _, incident = advance(incident, event)
    assert (incident.state, incident.escalated) == (State.CLOSED, "")
