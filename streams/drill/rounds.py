"""Plays a scenario's round on the stage: steady state, method, what follows, undo, steady state again.

It decides when each part is over. What is done is the stage's, what is found the referee's. It refuses to begin in an unsteady
state: such a round has failed before it began, and says so. A fault of the drill itself is the round's outcome. No topic feeds it.

Source: Principles of Chaos Engineering; a failed undo fails the drill (Chaos Toolkit, issue 94).
"""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from streams.commands import command
from streams.drill import referee
from streams.drill.filming import FPS, Filmed
from streams.drill.referee import Notes, Outcome
from streams.drill.scenario import Do, Scenario, Step
from streams.drill.staging import Stage
from streams.errors import KerbwatchError, Unavailable
from streams.stack import open_store

_LOOK_S = 0.25
_SETTLE_S = 180.0
"""So long may it take until all is steady, before a round and after its undo: what weather changed is proven calm over minutes."""
_STILL_S = 1.5
_ANSWERS = 5
"""A storm is listed so often at least."""


def play(  # noqa: PLR0917 - a round has these parts
    stage: Stage, scenario: Scenario, number: int, over_since: datetime, stop: threading.Event, say: Callable[[str], None]
) -> Outcome | None:
    """One round; None if `stop` was set meanwhile: what is harmed then is mended when the stage is left.

    Whatever goes wrong is a fault of the round, not of the drill. `over_since`: when the round before was over. What was opened
    since then, before this one's method, nothing explains.
    """
    began, broken = datetime.now(UTC), list[str]()
    try:
        made = _round(stage, scenario, Notes(number, began, over_since), broken, stop, say)
    except Exception as error:  # noqa: BLE001 - hours of rounds are not lost to whatever ended this one
        made = failed(scenario, number, began, [*broken, f"the round broke off: {words(error)}"])
    return None if stop.is_set() else made


def failed(scenario: Scenario, number: int, began: datetime, faults: Sequence[str], false: Sequence[str] = ()) -> Outcome:
    """The outcome of a round that could not be judged."""
    took_s = round((datetime.now(UTC) - began).total_seconds(), 1)
    return Outcome(scenario.name, number, passed=False, faults=tuple(faults), false_incidents=tuple(false), took_s=took_s)


def words(error: Exception) -> str:
    """What went wrong; what is not one of our own errors is named too."""
    return str(error) if isinstance(error, KerbwatchError) else f"{type(error).__name__}: {error}"


def _round(  # noqa: PLR0917 - as above
    stage: Stage, scenario: Scenario, notes: Notes, broken: list[str], stop: threading.Event, say: Callable[[str], None]
) -> Outcome | None:
    everybody = tuple(stage.cameras.values())
    stage.extras.clear()
    if not _learned(scenario, stage.cameras[scenario.context], stop, say):
        return None
    say(f"{scenario.name}: steady state")
    if before := _settled(stage, everybody, notes.over_since, stop):
        opened = [f"{row.kind} on {row.camera_id}" for row in referee.since(stage, notes.over_since)]
        return failed(scenario, notes.round, notes.began, [f"not steady before: {fault}" for fault in before], opened)
    notes.began = datetime.now(UTC)
    with _Watch(stage, scenario, notes):
        try:
            _carry_out(stage, scenario, notes, stop, say)
        except Exception as error:  # noqa: BLE001 - what was harmed is to be mended, whatever happened
            broken.append(words(error))
        for step in scenario.undo:
            say(f"{scenario.name}: undo, {_told(step)}")
            if stop.wait(step.after_s):
                return None
            try:
                stage.do(step, scenario)
            except Exception as error:  # noqa: BLE001 - the next step may mend more
                broken.append(f"undo failed: {words(error)}")
        say(f"{scenario.name}: steady state again")
        broken += [f"not undone: {fault}" for fault in _settled(stage, everybody, notes.began, stop)]
    return None if stop.is_set() else referee.judge(scenario, stage, notes, broken)


