"""A video file or a live RTSP stream as a source.

It decides when a stream is lost and opened again. A file's timing is its own; a live stream's is ours, so that an outage shows as a
gap in time and nothing is invented to fill it. It refuses to wait for ever: past `patience_s` without a picture it gives up.
Addresses may hold a password, so only the host is ever named. No topic; it stands in for a camera.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from streams.errors import BadInput, Refusal, Unavailable
from streams.sources.base import Picture, Shot

_FPS_UNKNOWN = 25.0
_MOST_FPS = 1000.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 8.0
_OPEN_MS = 10_000


class Capture(Protocol):
    """What is used of cv2.VideoCapture."""

    def isOpened(self) -> bool:  # noqa: N802 as cv2 spells it
        """Whether the stream is there."""

    def read(self) -> tuple[bool, NDArray[np.uint8]]:
        """Whether there was a picture, and the next one (BGR)."""

    def get(self, prop: int, /) -> float:
        """A property by cv2's number."""

    def release(self) -> None:
        """Closes it."""


def _capture(address: str) -> Capture:
    if "://" in address:
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _OPEN_MS]
        return cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)  # type: ignore[return-value] # cv2's stub is wider than what it returns
    return cv2.VideoCapture(address)  # type: ignore[return-value] # same


def _fps(capture: Capture) -> float:
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return fps if 0 < fps <= _MOST_FPS else _FPS_UNKNOWN


def _rgb(frame: NDArray[np.uint8]) -> Picture:
    return np.ascontiguousarray(frame[:, :, ::-1])


class VideoFile:
    """A video file, from its first frame at every iteration. Raises BadInput if it does not open."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise BadInput(f"video {path} is not a file; check the path, or give an address like video:rtsp://host/stream")
        self._path = path
        capture = self._open()
        self._fps = _fps(capture)
        capture.release()

    def _open(self) -> Capture:
        capture = _capture(str(self._path))
        if not capture.isOpened():
            raise BadInput(f"video {self._path} does not open as one; convert it, e.g. to H.264 in MP4", Refusal.UNDECODABLE)
        return capture

    @property
    def name(self) -> str:
        """What the source calls itself in ledgers and logs."""
        return f"video-{self._path.stem}"

    @property
    def fps(self) -> float:
        """The file's frames per second."""
        return self._fps

    def __iter__(self) -> Iterator[Shot]:
        capture = self._open()
        number = 0
        try:
            while True:
                there, frame = capture.read()
                if not there:
                    break
                yield Shot(f"{self.name}-{number:06d}", number / self._fps, _rgb(frame), None)
                number += 1
        finally:
            capture.release()
        if not number:
            raise BadInput(f"video {self._path} opens but holds no picture; convert it, e.g. to H.264 in MP4", Refusal.UNDECODABLE)


class LiveVideo:
    """A live stream (rtsp://...), opened again with growing waits when it is lost. Time is that of `clock`, gaps included.

    Iterating twice gives two stretches of the same stream, not the same pictures. Iteration raises Unavailable after `patience_s`
    without a picture.
    """

    def __init__(
        self,
        address: str,
        *,
        patience_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        connect: Callable[[str], Capture] = _capture,
    ) -> None:
        try:
            self._host = urlsplit(address).hostname or ""
        except ValueError:
            self._host = ""
        if not self._host:
            raise BadInput("live video's address names no host; expected something like video:rtsp://host:554/stream")
        self._address, self._patience_s = address, patience_s
        self._clock, self._sleep, self._connect = clock, sleep, connect

    @property
    def name(self) -> str:
        """What the source calls itself in ledgers and logs."""
        return f"live-{self._host}"

    @property
    def fps(self) -> float:
        """Zero: the stream itself sets the pace."""
        return 0.0

    def __iter__(self) -> Iterator[Shot]:
        start = last = self._clock()
        wait_s, number = _FIRST_WAIT_S, 0
        while True:
            capture = self._connect(self._address)
            try:
                while capture.isOpened():
                    there, frame = capture.read()
                    if not there:
                        break
                    last, wait_s = self._clock(), _FIRST_WAIT_S
                    yield Shot(f"{self.name}-{number:06d}", last - start, _rgb(frame), None)
                    number += 1
            finally:
                capture.release()
            if self._clock() - last > self._patience_s:
                raise Unavailable(
                    f"no picture from {self._host} for {self._patience_s:.0f} s; check camera, network and credentials"
                )
            self._sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
