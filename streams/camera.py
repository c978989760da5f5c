"""Plays a source as a camera: picture -> encoded -> described -> signed -> `frames`, in order and without loss.

It decides a frame's identity (epoch, sequence, time, digest) and keeps a ledger of what was sent, with the truth that never
enters an event. It refuses to drop: while the broker does not acknowledge, the camera waits. Attacks enter here as a compromised
camera or network would add them (`streams.chaos`). Writes `frames`; the ledger is a file beside.

Source: README, promises 1 and 3; paper 4.4 (data collection), SC-4 (signed input).
"""

import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from infra.clients import producer
from infra.keys import camera_key, sign_frame
from infra.settings import Settings, read_settings
from streams.attacks import Stretch, Wire
from streams.errors import BadInput
from streams.events import Context, Frame, event_id
from streams.ledger import Ledger
from streams.line import JPEG, PNG, FrameMessage, KafkaLine, Line, Place
from streams.sources.base import Picture, Shot, Source
from streams.sources.open import open_source
from streams.topics import Role

QUALITY = 92
"""JPEG quality; 92 leaves an attack of eps 0.03 mostly intact, as a real camera's encoder would."""
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Sent:
    """Progress after one picture: how many pictures were shown, messages sent and acknowledged, and which attack was on."""

    pictures: int
    messages: int
    acknowledged: int
    attack: str | None


@dataclass(frozen=True)
class Summary:
    """What a camera did. `unacknowledged` is above 0 only if it was stopped while the broker did not answer."""

    camera_id: str
    context: Context
    source: str
    epoch: int
    pictures: int
    messages: int
    unacknowledged: int
    seconds: float

    @property
    def messages_per_s(self) -> float:
        """Over the whole run."""
        return self.messages / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Body:
    """What a camera is: its name, where it stands, its key and how it encodes."""

    camera_id: str
    context: Context
    key: Ed25519PrivateKey
    content_type: str = JPEG

    def message(self, picture: Picture, epoch: int, sequence: int, at: datetime) -> FrameMessage:
        """A picture as the signed message that this camera sends. Raises BadInput for a picture that does not encode."""
        body = encode(picture, self.content_type)
        return FrameMessage(sign_frame(self.key, self.describe(picture, body, epoch, sequence, at)), body)

    def describe(self, picture: Picture, body: bytes, epoch: int, sequence: int, at: datetime) -> Frame:
        """The description of an encoded picture, not yet signed."""
        return Frame(
            id=event_id("frame", self.camera_id, epoch, sequence),
            source=f"camera/{self.camera_id}",
            time=at,
            subject=self.camera_id,
            camera_id=self.camera_id,
            context=self.context,
            epoch=epoch,
            sequence=sequence,
            width_px=picture.shape[1],
            height_px=picture.shape[0],
            content_type=self.content_type,
            digest=hashlib.sha256(body).hexdigest(),
            signature="",
        )


def encode(picture: Picture, content_type: str = JPEG) -> bytes:
    """H x W x 3 RGB to JPEG (quality 92) or PNG bytes. Raises BadInput for another content type or an empty picture."""
    if content_type not in {JPEG, PNG} or picture.size == 0:
        raise BadInput(f"cannot encode a picture of shape {picture.shape} as {content_type}: JPEG and PNG are known")
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if content_type == JPEG else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    done, data = cv2.imencode(".jpg" if content_type == JPEG else ".png", np.ascontiguousarray(picture[:, :, ::-1]), options)
    if not done:
        raise BadInput(f"a picture of shape {picture.shape} does not encode as {content_type}; give it another size")
    return data.tobytes()


@dataclass(frozen=True)
class Clock:
    """Time as a camera sees it: UTC for what it writes, steady seconds for its pace. Tests bring their own."""

    utc: Callable[[], datetime] = lambda: datetime.now(UTC)
    steady: Callable[[], float] = time.monotonic
    wait: Callable[[threading.Event, float], object] = threading.Event.wait


