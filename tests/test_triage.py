"""Triage: each kind of trouble is named from what it shows, an attack is never called weather, and the watch puts it on signals."""

import json
import math
from copy import deepcopy
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.answers import Answers, Newcomer
from detectors.base import State, Status
from detectors.traffic.rules import CHAFF, GUARDS
from detectors.traffic.sighting import Rule, Sighting
from detectors.triage.causes import attacked, diagnose
from detectors.triage.lately import LEARN, Lately, follow
from detectors.triage.layout import alike, striped
from detectors.watch import watch
from inference.service import cues
from inference.service.backlog import Backlog
from inference.service.refusals import Refusals
from streams.bench.triage import report
from streams.bench.triage.command import watched
from streams.bench.triage.drills import CLEAN, ROUNDS, Drill, plan
from streams.bench.triage.report import NOTHING, Moment, Outcome, Said
from streams.codec import Message
from streams.errors import BadInput, Refusal
from streams.events import (
    Cause,
    Comparison,
    Context,
    Detections,
    Diagnosis,
    Features,
    InputScores,
    Mode,
    Phase,
    Signal,
    Timings,
    event_id,
)
from streams.sources.base import Picture

START = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)
NORMAL, OTHER = "a" * 64, "b" * 64
NAMES = ("evasion", "drift-brightness", "drift-heat", "claim", *(guard.name for guard in (*GUARDS, CHAFF)))
CALM = Lately(known=True, seen=True)

_WIDE = st.floats(-1e6, 1e6)
_KINDS: dict[str, st.SearchStrategy[Any]] = {
    "known": st.booleans(), "seen": st.booleans(), "blank": st.booleans(), "stranger": st.booleans(),
    "attack": st.one_of(st.none(), st.floats(0, 1)), "off": st.integers(0, 10**6), "newcomer": st.integers(0, 10**6),
    "moved": st.integers(0, 10**6),
}  # fmt: skip
LATELY = st.builds(Lately, **{one.name: _KINDS.get(one.name, _WIDE) for one in fields(Lately)})
FOUND = st.dictionaries(st.sampled_from(NAMES), st.text(max_size=400), max_size=6)


# -- what it says -------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(found=FOUND, lately=LATELY)
def test_whatever_is_seen_a_diagnosis_is_sure_between_0_and_1_and_has_three_sentences(
    found: dict[str, str], lately: Lately
) -> None:
    diagnosis = diagnose(found, lately)
    if diagnosis is not None:
        assert 0.0 <= diagnosis.confidence <= 1.0
        assert len(diagnosis.evidence) == 3
        assert all(diagnosis.evidence)
        assert msgspec.json.decode(msgspec.json.encode(diagnosis), type=Diagnosis) == diagnosis


@settings(max_examples=200, deadline=None)
@given(found=FOUND, lately=LATELY, sign=st.floats(0.8, 1.0))
def test_a_sign_of_an_attack_is_never_called_weather(found: dict[str, str], lately: Lately, sign: float) -> None:
    for one in ({**found, "evasion": ""}, found):
        seen = replace(lately, attack=sign)
        assert attacked(one, seen)
        diagnosis = diagnose(one, seen)
        assert diagnosis is None or diagnosis.cause is not Cause.CORRUPTION


@settings(max_examples=200, deadline=None)
@given(found=FOUND, lately=LATELY, peak=st.floats(0.5, 1.0))
def test_an_evasion_alarm_is_never_called_weather_while_one_frame_lately_was_likelier_attacked_than_not(
    found: dict[str, str], lately: Lately, peak: float
) -> None:
    diagnosis = diagnose({**found, "evasion": ""}, replace(lately, peak=peak))
    assert diagnosis is None or diagnosis.cause is not Cause.CORRUPTION


