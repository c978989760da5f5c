"""Pictures out of Kafka's log, by their place: what quarantine and evidence reach back for.

It decides nothing; a frame that the log no longer holds (retention) is left out, and the caller counts what is missing.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from kafka import TopicPartition

from infra.clients import consumer
from infra.settings import Settings
from responders.quarantine import Place
from streams import codec, topics
from streams.errors import BadInput
from streams.events import Frame
from streams.topics import Role


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
