"""Events in, effects out, through crashes, repeats and outages: each effect once by its id, on SQLite and PostgreSQL."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import count, pairwise
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from incident_events import NORMAL, SAFE, act, at, signal, status
from sqlalchemy import event as sql_event
from sqlalchemy import func, select

from infra.db import Sessions, open_database, reading, writing
from infra.settings import Settings
from infra.tables import EffectRow, InboxRow, IncidentRow, JudgedFrame, TimelineRow
from responders.engine import assignments
from responders.engine.effects import LEASE, REFUSED, carry_out
from responders.engine.incident import Verb
from responders.engine.store import Store
from responders.playbooks import playbooks
from streams import codec, topics
from streams.errors import BadInput, Unavailable
from streams.events import Context, Event, Health, Mode, ModelState, Phase, QuarantineOrder
from streams.stack import Weights, unjudged
from streams.topics import Topic

pytest_plugins = ["databases"]

NUMBERS = count()
RAISED = signal(Phase.RAISED, 10, 14)
CALM = signal(Phase.CALM, 10, 60)


class Wire:
    """A port that keeps what it is given; `down` makes it refuse."""

    def __init__(self) -> None:
        self.sent: list[tuple[Topic, str, Event]] = []
        self.down: set[str] = set()

    def send(self, topic: Topic, key: str, event: Event) -> None:
        if topic.name in self.down:
            raise Unavailable("the broker is away")
        assert key == getattr(event, topic.key)
        self.sent.append((topic, key, event))

    def ids(self) -> list[str]:
        return [event.id for _, _, event in self.sent]

    def of(self, topic: Topic) -> list[Event]:
        return [event for there, _, event in self.sent if there is topic]

    def asked(self, context: Context = Context.URBAN) -> ModelState:
        """What workers are told to serve last; a repeat of an old state is told apart by its id in the tests that make some."""
        return [state for state in self.of(topics.MODEL_STATE) if isinstance(state, ModelState) and state.context is context][-1]


class System:
    """Responder, outbox and workers around one database, on a clock of its own."""

    def __init__(self, sessions: Sessions, runner: str = "respond") -> None:
        self.sessions, self.runner = sessions, runner
        self.wire = Wire()
        self.now = at(3)
        self.store = Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)

    def clock(self) -> datetime:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def flush(self) -> None:
        while carry_out(self.sessions, self.wire, self.clock, self.runner).sent:
            pass

    def assign(self) -> None:
        for context in Context:
            self.store.assign(context, NORMAL, SAFE, self.now)
        self.flush()

    def report(self, *workers: str, health: Health = Health.SERVING, asked: ModelState | None = None) -> None:
        for worker in workers:
            self.passes(0.001)
            seconds = (self.now - at(0)).total_seconds()
            self.store.accept(status(worker, seconds, asked or self.wire.asked(), health=health), self.now)
        self.flush()

    def give(self, *events: object) -> None:
        for event in events:
            self.store.accept(event, self.now)  # type: ignore[arg-type]
        self.flush()

    def orders(self) -> list[ModelState]:
        """What the town's workers were told, one after the other."""
        sent = (state for state in self.wire.of(topics.MODEL_STATE) if isinstance(state, ModelState))
        return [state for state in sent if state.context is Context.URBAN]

    def asked(self) -> ModelState:
        """What the town's workers are asked to serve, by the outbox."""
        with reading(self.sessions) as session:
            rows = session.scalars(select(EffectRow).where(EffectRow.topic == "model-state", EffectRow.key == "urban"))
            last = max(rows, key=lambda row: row.number)
        return codec.decode(last.payload, topics.MODEL_STATE, ModelState).event

    def incidents(self) -> list[IncidentRow]:
        with reading(self.sessions) as session:
            return list(session.scalars(select(IncidentRow).order_by(IncidentRow.opened_at, IncidentRow.id)))

    def states(self) -> list[str]:
        return [row.state for row in self.incidents()]

    def timeline(self) -> list[tuple[str, str]]:
        with reading(self.sessions) as session:
            return [(row.decision_id, row.action) for row in session.scalars(select(TimelineRow).order_by(TimelineRow.number))]


@pytest.fixture
def system(sessions: Sessions) -> System:
    made = System(sessions)
    made.assign()
    return made


