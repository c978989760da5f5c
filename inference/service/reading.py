"""Reads frames ahead and hands them out in turns by camera, so that a camera that floods makes only itself wait.

Fed by the topic `frames`. Kafka gives a partition's messages in one piece, and cameras share partitions: in that order, 240 frames
of one camera are judged before the next one of its neighbour. `Turns` holds what was read and is pure; `FrameReader` is the rim
around kafka-python. A camera's own frames keep their order. It does not look into messages: a turn goes to whoever the key names,
and one who writes under many names is refused later (`intake.py`).

What was handed out counts as done when `commit` is called; a partition's place is its first frame that is still held, so what was
judged beyond it comes again after a death, which is harmless (`worker.py`). At a rebalance kafka-python 3.0 keeps its position in
partitions that stay: what is held of them is dropped, and read again from that place.

Source: fair queueing (J. Nagle, RFC 970; max-min fair shares); SC-9, availability.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.errors import FencedInstanceIdError
from kafka.structs import MemberState

from streams.codec import Message
from streams.errors import BrokenContract

_AHEAD = 1_000
_AHEAD_BYTES = 64 * 2**20
"""Nothing more is read while a partition has been read so many messages beyond its first one that is held, or so much is held: the
deepest flood that other cameras do not notice, and the most that is judged twice after a death. Partitions are not paused one by
one: kafka-python 3.0.12 parks what it has of a paused one, and may not bring it back while others are read.
"""
_EVERYTHING = sys.maxsize
"""Records that a poll may bring, so that no partition has to wait for the rest of another's; fetches are bounded in bytes."""

_JOIN_MS = 1_000
"""So long a poll waits while the group is being divided anew. kafka-python 3.0.12 begins another join when one ended between two
polls: with polls that do not wait, as they are while frames are held, none is ever seen to end (146 joins in 15 s, no partition).
"""
_LOOK_EVERY_S = 0.5
"""So often the group is heard while nothing more should be read: others wait in a rebalance for one that does not poll."""

Record = Any
"""A `kafka.consumer.fetcher.ConsumerRecord`."""


class NameTaken(BrokenContract):
    """Another member of the group goes by this one's name. Nothing more may be said under it."""


@dataclass
class _Held:
    size_bytes: int = 0
    last: int = -1  # offset
    order: deque[int] = field(default_factory=deque)  # offsets as they came, from the first one on that is held
    gone: set[int] = field(default_factory=set)  # of these, what was taken out of turn


