"""A retraining run: what it sees, what it must not see, that a killed one goes on, and what it leaves behind."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from inference.lifecycle import collect, golden, retrain
from inference.lifecycle.collect import Budget, Collected, LivePicture, Plan, Report, Vetting, agreed, labelled
from inference.lifecycle.rules import DEMONSTRATION, FULL
from inference.provenance.lineage import this_code
from inference.provenance.manifest import PoolSource, manifest_of
from inference.provenance.registry import Registry, registry_of, shipped
from inference.service.serving import load
from inference.training.pools import Pools
from inference.training.samples import Sample, streets
from infra.keys import model_key
from infra.settings import Settings
from streams.errors import BadInput, Unavailable
from streams.events import Box, Context, Mode
from streams.runs import alone
from streams.sources.base import Picture
from streams.sources.scenery import Weather

ROLLOUT, INCIDENT = "ab" * 16, "cd" * 16
NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with signed models and a golden dataset of drawn pictures."""
    path = tmp_path_factory.mktemp("retrain")
    settings = Settings(home=path)
    model_key(settings)
    shipped(registry_of(settings))
    drawn = [one for weather in Weather for one in streets(Context.URBAN, weather, [7000], (0,))]
    _keep_golden(settings, drawn)
    return path


def _keep_golden(settings: Settings, drawn: list[Sample]) -> None:
    sources = [PoolSource(pool=pool, source="drawn", licence="Apache-2.0") for pool in sorted({one.origin for one in drawn})]
    own = manifest_of("golden", drawn, sources)
    reviews = tuple(golden.Review(role=role, reviewer=f"by-{role}", comment="looked at", time=NOW) for role in golden.Reviewer)
    golden.put_golden(settings, golden.describe(own, own, drawn, reviews=reviews, parent=None, drift="", made_at=NOW), drawn)


@pytest.fixture(scope="module")
def live() -> tuple[LivePicture, ...]:
    made = []
    for sample in streets(Context.URBAN, Weather.DAY, [6000], (5, 60, 120)):
        picture = _small(sample.picture)
        made.append(LivePicture(hashlib.sha256(picture.tobytes()).hexdigest(), "gate", picture))
    return tuple(made)


