"""What can be done to a camera's stream, each attack or mishap a small class behind one protocol.

It decides how pictures or messages change, seeded by what is passed in, and nothing about what should be found. Each changes what
it says and nothing else. It refuses to know the served model: FGSM is given as a function. What it makes ends on `frames`.

Source: paper 5.1.2 (FGSM), 4.7 (threats in operation), SC-4 (what input validation must refuse).
"""

import hashlib
import struct
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import cache
from typing import Protocol

import cv2
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace
from numpy.random import Generator

from infra.keys import sign_frame
from streams.events import SCHEMA_VERSION, Context, Frame, event_id
from streams.line import JPEG, PNG, FrameMessage
from streams.sources.base import Person, Picture, Shot

_PAST = 256  # clean messages that a camera remembers for its attacker
_BOMB_PX = 16_000
_CLAIM_PX = 65_500


@dataclass
class Wire:
    """What an attacker on the camera holds: its key, the next sequence number, and the clean messages sent before (newest last)."""

    key: Ed25519PrivateKey
    sequence: int = 0
    past: deque[FrameMessage] = field(default_factory=lambda: deque(maxlen=_PAST))

    def take_sequence(self) -> int:
        """The next sequence number, used up."""
        self.sequence += 1
        return self.sequence - 1

    def sign(self, frame: Frame) -> Frame:
        """The frame with this camera's signature."""
        return sign_frame(self.key, frame)


class Attack(Protocol):
    """One way to make a camera's stream bad. `name` goes into the ledger.

    Both methods return their input where they do nothing, and never change it.
    """

    @property
    def name(self) -> str:
        """What the command line and the ledger call it."""

    @property
    def lossless(self) -> bool:
        """Whether its pictures are encoded as PNG: JPEG takes most of a small change."""

    def on_picture(self, picture: Picture, shot: Shot, into_s: float, rng: Generator) -> Picture:
        """A compromised camera's picture, before encoding and signing; `into_s` counts from the attack's begin."""

    def on_message(self, message: FrameMessage, wire: Wire, rng: Generator) -> Sequence[FrameMessage]:
        """What arrives instead of one honest message: none, one or many."""


@dataclass(frozen=True)
class Stretch:
    """An attack on pictures `from_picture` (counted from 0) and the `pictures - 1` after it; None: to the end."""

    attack: Attack
    from_picture: int
    pictures: int | None = None

    def holds(self, picture: int) -> bool:
        """Whether it covers this picture."""
        return picture >= self.from_picture and (self.pictures is None or picture < self.from_picture + self.pictures)


class _OnPictures:
    """Half of `Attack`: leaves messages alone."""

    lossless = False

    def on_message(self, message: FrameMessage, wire: Wire, rng: Generator) -> Sequence[FrameMessage]:  # noqa: ARG002 the protocol's
        """The message as it is."""
        return (message,)


class _OnMessages:
    """Half of `Attack`: leaves pictures alone."""

    lossless = False

    def on_picture(self, picture: Picture, shot: Shot, into_s: float, rng: Generator) -> Picture:  # noqa: ARG002 the protocol's
        """The picture as it is."""
        return picture


@dataclass(frozen=True)
class WhiteBox(_OnPictures):
    """Evasion by somebody who holds the served network's weights; `change` alters one picture on a copy of that network."""

    name: str
    change: Callable[[Picture, Sequence[Person] | None], Picture]
    lossless: bool = False

    def on_picture(self, picture: Picture, shot: Shot, into_s: float, rng: Generator) -> Picture:  # noqa: ARG002 the protocol's
        """The altered picture: against the true people where they are known, else against those that the network sees."""
        return self.change(picture, shot.people)


class Corruption(StrEnum):
    """Natural ways for a picture to get worse."""

    FOG = "fog"
    BLUR = "blur"
    NOISE = "noise"
    DARK = "dark"


@dataclass(frozen=True)
class Drift(_OnPictures):
    """A corruption that grows from nothing to its full strength in `full_after_s` and stays there."""

    corruption: Corruption
    full_after_s: float = 60.0

    @property
    def name(self) -> str:
        """By its corruption."""
        return f"drift-{self.corruption}"

    def on_picture(self, picture: Picture, shot: Shot, into_s: float, rng: Generator) -> Picture:  # noqa: ARG002 the protocol's
        """The picture, worse by the time that has passed."""
        level = min(1.0, into_s / self.full_after_s)
        if level <= 0:
            return picture
        match self.corruption:
            case Corruption.FOG:
                share = 0.75 * level
                worse = cv2.addWeighted(picture, 1 - share, np.full_like(picture, 205), share, 0.0)
            case Corruption.BLUR:
                worse = cv2.GaussianBlur(picture, (0, 0), 1e-3 + 0.008 * picture.shape[0] * level)
            case Corruption.NOISE:
                noise = rng.standard_normal(picture.shape, np.float32) * np.float32(35 * level)
                worse = np.clip(picture + noise, 0, 255)
            case Corruption.DARK:
                worse = cv2.convertScaleAbs(picture, alpha=1 - 0.8 * level)
        return np.asarray(worse, np.uint8)


