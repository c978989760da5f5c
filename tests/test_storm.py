"""Ten thousand signals at once: a handful of incidents with counts, one page, and answers within a second meanwhile."""

import json
import multiprocessing
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from incident_events import NORMAL, SAFE, act, at, signal
from msgspec import json as msgspec_json
from sqlalchemy import func, select
from typer.testing import CliRunner

from infra.db import Sessions, open_database, reading
from infra.settings import Settings
from infra.tables import EffectRow, IncidentRow, TimelineRow
from responders.console.tables import app
from responders.engine.incident import Incident, Verb
from responders.engine.past import incident_of
from responders.engine.store import Store
from responders.engine.windows import joined
from responders.notify import deliveries
from responders.notify.channels import ChannelName
from responders.notify.notices import Notice
from responders.playbooks import playbooks
from streams import codec, topics
from streams.events import Context, Kind, Phase, QuarantineOrder, Signal, Window

pytest_plugins = ["databases"]

CAMERAS = [f"cam{n}" for n in range(6)]
KINDS = (Kind.EVASION, Kind.TRAFFIC)
SIGNALS = 10_000
BATCH = 256
SOON_S = 1.0
NUMBERS = count()


def store_of(sessions: Sessions) -> Store:
    return Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)


def storm() -> list[Signal]:
    """Every camera finds two things at every frame, for minutes, all told at once."""
    places = [(camera, kind) for camera in CAMERAS for kind in KINDS]
    return [
        signal(Phase.ONGOING if n >= len(places) else Phase.RAISED, 10, 14 + n // len(places), camera=camera, kind=kind)
        for n in range(SIGNALS)
        for camera, kind in [places[n % len(places)]]
    ]


def take_in(home: Path) -> None:
    """What the responder does with them, in a process of its own."""
    sessions = open_database(Settings(home=home))
    store, signals = store_of(sessions), storm()
    began = time.monotonic()
    for start in range(0, len(signals), BATCH):
        store.accept_all(signals[start : start + BATCH], at(3))
    (home / "took").write_text(str(time.monotonic() - began))
    sessions.kw["bind"].dispose()


@pytest.fixture(scope="module")
def home(memory: Path, migrated_file: Path) -> Path:
    place = memory / "storm"
    place.mkdir()
    shutil.copy(migrated_file, place / "kerbwatch.db")
    return place


def test_a_storm_becomes_a_handful_of_incidents_one_page_and_keeps_nobody_waiting(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERBWATCH_HOME", str(home))
    sessions = open_database(Settings(home=home))
    store = store_of(sessions)
    store.assign(Context.URBAN, NORMAL, SAFE, at(0))
    responder = multiprocessing.get_context("spawn").Process(target=take_in, args=(home,))
    responder.start()
    answers, acts = [], []
    numbers = count(10)
    while responder.exitcode is None:
        began = time.monotonic()
        listed = json.loads(CliRunner().invoke(app, ["list", "--json"]).output)
        answers.append(time.monotonic() - began)
        if listed:
            began = time.monotonic()
            store.accept(act(Verb.NOTE, listed[0]["id"], next(numbers)), at(4))
            acts.append(time.monotonic() - began)
        responder.join(0.1)
    assert responder.exitcode == 0
    with reading(sessions) as session:
        rows = session.scalars(select(IncidentRow)).all()
        orders = session.scalar(select(func.count()).where(EffectRow.topic == topics.QUARANTINE.name)) or 0
        first = session.scalars(select(TimelineRow).where(TimelineRow.action == "open")).all()
    assert len(rows) == len(CAMERAS) * len(KINDS)
    assert sum(row.signals for row in rows) == SIGNALS
    assert len(first) == len(rows)
    assert orders <= len(CAMERAS) * (SIGNALS / BATCH + 2)
    assert len(answers) > 3
    assert acts
    assert max(answers) < SOON_S
    assert max(acts) < SOON_S
    assert float((home / "took").read_text()) < 60
    assert pages(sessions) == [len(rows)]
    sessions.kw["bind"].dispose()


def pages(sessions: Sessions) -> list[int]:
    """The messages that people get, by the number of incidents that each is about."""
    got: list[int] = []

    class Wire:
        name = ChannelName.WEBHOOK

        def send(self, notices: Sequence[Notice]) -> None:
            got.append(len({one.incident_id for one in notices}))

    for minutes in range(1, 6):
        deliveries.dispatch(sessions, [Wire.name], at(60 * minutes))
        deliveries.deliver(sessions, Wire(), lambda minutes=minutes: at(60 * minutes), "one")
    return got


@pytest.fixture(scope="module")
def shelf(memory: Path, migrated_file: Path) -> Iterator[Sessions]:
    place = memory / "batches"
    place.mkdir()
    shutil.copy(migrated_file, place / "kerbwatch.db")
    sessions = open_database(Settings(home=place))
    store_of(sessions).assign(Context.URBAN, NORMAL, SAFE, at(0))
    yield sessions
    sessions.kw["bind"].dispose()


Told = tuple[Phase, int, int, Kind, str]
TOLD = st.tuples(
    st.sampled_from(Phase), st.integers(0, 30), st.integers(0, 30), st.sampled_from(KINDS), st.sampled_from(["squeeze", "two"])
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TOLD, min_size=1, max_size=25), st.integers(1, 9))
def test_a_batch_leads_to_what_its_signals_lead_to_one_by_one(shelf: Sessions, told: list[Told], size: int) -> None:
    store, camera = store_of(shelf), f"cam{next(NUMBERS)}"
    one, many = (signals_of(f"{camera}-{how}", told) for how in ("one", "many"))
    for each in one:
        store.accept(each, at(3))
    for start in range(0, len(many), size):
        store.accept_all(many[start : start + size], at(3))
    assert facts(shelf, f"{camera}-many") == facts(shelf, f"{camera}-one")


def signals_of(camera: str, told: list[Told]) -> list[Signal]:
    return [
        signal(phase, first, first + length, camera=camera, kind=kind, detector=detector)
        for phase, first, length, kind, detector in told
    ]


def facts(sessions: Sessions, camera: str) -> list[object]:
    """What is known of a camera's incidents, and which frames are ordered into quarantine; not in how many orders."""
    with reading(sessions) as session:
        rows = session.scalars(
            select(IncidentRow).where(IncidentRow.camera_id == camera).order_by(IncidentRow.opened_at, IncidentRow.kind)
        )
        return [
            (
                incident.kind,
                incident.state,
                incident.severity,
                incident.signals,
                incident.findings,
                incident.seen,
                incident.covered,
                incident.relapses,
                incident.needs_safe,
                ordered(sessions, incident),
            )
            for incident in map(incident_of, rows)
        ]


def ordered(sessions: Sessions, incident: Incident) -> tuple[Window, ...]:
    with reading(sessions) as session:
        bodies = session.scalars(
            select(EffectRow.payload).where(EffectRow.incident_id == incident.id, EffectRow.topic == topics.QUARANTINE.name)
        ).all()
    windows: tuple[Window, ...] = ()
    for body in bodies:
        window = codec.decode(body, topics.QUARANTINE, QuarantineOrder).event.window
        assert not any(
            window.first_sequence <= other.last_sequence and other.first_sequence <= window.last_sequence for other in windows
        )
        windows = joined((*windows, window))
    return windows


def test_a_repeat_inside_a_batch_and_across_batches_counts_once(shelf: Sessions) -> None:
    store, camera = store_of(shelf), f"cam{next(NUMBERS)}"
    raised, goes_on = signal(Phase.RAISED, 10, 14, camera=camera), signal(Phase.ONGOING, 10, 20, camera=camera)
    assert [each.new for each in store.accept_all([raised, goes_on, raised, goes_on], at(3))] == [True, True, False, False]
    assert not any(each.new for each in store.accept_all([goes_on, raised], at(3)))
    with reading(shelf) as session:
        [row] = session.scalars(select(IncidentRow).where(IncidentRow.camera_id == camera))
        assert row.signals == 2
        incident = msgspec_json.decode(row.body, type=Incident)
    assert ordered(shelf, incident) == incident.seen


def test_a_batch_that_cannot_be_had_whole_is_not_had_at_all(shelf: Sessions) -> None:
    store, camera = store_of(shelf), f"cam{next(NUMBERS)}"
    lost = signal(Phase.RAISED, 10, 14, camera=camera, context=Context.HIGHWAY)
    with pytest.raises(Exception, match="highway"):
        store.accept_all([signal(Phase.RAISED, 10, 14, camera=camera), lost], at(3))
    with reading(shelf) as session:
        assert session.scalar(select(func.count()).where(IncidentRow.camera_id == camera)) == 0


def test_two_responders_with_the_same_batches_double_nothing(shelf: Sessions) -> None:
    cameras = [f"cam{next(NUMBERS)}" for _ in range(3)]
    signals = [
        signal(Phase.RAISED if n == 0 else Phase.ONGOING, 10, 14 + n, camera=camera) for n in range(60) for camera in cameras
    ]
    faults: list[Exception] = []

    def respond() -> None:
        try:
            for start in range(0, len(signals), 20):
                store_of(shelf).accept_all(signals[start : start + 20], at(3))
        except Exception as error:  # noqa: BLE001 - a thread's fault is shown by the assertion below
            faults.append(error)

    threads = [threading.Thread(target=respond) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    with reading(shelf) as session:
        rows = session.scalars(select(IncidentRow).where(IncidentRow.camera_id.in_(cameras))).all()
    assert [row.signals for row in rows] == [60] * 3
