"""A camera's way to the broker: in order, acknowledged, bounded; while the broker is away the camera waits.

It decides when a message counts as sent (acknowledged, with its place in the log) and when to begin again with a new connection. It
refuses to drop or to reorder. What was unacknowledged when a connection was given up is sent again: a repeat then carries the same
event id and is refused as repeated downstream, which costs nothing but a count. Writes `frames`.

Source: README, promise 1 (at least once in); Kafka's idempotent producer (KIP-98) for order and repeats within one connection.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import structlog
from kafka.errors import AuthorizationError, KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from streams.codec import encode_frame
from streams.errors import BadInput, Refusal, Unavailable
from streams.events import Frame
from streams.topics import FRAMES

JPEG, PNG = "image/jpeg", "image/png"
WINDOW = 32
"""Most messages on the way without acknowledgement."""
_LOOK_S = 0.2  # how often a wait looks whether it should stop
_GRACE_S = 10.0  # how long a stopped camera still waits for what is on its way
_AGAIN_S = 1.0  # between two attempts to connect

log = structlog.get_logger("camera")


class FrameMessage(NamedTuple):
    """A frame's description and the encoded picture: what goes over the wire."""

    frame: Frame
    body: bytes


class Place(NamedTuple):
    """Where Kafka put a message."""

    partition: int
    offset: int


Landed = Callable[[Place], None]


class Line(Protocol):
    """The way to the broker, or a double of it. `landed` is called from the sender's own thread, in order of acknowledgement."""

    def send(self, message: FrameMessage, landed: Landed, stop: threading.Event) -> None:
        """Takes messages in order; blocks while too many are unacknowledged, unless `stop` is set."""

    def finish(self, stop: threading.Event) -> int:
        """Waits until all have landed, or for a short grace once `stop` is set; how many did not. Nothing can be sent after it."""


@dataclass
class _Pending:
    message: FrameMessage
    landed: Landed
    future: Any = None
    """kafka-python's; None until it was handed to the producer."""


class KafkaLine:
    """A `Line` through kafka-python. `connect` makes a producer and raises Unavailable if no broker answers.

    Not for several threads. Raises Unavailable if this camera may not write, BadInput for a message that no broker takes.
    """

    def __init__(self, connect: Callable[[], Any], window: int = WINDOW) -> None:
        self._connect, self._window = connect, window
        self._producer: Any = connect()
        self._pending: deque[_Pending] = deque()

    def send(self, message: FrameMessage, landed: Landed, stop: threading.Event) -> None:
        """See `Line`. Returns with the message unsent only if `stop` is set while the broker is away."""
        self._pending.append(_Pending(message, landed))
        self._advance(stop)
        while len(self._pending) > self._window and not stop.is_set():
            self._wait(stop)

    def finish(self, stop: threading.Event) -> int:
        """See `Line`; closes the connection."""
        deadline = None
        while self._pending:
            if stop.is_set():
                deadline = deadline or time.monotonic() + _GRACE_S
                if time.monotonic() > deadline:
                    break
            self._wait(stop)
        self._close(_GRACE_S)
        return len(self._pending)

    def _wait(self, stop: threading.Event) -> None:
        """A short wait for the oldest message, then whatever has become possible."""
        oldest = self._pending[0]
        if oldest.future is None:
            stop.wait(_LOOK_S)
        else:
            with suppress(KafkaError):  # looked at below; a time-out of this short wait means nothing
                oldest.future.get(timeout=_LOOK_S)
        self._advance(stop)

    def _advance(self, stop: threading.Event) -> None:
        while self._pending and self._pending[0].future is not None and self._pending[0].future.is_done:
            oldest = self._pending[0]
            if oldest.future.failed():
                self._begin_again(oldest.future.exception, stop)
                return
            self._pending.popleft()
            oldest.landed(Place(oldest.future.value.partition, oldest.future.value.offset))
        self._hand_over()

    def _hand_over(self) -> None:
        """Everything not yet given to the producer, in order; the first that it does not take holds up the rest."""
        for pending in self._pending:
            if pending.future is not None:
                continue
            frame, body = pending.message
            try:
                pending.future = self._producer.send(FRAMES.name, body, key=frame.camera_id.encode(), headers=encode_frame(frame))
            except MessageSizeTooLargeError as error:
                raise BadInput(
                    f"a picture of {len(body)} bytes does not go into Kafka; send it smaller", Refusal.TOO_LARGE
                ) from error
            except KafkaTimeoutError as error:
                log.warning("the broker does not answer; the camera waits", camera=frame.camera_id, error=type(error).__name__)
                return

    def _begin_again(self, error: BaseException, stop: threading.Event) -> None:
        if isinstance(error, AuthorizationError):
            raise Unavailable("the broker does not let this camera write frames; `kerbwatch kafka up` grants it") from error
        log.warning("the connection was lost; sending again", unacknowledged=len(self._pending), error=type(error).__name__)
        self._close(0)
        for pending in self._pending:
            pending.future = None
        while not stop.is_set():
            try:
                self._producer = self._connect()
            except Unavailable:
                stop.wait(_AGAIN_S)
            else:
                self._hand_over()
                return

    def _close(self, timeout_s: float) -> None:
        try:
            self._producer.close(timeout=timeout_s)
        except KafkaError as error:
            log.debug("closing a lost connection", error=type(error).__name__)
