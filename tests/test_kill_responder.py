"""The responder is killed (SIGKILL) at its commits and sends, at any line and at any time; afterwards all is as if it had lived.

Fault points are read from the code (`a_responder.points_in_code`). Each round tells the same story on a database of its own: one
life dies in it, another - the same runner, or one that has to wait for the dead one's leases, or one that ran beside it - ends it.
"""

import logging
import multiprocessing
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random

import pytest
from a_responder import SHIFT_S, Ledger, Life, live, modules_of_the_responder, points_in_code
from sqlalchemy import select

from infra.db import open_database, reading
from infra.settings import Settings
from infra.tables import EffectRow, IncidentRow, NotificationRow, RolloutRow, TimelineRow

pytest_plugins = ["databases"]

PROCESSES = multiprocessing.get_context("forkserver")
ROUNDS = 200
LIFE_S = 120.0
NEVER = 10**9


@dataclass(frozen=True)
class Outcome:
    """What must be the same whoever died: the story's facts without the times."""

    timelines: dict[str, list[tuple[str, str, str]]]
    effects: dict[str, tuple[str, str]]
    told: dict[str, str]
    incidents: dict[str, tuple[str, int, str | None]]
    rollouts: list[str]
    sent: frozenset[str]


def outcome(settings: Settings) -> Outcome:
    sessions = open_database(settings)
    with reading(sessions) as session:
        incidents = session.scalars(select(IncidentRow)).all()
        lines = session.scalars(select(TimelineRow).order_by(TimelineRow.number)).all()
        found = Outcome(
            timelines={
                row.camera_id: [(line.decision_id, line.action, line.what) for line in lines if line.incident_id == row.id]
                for row in incidents
            },
            effects={row.id: (row.topic, row.state) for row in session.scalars(select(EffectRow))},
            told={row.key: row.state for row in session.scalars(select(NotificationRow))},
            incidents={row.camera_id: (row.state, row.signals, row.resolution) for row in incidents},
            rollouts=[row.state for row in session.scalars(select(RolloutRow))],
            sent=frozenset(id_ for _, id_, _, _ in Ledger(settings.home / "sent").rows()),
        )
    sessions.kw["bind"].dispose()
    return found


def unsettled(settings: Settings, runner: str) -> set[str]:
    """What a dead runner may have sent without leaving word of it: it held the lease. Only this may come a second time."""
    sessions = open_database(settings)
    with reading(sessions) as session:
        effects = select(EffectRow.id).where(EffectRow.state == "waiting", EffectRow.leased_by == runner)
        told = select(NotificationRow.key).where(NotificationRow.state == "waiting", NotificationRow.leased_by == runner)
        held = {*session.scalars(effects), *session.scalars(told)}
    sessions.kw["bind"].dispose()
    return held


def start(settings: Settings, life: Life, *shared: object) -> ForkServerProcess:
    process = PROCESSES.Process(target=live, args=(settings, life, *shared))
    process.start()
    return process


def ended(process: ForkServerProcess) -> int | None:
    process.join(LIFE_S)
    return process.exitcode


@dataclass(frozen=True)
class Reference:
    """The story of a life that nobody took, and what there was to die at."""

    outcome: Outcome
    points: tuple[str, ...]
    lines: int
    took_s: float


@pytest.fixture(scope="module")
def place(migrated_file: Path, memory: Path) -> Callable[[], Settings]:
    """Makes a fresh home with a migrated SQLite database; a kill undoes no write, so it may lie in memory."""
    numbers = count()

    def make() -> Settings:
        home = memory / str(next(numbers))
        home.mkdir()
        shutil.copy(migrated_file, home / "kerbwatch.db")
        return Settings(home=home)

    return make


@pytest.fixture(scope="module")
def reference(place: Callable[[], Settings]) -> Reference:
    PROCESSES.set_forkserver_preload(["infra.db", *modules_of_the_responder()])
    settings = place()
    process = start(settings, Life(count_lines=True))
    assert ended(process) == 0
    lines, *points = (settings.home / "passed").read_text().splitlines()
    again = place()
    began = time.monotonic()
    assert ended(start(again, Life())) == 0
    assert outcome(again) == outcome(settings)
    return Reference(outcome(settings), tuple(points), int(lines), time.monotonic() - began)


