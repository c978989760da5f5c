"""Pictures out of Kafka's log, by their place, and what was found in them: what quarantine and evidence reach back for.

It decides nothing; a frame that the log no longer holds (retention) is left out, and the caller counts what is missing.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from kafka import KafkaConsumer, TopicPartition

from infra.clients import consumer
from infra.settings import Settings
from responders.quarantine.quarantine import Place
from streams import codec, topics
from streams.errors import BadInput
from streams.events import Detections, Frame
from streams.topics import Role

_AROUND = timedelta(seconds=60)
"""How far the broker's time of a detection may lie from the worker's."""


def read_frames(settings: Settings, places: Sequence[Place]) -> Iterator[tuple[Frame, bytes]]:
    """The frames at these places with their encoded pictures, by partition and offset. Raises Unavailable without a broker."""
    wanted: dict[int, set[int]] = defaultdict(set)
    for place in places:
        wanted[place.partition].add(place.offset)
    if not wanted:
        return
    client = consumer(settings, Role.KEEPER, group=None)
    try:
        for partition, offsets in wanted.items():
            tp = TopicPartition(topics.FRAMES.name, partition)
            client.assign([tp])
            last = min(max(offsets), client.end_offsets([tp])[tp] - 1)
            client.seek(tp, max(min(offsets), client.beginning_offsets([tp])[tp]))
            while client.position(tp) <= last:
                for record in client.poll(timeout_ms=500, max_records=64).get(tp, ()):
                    if record.offset not in offsets:
                        continue
                    try:
                        yield codec.decode_frame(record.headers, record.value), record.value
                    except BadInput:  # judged once, so it was readable: the log has been tampered with
                        continue
    finally:
        client.close()


def read_detections(settings: Settings, places: Sequence[Place]) -> dict[str, Detections]:
    """What was found in the frames at these places first, by frame id; without those that the log no longer holds.

    The log is searched around the times when the frames were judged, in the camera's partition: `frames` and `detections` have the
    same key and as many partitions. Raises Unavailable without a broker.
    """
    by_partition: dict[int, list[Place]] = defaultdict(list)
    for place in places:
        by_partition[place.partition].append(place)
    if not by_partition:
        return {}
    client = consumer(settings, Role.KEEPER, group=None)
    try:
        return {seen.frame_id: seen for partition, here in by_partition.items() for seen in _search(client, partition, here)}
    finally:
        client.close()


def _search(client: KafkaConsumer, partition: int, places: Sequence[Place]) -> Iterator[Detections]:
    times = [place.judged_time for place in places if place.judged_time is not None]
    tp, wanted = TopicPartition(topics.DETECTIONS.name, partition), {place.frame_id for place in places}
    start = client.offsets_for_times({tp: _ms(min(times) - _AROUND)}).get(tp) if times else None
    if start is None:
        return
    client.assign([tp])
    client.seek(tp, start.offset)
    end, last_ms = client.end_offsets([tp])[tp], _ms(max(times) + _AROUND)
    while wanted and client.position(tp) < end:
        for record in client.poll(timeout_ms=500, max_records=256).get(tp, ()):
            if record.timestamp > last_ms:
                return
            try:
                seen = codec.decode(record.value, topics.DETECTIONS, Detections).event
            except BadInput:
                continue
            if seen.frame_id in wanted:
                wanted.discard(seen.frame_id)
                yield seen


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
