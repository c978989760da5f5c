"""Events to bytes and back: size cap, version check, strict types, unknown fields kept.

It judges bytes and touches no network, disk or clock. Whatever is wrong with a message becomes `BadInput` with a reason that
can be counted; nothing else escapes. JSON, so that `kerbwatch dlq show` and any Kafka tool can read what is on the wire; JSON has
no NaN and no infinity, so neither can enter. Frames use CloudEvents' Kafka binary mode: attributes in `ce_` headers, the picture
itself as the value (CloudEvents Kafka Protocol Binding 1.0, section 3.2).
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Generic, TypeVar

import msgspec

from streams.errors import BadInput, Refusal
from streams.events import SCHEMA_VERSION, DeadLetter, Event, Frame, event_id
from streams.topics import MAX_FRAME_BYTES, Topic

E = TypeVar("E", bound=Event)

_CE = "ce_"
_MAX_HEADERS_BYTES = 8192
_MAX_VERSION_DIGITS = 9
_encoder = msgspec.json.Encoder()


class _Version(msgspec.Struct):
    version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class Decoded(Generic[E]):
    """An event, and the fields of a newer writer that this code does not know (raw JSON by name)."""

    event: E
    unknown: Mapping[str, msgspec.Raw] = field(default_factory=dict)


@cache
def _decoder(carries: type[E]) -> msgspec.json.Decoder[E]:
    return msgspec.json.Decoder(carries, strict=True)


@cache
def _known(carries: type[Event]) -> frozenset[str]:
    return frozenset((*carries.__struct_encode_fields__, "type"))


def encode(event: Event, unknown: Mapping[str, msgspec.Raw] | None = None) -> bytes:
    """Event to JSON bytes; `unknown` fields of a `Decoded` go back in unchanged.

    Raises BadInput (bad_value) if a number is NaN or infinite, which JSON cannot carry.
    """
    data = _encoder.encode(event)
    if b"null" in data:  # cheap guard: msgspec writes a non-finite float as null
        _refuse_non_finite(msgspec.structs.asdict(event), type(event).__name__)
    if not unknown:
        return data
    return _encoder.encode({**msgspec.json.decode(data, type=dict[str, msgspec.Raw]), **unknown})


def _refuse_non_finite(value: object, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput(f"{where} is {value}: every number in an event must be finite; mend the sender")
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _refuse_non_finite(inner, f"{where}.{name}")
    elif isinstance(value, tuple):
        for number, inner in enumerate(value):
            _refuse_non_finite(inner, f"{where}[{number}]")


def decode(data: bytes | None, topic: Topic, carries: type[E]) -> Decoded[E]:
    """JSON bytes of a message on `topic` to the event type that it carries.

    Raises BadInput: too_large past the topic's limit, undecodable if it is no JSON object, unknown_version if written by a newer
    layout, bad_value if a field is missing, of the wrong type or out of range.
    """
    if not data:
        raise BadInput(f"empty message on topic {topic.name}; mend the sender", Refusal.UNDECODABLE)
    if len(data) > topic.max_bytes:
        raise BadInput(f"message of {len(data)} bytes on topic {topic.name}, which takes {topic.max_bytes}", Refusal.TOO_LARGE)
    try:
        fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        version = msgspec.json.decode(data, type=_Version).version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"message on topic {topic.name} is not readable: {error}", Refusal.UNDECODABLE) from error
    _check_version(version, topic.name)
    try:
        event = _decoder(carries).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{carries.__name__} on topic {topic.name} does not hold: {error}", Refusal.BAD_VALUE) from error
    known = _known(carries)
    unknown = {} if len(fields) <= len(known) and fields.keys() <= known else {k: v for k, v in fields.items() if k not in known}
    return Decoded(event, unknown)


def _check_version(version: int, where: str) -> None:
    if version > SCHEMA_VERSION:
        raise BadInput(
            f"message on topic {where} has layout version {version}, this kerbwatch reads up to {SCHEMA_VERSION}: upgrade it",
            Refusal.UNKNOWN_VERSION,
        )


def signed_bytes(frame: Frame) -> bytes:
    """The canonical bytes that a camera signs: every field but the signature, in declared order.

    The picture is covered through its digest.
    """
    return _encoder.encode(msgspec.structs.replace(frame, signature=""))


def encode_frame(frame: Frame) -> list[tuple[str, bytes]]:
    """A frame's description as Kafka headers; the value beside them is the encoded picture."""
    fields = msgspec.to_builtins(frame)
    fields["specversion"] = "1.0"
    content_type = fields.pop("content_type")
    return [(_CE + name, str(value).encode()) for name, value in fields.items()] + [("content-type", content_type.encode())]


