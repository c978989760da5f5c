"""Traffic rules: each attack is found and told in words, its innocent look-alike is not; state is bounded and restart-exact.

The attacks are those of `kerbwatch chaos`, played by a camera, refused or passed by the worker's intake, measured by its cues and
watched by the pure watch: all but Kafka and the network.
"""

import itertools
import json
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from looks import look
from numpy.typing import NDArray

from detectors.base import State, Status, Verdict
from detectors.catalogue import RUNNING, Entry
from detectors.traffic import rules
from detectors.traffic.rules import CHAFF, GUARDS
from detectors.traffic.sighting import Rule, Sighting
from detectors.triage.layout import CELLS
from detectors.watch import watch
from inference.service import cues
from inference.service.intake import Accepted, Intake
from streams import codec
from streams.attacks import Attack, Flood, ReplayedFrames, SecondSender, Stretch, TakenOut
from streams.camera import Body, Clock, play
from streams.errors import BadInput
from streams.events import Context, Detections, InputScores, Kind, Mode, Phase, Signal, Timings, event_id
from streams.line import FrameMessage, Landed, Place
from streams.sources.base import Picture, Shot

START = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
RULES = [pytest.param(guard.rule, id=guard.name) for guard in (*GUARDS, CHAFF)]
FPS = 5.0
SIZE = (96, 192)


# -- a camera, a worker, a watch -----------------------------------------------------------------------------------------


class Scene:
    """A camera's view: a still wall, its sensor's noise, and something that moves along, back and forth unless `empty`."""

    name = "scene"
    fps = FPS

    def __init__(self, *, empty: bool = False, noise: int = 0, every: int = 1) -> None:
        self._empty, self._noise, self._every = empty, noise, every
        self._wall = cv2.GaussianBlur(np.random.default_rng(0).uniform(40, 200, SIZE).astype(np.float32), (0, 0), 6)

    def picture(self, number: int) -> Picture:
        number -= number % self._every
        rng = np.random.default_rng((self._noise, number))
        wall = self._wall + rng.normal(0, 2.0, SIZE).astype(np.float32)
        if not self._empty:
            left = int(abs((number * 7) % 360 - 180) * 0.9)
            wall[30:80, left : left + 14] = 220
        return np.repeat(np.clip(wall, 0, 255).astype(np.uint8)[..., None], 3, axis=2)

    def __iter__(self) -> Iterator[Shot]:
        return (Shot(f"s{number}", number / FPS, self.picture(number), ()) for number in itertools.count())


class Wired:
    """A line that keeps what is sent."""

    def __init__(self) -> None:
        self.messages: list[FrameMessage] = []

    def send(self, message: FrameMessage, landed: Landed, stop: threading.Event) -> None:
        assert not stop.is_set()
        self.messages.append(message)
        landed(Place(0, len(self.messages)))

    def finish(self, stop: threading.Event) -> int:
        return int(stop.is_set())


def filmed(
    scene: Scene,
    pictures: int,
    schedule: Sequence[Stretch] = (),
    *,
    start: datetime = START,
    context: Context = Context.URBAN,
    fps: float = FPS,
) -> list[FrameMessage]:
    """What a camera sends of a scene, at its pace."""
    line, ticks = Wired(), itertools.count()
    clock = Clock(lambda: start + timedelta(seconds=next(ticks) / fps), lambda: 0.0)
    play(scene, Body("gate", context, KEY), line, clock, threading.Event(), fps=0, pictures=pictures, schedule=schedule)
    return line.messages


def admitted(
    messages: Iterable[FrameMessage], late_s: float = 0.1, intake: Intake | None = None
) -> Iterator[tuple[Accepted, datetime]]:
    """What the worker takes of it, and when; what it refuses is told by `inference.service.refusals`."""
    intake = intake or Intake(lambda _frame: None, allowance_s=5)
    for offset, (frame, body) in enumerate(messages):
        now = frame.time + timedelta(seconds=late_s)
        try:
            headers = codec.encode_frame(frame)
            yield intake.admit(headers, body, key=b"gate", partition=0, offset=offset, now=now), now
        except BadInput:
            continue


VIEW: Any = SimpleNamespace(boxes=(), heat=np.full((4, 4), 0.02, np.float32), embedding=np.zeros(0, np.float32))


