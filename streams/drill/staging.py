"""The stage of a drill: two cameras that play on and on, and hands that do to them and to the stack what a scenario says.

It decides how each step is done; what is done when is the scenario's, and what is found is the referee's. Faults end or stop
only processes of this stack, and weights are tampered with only in this home's registry. Cameras write `frames`, a storm `signals`.

Source: paper 5.1 (attacks), 4.7 (threats in operation); Principles of Chaos Engineering.
"""

import os
import signal as signals
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from sqlalchemy import select

from infra import supervise
from infra.db import Sessions, reading
from infra.metrics import Service
from infra.settings import Settings
from infra.tables import IncidentRow
from responders.engine.past import incident_of
from responders.playbooks.playbooks import State
from streams import chaos
from streams.attacks import Attack
from streams.commands import command
from streams.drill import deputies, storm
from streams.drill.filming import FPS, Filmed
from streams.drill.scenario import Do, Scenario, Step
from streams.errors import BadInput, Unavailable
from streams.events import Context, Kind, Mode
from streams.sources.base import Picture, Shot
from streams.sources.scenery import Weather

CLEAN_FPS = 2.0
_AHEAD = 4
_LOOK_S = 0.25

Change = Callable[[Picture, Shot], Picture]


@dataclass
class Stage:
    """What a drill acts upon. `weights`: digests of the shipped models by mode; `say`: told what is being prepared.

    `stop`: set when the drill is to end; every step that takes long looks at it. `extras`: clean cameras that played this round.
    """

    settings: Settings
    sessions: Sessions
    cameras: dict[Context, Filmed]
    weights: Mapping[Mode, str]
    say: Callable[[str], None]
    stop: threading.Event = field(default_factory=threading.Event)
    extras: list[Filmed] = field(default_factory=list)
    _tampered: list[tuple[Path, int]] = field(default_factory=list)
    _storms: list[Future[None]] = field(default_factory=list)

    def camera(self, name: str | None, context: Context) -> Filmed:
        """The camera of that name, else the context's. Raises BadInput for an unknown one."""
        if name is None:
            return self.cameras[context]
        for camera in self.cameras.values():
            if camera.camera_id == name:
                return camera
        raise BadInput(f"no camera {name!r} on this stage; there are {', '.join(one.camera_id for one in self.cameras.values())}")

    def pause(self, seconds: float) -> None:
        """Let so long pass. Raises Unavailable at once when the drill is to end."""
        if self.stop.wait(seconds):
            raise Unavailable("the drill was ended by hand")

    def meanwhile(self, line: str) -> None:
        """Say what is going on in a step that takes long. Raises Unavailable when the drill is to end."""
        self.say(line)
        self.pause(0.0)

    def attack(self, step: Step, camera: Filmed) -> None:
        """Let attacks (joined by "+") act from a few pictures ahead on, for `for_s` seconds; returns when they have begun."""
        from streams.drill.prepared import PREPARED, prepare  # noqa: PLC0415 - torch takes seconds, and not every drill needs it

        assert step.attack is not None  # the scenario was checked
        for_s = step.for_s or 1.0
        pictures, parts = max(1, round(for_s * FPS)), step.attack.split("+")
        means = chaos.Means(self.settings, full_after_s=step.full_after_s or for_s, weights=self.weights[Mode.NORMAL])
        made: list[Attack]
        if any(part in PREPARED for part in parts):
            first, pictures, made = prepare(camera, parts, pictures, means, self.meanwhile)
        else:
            made = [chaos.attack(part, means) for part in parts]
            first = camera.shown + _AHEAD
        for attack in made:
            camera.add(attack, first, pictures)
        while camera.shown <= first:
            camera.must_play()
            self.pause(_LOOK_S / 5)

    def do(self, step: Step, scenario: Scenario) -> None:
        """One step, but for its `after_s`. Raises what doing it raises; Unavailable if a state that is waited for does not come."""
        kinds = scenario.expect.wanted if step.kind is None else {step.kind}
        # An incident may be about no camera: a worker, training data.
        about = step.camera or self.cameras[scenario.context].camera_id
        if step.do is Do.CLOSE:
            self.close(about, kinds, str(step.resolution))
        elif step.do is Do.APPROVE:
            self.approve(about, kinds)
        elif step.do is Do.WAIT:
            self.wait(about, kinds, step.state or State.OPEN)
        else:
            _HANDS[step.do](self, step, self.camera(step.camera, scenario.context))

    def end(self) -> None:
        """Stop the cameras and mend what a drill that broke off left behind."""
        for camera in self.cameras.values():
            camera.stop()
        self.restore()
        for service in Service:
            if (pid := supervise.pid(self.settings, service)) is not None:
                os.kill(pid, signals.SIGCONT)

    def open_incidents(self, camera_id: str, kinds: Collection[Kind] = ()) -> list[IncidentRow]:
        """Incidents about a camera, or whatever stands in its place, that are not closed, the newest first; of `kinds`, if any."""
        with reading(self.sessions) as session:
            query = select(IncidentRow).where(IncidentRow.camera_id == camera_id, IncidentRow.state != State.CLOSED)
            rows = session.scalars(query.order_by(IncidentRow.opened_at.desc()))
            return [row for row in rows if not kinds or row.kind in kinds]

    def signal(self, step: Step, number: signals.Signals) -> None:
        """Send a process of the stack a signal. Raises Unavailable if it does not run."""
        service = step.process or Service.INFER
        pid = supervise.pid(self.settings, service)
        if pid is None:
            raise Unavailable(f"process {service} does not run; see `kerbwatch status`")
        os.kill(pid, number)

    def wait(self, camera_id: str, kinds: Collection[Kind], state: State, limit_s: float = 30.0) -> None:
        """Return once an incident of the camera and of one of these kinds is in `state`. Raises Unavailable if none comes there."""
        until = time.monotonic() + limit_s
        while not any(row.state == state for row in self.open_incidents(camera_id, kinds)):
            if time.monotonic() > until:
                raise Unavailable(f"no incident of {_about(camera_id, kinds)} came to {state} within {limit_s:.0f} s")
            self.pause(_LOOK_S)

    def close(self, camera_id: str, kinds: Collection[Kind], resolution: str) -> None:
        """Close its newest incident of these kinds as a person would. Raises Unavailable if there is none, or the command fails."""
        rows = [
            row for row in self.open_incidents(camera_id, kinds) if row.state != State.RECOVERING
        ]  # a human's close is under way there
        if not rows:
            raise Unavailable(f"{_about(camera_id, kinds)} has no open incident that a human could close")
        command(
            ["incidents", "close", rows[0].id, "--resolution", resolution, "-m", "drill: a human has looked at it"], self.settings
        )

    def approve(self, camera_id: str, kinds: Collection[Kind]) -> None:
        """Have what its newest incident of these kinds asks for approved. Raises Unavailable if none asks for anything."""
        asking = [incident for row in self.open_incidents(camera_id, kinds) if (incident := incident_of(row)).asks]
        if not asking:
            raise Unavailable(f"{_about(camera_id, kinds)} has no open incident that asks for anybody's approval")
        deputies.approve(self.settings, self.sessions, asking[0].id, asking[0].asks)

    def clean(self, count: int, seconds: float) -> None:
        """Let so many more cameras play clean pictures of all weathers; they are `extras` from then on."""
        kinds = list(product(Weather, Context))
        for number in range(count):
            weather, context = kinds[number % len(kinds)]
            name = f"clean-{number + 1}"
            ledger = self.settings.home.resolve() / "cameras" / f"{name}.jsonl"
            self.extras.append(Filmed(name, context, self.settings, ledger, seed=101 + number, weather=weather, fps=CLEAN_FPS))
        try:
            for camera in self.extras:
                camera.start()
            until = time.monotonic() + seconds
            while (left_s := until - time.monotonic()) > 0:
                self.meanwhile(f"{count} clean cameras: {left_s:.0f} s left")
                self.pause(min(1.0, left_s))
                for camera in self.extras:
                    camera.must_play()
        finally:
            for camera in self.extras:
                camera.stop()

    def tamper(self, mode: Mode) -> None:
        """Change one byte of the registry's weights of a mode, remembered for `restore`, and start the worker again."""
        folder = self.settings.home / "registry"
        files = [path for path in folder.rglob("*.safetensors") if self.weights[mode] in str(path)]
        if not files:
            raise Unavailable(f"no weights {self.weights[mode][:12]} below {folder}")
        path = files[0]
        place = path.stat().st_size // 2
        _flip(path, place)
        self._tampered.append((path, place))
        if (pid := supervise.pid(self.settings, Service.INFER)) is not None:
            os.kill(pid, signals.SIGKILL)

    def begin_storm(self, count: int, seconds: float) -> None:
        """Send so many signals within so many seconds, beside what comes next."""
        aside = ThreadPoolExecutor(1, "storm")
        self._storms.append(aside.submit(storm.storm, self.settings, count, seconds, self.pause))
        aside.shutdown(wait=False)  # `calm` waits for what was begun

    def calm(self) -> None:
        """Let the storms be over. Raises what ended one before its time."""
        while self._storms:
            self._storms.pop().result()
        storm.calm(self.settings)

    def restore(self) -> None:
        """Put every tampered byte back."""
        while self._tampered:
            _flip(*self._tampered.pop())


