"""Every detector of the catalogue keeps every promise; the watch tells each finding once, whatever is repeated or restarted."""

import ast
import itertools
import json
import math
import time
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from looks import look

import detectors
from detectors import catalogue, checks
from detectors.base import Observation, State, Status, Verdict
from detectors.catalogue import Entry
from detectors.drift.feature import Drift
from detectors.traffic import rules
from detectors.watch import KEPT_BASELINES, watch
from streams.errors import BrokenContract
from streams.events import Context, Detections, Features, InputScores, Kind, Mode, Phase, Signal, Timings, event_id

ENTRIES = [pytest.param(entry, id=name) for name, entry in catalogue.ALL.items()]
READINGS = st.lists(st.one_of(st.floats(0, 1), st.floats(), st.sampled_from([1e308, -1e308, math.nan, math.inf])), max_size=60)
NORMAL, SAFE = "a" * 64, "b" * 64
START = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.mark.parametrize("check", checks.ON_ANY_READINGS)
@pytest.mark.parametrize("entry", ENTRIES)
@settings(max_examples=12, deadline=None)
@given(readings=READINGS)
def test_every_detector_keeps_this_promise_on_any_readings(
    entry: Entry, check: Callable[[Entry, list[float]], None], readings: list[float]
) -> None:
    check(entry, readings)


@pytest.mark.parametrize("check", checks.ON_ANY_READINGS)
@pytest.mark.parametrize("name", ["evasion", "drift-brightness", "adwin-brightness"])
@settings(max_examples=4, deadline=None)
@given(readings=READINGS)
def test_each_kind_of_detector_keeps_it_past_learning_too(
    name: str, check: Callable[[Entry, list[float]], None], readings: list[float]
) -> None:
    entry = catalogue.ALL[name]
    check(entry, [*checks.calm(entry, 0.0, entry.learn + 20, seed=6).tolist(), *readings])


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_restart_anywhere_changes_nothing_past_learning_and_during_an_alarm(entry: Entry) -> None:
    readings = checks.calm(entry, 0.0, entry.learn + 700, seed=5)
    readings[entry.learn + 50 : entry.learn + 200] += entry.trial.shift
    checks.state_survives_json_anywhere(entry, [min(1.0, value) for value in readings.tolist()])


