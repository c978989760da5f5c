"""What a frame must be before a model looks at it."""

import io
import struct
import zlib
from datetime import timedelta

import numpy as np
import pytest
from frames import NOW, a_frame
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from inference.service.intake import MAX_PIXELS, Intake, decode_picture
from inference.service.refusals import STRANGER, Refusals
from streams import codec
from streams.codec import Message
from streams.errors import BadInput, Refusal
from streams.events import Frame, Phase, Signal

PICTURE = np.linspace(0, 255, 64 * 96 * 3).reshape(64, 96, 3).astype(np.uint8)


def encoded(kind: str = "jpeg") -> bytes:
    out = io.BytesIO()
    Image.fromarray(PICTURE).save(out, kind)
    return out.getvalue()


def admit(intake: Intake, body: bytes, *, offset: int = 0, key: bytes = b"gate", **changes: object) -> object:
    return intake.admit(codec.encode_frame(a_frame(body, **changes)), body, key=key, partition=0, offset=offset, now=NOW)


def an_intake() -> Intake:
    return Intake(verify=lambda _frame: None, allowance_s=5.0)


def a_png_that_claims(width: int, height: int) -> bytes:
    """A well-formed PNG header of any size with next to nothing in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_good_frame_comes_in_with_its_pixels(kind: str) -> None:
    body = encoded(kind)
    accepted = an_intake().admit(
        codec.encode_frame(a_frame(body, content_type=f"image/{kind}")), body, key=b"gate", partition=2, offset=9, now=NOW
    )
    assert accepted.picture.shape == (64, 96, 3)
    assert np.abs(accepted.picture.astype(int) - PICTURE).mean() < 3
    assert (accepted.partition, accepted.offset) == (2, 9)


@pytest.mark.parametrize("cut", [1, 20, 200, 600])
def test_a_truncated_picture_is_refused(cut: int) -> None:
    with pytest.raises(BadInput) as caught:
        admit(an_intake(), encoded()[:-cut])
    assert caught.value.reason == Refusal.UNDECODABLE


@pytest.mark.parametrize(("width", "height"), [(5000, 5000), (16000, 16000)])
def test_a_small_file_that_unpacks_to_a_huge_picture_is_refused_before_it_is_unpacked(width: int, height: int) -> None:
    body = a_png_that_claims(width, height)
    assert len(body) < 200
    assert width * height > MAX_PIXELS
    with pytest.raises(BadInput) as caught:
        admit(an_intake(), body, content_type="image/png", width_px=width, height_px=height)
    assert caught.value.reason == Refusal.TOO_LARGE


def test_a_picture_of_another_size_than_claimed_is_refused() -> None:
    with pytest.raises(BadInput) as caught:
        admit(an_intake(), encoded(), width_px=97)
    assert caught.value.reason == Refusal.BAD_VALUE


def test_a_picture_of_another_format_than_claimed_is_refused() -> None:
    with pytest.raises(BadInput) as caught:
        admit(an_intake(), encoded("png"))
    assert caught.value.reason == Refusal.UNDECODABLE


@given(st.binary(min_size=1, max_size=400))
@settings(max_examples=60)
def test_no_bytes_make_the_decoder_fail_otherwise_than_by_refusing(noise: bytes) -> None:
    good = encoded()
    for body in (noise, good[:300] + noise, good[:300] + noise + good[300 + len(noise) :]):
        try:
            decode_picture(body, a_frame(body))
        except BadInput:
            continue


def test_a_frame_that_its_camera_did_not_sign_is_refused_before_it_is_decoded() -> None:
    def refuse(_frame: Frame) -> None:
        raise BadInput("not signed", Refusal.BAD_SIGNATURE)

    with pytest.raises(BadInput) as caught:
        admit(Intake(verify=refuse, allowance_s=5.0), b"no picture at all")
    assert caught.value.reason == Refusal.BAD_SIGNATURE


def test_a_frame_under_another_cameras_key_is_refused() -> None:
    with pytest.raises(BadInput, match="message key"):
        admit(an_intake(), encoded(), key=b"bridge")


def test_a_camera_clock_may_be_ahead_by_the_allowance_and_no_more() -> None:
    admit(an_intake(), encoded(), time=NOW + timedelta(seconds=4.9))
    with pytest.raises(BadInput) as caught:
        admit(an_intake(), encoded(), time=NOW + timedelta(seconds=5.1))
    assert caught.value.reason == Refusal.FUTURE_TIME


@pytest.mark.parametrize(
    ("epoch", "sequence", "later_s", "reason"),
    [
        (7, 3, 1.0, Refusal.REPEATED),
        (7, 2, 1.0, Refusal.REPEATED),
        (6, 9, 1.0, Refusal.REPEATED),
        (7, 4, 0.0, Refusal.STALE_TIME),
        (8, 0, -1.0, Refusal.STALE_TIME),
    ],
)
def test_a_repeated_frame_or_time_is_refused(epoch: int, sequence: int, later_s: float, reason: Refusal) -> None:
    intake = an_intake()
    admit(intake, encoded(), offset=10)
    with pytest.raises(BadInput) as caught:
        admit(intake, encoded(), offset=11, epoch=epoch, sequence=sequence, time=NOW + timedelta(seconds=later_s))
    assert caught.value.reason == reason


def test_a_message_that_kafka_delivers_again_passes_again() -> None:
    intake = an_intake()
    admit(intake, encoded(), offset=10)
    admit(intake, encoded(), offset=10)
    admit(intake, encoded(), offset=11, sequence=4, time=NOW + timedelta(seconds=1))


def test_a_refused_frame_leaves_no_trace_in_the_checks() -> None:
    intake = an_intake()
    with pytest.raises(BadInput):
        admit(intake, encoded()[:-20], offset=10, sequence=99)
    admit(intake, encoded(), offset=11)


class TestRefusals:
    """One camera's trouble is one finding."""

    bad = Message("frames", 0, 5, b"gate", b"", (("ce_context", b"urban"),))
    error = BadInput("no good", Refusal.BAD_SIGNATURE)

    def known(self, **options: int) -> Refusals:
        refusals = Refusals("inference/w", "w", **options)
        for _ in range(refusals.calm_after):  # so that nothing of an earlier life is still to be ended
            refusals.accepted(a_frame(b"x"), NOW)
        return refusals

    def test_many_refusals_make_few_signals_and_calm_needs_good_frames(self) -> None:
        refusals = self.known(every=10, calm_after=3)
        signals = [signal for _ in range(25) if (signal := refusals.refused(self.bad, self.error, NOW))]
        assert [signal.phase for signal in signals] == [Phase.RAISED, Phase.ONGOING, Phase.ONGOING]
        good = [refusals.accepted(a_frame(b"x", sequence=number), NOW) for number in range(5)]
        assert [[signal.phase for signal in signals] for signals in good] == [[], [], [Phase.CALM], [], []]

    def test_a_refusal_in_between_starts_the_count_of_good_frames_anew(self) -> None:
        refusals = self.known(calm_after=2)
        refusals.refused(self.bad, self.error, NOW)
        assert not refusals.accepted(a_frame(b"x"), NOW)
        refusals.refused(self.bad, self.error, NOW)
        assert not refusals.accepted(a_frame(b"x"), NOW)
        assert refusals.accepted(a_frame(b"x"), NOW)

    def test_what_ends_a_trouble_is_no_older_than_what_was_told_of_it(self) -> None:
        refusals, told = self.known(every=2, calm_after=2), []
        for number in range(5, 10):
            refusals.accepted(a_frame(b"x", sequence=number), NOW)
            told += [signal for _ in range(3) if (signal := refusals.refused(self.bad, self.error, NOW))]
        (calm,) = [*refusals.accepted(a_frame(b"x", sequence=10), NOW), *refusals.accepted(a_frame(b"x", sequence=11), NOW)]
        assert calm.phase is Phase.CALM
        assert calm.window.last_sequence == max(signal.window.last_sequence for signal in told) == 9

    def test_the_same_refusal_gives_the_same_signal(self) -> None:
        first, second = (self.known().refused(self.bad, self.error, NOW) for _ in range(2))
        assert first == second

    def test_strangers_of_many_names_make_one_finding_and_calm_down(self) -> None:
        refusals = Refusals("inference/w", "w", every=1000, calm_after=2)
        claims = (("ce_context", b"urban"),)
        found = [refusals.refused(Message("frames", 0, n, b"cam%d" % n, b"", claims), self.error, NOW) for n in range(50)]
        assert [signal.camera_id for signal in found if signal] == [STRANGER]
        refusals.accepted(a_frame(b"x"), NOW)
        calm, _ = sorted(refusals.accepted(a_frame(b"x"), NOW), key=lambda signal: signal.camera_id != STRANGER)
        assert (calm.camera_id, calm.phase) == (STRANGER, Phase.CALM)

    def test_what_one_worker_finds_of_strangers_another_does_not_end_and_each_word_is_later_than_the_one_before(self) -> None:
        claims, told = (("ce_context", b"urban"),), list[Signal]()
        for worker in ("w1", "w2"):
            refusals = Refusals(f"inference/{worker}", worker, every=2, calm_after=2)
            for offset in (900, 901, 7, 8):  # of two partitions
                said = refusals.refused(Message("frames", 0, offset, b"x", b"", claims), self.error, NOW)
                told += [said] if said is not None else []
            for number in range(2):
                told += [one for one in refusals.accepted(a_frame(b"x", sequence=number), NOW) if one.camera_id == STRANGER]
        assert [one.phase for one in told] == [Phase.RAISED, Phase.ONGOING, Phase.ONGOING, Phase.CALM] * 2
        assert [one.detector for one in told] == ["intake/w1"] * 4 + ["intake/w2"] * 4
        moments = [one.window.last_sequence for one in told[:4]]
        assert moments == sorted(set(moments))

    def test_calm_of_a_camera_that_was_not_accused_needs_good_frames_with_nothing_refused_between(self) -> None:
        refusals = Refusals("inference/w", "w", calm_after=3)
        for number in range(2):
            assert not refusals.accepted(a_frame(b"x", sequence=number), NOW)
        assert refusals.refused(self.bad, self.error, NOW)
        said = [refusals.accepted(a_frame(b"x", sequence=number), NOW) for number in range(2, 9)]
        assert [[one.camera_id for one in signals] for signals in said] == [["stranger"], [], ["gate"], [], [], [], []]

    def test_a_stranger_without_a_context_makes_no_signal(self) -> None:
        stranger = Message("frames", 0, 5, b"\xff", b"", ())
        assert Refusals("inference/w", "w").refused(stranger, self.error, NOW) is None
