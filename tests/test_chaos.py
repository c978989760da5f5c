"""Chaos: each attack changes what it says and nothing else, repeats under one seed, and meets the refusal that it is made for."""

import json
import struct
import threading
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from typer.testing import CliRunner

from inference.attacks.gradient import fgsm
from inference.networks.csp_nano import CspNano
from inference.service.intake import Intake
from infra.keys import camera_key, verify_frame
from infra.settings import Settings
from streams import codec
from streams.attacks import (
    Attack,
    Chaff,
    CorruptBytes,
    Corruption,
    Drift,
    Flood,
    Harm,
    NewerVersion,
    ReplayedFrames,
    SecondSender,
    Stretch,
    TakenOut,
    WhiteBox,
    Wire,
    WrongContext,
    WrongSignature,
    WrongTime,
    bomb_png,
)
from streams.camera import Body, Clock, play
from streams.chaos import ATTACKS, WHITE_BOX, Means, app, attack
from streams.errors import BadInput, Refusal
from streams.events import Context, Frame
from streams.ledger import Ledger, read_ledger
from streams.line import FrameMessage, Landed, Place
from streams.sources.base import Person, Picture, Shot
from streams.sources.street import Street

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
START = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)
PERSON = Person((20, 4, 8, 20), (20, 4, 8, 20))
SHOT = Shot("one", 0.0, np.random.default_rng(3).integers(0, 256, (32, 64, 3), np.uint8), (PERSON,))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
ON_MESSAGES: list[Attack] = [
    Flood(), Flood(fresh=True), ReplayedFrames(), ReplayedFrames(fresh=True), *(CorruptBytes(harm) for harm in Harm),
    WrongSignature(OTHER_KEY), WrongSignature(None), WrongTime(3600), WrongTime(-3600), NewerVersion(),
    ReplayedFrames(fresh=True, quality=60), ReplayedFrames(fresh=True, back=1), SecondSender(), SecondSender(same_start=True),
    TakenOut(), WrongContext(),
]  # fmt: skip
ON_PICTURES = [Drift(corruption, 2.0) for corruption in Corruption]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def at_work(count: int = 6) -> tuple[FrameMessage, Wire]:
    """The message at hand, and a wire that remembers the ones before."""
    body, wire = Body("gate-1", Context.URBAN, KEY), Wire(KEY)
    made = [body.message(SHOT.picture + np.uint8(k), 7, wire.take_sequence(), START + timedelta(seconds=k)) for k in range(count)]
    wire.past.extend(made[:-1])
    return made[-1], wire


def differences(one: Frame, other: Frame) -> set[str]:
    return {name for name in one.__struct_fields__ if getattr(one, name) != getattr(other, name)}


# -- pictures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drift", ON_PICTURES, ids=lambda drift: drift.name)
def test_a_drift_grows_from_nothing_and_stays_at_its_full_strength(drift: Drift) -> None:
    picture = Street("urban", seed=4, width_px=256, height_px=128).shot(0).picture
    before = picture.copy()
    harm = [
        np.abs(drift.on_picture(picture, SHOT, into_s, rng()).astype(int) - picture).mean() for into_s in (0.0, 0.5, 1.0, 2.0, 9.0)
    ]
    assert harm[0] == 0
    assert harm[0] <= harm[1] < harm[2] < harm[3] == harm[4]
    assert np.array_equal(picture, before)


@hypothesis_settings(max_examples=25, deadline=None)
@given(
    picture=arrays.arrays(np.uint8, st.tuples(st.integers(16, 40), st.integers(16, 40), st.just(3))),
    drift=st.sampled_from(ON_PICTURES),
    into_s=st.floats(0, 5),
    seed=st.integers(0, 99),
)
def test_a_picture_attack_keeps_size_and_type_repeats_under_a_seed_and_leaves_its_input(
    picture: Picture, drift: Drift, into_s: float, seed: int
) -> None:
    before = picture.copy()
    first = drift.on_picture(picture, SHOT, into_s, rng(seed))
    assert first.shape == picture.shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, drift.on_picture(picture, SHOT, into_s, rng(seed)))
    assert np.array_equal(picture, before)
    message, wire = at_work()
    assert list(drift.on_message(message, wire, rng(seed))) == [message]