def play(
    source: Source,
    camera: Body,
    line: Line,
    clock: Clock,
    stop: threading.Event,
    *,
    fps: float | None = None,
    loop: bool = False,
    pictures: int | None = None,
    schedule: Sequence[Stretch] = (),
    ledger: Ledger | None = None,
    seed: int = 0,
    progress: Callable[[Sent], None] = lambda _sent: None,
) -> Summary:
    """Shows a source to a line until it ends, `pictures` are shown or `stop` is set.

    Args:
        source: what to show.
        camera: who shows it.
        line: where messages go.
        clock: the camera's time.
        stop: ends the camera after the picture at hand.
        fps: pictures per second; None: the source's own, 0: as fast as the line takes them (also for a live source).
        loop: begin again at the source's end.
        pictures: most pictures to show.
        schedule: attacks and when; where stretches overlap each acts in turn.
        ledger: where to write what was sent.
        seed: of the attacks' randomness; the same seed and picture give the same attack.
        progress: called after each picture.

    Raises:
        BadInput: what the source or the encoder find wrong.
        Unavailable: what a live source or the line find gone.
    """
    rate = source.fps if fps is None else fps
    if rate < 0:
        raise BadInput(f"a camera cannot show {rate} pictures per second; give 0 for as fast as possible")
    run = _Run(camera, line, clock, stop, schedule, ledger, seed, rate or source.fps or 1.0)
    due = started = clock.steady()
    try:
        for shot in _shots(source, loop=loop):
            if stop.is_set() or (pictures is not None and run.shown >= pictures):
                break
            run.show(shot)
            progress(run.so_far())
            if rate:
                # Never in a hurry after a wait: a camera that was blocked goes on at its pace.
                due = max(due + 1 / rate, clock.steady())
                clock.wait(stop, due - clock.steady())
    finally:
        unacknowledged = line.finish(stop)
    progress(run.so_far())
    seconds = clock.steady() - started
    return Summary(camera.camera_id, camera.context, source.name, run.epoch, run.shown, run.sent, unacknowledged, seconds)


class _Run:
    """One run of a camera: picture by picture, with what it has to remember between two."""

    def __init__(  # noqa: PLR0917 only `play` makes one
        self,
        camera: Body,
        line: Line,
        clock: Clock,
        stop: threading.Event,
        schedule: Sequence[Stretch],
        ledger: Ledger | None,
        seed: int,
        rate: float,
    ) -> None:
        self._camera, self._line, self._clock, self._stop = camera, line, clock, stop
        self._schedule, self._ledger, self._seed, self._rate = schedule, ledger, seed, rate
        self._wire = Wire(camera.key)
        began = clock.utc()
        self._last = began - _TICK
        self.epoch = int(began.timestamp() * 1000)
        self.shown = self.sent = self._landed = 0
        self._attack: str | None = None

    def so_far(self) -> Sent:
        return Sent(self.shown, self.sent, self._landed, self._attack)

    def show(self, shot: Shot) -> None:
        self._last = max(self._clock.utc(), self._last + _TICK)
        rng = np.random.default_rng((self._seed, self.shown))
        acting = [stretch for stretch in self._schedule if stretch.holds(self.shown)]
        self._attack = "+".join(stretch.attack.name for stretch in acting) or None
        picture = shot.picture
        for stretch in acting:
            picture = stretch.attack.on_picture(picture, shot, (self.shown - stretch.from_picture) / self._rate, rng)
        lossless = any(stretch.attack.lossless for stretch in acting)
        camera = replace(self._camera, content_type=PNG) if lossless else self._camera
        honest = camera.message(picture, self.epoch, self._wire.take_sequence(), self._last)
        messages: Sequence[FrameMessage] = [honest]
        for stretch in acting:
            messages = [new for old in messages for new in stretch.attack.on_message(old, self._wire, rng)]
        if not acting:
            self._wire.past.append(honest)
        for message in messages:
            if self._ledger is not None:
                self._ledger.sending(self.sent, message.frame, self._attack, shot)
            self.sent += 1
            self._line.send(message, partial(self._note, self.sent - 1), self._stop)
        self.shown += 1

    def _note(self, number: int, place: Place) -> None:
        self._landed += 1
        if self._ledger is not None:
            self._ledger.landed(number, place.partition, place.offset)


