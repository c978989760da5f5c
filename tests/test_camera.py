"""The camera: signed frames in order, paced, with a ledger of the truth; and its line to the broker, which never drops."""

import hashlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError, TopicAuthorizationFailedError

from infra.clients import consumer
from infra.keys import camera_key, verify_frame
from infra.settings import Settings
from streams import codec
from streams.camera import Body, Clock, Sent, encode, play, replay
from streams.errors import BadInput, Unavailable
from streams.events import Context, Frame, event_id
from streams.ledger import Entry, Ledger, Truth, read_ledger
from streams.line import JPEG, PNG, FrameMessage, KafkaLine, Landed, Place
from streams.sources.base import Person, Shot
from streams.topics import FRAMES, Role

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
START = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)


class Stills:
    """A source of small pictures, each its own number's grey."""

    name, fps = "stills", 5.0

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Shot]:
        for number in range(self.count):
            person = Person((number, 1.5, 4.1, 10), (number, 2, 4, 5))
            yield Shot(f"still-{number}", number / 5, np.full((32, 48, 3), number % 250, np.uint8), (person,))


class Wired:
    """A line that keeps what is sent and says so at once, or only at the end."""

    def __init__(self, *, late: bool = False) -> None:
        self.messages: list[FrameMessage] = []
        self._waiting: deque[tuple[int, Landed]] = deque()
        self._late = late

    def send(self, message: FrameMessage, landed: Landed, stop: threading.Event) -> None:
        assert not stop.is_set()
        self._waiting.append((len(self.messages), landed))
        self.messages.append(message)
        if not self._late:
            self.finish(stop)

    def finish(self, stop: threading.Event) -> int:
        del stop
        while self._waiting:
            offset, landed = self._waiting.popleft()
            landed(Place(2, 100 + offset))
        return 0


