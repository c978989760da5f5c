"""The gate measures, decides by its rules alone, and says it once; nobody promotes what it refused."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inference.lifecycle import cli, exam, gate
from inference.lifecycle.exam import GROUPS, Exam, by_group, exam_of, make_exam, performance, real_pictures
from inference.lifecycle.gate import Kept, Measured, attacks, decide, judge_model
from inference.lifecycle.rules import DEMONSTRATION, FULL, NAMED, QUICK, GateRules
from inference.networks.csp_nano import CspNano, to_bytes
from inference.provenance.registry import Card, Registry, digest_of, registry_of, shipped
from inference.provenance.verdicts import require_passed
from inference.training.samples import Sample, shaped
from infra.keys import model_key
from infra.settings import Settings
from streams.errors import BadInput, Unavailable
from streams.events import Box, Context, Mode
from streams.sources.base import Person, Picture
from streams.sources.scenery import Weather

NOW = datetime(2026, 1, 2, tzinfo=UTC)
GOOD = Measured(
    mode=Mode.NORMAL,
    clean=0.8,
    baseline_clean=0.82,
    kept=(Kept(attack="fgsm eps 0.03", clean=0.8, under=0.66),),
    groups={"small": 0.7, "large": 0.9},
    latency=1.1,
)


def refused(**changed: object) -> list[str]:
    return [one.name for one in decide(msgspec.structs.replace(GOOD, **changed), FULL) if not one.passed]


def test_a_model_that_keeps_every_limit_passes() -> None:
    assert refused() == []
    assert len(decide(GOOD, FULL)) == 4


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"clean": 0.7}, "clean performance"),
        ({"kept": (Kept(attack="fgsm eps 0.03", clean=0.8, under=0.63),)}, "kept under fgsm"),
        ({"kept": (Kept(attack="fgsm eps 0.03", clean=0.0, under=0.0),)}, "kept under fgsm"),
        ({"kept": (Kept(attack="deepfool xi 0.03", clean=0.8, under=None),)}, "kept under deepfool"),
        ({"clean": None}, "clean performance"),
        ({"groups": {"small": 0.1, "large": 0.9}}, "worst (small)"),
        ({"latency": 1.3}, "latency"),
    ],
)
def test_each_limit_refuses_by_itself(changed: dict[str, object], why: str) -> None:
    (name,) = refused(**changed)
    assert why in name


def test_a_safe_model_may_be_less_good_without_attack_and_not_less_robust() -> None:
    assert refused(mode=Mode.SAFE, clean=0.6) == []
    assert refused(mode=Mode.SAFE, kept=(Kept(attack="x", clean=0.6, under=0.3),)) != []


def test_the_policys_attacks_are_tried_and_other_rules_have_another_name() -> None:
    assert list(attacks(FULL, 0.3)) == [
        "fgsm eps 0.01", "fgsm eps 0.02", "fgsm eps 0.03", "deepfool xi 0.03 (radius 0.5 levels, 15 steps)",
        "fgsm eps 0.03, then deepfool xi 0.03 (radius 0.5 levels, 15 steps)",
    ]  # fmt: skip
    assert len({FULL.digest, QUICK.digest, GateRules(kept=0.7).digest, GateRules(deepfool_radius=0.4).digest}) == 4
    assert (QUICK.kept, QUICK.fairness, QUICK.latency) == (FULL.kept, FULL.fairness, FULL.latency)


def drawn(people: tuple[Person, ...], number: int = 2, origin: str = "urban-day") -> list[Sample]:
    rng = np.random.default_rng(number)
    return [Sample(origin, str(at), rng.integers(0, 256, (96, 128, 3), np.uint8), people) for at in range(number)]


def box(person: Person, score: float) -> Box:
    return Box(*person.box_px, score)


def test_performance_in_town_is_of_people_and_on_the_highway_of_silence_too() -> None:
    person = shaped((60.0, 10.0, 20.0, 80.0))
    town = drawn((person,), 4)
    assert performance(Context.URBAN, town, [[box(person, 0.9)]] * 4, 0.4) == pytest.approx(1 - 0.5 / 4)
    assert performance(Context.URBAN, town, [[]] * 4, 0.4) == pytest.approx(0.0)
    assert performance(Context.URBAN, drawn(()), [[], []], 0.4) is None
    road = drawn((), 4, "highway-day")
    answers = [[box(person, 0.5)], [box(person, 0.3)], [], []]
    both = performance(Context.HIGHWAY, [*road, *town], [*answers, *[[box(person, 0.9)]] * 4], 0.4)
    assert both == pytest.approx(0.75 * (1 - 0.5 / 4))
    assert performance(Context.HIGHWAY, road, answers, 0.4) is None, "nobody is there to be seen"
    assert performance(Context.HIGHWAY, town, [[]] * 4, 0.4) is None, "there is nowhere to be quiet"


PERSON = shaped((60.0, 10.0, 20.0, 80.0))


@given(
    empty=st.integers(1, 5),
    walked=st.integers(1, 5),
    score=st.floats(0.41, 1.0),
    before=st.floats(0.4, 1.0),
    rules=st.sampled_from(list(NAMED.values())),
)
def test_no_rules_let_onto_the_highway_what_sees_nobody_or_somebody_everywhere(
    empty: int, walked: int, score: float, before: float, rules: GateRules
) -> None:
    samples = [*drawn((), empty, "highway-day"), *drawn((PERSON,), walked)]

    def passes(found: list[list[Box]]) -> bool:
        value = performance(Context.HIGHWAY, samples, found, 0.4)
        kept = (Kept(attack="fgsm", clean=value, under=value),)
        measured = Measured(mode=Mode.NORMAL, clean=value, baseline_clean=before, kept=kept, groups={}, latency=1.0)
        return all(one.passed for one in decide(measured, rules))

    nowhere = Box(5.0, 5.0, 10.0, 25.0, score)
    assert not passes([[]] * len(samples))
    assert not passes([[nowhere, box(PERSON, 0.99)]] * len(samples))
    assert not passes([[nowhere]] * empty + [[box(PERSON, 0.99)]] * walked)
    right = performance(Context.HIGHWAY, samples, [[]] * empty + [[box(PERSON, 0.99)]] * walked, 0.4)
    assert right == pytest.approx(1 - 0.5 / walked)


def test_an_attribute_that_labels_name_is_a_group_of_its_own() -> None:
    child = shaped((10.0, 10.0, 20.0, 80.0), attributes=("children",))
    adult = shaped((80.0, 10.0, 20.0, 80.0), attributes=("adults",))
    found = by_group(drawn((child, adult), 10), [[box(adult, 0.9)]] * 10, 10)
    assert found["adults"] == pytest.approx(1 - 0.5 / 10)
    assert found["children"] == pytest.approx(0.0)
    assert any("worst (children)" in one for one in refused(groups=found))


def test_groups_are_told_apart_and_small_ones_are_not_judged() -> None:
    small, large = shaped((10.0, 20.0, 20.0, 60.0)), shaped((80.0, 2.0, 20.0, 90.0))
    samples = drawn((small, large), 10)
    found = by_group(samples, [[box(large, 0.9)]] * 10, 10)
    assert found["large"] == pytest.approx(1 - 0.5 / 10)
    assert found["small"] == pytest.approx(0.0)
    assert "at dusk" not in found
    assert by_group(samples, [[]] * 10, 21) == {}
    assert set(found) < {group.name for group in GROUPS}


def test_the_exam_of_a_context_is_the_same_each_time_and_named_by_its_bits(tmp_path: Path) -> None:
    one, two = (make_exam(Context.HIGHWAY, tmp_path, 1, 0) for _ in range(2))
    assert one.manifest.digest == two.manifest.digest
    assert {sample.origin for sample in one.samples} == {f"{where}-{weather}" for where in Context for weather in Weather}
    assert exam_of(Context.HIGHWAY, one.samples[1:]).manifest.digest != one.manifest.digest
    said = {said for sample in one.samples for person in sample.people for said in person.attributes}
    assert said == {"children", "adults", "lighter skin", "darker skin"}


@pytest.mark.parametrize("context", list(Context))
def test_an_exam_without_its_real_pictures_is_refused_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: Context
) -> None:
    monkeypatch.setattr(exam, "streets", lambda *_, **__: pytest.fail("drawn"))
    with pytest.raises(Unavailable, match="KERBWATCH_SHARED_DATA"):
        make_exam(context, tmp_path, FULL.places, FULL.real)
    monkeypatch.setattr(exam, "penn_fudan", lambda _: drawn((PERSON,), 40, "penn-fudan"))
    monkeypatch.setattr(exam, "empty_road", lambda _, frames: drawn((), len(frames), "road"))
    assert len(real_pictures(context, tmp_path, FULL.real)) == FULL.real
    with pytest.raises(Unavailable, match=r"ask for 101 real pictures.*KERBWATCH_SHARED_DATA"):
        make_exam(context, tmp_path, FULL.places, 101)
    assert (QUICK.real, DEMONSTRATION.real) == (0, 0), "first looks and demonstrations need no shared data"


def test_the_rules_say_how_far_deepfool_may_go(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, object]] = []

    def walked(_network: object, pictures: list[Picture], *_: object, **how: object) -> list[Picture]:
        told.append(how)
        return pictures

    monkeypatch.setattr(gate, "deepfool", walked)
    rules = GateRules(fgsm_eps=(), deepfool_radius=2.0, deepfool_steps=4)
    ((name, attack),) = attacks(rules, 0.3).items()
    attack(CspNano(), drawn((PERSON,), 1)[0])
    assert name == "deepfool xi 0.03 (radius 2 levels, 4 steps)"
    assert told == [{"threshold": 0.3, "steps": 4, "radius": 2.0}]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Registry, str, Exam]:
    """A registry with an untrained model, and an exam of two noise pictures with a person each."""
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    model_key(settings)
    registry = registry_of(settings)
    torch.manual_seed(1)
    path = settings.home / "some.safetensors"
    path.write_bytes(to_bytes(CspNano()))
    card = Card(
        name="untrained", digest=digest_of(path.read_bytes()), mode=Mode.NORMAL, contexts=tuple(Context), architecture="csp-nano",
        parent=None, threshold=0.4, data="none", settings=msgspec.Raw(b"{}"), commands=(), figures=(), notes="", licence="",
    )  # fmt: skip
    return registry, registry.put(path, card), exam_of(Context.URBAN, drawn((shaped((60.0, 10.0, 20.0, 80.0)),)))


def test_an_untrained_model_is_refused_for_good_and_nobody_promotes_it(judged: tuple[Registry, str, Exam]) -> None:
    registry, digest, exam = judged
    rules = GateRules(fgsm_eps=(0.03,), deepfool_xi=())
    told: list[str] = []
    verdict = judge_model(registry, digest, digest, exam, rules, now=lambda: NOW, report=lambda what, *_: told.append(what))
    assert not verdict.passed
    assert verdict.settings_digest == rules.digest
    assert verdict.data_digest == exam.manifest.digest
    assert {"clean", "fgsm eps 0.03"} <= set(told)
    told.clear()
    again = judge_model(registry, digest, digest, exam, rules, now=lambda: NOW, report=lambda what, *_: told.append(what))
    assert again == verdict
    assert told == []  # said before; not measured again
    with pytest.raises(BadInput, match="nobody can promote it"):
        require_passed(registry, digest, Context.URBAN)
    registry.verify(digest)


def test_a_verdict_lists_the_attacks_that_were_run_and_on_the_highway_deepfool_is_one(judged: tuple[Registry, str, Exam]) -> None:
    registry, digest, _ = judged
    road = exam_of(Context.HIGHWAY, [*drawn((PERSON,), 1), *drawn((), 1, "highway-day")])
    told: list[str] = []
    rules = GateRules(fgsm_eps=(0.03,), deepfool_steps=1, deepfool_every=2)
    verdict = judge_model(registry, digest, digest, road, rules, now=lambda: NOW, report=lambda what, *_: told.append(what))
    run = [one for one in dict.fromkeys(told) if "eps" in one or "xi" in one]
    assert verdict.attacks == tuple(f"{one}, white-box" for one in run)
    assert len([one for one in run if "deepfool" in one]) == 2
    assert not verdict.passed


def test_a_weights_file_is_not_judged_past_staging(judged: tuple[Registry, str, Exam], tmp_path: Path) -> None:
    registry, digest, _ = judged
    path = tmp_path / "some.safetensors"
    path.write_bytes(to_bytes(CspNano()))
    with pytest.raises(BadInput, match="kerbwatch models stage"):
        cli.find_model(registry, str(path))
    assert list(registry.digests()) == [digest]
    assert cli.find_model(registry, digest[:10]) == cli.find_model(registry, "untrained") == digest


def cut(sample: Sample, side: int = 128) -> Sample:
    """A square around the sample's tallest counted person, with those whose boxes lie in it."""
    left, top, w, h = max((one.box_px for one in sample.people if not one.ignore), key=lambda box: box[3], default=(0, 0, 0, 0))
    height, width = sample.picture.shape[:2]
    x, y = (int(min(max(0, middle - side / 2), room - side)) for middle, room in ((left + w / 2, width), (top + h / 2, height)))
    picture = np.ascontiguousarray(sample.picture[y : y + side, x : x + side])
    boxes = [(one, (one.box_px[0] - x, one.box_px[1] - y, *one.box_px[2:])) for one in sample.people]
    inside = [
        shaped(box, ignore=one.ignore) for one, box in boxes if min(box[:2]) >= 0 and box[0] + box[2] < side > box[1] + box[3]
    ]
    return Sample(sample.origin, sample.name, picture, tuple(inside))


@pytest.mark.slow
def test_the_shipped_safe_model_goes_through_every_attack_of_the_policy(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    model_key(settings)
    registry = registry_of(settings)
    models = shipped(registry)
    drawn = [cut(one) for one in make_exam(Context.URBAN, settings.shared_data, 1, 0).samples]
    exam = exam_of(Context.URBAN, [one for one in drawn if not all(person.ignore for person in one.people)][:2])
    assert len(exam.samples) == 2
    rules = GateRules(places=1, real=0, deepfool_every=2)
    verdict = judge_model(registry, models[Mode.SAFE], models[Mode.NORMAL], exam, rules, now=lambda: NOW)
    assert len([one for one in verdict.checks if "kept under" in one.name and one.value is not None]) == 5
    assert verdict.passed == all(one.passed for one in verdict.checks)
