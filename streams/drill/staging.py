"""The stage of a drill: two cameras that play on and on, and hands that do to them and to the stack what a scenario says.

It decides how each step is done; what is done when is the scenario's, and what is found is the referee's. Faults end or stop
only processes of this stack, and weights are tampered with only in this home's registry. Cameras write `frames`, a storm `signals`.

Source: paper 5.1 (attacks), 4.7 (threats in operation); Principles of Chaos Engineering.
"""

import os
import signal as signals
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from numpy.random import Generator
from sqlalchemy import select

from infra import supervise
from infra.db import Sessions, reading
from infra.metrics import Service
from infra.settings import Settings
from infra.tables import IncidentRow
from responders.playbooks import State
from streams import chaos
from streams.attacks import Attack, Stretch
from streams.camera import replay
from streams.commands import command
from streams.drill import storm
from streams.drill.scenario import Do, Step
from streams.errors import BadInput, Unavailable
from streams.events import Context, Mode
from streams.ledger import Entry, read_ledger
from streams.line import FrameMessage
from streams.sources.base import Picture, Shot
from streams.sources.street import Street

FPS = 3.0
SIZE = (512, 256)
"""As the demo's: what two cores can judge and attack at once."""
_AHEAD = 4
_LOOK_S = 0.25

Change = Callable[[Picture, Shot], Picture]


@dataclass(frozen=True)
class Prepared:
    """An attack whose pictures were made beforehand, since a camera cannot wait for them; others stay as they are."""

    name: str
    pictures: Mapping[str, Picture]

    def on_picture(self, picture: Picture, shot: Shot, into_s: float, rng: Generator) -> Picture:  # noqa: ARG002 the protocol's
        """The picture made for this shot."""
        return self.pictures.get(shot.name, picture)

    def on_message(self, message: FrameMessage, wire: object, rng: Generator) -> Sequence[FrameMessage]:  # noqa: ARG002 same
        """The message as it is."""
        return (message,)


