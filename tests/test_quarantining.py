"""Orders to quarantine wait for records and not for time, what is missing is told, and nobody learns from what was ordered away."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta

import msgspec
import pytest
from incident_events import NORMAL, SAFE, act, at, signal, status
from msgspec.structs import replace
from sqlalchemy import select
from test_keeping import PICTURE, detections, frame

from inference.lifecycle.retrain import TRAINING
from infra import clients
from infra.db import Sessions, reading, writing
from infra.provision import app_id
from infra.settings import Settings
from infra.tables import EffectRow, IncidentRow, QuarantinedFrame, RolloutRow, TimelineRow
from responders.engine.incident import Resolution, Verb
from responders.engine.past import incident_of
from responders.engine.store import Store
from responders.playbooks import playbooks
from responders.proof import material
from responders.proof.keeping import record_judged
from responders.quarantine.quarantine import Place, Standing, listed
from responders.quarantine.review import chosen
from responders.quarantine.unfit import unfit
from responders.rollouts.rollout import Rollout, State
from responders.rollouts.store import Rollouts, rollout_of
from streams import codec, quarantining
from streams.console import retraining
from streams.errors import BadInput, Unavailable
from streams.events import Context, Detections, Frame, Kind, ModelState, Phase, QuarantineOrder, event_id
from streams.quarantining import LONGEST, JudgedLane, Quarantining
from streams.topics import DETECTIONS, MODEL_STATE, QUARANTINE, Role

pytest_plugins = ["databases"]


class Lane:
    """A log of judged frames, and how far the keeper's records are."""

    def __init__(self) -> None:
        self.end, self.done = 100, 40

    def ends(self) -> Mapping[int, int]:
        return {0: self.end, 1: 7}

    def read(self) -> Mapping[int, int]:
        return {0: self.done, 1: 7}


class Site:
    """An incident whose order the keeper reads from the outbox, and a keeper that has just been started."""

    def __init__(self, settings: Settings, sessions: Sessions) -> None:
        self.sessions = sessions
        self.store = Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)
        for context in Context:
            self.store.assign(context, NORMAL, SAFE, at(0))
        [self.incident_id] = self.store.accept(signal(Phase.RAISED, 10, 14), at(3)).incident_ids
        with reading(sessions) as session:
            payload = session.scalars(select(EffectRow.payload).where(EffectRow.topic == QUARANTINE.name)).one()
        self.order: QuarantineOrder = codec.decode(payload, QUARANTINE, QuarantineOrder).event
        self.lane, self.sealed = Lane(), list[int]()
        self.keeper = Quarantining(settings, sessions, self.lane, self.sealed.append)

    @property
    def ids(self) -> list[str]:
        window = self.order.window
        return [frame(n).id for n in range(window.first_sequence, window.last_sequence + 1)]

    def judge(self, *sequences: int) -> None:
        with writing(self.sessions) as session:
            record_judged(session, [detections(n) for n in sequences])

    def close(self, resolution: Resolution = Resolution.HANDLED) -> None:
        """A person closes the incident, and a worker reports normal service."""
        self.store.accept(act(Verb.CLOSE, self.incident_id, 30, resolution=resolution), at(30))
        for seconds in (31, 32, 33):
            with reading(self.sessions) as session:
                asked = select(EffectRow.payload).where(EffectRow.topic == MODEL_STATE.name, EffectRow.key == "urban")
                newest = session.scalars(asked.order_by(EffectRow.number.desc())).first()
            assert newest is not None
            said = status("w1", seconds, codec.decode(newest, MODEL_STATE, ModelState).event)
            self.store.accept(said, at(seconds))
        with reading(self.sessions) as session:
            assert session.get_one(IncidentRow, self.incident_id).closed_at is not None

    def release(self) -> None:
        """Two people let all of its frames go."""
        with writing(self.sessions) as session:
            for row in session.scalars(select(QuarantinedFrame)):
                row.state, row.reviewed_at, row.reviewed_by = Standing.RELEASED, at(60), "data-1, security-1"

    def missing(self) -> list[str]:
        with reading(self.sessions) as session:
            told = select(TimelineRow.what).where(
                TimelineRow.incident_id == self.incident_id, TimelineRow.action == "frames-missing"
            )
            return list(session.scalars(told))

    def barred(self, *more: int) -> set[str]:
        with reading(self.sessions) as session:
            return set(unfit(session, [*self.ids, *(frame(n).id for n in more)]))