@dataclass
class Turns:
    """Frames that wait, by camera. One each in turn; within a camera in the order in which they came."""

    most: int = _AHEAD
    most_bytes: int = _AHEAD_BYTES
    _queues: dict[tuple[TopicPartition, bytes], deque[Record]] = field(default_factory=dict)
    _held: dict[TopicPartition, _Held] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(held.order) - len(held.gone) for held in self._held.values())

    def add(self, partition: TopicPartition, records: Iterable[Record]) -> None:
        """What was read of a partition, in its order."""
        held = self._held.setdefault(partition, _Held())
        for record in records:
            self._queues.setdefault((partition, record.key or b""), deque()).append(record)
            held.last = record.offset
            held.order.append(record.offset)
            held.size_bytes += len(record.value or b"")

    def take(self, most: int) -> list[Record]:
        """Up to `most` frames whose turn it is. A camera that had its turn goes behind all others that wait."""
        taken: list[Record] = []
        while self._queues and len(taken) < most:
            name, queue = next(iter(self._queues.items()))
            del self._queues[name]
            record = queue.popleft()
            held = self._held[name[0]]
            held.size_bytes -= len(record.value or b"")
            held.gone.add(record.offset)
            taken.append(record)
            if queue:
                self._queues[name] = queue
        return taken

    def forget(self, partition: TopicPartition) -> None:
        """Drop what is held of a partition: it is another worker's now, or will be read again."""
        self._held.pop(partition, None)
        self._queues = {name: queue for name, queue in self._queues.items() if name[0] != partition}

    def first(self, partition: TopicPartition) -> int | None:
        """The offset of the first frame of a partition that is still held; None if none is."""
        held = self._held.get(partition, _Held())
        while held.order and held.order[0] in held.gone:  # not a look at all queues: names cost their sender nothing
            held.gone.discard(held.order.popleft())
        return held.order[0] if held.order else None

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be read for now."""
        spans = ((self.first(partition), held.last) for partition, held in self._held.items())
        far = any(first is not None and last - first + 1 >= self.most for first, last in spans)
        return far or sum(held.size_bytes for held in self._held.values()) >= self.most_bytes


class FrameReader(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """A worker's reading of topic `frames`, in its consumer's group."""

    def __init__(self, consumer: KafkaConsumer, turns: Turns | None = None, steady_s: Callable[[], float] = time.monotonic) -> None:
        self._consumer = consumer
        self._turns = Turns() if turns is None else turns
        self._steady_s = steady_s
        self._looked_s = float("-inf")
        self._revoked: SimpleQueue[TopicPartition] = SimpleQueue()
        self.assignments = 0
        """How often partitions were given out: at each, other cameras may have become this worker's."""

    def subscribe(self, topic: str) -> None:
        """Join the group."""
        # Asked for first: a consumer that joins its group before it knows the topic is given no partitions (seen with 3.0.12).
        self._consumer.partitions_for_topic(topic)
        self._consumer.subscribe([topic], listener=self)

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Called by kafka-python in a thread of its own while `take` polls, so only noted here."""
        for partition in revoked:
            self._revoked.put(partition)

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Only counted: what is new is read from its committed place, what stayed from where `take` puts it."""
        del assigned
        self.assignments += 1

    def take(self, most: int, wait_ms: int) -> list[Record]:
        """Up to `most` frames, waiting up to `wait_ms` for the first. Raises NameTaken."""
        full = self._turns.is_full
        if full and self._is_member and self._steady_s() - self._looked_s < _LOOK_EVERY_S:
            return self._turns.take(most)
        self._looked_s = self._steady_s()
        most_read = 1 if full else _EVERYTHING
        if self._is_member:
            self._read(0 if self._turns else wait_ms, most_read)
        if not self._is_member:  # the poll that begins a join does not wait for its end
            self._read(_JOIN_MS, most_read)
        return self._turns.take(most)

    def _read(self, wait_ms: int, most: int) -> None:
        with _by_name():
            read = dict(self._consumer.poll(timeout_ms=wait_ms, max_records=most))
        while not self._revoked.empty():
            partition = self._revoked.get()
            place = self._turns.first(partition)
            self._turns.forget(partition)
            if place is not None and partition in self._consumer.assignment():
                self._consumer.seek(partition, place)
                read.pop(partition, None)
        for partition, records in read.items():
            self._turns.add(partition, records)

    @property
    def _is_member(self) -> bool:
        return bool(self._consumer.group_metadata().state == MemberState.STABLE)

    @property
    def has_partitions(self) -> bool:
        """Whether this worker has a part in the topic; without one `take` returns at once."""
        return bool(self._consumer.assignment())

    def positions(self) -> dict[TopicPartition, int]:
        """By partition: every frame before this offset was handed out."""
        places = {partition: self._place(partition) for partition in self._consumer.assignment()}
        return {partition: place for partition, place in places.items() if place is not None}

    def _place(self, partition: TopicPartition) -> int | None:
        held = self._turns.first(partition)
        return self._consumer.position(partition) if held is None else held

    def behind(self) -> int:
        """How many frames wait, here and at the broker, as far as the broker has told."""
        consumer = self._consumer
        unread: int = sum(max(0, (consumer.highwater(one) or 0) - (consumer.position(one) or 0)) for one in consumer.assignment())
        return len(self._turns) + unread

    def commit(self) -> None:
        """Commit all that was handed out.

        Raises NameTaken; KafkaError at a rebalance or a broker's restart: the frames come again then.
        """
        places = {partition: OffsetAndMetadata(offset, "", -1) for partition, offset in self.positions().items()}
        with _by_name():
            self._consumer.commit(places)


@contextmanager
def _by_name() -> Iterator[None]:
    try:
        yield
    except FencedInstanceIdError as error:
        raise NameTaken(
            "another worker of this name reads the frames now; end one of them, or give it a KERBWATCH_WORKER_ID of its own"
        ) from error


def message_of(record: Record) -> Message:
    """A record of kafka-python as the codec and dead letters know it."""
    return Message(record.topic, record.partition, record.offset, record.key, record.value, tuple(record.headers or ()))