def test_an_attack_runs_through_the_closed_loop(system: System) -> None:
    system.report("w1", "w2")
    system.give(RAISED)
    assert system.states() == ["containing"]
    assert (system.wire.asked().mode, system.wire.asked().weights_digest) == (Mode.SAFE, SAFE)
    assert system.wire.asked().reference_digest == NORMAL
    system.report("w1")
    assert system.states() == ["containing"]
    system.report("w2")
    assert system.states() == ["contained"]
    system.give(signal(Phase.ONGOING, 10, 20), CALM)
    assert system.wire.asked().mode is Mode.NORMAL
    system.report("w1", "w2")
    assert system.states() == ["closed"]
    assert [row.resolution for row in system.incidents()] == ["recovered"]
    orders = [order for order in system.wire.of(topics.QUARANTINE) if isinstance(order, QuarantineOrder)]
    assert [(o.window.first_sequence, o.window.last_sequence) for o in orders] == [(10, 14), (15, 20), (21, 60)]
    assert len(system.wire.ids()) == len(set(system.wire.ids()))
    assert system.wire.asked(Context.HIGHWAY).decision_id == "initial-highway"
    decided = len(system.timeline())
    assert len(system.wire.of(topics.INCIDENTS)) == decided
    assert len(system.wire.of(topics.AUDIT)) == decided + len(Context)


def test_the_same_event_again_changes_nothing(system: System) -> None:
    system.give(RAISED)
    before, sent = system.timeline(), system.wire.ids()
    for _ in range(3):
        assert not system.store.accept(RAISED, system.now).new
    system.flush()
    assert (system.timeline(), system.wire.ids()) == (before, sent)


def test_a_signal_that_says_calm_opens_nothing(system: System) -> None:
    system.give(signal(Phase.CALM, 1, 9))
    assert system.states() == []


def test_a_storm_is_one_incident_with_a_count(system: System) -> None:
    storm = [signal(Phase.RAISED, 10, 14, detector=f"d{n % 7}", time_s=n) for n in range(7)]
    system.give(*storm, *(signal(Phase.ONGOING, 10, 14, detector="squeeze", time_s=n) for n in range(1)))
    assert [row.signals for row in system.incidents()] == [8]
    assert len(system.wire.of(topics.QUARANTINE)) == 1


def test_before_weights_are_assigned_nothing_is_accepted(sessions: Sessions) -> None:
    store = System(sessions).store
    with pytest.raises(Unavailable, match="kerbwatch up"):
        store.accept(RAISED, at(0))
    with reading(sessions) as session:
        assert session.scalar(select(func.count()).select_from(InboxRow)) == 0


@pytest.mark.parametrize("shipped", [(NORMAL, SAFE), ("c" * 64, "d" * 64)])
def test_what_a_later_set_up_ships_leaves_alone_what_serves(system: System, shipped: tuple[str, str]) -> None:
    before = system.wire.asked()
    assert not system.store.assign(Context.URBAN, *shipped, system.now)
    system.flush()
    assert system.wire.asked() == before
    assert (before.weights_digest, before.decision_id) == (NORMAL, "initial-urban")
    said = unjudged(system.store, Weights(*shipped))
    if shipped == (NORMAL, SAFE):
        assert said == ()
        return
    for line, mode, new, old in zip(said, ("normal", "safe"), shipped, (NORMAL, SAFE), strict=True):
        assert f"ships another {mode} model, {new[:12]}" in line
        assert f"{old[:12]} in urban, {old[:12]} in highway" in line
        assert f"`kerbwatch gate {new[:12]}`" in line
        assert f"`kerbwatch models promote {new[:12]} --mode {mode} --context urban -m WHY`" in line