def detections(one: Accepted, now: datetime) -> Detections:
    """As the judge makes them, of a model that sees nothing."""
    frame = one.frame
    return Detections(
        id=event_id("detections", frame.camera_id, frame.epoch, frame.sequence), source="inference/w1", time=now,
        subject=frame.camera_id, camera_id=frame.camera_id, context=frame.context, epoch=frame.epoch, sequence=frame.sequence,
        frame_id=frame.id, frame_partition=0, frame_offset=one.offset, camera_time=frame.time, boxes=(), weights_digest="a" * 64,
        mode=Mode.NORMAL, decision_id="d", features=cues.features(one.picture, VIEW), scores=InputScores(reference_digest="a" * 64),
        timings=Timings(infer_ms=1, scores_ms=1), refused=one.refused,
    )  # fmt: skip


GREY = cues.features(np.full((16, 16, 3), 100, np.uint8), VIEW)


def watched(events: Iterable[Detections], entries: Sequence[Entry] = ()) -> list[Signal]:
    """Every signal of the watch."""
    state: dict[str, Any] = {}
    signals: list[Signal] = []
    for event in events:
        state, said = watch(state, event, entries=entries)
        signals += said
    return signals


def told(messages: Iterable[FrameMessage], late_s: float = 0.1) -> list[Signal]:
    """What the watch says of a camera's messages."""
    return watched(detections(one, now) for one, now in admitted(messages, late_s))


def raised(signals: Iterable[Signal]) -> list[tuple[str, int]]:
    """Detector and last frame of what was raised."""
    return [(signal.detector, signal.window.last_sequence) for signal in signals if signal.phase is Phase.RAISED]


@cache
def clean() -> list[FrameMessage]:
    """Three minutes of a calm camera."""
    return filmed(Scene(), 900)


ATTACKS: list[tuple[Attack, str, str, int]] = [
    (Flood(fresh=True, times=8), "rate", "times as fast as usual", 40),
    (TakenOut(), "holes", "frames are missing", 45),
    (ReplayedFrames(fresh=True, back=1), "frozen", "has not moved at all", 22),
    (ReplayedFrames(fresh=True), "replayed", "are shown again", 40),
    (ReplayedFrames(fresh=True, quality=60), "replayed", "are shown again", 60),
]


@pytest.mark.parametrize(("attack", "detector", "words", "within"), ATTACKS, ids=lambda value: getattr(value, "name", ""))
def test_an_attack_is_raised_in_words_opens_a_traffic_finding_and_ends(
    attack: Attack, detector: str, words: str, within: int
) -> None:
    messages = filmed(Scene(), 600, [Stretch(attack, 360, 60)])
    epoch = messages[0].frame.epoch
    begin = 360
    signals = [signal for signal in told(messages) if signal.detector == detector]
    first, last = signals[0], signals[-1]
    kind = Kind.CAMERA if detector == "frozen" else Kind.TRAFFIC
    assert (first.phase, first.kind, first.window.epoch) == (Phase.RAISED, kind, epoch)
    assert begin <= first.window.last_sequence <= begin + within
    assert words in first.message
    assert last.phase is Phase.CALM, "calm is proven after it"
    assert sum(signal.phase is Phase.RAISED for signal in signals) == 1


def test_a_clean_camera_says_nothing_for_minutes() -> None:
    assert told(clean()) == []


def test_an_empty_street_stands_still_but_for_its_noise_and_is_not_frozen_nor_replayed() -> None:
    assert told(filmed(Scene(empty=True), 700)) == []


def test_a_camera_that_sends_every_picture_twice_is_not_frozen() -> None:
    assert told(filmed(Scene(every=2), 500)) == []


def test_a_reconnect_is_one_gap_in_time_and_numbers_and_no_finding() -> None:
    messages = clean()
    assert told(messages[:400] + messages[520:]) == []


def test_a_restart_is_a_new_epoch_and_no_finding() -> None:
    first = clean()[:400]
    again = filmed(Scene(noise=1), 400, start=START + timedelta(seconds=95))
    assert told(first + again[3:]) == []