def died_and_told(settings: Settings, whole: Outcome, life: Life, *, same: bool, after_s: float | None = None) -> bool:
    """One round: a life that dies and one that takes over; whether the first really died."""
    first = start(settings, life)
    if after_s is not None:
        first.join(after_s)
        first.kill()
    died = ended(first) != 0
    assert first.exitcode in {0, -9}
    held = unsettled(settings, life.runner)
    heir = Life() if same else Life("heir", later_s=SHIFT_S)
    assert ended(start(settings, heir)) == 0
    judge(settings, whole, held)
    return died


def died_beside_another(settings: Settings, whole: Outcome, point: int) -> bool:
    """One round: two responders at the same work, of which one dies."""
    shift_s = PROCESSES.Value("d", 0.0)
    mortal = start(settings, Life("mortal", die_at_point=point), shift_s)
    other = start(settings, Life("other"), shift_s)
    died = ended(mortal) != 0
    assert mortal.exitcode in {0, -9}
    held = unsettled(settings, "mortal")
    shift_s.value = SHIFT_S * 100  # the dead one may have been some steps ahead
    assert ended(other) == 0
    judge(settings, whole, held)
    return died


def judge(settings: Settings, whole: Outcome, held: set[str]) -> None:
    assert outcome(settings) == whole
    times = Counter(id_ for _, id_, _, _ in Ledger(settings.home / "sent").rows())
    assert {id_ for id_, n in times.items() if n > 1} <= held
    assert max(times.values()) <= 2


def test_every_commit_and_send_in_the_code_is_one_that_the_story_passes(reference: Reference) -> None:
    assert len(points_in_code()) >= 12
    assert set(reference.points) == points_in_code()


def test_the_story_has_effects_of_every_sort(reference: Reference) -> None:
    whole = reference.outcome
    assert {topic for topic, _ in whole.effects.values()} == {"model-state", "quarantine", "incidents", "audit"}
    assert {state for _, state in whole.effects.values()} | set(whole.told.values()) == {"done"}
    assert whole.sent == set(whole.effects) | set(whole.told)
    assert {state for state, _, _ in whole.incidents.values()} == {"closed"}
    assert whole.rollouts == ["failed"]


def test_a_responder_that_is_killed_somewhere_leaves_nothing_undone_and_nothing_doubled(
    reference: Reference, place: Callable[[], Settings]
) -> None:
    chance = Random(6)
    for number, point in enumerate(chance.sample(range(len(reference.points) - 2), 4)):
        assert died_and_told(place(), reference.outcome, Life(die_at_point=point), same=number % 2 == 0)
    assert died_and_told(place(), reference.outcome, Life(die_at_line=chance.randrange(reference.lines // 2)), same=False)
    died_beside_another(place(), reference.outcome, chance.randrange(len(reference.points) // 2))


def test_two_responders_at_the_same_work_send_nothing_twice(reference: Reference, place: Callable[[], Settings]) -> None:
    assert not died_beside_another(place(), reference.outcome, NEVER)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_deaths_at_every_point_any_line_and_any_time(
    reference: Reference, place: Callable[[], Settings], request: pytest.FixtureRequest
) -> None:
    fresh_postgresql = request.getfixturevalue("fresh_postgresql")
    chance = Random(200)
    deaths: Counter[str] = Counter()

    def anywhere(number: int) -> Settings:
        settings = place()
        return settings if number % 4 else Settings(home=settings.home, database_url=fresh_postgresql())

    for number in range(24):
        deaths["beside"] += died_beside_another(anywhere(number), reference.outcome, chance.randrange(len(reference.points)))
    for number in range(24):
        after_s = chance.uniform(0.1, reference.took_s)
        deaths["time"] += died_and_told(anywhere(number), reference.outcome, Life(), same=number % 4 < 2, after_s=after_s)
    for number in range(24):
        life = Life(die_at_line=chance.randrange(reference.lines))
        deaths["line"] += died_and_told(anywhere(number), reference.outcome, life, same=number % 4 < 2)
    for point in range(len(reference.points)):
        life = Life(die_at_point=point)
        deaths["point"] += died_and_told(anywhere(point), reference.outcome, life, same=point % 4 < 2)
    logging.getLogger(__name__).info("%d deaths: %s", sum(deaths.values()), dict(deaths))
    assert sum(deaths.values()) >= ROUNDS
    assert deaths["point"] >= 0.9 * len(reference.points)