@pytest.mark.parametrize("check", checks.ON_KNOWN_STREAMS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_detector_keeps_this_promise_on_known_streams(entry: Entry, check: Callable[[Entry], None]) -> None:
    check(entry)


def test_no_detector_of_the_package_is_missing_from_the_catalogue() -> None:
    listed = {type(entry.detector).__name__ for entry in (*catalogue.ALL.values(), *catalogue.VECTORS.values())}
    listed |= {type(guard.rule).__name__ for guard in (*rules.GUARDS, rules.CHAFF)}
    found = set()
    for path in Path(detectors.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and path.name not in {"base.py", "sighting.py"}:
                methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
                found |= {node.name} if {"start", "step"} <= methods else set()
    assert found <= listed
    assert len(found) > 10


def test_a_detectors_name_spells_out_every_parameter() -> None:
    for entry in catalogue.ALL.values():
        for field, value in vars(entry.detector).items():
            if field in type(entry.detector).__dataclass_fields__:
                for number in itertools.chain.from_iterable(value) if isinstance(value, tuple) else (value,):
                    assert f"{number:g}" in entry.detector.name, f"{field} is not in {entry.detector.name}"


def test_the_suite_catches_a_detector_that_lets_nan_in() -> None:
    class Blind(Drift):
        def step(self, state: State, seen: Observation) -> tuple[State, Verdict]:
            return ({**state, "last": 0}, super().step(state, seen)[1]) if math.isnan(seen.value) else super().step(state, seen)

    entry = catalogue.ALL["drift-brightness"]
    broken = Entry(**{**{name: getattr(entry, name) for name in Entry.__dataclass_fields__}, "detector": Blind(arl=1000)})
    with pytest.raises(BrokenContract, match="entered the state"):
        checks.wild_readings_refused_not_blinding(broken, [0.5])


def test_a_camera_attacked_from_its_first_frame_alarms_and_never_learns_the_attack() -> None:
    detector = catalogue.ALL["evasion"].detector
    state, statuses = detector.start(), []
    for sequence in range(60):
        state, verdict = detector.step(state, Observation(4 * sequence, 0.0, 0.98))
        statuses.append(verdict.status)
    assert Status.ALARM in statuses[:8]
    assert statuses[-1] is Status.ALARM


def test_an_attack_on_one_frame_in_ten_is_caught_and_its_alarm_outlives_the_frames_between() -> None:
    detector = catalogue.ALL["evasion"].detector
    state, statuses = detector.start(), []
    for sequence in range(200):
        state, verdict = detector.step(state, Observation(sequence, 0.0, 0.999 if sequence >= 50 and sequence % 10 == 0 else 0.03))
        statuses.append(verdict.status)
    first = statuses.index(Status.ALARM)
    assert 50 < first <= 100
    assert set(statuses[first:]) == {Status.ALARM}


def test_one_strange_frame_is_no_attack_however_strange() -> None:
    detector = catalogue.ALL["evasion"].detector
    state = detector.start()
    for sequence in range(400):
        state, verdict = detector.step(state, Observation(sequence, 0.0, 1.0 if sequence % 80 == 79 else 0.03))
        assert verdict.status is not Status.ALARM


def test_a_camera_whose_honest_pictures_look_odd_gets_a_level_of_its_own_but_only_so_far() -> None:
    detector = catalogue.ALL["evasion"].detector
    state = detector.start()
    for sequence in range(64):
        state, _ = detector.step(state, Observation(sequence, 0.0, 0.3 if sequence % 2 else 0.7))
    _, odd = detector.step(state, Observation(64, 0.0, 0.8))
    _, fresh = detector.step(detector.start(), Observation(0, 0.0, 0.8))
    assert odd.score < fresh.score
    for sequence in range(64, 80):
        state, verdict = detector.step(state, Observation(sequence, 0.0, 0.999))
    assert verdict.status is Status.ALARM


def test_a_view_that_moves_without_being_likely_to_be_attacked_is_weather() -> None:
    detector = catalogue.ALL["evasion"].detector
    state = detector.start()
    for sequence in range(200):
        worse = sequence >= 100
        beside = (0.25, 2.95, 1.3) if worse else (0.12, 2.85, 1.25)
        state, verdict = detector.step(state, Observation(sequence, 0.0, 0.01 if worse else 0.1, beside))
        assert verdict.status is not Status.ALARM


def test_an_attack_judged_by_a_foreign_calibration_says_so() -> None:
    _, signals = story(attack())
    assert "generic calibration" in signals[0].message


def test_the_suspicious_stretch_begins_right_after_the_last_usual_sample() -> None:
    detector = catalogue.ALL["evasion"].detector
    state = detector.start()
    for sequence in range(0, 120, 4):
        state, _ = detector.step(state, Observation(sequence, 0.0, 0.05))
    verdicts = []
    for sequence in range(120, 140, 4):
        state, verdict = detector.step(state, Observation(sequence, 0.0, 0.999))
        verdicts.append(verdict)
    alarm = next(verdict for verdict in verdicts if verdict.status is Status.ALARM)
    assert alarm.since_sequence == 117
    assert verdicts.index(alarm) <= 4


# The watch.


def judged(
    sequence: int,
    *,
    attacked: bool = False,
    epoch: int = 1000,
    context: Context = Context.URBAN,
    digest: str = NORMAL,
    **seen: float,
) -> Detections:
    """A judged frame; every fourth was looked at twice and is honest, unless it is said to be attacked."""
    wobble = math.sin(sequence * 12.9898) * 0.5
    usual: dict[str, float] = {
        "brightness": 0.45 + 0.01 * wobble,
        "contrast": 0.2 + 0.01 * wobble,
        "sharpness": 0.05,
        "heat": 0.02,
    } | seen
    looked = attacked or sequence % 4 == 0
    time = START + timedelta(seconds=sequence / 4)
    return Detections(
        id=event_id("detections", "cam", epoch, sequence), source="inference/w1", time=time, subject="cam",
        camera_id="cam", context=context, epoch=epoch, sequence=sequence, frame_id="f", frame_partition=0, frame_offset=sequence,
        camera_time=time, boxes=(),
        weights_digest=digest, mode=Mode.SAFE if digest == SAFE else Mode.NORMAL, decision_id="d",
        timings=Timings(decode_ms=1, infer_ms=1, scores_ms=1),
        features=Features(people=0, score_mean=0, score_max=0, height_mean_px=0, **usual),
        scores=look(NORMAL, attacked=attacked, wobble=wobble) if looked else InputScores(reference_digest=NORMAL),
    )  # fmt: skip


def story(events: list[Detections], state: dict | None = None) -> tuple[dict, list[Signal]]:
    state, signals = state or {}, []
    for event in events:
        state, said = watch(state, event)
        signals += said
    return state, signals


def attack(first: int = 200, last: int = 260, end: int = 360) -> list[Detections]:
    return [judged(n, attacked=first <= n <= last) for n in range(end)]


def test_an_attack_is_raised_told_and_calmed_with_windows_that_hold_every_bad_frame() -> None:
    _, signals = story(attack())
    assert {signal.kind for signal in signals} == {Kind.EVASION}
    assert [signals[0].phase, signals[-1].phase] == [Phase.RAISED, Phase.CALM]
    assert all(signal.phase is Phase.ONGOING for signal in signals[1:-1])
    assert {signal.window.first_sequence for signal in signals} == {197}
    assert signals[-1].window.last_sequence >= 260
    assert signals[0].window.last_sequence <= 206
    assert len({signal.id for signal in signals}) == len(signals)
    assert signals[0].time == START + timedelta(seconds=signals[0].window.last_sequence / 4), "the time is the judged frame's"


def test_minutes_of_usual_frames_and_missing_samples_say_nothing() -> None:
    _, signals = story([judged(n) for n in range(1500)])
    assert signals == []


def test_silence_during_an_alarm_is_not_calm() -> None:
    state, _ = story(attack(end=250))
    unsampled = [judged(n) for n in range(250, 600) if n % 4]
    _, signals = story(unsampled, state)
    assert {signal.kind for signal in signals} <= {Kind.TRAFFIC}, "every fourth frame is missing"


def test_a_repeated_frame_changes_nothing_and_a_crash_before_storing_sends_the_same_signals_again() -> None:
    state: dict = {}
    for event in attack():
        before = deepcopy(state)
        after, signals = watch(state, event)
        assert state == before
        assert watch(json.loads(json.dumps(state)), event) == (after, signals)
        assert watch(after, event) == (after, ())
        state = after


def test_a_frame_that_comes_late_is_not_judged_twice() -> None:
    state, _ = story(attack(end=210))
    assert watch(state, judged(5, attacked=True)) == (state, ())


def test_a_camera_that_starts_again_keeps_its_baselines_and_its_alarm() -> None:
    state, before = story(attack(end=240))
    again = [judged(n, attacked=n < 20, epoch=2000) for n in range(140)]
    _, after = story(again, state)
    assert [signal.phase for signal in before if signal.phase is Phase.RAISED] == [Phase.RAISED]
    assert Phase.RAISED not in {signal.phase for signal in after}
    assert after[0].window.epoch == 1000
    assert after[0].window.last_sequence == 239
    assert after[-1].phase is Phase.CALM
    assert (after[-1].window.epoch, after[-1].window.first_sequence) == (2000, 0)
    assert after[-1].window.last_sequence >= 19


def test_a_clock_set_back_does_not_blind_the_watch() -> None:
    state, _ = story([judged(n) for n in range(200)])
    _, signals = story([judged(n, attacked=True, epoch=10) for n in range(0, 40, 4)], state)
    assert signals[0].phase is Phase.RAISED
    assert signals[0].window == type(signals[0].window)(epoch=10, first_sequence=0, last_sequence=signals[0].window.last_sequence)


def test_an_attack_raises_no_drift_even_where_it_changes_the_picture() -> None:
    clean = [judged(n) for n in range(600)]
    bad = [judged(n, attacked=True, sharpness=0.07 if n > 620 else 0.05) for n in range(600, 1000)]
    _, signals = story(clean + bad)
    assert {signal.kind for signal in signals} == {Kind.EVASION}


def test_drift_found_in_an_attacks_first_frames_is_taken_back_once_the_attack_is_known() -> None:
    learned, _ = story([judged(n) for n in range(1200)])
    unlooked = InputScores(reference_digest=NORMAL)
    unseen = [msgspec.structs.replace(judged(n, heat=0.06), scores=unlooked) for n in range(1200, 1260)]
    state, before = story(unseen, learned)
    assert [(one.detector, one.phase) for one in before] == [("drift-heat", Phase.RAISED)]
    state, then = story([judged(n, attacked=True, heat=0.06) for n in range(1260, 1280)], state)
    assert [(one.kind, one.phase) for one in then[:2]] == [(Kind.EVASION, Phase.RAISED), (Kind.DRIFT, Phase.CALM)]
    _, after = story([judged(n) for n in range(1280, 1800)], state)
    assert [one.kind for one in (*then[2:], *after)] == [Kind.EVASION] * len((*then[2:], *after))


def test_drift_waits_with_its_word_while_an_attack_is_suspected_and_says_it_when_nothing_comes_of_that() -> None:
    learned, _ = story([judged(n) for n in range(1200)])
    strange = judged(1200, attacked=True, heat=0.06)
    state, before = story([strange, *(judged(n, heat=0.06) for n in range(1201, 1212))], learned)
    assert before == []
    _, then = story([judged(n, heat=0.06) for n in range(1212, 1400)], state)
    assert (then[0].detector, then[0].phase) == ("drift-heat", Phase.RAISED)
    assert then[0].window.first_sequence <= 1205


def test_copies_of_one_strange_picture_are_one_strange_picture() -> None:
    learned, _ = story([judged(n) for n in range(200)])
    strange = [judged(n, attacked=True) for n in range(200, 220)]
    shown = [bytes(128), *(n.to_bytes(128, "big") for n in range(1, 20))]

    def with_pictures(pictures: list[bytes]) -> list[Detections]:
        return [
            msgspec.structs.replace(one, features=msgspec.structs.replace(one.features, fingerprint=picture))
            for one, picture in zip(strange, pictures, strict=True)
        ]

    _, copies = story(with_pictures([shown[1]] * 20), learned)
    assert not [one for one in copies if one.kind is Kind.EVASION]
    _, others = story(with_pictures(shown), learned)
    assert others[0].kind is Kind.EVASION


def test_drift_that_was_told_before_an_attack_stays() -> None:
    learned, _ = story([judged(n) for n in range(1200)])
    state, before = story([judged(n, heat=0.06) for n in range(1200, 1400)], learned)
    assert before[0].detector == "drift-heat"
    _, then = story([judged(n, attacked=True, heat=0.06) for n in range(1400, 1420)], state)
    assert {one.kind for one in then} == {Kind.EVASION}


def test_a_darkened_picture_is_drift_and_no_attack() -> None:
    clean = [judged(n) for n in range(600)]
    dark = [judged(n, brightness=0.3 + 0.005 * math.sin(n)) for n in range(600, 800)]
    _, signals = story(clean + dark)
    assert {(signal.kind, signal.detector) for signal in signals} == {(Kind.DRIFT, "drift-brightness")}
    assert sum(signal.phase is Phase.RAISED for signal in signals) == 1


def test_another_context_and_other_weights_have_baselines_of_their_own() -> None:
    state, first = story([judged(n) for n in range(500)])
    highway = [judged(n, context=Context.HIGHWAY, brightness=0.7, contrast=0.3) for n in range(500, 700)]
    state, second = story(highway, state)
    safe = [judged(n, digest=SAFE, heat=0.06) for n in range(700, 900)]
    _, third = story(safe, state)
    assert first == second == third == []


def test_the_state_stays_bounded_and_json_however_many_weights_come_by() -> None:
    state: dict = {}
    for n in range(400):
        state, _ = watch(state, judged(n, digest=f"{n // 10:064x}", epoch=1000 + n // 20))
    assert len(state["baselines"]) <= KEPT_BASELINES
    assert len(json.dumps(state, allow_nan=False)) < 60_000


def test_a_state_of_another_version_is_refused_with_the_next_step() -> None:
    with pytest.raises(BrokenContract, match="clear the watcher's table"):
        watch({"version": 99}, judged(0))


def test_one_frame_costs_well_under_a_millisecond() -> None:
    state, _ = story([judged(n) for n in range(400)])
    events = [judged(n) for n in range(400, 1400)]
    started_s = time.process_time()
    story(events, state)
    assert (time.process_time() - started_s) / len(events) < 1e-3
