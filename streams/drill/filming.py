"""A drill's cameras: each plays an endless street in a thread of its own, and turns bad when it is told to.

It decides how a stretch of attacked pictures gets into a camera that plays already. It refuses to attack the past. Writes `frames`.

Source: paper 5.1 (attacks), 4.7 (threats in operation).
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from numpy.random import Generator

from infra.settings import Settings
from streams.attacks import Attack, Stretch
from streams.camera import Sent, replay
from streams.errors import BadInput, Unavailable
from streams.events import Context
from streams.ledger import Entry, read_ledger
from streams.line import FrameMessage
from streams.sources.base import Picture, Shot
from streams.sources.scenery import Weather
from streams.sources.street import Street

FPS = 3.0
SIZE = (512, 256)
"""As the demo's: what two cores can judge and attack at once."""


@dataclass(frozen=True)
class Prepared:
    """An attack whose pictures were made beforehand, since a camera cannot wait for them; others stay as they are."""

    name: str
    pictures: Mapping[str, Picture]
    lossless: bool = False

    def on_picture(self, picture: Picture, shot: Shot, into_s: float, rng: Generator) -> Picture:  # noqa: ARG002 the protocol's
        """The picture made for this shot."""
        return self.pictures.get(shot.name, picture)

    def on_message(self, message: FrameMessage, wire: object, rng: Generator) -> Sequence[FrameMessage]:  # noqa: ARG002 same
        """The message as it is."""
        return (message,)


@dataclass
class Filmed:
    """A camera of the stage that plays an endless street in a thread of its own.

    `schedule` grows while it plays: what is added lies a few pictures ahead. rounds: of a drill, that it has taken part in.
    """

    camera_id: str
    context: Context
    settings: Settings
    ledger: Path
    seed: int
    weather: Weather = Weather.DAY
    fps: float = FPS
    schedule: list[Stretch] = field(default_factory=list)
    shown: int = 0
    rounds: int = 0
    failed: BaseException | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def street(self) -> Street:
        """What it films; a second one draws the same pictures."""
        return Street(self.context, self.weather, self.seed, *SIZE, fps=self.fps)

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

    def must_play(self) -> None:
        """Raises Unavailable, with what the camera ended with, if it ended by itself."""
        if self.failed is not None:
            raise Unavailable(f"camera {self.camera_id} ended: {self.failed}") from self.failed

    def entries(self) -> list[Entry]:
        """What it has sent. Raises Unavailable if it ended by itself."""
        self.must_play()
        return read_ledger(self.ledger) if self.ledger.exists() else []

    def _play(self) -> None:
        def note(sent: Sent) -> None:
            self.shown = sent.pictures

        try:
            replay(
                self.street(), self.camera_id, self.context, self.settings, fps=self.fps, schedule=self.schedule,
                ledger_path=self.ledger, stop=self._stop, progress=note,
            )  # fmt: skip
        except BaseException as error:  # noqa: BLE001 - told by `entries`, in the thread that can do something about it
            self.failed = error