def test_two_set_ups_at_once_assign_once(sessions: Sessions) -> None:
    made, faults, together = [], [], threading.Barrier(4)

    def assign() -> None:
        try:
            together.wait(10)
            made.append(System(sessions).store.assign(Context.URBAN, NORMAL, SAFE, at(0)))
        except Exception as error:  # noqa: BLE001 - a thread's fault is shown by the assertion below
            faults.append(error)

    threads = [threading.Thread(target=assign) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert faults == []
    assert sorted(made) == [False, False, False, True]


def test_a_second_camera_of_the_context_keeps_safe_mode_until_both_are_calm(system: System) -> None:
    system.give(RAISED, signal(Phase.RAISED, 10, 14, camera="cam2"))
    system.report("w1")
    assert system.states() == ["contained", "contained"]
    assert len(system.wire.of(topics.MODEL_STATE)) == len(Context) + 1
    system.give(CALM)
    for _ in range(40):
        system.passes(1)
        system.report("w1")
    assert sorted(system.states()) == ["contained", "recovering"]
    assert system.wire.asked().mode is Mode.SAFE
    assert not any(row.escalated for row in system.incidents())
    system.give(signal(Phase.CALM, 10, 200, camera="cam2"))
    assert system.wire.asked().mode is Mode.NORMAL
    system.report("w1")
    assert system.states() == ["closed", "closed"]


def test_another_context_is_never_disturbed(system: System) -> None:
    system.give(RAISED)
    system.report("w1")
    states = [s for s in system.wire.of(topics.MODEL_STATE) if isinstance(s, ModelState) and s.context is Context.HIGHWAY]
    assert [s.decision_id for s in states] == ["initial-highway"]


def test_no_worker_escalates_and_is_no_success(system: System) -> None:
    system.give(RAISED)
    for _ in range(20):
        system.passes(1)
        system.store.tick(system.now)
    [row] = system.incidents()
    assert row.state == "containing"
    assert "no worker is alive" in row.escalated


def test_a_stopped_worker_is_waited_for_until_lost_and_then_no_longer(system: System) -> None:
    system.report("w1", "w2")
    system.give(RAISED)
    for seconds in range(8):
        system.passes(1)
        system.report("w1")
        assert system.states() == ["containing" if seconds < 5 else "contained"]


def test_a_worker_that_says_it_stops_is_not_waited_for(system: System) -> None:
    system.report("w1", "w2")
    system.give(RAISED)
    system.report("w2", health=Health.STOPPING)
    system.report("w1")
    assert system.states() == ["contained"]


def test_a_worker_that_serves_something_else_holds_containment_up(system: System) -> None:
    initial = system.wire.asked()
    system.give(RAISED)
    system.report("w2", asked=initial)
    system.report("w1")
    assert system.states() == ["containing"]


def test_a_backlog_does_not_speak_for_workers_that_have_died(system: System) -> None:
    system.give(RAISED)
    said = status("w1", 3, system.wire.asked())
    system.passes(60)
    system.store.accept(said, system.now)
    assert system.states() == ["containing"]


def test_an_older_status_that_arrives_late_does_not_replace_a_newer_one(system: System) -> None:
    initial = system.wire.asked()
    system.give(RAISED)
    late = status("w1", 2.9, initial)
    system.report("w1")
    assert not system.store.accept(late, system.now).new
    assert system.states() == ["contained"]


# Clocks that differ


def test_an_order_of_a_host_whose_clock_is_ahead_neither_delays_nor_outdates_safe_mode(system: System) -> None:
    for digest in ("c" * 64, "d" * 64):
        with writing(system.sessions) as session:
            later = system.now + timedelta(minutes=5)
            assignments.assign(session, Context.URBAN, Mode.NORMAL, digest, actor="operator-1", why="promoted", now=later)
    system.give(RAISED)
    sent = system.orders()
    assert [(state.mode, state.weights_digest[0]) for state in sent[-3:]] == [
        (Mode.NORMAL, "c"),
        (Mode.NORMAL, "d"),
        (Mode.SAFE, "b"),
    ]
    assert all(before.time < after.time for before, after in pairwise(sent)), "workers obey the latest order only"


def test_orders_go_on_growing_younger_when_the_responders_clock_is_set_back(system: System) -> None:
    system.passes(600)
    system.report("w1")
    system.give(RAISED)
    system.passes(-300)
    system.give(act(Verb.CLOSE, system.incidents()[0].id, 9))
    system.give(signal(Phase.RAISED, 100, 104))
    for _ in range(12):  # nobody reports it: it is asked for once more
        system.passes(1)
        system.store.tick(system.now)
        system.flush()
    sent = system.orders()
    assert [state.mode for state in sent] == [Mode.NORMAL, Mode.SAFE, Mode.NORMAL, Mode.SAFE, Mode.SAFE]
    assert all(before.time < after.time for before, after in pairwise(sent))


def test_an_order_that_failed_before_the_clock_was_set_back_is_sent_at_once(system: System) -> None:
    system.wire.down = {topics.MODEL_STATE.name}
    system.give(RAISED)
    system.passes(-300)
    system.wire.down = set()
    system.flush()
    assert system.wire.asked().mode is Mode.SAFE


def test_a_worker_whose_clock_was_set_back_is_still_waited_for(system: System) -> None:
    system.passes(600)
    initial = system.wire.asked()
    system.report("w1", "w2")
    system.give(RAISED)
    for seconds in range(9):
        system.passes(1)
        system.store.accept(status("w2", seconds, initial), system.now)
        system.report("w1")
        assert system.states() == ["containing"]


def test_a_worker_whose_clock_was_ahead_is_believed_again_as_soon_as_that_is_mended(system: System) -> None:
    system.store.accept(status("w1", 600, system.wire.asked()), system.now)
    system.give(RAISED)
    system.report("w1")
    assert system.states() == ["contained"]


def test_a_restarted_responder_remembers_what_workers_serve(database: Settings, system: System) -> None:
    system.give(RAISED)
    asked = system.wire.asked()
    system.store.accept(status("w1", 4, asked), system.now)
    again = System(open_database(database))
    again.now = system.now + timedelta(seconds=1)
    again.give(CALM)
    assert again.wire.asked().mode is Mode.NORMAL
    again.sessions.kw["bind"].dispose()


def test_a_human_act_goes_the_same_way(system: System) -> None:
    system.give(RAISED)
    [row] = system.incidents()
    acknowledged = act(Verb.ACKNOWLEDGE, row.id, 9)
    system.give(acknowledged, acknowledged)
    [row] = system.incidents()
    assert row.acknowledged_at == at(9)
    assert [action for _, action in system.timeline()].count("acknowledge") == 1
    assert [entry.actor for entry in system.wire.of(topics.AUDIT)].count("operator-1") == 1  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match="incidents list"):
        system.store.accept(act(Verb.NOTE, "nowhere", 9), system.now)