def test_fgsm_stays_within_its_bound_and_asks_for_the_true_people() -> None:
    network = CspNano().eval()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    seen = []

    def change(picture: Picture, people: Sequence[Person] | None) -> Picture:
        seen.append(people)
        return fgsm(network, picture, people, 0.03)

    attacked = WhiteBox("fgsm", change).on_picture(SHOT.picture, SHOT, 0.0, rng())
    assert 0 < np.abs(attacked.astype(int) - SHOT.picture).max() <= 8
    assert seen == [SHOT.people]
    assert all(np.array_equal(value, weights[name]) for name, value in network.state_dict().items())


# -- messages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ON_MESSAGES, ids=lambda attack: attack.name)
def test_a_message_attack_leaves_pictures_alone_and_repeats_under_a_seed(attack: Attack) -> None:
    assert attack.on_picture(SHOT.picture, SHOT, 3.0, rng()) is SHOT.picture
    first, second = (list(attack.on_message(*at_work(), rng(5))) for _ in range(2))
    assert first == second


def test_a_flood_is_the_same_message_or_new_frames_that_hold() -> None:
    message, wire = at_work()
    assert list(Flood(times=5).on_message(message, wire, rng())) == [message] * 5
    fresh = Flood(fresh=True, times=5).on_message(message, wire, rng())
    assert [one.frame.sequence for one in fresh] == [5, 6, 7, 8, 9]
    assert len({one.frame.id for one in fresh}) == 5
    assert wire.take_sequence() == 10
    for one in fresh[1:]:
        assert differences(one.frame, message.frame) == {"id", "sequence", "time", "signature"}
        assert one.body == message.body


def test_replayed_frames_are_old_ones_as_they_were_or_under_the_live_ones_name() -> None:
    message, wire = at_work()
    live, old = ReplayedFrames().on_message(message, wire, rng())
    assert live == message
    assert old in wire.past
    (forged,) = ReplayedFrames(fresh=True).on_message(message, wire, rng())
    assert differences(forged.frame, message.frame) == {"digest", "signature"}
    assert forged.body in [past.body for past in wire.past]
    assert forged.body != message.body
    wire.past.clear()
    assert list(ReplayedFrames().on_message(message, wire, rng())) == [message]


CHANGES: dict[str, set[str]] = {
    "truncated": {"digest", "signature"}, "flipped": set(), "huge": {"digest", "signature"},
    "bomb": {"digest", "signature", "content_type"}, "wrong-key": {"signature"}, "unsigned": {"signature"},
    "future-time": {"time", "signature"}, "stale-time": {"time", "signature"}, "newer-version": {"version", "signature"},
    "wrong-context": {"context", "signature"}, "replay-recoded": {"digest", "signature"}, "frozen": {"digest", "signature"},
}  # fmt: skip
REFUSALS = {
    "truncated": Refusal.UNDECODABLE, "flipped": Refusal.BAD_SIGNATURE, "huge": Refusal.TOO_LARGE, "bomb": Refusal.TOO_LARGE,
    "wrong-key": Refusal.BAD_SIGNATURE, "unsigned": Refusal.BAD_SIGNATURE, "future-time": Refusal.FUTURE_TIME,
    "stale-time": Refusal.STALE_TIME, "newer-version": Refusal.UNKNOWN_VERSION,
}  # fmt: skip
REFUSED = [attack for attack in ON_MESSAGES if attack.name in REFUSALS]


@pytest.mark.parametrize("attack", [each for each in ON_MESSAGES if each.name in CHANGES], ids=lambda attack: attack.name)
def test_an_attack_changes_what_it_says_and_nothing_else(attack: Attack) -> None:
    message, wire = at_work()
    (bad,) = attack.on_message(message, wire, rng())
    assert differences(bad.frame, message.frame) == CHANGES[attack.name]
    touches_bytes = attack.name in {*Harm, "replay-recoded", "frozen"}
    assert (bad.body != message.body) == touches_bytes
    if attack.name == "flipped":
        assert sum(one != other for one, other in zip(bad.body, message.body, strict=True)) == 1