def _carry_out(stage: Stage, scenario: Scenario, notes: Notes, stop: threading.Event, say: Callable[[str], None]) -> None:
    """The method, and what must follow it. Raises Unavailable where that does not come, and what a step raises."""
    expect, subject = scenario.expect, stage.cameras[scenario.context]
    for step in scenario.method:
        say(f"{scenario.name}: {_told(step)}")
        if stop.wait(step.after_s):
            return
        _do(stage, scenario, step, notes)
    say(f"{scenario.name}: what follows")
    until = time.monotonic() + expect.within_s
    if expect.answers_within_s is not None:
        _time_the_cli(stage, scenario, notes, until)
    while not (_is_over(subject) and referee.expected(scenario, stage, notes.began)):
        if time.monotonic() > until:
            raise Unavailable(f"what was expected had not come after {expect.within_s:g} s")
        if stop.wait(_LOOK_S):
            return
        subject.must_play()
    stop.wait(scenario.watch_s)


def _learned(scenario: Scenario, camera: Filmed, stop: threading.Event, say: Callable[[str], None]) -> bool:
    """Wait until the camera has run as long as the scenario needs; false if `stop` was set meanwhile. Raises if it has ended."""
    camera.must_play()
    while camera.shown < scenario.learn_s * FPS:
        say(f"{scenario.name}: {camera.camera_id} learns its baseline, {scenario.learn_s - camera.shown / FPS:.0f} s left")
        if stop.wait(_LOOK_S * 4):
            return False
        camera.must_play()
    return True


class _Watch:
    """Looks on from the first step until all is steady again, and writes down what disturbs the witness.

    In a thread of its own: steps take seconds or minutes, and the witness must be served meanwhile too.
    """

    def __init__(self, stage: Stage, scenario: Scenario, notes: Notes) -> None:
        self._stage, self._notes, self._over = stage, notes, threading.Event()
        self._witness = [camera for context, camera in stage.cameras.items() if context is not scenario.context]
        self._thread = threading.Thread(target=self._look_on, name="witness", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._over.wait(_LOOK_S):
            try:
                found = referee.unsteady(self._stage, self._witness, datetime.now(UTC))
            except Exception as error:  # noqa: BLE001 - who was not seen was not steady
                found = [f"it could not be watched: {words(error)}"]
            self._notes.disturbed.update(found)


def _is_over(camera: Filmed) -> bool:
    """Whether every stretch that was planned lies behind the camera."""
    return all(camera.shown >= stretch.from_picture + (stretch.pictures or 0) for stretch in list(camera.schedule))


def _settled(stage: Stage, cameras: Sequence[Filmed], began: datetime, stop: threading.Event) -> list[str]:
    """Wait for steady state; what is not steady if it does not come. It must last a moment: a calm between two findings is none.

    What was opened since `began` must be closed, wherever it is. Raises Unavailable if a camera has ended.
    """
    until = time.monotonic() + _SETTLE_S
    calm_since: float | None = None
    while not stop.wait(_LOOK_S):
        for camera in cameras:
            camera.must_play()
        found = [*referee.unsteady(stage, cameras, datetime.now(UTC)), *referee.left_open(stage, began)]
        now = time.monotonic()
        calm_since = None if found else calm_since or now
        if calm_since is not None and now - calm_since >= _STILL_S:
            return []
        if now > until:
            return list(dict.fromkeys(found)) or ["steady for moments only"]
    return []


def _do(stage: Stage, scenario: Scenario, step: Step, notes: Notes) -> None:
    if step.do is Do.POISON:
        from streams.drill.poison import batch_refused  # noqa: PLC0415 - torch takes seconds, and only this step needs it

        notes.batch_refused = batch_refused(stage.settings, open_store(stage.settings), datetime.now(UTC))
        return
    stage.do(step, scenario)
    if step.do is Do.KILL:
        notes.killed.append(datetime.now(UTC))


def _time_the_cli(stage: Stage, scenario: Scenario, notes: Notes, until: float) -> None:
    """How long a listing takes at most, from the command's start to its end, as long as the storm is worked off."""
    answers = 0
    while answers < _ANSWERS or not referee.expected(scenario, stage, notes.began):
        if time.monotonic() > until:
            return
        began_s = time.monotonic()
        command(["incidents", "list", "--json"], stage.settings, apart=True)
        notes.answered_s = max(notes.answered_s or 0.0, round(time.monotonic() - began_s, 2))
        answers += 1
        stage.pause(_LOOK_S)


def _told(step: Step) -> str:
    words = [str(step.do), step.attack or "", str(step.process or ""), str(step.mode or ""), str(step.state or "")]
    words += [f"{step.count} signals"] if step.count else []
    words += [f"for {step.for_s:g} s"] if step.for_s else []
    return " ".join(word for word in words if word)