@dataclass(frozen=True)
class Flood(_OnMessages):
    """Every message `times` times: the very same ones, or `fresh`, each a new frame in the camera's own name and signature."""

    fresh: bool = False
    times: int = 20

    @property
    def name(self) -> str:
        """By its kind."""
        return "flood-fresh" if self.fresh else "flood"

    def on_message(self, message: FrameMessage, wire: Wire, rng: Generator) -> Sequence[FrameMessage]:  # noqa: ARG002 the protocol's
        """The message and its copies."""
        if not self.fresh:
            return (message,) * self.times
        copies = (
            _signed(message, wire, sequence=wire.take_sequence(), time=message.frame.time + timedelta(microseconds=copy))
            for copy in range(1, self.times)
        )
        return (message, *copies)


@dataclass(frozen=True)
class ReplayedFrames(_OnMessages):
    """Old frames come again: as they were, beside the live ones; or `fresh`, in their place, newly numbered, dated and signed."""

    fresh: bool = False
    back: int = 50
    """How many frames before the attack's begin are played over and over; 1 freezes the picture."""
    quality: int | None = None
    """JPEG quality at which fresh ones are encoded again, so that no byte is the old one's."""

    @property
    def name(self) -> str:
        """By its kind."""
        if self.back == 1:
            return "frozen"
        if self.quality is not None:
            return "replay-recoded"
        return "replay-fresh" if self.fresh else "replay-old"

    def on_message(self, message: FrameMessage, wire: Wire, rng: Generator) -> Sequence[FrameMessage]:  # noqa: ARG002 the protocol's
        """An old message beside or instead of this one; this one alone where there is no past."""
        stretch = list(wire.past)[-self.back :]
        if not stretch:
            return (message,)
        old = stretch[message.frame.sequence % len(stretch)]
        if not self.fresh:
            return (message, old)
        size = {"width_px": old.frame.width_px, "height_px": old.frame.height_px}
        body, kind = old.body, old.frame.content_type
        if self.quality is not None:
            picture = cv2.imdecode(np.frombuffer(old.body, np.uint8), cv2.IMREAD_COLOR)
            body, kind = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1].tobytes(), JPEG
        digest = hashlib.sha256(body).hexdigest()
        return (_signed(FrameMessage(message.frame, body), wire, digest=digest, content_type=kind, **size),)


class Harm(StrEnum):
    """Ways for a picture's bytes to be bad."""

    TRUNCATED = "truncated"  # cut off, and signed so by a broken camera
    FLIPPED = "flipped"  # changed on the way: the signature holds, the digest does not
    HUGE = "huge"  # a JPEG whose header claims 65,500 x 65,500 pixels
    BOMB = "bomb"  # a PNG of some kilobytes that unpacks to 16,000 x 16,000 pixels


