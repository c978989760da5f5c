"""An alarm whose first word was lost, or whose incident was closed while it went on, is not without an incident for long."""

import msgspec
import pytest
from incident_events import NORMAL, SAFE, act, answering, at, signal, status
from sqlalchemy import select

from infra.db import Sessions, reading, writing
from infra.tables import EffectRow, IncidentRow, NoticeRow, TimelineRow
from responders.engine import records
from responders.engine.deciding import decide, evolve
from responders.engine.incident import Decision, Incident, Resolution, Tick, Verb, opened
from responders.engine.store import Store
from responders.people.roles import Role
from responders.playbooks import playbooks
from responders.playbooks.playbooks import State
from streams import codec
from streams.errors import BrokenContract
from streams.events import Context, Kind, Mode, ModelState, Phase, Signal
from streams.topics import MODEL_STATE

pytest_plugins = ["databases"]

BOOKS = playbooks.load()


class Town:
    """A store whose one worker obeys when it is told to."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.store = Store(sessions, BOOKS, worker_lost_s=600, clock_allowance_s=600)
        self.store.assign(Context.URBAN, NORMAL, SAFE, at(0))

    def asked(self) -> ModelState:
        with reading(self.sessions) as session:
            rows = session.scalars(select(EffectRow).where(EffectRow.topic == MODEL_STATE.name).order_by(EffectRow.number)).all()
        return codec.decode(rows[-1].payload, MODEL_STATE, ModelState).event

    def reports(self, seconds: float) -> None:
        self.store.accept(status("w1", seconds, self.asked()), at(seconds))

    def hears(self, told: Signal) -> tuple[str, ...]:
        return self.store.accept(told, told.time).incident_ids

    def closed(self, id_: str, seconds: float, resolution: Resolution) -> None:
        self.store.accept(act(Verb.CLOSE, id_, seconds, resolution=resolution), at(seconds))
        self.reports(seconds + 2)
        assert self.row(id_).state == State.CLOSED

    def row(self, id_: str) -> IncidentRow:
        with reading(self.sessions) as session:
            return session.get_one(IncidentRow, id_)


@pytest.fixture
def town(sessions: Sessions) -> Town:
    """One town, one worker."""
    return Town(sessions)


def goes_on(last: int, seconds: float, first: int = 10) -> Signal:
    return signal(Phase.ONGOING, first, last, time_s=seconds)


def closed_meanwhile(town: Town, resolution: Resolution) -> str:
    [id_] = town.hears(signal(Phase.RAISED, 10, 14, time_s=3))
    town.reports(5)
    town.closed(id_, 6, resolution)
    assert town.asked().mode is Mode.NORMAL
    return id_


def test_an_alarm_whose_first_word_was_lost_opens_an_incident(town: Town) -> None:
    [id_] = town.hears(goes_on(20, 4))
    assert town.row(id_).state == State.CONTAINING
    assert town.asked().mode is Mode.SAFE


def test_an_attack_that_goes_on_after_somebody_closed_as_handled_is_an_incident_again_after_two_minutes(town: Town) -> None:
    before = closed_meanwhile(town, Resolution.HANDLED)
    assert [town.hears(goes_on(20 + second, second)) for second in (10, 60, 120)] == [()] * 3
    [again] = town.hears(goes_on(500, 130))
    assert again != before
    assert town.asked().mode is Mode.SAFE
    assert town.hears(goes_on(510, 131)) == (again,)


def test_an_alarm_that_fades_slowly_has_the_time_that_its_playbook_gives_it(town: Town) -> None:
    def chaff(phase: Phase, seconds: float, detector: str = "chaff") -> Signal:
        return signal(phase, 10, round(14 + seconds), kind=Kind.TRAFFIC, detector=detector, time_s=seconds)

    [id_] = town.hears(chaff(Phase.RAISED, 3))
    town.store.accept(act(Verb.CLOSE, id_, 6, resolution=Resolution.HANDLED), at(6))
    assert town.row(id_).state == State.CLOSED
    assert [town.hears(chaff(Phase.ONGOING, seconds)) for seconds in (130, 1_800, 5_400)] == [()] * 3
    assert len(town.hears(chaff(Phase.ONGOING, 200, "senders"))) == 1, "nobody has closed that one"


def test_a_slow_alarm_that_lasts_longer_than_it_may_is_an_incident_again(town: Town) -> None:
    raised = signal(Phase.RAISED, 10, 14, kind=Kind.TRAFFIC, detector="chaff", time_s=3)
    [id_] = town.hears(raised)
    town.store.accept(act(Verb.CLOSE, id_, 6, resolution=Resolution.HANDLED), at(6))
    assert len(town.hears(signal(Phase.ONGOING, 10, 9_000, kind=Kind.TRAFFIC, detector="chaff", time_s=5_500))) == 1


def test_what_people_called_a_false_alarm_does_not_come_back_by_going_on_but_another_finding_does(town: Town) -> None:
    closed_meanwhile(town, Resolution.FALSE_ALARM)
    assert town.hears(goes_on(9_000, 4_000)) == ()
    assert len(town.hears(goes_on(9_010, 4_001, first=8_990))) == 1


def test_what_a_detector_said_before_its_last_word_opens_nothing(town: Town) -> None:
    [id_] = town.hears(signal(Phase.RAISED, 10, 14, time_s=3))
    town.reports(5)
    town.hears(signal(Phase.CALM, 10, 60, time_s=10))
    town.reports(12)
    assert town.row(id_).state == State.CLOSED
    assert town.hears(goes_on(20, 400)) == ()


def test_who_closes_is_told_which_alarms_go_on(town: Town) -> None:
    id_ = closed_meanwhile(town, Resolution.HANDLED)
    with reading(town.sessions) as session:
        [what] = session.scalars(select(TimelineRow.what).where(TimelineRow.incident_id == id_, TimelineRow.action == "close"))
    assert what.endswith("Still alarming: squeeze")


def test_after_a_humans_close_the_count_of_relapses_begins_anew(town: Town) -> None:
    counts = []
    for begins, by in ((60, None), (120, None), (180, Resolution.FALSE_ALARM), (240, None)):
        [id_] = town.hears(signal(Phase.RAISED, begins * 5, begins * 5 + 4, time_s=begins))
        counts.append(msgspec.json.decode(town.row(id_).body, type=Incident).relapses)
        town.reports(begins + 2)
        if by is not None:
            town.store.accept(act(Verb.CLOSE, id_, begins + 4, resolution=by), at(begins + 4))
        town.hears(signal(Phase.CALM, begins * 5, begins * 5 + 40, time_s=begins + 8))
        town.reports(begins + 10)
    assert counts == [0, 1, 2, 0]


def test_a_close_while_the_safe_model_is_not_reported_yet_does_not_end_the_wait_for_it() -> None:
    raised = signal(Phase.RAISED, 10, 14, kind=Kind.COMPROMISE, detector="answers")
    incident = evolve(opened(raised, BOOKS[Kind.COMPROMISE]), raised)
    said = act(Verb.CLOSE, incident.id, 4, roles=(Role.DEVOPS_ENGINEER,), resolution=Resolution.HANDLED)
    incident = evolve(incident, answering(said, incident))
    assert (incident.state, incident.step.name) == (State.CONTAINING, "await_safe_mode")
    incident = evolve(incident, Tick(at(6), Mode.SAFE, ("w1",), ("w1",)))
    assert (incident.contained_at, incident.step.name, incident.needs_safe) == (at(6), "roll_back", True)


def test_a_closed_incident_goes_on_to_what_people_owe_when_the_workers_never_report_the_safe_model() -> None:
    raised = signal(Phase.RAISED, 10, 14, kind=Kind.COMPROMISE, detector="answers")
    incident = evolve(opened(raised, BOOKS[Kind.COMPROMISE]), raised)
    said = act(Verb.CLOSE, incident.id, 4, roles=(Role.DEVOPS_ENGINEER,), resolution=Resolution.HANDLED)
    incident = evolve(incident, answering(said, incident))
    told: list[Decision] = []
    for second in range(5, 25):
        told += decide(incident, Tick(at(second), Mode.SAFE, ("w1",), ()))
        incident = evolve(incident, Tick(at(second), Mode.SAFE, ("w1",), ()))
    assert any("not reported by w1" in one.what for one in told if one.action == "escalate")
    assert (incident.contained_at, incident.step.name, incident.needs_safe) == (None, "roll_back", True)


def test_an_incident_that_cannot_be_read_stops_neither_the_others_time_nor_its_cameras_alarms(town: Town) -> None:
    [lost] = town.hears(signal(Phase.RAISED, 10, 14, camera="cam1", time_s=3))
    [other] = town.hears(signal(Phase.RAISED, 10, 14, camera="cam2", time_s=3))
    with writing(town.sessions) as session:
        session.get_one(IncidentRow, lost).body = b'{"id": "from a newer version"}'
    for second in range(4, 400, 4):
        town.store.tick(at(second))
    seen = msgspec.json.decode(town.row(other).body, type=Incident)
    assert len(seen.called) > 1, "its people are called one after another"
    with pytest.raises(BrokenContract, match="run the one that wrote it"):  # a dead letter then, to be sent once more
        town.hears(goes_on(99, 401))
    [fresh] = town.hears(signal(Phase.RAISED, 10, 99, kind=Kind.TRAFFIC, camera="cam1", time_s=401))
    with reading(town.sessions) as session:
        assert {one.id for one in records.listed(session)} == {lost, other, fresh}
        told = [
            row for row in session.scalars(select(NoticeRow)) if f"time stands still for incident {lost[:8]}".encode() in row.body
        ]
        assert len(told) == 1, "once"
        with pytest.raises(BrokenContract, match="run the one that wrote it"):
            records.shown(session, lost)