def test_the_start_of_the_impact_is_the_cameras_time_of_the_first_suspicious_frame(system: System) -> None:
    system.give(RAISED)
    assert system.incidents()[0].impact_at is None

    def judged(sequence: int) -> JudgedFrame:
        return JudgedFrame(
            frame_id=f"f{sequence}",
            camera_id="cam1",
            context="urban",
            epoch=1,
            sequence=sequence,
            weights_digest=NORMAL,
            mode="normal",
            decision_id="initial-urban",
            frame_partition=0,
            frame_offset=sequence,
            camera_time=at(sequence / 5),
            judged_time=at(sequence / 5 + 0.1),
            people=2,
            inconsistency=None,
        )

    with writing(system.sessions) as session:
        session.add(judged(11))
    system.store.tick(system.now)
    assert system.incidents()[0].impact_at is None
    with writing(system.sessions) as session:
        session.add(judged(10))
    system.store.tick(system.now)
    assert system.incidents()[0].impact_at == at(2)


# The outbox


def waiting(sessions: Sessions) -> int:
    with reading(sessions) as session:
        return session.scalar(select(func.count()).where(EffectRow.state == "waiting")) or 0


def test_a_broker_that_is_away_delays_effects_and_loses_none(system: System) -> None:
    system.wire.down = {topic.name for topic in topics.ALL}
    system.give(RAISED)
    with reading(system.sessions) as session:
        left = set(session.scalars(select(EffectRow.id).where(EffectRow.state == "waiting")))
    for _ in range(8):
        assert carry_out(system.sessions, system.wire, system.clock, "respond").sent == 0
        system.passes(31)
    with reading(system.sessions) as session:
        assert session.scalar(select(func.max(EffectRow.attempts))) == 8
        assert "broker is away" in (session.scalar(select(EffectRow.error).where(EffectRow.state == "waiting").limit(1)) or "")
    before = set(system.wire.ids())
    system.wire.down = set()
    system.flush()
    assert set(system.wire.ids()) - before == left
    assert waiting(system.sessions) == 0


