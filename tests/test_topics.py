"""The table of topics: what docs/topics.md says of it, and that nobody outside can fill the disk by way of it."""

import re
from contextlib import closing
from pathlib import Path

import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from infra import clients
from infra.provision import topic_settings
from infra.settings import Settings
from streams.quarantining import LONGEST
from streams.topics import ALL, DAY_MS, DEAD_LETTER, FRAMES, GIB, Role, Topic

TEXT = (Path(__file__).parent.parent / "docs" / "topics.md").read_text(encoding="utf-8")


def told(topic: Topic) -> str:
    days = (
        "for good"
        if topic.retention_ms < 0
        else "a day"
        if topic.retention_ms == DAY_MS
        else f"{topic.retention_ms // DAY_MS} days"
    )
    bound = f", at most {topic.retention_bytes // GIB} GiB a partition" if topic.retention_bytes > 0 else ""
    kept = "the last of each key" if topic.compacted else days + bound
    who = (", ".join(topic.written_by), ", ".join(topic.read_by))
    cells = (topic.name, topic.key, topic.carries.__name__, *who, topic.partitions, kept, f"{topic.max_bytes // 1024**2} MiB")
    return "| " + " | ".join(map(str, cells)) + " |"


def test_the_page_s_table_is_the_table() -> None:
    rows = re.findall(r"^\| [a-z-]+ \| .*MiB \|$", TEXT, re.MULTILINE)
    assert rows == [told(topic) for topic in ALL], "\n".join(told(topic) for topic in ALL)


def test_what_cameras_write_and_what_copies_it_is_bounded_by_bytes() -> None:
    outside = [topic for topic in ALL if Role.CAMERA in topic.written_by]
    assert outside == [FRAMES]
    for topic in (*outside, DEAD_LETTER):
        settings = topic_settings(topic)
        assert int(settings["retention.bytes"]) == topic.retention_bytes >= GIB
        assert topic.max_bytes < int(settings["segment.bytes"]) <= topic.retention_bytes // 4


def test_a_partition_of_frames_holds_as_long_as_an_order_of_quarantine_may_wait() -> None:
    a_second, of_bytes = (int(found) for found in re.findall(r"(\d+) x (\d+) KB = ", TEXT)[0])
    assert a_second * of_bytes * 1000 * LONGEST.total_seconds() <= FRAMES.retention_bytes * 1.02  # "an hour", said in round numbers


@pytest.mark.broker
def test_the_broker_keeps_to_the_bounds(broker: Settings) -> None:
    with closing(clients.admin(broker)) as admin:
        found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in ALL])["topic"]
        node = admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, "1")], config_filter="all")["broker"]["1"]
    for topic in ALL:
        if not topic.compacted:
            assert int(found[topic.name]["retention.bytes"]["value"]) == topic.retention_bytes, topic.name
    assert int(node["log.retention.check.interval.ms"]["value"]) == 30_000
