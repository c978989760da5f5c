"""Plays a scenario's round on the stage: steady state, method, what follows, undo, steady state again.

It decides when each part is over. What is done is the stage's, what is found the referee's. It refuses to begin in an unsteady
state: such a round has failed before it began, and says so. No topic feeds it.

Source: Principles of Chaos Engineering; a failed undo fails the drill (Chaos Toolkit, issue 94).
"""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from streams.commands import command
from streams.drill import referee
from streams.drill.filming import FPS, Filmed
from streams.drill.referee import Notes, Outcome
from streams.drill.scenario import Do, Scenario, Step
from streams.drill.staging import Stage
from streams.errors import KerbwatchError
from streams.stack import open_store

_LOOK_S = 0.25
_SETTLE_S = 180.0
"""So long may it take until all is steady, before a round and after its undo: what weather changed is proven calm over minutes."""
_STILL_S = 1.5


def play(  # noqa: PLR0917 - a round has these parts
    stage: Stage, scenario: Scenario, number: int, over_since: datetime, stop: threading.Event, say: Callable[[str], None]
) -> Outcome | None:
    """One round; None if `stop` was set meanwhile. Errors of single steps are faults of the round, not of the drill.

    `over_since`: when the round before was over. What was opened since then, before this one's method, nothing explains.
    """
    subject = stage.cameras[scenario.context]
    everybody = tuple(stage.cameras.values())
    if not _learned(scenario, subject, stop, say):
        return None
    say(f"{scenario.name}: steady state")
    if before := _settled(stage, everybody, stop):
        faults = tuple(f"not steady before: {words}" for words in before)
        opened = tuple(f"{row.kind} on {row.camera_id}" for row in referee.since(stage, over_since))
        return None if stop.is_set() else Outcome(scenario.name, number, passed=False, faults=faults, false_incidents=opened)
    notes = Notes(number, datetime.now(UTC), over_since)
    broken: list[str] = []
    watch = _Watch(stage, scenario, notes, stop)
    try:
        for step in scenario.method:
            say(f"{scenario.name}: {_told(step)}")
            watch.look_for(step.after_s)
            _do(stage, scenario, step, notes)
            if scenario.expect.answers_within_s is not None and step.do is Do.STORM:
                _time_the_cli(stage, notes)
        say(f"{scenario.name}: what follows")
        if not watch.look_until_over():
            broken.append(f"what was expected had not come after {scenario.expect.within_s:g} s")
        watch.look_for(scenario.watch_s)
    except KerbwatchError as error:
        broken.append(str(error))
    for step in scenario.undo:
        say(f"{scenario.name}: undo, {_told(step)}")
        try:
            watch.wait(step.after_s)
            stage.do(step, scenario.context)
        except KerbwatchError as error:
            broken.append(f"undo failed: {error}")
    after = _settled(stage, everybody, stop)
    if stop.is_set():
        return None
    return referee.judge(scenario, stage, notes, [*broken, *(f"not undone: {words}" for words in after)])


def _learned(scenario: Scenario, camera: Filmed, stop: threading.Event, say: Callable[[str], None]) -> bool:
    """Wait until the camera has run as long as the scenario needs; false if `stop` was set meanwhile."""
    while camera.shown < scenario.learn_s * FPS:
        say(f"{scenario.name}: {camera.camera_id} learns its baseline, {scenario.learn_s - camera.shown / FPS:.0f} s left")
        if stop.wait(_LOOK_S * 4):
            return False
    return True


class _Watch:
    """Looks on while a scenario runs, and writes down what disturbs the witness."""

    def __init__(self, stage: Stage, scenario: Scenario, notes: Notes, stop: threading.Event) -> None:
        self._stage, self._scenario, self._notes, self._stop = stage, scenario, notes, stop
        self._witness = [camera for context, camera in stage.cameras.items() if context is not scenario.context]

    def wait(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def look_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stop.is_set():
            self._look()
            self._stop.wait(min(_LOOK_S, max(0.0, until - time.monotonic())))

    def look_until_over(self) -> bool:
        """Until what is expected has come and the attack is over, or the scenario's time is: false."""
        expect, subject = self._scenario.expect, self._stage.cameras[self._scenario.context]
        until = time.monotonic() + expect.within_s
        while time.monotonic() < until and not self._stop.is_set():
            self._look()
            rows = referee.since(self._stage, self._notes.began)
            if _is_over(subject) and referee.expected(rows, expect, self._witness[0]):
                return True
            self._stop.wait(_LOOK_S)
        return self._stop.is_set()

    def _look(self) -> None:
        self._notes.disturbed.update(referee.unsteady(self._stage, self._witness, datetime.now(UTC)))


def _is_over(camera: Filmed) -> bool:
    """Whether every stretch that was planned lies behind the camera."""
    return all(camera.shown >= stretch.from_picture + (stretch.pictures or 0) for stretch in list(camera.schedule))


def _settled(stage: Stage, cameras: Sequence[Filmed], stop: threading.Event) -> list[str]:
    """Wait for steady state; what is not steady if it does not come. It must last a moment: a calm between two findings is none."""
    until = time.monotonic() + _SETTLE_S
    calm_since: float | None = None
    while not stop.wait(_LOOK_S):
        found = [*referee.unsteady(stage, cameras, datetime.now(UTC)), *referee.left_open(stage)]
        now = time.monotonic()
        calm_since = None if found else calm_since or now
        if calm_since is not None and now - calm_since >= _STILL_S:
            return []
        if now > until:
            return found or ["steady for moments only"]
    return []


def _do(stage: Stage, scenario: Scenario, step: Step, notes: Notes) -> None:
    if step.do is Do.POISON:
        from streams.drill.poison import batch_refused  # noqa: PLC0415 - torch takes seconds, and only this step needs it

        notes.batch_refused = batch_refused(stage.settings, open_store(stage.settings), datetime.now(UTC))
    else:
        stage.do(step, scenario.context)


def _time_the_cli(stage: Stage, notes: Notes) -> None:
    """How long a listing takes at most, five times while the storm is worked off."""
    took = []
    for _ in range(5):
        began_s = time.monotonic()
        command(["incidents", "list", "--json"], stage.settings)
        took.append(time.monotonic() - began_s)
    notes.answered_s = round(max(took), 2)


def _told(step: Step) -> str:
    words = [str(step.do), step.attack or "", str(step.process or ""), str(step.mode or ""), str(step.state or "")]
    words += [f"{step.count} signals"] if step.count else []
    words += [f"for {step.for_s:g} s"] if step.for_s else []
    return " ".join(word for word in words if word)