def test_one_topic_that_is_away_does_not_hold_up_the_others(system: System) -> None:
    system.wire.down = {topics.AUDIT.name, topics.INCIDENTS.name}
    system.give(RAISED)
    assert system.wire.asked().mode is Mode.SAFE
    assert len(system.wire.of(topics.QUARANTINE)) == 1


def test_a_failed_effect_is_never_overtaken_by_a_later_one_of_its_lane(system: System) -> None:
    system.wire.down = {topics.MODEL_STATE.name}
    system.give(RAISED)
    system.give(act(Verb.CLOSE, system.incidents()[0].id, 9))  # asks for the normal model, behind the safe one
    system.passes(40)
    system.wire.down = set()
    system.flush()
    modes = [s.mode for s in system.wire.of(topics.MODEL_STATE) if isinstance(s, ModelState) and s.context is Context.URBAN]
    assert modes == [Mode.NORMAL, Mode.SAFE, Mode.NORMAL]


def test_orders_to_workers_go_before_records(system: System) -> None:
    system.wire.sent.clear()
    system.give(RAISED)
    assert [topic.name for topic, _, _ in system.wire.sent][:2] == ["model-state", "quarantine"]


def test_an_effect_that_can_never_be_sent_is_set_aside_and_the_rest_goes_on(system: System) -> None:
    system.store.accept(RAISED, system.now)
    with writing(system.sessions) as session:
        row = session.scalars(select(EffectRow).where(EffectRow.topic == "quarantine", EffectRow.state == "waiting")).one()
        row.payload = b"{}"
    system.flush()
    with reading(system.sessions) as session:
        refused = session.scalars(select(EffectRow).where(EffectRow.state == REFUSED)).one()
        assert "QuarantineOrder" in refused.error
    assert waiting(system.sessions) == 0


class Crash(BaseException):
    """The process dies here."""


class DyingWire(Wire):
    """Dies at a send, before or after the broker has the event."""

    def __init__(self, point: Callable[[], None]) -> None:
        super().__init__()
        self.point = point

    def send(self, topic: Topic, key: str, event: Event) -> None:
        self.point()
        super().send(topic, key, event)
        self.point()


def test_a_dead_runners_effects_wait_for_the_lease_and_are_then_taken_over(system: System) -> None:
    system.store.accept(RAISED, system.now)

    def die() -> None:
        raise Crash

    with pytest.raises(Crash):
        carry_out(system.sessions, DyingWire(die), system.clock, "dead")
    held = waiting(system.sessions)
    assert carry_out(system.sessions, system.wire, system.clock, "other").sent == 0
    system.passes(LEASE.total_seconds())
    assert carry_out(system.sessions, system.wire, system.clock, "other").sent == held


@contextmanager
def dying_at(sessions: Sessions, point: Callable[[], None]) -> Iterator[None]:
    """Calls `point` right before and right after every commit of these sessions' database."""
    engine = sessions.kw["bind"]

    def around_commit(_: object) -> None:
        point()

    sql_event.listen(engine, "commit", around_commit)
    sql_event.listen(sessions, "after_commit", around_commit)
    try:
        yield
    finally:
        sql_event.remove(engine, "commit", around_commit)
        sql_event.remove(sessions, "after_commit", around_commit)


def dialect_of(sessions: Sessions) -> str:
    return str(sessions.kw["bind"].dialect.name)


def attack(system: System, camera: str, attempt: Callable[[Callable[[], object]], None]) -> None:
    """An attack from signal to closed; each act is given to `attempt`, which repeats it if the process dies in it."""

    def report() -> None:
        seconds = (system.now - at(0)).total_seconds()
        system.store.accept(status("w1", seconds, system.wire.asked()), system.now)

    raised, calm = signal(Phase.RAISED, 10, 14, camera=camera), signal(Phase.CALM, 10, 60, camera=camera)
    for each in (lambda: system.store.accept(raised, system.now), report, lambda: system.store.accept(calm, system.now), report):
        system.passes(0.1)
        attempt(each)
        attempt(system.flush)