_HANDS: Mapping[Do, Callable[[Stage, Step, Filmed], None]] = {
    Do.ATTACK: lambda stage, step, camera: stage.attack(step, camera),
    Do.STOP: lambda stage, step, _: stage.signal(step, signals.SIGSTOP),
    Do.RESUME: lambda stage, step, _: stage.signal(step, signals.SIGCONT),
    Do.KILL: lambda stage, step, _: stage.signal(step, signals.SIGKILL),
    Do.STORM: lambda stage, step, _: stage.begin_storm(step.count or 1, step.for_s or 1.0),
    Do.CALM: lambda stage, _, __: stage.calm(),
    Do.TAMPER: lambda stage, step, _: stage.tamper(step.mode or Mode.SAFE),
    Do.RESTORE: lambda stage, _, __: stage.restore(),
    Do.CLEAN: lambda stage, step, _: stage.clean(step.count or 1, step.for_s or 0.0),
}
"""How each step is done to a camera or the stack; a poisoned batch is offered by `rounds`, which keeps what vetting said."""


def _about(camera_id: str, kinds: Collection[Kind]) -> str:
    return f"{camera_id} ({' or '.join(sorted(kinds))})" if kinds else camera_id


def _flip(path: Path, place: int) -> None:
    mode = path.stat().st_mode
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0xFF]))
    path.chmod(mode)
