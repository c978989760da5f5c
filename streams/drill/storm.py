"""A storm of signals: what a broken detector, or somebody who wants nobody to look any more, does to the responder.

It decides nothing about what should follow. Writes `signals`, as the watcher.

Source: MITRE ATLAS AML.T0046 (chaff); detection-storm control in paper 4.7's response plan.
"""

import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

from msgspec.structs import replace

from infra.clients import producer
from infra.settings import Settings
from streams import codec, topics
from streams.events import Context, Kind, Phase, Severity, Signal, Window, event_id
from streams.topics import Role

CAMERAS = 8
PREFIX = "storm-"
_TICK_S = 0.02


def storm(settings: Settings, count: int, seconds: float, pause: Callable[[float], object]) -> None:
    """`count` signals of the watcher's over so many seconds, on eight cameras that do not exist, each with a window of its own.

    `pause` waits for so many seconds, and ends the storm by an exception.
    """
    now, began_s = datetime.now(UTC), time.monotonic()
    epoch = int(now.timestamp() * 1000)
    with closing(producer(settings, Role.WATCHER)) as line:
        for number in range(count):
            if (early_s := began_s + seconds * number / count - time.monotonic()) > _TICK_S:
                pause(early_s)
            camera = f"{PREFIX}{number % CAMERAS + 1}"
            line.send(topics.SIGNALS.name, codec.encode(_alarm(camera, epoch, number, now)), key=camera.encode())
        line.flush()


def _alarm(camera: str, epoch: int, number: int, now: datetime) -> Signal:
    return Signal(
        id=event_id("drill-storm", epoch, number),
        source="watcher/drill",
        time=now,
        subject=camera,
        kind=Kind.TRAFFIC,
        phase=Phase.RAISED,
        severity=Severity.LOW,
        camera_id=camera,
        context=Context.HIGHWAY,
        detector="rate",
        window=Window(epoch=epoch, first_sequence=number, last_sequence=number),
        weights_digest=None,
        message="drill: one of a storm",
    )


def calm(settings: Settings) -> None:
    """Say calm for the storm's cameras, so that their incidents can end."""
    now = datetime.now(UTC)
    epoch = int(now.timestamp() * 1000)
    with closing(producer(settings, Role.WATCHER)) as line:
        for number in range(CAMERAS):
            alarm = _alarm(f"{PREFIX}{number + 1}", epoch, 0, now)
            over = replace(alarm, id=event_id("drill-calm", epoch, number), phase=Phase.CALM, message="drill: the storm is over")
            line.send(topics.SIGNALS.name, codec.encode(over), key=alarm.camera_id.encode())
        line.flush()