def test_a_crash_at_any_point_ends_with_each_effect_once_by_its_id(system: System) -> None:
    """Dies at the k-th commit or send; afterwards all is as if nothing had happened. Odd k on SQLite, even k on PostgreSQL."""
    left, died = 0, False

    def point() -> None:
        nonlocal left, died
        left -= 1
        if left == 0:
            died = True
            raise Crash

    def attempt(what: Callable[[], object]) -> None:
        try:
            what()
        except Crash:
            what()  # Kafka gives what was not acknowledged again

    def outcome(camera: str) -> tuple[list[str], list[tuple[str, str]]]:
        with reading(system.sessions) as session:
            [incident] = session.scalars(select(IncidentRow).where(IncidentRow.camera_id == camera))
            rows = session.scalars(select(EffectRow).where(EffectRow.incident_id == incident.id).order_by(EffectRow.number)).all()
            story = session.scalars(
                select(TimelineRow.action).where(TimelineRow.incident_id == incident.id).order_by(TimelineRow.number)
            )
            assert incident.state == "closed"
            assert {row.id for row in rows} <= set(system.wire.ids())
            return list(story), [(row.topic, row.state) for row in rows]

    system.wire = DyingWire(point)
    with writing(system.sessions) as session:
        assignments.assign(session, Context.URBAN, Mode.SAFE, "d" * 64, actor="trainer-1", why="better", now=system.now)
    attack(system, "whole", attempt)
    whole = outcome("whole")
    with dying_at(system.sessions, point):
        for k in count(1 if dialect_of(system.sessions) == "sqlite" else 2, 2):
            left, died = k, False
            attack(system, f"cam{k}", attempt)
            assert outcome(f"cam{k}") == whole, f"death at point {k}"
            if not died:
                break
    assert k > 2 * (4 + 4 + len(whole[1]))  # two points at each act, each pass and each effect
    with reading(system.sessions) as session:
        known = set(session.scalars(select(EffectRow.id)))
    assert known - {"initial-highway", "initial-urban"} >= set(system.wire.ids()) - {"initial-highway", "initial-urban"}
    assert waiting(system.sessions) == 0


def test_two_responders_side_by_side_double_nothing(database: Settings, system: System) -> None:
    other = System(open_database(database), "other")
    cameras = [f"cam{n}" for n in range(4)]
    events = [
        signal(phase, 10, last, camera=camera) for camera in cameras for phase, last in ((Phase.RAISED, 14), (Phase.ONGOING, 30))
    ]
    faults: list[Exception] = []

    def respond(mine: System, order: int) -> None:
        try:
            for each in events[::order]:
                mine.store.accept(each, mine.now)
                carry_out(mine.sessions, mine.wire, mine.clock, mine.runner)
        except Exception as error:  # noqa: BLE001 - a thread's fault is shown by the assertion below
            faults.append(error)

    threads = [threading.Thread(target=respond, args=(system, 1)), threading.Thread(target=respond, args=(other, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for each in (system, other):
        each.flush()
    assert faults == []
    sent = system.wire.ids() + other.wire.ids()
    assert len(sent) == len(set(sent))
    assert len(system.incidents()) == len(cameras)
    assert waiting(system.sessions) == 0
    assert len(system.wire.of(topics.MODEL_STATE) + other.wire.of(topics.MODEL_STATE)) == len(Context) + 1
    other.sessions.kw["bind"].dispose()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 9), min_size=5, max_size=25), st.randoms(use_true_random=False))
def test_repeats_in_any_order_never_double_an_effect(system: System, picks: list[int], chance: Random) -> None:
    camera = f"cam{next(NUMBERS)}"
    pool = [signal(phase, 10, last, camera=camera) for phase in Phase for last in (14, 20, 60)]
    first = pool[0]
    system.wire.sent.clear()
    system.give(first)
    for pick in picks:
        system.passes(0.2)
        if pick < len(pool):
            system.give(pool[pick], *chance.sample(pool[: pick + 1], 1))
        else:
            system.report("w1", asked=system.asked())
    sent = system.wire.ids()
    assert len(sent) == len(set(sent))
    windows = [o.window for o in system.wire.of(topics.QUARANTINE) if isinstance(o, QuarantineOrder) and o.camera_id == camera]
    frames = [n for window in windows for n in range(window.first_sequence, window.last_sequence + 1)]
    assert len([row for row in system.incidents() if row.camera_id == camera and row.state != "closed"]) <= 1
    closed = len([row for row in system.incidents() if row.camera_id == camera and row.state == "closed"])
    assert len(frames) <= (closed + 1) * len(set(frames))
