"""What every detector of the catalogue owes, as code that anyone can run on an entry of their own.

A check takes an entry (and readings, where it holds on any) and raises BrokenContract when the promise is broken. It decides
nothing about a detector's worth beyond what its entry declares. Topic: none.

Source: river's estimator checks (the idea of a shipped suite); docs of `base.py` (the promises).
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import cast

import numpy as np
from numpy.typing import NDArray

from detectors.base import Observation, State, Status, Verdict
from detectors.catalogue import Entry
from streams.errors import BrokenContract

MOST_STATE_BYTES = 16_384
CALM_READINGS = 20_000
FRAMES_PER_S = 5.0


def observe(readings: Iterable[float]) -> list[Observation]:
    """Readings as a camera's observations, numbered from 0."""
    return [Observation(sequence, sequence / FRAMES_PER_S, value) for sequence, value in enumerate(readings)]


def run(entry: Entry, seen: Iterable[Observation], state: State | None = None) -> tuple[State, list[Verdict]]:
    """The entry's detector over observations, from `state` or its start: the state it ends in and every verdict."""
    state = entry.detector.start() if state is None else state
    verdicts = []
    for each in seen:
        state, verdict = entry.detector.step(state, each)
        verdicts.append(verdict)
    return state, verdicts


def calm(entry: Entry, phi: float, count: int, seed: int) -> NDArray[np.float64]:
    """Readings without a change as the entry's trial declares them: Gaussian AR(1), kept within what the feature can be."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(count)
    grown = np.empty(count)
    value = noise[0]
    keep = math.sqrt(1.0 - phi * phi)
    for number, fresh in enumerate(noise):
        grown[number] = value = phi * value + keep * fresh if number else fresh
    return np.clip(entry.trial.level + entry.trial.spread * grown, 0.0, 1.0)


def _promise(holds: object, entry: Entry, words: str) -> None:
    if not holds:
        raise BrokenContract(
            f"detector {entry.name} ({entry.detector.name}): {words}; mend the detector or take it off the catalogue"
        )


def same_readings_same_verdicts(entry: Entry, readings: Sequence[float]) -> None:
    """No hidden memory, no chance, no clock. Raises BrokenContract."""
    seen = observe(readings)
    _promise(run(entry, seen) == run(entry, seen), entry, "the same readings gave other verdicts")


def state_survives_json_anywhere(entry: Entry, readings: Sequence[float]) -> None:
    """Restarted after every single reading it says what it says uninterrupted, bit for bit. Raises BrokenContract."""
    state, expected = run(entry, observe(readings))
    restarted = entry.detector.start()
    for each, verdict in zip(observe(readings), expected, strict=True):
        restarted = cast("State", json.loads(json.dumps(restarted, allow_nan=False)))
        restarted, again = entry.detector.step(restarted, each)
        _promise(again == verdict, entry, f"restarted at reading {each.sequence} it said {again} instead of {verdict}")
    _promise(restarted == state, entry, "restarts left it in another state")


def input_state_untouched(entry: Entry, readings: Sequence[float]) -> None:
    """A state handed in is never written to. Raises BrokenContract."""
    state = entry.detector.start()
    for each in observe(readings):
        before = deepcopy(state)
        after, _ = entry.detector.step(state, each)
        _promise(state == before, entry, f"reading {each.sequence} changed the state that was handed in")
        state = after


def wild_readings_refused_not_blinding(entry: Entry, readings: Sequence[float]) -> None:
    """A refused reading has a reason and leaves state and later verdicts as they were; every number said is finite.

    NaN, infinities and 1e308 are put between all readings, and must be refused. Raises BrokenContract.
    """
    state, quiet = entry.detector.start(), entry.detector.start()
    for each in observe(readings):
        for wild in (math.nan, math.inf, -math.inf, 1e308, -1e308):
            after, verdict = entry.detector.step(state, Observation(each.sequence, each.time_s, wild))
            _promise(verdict.status is Status.REFUSED and verdict.reason, entry, f"{wild} was not refused with a reason")
            _promise(after == state, entry, f"{wild} entered the state")
            state = after
        state, verdict = entry.detector.step(state, each)
        quiet, undisturbed = entry.detector.step(quiet, each)
        _promise(verdict == undisturbed, entry, f"wild readings changed the verdict on reading {each.sequence}")
        _promise(math.isfinite(verdict.score) and verdict.score >= 0.0, entry, f"score {verdict.score} is no finite number from 0")
        _promise(math.isfinite(verdict.evidence) and verdict.evidence >= 0.0, entry, f"evidence {verdict.evidence} is not finite")
        if not math.isfinite(each.value):
            _promise(verdict.status is Status.REFUSED and verdict.reason, entry, f"{each.value} was not refused with a reason")


def alarms_say_since_when(entry: Entry, readings: Sequence[float]) -> None:
    """An alarm names the frame where its stretch begins, not after the reading that raised it. Raises BrokenContract."""
    _, verdicts = run(entry, observe(readings))
    for sequence, verdict in enumerate(verdicts):
        if verdict.status is Status.ALARM:
            _promise(verdict.evidence >= 1.0, entry, "an alarm has evidence below 1")
            since = verdict.since_sequence
            _promise(since is not None and 0 <= since <= sequence, entry, f"an alarm at {sequence} begins at {since}")


def memory_is_bounded(entry: Entry) -> None:
    """The state stays below MOST_STATE_BYTES as JSON, on a long calm stream with jumps in it. Raises BrokenContract."""
    readings = calm(entry, 0.0, 6_000, seed=1)
    readings[2_000:2_500] += entry.trial.shift
    readings[4_000:] = np.clip(readings[4_000:] - entry.trial.shift, 0.0, 1.0)
    state = entry.detector.start()
    for each in observe(readings):
        state, _ = entry.detector.step(state, each)
        if each.sequence % 500 == 499:  # noqa: PLR2004 - now and then is enough
            size = len(json.dumps(state, allow_nan=False))
            _promise(size <= MOST_STATE_BYTES, entry, f"its state has {size} bytes after {each.sequence + 1} readings")


def false_alarms_within_budget(entry: Entry) -> None:
    """On calm readings no more alarms than its declared mean time allows by chance (99.9 %). Raises BrokenContract."""
    for phi in entry.trial.phis:
        _, verdicts = run(entry, observe(calm(entry, phi, CALM_READINGS, seed=2)))
        raised = sum(now.status is Status.ALARM and before.status is not Status.ALARM for before, now in pairwise(verdicts))
        expected = CALM_READINGS / entry.arl
        allowed = expected + 3.1 * math.sqrt(expected) + 1.0
        _promise(raised <= allowed, entry, f"{raised} false alarms in {CALM_READINGS} readings at phi {phi}, {allowed:.1f} allowed")


def planted_change_caught_in_time(entry: Entry) -> None:
    """The declared shift, after three times the learning length, alarms within the declared delay, and not before it.

    Raises BrokenContract.
    """
    begin = 3 * entry.learn
    for phi in entry.trial.phis:
        readings = calm(entry, phi, begin + entry.trial.within, seed=3)
        readings[begin:] = np.clip(readings[begin:] + entry.trial.shift, 0.0, 1.0)
        _, verdicts = run(entry, observe(readings))
        alarms = [sequence for sequence, verdict in enumerate(verdicts) if verdict.status is Status.ALARM]
        _promise(alarms, entry, f"a shift of {entry.trial.shift:g} at phi {phi} was not seen within {entry.trial.within} readings")
        _promise(alarms[0] >= begin, entry, f"it alarmed at {alarms[0]}, before the change at {begin}")


def wider_spread_caught_in_time(entry: Entry) -> None:
    """A spread as wide as declared, round the usual level, alarms within the declared delay. Raises BrokenContract."""
    if entry.trial.wider <= 1.0:
        return
    begin, level = 3 * entry.learn, entry.trial.level
    for phi in entry.trial.phis:
        readings = calm(entry, phi, begin + entry.trial.within, seed=3)
        readings[begin:] = np.clip(level + entry.trial.wider * (readings[begin:] - level), 0.0, 1.0)
        _, verdicts = run(entry, observe(readings))
        caught = any(verdict.status is Status.ALARM for verdict in verdicts[begin:])
        words = f"a spread {entry.trial.wider:g} times as wide at phi {phi} was not seen within {entry.trial.within} readings"
        _promise(caught, entry, words)


def calm_must_be_proven(entry: Entry) -> None:
    """An alarm outlives its cause's first pause and silence, and ends when readings are as before. Raises BrokenContract."""
    begin, end = 3 * entry.learn, 3 * entry.learn + entry.trial.within
    readings = calm(entry, 0.0, end + 4_000, seed=4)
    readings[begin:end] = np.clip(readings[begin:end] + entry.trial.shift, 0.0, 1.0)
    _, verdicts = run(entry, observe(readings))
    _promise(verdicts[end].status is Status.ALARM, entry, "one calm reading ended the alarm")
    _promise(verdicts[-1].status is Status.NORMAL, entry, "the alarm went on for 4,000 calm readings")


ON_ANY_READINGS: tuple[Callable[[Entry, Sequence[float]], None], ...] = (
    same_readings_same_verdicts,
    state_survives_json_anywhere,
    input_state_untouched,
    wild_readings_refused_not_blinding,
    alarms_say_since_when,
)
"""Checks that hold on any readings whatever; made for property tests."""
ON_KNOWN_STREAMS: tuple[Callable[[Entry], None], ...] = (
    memory_is_bounded,
    false_alarms_within_budget,
    planted_change_caught_in_time,
    wider_spread_caught_in_time,
    calm_must_be_proven,
)
"""Checks over seeded streams with known truth; some seconds each."""
