"""The table of topics: what docs/topics.md says of it, and that nobody outside can fill the disk by way of it."""

import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from infra import clients
from infra.doctor import REST_BYTES
from infra.provision import provision, topic_settings
from infra.settings import Settings
from streams.quarantining import LONGEST
from streams.topics import (
    ALL,
    AUDIT,
    DAY_MS,
    DEAD_LETTER,
    DETECTIONS,
    FRAMES,
    GIB,
    INCIDENTS,
    MODEL_STATE,
    QUARANTINE,
    SEGMENT_BYTES,
    SIGNALS,
    WORKER_STATUS,
    Role,
    Topic,
    most_bytes,
)

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


def test_what_cameras_write_and_what_grows_with_it_is_bounded_by_bytes_and_nothing_else() -> None:
    outside = [topic for topic in ALL if Role.CAMERA in topic.written_by]
    assert outside == [FRAMES]
    for topic in (INCIDENTS, MODEL_STATE, QUARANTINE, AUDIT):
        assert topic_settings(topic).get("retention.bytes", "-1") == "-1", topic.name
    for topic in (*outside, DETECTIONS, SIGNALS, WORKER_STATUS, DEAD_LETTER):
        settings = topic_settings(topic)
        assert int(settings["retention.bytes"]) == topic.retention_bytes >= GIB
        assert topic.max_bytes < int(settings["segment.bytes"]) <= topic.retention_bytes // 4


def test_a_partition_of_frames_holds_as_long_as_an_order_of_quarantine_may_wait() -> None:
    a_second, of_bytes = (int(found) for found in re.findall(r"(\d+) x (\d+) KB = ", TEXT)[0])
    assert a_second * of_bytes * 1000 * LONGEST.total_seconds() <= FRAMES.retention_bytes * 1.02  # "an hour", said in round numbers


def test_a_partition_of_detections_holds_as_long_as_a_picture_may_lie_in_the_log() -> None:
    a_second, of_bytes = (int(found.replace(",", "")) for found in re.findall(r"(\d+) x ([\d,]+) = ", TEXT)[0])
    assert a_second * of_bytes * FRAMES.retention_ms / 1000 <= DETECTIONS.retention_bytes


def test_the_page_adds_up_to_what_the_doctor_asks_for() -> None:
    rows = re.findall(r"^\| ([a-z-]+) \| (\d) x \((\d) \+ 0\.25\) \| ([\d.]+) \|$", TEXT, re.MULTILINE)
    assert {name: (int(n), int(bound) * GIB) for name, n, bound, _ in rows} == {
        topic.name: (topic.partitions, topic.retention_bytes) for topic in ALL if topic.retention_bytes > 0
    }
    assert SEGMENT_BYTES == GIB // 4
    memory = float(re.findall(r"4 x 2 x 0\.25 \| ([\d.]+) \|", TEXT)[0])
    assert sum(float(row[3]) for row in rows) + memory == most_bytes() / GIB
    assert f"**{most_bytes() / GIB}**" in TEXT
    assert f"has not the {(most_bytes() + REST_BYTES) / GIB} GiB" in TEXT


@pytest.mark.broker
def test_the_broker_keeps_to_the_bounds(broker: Settings) -> None:
    with closing(clients.admin(broker)) as admin:
        found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in ALL])["topic"]
        node = admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, "1")], config_filter="all")["broker"]["1"]
    for topic in ALL:
        if not topic.compacted:
            assert int(found[topic.name]["retention.bytes"]["value"]) == topic.retention_bytes, topic.name
        if topic.retention_bytes > 0:
            assert found[topic.name]["file.delete.delay.ms"]["value"] == "1000", topic.name
    assert int(node["log.retention.check.interval.ms"]["value"]) == 10_000
    assert int(node["log.segment.bytes"]["value"]) == SEGMENT_BYTES, "of Faust's changelogs"


@pytest.mark.broker
def test_a_lowered_bound_is_in_force_once_it_is_provisioned(broker: Settings) -> None:
    lower = replace(FRAMES, retention_bytes=GIB)
    with closing(clients.admin(broker)) as admin:
        try:
            assert provision(admin, [lower if topic is FRAMES else topic for topic in ALL]).topics_changed == (FRAMES.name,)
            found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, FRAMES.name)])["topic"][FRAMES.name]
            assert int(found["retention.bytes"]["value"]) == GIB
        finally:
            provision(admin)