@pytest.mark.parametrize("attack", REFUSED, ids=lambda attack: attack.name)
def test_the_worker_refuses_each_for_the_reason_that_it_is_made_for(attack: Attack, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    key = camera_key(settings, "gate-1")
    body, wire = Body("gate-1", Context.URBAN, key), Wire(key)
    intake = Intake(lambda frame: verify_frame(settings, frame), allowance_s=5)

    def admit(message: FrameMessage, offset: int) -> object:
        frame, data = message
        now = START + timedelta(seconds=offset)
        return intake.admit(codec.encode_frame(frame), data, key=b"gate-1", partition=0, offset=offset, now=now)

    honest = [body.message(SHOT.picture, 7, k, START + timedelta(seconds=k)) for k in range(3)]
    admit(honest[0], 0)
    (bad,) = attack.on_message(honest[1], wire, rng())
    with pytest.raises(BadInput) as caught:
        admit(bad, 1)
    assert caught.value.reason == REFUSALS[attack.name]
    admit(honest[2], 2)  # the stream goes on


def test_floods_and_old_frames_are_refused_as_repeated_and_forged_ones_pass(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    key = camera_key(settings, "gate-1")
    body, wire = Body("gate-1", Context.URBAN, key), Wire(key)
    intake = Intake(lambda frame: verify_frame(settings, frame), allowance_s=5)
    offset = 0

    def admit(message: FrameMessage) -> Refusal | None:
        nonlocal offset
        offset += 1
        try:
            intake.admit(codec.encode_frame(message.frame), message.body, key=b"gate-1", partition=0, offset=offset, now=START)
        except BadInput as error:
            return error.reason
        return None

    honest = [body.message(SHOT.picture, 7, wire.take_sequence(), START - timedelta(seconds=10 - k)) for k in range(4)]
    assert [admit(message) for message in honest[:2]] == [None, None]
    wire.past.extend(honest[:2])
    assert [admit(m) for m in Flood(times=3).on_message(honest[2], wire, rng())] == [None, Refusal.REPEATED, Refusal.REPEATED]
    assert [admit(m) for m in ReplayedFrames().on_message(honest[3], wire, rng())] == [None, Refusal.REPEATED]
    later = body.message(SHOT.picture, 7, wire.take_sequence(), START)
    assert [admit(m) for m in ReplayedFrames(fresh=True).on_message(later, wire, rng())] == [None]
    another = body.message(SHOT.picture, 7, wire.take_sequence(), START + timedelta(seconds=1))
    assert [admit(m) for m in Flood(fresh=True, times=4).on_message(another, wire, rng())] == [None] * 4


@pytest.mark.parametrize("attack", [SecondSender(), SecondSender(same_start=True)], ids=lambda attack: attack.name)
def test_a_second_sender_is_refused_by_that_name_and_a_late_frame_of_before_a_restart_is_not(
    attack: SecondSender, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path)
    body = Body("gate-1", Context.URBAN, camera_key(settings, "gate-1"))
    wire = Wire(body.key)
    intake = Intake(lambda frame: verify_frame(settings, frame), allowance_s=5)
    epoch = int(START.timestamp() * 1000)

    def admit(message: FrameMessage, offset: int) -> int:
        frame, data = message
        headers = codec.encode_frame(frame)
        return intake.admit(headers, data, key=b"gate-1", partition=0, offset=offset, now=START + timedelta(seconds=60)).refused

    admit(body.message(SHOT.picture, epoch, 8, START + timedelta(seconds=8)), 0)
    live, other = attack.on_message(body.message(SHOT.picture, epoch, 9, START + timedelta(seconds=9)), wire, rng())
    assert admit(live, 1) == 0
    with pytest.raises(BadInput, match="two senders use this name") as caught:
        admit(other, 2)
    assert caught.value.reason is Refusal.REPEATED
    late = body.message(SHOT.picture, epoch - 3_600_000, 900, START - timedelta(seconds=1))
    with pytest.raises(BadInput, match=r"\(epoch \d+\)$"):
        admit(late, 3)
    assert admit(body.message(SHOT.picture, epoch, 10, START + timedelta(seconds=10)), 4) == 2, "refused in between"


def test_one_frame_in_three_is_taken_out_and_chaff_comes_and_goes() -> None:
    sent = played([Stretch(TakenOut(), 0)])
    assert [message.frame.sequence for message in sent] == [0, 1, 3, 4, 6, 7, 9]
    changed = [not np.array_equal(Chaff(2.0, 3.0).on_picture(SHOT.picture, SHOT, float(k), rng()), SHOT.picture) for k in range(10)]
    assert changed == [True, True, False, False, False] * 2


def test_the_bomb_is_small_valid_and_huge_once_unpacked() -> None:
    data = bomb_png()
    assert len(data) < 64 * 1024
    width, height, depth = struct.unpack(">IIB", data[16:25])
    start = data.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", data[start - 8 : start - 4])
    rows = zlib.decompress(data[start : start + length])
    assert len(rows) == height * (width * depth // 8 + 1)
    assert width * height * 3 > 700_000_000


# -- stretches -----------------------------------------------------------------------------------------------------------


class Wired:
    """A line that keeps what is sent."""

    def __init__(self) -> None:
        self.messages: list[FrameMessage] = []

    def send(self, message: FrameMessage, landed: Landed, stop: threading.Event) -> None:
        assert not stop.is_set()
        self.messages.append(message)
        landed(Place(0, len(self.messages)))

    def finish(self, stop: threading.Event) -> int:
        assert not stop.is_set()
        return 0


def played(schedule: list[Stretch], seed: int = 0, ledger: Ledger | None = None) -> list[FrameMessage]:
    line, ticks = Wired(), iter(range(10_000))
    clock = Clock(lambda: START + timedelta(seconds=next(ticks)), lambda: 0.0)
    street = Street("urban", seed=2, width_px=128, height_px=64)
    body = Body("gate-1", Context.URBAN, KEY)
    play(street, body, line, clock, threading.Event(), fps=0, pictures=10, schedule=schedule, seed=seed, ledger=ledger)
    return line.messages


def test_an_attack_acts_in_its_stretch_and_the_ledger_says_so(tmp_path: Path) -> None:
    clean = played([])
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        bad = played([Stretch(Drift(Corruption.NOISE, 0.1), 3, 4)], ledger=ledger)
    # the drift begins at nothing, so its first picture is still the clean one
    assert [one.body != other.body for one, other in zip(bad, clean, strict=True)] == [4 <= k < 7 for k in range(10)]
    assert [entry.attack for entry in read_ledger(tmp_path / "ledger.jsonl")] == [None] * 3 + ["drift-noise"] * 4 + [None] * 3
    assert [m.body for m in played([Stretch(Drift(Corruption.NOISE, 0.1), 3, 4)])] == [m.body for m in bad]
    assert [m.body for m in played([Stretch(Drift(Corruption.NOISE, 0.1), 3, 4)], seed=1)] != [m.body for m in bad]


def test_a_change_too_small_for_jpeg_is_sent_without_loss_and_holds() -> None:
    small = WhiteBox("deepfool", lambda picture, _: picture ^ np.uint8(1), lossless=True)
    sent = played([Stretch(small, 3, 4)])
    assert [message.frame.content_type for message in sent] == ["image/jpeg"] * 3 + ["image/png"] * 4 + ["image/jpeg"] * 3
    honest = Street("urban", seed=2, width_px=128, height_px=64).shot(4).picture
    arrived = cv2.imdecode(np.frombuffer(sent[4].body, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.array_equal(arrived, honest ^ 1)


def test_attacks_add_up_and_numbers_stay_unique() -> None:
    sent = played([Stretch(Flood(fresh=True, times=3), 2, 2), Stretch(Drift(Corruption.DARK, 0.1), 0)])
    sequences = [message.frame.sequence for message in sent]
    assert len(sent) == 14
    assert sequences == sorted(set(sequences))
    times = [message.frame.time for message in sent]
    assert times == sorted(set(times))


# -- by name -------------------------------------------------------------------------------------------------------------


def test_every_name_makes_the_attack_of_that_name(tmp_path: Path) -> None:
    means = Means(Settings(home=tmp_path))
    for name in ATTACKS.keys() - WHITE_BOX:  # needs the shipped weights: see the demo's test
        assert attack(name, means).name == name
    with pytest.raises(BadInput, match="drift-fog"):
        attack("drft-fog", means)


def test_the_list_is_for_people_and_for_machines() -> None:
    assert isinstance(app, typer.Typer)
    listed = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)
    assert [one["name"] for one in listed] == list(ATTACKS)
    assert "zip" not in listed
    assert "drift-fog" in CliRunner().invoke(app, ["list"]).stdout


def test_signed_changes_keep_the_frame_valid_for_the_wire() -> None:
    message, wire = at_work()
    for one in Flood(fresh=True, times=3).on_message(message, wire, rng()):
        assert msgspec.convert(msgspec.to_builtins(one.frame), Frame) == one.frame
