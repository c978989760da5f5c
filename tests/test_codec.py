"""Events to bytes and back, and every way in which bytes can be wrong."""

from datetime import timedelta, timezone

import pytest
from frames import NOW, a_frame
from hypothesis import given
from hypothesis import strategies as st

from streams import codec, topics
from streams.codec import Message
from streams.errors import BadInput, Refusal
from streams.events import (
    Context,
    DeadLetter,
    Evidence,
    Frame,
    Health,
    Kind,
    Phase,
    Severity,
    Signal,
    Window,
    WorkerStatus,
    event_id,
)

JPEG = b"\xff\xd8 not really \xff\xd9"


def a_signal(value: float = 1.0) -> Signal:
    return Signal(
        id="s1",
        source="watcher/w",
        time=NOW,
        subject="gate",
        kind=Kind.EVASION,
        phase=Phase.RAISED,
        severity=Severity.HIGH,
        camera_id="gate",
        context=Context.URBAN,
        detector="d",
        window=Window(epoch=1, first_sequence=2, last_sequence=3),
        weights_digest=None,
        evidence=(Evidence("score", value),),
    )


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_an_event_comes_back_as_it_went(value: float) -> None:
    signal = a_signal(value)
    assert codec.decode(codec.encode(signal), topics.SIGNALS, Signal).event == signal


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_none_is_refused_before_it_is_sent(value: float) -> None:
    with pytest.raises(BadInput, match=r"Signal.evidence\[0\].value"):
        codec.encode(a_signal(value))


def test_fields_of_a_newer_writer_survive_reading_and_writing() -> None:
    data = codec.encode(a_signal())[:-1] + b',"mood":{"colour":"blue"}}'
    decoded = codec.decode(data, topics.SIGNALS, Signal)
    assert codec.encode(decoded.event, decoded.unknown) == data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, Refusal.UNDECODABLE),
        (b"", Refusal.UNDECODABLE),
        (b"{", Refusal.UNDECODABLE),
        (b"[1]", Refusal.UNDECODABLE),
        (b"\xff\xfe", Refusal.UNDECODABLE),
        (b"[" * 100_000, Refusal.UNDECODABLE),
        (b"{}", Refusal.BAD_VALUE),
        (b'{"version":2}', Refusal.UNKNOWN_VERSION),
        (b'{"version":"2"}', Refusal.UNDECODABLE),
        (b" " * (topics.MAX_EVENT_BYTES + 1), Refusal.TOO_LARGE),
        (codec.encode(a_signal()).replace(b"1.0", b"NaN"), Refusal.UNDECODABLE),
        (codec.encode(a_signal()).replace(b"1.0", b"null"), Refusal.BAD_VALUE),
        (codec.encode(a_signal()).replace(b"1.0", b"1e999"), Refusal.BAD_VALUE),
        (codec.encode(a_signal()).replace(b"evasion", b"weather"), Refusal.BAD_VALUE),
        (codec.encode(a_signal()).replace(b"678901Z", b"678901"), Refusal.BAD_VALUE),
        (codec.encode(a_signal()).replace(b'"gate"', b'"../etc"'), Refusal.BAD_VALUE),
        (codec.encode(a_signal()).replace(b'"gate"', b'"gate\\n"'), Refusal.BAD_VALUE),
        (codec.encode(a_signal()).replace(b"kerbwatch.signal", b"kerbwatch.frame"), Refusal.BAD_VALUE),
    ],
)
def test_bytes_that_are_wrong_are_refused_with_a_reason(data: bytes | None, reason: Refusal) -> None:
    with pytest.raises(BadInput) as caught:
        codec.decode(data, topics.SIGNALS, Signal)
    assert caught.value.reason == reason


@given(st.binary(max_size=300))
def test_no_bytes_escape_as_anything_but_bad_input(data: bytes) -> None:
    with pytest.raises(BadInput):
        codec.decode(data, topics.SIGNALS, Signal)


