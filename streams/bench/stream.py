"""Honest speed of the whole way on this machine, broker included: `kerbwatch bench stream`.

Four figures from one run, so that they can be held against one another: frames a second with the shipped network, the same with a
network that does nothing (the plumbing alone), detections a second through the watcher alone, and the time from a camera's
shutter to the finding on topic `signals` at 5 frames a second a camera. It uses a broker and a home of its own, and stops both.

Every figure counts what arrived on a topic, by the broker's clock and the events' own times, never what a process says of itself.
"""

import json
import logging
import multiprocessing
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.request import urlopen

import numpy as np
import structlog
import typer
from kafka import TopicPartition
from msgspec.structs import replace
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from sqlalchemy import select

from inference.provenance.registry import registry_of
from infra import supervise
from infra.clients import consumer, producer
from infra.db import open_database, reading
from infra.keys import camera_key
from infra.metrics import AGENT_EVENTS, Metrics, Service, port
from infra.processes import port_is_free
from infra.settings import Settings, read_settings
from infra.tables import JudgedFrame
from streams import codec, stack, topics
from streams.camera import Body, Clock, play
from streams.console.dlq import read_all
from streams.errors import Unavailable
from streams.events import Context, Detections, Phase, Signal, event_id
from streams.line import KafkaLine
from streams.sources.base import Shot
from streams.sources.street import Street
from streams.topics import Role

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Honest timings on this machine.")