class Watch:
    """A clock that only moves when somebody waits, or when told to stand still for UTC."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.waits: list[float] = []

    def clock(self, *, frozen: bool = False) -> Clock:
        return Clock(lambda: START + timedelta(seconds=0 if frozen else self.now_s - 50), lambda: self.now_s, self.wait)

    def wait(self, stop: threading.Event, seconds: float) -> None:
        assert not stop.is_set()
        self.waits.append(seconds)
        self.now_s += max(0.0, seconds)


def shown(source: Any, **options: Any) -> tuple[list[FrameMessage], Any]:
    line = options.pop("line", Wired())
    clock = options.pop("clock", Watch().clock())
    body = Body("gate-1", Context.URBAN, KEY, options.pop("content_type", JPEG))
    summary = play(source, body, line, clock, options.pop("stop", threading.Event()), **options)
    return line.messages, summary


def test_frames_are_described_signed_and_numbered_in_order() -> None:
    messages, summary = shown(Stills(4))
    epoch = int(START.timestamp() * 1000)
    assert [message.frame.sequence for message in messages] == [0, 1, 2, 3]
    for frame, body in messages:
        assert frame.epoch == epoch
        assert frame.id == event_id("frame", "gate-1", epoch, frame.sequence)
        assert frame.digest == hashlib.sha256(body).hexdigest()
        assert (frame.width_px, frame.height_px, frame.content_type) == (48, 32, JPEG)
        assert codec.decode_frame(codec.encode_frame(frame), body) == frame
    assert [message.frame.time - START for message in messages] == [timedelta(seconds=number / 5) for number in range(4)]
    assert (summary.pictures, summary.messages, summary.unacknowledged, summary.source) == (4, 4, 0, "stills")


def test_the_signature_is_the_cameras_own(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    key = camera_key(settings, "gate-1")
    message = Body("gate-1", Context.URBAN, key).message(np.zeros((32, 32, 3), np.uint8), 1, 0, START)
    verify_frame(settings, message.frame)
    with pytest.raises(BadInput):
        verify_frame(settings, msgspec.structs.replace(message.frame, sequence=1))


def test_png_keeps_every_pixel_and_jpeg_nearly() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8)
    picture[:, :, 0] = 200
    decoded = cv2.imdecode(np.frombuffer(encode(picture, PNG), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.array_equal(decoded, picture)
    smooth = np.asarray(cv2.resize(picture[:4, :6], (48, 32), interpolation=cv2.INTER_CUBIC), np.uint8)
    decoded = cv2.imdecode(np.frombuffer(encode(smooth), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.abs(decoded.astype(int) - smooth).mean() < 4
    with pytest.raises(BadInput):
        encode(picture, "image/webp")


def test_camera_time_grows_even_where_the_clock_stands_still() -> None:
    messages, _ = shown(Stills(5), clock=Watch().clock(frozen=True), fps=0)
    times = [message.frame.time for message in messages]
    assert all(one < two for one, two in itertools.pairwise(times))


def test_pace_is_the_sources_or_the_given_one_or_none() -> None:
    for fps, expected in ((None, 0.2), (10.0, 0.1)):
        watch = Watch()
        shown(Stills(4), clock=watch.clock(), fps=fps)
        assert watch.waits == pytest.approx([expected] * 4)
    watch = Watch()
    shown(Stills(4), clock=watch.clock(), fps=0)
    assert watch.waits == []
    with pytest.raises(BadInput):
        shown(Stills(1), fps=-1)


def test_a_camera_that_was_blocked_goes_on_at_its_pace_without_hurrying() -> None:
    watch = Watch()

    class Slow(Wired):
        def send(self, message: FrameMessage, landed: Landed, stop: threading.Event) -> None:
            if message.frame.sequence == 1:
                watch.now_s += 7.0
            super().send(message, landed, stop)

    shown(Stills(5), line=Slow(), clock=watch.clock())
    assert watch.waits == pytest.approx([0.2, 0.0, 0.2, 0.2, 0.2])


def test_looping_goes_on_counting_until_enough_is_shown() -> None:
    messages, summary = shown(Stills(3), loop=True, pictures=8, fps=0)
    assert [message.frame.sequence for message in messages] == list(range(8))
    assert messages[0].body == messages[3].body == messages[6].body
    assert summary.pictures == 8
    assert shown(Stills(0), loop=True)[1].pictures == 0  # an empty source does not spin


def test_stopping_ends_the_camera_after_the_picture_at_hand() -> None:
    stop, seen = threading.Event(), list[Sent]()

    def progress(sent: Sent) -> None:
        seen.append(sent)
        if sent.pictures == 2:
            stop.set()

    messages, summary = shown(Stills(9), stop=stop, progress=progress, fps=0)
    assert len(messages) == summary.pictures == 2
    assert seen[-1] == Sent(2, 2, 2, None)


# -- ledger --------------------------------------------------------------------------------------------------------------


def test_the_ledger_holds_the_truth_and_the_place_of_every_message(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.jsonl"
    with Ledger(path) as ledger:
        messages, _ = shown(Stills(3), ledger=ledger)
    entries = read_ledger(path)
    assert [(one.number, one.sequence, one.partition, one.offset) for one in entries] == [
        (0, 0, 2, 100),
        (1, 1, 2, 101),
        (2, 2, 2, 102),
    ]
    for entry, message in zip(entries, messages, strict=True):
        assert (entry.frame_id, entry.digest, entry.camera_time) == (message.frame.id, message.frame.digest, message.frame.time)
        assert entry.shot == f"still-{entry.sequence}"
        assert entry.people == (Truth((entry.sequence, 1.5, 4.1, 10), (entry.sequence, 2, 4, 5), ignore=False),)
        assert entry.attack is None


def test_what_was_not_acknowledged_has_no_place_and_half_a_line_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        line = Wired(late=True)
        monkeypatch.setattr(line, "finish", lambda _stop: len(line.messages))  # the broker never answers
        _, summary = shown(Stills(2), ledger=ledger, line=line)
    assert summary.unacknowledged == 2
    assert [entry.partition for entry in read_ledger(path)] == [None, None]
    path.write_bytes(path.read_bytes() + b'{"number": 7, "fr')
    assert len(read_ledger(path)) == 2


def test_a_ledger_that_was_edited_or_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with pytest.raises(BadInput, match="--ledger"):
        read_ledger(path)
    path.write_text('{"number": "one"}\n')
    with pytest.raises(BadInput, match="line 1"):
        read_ledger(path)
    with pytest.raises(BadInput, match="cannot be written"):
        Ledger(tmp_path)


boxes = st.tuples(*[st.floats(-50, 3000).map(lambda value: round(value, 2)) for _ in range(4)])
people = st.none() | st.lists(st.builds(Person, boxes, boxes, st.booleans()), max_size=4).map(tuple)


@hypothesis_settings(max_examples=40, deadline=None)
@given(truths=st.lists(st.tuples(people, st.none() | st.sampled_from(("fgsm", "flood+huge")), st.booleans()), max_size=6))
def test_a_ledger_reads_back_what_was_written(
    truths: list[tuple[tuple[Person, ...] | None, str | None, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    frame = Body("gate-1", Context.HIGHWAY, KEY).message(np.zeros((16, 16, 3), np.uint8), 5, 6, START).frame
    with Ledger(path) as ledger:
        for number, (some, attack, _) in enumerate(truths):
            ledger.sending(number, frame, attack, Shot("s", 0.0, np.zeros((16, 16, 3), np.uint8), some))
        for number, (_, _, landed) in enumerate(truths):
            if landed:
                ledger.landed(number, 1, number * 3)
    entries = read_ledger(path)
    assert len(entries) == len(truths)
    for entry, (some, attack, landed) in zip(entries, truths, strict=True):
        assert entry.attack == attack
        assert entry.offset == (entry.number * 3 if landed else None)
        truth = None if some is None else tuple(Truth(one.box_px, one.visible_px, one.ignore) for one in some)
        assert entry.people == truth


# -- line ----------------------------------------------------------------------------------------------------------------


class Future:
    """A send that somebody else decides about."""

    def __init__(self) -> None:
        self.value: Any = None
        self.exception: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.value is not None or self.exception is not None

    def failed(self) -> bool:
        return self.exception is not None

    def get(self, timeout: float) -> None:
        assert timeout > 0


class Broker:
    """kafka-python's producer as far as the line uses it; `troubles` are raised or answered, one a send, None for success."""

    def __init__(self, log: list[int], troubles: Sequence[Exception | None] = (), refuses: Sequence[Exception | None] = ()) -> None:
        self.log, self.troubles, self.refuses, self.closed = log, deque(troubles), deque(refuses), False
        self.failed: Exception | None = None

    def send(self, topic: str, body: bytes, *, key: bytes, headers: list[tuple[str, bytes]]) -> Future:
        assert (topic, key) == (FRAMES.name, b"gate-1")
        refusal = self.refuses.popleft() if self.refuses else None
        if refusal is not None:
            raise refusal
        self.failed = self.failed or (self.troubles.popleft() if self.troubles else None)
        future = Future()
        if self.failed is not None:  # as with a lost connection, everything after it fails too
            future.exception = self.failed
        else:
            self.log.append(codec.decode_frame(headers, body).sequence)
            future.value = SimpleNamespace(partition=1, offset=len(self.log) - 1)
        return future

    def close(self, timeout: float) -> None:
        assert timeout >= 0
        self.closed = True