@pytest.fixture
def site(database: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> Site:
    def frames(_settings: Settings, places: Sequence[Place]) -> Iterator[tuple[Frame, bytes]]:
        return iter([(frame(place.sequence), PICTURE) for place in places])

    def seen(_settings: Settings, _places: Sequence[Place]) -> dict[str, Detections]:
        return {}

    monkeypatch.setattr(quarantining, "read_frames", frames)
    monkeypatch.setattr(quarantining, "read_detections", seen)
    return Site(database, sessions)


def test_an_order_that_is_old_when_the_keeper_comes_back_waits_for_its_records(site: Site) -> None:
    window = site.order.window
    back = site.order.time + timedelta(hours=9)
    site.judge(window.first_sequence)
    for seconds in range(3):
        with pytest.raises(Unavailable, match="not all on record yet"):
            site.keeper.obey(site.order, back + timedelta(minutes=seconds))
    assert site.sealed == []
    site.judge(*range(window.first_sequence, window.last_sequence + 1))
    site.keeper.obey(site.order, back + timedelta(minutes=4))
    assert site.sealed == [len(site.ids)]
    assert site.missing() == []


def test_what_is_on_no_record_once_the_lane_has_passed_is_told_in_the_incident_and_refused(site: Site) -> None:
    window = site.order.window
    site.judge(window.first_sequence)
    with pytest.raises(Unavailable):
        site.keeper.obey(site.order, at(5))
    site.lane.done, site.lane.end = 100, 900  # as far as the log went when the order came; more has come since
    for _ in range(2):  # a killed keeper reads it again
        with pytest.raises(BadInput, match=f"{len(site.ids) - 1} frames of cam1"):
            site.keeper.obey(site.order, at(6))
        with pytest.raises(Unavailable):
            site.keeper.obey(site.order, at(7))
        site.lane.done = 900
    assert site.sealed == [1, 0]
    assert len(site.missing()) == 1


def test_frames_that_the_log_holds_no_more_are_told_and_not_those_that_were_sealed_before(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = site.order.window
    site.judge(*range(window.first_sequence, window.last_sequence + 1))
    monkeypatch.setattr(quarantining, "read_frames", lambda _, places: iter([(frame(places[0].sequence), PICTURE)]))
    for _ in range(2):
        with pytest.raises(BadInput, match=f"{len(site.ids) - 1} frames of cam1.* holds their pictures no more"):
            site.keeper.obey(site.order, at(5))
    assert site.sealed == [1, 0]
    [told] = site.missing()
    assert "on no record" not in told


def test_an_order_about_frames_that_are_all_sealed_needs_no_log(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.judge(*range(site.order.window.first_sequence, site.order.window.last_sequence + 1))
    site.keeper.obey(site.order, at(5))
    monkeypatch.setattr(quarantining, "read_frames", lambda *_: iter(()))
    site.keeper.obey(replace(site.order, id="another", decision_id="another"), at(6))
    assert (site.sealed, site.missing()) == ([len(site.ids), 0], [])


def test_a_hole_in_the_record_is_told_although_the_last_frame_is_there(site: Site) -> None:
    site.judge(site.order.window.first_sequence, site.order.window.last_sequence)
    with pytest.raises(BadInput, match=f"{len(site.ids) - 2} frames of cam1.* are on no record"):
        site.keeper.obey(site.order, at(5))
    assert (site.sealed, len(site.missing())) == ([2], 1)


def test_rows_that_come_while_the_lane_is_looked_at_count(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    window = site.order.window
    with pytest.raises(Unavailable):
        site.keeper.obey(site.order, at(5))

    def read() -> Mapping[int, int]:
        site.judge(*range(window.first_sequence, window.last_sequence + 1))
        return site.lane.ends()

    monkeypatch.setattr(site.lane, "read", read)
    site.keeper.obey(site.order, at(6))
    assert site.sealed == [len(site.ids)]


def test_a_lane_that_stands_still_holds_nobody_up_for_ever(site: Site) -> None:
    site.judge(site.order.window.first_sequence)
    with pytest.raises(Unavailable):
        site.keeper.obey(site.order, at(5))
    with pytest.raises(Unavailable):
        site.keeper.obey(site.order, at(4) + LONGEST)
    with pytest.raises(BadInput, match="on no record"):
        site.keeper.obey(site.order, at(5) + LONGEST)
    assert (site.sealed, len(site.missing())) == ([1], 1)


def test_how_far_the_lane_is_comes_from_the_broker(broker: Settings) -> None:
    lane = JudgedLane(broker)
    with closing(clients.producer(broker, Role.INFERENCE)) as producer:
        sent = producer.send(DETECTIONS.name, key=b"cam-lane", value=codec.encode(detections(1))).get(10)
    end = lane.ends()[sent.partition]
    assert end > sent.offset
    assert lane.read()[sent.partition] < end
    with closing(clients.consumer(broker, Role.KEEPER, group=app_id(Role.KEEPER))) as keeper:
        keeper.subscribe([DETECTIONS.name])
        until = datetime.now().astimezone() + timedelta(seconds=20)
        while lane.read()[sent.partition] < end:
            assert datetime.now().astimezone() < until
            keeper.poll(timeout_ms=200)
            keeper.commit()
        assert keeper.assignment(), "who asks how far the lane is takes no partition away"


def test_a_second_incident_about_the_same_frames_shows_them_as_sealed(site: Site, database: Settings) -> None:
    site.judge(*range(site.order.window.first_sequence, site.order.window.last_sequence + 1))
    site.keeper.obey(site.order, at(5))
    [second] = site.store.accept(signal(Phase.RAISED, 10, 14, kind=Kind.COMPROMISE, time_s=6), at(6)).incident_ids
    assert second != site.incident_id
    for incident_id in (site.incident_id, second):
        with reading(site.sessions) as session:
            found = material.with_events(material.gather(session, database, incident_id), (), {}, [])  # the log has nothing more
            rows, total = listed(session, incident_id, 2)
        assert found.shown.frames_quarantined == total == len(site.ids)
        assert [row.sequence for row in rows] == [14, 13]
        assert {frame.sealed_sha256 is not None and frame.digest is not None for frame in found.frames} == {True}
        assert found.missing == ()


def test_people_may_decide_by_either_incident_once_both_are_closed(site: Site) -> None:
    site.judge(*range(site.order.window.first_sequence, site.order.window.last_sequence + 1))
    site.keeper.obey(site.order, at(5))
    [second] = site.store.accept(signal(Phase.RAISED, 10, 14, kind=Kind.COMPROMISE, time_s=6), at(6)).incident_ids
    for incident_id in (site.incident_id, second):
        with reading(site.sessions) as session, pytest.raises(BadInput, match="close it first"):
            chosen(session, incident_id, None)
    with writing(site.sessions) as session:
        for row in session.scalars(select(IncidentRow)):
            row.state = "closed"
    for incident_id in (site.incident_id, second):
        with reading(site.sessions) as session:
            assert chosen(session, incident_id, None).count == len(site.ids)


def test_nobody_learns_from_what_was_ordered_away_even_if_no_keeper_has_sealed_it(site: Site) -> None:
    last = site.order.window.last_sequence
    site.judge(*range(site.order.window.first_sequence, last + 3))
    assert site.barred(last + 1, last + 2) == set(site.ids)
    site.close()
    assert site.barred() == set(site.ids)


def test_a_false_alarm_bars_nothing_and_what_is_sealed_stays_barred_until_people_let_it_go(site: Site) -> None:
    site.judge(*range(site.order.window.first_sequence, site.order.window.last_sequence + 1))
    site.keeper.obey(site.order, at(5))
    site.close(Resolution.FALSE_ALARM)
    assert site.barred() == set(site.ids)
    site.release()
    assert site.barred() == set()


def test_what_people_let_go_is_barred_anew_by_a_later_incident(site: Site) -> None:
    site.judge(*range(site.order.window.first_sequence, site.order.window.last_sequence + 1))
    site.keeper.obey(site.order, at(5))
    site.close()
    site.release()
    assert site.barred() == set()
    site.store.accept(signal(Phase.RAISED, 11, 14, detector="second", time_s=70), at(70))
    assert frame(14).id in site.barred()


def test_a_run_takes_no_picture_from_a_window_that_any_incident_ordered_away(site: Site, database: Settings) -> None:
    site.judge(*range(40, 60))
    [reason] = site.store.accept(signal(Phase.RAISED, 200, 204, detector="other", camera="cam2"), at(50)).incident_ids
    site.store.accept(signal(Phase.ONGOING, 10, 50), at(50))
    with reading(site.sessions) as session:
        covered = incident_of(session.get_one(IncidentRow, site.incident_id)).covered
    asked = Rollouts(site.store).request(reason, "science-1", short=True, now=at(60))
    with reading(site.sessions) as session:
        places = retraining._places(session, asked, database.home / "run")
    assert covered[-1].last_sequence == 50
    assert {place.sequence for place in places} == set(range(51, 60))
    learnt = database.home / "run" / TRAINING
    learnt.mkdir()
    with reading(site.sessions) as session:  # the same run goes on
        assert retraining._places(session, asked, database.home / "run") == places
    assert learnt.is_dir()
    site.store.accept(signal(Phase.ONGOING, 10, 55), at(61))
    for _ in range(2):
        with reading(site.sessions) as session:
            assert {one.sequence for one in retraining._places(session, asked, database.home / "run")} == set(range(56, 60))
        assert not learnt.exists(), "it has learnt from what was set aside since"


def learning(site: Site, database: Settings) -> tuple[Rollouts, Rollout]:
    """A retraining under way that learns from frames 40 to 59."""
    site.judge(*range(40, 60))
    [reason] = site.store.accept(signal(Phase.RAISED, 200, 204, detector="other", camera="cam2"), at(50)).incident_ids
    rollouts = Rollouts(site.store)
    asked = rollouts.request(reason, "science-1", short=True, now=at(60))
    folder = database.home / "training" / asked.id
    folder.mkdir(parents=True)
    (folder / "live.json").write_bytes(msgspec.json.encode([Place(frame(n).id, n, 2, 100 + n) for n in range(40, 60)]))
    return rollouts, asked


def test_a_candidate_that_learnt_from_what_was_set_aside_meanwhile_never_reaches_the_gate(
    site: Site, database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts, asked = learning(site, database)

    def candidate(*_: object, **__: object) -> str:
        site.store.accept(signal(Phase.ONGOING, 10, 42), at(61))
        return "c" * 64

    monkeypatch.setattr(retraining, "read_frames", lambda *_: ())
    monkeypatch.setattr(retraining, "candidate", candidate)
    monkeypatch.setattr(retraining, "gated", lambda *_: pytest.fail("the gate was asked"))
    with pytest.raises(BadInput, match="3 pictures that it learnt from were set aside meanwhile"):
        retraining._run(database, site.sessions, retraining._Reporter(rollouts, asked.id, lambda *_: None), asked)
    with reading(site.sessions) as session:
        after = rollout_of(session.get_one(RolloutRow, asked.id))
    assert (after.state, after.candidate_digest) == (State.FAILED, "")


def test_a_candidate_whose_pictures_are_set_aside_while_the_gate_runs_is_asked_no_approval_for(
    site: Site, database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts, asked = learning(site, database)

    def gated(*_: object) -> tuple[bool, str]:
        site.store.accept(signal(Phase.ONGOING, 10, 42), at(61))
        return True, "passed"

    monkeypatch.setattr(retraining, "read_frames", lambda *_: ())
    monkeypatch.setattr(retraining, "candidate", lambda *_, **__: "c" * 64)
    monkeypatch.setattr(retraining, "gated", gated)
    with pytest.raises(BadInput, match="3 pictures that it learnt from were set aside meanwhile"):
        retraining._run(database, site.sessions, retraining._Reporter(rollouts, asked.id, lambda *_: None), asked)
    with reading(site.sessions) as session:
        assert rollout_of(session.get_one(RolloutRow, asked.id)).state is State.FAILED


def test_the_order_names_the_incident_that_is_told(site: Site) -> None:
    strange = replace(site.order, id="another", incident_id=event_id("incident", "gone"))
    with pytest.raises(Unavailable):
        site.keeper.obey(strange, at(5))
    site.lane.done = 100
    with pytest.raises(BadInput, match="on no record"):
        site.keeper.obey(strange, at(6))
    assert site.missing() == []
