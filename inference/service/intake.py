"""Decides whether a frame may be looked at: input validation before any model sees it (SC-4, SC-5; paper 4.5.2).

Fed by the topic `frames`. Checks run from cheap to dear, and nothing is decoded before its size is known from the picture's own
header, so that a small file cannot become a huge picture. It refuses with `BadInput` and a reason that is counted; it does not
judge what the picture shows. No clock inside: the time of arrival is passed in.
"""

import io
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
from PIL import Image

from streams import codec
from streams.errors import BadInput, Refusal
from streams.events import Frame
from streams.sources.base import Picture

MAX_PIXELS = 16_777_216
"""Largest picture that is decoded, in pixels: past 4K video, well under what fills a worker's memory."""
_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG"}


@dataclass(frozen=True)
class Accepted:
    """A frame that may be judged, its decoded picture, and where it lay in Kafka.

    `refused`: messages under its camera's name that were refused since the frame before.
    """

    frame: Frame
    picture: Picture
    partition: int
    offset: int
    decode_ms: float = 0.0
    refused: int = 0


@dataclass
class _Seen:
    epoch: int
    sequence: int
    time: datetime
    offset: int
    refused: int = 0


@dataclass
class Intake:
    """The checks, and per camera the last frame that passed them.

    `verify` raises BadInput if the frame's camera did not sign it. `allowance_s` is how far a camera's clock may be ahead.
    """

    verify: Callable[[Frame], None]
    allowance_s: float
    _last: dict[str, _Seen] = field(default_factory=dict)

    def admit(
        self,
        headers: Iterable[tuple[str, bytes]],
        body: bytes | None,
        *,
        key: bytes | None,
        partition: int,
        offset: int,
        now: datetime,
    ) -> Accepted:
        """One Kafka message to a frame with its picture, or BadInput with the first reason found.

        A message that Kafka delivers a second time (its offset is not new) passes again: judging is harmless to repeat.
        """
        try:
            return self._admit(headers, body, key=key, partition=partition, offset=offset, now=now)
        except BadInput:
            last = self._last.get((key or b"").decode(errors="replace"))
            if last is not None and offset > last.offset:
                last.refused += 1
            raise

    def _admit(
        self,
        headers: Iterable[tuple[str, bytes]],
        body: bytes | None,
        *,
        key: bytes | None,
        partition: int,
        offset: int,
        now: datetime,
    ) -> Accepted:
        frame = codec.decode_frame(headers, body)
        assert body is not None
        if key != frame.camera_id.encode():
            raise BadInput(f"message key {key!r} is not the camera {frame.camera_id} that the frame names", Refusal.BAD_VALUE)
        self.verify(frame)
        self._check_time(frame, offset, now)
        picture = decode_picture(body, frame)
        last = self._last.get(frame.camera_id)
        if last is None or offset > last.offset:
            self._last[frame.camera_id] = _Seen(frame.epoch, frame.sequence, frame.time, offset)
        return Accepted(frame, picture, partition, offset, refused=0 if last is None else last.refused)

    def _check_time(self, frame: Frame, offset: int, now: datetime) -> None:
        ahead_s = (frame.time - now) / timedelta(seconds=1)
        who = f"frame {frame.sequence} of camera {frame.camera_id}"
        if ahead_s > self.allowance_s:
            raise BadInput(f"{who} is dated {ahead_s:.1f} s ahead; set the camera's clock", Refusal.FUTURE_TIME)
        last = self._last.get(frame.camera_id)
        if last is None or offset <= last.offset:
            return
        if (frame.epoch, frame.sequence) <= (last.epoch, last.sequence):
            text = f"{who} (epoch {frame.epoch}) comes after frame {last.sequence} (epoch {last.epoch})"
            if frame.time > last.time:  # what is only repeated or late is dated before it
                text += ", yet was taken later: two senders use this name, or its clock was set back; find out which"
            raise BadInput(text, Refusal.REPEATED)
        if frame.time <= last.time:
            raise BadInput(f"{who} is not later than frame {last.sequence} before it", Refusal.STALE_TIME)


def decode_picture(body: bytes, frame: Frame) -> Picture:
    """Encoded bytes to H x W x 3 RGB, after their own header has been compared with what the frame claims.

    Raises BadInput: undecodable (not that format, truncated), too_large (pixels), bad_value (size differs from the claim).
    """
    who = f"frame {frame.sequence} of camera {frame.camera_id}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is stricter
            image = Image.open(io.BytesIO(body), formats=[_FORMATS[frame.content_type]])
    except Image.DecompressionBombError as error:
        raise BadInput(f"{who} unpacks to far more than {MAX_PIXELS} pixels", Refusal.TOO_LARGE) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise BadInput(f"{who} is no {frame.content_type}: {error}", Refusal.UNDECODABLE) from error
    width_px, height_px = image.size
    if width_px * height_px > MAX_PIXELS:
        raise BadInput(f"{who} unpacks to {width_px} x {height_px} pixels; the limit is {MAX_PIXELS}", Refusal.TOO_LARGE)
    if (width_px, height_px) != (frame.width_px, frame.height_px):
        raise BadInput(
            f"{who} is {width_px} x {height_px} pixels but claims {frame.width_px} x {frame.height_px}", Refusal.BAD_VALUE
        )
    try:
        return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises each of them on damaged data
        raise BadInput(f"{who} is damaged: {error}", Refusal.UNDECODABLE) from error