FOG = replace(CALM, brightness=8.0, contrast=-9.0, sharpness=-9.0, contrast_share=0.4, sudden=0.1, off=40, attack=0.1)
KINDS: list[tuple[str, Cause, dict[str, str], Lately]] = [
    ("fog", Cause.CORRUPTION, {"drift-contrast": ""}, FOG),
    ("attack", Cause.ATTACK, {"evasion": ""}, replace(CALM, sharpness=5.0, sharpness_share=1.3, sudden=1.0, off=20, attack=0.9)),
    ("attack in fog", Cause.ATTACK, {"evasion": "", "drift-contrast": ""}, replace(FOG, attack=0.97)),
    ("fog that the second look sees too", Cause.CORRUPTION, {"evasion": "", "drift-contrast": ""},
     replace(FOG, samples=12, rise=-2.0, peak=0.2)),
    ("attack that lasts, of which no frame looks attacked", Cause.ATTACK, {"evasion": ""},
     replace(CALM, sharpness=13.0, sharpness_share=1.4, sudden=1.0, off=90, attack=0.2, rise=0.1, peak=0.25, samples=40)),
    ("elsewhere, which the second look finds strange", Cause.CONTEXT, {"evasion": "", "drift-heat": ""},
     replace(CALM, contrast=6.0, layout=0.0, sudden=1.0, off=80, attack=0.78, rise=6.0, samples=80)),
    ("elsewhere", Cause.CONTEXT, {"drift-contrast": ""}, replace(CALM, contrast=-6.0, layout=0.2, sudden=1.0, off=30, attack=0.1)),
    ("wrong claim", Cause.CONTEXT, {"claim": "it claims urban"}, CALM),
    ("covered", Cause.CAMERA, {"drift-brightness": ""},
     replace(CALM, brightness=-40.0, contrast=-20.0, level=0.02, contrast_share=0.02, layout=0.0, sudden=1.0, off=20)),
    ("frozen", Cause.CAMERA, {"frozen": "for 20 frames"}, replace(CALM, dead=1.0, moves=0.0)),
    ("blank", Cause.MODEL, {"drift-heat": ""}, replace(CALM, heat=0.0, people=0.1, blank=True, off=20, attack=0.05)),
    ("no order", Cause.MODEL, {"answers": "nobody's"}, replace(CALM, stranger=True)),
    ("taught", Cause.POISON, {"newcomer": "misses"}, replace(CALM, agreement=0.5, missed=0.5, newcomer=80)),
    ("worn", Cause.POISON, {"drift-sharpness": ""},
     replace(CALM, sharpness=4.0, sharpness_share=1.1, sudden=1.0, off=60, heat=0.3, people=0.2, newcomer=60, attack=0.4)),
    ("flood", Cause.LOAD, {"rate": "8 times"}, replace(CALM, moves=0.2)),
    ("flood of one moment", Cause.LOAD, {"rate": "8 times"}, replace(CALM, moves=0.08, dead=0.5)),
    ("late, and strange to look at", Cause.LOAD, {"evasion": ""}, replace(CALM, waited_s=90.0, attack=0.4)),
]  # fmt: skip


@pytest.mark.parametrize(("cause", "found", "lately"), [pytest.param(*rest, id=name) for name, *rest in KINDS])
def test_each_kind_of_trouble_is_named(cause: Cause, found: dict[str, str], lately: Lately) -> None:
    diagnosis = diagnose(found, lately)
    assert diagnosis is not None
    assert diagnosis.cause is cause
    assert diagnosis.confidence > 0.5


DOUBTFUL: list[tuple[str, Cause, dict[str, str], Lately]] = [
    ("attack on a few frames in fog", Cause.ATTACK, {"evasion": "", "drift-contrast": ""},
     replace(FOG, samples=12, rise=-2.0, peak=0.9)),
    ("attack of which hardly a frame was sampled", Cause.ATTACK, {"drift-sharpness": ""},
     replace(CALM, sharpness=13.0, sharpness_share=1.4, sudden=1.0, off=29, attack=0.5, rise=0.2, samples=2)),
    ("elsewhere in the same light", Cause.CONTEXT, {"drift-embedding": ""}, replace(CALM, layout=0.84)),
    ("other things at the same place", Cause.CONTEXT, {"drift-embedding": ""}, CALM),
]  # fmt: skip


@pytest.mark.parametrize(("cause", "found", "lately"), [pytest.param(*rest, id=name) for name, *rest in DOUBTFUL])
def test_what_shows_little_is_named_with_little_confidence(cause: Cause, found: dict[str, str], lately: Lately) -> None:
    diagnosis = diagnose(found, lately)
    assert diagnosis is not None
    assert diagnosis.cause is cause
    assert diagnosis.confidence < 0.6


def test_a_change_that_has_just_begun_is_not_called_anything_but_an_attack() -> None:
    assert diagnose({"drift-contrast": ""}, replace(FOG, off=3)) is None
    attack = diagnose({"evasion": ""}, replace(CALM, sharpness=5.0, off=3, attack=0.95))
    assert attack is not None
    assert attack.cause is Cause.ATTACK


def test_nothing_seen_is_nothing_said() -> None:
    assert diagnose({}, Lately()) is None
    assert diagnose({"drift-heat": ""}, CALM) is None