@dataclass(frozen=True)
class CorruptBytes(_OnMessages):
    """The picture's bytes are not what they should be."""

    harm: Harm

    @property
    def name(self) -> str:
        """By its harm."""
        return str(self.harm)

    def on_message(self, message: FrameMessage, wire: Wire, rng: Generator) -> Sequence[FrameMessage]:
        """The message with other bytes; signed by the camera except where the network did it."""
        frame, body = message
        match self.harm:
            case Harm.TRUNCATED:
                bad, kind = body[: len(body) // 2], frame.content_type
            case Harm.FLIPPED:
                at = int(rng.integers(len(body)))
                return (FrameMessage(frame, body[:at] + bytes([body[at] ^ 0xFF]) + body[at + 1 :]),)
            case Harm.HUGE:
                bad, kind = huge_jpeg(), JPEG
            case Harm.BOMB:
                bad, kind = bomb_png(), PNG
        return (_signed(FrameMessage(frame, bad), wire, digest=hashlib.sha256(bad).hexdigest(), content_type=kind),)


@dataclass(frozen=True)
class WrongSignature(_OnMessages):
    """Somebody else speaks in the camera's name: with `key` (another camera's), or without a signature where it is None."""

    key: Ed25519PrivateKey | None

    @property
    def name(self) -> str:
        """By its kind."""
        return "unsigned" if self.key is None else "wrong-key"

    def on_message(self, message: FrameMessage, wire: Wire, rng: Generator) -> Sequence[FrameMessage]:  # noqa: ARG002 the protocol's
        """The message with a signature that is not the camera's."""
        frame = replace(message.frame, signature="") if self.key is None else sign_frame(self.key, message.frame)
        return (FrameMessage(frame, message.body),)


@dataclass(frozen=True)
class WrongTime(_OnMessages):
    """The camera's clock is off by `shift_s` (ahead if positive) in what it signs."""

    shift_s: float

    @property
    def name(self) -> str:
        """By its direction."""
        return "future-time" if self.shift_s > 0 else "stale-time"

    def on_message(self, message: FrameMessage, wire: Wire, rng: Generator) -> Sequence[FrameMessage]:  # noqa: ARG002 the protocol's
        """The message at another time."""
        return (_signed(message, wire, time=message.frame.time + timedelta(seconds=self.shift_s)),)


@dataclass(frozen=True)
class SecondSender(_OnMessages):
    """Somebody else sends under this camera's name and key beside it: since an hour ago, or with numbers of the same start."""

    same_start: bool = False

    @property
    def name(self) -> str:
        """By its kind."""
        return "second-numbers" if self.same_start else "second-sender"

    def on_message(self, message: FrameMessage, wire: Wire, rng: Generator) -> Sequence[FrameMessage]:  # noqa: ARG002 the protocol's
        """The camera's message and the other's, dated right after it."""
        later = message.frame.time + timedelta(microseconds=1)
        if self.same_start:
            other = _signed(message, wire, sequence=message.frame.sequence // 2, time=later)
        else:
            other = _signed(message, wire, epoch=max(0, message.frame.epoch - 3_600_000), time=later)
        return (message, other)


@dataclass(frozen=True)
class TakenOut(_OnMessages):
    """Somebody on the way takes out one message in `every`."""

    every: int = 3
    name: str = "holes"

    def on_message(self, message: FrameMessage, wire: Wire, rng: Generator) -> Sequence[FrameMessage]:  # noqa: ARG002 the protocol's
        """The message, or nothing."""
        return () if message.frame.sequence % self.every == self.every - 1 else (message,)


@dataclass(frozen=True)
class WrongContext(_OnMessages):
    """The camera claims to be where it is not."""

    name: str = "wrong-context"

    def on_message(self, message: FrameMessage, wire: Wire, rng: Generator) -> Sequence[FrameMessage]:  # noqa: ARG002 the protocol's
        """The message under the other context."""
        other = next(context for context in Context if context is not message.frame.context)
        return (_signed(message, wire, context=other),)


@dataclass(frozen=True)
class Chaff(_OnPictures):
    """Pictures that set off alarms, end them and set them off again: dark for `on_s` seconds, as they are for `off_s`."""

    on_s: float = 40.0
    off_s: float = 160.0
    name: str = "chaff"

    def on_picture(self, picture: Picture, shot: Shot, into_s: float, rng: Generator) -> Picture:  # noqa: ARG002 the protocol's
        """The picture, or a dark one."""
        if into_s % (self.on_s + self.off_s) >= self.on_s:
            return picture
        return np.asarray(cv2.convertScaleAbs(picture, alpha=0.3), np.uint8)


@dataclass(frozen=True)
class NewerVersion(_OnMessages):
    """The camera writes a layout that this kerbwatch does not know yet."""

    name: str = "newer-version"

    def on_message(self, message: FrameMessage, wire: Wire, rng: Generator) -> Sequence[FrameMessage]:  # noqa: ARG002 the protocol's
        """The message under a version number of the future."""
        return (_signed(message, wire, version=SCHEMA_VERSION + 1),)


def _signed(message: FrameMessage, wire: Wire, **changes: object) -> FrameMessage:
    """The message with changed fields, under an id that fits them, signed by the camera."""
    frame: Frame = replace(message.frame, **changes)
    frame = replace(frame, id=event_id("frame", frame.camera_id, frame.epoch, frame.sequence))
    return FrameMessage(wire.sign(frame), message.body)


@cache
def huge_jpeg() -> bytes:
    """A small JPEG whose header claims 65,500 x 65,500 pixels."""
    done, data = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))
    assert done
    start = data.tobytes().index(b"\xff\xc0")  # start of frame: length, precision, then height and width
    return data.tobytes()[: start + 5] + struct.pack(">HH", _CLAIM_PX, _CLAIM_PX) + data.tobytes()[start + 9 :]


@cache
def bomb_png() -> bytes:
    """A valid PNG of some tens of kilobytes that unpacks to 16,000 x 16,000 pixels (768 MB as RGB)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes((_BOMB_PX // 8 + 1) * _BOMB_PX), 9)  # one bit a pixel, no filter
    header = struct.pack(">IIBBBBB", _BOMB_PX, _BOMB_PX, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