def test_a_network_that_bunches_frames_and_a_worker_that_catches_up_are_no_finding() -> None:
    messages = clean()
    events = [detections(one, now) for one, now in admitted(messages)]
    late = []
    for number, event in enumerate(events):
        bunch = 30 - number % 30 if number < 500 else max(0.0, 170 - (number - 500) * 0.9)  # 6 s bunches; then 170 s behind
        late.append(replace_time(event, event.camera_time + timedelta(seconds=bunch / FPS if number < 500 else bunch)))
    assert watched(late) == []


def replace_time(event: Detections, moment: datetime) -> Detections:
    """The event judged at another moment."""
    return msgspec.structs.replace(event, time=moment)


def test_what_intake_refused_is_told_there_and_is_no_hole() -> None:
    messages = clean()
    spoilt = [
        FrameMessage(frame, body[:-1]) if frame.sequence % 5 == 3 and frame.sequence > 300 else FrameMessage(frame, body)
        for frame, body in messages
    ]
    assert told(spoilt) == []


def test_frames_that_a_late_worker_left_out_are_no_holes() -> None:
    events = [detections(one, now) for one, now in admitted(clean())]
    late = [replace_time(e, e.camera_time + timedelta(seconds=30)) if n > 600 else e for n, e in enumerate(events)]
    assert [s for s in watched(e for n, e in enumerate(late) if n < 600 or n % 3) if s.detector == "holes"] == []


def test_a_clock_that_is_minutes_behind_is_found_also_by_a_worker_that_has_just_started() -> None:
    messages = clean()[:300]
    signals = watched(detections(one, now) for one, now in admitted(messages, late_s=3600.0))
    assert [detector for detector, _ in raised(signals)] == ["lag"]
    assert "3600 s further back" in signals[0].message


def test_a_second_sender_is_found_when_a_fresh_worker_lets_it_through() -> None:
    messages = filmed(Scene(), 60, [Stretch(SecondSender(), 20)])
    passed = [
        detections(one, now)
        for number, message in enumerate(messages)
        for one, now in admitted([message], intake=Intake(lambda _frame: None, allowance_s=5))
        if number < 100
    ]
    signals = [signal for signal in watched(passed) if signal.detector == "senders"]
    assert signals[0].phase is Phase.RAISED
    assert "two senders" in signals[0].message
    assert signals[0].window.first_sequence in {20, 21}
    assert len(raised(signals)) == 1


def test_frames_under_way_when_a_camera_restarted_are_no_second_sender() -> None:
    old = clean()[:40]
    new = filmed(Scene(noise=1), 40, start=START + timedelta(seconds=9))
    order = [*old[:37], *new[:4], *old[37:], *new[4:]]
    events = [detections(one, now) for message in order for one, now in admitted([message])]
    assert watched(events) == []


def calm(
    number: int, *, attacked: bool | None = None, context: Context = Context.URBAN, embedding: Sequence[float] = ()
) -> Detections:
    """A frame of a calm camera without a picture: cheap enough for thousands."""
    moment = START + timedelta(seconds=number / FPS)
    cells = (np.full(CELLS, 100.0) + 0.3 * np.random.default_rng(number).standard_normal(CELLS)) * 256
    return Detections(
        id=f"{number}", source="inference/w1", time=moment, subject="gate", camera_id="gate", context=context, epoch=1,
        sequence=number, frame_id="f", frame_partition=0, frame_offset=number, camera_time=moment, boxes=(),
        weights_digest="a" * 64, mode=Mode.NORMAL, decision_id="d", timings=Timings(infer_ms=1, scores_ms=1),
        features=msgspec.structs.replace(GREY, fingerprint=cells.astype(">u2").tobytes(), embedding=tuple(embedding)),
        scores=InputScores(reference_digest="a" * 64) if attacked is None else look("a" * 64, attacked=attacked),
    )  # fmt: skip


# -- contexts ------------------------------------------------------------------------------------------------------------


KINDS = {"urban": np.linspace(-1, 1, 16), "highway": np.linspace(1.5, -0.5, 16), "tunnel": np.full(16, 4.0)}


def drive(*parts: tuple[Context, str, int]) -> Iterator[Detections]:
    """A camera on its way: what it claims, what its pictures show to the model, for how many frames."""
    rng = np.random.default_rng(4)
    slow, begun = np.zeros(16), 0
    for context, kind, count in parts:
        for number in range(begun, begun + count):
            slow = 0.95 * slow + 0.03 * rng.standard_normal(16)
            seen = KINDS[kind] + slow + 0.05 * rng.standard_normal(16)
            yield calm(number, context=context, embedding=tuple(seen.tolist()))
        begun += count