# -- what a camera shows lately --------------------------------------------------------------------------------------------


def picture(number: int, seed: int = 0) -> Picture:
    rng = np.random.default_rng((seed, number))
    wall = cv2.resize(
        np.random.default_rng(seed).uniform(40, 200, (6, 9)).astype(np.float32), (192, 96), interpolation=cv2.INTER_CUBIC
    )
    left = (number * 7) % 170
    wall[30:80, left : left + 14] = 220
    wall = wall + rng.normal(0, 2.0, wall.shape)
    return np.repeat(np.clip(wall, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def judged(number: int, shown: Picture, **changes: Any) -> Detections:
    luma = np.ascontiguousarray(shown[..., 0])
    heat = changes.pop("heat", 0.02 + 0.002 * (number % 5))
    features = Features(
        brightness=float(luma.mean()) / 255, contrast=float(luma.std()) / 255,
        sharpness=float(np.abs(cv2.Laplacian(luma, cv2.CV_16S)).mean()) / 1020, people=changes.pop("people", 3), score_mean=0.7,
        score_max=0.9, height_mean_px=40.0, heat=heat, fingerprint=cues.fingerprint(luma),
    )  # fmt: skip
    at = START + timedelta(seconds=number / 5)
    event = Detections(
        id=event_id("d", number), source="inference/w1", time=at + timedelta(seconds=0.1), subject="gate", camera_id="gate",
        context=Context.URBAN, epoch=1, sequence=number, frame_id=f"f{number}", frame_partition=0, frame_offset=number,
        camera_time=at, boxes=(), weights_digest=NORMAL, mode=Mode.NORMAL, decision_id="d", features=features,
        scores=InputScores(reference_digest=NORMAL), timings=Timings(infer_ms=1, scores_ms=1),
    )  # fmt: skip
    return msgspec.structs.replace(event, **changes)


def calm_state(count: int = 2 * LEARN) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for number in range(count):
        state, _ = follow(state, judged(number, picture(number)), learn=True)
    return state


def after(state: dict[str, Any], events: list[Detections]) -> Lately:
    lately = Lately()
    for event in events:
        state, lately = follow(state, event, learn=False)
    return lately


def test_a_model_that_comes_back_after_safe_mode_is_no_new_one_and_one_never_seen_here_is() -> None:
    state, newcomer = calm_state(), {}
    weights = {"safe": "b" * 64, "back": NORMAL, "safe again": "b" * 64, "retrained": "c" * 64}
    for part, (name, digest) in enumerate(weights.items()):
        for number in range(2 * LEARN + 30 * part, 2 * LEARN + 30 * (part + 1)):
            state, lately = follow(state, judged(number, picture(number), weights_digest=digest), learn=False)
            newcomer.setdefault(name, lately.newcomer)
    assert (newcomer["safe"], newcomer["safe again"], newcomer["retrained"]) == (0, 30, 0)
    assert newcomer["back"] > 10**5


def shown(change: Any, frames: int = 30, **changes: Any) -> list[Detections]:
    numbers = range(2 * LEARN, 2 * LEARN + frames)
    return [judged(number, change(picture(number), number - 2 * LEARN), **changes) for number in numbers]


def test_a_calm_camera_is_as_usual() -> None:
    lately = after(calm_state(), shown(lambda one, _: one))
    assert lately.known
    assert lately.seen
    assert lately.picture < 3
    assert lately.layout > 0.9
    assert (lately.off, lately.dead, lately.blank, lately.stranger) == (0, 0.0, False, False)
    assert 0.8 < lately.heat < 1.2


def test_fog_keeps_the_layout_and_comes_gradually_where_another_place_has_another_at_once() -> None:
    def fog(one: Picture, into: int) -> Picture:
        share = min(0.7, into / 30)
        return np.asarray(cv2.addWeighted(one, 1 - share, np.full_like(one, 205), share, 0), np.uint8)

    state = calm_state()
    foggy = after(state, shown(fog))
    elsewhere = after(state, shown(lambda _one, into: picture(into, seed=3)))
    assert foggy.layout > 0.9
    assert elsewhere.layout < 0.6
    assert foggy.sudden < 0.5
    assert foggy.picture > 3
    assert foggy.off > 5


def test_a_picture_that_is_partly_dead_or_wholly_black_shows_it() -> None:
    def half(one: Picture, _: int) -> Picture:
        return np.concatenate([one[:48], np.full_like(one[48:], 90)])

    state = calm_state()
    assert 0.3 < after(state, shown(half, 50)).dead < 0.7
    black = after(state, shown(lambda one, _: np.zeros_like(one)))
    assert black.level < 0.02
    assert black.contrast_share < 0.05


def test_torn_rows_show_where_the_usual_picture_has_bands_too() -> None:
    def road(number: int) -> Picture:
        bands = np.repeat(np.linspace(200, 60, 96)[:, None], 192, axis=1)
        bands[50:60, (number * 5) % 170 : (number * 5) % 170 + 12] = 230
        bands[:, 80:125] += 50
        bands += np.random.default_rng(number).normal(0, 2.0, bands.shape)
        return np.repeat(np.clip(bands, 0, 255).astype(np.uint8)[..., None], 3, axis=2)

    def torn(one: Picture, number: int) -> Picture:
        by = np.random.default_rng(number).integers(0, one.shape[1], len(one))
        return np.stack([np.roll(row, int(shift), axis=0) for row, shift in zip(one, by, strict=True)])

    state: dict[str, Any] = {}
    for number in range(2 * LEARN):
        state, _ = follow(state, judged(number, road(number)), learn=True)
    numbers = range(2 * LEARN, 2 * LEARN + 30)
    assert after(state, [judged(number, road(number)) for number in numbers]).striped < 0.2
    lately = after(state, [judged(number, torn(road(number), number)) for number in numbers])
    assert lately.striped > 0.5
    diagnosis = diagnose({"drift-sharpness": ""}, lately)
    assert diagnosis is not None
    assert diagnosis.cause is Cause.CAMERA


LOOKED = InputScores(
    reference_digest=NORMAL, inconsistency=0.1, largest=0.2, signed=0.0, weak=0.02, heat=0.02, high_pass=0.01, blot=0.02
)


def test_samples_are_held_against_what_is_usual_under_the_same_weights() -> None:
    state: dict[str, Any] = {}
    for number in range(2 * LEARN):
        state, _ = follow(state, judged(number, picture(number), scores=LOOKED), learn=True)
    strange = msgspec.structs.replace(LOOKED, largest=0.6, inconsistency=0.6, weak=0.3)
    flat = np.full_like(picture(0), 120)
    same = after(state, [judged(number, flat, scores=strange) for number in range(2 * LEARN, 2 * LEARN + 20)])
    new = msgspec.structs.replace(strange, reference_digest=OTHER)
    other = after(state, [judged(number, flat, scores=new, weights_digest=OTHER) for number in range(2 * LEARN, 2 * LEARN + 20)])
    assert same.samples == other.samples > 3
    assert same.rise != 0.0
    assert other.rise == 0.0


def test_the_likeliest_frame_lately_is_remembered_for_some_samples_and_then_forgotten() -> None:
    calm = msgspec.structs.replace(LOOKED, largest=0.01, inconsistency=0.01, weak=0.001)
    strange = msgspec.structs.replace(LOOKED, largest=0.9, inconsistency=0.9, weak=0.4)
    flat = np.full_like(picture(0), 120)
    first = 2 * LEARN
    events = [judged(first + into, flat, scores=strange if into == 10 else calm) for into in range(80)]
    least = after(calm_state(), events[:10]).peak
    peaks = [after(calm_state(), events[:count]).peak for count in (11, 14, 80)]
    assert peaks[0] > peaks[1] > peaks[2]
    assert peaks[1] > 2 * least
    assert peaks[2] == pytest.approx(least, rel=0.2)


def test_the_state_is_plain_json_of_bounded_size_and_a_restart_changes_nothing() -> None:
    state = calm_state()
    before = deepcopy(state)
    events = shown(lambda one, _: one)
    for event in events:
        through, lately = follow(json.loads(json.dumps(state)), event, learn=True)
        assert (through, lately) == follow(state, event, learn=True)
    assert state == before
    many = state
    for number, event in enumerate(events):
        many, _ = follow(
            many, msgspec.structs.replace(event, context=list(Context)[number % 2], mode=list(Mode)[number % 2]), learn=True
        )
    assert len(json.dumps(many)) < 8000


def test_patterns_are_alike_in_any_light_and_stripes_are_told() -> None:
    cells = np.random.default_rng(0).uniform(1000, 40_000, 64).astype(np.float32)
    assert alike(cells, cells * np.float32(0.3) + np.float32(5000)) == pytest.approx(1.0, abs=1e-4)
    assert alike(cells, np.full(64, 7.0, np.float32)) == 0.0
    assert striped(np.repeat(cells[:8], 8)) == pytest.approx(1.0, abs=1e-4)
    assert striped(cells) < 0.6


# -- rules about a model's answers ---------------------------------------------------------------------------------------------


def verdicts(rule: Rule, lately: Lately, frames: int) -> list[Status]:
    state: State = rule.start()
    statuses = []
    for number in range(frames):
        sighting = Sighting(number, number / 5, 0.1, 1, number, "urban", NORMAL, lately=lately)
        state, verdict = rule.step(state, sighting)
        statuses.append(verdict.status)
    return statuses


@pytest.mark.parametrize(
    ("rule", "lately", "within"),
    [
        pytest.param(Answers(), replace(CALM, blank=True, heat=0.0), 14, id="blank"),
        pytest.param(Answers(), replace(CALM, heat=9.0), 14, id="crowd"),
        pytest.param(Answers(), replace(CALM, stranger=True), 14, id="no order"),
        pytest.param(Newcomer(), replace(CALM, agreement=0.5, missed=0.5), 26, id="compared"),
        pytest.param(Newcomer(), replace(CALM, newcomer=5, people=0.4, heat=0.5), 26, id="promoted"),
    ],
)
def test_answers_that_pictures_do_not_explain_alarm(rule: Rule, lately: Lately, within: int) -> None:
    assert Status.ALARM in verdicts(rule, lately, within)


@pytest.mark.parametrize(
    ("rule", "lately"),
    [
        pytest.param(Answers(), replace(CALM, blank=True, heat=0.0, brightness=-30.0), id="dark"),
        pytest.param(Answers(), replace(CALM, heat=1.8), id="busy"),
        pytest.param(Answers(), Lately(blank=True), id="not known yet"),
        pytest.param(Newcomer(), replace(CALM, people=0.3, heat=0.3), id="an empty street"),
        pytest.param(Newcomer(), replace(CALM, agreement=0.8, missed=0.05, newcomer=5), id="another taste"),
    ],
)
def test_answers_that_have_a_reason_do_not(rule: Rule, lately: Lately) -> None:
    assert Status.ALARM not in verdicts(rule, lately, 100)


# -- the watch -------------------------------------------------------------------------------------------------------------


def signals_of(events: list[Detections], state: dict[str, Any] | None = None) -> tuple[dict[str, Any], list[Signal]]:
    state = {} if state is None else state
    signals: list[Signal] = []
    for event in events:
        state, said = watch(state, event, entries=())
        signals += said
    return state, signals


def test_a_signal_carries_its_diagnosis_and_the_word_that_all_is_well_carries_none() -> None:
    calm = [judged(number, picture(number)) for number in range(80)]
    blank = [judged(number, picture(number), heat=0.0, people=0) for number in range(80, 120)]
    well = [judged(number, picture(number)) for number in range(120, 180)]
    _, signals = signals_of([*calm, *blank, *well])
    raised, last = signals[0], signals[-1]
    assert (raised.detector, raised.phase) == ("answers", Phase.RAISED)
    assert raised.diagnosis is not None
    assert raised.diagnosis.cause is Cause.MODEL
    assert any("sees as good as nothing" in words for words in raised.diagnosis.evidence)
    assert (last.phase, last.diagnosis) == (Phase.CALM, None)


def test_another_diagnosis_is_told_without_waiting_for_the_next_reminder() -> None:
    calm = [judged(number, picture(number)) for number in range(80)]
    crowd = [judged(number, picture(number), heat=0.5, people=90) for number in range(80, 110)]
    changes: dict[str, Any] = {"weights_digest": OTHER, "heat": 0.02}
    strange = [judged(number, picture(number), **changes) for number in range(110, 150)]
    state, signals = signals_of([*calm, *crowd])
    other = Comparison(weights_digest=NORMAL, people=9, score_mean=0.7, agreement=0.1, infer_ms=1.0)
    poisoned = [msgspec.structs.replace(event, compared=other if number % 4 == 0 else None) for number, event in enumerate(strange)]
    _, later = signals_of(poisoned, state)
    assert [signal.detector for signal in signals] == ["answers"]
    causes = [signal.diagnosis.cause for signal in later if signal.diagnosis is not None]
    assert Cause.POISON in causes


def test_a_state_from_before_triage_goes_on() -> None:
    state, _ = signals_of([judged(number, picture(number)) for number in range(5)])
    old = {key: value for key, value in state.items() if key not in {"lately", "told"}}
    new, signals = signals_of([judged(5, picture(5))], old)
    assert signals == []
    assert "lately" in new


# -- what the worker finds of itself -----------------------------------------------------------------------------------------


def refused_in_a_row(times: int, reason: Refusal) -> Signal:
    refusals = Refusals("inference/w1", "w1", every=20)
    message = Message("frames", 0, 7, b"gate", b"", (("ce_context", b"urban"),))
    said = [refusals.refused(message, BadInput("no", reason), START) for _ in range(times)]
    return [one for one in said if one is not None][-1]


def test_a_flood_of_copies_is_load_and_a_wrong_signature_an_attack() -> None:
    flood, forged = refused_in_a_row(20, Refusal.REPEATED), refused_in_a_row(1, Refusal.BAD_SIGNATURE)
    assert flood.diagnosis is not None
    assert flood.diagnosis.cause is Cause.LOAD
    assert forged.diagnosis is not None
    assert forged.diagnosis.cause is Cause.ATTACK


def test_a_worker_that_is_behind_says_load() -> None:
    signal = Backlog("inference/w1", "w1", limit_s=10.0).noted(Context.URBAN, 30.0, START, dropped=True)
    assert signal is not None
    assert signal.diagnosis is not None
    assert signal.diagnosis.cause is Cause.LOAD


# -- drills ------------------------------------------------------------------------------------------------------------------


class Nobody:
    """Models that are never asked: a plan is only counted here."""

    def white_box(self) -> Any:
        return None

    def damaged(self, name: str, seed: int) -> str:
        return f"{name}{seed}"

    def taught(self, name: str, misses: Any) -> str:
        return f"{name}{misses}"


def test_a_round_has_as_many_drills_of_each_kind_as_asked_and_shares_no_scene_or_seed_with_the_other() -> None:
    test, tuning = list(plan("test", 20, Nobody())), list(plan("tuning", 20, Nobody()))
    for cause in Cause:
        assert sum(drill.cause is cause for drill in test) == 20
    assert sum(drill.cause is None for drill in test) >= 4
    assert not {drill.scene.seed for drill in test} & {drill.scene.seed for drill in tuning}
    assert not {drill.seed for drill in test} & {drill.seed for drill in tuning}
    files = [(drill.scene, drill.seed) for drill in test]
    assert len(files) == len(set(files))


def an_outcome(cause: Cause | None, said: Cause | None) -> Outcome:
    diagnosis = None if said is None else Diagnosis(cause=said, confidence=0.8, evidence=("one.", "two.", "three."))
    told = () if said is None else (Said(9, "evasion", raised=True, diagnosis=diagnosis),)
    moments = tuple(Moment(into, 0.5 if into % 4 == 0 else None, 0.02, 0.01, {"evasion": into / 20}) for into in range(-8, 40))
    return Outcome(Drill(ROUNDS["test"][0], "fgsm 8/255", cause, 1), told, moments)


def test_figures_count_the_last_word_and_the_pictures_are_drawn(tmp_path: Path) -> None:
    outcomes = [
        an_outcome(Cause.ATTACK, Cause.ATTACK), an_outcome(Cause.ATTACK, Cause.CORRUPTION), an_outcome(Cause.LOAD, None),
        an_outcome(None, None), an_outcome(None, Cause.CAMERA),
    ]  # fmt: skip
    figures = report.figures(outcomes, "kerbwatch bench triage", {"normal": NORMAL})
    assert (figures["drills"], figures["right"], figures["attacks_called_weather_at_last"]) == (3, 1, 1)
    assert figures["confusion"]["load"] == {NOTHING: 1}
    assert figures["innocent"] == {"drills": 2, "with_a_finding": 1}
    json.dumps(figures)
    report.draw_confusion(outcomes, tmp_path / "matrix.png")
    report.draw_drill(outcomes[0], tmp_path / "drill.png")
    assert (tmp_path / "matrix.png").stat().st_size > 5000
    assert (tmp_path / "drill.png").stat().st_size > 5000


def test_a_drill_is_scored_from_its_begin_on() -> None:
    state, _ = signals_of([judged(number, picture(number)) for number in range(100)])
    blank = [
        judged(CLEAN + number, picture(number), heat=0.0 if number >= 8 else 0.02, people=0 if number >= 8 else 3)
        for number in range(40)
    ]
    outcome = watched(Drill(ROUNDS["test"][0], "blank", Cause.MODEL, 1), state, list(blank))
    assert outcome.right
    assert math.isclose(outcome.moments[0].into, -8)
    assert all(one.into >= 0 for one in outcome.said)