def test_a_frame_travels_in_headers_as_cloudevents_prescribes() -> None:
    headers = codec.encode_frame(a_frame(JPEG))
    assert dict(headers)["ce_specversion"] == b"1.0"
    assert dict(headers)["ce_type"] == b"kerbwatch.frame"
    assert dict(headers)["content-type"] == b"image/jpeg"
    assert codec.decode_frame(headers, JPEG) == a_frame(JPEG)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ce_version", b"9", Refusal.UNKNOWN_VERSION),
        ("ce_width_px", b"1000000", Refusal.BAD_VALUE),
        ("ce_camera_id", b"Gate One", Refusal.BAD_VALUE),
        ("ce_sequence", b"-1", Refusal.BAD_VALUE),
        ("ce_time", b"2026-01-02T03:04:05", Refusal.BAD_VALUE),
        ("content-type", b"image/tiff", Refusal.BAD_VALUE),
        ("ce_id", b"another", Refusal.BAD_VALUE),
        ("ce_subject", b"\xff", Refusal.UNDECODABLE),
        ("ce_subject", b"x" * 9000, Refusal.TOO_LARGE),
    ],
)
def test_frame_headers_that_are_wrong_are_refused_with_a_reason(name: str, value: bytes, reason: Refusal) -> None:
    headers = [(header, value if header == name else was) for header, was in codec.encode_frame(a_frame(JPEG))]
    with pytest.raises(BadInput) as caught:
        codec.decode_frame(headers, JPEG)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"", Refusal.UNDECODABLE), (b"other", Refusal.BAD_SIGNATURE), (b"0" * (topics.MAX_FRAME_BYTES + 1), Refusal.TOO_LARGE)],
)
def test_a_picture_that_is_not_the_one_described_is_refused(body: bytes, reason: Refusal) -> None:
    with pytest.raises(BadInput) as caught:
        codec.decode_frame(codec.encode_frame(a_frame(JPEG)), body)
    assert caught.value.reason == reason


def test_a_signature_covers_every_field_but_itself() -> None:
    signed = codec.signed_bytes(a_frame(JPEG))
    assert codec.signed_bytes(a_frame(JPEG, signature="b3RoZXI=")) == signed
    changes: dict[str, object] = {
        "id": "x",
        "source": "y",
        "time": NOW + timedelta(microseconds=1),
        "subject": "z",
        "version": 2,
        "camera_id": "other",
        "context": Context.HIGHWAY,
        "epoch": 8,
        "sequence": 4,
        "width_px": 641,
        "height_px": 321,
        "content_type": "image/png",
        "digest": "0" * 64,
    }
    assert {*changes, "signature"} == set(Frame.__struct_fields__)
    for name, value in changes.items():
        assert codec.signed_bytes(a_frame(JPEG, **{name: value})) != signed, name


def test_times_of_other_zones_mean_the_same_instant() -> None:
    status = WorkerStatus(
        id="w", source="inference/w", time=NOW.astimezone(timezone(timedelta(hours=2))), subject="", worker_id="w",
        health=Health.SERVING, serving=(),
    )  # fmt: skip
    assert codec.decode(codec.encode(status), topics.WORKER_STATUS, WorkerStatus).event.time == NOW


def test_ids_depend_on_every_part_and_on_where_parts_end() -> None:
    assert event_id("ab", "c") != event_id("a", "bc")
    assert event_id("frame", "gate", 1, 2) == event_id("frame", "gate", 1, 2)
    assert event_id("frame", "gate", 1, 2) != event_id("frame", "gate", 12)


def test_a_dead_letter_keeps_the_message_for_replay() -> None:
    message = Message("frames", 2, 99, b"gate", JPEG, (("ce_id", b"x"),))
    letter = codec.dead_letter(message, BadInput("too bad", Refusal.BAD_SIGNATURE), source="inference/w", now=NOW)
    back = codec.decode(codec.encode(letter), topics.DEAD_LETTER, DeadLetter).event
    assert (back.topic, back.partition, back.offset, back.key, back.body, back.headers) == (
        "frames", 2, 99, b"gate", JPEG, (("ce_id", b"x"),),
    )  # fmt: skip
    assert back.reason == "bad_signature"


def test_our_own_fault_is_told_apart_from_bad_input() -> None:
    letter = codec.dead_letter(Message("signals", 0, 1, None, None), ZeroDivisionError("oops"), source="watcher/w", now=NOW)
    assert letter.reason == Refusal.AGENT_FAULT
    assert "ZeroDivisionError" in letter.cause