URBAN, HIGHWAY = Context.URBAN, Context.HIGHWAY
THERE = ((URBAN, "urban", 400), (HIGHWAY, "highway", 400))


def test_a_camera_that_really_drives_from_town_to_highway_and_back_is_believed() -> None:
    assert watched(drive(*THERE, (URBAN, "urban", 300), (HIGHWAY, "highway", 300))) == []


def test_a_wrong_claim_is_noticed_where_both_contexts_are_known() -> None:
    signals = watched(drive(*THERE, (URBAN, "highway", 150), (URBAN, "urban", 200)))
    assert [detector for detector, _ in raised(signals)] == ["claim"]
    assert signals[0].context is URBAN
    assert 855 <= signals[0].window.last_sequence <= 880
    assert "claims urban, but the picture is one of its highway pictures" in signals[0].message
    assert signals[-1].phase is Phase.CALM


def test_a_claim_that_changes_while_the_picture_does_not_is_noticed_and_teaches_the_new_context_nothing() -> None:
    state: dict[str, Any] = {}
    signals: list[Signal] = []
    for event in drive((URBAN, "urban", 400), (HIGHWAY, "urban", 200)):
        state, said = watch(state, event, entries=())
        signals += said
    assert [detector for detector, _ in raised(signals)] == ["claim"]
    [cell] = [cell for key, cell in state["camera"].items() if key.startswith("claim/")]
    assert cell["state"]["known"]["highway/" + "a" * 64]["count"] < 5


def test_weather_far_from_both_contexts_is_no_wrong_claim() -> None:
    assert watched(drive(*THERE, (URBAN, "tunnel", 300))) == []


def test_other_weights_are_never_compared() -> None:
    events = [*drive((URBAN, "urban", 400))]
    weights: dict[str, Any] = {"weights_digest": "b" * 64, "scores": InputScores(reference_digest="b" * 64)}
    other = [msgspec.structs.replace(calm(400 + n, context=HIGHWAY), **weights) for n in range(150)]
    assert watched([*events, *other]) == []


# -- chaff ---------------------------------------------------------------------------------------------------------------


def test_alarms_set_off_again_and_again_are_told_once_as_chaff() -> None:
    evasion = [entry for entry in RUNNING if entry.kind is Kind.EVASION]
    events = [calm(n, attacked=n > 100 and n % 150 < 10) for n in range(2000)]
    signals = watched(events, evasion)
    provoked = sum(s.phase is Phase.RAISED and s.kind is Kind.EVASION for s in signals)
    chaff = [s for s in signals if s.detector == "chaff"]
    assert provoked >= 10
    assert sum(s.phase is Phase.RAISED for s in chaff) == 1
    assert len(chaff) <= 3, "the alarm about the flood is no flood"
    assert "begin anew again and again" in chaff[0].message


def test_one_storm_that_trips_every_detector_once_is_no_chaff() -> None:
    rule, state = CHAFF.rule, CHAFF.rule.start()
    for number in range(3000):
        names = (f"drift-{number}", "evasion") if number in {10, 12} else (f"drift-{number % 9}",) if number < 9 else ()
        state, verdict = rule.step(state, sight(number, raised=names))
        assert verdict.status is not Status.ALARM


def test_a_scene_that_repeats_itself_is_learned_in_each_context_and_a_replay_exceeds_it() -> None:
    again = np.random.default_rng(1).normal(0, 60, (40, CELLS))
    fresh = np.random.default_rng(2).normal(0, 60, (1200, CELLS))

    def frame(number: int, shown: int) -> Sighting:
        cells = 25_600 + fresh[shown] + (again[shown % 40] if number >= 320 else 0.0)
        return sight(number, cells=tuple(cells.astype(int).tolist()), context="urban" if number < 320 else "highway")

    [rule] = [guard.rule for guard in GUARDS if guard.name == "replayed"]
    state, verdicts = ran(rule, (frame(n, n) for n in range(1000)))
    assert Status.ALARM not in {verdict.status for verdict in verdicts}
    _, verdicts = ran(rule, (frame(n, n - 301) for n in range(1000, 1080)), state)
    assert "from 301 frames ago" in next(verdict.leads for verdict in verdicts if verdict.status is Status.ALARM)