WIDTH_PX, HEIGHT_PX = 640, 320
_CAMERAS = (("gate", Context.URBAN), ("bridge", Context.HIGHWAY), ("square", Context.URBAN), ("tunnel", Context.HIGHWAY))
_PICTURES = 24
_MODEL_FRAMES = 300
_NULL_FRAMES = 3000
_EVENTS = 20_000
_EVENT_CAMERAS = 16
_FPS = 5.0
_CLEAN_PICTURES, _ATTACKED_PICTURES = 130, 400
_EPS = 0.03
_WARM_UP = 0.1
"""Share of the frames, and of the events, that come before the clock starts."""
_LIMIT_S = 240.0
_PORTS = 65_536


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the camera's time to the signal's arrival on its topic."""

    p50: float
    p95: float
    p99: float
    signals: int


@dataclass(frozen=True)
class StreamFigures:
    """What `bench stream` measures; rates per second, at 640 x 320 pixels."""

    frames_per_s: float
    frames_per_s_null_detector: float
    agent_events_per_s: float
    camera_to_signal_ms: Latency
    model_share: float
    """Rate with the network over the rate without: what the network costs."""


@dataclass(frozen=True)
class Reel:
    """Pictures made beforehand, shown again and again: the bench times the way, not the drawing."""

    shots: tuple[Shot, ...]
    fps: float = _FPS
    name: str = "reel"

    def __iter__(self) -> Iterator[Shot]:
        return iter(self.shots)


class NullNetwork:
    """Looks at nothing and sees nobody: what is left is decoding, checks, Kafka and agents."""

    def __init__(self, digest: str) -> None:
        self.digest = digest

    def look(self, pictures: Sequence[Any]) -> list[Any]:
        """An empty view for each picture."""
        from inference.service.serving import View  # noqa: PLC0415 - torch is loaded by the worker's process alone

        nothing = np.zeros((HEIGHT_PX // 4, WIDTH_PX // 4), np.float32)
        return [View(boxes=(), heat=nothing, embedding=np.zeros(16, np.float32)) for _ in pictures]


@app.command()
def stream(as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False) -> None:
    """Frames, events and milliseconds through the whole stack, in about four minutes. Example: `kerbwatch bench stream --json`."""
    settings = read_settings()
    with tempfile.TemporaryDirectory(prefix="kwb") as folder, progress() as say:
        own = replace(settings, home=Path(folder), database_url=None, **_free_ports())
        try:
            figures = measure(own, say)
        finally:
            stack.stop(own)
    if as_json:
        typer.echo(json.dumps(asdict(figures)))
        return
    delay = figures.camera_to_signal_ms
    console = Console()
    console.print(f"whole way, CSP-nano      {figures.frames_per_s:8.1f} frames/s")
    console.print(f"whole way, null detector {figures.frames_per_s_null_detector:8.1f} frames/s")
    console.print(f"watcher alone            {figures.agent_events_per_s:8.0f} events/s")
    console.print(f"camera to signal         {delay.p50:8.0f} ms p50, {delay.p95:.0f} p95, {delay.p99:.0f} p99 ({delay.signals})")


def measure(settings: Settings, say: Callable[[str], None]) -> StreamFigures:
    """All figures, on a fresh home. Raises Unavailable if something does not come in time."""
    agents = (Service.WATCH, Service.RESPOND, Service.KEEP)
    weights = stack.start(settings, datetime.now(UTC), say, agents)
    reels = {context: reel(context) for context in Context}
    say("whole way with a network that does nothing")
    null = _throughput(settings, reels, _NULL_FRAMES, null=True)
    say("whole way with CSP-nano")
    model = _throughput(settings, reels, _MODEL_FRAMES, null=False)
    say("camera to signal, 5 frames a second a camera")
    latency = _latency(settings, reels, weights.normal)
    say("watcher alone")
    supervise.down(settings)
    events = _agent_rate(settings)
    return StreamFigures(round(model, 1), round(null, 1), round(events), latency, round(model / null, 3))


def _throughput(settings: Settings, reels: dict[Context, Reel], frames: int, *, null: bool) -> float:
    """Frames judged a second, by the broker's times on `detections`, while four cameras send as fast as they are let."""
    before = _ends(settings, topics.DETECTIONS)
    with _worker(settings, null=null), ExitStack() as left:
        for camera, context in _CAMERAS:
            left.enter_context(_filming(settings, camera, context, reels[context], fps=0.0, pictures=frames // len(_CAMERAS)))
        _wait(lambda: sum(_ends(settings, topics.DETECTIONS)) - sum(before) >= frames, "frames are not judged")
    times = sorted(
        record.timestamp
        for record in read_all(settings, topics.DETECTIONS, Role.OPERATOR)
        if record.offset >= before[record.partition]
    )
    skip = int(len(times) * _WARM_UP)
    return float((len(times) - skip - 1) / ((times[-1] - times[skip]) / 1e3))


def _latency(settings: Settings, reels: dict[Context, Reel], target: str) -> Latency:
    """From shutter to signal: one camera turns bad after a clean stretch, with pictures that were attacked beforehand."""
    from inference.attacks.gradient import fgsm  # noqa: PLC0415 - torch is loaded only by those who need it

    network = registry_of(settings).network(target)
    clean = reels[Context.URBAN]
    bad = tuple(Shot(shot.name, shot.time_s, fgsm(network, shot.picture, shot.people, _EPS), shot.people) for shot in clean.shots)
    story = tuple(clean.shots[n % _PICTURES] for n in range(_CLEAN_PICTURES)) + tuple(
        bad[n % _PICTURES] for n in range(_ATTACKED_PICTURES)
    )
    with _worker(settings, null=False), ExitStack() as left:
        left.enter_context(_filming(settings, "dale", Context.HIGHWAY, reels[Context.HIGHWAY], fps=_FPS, pictures=len(story)))
        with _filming(settings, "hill", Context.URBAN, Reel(story), fps=_FPS, pictures=len(story)):
            pass
        _wait(lambda: len(_camera_times(settings, "hill")) >= len(story), "the last frames are not judged")
        time.sleep(1.0)  # for the signals of the last ones
    taken = _camera_times(settings, "hill")
    delays = []
    for record in read_all(settings, topics.SIGNALS, Role.OPERATOR):
        event = codec.decode(record.value, topics.SIGNALS, Signal).event
        if event.camera_id == "hill" and event.phase in {Phase.RAISED, Phase.ONGOING}:
            delays.append(record.timestamp - taken[event.window.last_sequence].timestamp() * 1e3)
    if not delays:
        raise Unavailable("the attack raised no signal, so there is nothing to time; see docs/measurements.md for what to expect")
    p50, p95, p99 = np.percentile(delays, (50, 95, 99))
    return Latency(round(p50), round(p95), round(p99), len(delays))


def _camera_times(settings: Settings, camera: str) -> dict[int, datetime]:
    with reading(open_database(settings)) as session:
        rows = session.execute(select(JudgedFrame.sequence, JudgedFrame.camera_time).where(JudgedFrame.camera_id == camera))
        return {int(sequence): at for sequence, at in rows}


def _agent_rate(settings: Settings) -> float:
    """Detections a second that the watcher alone takes in, from a backlog, by its own counter asked ten times a second."""
    (record, *_) = (record for record in read_all(settings, topics.DETECTIONS, Role.OPERATOR))
    like = codec.decode(record.value, topics.DETECTIONS, Detections).event
    with closing(producer(settings, Role.INFERENCE)) as writer:
        for number in range(_EVENTS):
            camera, sequence = f"load-{number % _EVENT_CAMERAS}", number // _EVENT_CAMERAS
            event = replace(like, id=event_id("bench", number), camera_id=camera, subject=camera, epoch=1, sequence=sequence)
            writer.send(topics.DETECTIONS.name, codec.encode(event), key=camera.encode())
        writer.flush()
    supervise.up(settings, (Service.WATCH,))
    first = last = (0.0, 0.0)
    until = time.monotonic() + _LIMIT_S
    while last[1] < _EVENTS:
        if time.monotonic() > until:
            raise Unavailable(f"the watcher took {last[1]:.0f} of {_EVENTS} events; see its log")
        time.sleep(0.1)
        last = (time.monotonic(), _handled(settings))
        if first[1] < _EVENTS * _WARM_UP:
            first = last
    return (last[1] - first[1]) / (last[0] - first[0])


def _handled(settings: Settings) -> float:
    try:
        with urlopen(f"http://127.0.0.1:{port(settings, Service.WATCH)}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(AGENT_EVENTS.name + "{"))


def reel(context: Context) -> Reel:
    """A context's drawn street, a few seconds of it."""
    street = Street(context, width_px=WIDTH_PX, height_px=HEIGHT_PX, fps=_FPS, frames=_PICTURES)
    return Reel(tuple(street))


@contextmanager
def _worker(settings: Settings, *, null: bool) -> Iterator[None]:
    """An inference worker in a process of its own while the block runs."""
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(settings, null))
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join(30)


def _work(settings: Settings, null: bool) -> None:
    from inference.service.worker import serve  # noqa: PLC0415 - torch is loaded by this process alone

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    serve(settings, Metrics(Service.INFER), stop, load=NullNetwork if null else None)


@contextmanager
def _filming(settings: Settings, camera: str, context: Context, reel: Reel, *, fps: float, pictures: int) -> Iterator[None]:
    """A camera in a thread of its own; it has sent everything when the block ends."""
    body = Body(camera, context, camera_key(settings, camera))

    def run() -> None:
        line = KafkaLine(lambda: producer(settings, Role.CAMERA))
        play(reel, body, line, Clock(), threading.Event(), fps=fps, loop=True, pictures=pictures)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _ends(settings: Settings, topic: topics.Topic) -> list[int]:
    with closing(consumer(settings, Role.OPERATOR, group=None)) as reader:
        partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        ends = reader.end_offsets(partitions)
        return [ends[tp] for tp in partitions]


def _wait(done: Callable[[], bool], complaint: str) -> None:
    until = time.monotonic() + _LIMIT_S
    while not done():
        if time.monotonic() > until:
            raise Unavailable(f"after {_LIMIT_S:.0f} s {complaint}; is the machine busy with something else?")
        time.sleep(0.5)


def _free_ports() -> dict[str, int]:
    """Ports that nobody holds: two for the broker, and four in a row for metrics."""
    held = []
    try:
        while True:
            first = socket.socket()
            first.bind(("127.0.0.1", 0))
            held.append(first)
            base = first.getsockname()[1]
            if base + len(Service) < _PORTS and all(port_is_free(base + n) for n in range(1, len(Service))):
                break
        others = [socket.socket() for _ in range(2)]
        for other in others:
            other.bind(("127.0.0.1", 0))
            held.append(other)
        broker, controller = (other.getsockname()[1] for other in others)
        return {"kafka_port": broker, "kafka_controller_port": controller, "metrics_port": base}
    finally:
        for one in held:
            one.close()


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A spinner; yields what names the step."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda step: bar.update(task, description=step)