@dataclass
class Filmed:
    """A camera of the stage that plays an endless street in a thread of its own.

    `schedule` grows while it plays: what is added lies a few pictures ahead.
    """

    camera_id: str
    context: Context
    settings: Settings
    ledger: Path
    seed: int
    schedule: list[Stretch] = field(default_factory=list)
    shown: int = 0
    failed: BaseException | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def street(self) -> Street:
        """What it films; a second one draws the same pictures."""
        return Street(self.context, seed=self.seed, width_px=SIZE[0], height_px=SIZE[1], fps=FPS)

    def start(self) -> None:
        """Begin to play."""
        self._thread = threading.Thread(target=self._play, name=self.camera_id, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the picture at hand."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(30)

    def add(self, attack: Attack, first: int, pictures: int) -> None:
        """Let `attack` act on these pictures, counted from 0; earlier ones are past. Raises BadInput if the first is."""
        if first < self.shown:
            raise BadInput(f"picture {first} of {self.camera_id} is past: {self.shown} were shown")
        self.schedule.append(Stretch(attack, first, pictures))

    def entries(self) -> list[Entry]:
        """What it has sent. Raises what the camera ended with, if it ended."""
        if self.failed is not None:
            raise Unavailable(f"camera {self.camera_id} ended: {self.failed}") from self.failed
        return read_ledger(self.ledger) if self.ledger.exists() else []

    def _play(self) -> None:
        def note(sent: object) -> None:
            self.shown = sent.pictures  # type: ignore[attr-defined]

        try:
            replay(
                self.street(), self.camera_id, self.context, self.settings, fps=FPS, schedule=self.schedule,
                ledger_path=self.ledger, stop=self._stop, progress=note,
            )  # fmt: skip
        except BaseException as error:  # noqa: BLE001 - told by `entries`, in the thread that can do something about it
            self.failed = error


@dataclass
class Stage:
    """What a drill acts upon. `weights`: digests of the shipped models by mode; `say`: told what is being prepared."""

    settings: Settings
    sessions: Sessions
    cameras: Mapping[Context, Filmed]
    weights: Mapping[Mode, str]
    say: Callable[[str], None]
    _tampered: list[tuple[Path, int]] = field(default_factory=list)

    def camera(self, name: str | None, context: Context) -> Filmed:
        """The camera of that name, else the context's. Raises BadInput for an unknown one."""
        if name is None:
            return self.cameras[context]
        for camera in self.cameras.values():
            if camera.camera_id == name:
                return camera
        raise BadInput(f"no camera {name!r} on this stage; there are {', '.join(one.camera_id for one in self.cameras.values())}")

    def attack(self, camera: Filmed, names: str, for_s: float, full_after_s: float | None) -> None:
        """Let attacks (joined by "+") act from a few pictures ahead on, for `for_s` seconds; returns when they have begun."""
        from streams.drill.prepared import PREPARED, prepare  # noqa: PLC0415 - torch takes seconds, and not every drill needs it

        pictures = max(1, round(for_s * FPS))
        parts = names.split("+")
        means = chaos.Means(self.settings, full_after_s=full_after_s or for_s, weights=self.weights[Mode.NORMAL])
        made: list[Attack]
        if any(part in PREPARED for part in parts):
            first, pictures, made = prepare(camera, parts, pictures, means, self.say)
        else:
            made = [chaos.attack(part, means) for part in parts]
            first = camera.shown + _AHEAD
        for attack in made:
            camera.add(attack, first, pictures)
        while camera.shown <= first:
            camera.entries()
            time.sleep(_LOOK_S / 5)

    def do(self, step: Step, context: Context) -> None:
        """One step, but for its `after_s`. Raises what doing it raises; Unavailable if a state that is waited for does not come."""
        camera = self.camera(step.camera, context)
        match step.do:
            case Do.ATTACK:
                assert step.attack is not None  # the scenario was checked
                assert step.for_s is not None
                self.attack(camera, step.attack, step.for_s, step.full_after_s)
            case Do.STOP | Do.RESUME | Do.KILL:
                number = {Do.STOP: signals.SIGSTOP, Do.RESUME: signals.SIGCONT, Do.KILL: signals.SIGKILL}[step.do]
                self._signal(step.process or Service.INFER, number)
            case Do.CLOSE:
                self._close(camera, str(step.resolution))
            case Do.STORM:
                storm.storm(self.settings, step.count or 1)
            case Do.CALM:
                storm.calm(self.settings)
            case Do.TAMPER:
                self.tamper(step.mode or Mode.SAFE)
            case Do.RESTORE:
                self.restore()
            case Do.WAIT:
                assert step.state is not None
                self._wait(camera, step.state)
            case Do.POISON:
                pass  # the referee offers the batch: nothing runs that could be harmed by it

    def end(self) -> None:
        """Stop the cameras and mend what a drill that broke off left behind."""
        for camera in self.cameras.values():
            camera.stop()
        self.restore()
        for service in Service:
            if (pid := supervise.pid(self.settings, service)) is not None:
                os.kill(pid, signals.SIGCONT)

    def open_incidents(self, camera: Filmed) -> list[IncidentRow]:
        """The camera's incidents that are not closed, the newest first."""
        with reading(self.sessions) as session:
            query = select(IncidentRow).where(IncidentRow.camera_id == camera.camera_id, IncidentRow.state != State.CLOSED)
            return list(session.scalars(query.order_by(IncidentRow.opened_at.desc())))

    def _signal(self, service: Service, number: signals.Signals) -> None:
        pid = supervise.pid(self.settings, service)
        if pid is None:
            raise Unavailable(f"process {service} does not run; see `kerbwatch status`")
        os.kill(pid, number)

    def _wait(self, camera: Filmed, state: State, limit_s: float = 30.0) -> None:
        until = time.monotonic() + limit_s
        while not any(row.state == state for row in self.open_incidents(camera)):
            if time.monotonic() > until:
                raise Unavailable(f"no incident of {camera.camera_id} came to {state} within {limit_s:.0f} s")
            time.sleep(_LOOK_S)

    def _close(self, camera: Filmed, resolution: str) -> None:
        rows = self.open_incidents(camera)
        if not rows:
            raise Unavailable(f"{camera.camera_id} has no open incident that a human could close")
        words = ["incidents", "close", rows[0].id, "--resolution", resolution, "-m", "drill: a human looked, and it was nothing"]
        command(words, self.settings)

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
        self._signal(Service.INFER, signals.SIGKILL)

    def restore(self) -> None:
        """Put every tampered byte back."""
        while self._tampered:
            _flip(*self._tampered.pop())


def _flip(path: Path, place: int) -> None:
    mode = path.stat().st_mode
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0xFF]))
    path.chmod(mode)