def _small(picture: Picture) -> Picture:
    return np.ascontiguousarray(cv2.resize(picture, (320, 160), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run as it is, but small: fewer drawn pictures, smaller crops, three steps."""
    whole = retrain.training_settings

    def small(plan: Plan, shares: tuple[float, ...]) -> object:
        return msgspec.structs.replace(whole(plan, shares), steps=3, epoch=1, batch=2, height_px=96, width_px=128)

    monkeypatch.setattr(retrain, "training_settings", small)
    monkeypatch.setattr(collect, "_SHOTS", (0,))


def plan(registry: Registry, live: tuple[LivePicture, ...], set_aside: frozenset[str] = frozenset()) -> Plan:
    digests = shipped(registry)
    return Plan(
        ROLLOUT, INCIDENT, Context.URBAN, digests[Mode.NORMAL], digests[Mode.SAFE], Budget.SHORT, live, set_aside, "responder"
    )


def quiet(*_: object) -> None:
    """Tells nobody."""


@pytest.mark.usefixtures("few")
def test_a_run_that_was_killed_goes_on_and_leaves_a_signed_candidate_with_its_lineage(
    home: Path, live: tuple[LivePicture, ...], tmp_path: Path
) -> None:
    settings = Settings(home=home)
    registry = registry_of(settings)
    wanted = plan(registry, live, frozenset({live[0].digest}))
    steps: list[int] = []
    heard: list[Vetting] = []

    def killed(step: str, done: int, _of: int, _left_s: float) -> None:
        if step.startswith("training"):
            steps.append(done)
            if done == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retrain.candidate(
            wanted, settings, registry, tmp_path / "run", rules=DEMONSTRATION, threads=1, report=killed, tell=heard.append
        )

    def told(step: str, done: int, _of: int, _left_s: float) -> None:
        if step.startswith("training"):
            steps.append(done)

    digest = retrain.candidate(
        wanted, settings, registry, tmp_path / "run", rules=DEMONSTRATION, threads=1, report=told, tell=heard.append
    )
    assert len(heard) == 2  # before each life's first step, and the same
    assert heard[0].findings == heard[1].findings
    assert heard[0].offered == len(live) - 1 + len(Weather)
    assert {one.name for one in heard[0].refused} == {one.name for one in heard[0].findings}
    assert steps == [1, 2, 2, 3]  # the checkpoint after the first step is the last that was written
    registry.verify(digest)
    card, lineage = registry.card(digest), registry.lineage(digest)
    assert (card.mode, card.contexts, card.parent) == (Mode.NORMAL, (Context.URBAN,), wanted.safe_digest)
    assert lineage is not None
    assert (lineage.incident, lineage.parent) == (INCIDENT, wanted.safe_digest)
    gold, fresh = lineage.materials
    assert gold.samples >= 0.1 * (gold.samples + fresh.samples)
    assert digest not in {wanted.normal_digest, wanted.safe_digest}


def gathered(plan: Plan, *_: object, **__: object) -> Collected:
    """A run's pictures without asking anybody about them: one drawn street and what is there of the live ones."""
    drawn = streets(Context.URBAN, Weather.DAY, [7000], (0,))
    seen = [Sample("live", one.digest, one.picture, ()) for one in plan.live if one.digest not in plan.set_aside]
    pools = Pools((drawn, seen), []) if seen else Pools((drawn,), [])
    material = manifest_of("fresh", seen, [PoolSource(pool="live", source="cameras", licence="own")] if seen else []).material()
    return Collected(pools, (0.3, 0.7) if seen else (1.0,), (material,), ())


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """One run of this home, as often as it is let go on."""
    monkeypatch.setattr(retrain, "collect", gathered)
    settings = Settings(home=home)

    def goes_on(live: Sequence[LivePicture], set_aside: Sequence[str] = (), report: Report = quiet) -> str:
        registry = registry_of(settings)
        wanted = plan(registry, tuple(live), frozenset(set_aside))
        return retrain.candidate(wanted, settings, registry, tmp_path, rules=DEMONSTRATION, threads=1, report=report, tell=quiet)

    return goes_on


@pytest.mark.usefixtures("few")
def test_a_candidate_in_the_registry_stays_the_runs_candidate_whatever_log_and_code_are_by_then(
    home: Path, live: tuple[LivePicture, ...], run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registry_of(Settings(home=home))
    digest = run(live)
    card, lineage = registry.card(digest), registry.lineage(digest)
    code = msgspec.structs.replace(this_code(), commit="f" * 40)
    monkeypatch.setattr(retrain, "this_code", lambda: code)
    assert run(live[1:], report=lambda step, *_: pytest.fail(f"{step}, though it is made")) == digest
    assert (registry.card(digest), registry.lineage(digest)) == (card, lineage)


@pytest.mark.usefixtures("few")
def test_what_was_learnt_from_a_picture_that_was_set_aside_since_is_learnt_anew(
    home: Path, live: tuple[LivePicture, ...], run: Callable[..., str]
) -> None:
    digest = run(live)
    steps: list[str] = []
    anew = run(live[1:], [live[0].digest], lambda step, *_: steps.append(step))
    assert steps[0].startswith("training begins anew")
    assert steps.count("training with defences") == 3
    assert anew != digest
    assert (lineage := registry_of(Settings(home=home)).lineage(anew)) is not None
    assert lineage.materials[0].samples == len(live) - 1


@pytest.mark.usefixtures("few")
def test_a_run_goes_on_with_what_there_is_when_the_log_has_let_all_its_pictures_go(
    live: tuple[LivePicture, ...], run: Callable[..., str]
) -> None:
    def killed(step: str, done: int, *_: object) -> None:
        if step.startswith("training with") and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(live, report=killed)
    steps: list[str] = []
    assert run((), report=lambda step, *_: steps.append(step))
    assert steps[0].startswith("training begins anew")
    assert steps.count("training with defences") == 3


def test_pictures_that_were_set_aside_are_never_seen(home: Path, live: tuple[LivePicture, ...]) -> None:
    registry = registry_of(Settings(home=home))
    digests = shipped(registry)
    safe, normal = (load(registry, digests[mode], threads=1) for mode in (Mode.SAFE, Mode.NORMAL))
    seen = labelled(plan(registry, live, frozenset({live[1].digest})), safe, normal)
    assert [one.name for one in seen] == [live[0].digest[:16], live[2].digest[:16]]
    assert all(one.picture is not live[1].picture for one in seen)


def test_without_golden_data_nothing_is_trained(tmp_path: Path, live: tuple[LivePicture, ...]) -> None:
    settings = Settings(home=tmp_path)
    model_key(settings)
    registry = registry_of(settings)
    with pytest.raises(Unavailable, match="golden"):
        retrain.candidate(
            plan(registry, live), settings, registry, tmp_path / "run", rules=DEMONSTRATION, threads=1, report=quiet, tell=quiet
        )


def test_without_the_gates_real_pictures_nothing_is_trained(home: Path, live: tuple[LivePicture, ...], tmp_path: Path) -> None:
    settings = Settings(home=home, shared_data=tmp_path)
    registry = registry_of(settings)

    def told(*_: object) -> None:
        pytest.fail("something was begun")

    with pytest.raises(Unavailable, match="KERBWATCH_SHARED_DATA"):
        retrain.candidate(plan(registry, live), settings, registry, tmp_path / "run", rules=FULL, threads=1, report=told, tell=told)


def test_a_full_run_is_validated_on_pictures_that_it_does_not_train_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=home)
    registry = registry_of(settings)
    gold = streets(Context.URBAN, Weather.DAY, [7000], (0,))  # one of the golden ones
    judges, other = streets(Context.URBAN, Weather.DAY, [7100], (0,)), streets(Context.URBAN, Weather.DAY, [7200], (0,))
    real = collect.judges()
    assert {one.origin for one in real} == {f"urban-{weather}" for weather in Weather}, "no photographs: the parent knows them"
    monkeypatch.setattr(collect, "training_pools", lambda _: Pools(([], [], other, [], []), []))
    monkeypatch.setattr(collect, "judges", lambda: [*judges, *gold])
    monkeypatch.setattr(collect, "vetted", lambda *_: ())
    wanted = replace(plan(registry, ()), budget=Budget.FULL)
    made = collect.collect(wanted, settings, registry, threads=1, report=quiet, tell=quiet)
    assert [one.name for one in made.pools.validation] == [judges[0].name]
    trained = {(one.origin, one.name) for group in made.pools.groups for one in group}
    assert (gold[0].origin, gold[0].name) in trained
    judged_on: list[object] = []
    monkeypatch.setattr(retrain, "miss_rate_on", judged_on.append)
    monkeypatch.setattr(retrain, "collect", lambda *_, **__: made)

    def run(*_: object, **__: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(retrain, "run", run)
    with pytest.raises(KeyboardInterrupt):
        retrain.candidate(wanted, settings, registry, home / "full", rules=DEMONSTRATION, threads=1, report=quiet, tell=quiet)
    assert judged_on == [made.pools.validation]


def test_a_short_highway_run_sees_people(home: Path) -> None:
    wanted = replace(plan(registry_of(Settings(home=home)), ()), context=Context.HIGHWAY)
    (drawn,) = collect._drawn(wanted).groups
    assert {one.origin for one in drawn} == {f"{where}-{weather}" for where in Context for weather in Weather}
    assert sum(not person.ignore for one in drawn for person in one.people) > len(Weather)


def box(x: float, score: float = 0.9) -> Box:
    return Box(x, 10.0, 20.0, 50.0, score)


@pytest.mark.parametrize(
    ("first", "second", "both", "alone"),
    [
        ([box(0)], [box(2)], [box(0)], []),
        ([box(0), box(100)], [box(1)], [box(0)], [box(100)]),
        ([box(0)], [box(0), box(300)], [box(0)], [box(300)]),
        ([box(0)], [box(15)], [], [box(0), box(15)]),
        ([box(0, 0.9), box(2, 0.5)], [box(1)], [box(0, 0.9)], [box(2, 0.5)]),
        ([], [], [], []),
    ],
    ids=["the same person", "only the first sees one", "only the second sees one", "too far apart", "one each", "nobody"],
)
def test_only_who_both_models_see_is_a_label(first: list[Box], second: list[Box], both: list[Box], alone: list[Box]) -> None:
    assert agreed(first, second) == (both, alone)


def test_two_runs_of_one_rollout_never_work_side_by_side(tmp_path: Path) -> None:
    with alone(tmp_path / "run"), pytest.raises(BadInput, match="under way already"), alone(tmp_path / "run"):
        pytest.fail("both got in")
