"""What the benchmark of adversarial-input detection makes of readings, which cases it asks for, and how it keeps them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from torch import nn

import inference
from infra.settings import read_settings
from streams.bench.adversarial import cases, command, figures, report, streams, usual
from streams.bench.adversarial import scenes as places
from streams.corruptions import CORRUPTIONS
from streams.events import Box, Context, InputScores
from streams.line import JPEG, PNG
from streams.sources.base import Person

PEOPLE = tuple(Person((x, 20.0, 41.0, 100.0), (x, 20.0, 41.0, 100.0)) for x in (10.0, 110.0, 210.0))
SEEN = tuple(Box(*person.box_px, 0.9) for person in PEOPLE)
SCORES = InputScores(
    reference_digest="a" * 64, inconsistency=0.1, largest=0.2, signed=0.0, weak=0.1, heat=0.02, high_pass=0.01, blot=0.05
)  # fmt: skip


def reading(
    probability: float,
    frame: int = 0,
    kind: str = "clean",
    *,
    context: Context = Context.URBAN,
    normal: tuple[Box, ...] = SEEN,
    people: tuple[Person, ...] = PEOPLE,
    **more: Any,
) -> figures.Reading:
    case = cases.Case(data="streets", camera="urban-day-900", frame=frame, context=context, kind=kind, **more)
    told = figures.Reading(
        case=case, scores=SCORES, detail=0.05, heat=0.02, people=people, normal=normal, safe=SEEN, took_ms=(20.0, 0.2, 24.0)
    )
    told.__dict__["probability"] = probability
    return told


def calm(count: int = 40, level: float = 0.05) -> list[figures.Reading]:
    return [reading(level + 0.001 * frame, frame) for frame in range(count)]


def attacked(probability: float, count: int = 8, **more: Any) -> list[figures.Reading]:
    told = {"name": "pgd", "strength": "eps 8/255", "objective": "untargeted", "normal": ()} | more
    return [reading(probability, frame, "attack", **told) for frame in range(count)]


def row(them: Sequence[figures.Reading], clean: Sequence[figures.Reading]) -> figures.AttackRow:
    plainly = figures.clean_of(clean)
    return figures.attack_row(them, plainly, plainly, {figures.place(one): one for one in clean})


def test_what_stands_apart_has_area_one_and_what_does_not_has_a_half() -> None:
    clean = calm(100)
    apart, alike = row(attacked(0.9), clean), row([reading(one.probability, one.case.frame, "attack") for one in clean], clean)
    assert (apart.auroc, apart.tpr_at_fpr5, apart.tpr_at_fpr1) == (1.0, 1.0, 1.0)
    assert alike.auroc == pytest.approx(0.5)
    assert (alike.tpr_at_fpr5, alike.tpr_at_fpr1) == (0.05, 0.01)
    assert row(attacked(0.0), clean).auroc == 0.0


def test_a_frame_is_compared_with_its_own_contexts_clean_ones() -> None:
    clean = [*calm(), *(reading(0.8, frame, context=Context.HIGHWAY) for frame in range(40))]
    assert row(attacked(0.5), clean).tpr_at_fpr5 == 1.0
    assert row(attacked(0.5, context=Context.HIGHWAY), clean).tpr_at_fpr5 == 0.0


def placed(given: Sequence[figures.Reading], **where: Any) -> list[figures.Reading]:
    """The same elsewhere."""
    moved = [structs.replace(one, case=structs.replace(one.case, **where)) for one in given]
    for one, before in zip(moved, given, strict=True):
        one.__dict__["probability"] = before.probability
    return moved


def test_two_cameras_of_another_level_are_each_told_by_their_own_usual_as_the_detector_weighs_it() -> None:
    strange = {"camera": "urban-day-905"}  # its clean frames look as the other camera's attacked ones do
    clean = [*calm(), *placed(calm(level=0.5), **strange)]
    own = [*placed(calm(24), kind="usual"), *placed(calm(24, level=0.5), kind="usual", **strange)]
    score = usual.relative([*clean, *own])
    told = figures.clean_of(clean, score)
    them = attacked(0.5)
    assert figures.clean_of(clean).auroc(them) < 0.8
    assert told.auroc(them) == 1.0
    assert (told.beyond(them) == 0).all()
    state = usual._EVASION.start()
    for one in own[:24]:
        state, _ = usual._EVASION.step(state, usual._seen(one))
    assert score(them[0]) == usual._EVASION.step(state, usual._seen(them[0]))[1].score > 2.0


def test_without_frames_apart_a_frame_is_judged_by_the_half_it_is_not_in_and_never_by_attacked_ones() -> None:
    clean = [*calm(20), *(reading(0.6, frame) for frame in range(20, 40))]
    score = usual.relative(clean)
    first, second = (reading(0.6, frame, "attack") for frame in (0, 39))
    assert score(second) > 2.0
    assert score(first) < 0.1
    assert usual.relative([*clean, *attacked(0.999, 40)])(second) == score(second)


def test_an_album_has_no_usual() -> None:
    album = placed(calm(), data="photographs", camera="album")
    score = usual.relative(album)
    assert [score(one) for one in album] == [one.probability for one in album]


def test_usual_frames_are_neither_attacked_nor_corrupted_nor_counted_as_clean() -> None:
    given = [*scenes("footage", "road"), *scenes("footage", "road", count=24)]
    given = [replace(one, number=number, usual=number >= 40) for number, one in enumerate(given)]
    asked = [made.case for made in bench().cases(given)]
    assert {one.kind for one in asked if one.frame >= 40} == {"usual"}
    assert sum(one.kind == "usual" for one in asked) == 24
    assert sum(one.kind == "clean" for one in asked) == 40


def test_who_vanishes_is_added_to_the_miss_rate_and_where_nobody_is_none_is_told() -> None:
    assert row(attacked(0.9), calm()).miss_rate_added_points == 100.0
    assert row(attacked(0.9, normal=SEEN), calm()).miss_rate_added_points == 0.0
    nobody = [structs.replace(one, people=()) for one in calm()]
    for one in nobody:
        one.__dict__["probability"] = 0.1
    assert row(attacked(0.9, people=()), nobody).miss_rate_added_points is None


def test_false_flags_are_counted_by_corruption_and_severity_at_the_clean_threshold() -> None:
    fog = [reading(0.05 + 0.4 * (severity > 3), 0, "corruption", name="fog", strength=str(severity)) for severity in (2, 3, 4, 5)]
    plainly = figures.clean_of(calm())
    rows = figures.corruption_rows([*fog, *calm()], plainly, plainly)
    assert [(one.severity, one.flagged) for one in rows if one.corruption == "fog"] == [
        ("2", 0.0),
        ("3", 0.0),
        ("4", 1.0),
        ("5", 1.0),
    ]
    assert next(one for one in rows if one.corruption == "clean urban day").flagged == 0.05


def test_a_stream_alarms_soon_under_attack_later_under_a_rare_one_and_not_in_calm() -> None:
    shown, alarmed = streams.streams(calm(), every=8)
    assert (len(shown), alarmed) == (4, 0)
    steady = [stream.under(attacked(0.999))[1] for stream in shown]
    rare = [stream.under(attacked(0.999), rare=True)[1] for stream in shown]
    assert all(one is not None and one <= 45 for one in steady)
    rare_median, steady_median = streams.median_delay(rare)[0], streams.median_delay(steady)[0]
    assert steady_median is not None
    assert rare_median is None or rare_median > steady_median
    assert [stream.under(attacked(0.05))[1] for stream in shown] == [None] * 4
    assert all(0.05 <= stream.looked <= 0.3 for stream in shown)
    assert streams.median_delay([3, None, None, None]) == (None, 0.25)
    assert streams.median_delay([3, 5, 7, None]) == (6.0, 0.75)


def test_streams_that_alarm_without_an_attack_are_counted_and_left_out() -> None:
    stirred = structs.replace(SCORES, inconsistency=0.9, weak=0.8)
    strange = [structs.replace(reading(0.999, frame), scores=stirred) for frame in range(40)]
    for one in strange:
        one.__dict__["probability"] = 0.999
    shown, alarmed = streams.streams(strange, every=8)
    assert (shown, alarmed) == ([], 4)


def test_the_system_is_worth_what_the_safe_model_finds_after_the_switch() -> None:
    blind = attacked(0.9, 60)
    off, safe, on, after = streams.worth([(blind, 10)]) or (0.0,) * 4
    assert (off, safe, after) == (100.0, 0.0, 0.75)
    assert on == pytest.approx(100 * 15 / 60, abs=0.1)
    assert streams.worth([(blind, None)]) == (100.0, 0.0, 100.0, 0.0)
    assert streams.worth([(attacked(0.9, people=()), 5)]) is None


class Blind(nn.Module):
    """Nothing of it is asked: cases are made without their pictures."""


def bench(budget: cases.Budget = cases.BUDGETS["quick"]) -> cases.Bench:
    return cases.Bench(Blind(), "b" * 64, budget, read_settings().shared_data)


def scenes(data: str, camera: str, context: Context = Context.URBAN, count: int = 40) -> list[places.Scene]:
    picture = np.zeros((32, 64, 3), np.uint8)
    return [places.Scene(data, camera, number, context, picture, PEOPLE) for number in range(count)]


def test_every_attack_and_every_innocent_change_of_the_issue_is_asked_for_on_every_data_set() -> None:
    streets = [scenes("streets", f"{context}-{weather}-{seed}", context) for context, weather, seed in places.STREETS]
    for cameras in (streets, [scenes("photographs", "album")], [scenes("footage", "square"), scenes("footage", "road")]):
        asked = [made.case for camera in cameras for made in bench().cases(camera)]
        attacks = {(one.name, one.strength, one.objective) for one in asked if one.kind == "attack"}
        bounded = {(name, f"eps {eps}/255", "untargeted") for name in ("fgsm", "pgd") for eps in (1, 2, 4, 8)}
        assert bounded < attacks
        assert {("pgd", "eps 4/255", "hide"), ("pgd", "eps 4/255", "appear"), ("deepfool", "xi 0.03", "hide")} < attacks
        assert {name for name, *_ in attacks} == {
            "fgsm", "pgd", "deepfool", "patch on a person", "patch beside people", "universal", "adaptive"
        }  # fmt: skip
        assert {one.adaptive for one in asked if one.name == "adaptive"} == {True}
        corrupted = {(one.name, one.strength) for one in asked if one.kind == "corruption"}
        assert {(name, str(severity)) for name in CORRUPTIONS for severity in range(1, 6)} < corrupted
        assert {sent for one in asked if one.name == "deepfool" for sent in (one.sent,)} == {JPEG, PNG}
        assert len({one.key for one in asked}) == len(asked)


def test_no_picture_of_the_benchmark_is_one_that_calibration_may_use() -> None:
    assert min(seed for *_, seed in places.STREETS) >= 900
    settings = read_settings()
    if not (settings.shared_data / "pennfudan").is_dir():
        pytest.skip(f"no Penn-Fudan in {settings.shared_data}")
    album, square = (make() for make in list(places.cameras(settings.shared_data, 40))[:2])
    assert len(album) == 60
    assert [len([one for one in square if one.usual is usual]) for usual in (False, True)] == [80, 24]
    assert len({one.number for one in square}) == 104
    assert places._SQUARE.start >= 620
    assert places._ROAD.start >= 170


def test_made_once_a_dear_picture_is_read_from_then_on(tmp_path: Path) -> None:
    calls: list[int] = []

    def body() -> bytes:
        calls.append(1)
        return b"picture"

    case = reading(0.5, kind="attack").case
    for _ in range(2):
        assert command._body(cases.Made(case, (), body, dear=True), tmp_path) == b"picture"
    assert len(calls) == 1
    assert command._body(cases.Made(case, (), body), tmp_path) == b"picture"
    assert len(calls) == 2


def test_a_killed_run_goes_on_and_other_models_begin_anew(tmp_path: Path) -> None:
    with command._kept(tmp_path, ["one"]) as (known, keep):
        assert known == {}
        keep(calm()[0])
        keep(calm()[1])
    file = next(tmp_path.glob("*.jsonl"))
    file.write_bytes(file.read_bytes()[:-20])
    with command._kept(tmp_path, ["one"]) as (known, keep):
        assert list(known) == [calm()[0].case.key]
        keep(calm()[2])
    with command._kept(tmp_path, ["one"]) as (known, _):
        assert sorted(known) == sorted(calm()[frame].case.key for frame in (0, 2))
    with command._kept(tmp_path, ["another"]) as (known, _):
        assert known == {}


def test_the_steepest_step_at_every_strength_is_that_of_fgsm() -> None:
    from inference.attacks.gradient import fgsm  # noqa: PLC0415 - the one test here that needs the network
    from inference.networks.csp_nano import from_bytes  # noqa: PLC0415 - same

    torch.set_num_threads(1)
    network = from_bytes((Path(inference.__file__).parent / "weights" / "csp-nano.safetensors").read_bytes()).eval()
    picture = np.random.default_rng(3).integers(0, 256, (64, 96, 3), np.uint8)
    for eps in (1, 4, 8):
        stepped = cases._stepped(picture, lambda: fgsm(network, picture, PEOPLE, 8 / 255), eps)
        assert np.mean(stepped != fgsm(network, picture, PEOPLE, eps / 255)) < 0.01


def test_the_command_writes_figures_and_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fog = [reading(0.4, 0, "corruption", name="fog", strength=str(severity)) for severity in range(1, 6)]
    given = [*calm(), *attacked(0.999), *attacked(0.2, name="adaptive", adaptive=True), *fog]

    def measure(*_: Any) -> tuple[list[figures.Reading], dict[str, str]]:
        return given, {"normal": "b" * 64, "safe": "c" * 64}

    monkeypatch.setattr(command, "measure", measure)
    command.adversarial(command.Budget.QUICK, tmp_path, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "adversarial.json").read_text("utf-8"))
    assert datetime.fromisoformat(told["date"]).tzinfo == UTC
    wanted = {
        "attack", "strength", "adaptive", "objective", "data", "miss_rate_added_points", "auroc", "tpr_at_fpr5", "tpr_at_fpr1",
        "delay_frames", "auroc_absolute", "tpr_at_fpr5_absolute", "tpr_at_fpr1_absolute",
    }  # fmt: skip
    assert all(wanted <= set(one) for one in told["attacks"])
    assert {one["attack"] for one in told["attacks"]} == {"pgd", "pgd, one frame in ten", "adaptive"}
    row = {"corruption", "severity", "data", "flagged", "flagged_absolute", "frames", "streams", "alarmed"}
    assert row == set(told["corruptions"][0])
    assert {(one["streams"] > 0, one["alarmed"]) for one in told["corruptions"] if one["corruption"] == "fog"} == {(True, 0.0)}
    assert {"score", "score_absolute", "usual"} < set(told["settings"])
    assert {"settings", "command", "machine", "weights", "cost", "on_off", "calm"} < set(told)
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("adversarial-roc.png", "adversarial-flags.png"))
    command.adversarial(command.Budget.QUICK, None, as_json=False)
    assert "adaptive" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "short"), [({}, False), ({"tpr_at_fpr5": 0.9}, True), ({"tpr_at_fpr5": 0.9, "adaptive": True}, False)]
)
def test_falling_short_is_told_of_harmful_attacks_that_do_not_know_the_score(change: dict[str, Any], short: bool) -> None:
    one = structs.replace(row(attacked(0.9), calm()), **change)
    assert report.falls_short(one) is short
    assert not report.falls_short(structs.replace(one, miss_rate_added_points=3.0))