def decode_frame(headers: Iterable[tuple[str, bytes]], body: bytes | None) -> Frame:
    """Kafka headers and value to a frame whose digest matches its bytes; the signature is checked elsewhere.

    Raises BadInput: too_large, undecodable (headers are no text), unknown_version, bad_value (missing field, wrong digest).
    """
    if body is None or not body:
        raise BadInput("frame without a picture; mend the camera", Refusal.UNDECODABLE)
    if len(body) > MAX_FRAME_BYTES:
        raise BadInput(f"picture of {len(body)} bytes; the limit is {MAX_FRAME_BYTES}: send it smaller", Refusal.TOO_LARGE)
    headers = list(headers)
    if sum(len(name) + len(value or b"") for name, value in headers) > _MAX_HEADERS_BYTES:
        raise BadInput(f"frame headers of more than {_MAX_HEADERS_BYTES} bytes; mend the camera", Refusal.TOO_LARGE)
    try:
        fields = {name.removeprefix(_CE): (value or b"").decode() for name, value in headers if name.startswith(_CE)}
        fields["content_type"] = next((value.decode() for name, value in headers if name == "content-type"), "")
    except UnicodeDecodeError as error:
        raise BadInput("frame headers are not UTF-8 text; mend the camera", Refusal.UNDECODABLE) from error
    version = fields.get("version", "")
    if version.isascii() and version.isdigit() and len(version) <= _MAX_VERSION_DIGITS:
        _check_version(int(version), "frames")
    try:
        frame = msgspec.convert(fields, Frame, strict=False)
    except msgspec.ValidationError as error:
        raise BadInput(f"frame headers do not hold: {error}", Refusal.BAD_VALUE) from error
    if frame.id != event_id("frame", frame.camera_id, frame.epoch, frame.sequence):
        raise BadInput(
            f"frame {frame.sequence} of camera {frame.camera_id} has an id that is not its own; find out who sent it",
            Refusal.BAD_VALUE,
        )
    if hashlib.sha256(body).hexdigest() != frame.digest:
        raise BadInput(
            f"frame {frame.sequence} of camera {frame.camera_id}: the picture is not the one that its digest names",
            Refusal.BAD_SIGNATURE,
        )
    return frame


@dataclass(frozen=True)
class Message:
    """A Kafka message as it lay in its topic, whichever client read it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


def dead_letter(message: Message, error: Exception, *, source: str, now: datetime) -> DeadLetter:
    """The record of a message that could not be used; the same message gives the same id, so a repeat is recognised.

    An error that is no `BadInput` is our own fault and is counted as such.
    """
    body = message.value or b""
    return DeadLetter(
        id=event_id("dead-letter", message.topic, message.partition, message.offset),
        source=source,
        time=now,
        subject=f"{message.topic}/{message.partition}/{message.offset}",
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        reason=error.reason if isinstance(error, BadInput) else Refusal.AGENT_FAULT,
        cause=f"{type(error).__name__}: {error}"[:2000],
        body_bytes=len(body),
        key=message.key or b"",
        headers=tuple((name, value or b"") for name, value in message.headers),
        body=body if len(body) <= MAX_FRAME_BYTES else b"",
    )