# -- promises of every rule ----------------------------------------------------------------------------------------------


def sight(number: int, **changes: object) -> Sighting:
    """A frame of a calm camera."""
    cells = (np.full(CELLS, 100 * 256) + 40 * np.random.default_rng(number).standard_normal(CELLS)).astype(int)
    usual: dict[str, object] = {
        "sequence": number, "time_s": number / FPS, "waited_s": 0.1, "epoch": 1, "number": number, "context": "urban",
        "digest": "a", "cells": tuple(int(cell) for cell in cells), "embedding": (0.1, 0.2),
    }  # fmt: skip
    return Sighting(**{**usual, **changes})  # type: ignore[arg-type]


SIGHTINGS = st.lists(
    st.builds(
        Sighting,
        sequence=st.integers(0, 2**40), time_s=st.floats(-1e12, 1e12), waited_s=st.floats(-1e12, 1e12), epoch=st.integers(0, 2**50),
        number=st.integers(0, 2**40), context=st.sampled_from(["urban", "highway"]), digest=st.sampled_from(["a", "b"]),
        refused=st.integers(0, 10**6),
        cells=st.one_of(st.just(()), st.tuples(*[st.integers(0, 65280)] * CELLS)),
        embedding=st.lists(st.floats(width=32), max_size=3).map(tuple),
        raised=st.lists(st.sampled_from("xyz"), max_size=3).map(tuple),
    ),
    max_size=8,
)  # fmt: skip


def ran(rule: Rule, seen: Iterable[Sighting], state: State | None = None) -> tuple[State, list[Verdict]]:
    """The rule over frames."""
    state = rule.start() if state is None else state
    verdicts = []
    for each in seen:
        state, verdict = rule.step(state, each)
        verdicts.append(verdict)
    return state, verdicts


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=15, deadline=None)
@given(seen=SIGHTINGS)
def test_every_rule_survives_any_frames_repeats_itself_and_leaves_its_input(rule: Rule, seen: list[Sighting]) -> None:
    state, _ = ran(rule, (sight(n) for n in range(12)))
    for each in seen:
        before = deepcopy(state)
        after, verdict = rule.step(state, each)
        assert state == before
        again = json.loads(json.dumps(state, allow_nan=False))
        assert rule.step(again, each) == (after, verdict)
        assert json.loads(json.dumps(after, allow_nan=False)) == after
        assert math.isfinite(verdict.score)
        assert verdict.score >= 0
        state = after


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_keeps_a_small_state(rule: Rule) -> None:
    state, _ = ran(
        rule,
        (sight(n, epoch=1 + n // 50, digest=str(n // 40), raised=(f"d{n % 60}",), embedding=tuple(range(16))) for n in range(900)),
    )
    assert len(json.dumps(state)) < 8_192


def test_a_rules_name_spells_out_every_parameter() -> None:
    for guard in (*GUARDS, CHAFF):
        for field, value in vars(guard.rule).items():
            assert f"{field}={value:g}" in guard.rule.name


def test_a_frame_of_all_rules_costs_well_under_a_millisecond() -> None:
    frames = [sight(n) for n in range(900)]
    states = [ran(guard.rule, frames[:600])[0] for guard in GUARDS]
    started_s = time.process_time()
    for guard, state in zip(GUARDS, states, strict=True):
        ran(guard.rule, frames[600:], state)
    assert (time.process_time() - started_s) / 300 < 1e-3


def test_a_fingerprint_costs_less_than_a_third_of_a_millisecond() -> None:
    luma: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (240, 320), np.uint8)
    cues.fingerprint(luma)
    started_s = time.process_time()
    for _ in range(200):
        cues.fingerprint(luma)
    assert (time.process_time() - started_s) / 200 < 3e-4


def test_every_rule_of_the_list_has_a_name_of_its_own_and_says_what_calm_means() -> None:
    every = (*rules.GUARDS, rules.CHAFF)
    assert len({guard.name for guard in every}) == len(every)
    assert all(guard.calm and guard.why for guard in every)