def _shots(source: Source, *, loop: bool) -> Iterator[Shot]:
    while True:
        empty = True
        for shot in source:
            empty = False
            yield shot
        if not loop or empty:
            return


def replay(
    source: Source,
    camera_id: str,
    context: Context,
    settings: Settings,
    *,
    fps: float | None = None,
    loop: bool = False,
    pictures: int | None = None,
    schedule: Sequence[Stretch] = (),
    ledger_path: Path | None = None,
    stop: threading.Event | None = None,
    clock: Clock | None = None,
    content_type: str = JPEG,
    seed: int = 0,
    progress: Callable[[Sent], None] = lambda _sent: None,
) -> Summary:
    """`play` with this camera's key on the real broker, the ledger in `ledger_path`. Arguments as there.

    Raises:
        BadInput: camera id, source or ledger path do not hold.
        Unavailable: no broker answers at the start (later ones are waited for), or this camera may not write.
    """
    body = Body(camera_id, context, camera_key(settings, camera_id), content_type)
    with nullcontext() if ledger_path is None else Ledger(ledger_path) as ledger:
        line = KafkaLine(partial(producer, settings, Role.CAMERA))
        return play(
            source, body, line, clock or Clock(), stop or threading.Event(), fps=fps, loop=loop, pictures=pictures,
            schedule=schedule, ledger=ledger, seed=seed, progress=progress,
        )  # fmt: skip


CameraOption = Annotated[str, typer.Option("--camera", help="The camera's id: lower-case letters, digits, '.', '_', '-'.")]
ContextOption = Annotated[Context, typer.Option("--context", help="Where the camera is; chooses model and baselines.")]
FpsOption = Annotated[
    float | None,
    typer.Option("--fps", min=0, help="Pictures per second; the source's own if not given, 0 for as fast as possible."),
]
LoopOption = Annotated[bool, typer.Option("--loop", help="Begin again at the source's end, until Ctrl-C.")]
LedgerOption = Annotated[
    Path | None, typer.Option("--ledger", help="Write what was sent, with the truth, to this file (JSON lines).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def replay_command(  # noqa: PLR0917 typer's way to declare options
    source: Annotated[
        str, typer.Argument(help="street:urban, video:FILE, images:FOLDER, citypersons:FOLDER, each with ?size=WxH.")
    ],
    camera_id: CameraOption = "cam-1",
    context: ContextOption = Context.URBAN,
    fps: FpsOption = None,
    loop: LoopOption = False,
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="Stop after so many pictures.")] = None,
    ledger: LedgerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Play a source as a camera. Example: `kerbwatch replay "street:urban?weather=rain&frames=100" --camera gate-2`."""
    settings = read_settings()
    show(
        lambda stop, progress: replay(
            open_source(source, settings), camera_id, context, settings, fps=fps, loop=loop, pictures=frames, ledger_path=ledger,
            stop=stop, progress=progress,
        ),
        f"camera {camera_id}", frames, as_json=as_json,
    )  # fmt: skip


def show(
    run: Callable[[threading.Event, Callable[[Sent], None]], Summary], title: str, pictures: int | None, *, as_json: bool
) -> None:
    """Runs a camera with live progress on stderr until it ends or Ctrl-C (or SIGTERM), then reports on stdout."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=pictures, note="")

            def progress(sent: Sent) -> None:
                bar.update(task, completed=sent.pictures, note=f"{sent.acknowledged} acknowledged {sent.attack or ''}")

            summary = run(stop, progress)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if as_json:
        typer.echo(json.dumps({**asdict(summary), "messages_per_s": round(summary.messages_per_s, 2)}))
    else:
        typer.echo(
            f"camera {summary.camera_id} ({summary.context}) showed {summary.pictures} pictures of {summary.source}: "
            f"{summary.messages} messages, {summary.messages_per_s:.1f} a second, {summary.unacknowledged} not acknowledged"
        )
    if summary.unacknowledged:
        raise typer.Exit(3)