def messages(count: int) -> list[FrameMessage]:
    body = Body("gate-1", Context.URBAN, KEY)
    return [body.message(np.zeros((16, 16, 3), np.uint8), 1, number, START) for number in range(count)]


def through(brokers: list[Broker | None], count: int) -> tuple[list[Place], int]:
    """Sends `count` messages over a line whose connections are `brokers` in turn (None: nobody answers)."""
    turn = iter(brokers)

    def connect() -> Broker:
        broker = next(turn)
        if broker is None:
            raise Unavailable("nobody answers")
        return broker

    stop, places = threading.Event(), list[Place]()
    line = KafkaLine(connect, window=3)
    for message in messages(count):
        line.send(message, places.append, stop)
    return places, line.finish(stop)


def test_everything_lands_in_order_and_the_connection_is_closed() -> None:
    broker = Broker([])
    places, left = through([broker], 10)
    assert broker.log == list(range(10))
    assert places == [Place(1, offset) for offset in range(10)]
    assert left == 0
    assert broker.closed


def test_a_lost_connection_is_begun_again_without_loss_or_disorder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.line._AGAIN_S", 0.01)
    log: list[int] = []
    lost = Broker(log, [None, None, KafkaTimeoutError()])
    places, left = through([lost, None, None, Broker(log)], 8)
    assert lost.closed
    assert log == list(range(8))
    assert [place.offset for place in places] == list(range(8))
    assert left == 0


def test_a_message_that_the_producer_does_not_take_yet_holds_up_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.line._LOOK_S", 0.01)
    broker = Broker([], refuses=[None, KafkaTimeoutError(), KafkaTimeoutError()])
    places, left = through([broker], 6)
    assert broker.log == list(range(6))
    assert len(places) == 6
    assert left == 0


@pytest.mark.parametrize("error", [TopicAuthorizationFailedError(), MessageSizeTooLargeError()], ids=["not allowed", "too large"])
def test_what_no_waiting_will_mend_is_said_at_once(error: Exception) -> None:
    allowed = isinstance(error, MessageSizeTooLargeError)
    broker = Broker([], refuses=[error]) if allowed else Broker([], [error])
    with pytest.raises(BadInput if allowed else Unavailable):
        through([broker], 3)


def test_a_stopped_camera_says_how_much_was_not_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.line._LOOK_S", 0.01)
    monkeypatch.setattr("streams.line._GRACE_S", 0.05)
    stop = threading.Event()
    broker = Broker([], refuses=[KafkaTimeoutError()] * 10_000)
    line = KafkaLine(lambda: broker, window=5)
    for message in messages(4):
        line.send(message, lambda _place: None, stop)
    stop.set()
    assert line.finish(stop) == 4


def test_the_window_blocks_the_camera_until_the_broker_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.line._LOOK_S", 0.005)
    futures: list[Future] = []

    class Slow(Broker):
        def send(self, topic: str, body: bytes, *, key: bytes, headers: list[tuple[str, bytes]]) -> Future:
            del topic, body, key, headers
            futures.append(Future())
            return futures[-1]

    stop = threading.Event()
    line = KafkaLine(lambda: Slow([]), window=2)
    done: list[int] = []

    def camera() -> None:
        for number, message in enumerate(messages(5)):
            line.send(message, lambda _place: None, stop)
            done.append(number)

    thread = threading.Thread(target=camera)
    thread.start()
    try:
        thread.join(0.2)
        assert done == [0, 1]  # the third is on its way, and send has not returned
        for number in range(5):
            while len(futures) <= number:
                thread.join(0.005)
            futures[number].value = SimpleNamespace(partition=0, offset=number)
        thread.join(5)
        assert done == [0, 1, 2, 3, 4]
    finally:
        stop.set()
        thread.join(5)


# -- the real broker -----------------------------------------------------------------------------------------------------


@pytest.mark.broker
def test_a_replay_lands_on_the_real_broker_as_the_ledger_says(
    broker: Settings, tmp_path: Path, fresh_topics: Callable[[Settings], None]
) -> None:
    fresh_topics(broker)
    path = tmp_path / "ledger.jsonl"
    summary = replay(Stills(60), "gate-1", Context.URBAN, broker, fps=0, ledger_path=path)
    assert (summary.messages, summary.unacknowledged) == (60, 0)
    entries: dict[tuple[int | None, int | None], Entry] = {(one.partition, one.offset): one for one in read_ledger(path)}
    assert len(entries) == 60
    with closing(consumer(broker, Role.INFERENCE, group=None)) as reader:
        reader.subscribe([FRAMES.name])
        found: list[Frame] = []
        while len(found) < 60:
            batch = reader.poll(timeout_ms=5_000)
            assert batch, f"only {len(found)} frames came"
            for records in batch.values():
                for record in records:
                    frame = codec.decode_frame(record.headers, record.value)
                    verify_frame(broker, frame)
                    assert record.key == b"gate-1"
                    assert entries[record.partition, record.offset].frame_id == frame.id
                    found.append(frame)
    assert [frame.sequence for frame in found] == list(range(60))
