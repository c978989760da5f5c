"""How waiting frames are handed out: in turns by camera, none lost, none out of a camera's order."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from a_worker import NORMAL, Reader, Site
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.errors import KafkaError

from inference.service.reading import FrameReader, Turns
from infra.clients import consumer, producer
from infra.provision import app_id
from infra.settings import Settings
from streams import topics
from streams.events import Context
from streams.topics import Role

ONE, TWO = TopicPartition("frames", 0), TopicPartition("frames", 1)

cameras = st.lists(st.sampled_from(["gate", "bridge", "yard"]), max_size=40)


def record(offset: int, camera: str, body: bytes = b"12345678") -> Any:
    return SimpleNamespace(offset=offset, key=camera.encode(), value=body)


def records(names: list[str]) -> list[Any]:
    return [record(offset, camera) for offset, camera in enumerate(names)]


def by_camera(taken: list[Any]) -> dict[bytes, list[int]]:
    found = defaultdict(list)
    for one in taken:
        found[one.key].append(one.offset)
    return found


@given(cameras, cameras, st.integers(1, 7))
def test_every_frame_is_handed_out_once_and_in_its_cameras_order(first: list[str], second: list[str], most: int) -> None:
    turns = Turns()
    turns.add(ONE, records(first))
    turns.add(TWO, [record(offset, f"{camera} 2") for offset, camera in enumerate(second)])
    taken: list[Any] = []
    while turns:
        came = turns.take(most)
        assert 0 < len(came) <= most
        taken += came
    assert by_camera(taken) == by_camera(records(first)) | {
        f"{camera} 2".encode(): [offset for offset, one in enumerate(second) if one == camera] for camera in set(second)
    }
    assert turns.first(ONE) is turns.first(TWO) is None


@given(cameras)
def test_nobody_waits_for_more_than_one_frame_of_each_other_camera(names: list[str]) -> None:
    turns = Turns()
    turns.add(ONE, records(names))
    order = [one.key for one in turns.take(len(names))]
    for camera in set(order):
        places = [place for place, key in enumerate(order) if key == camera]
        assert all(later - earlier <= len(set(order)) for earlier, later in pairwise(places))


@given(cameras, st.integers(0, 40))
def test_every_frame_before_a_partitions_place_was_handed_out(names: list[str], most: int) -> None:
    turns = Turns()
    turns.add(ONE, records(names))
    done = {one.offset for one in turns.take(most)}
    place = turns.first(ONE)
    assert set(range(len(names) if place is None else place)) <= done
    assert place not in done


def test_what_is_forgotten_of_one_partition_leaves_the_other_as_it_was() -> None:
    turns = Turns()
    turns.add(ONE, records(["gate", "gate"]))
    turns.add(TWO, records(["bridge"]))
    turns.forget(ONE)
    assert (len(turns), turns.first(ONE), turns.first(TWO)) == (1, None, 0)
    assert [one.key for one in turns.take(5)] == [b"bridge"]


def test_reading_stops_by_how_far_it_is_ahead_or_by_size_until_frames_are_taken() -> None:
    turns = Turns(most=3, most_bytes=20)
    turns.add(ONE, records(["gate", "bridge"]))
    assert not turns.is_full
    turns.add(ONE, [record(2, "bridge", b"")])
    assert turns.is_full
    turns.take(1)
    assert not turns.is_full
    turns.add(TWO, [record(3, "gate", b"x" * 20)])
    assert turns.is_full


def shared(flood: int) -> Site:
    """A worker before a flood of one camera, and behind it in the same partition two frames of another."""
    site = Site()
    for context in Context:
        site.serve(context)
    site.rounds()
    for sequence in range(flood):
        site.shoot(sequence)
    for sequence in range(2):
        site.shoot(sequence, Context.HIGHWAY, camera="bridge")
    return site


def test_a_camera_behind_anothers_flood_in_its_partition_is_judged_at_once() -> None:
    site = shared(flood=60)
    site.rounds(3)
    judged = [(one.camera_id, one.sequence) for one in site.read(topics.DETECTIONS)]
    assert judged[:4] == [("gate", 0), ("bridge", 0), ("gate", 1), ("bridge", 1)]
    site.rounds(30)
    judged = [one.sequence for one in site.read(topics.DETECTIONS) if one.camera_id == "gate"]
    assert judged == list(range(60))
    assert site.log.committed == 62


def test_a_worker_killed_in_a_flood_leaves_no_frame_unjudged() -> None:
    site = shared(flood=20)
    site.rounds(4)
    assert 0 < site.log.committed < 20
    again = Site(site.log)
    again.rounds(12)
    judged = {(one.camera_id, one.sequence): one.id for one in site.read(topics.DETECTIONS)}
    assert len(judged) == 22
    assert len({one.id for one in site.read(topics.DETECTIONS)}) == 22


def test_the_status_names_the_first_frame_that_waits_for_the_new_weights() -> None:
    site = shared(flood=20)
    site.rounds(3)
    done = {one.frame_offset for one in site.read(topics.DETECTIONS)}
    site.serve(Context.URBAN, NORMAL, decision="again", later_s=1)
    site.rounds()
    [place] = site.read(topics.WORKER_STATUS)[-1].serving[0].from_offsets
    assert place.offset == min(set(range(22)) - done)


def test_who_is_far_ahead_reads_no_further_until_frames_are_taken() -> None:
    site = Site()
    consumer = Reader(site.log)
    reader = FrameReader(consumer, Turns(most=4))
    reader.subscribe("frames")
    for sequence in range(10):
        site.shoot(sequence)
    assert [one.offset for one in reader.take(2, 0)] == [0, 1]
    site.shoot(10)
    assert [one.offset for one in reader.take(5, 0)] == [2, 3, 4, 5, 6]
    assert consumer.at == 10
    assert [one.offset for one in reader.take(5, 0)] == [7, 8, 9, 10]


def test_what_is_held_of_a_partition_that_stays_in_a_rebalance_is_read_again_in_order() -> None:
    site = Site()
    consumer = Reader(site.log)
    reader = FrameReader(consumer)
    reader.subscribe("frames")
    for sequence in range(10):
        site.shoot(sequence)
    assert [one.offset for one in reader.take(2, 0)] == [0, 1]
    site.shoot(10)
    reader.on_partitions_revoked([ONE])  # the poll of the next `take` finds offset 10 besides
    taken = [one.offset for _ in range(3) for one in reader.take(5, 0)]
    assert taken == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert reader.positions() == {ONE: 11}


def test_what_is_held_of_a_partition_that_goes_away_is_forgotten() -> None:
    site = Site()
    consumer = Reader(site.log)
    reader = FrameReader(consumer)
    reader.subscribe("frames")
    for sequence in range(4):
        site.shoot(sequence)
    reader.take(1, 0)
    consumer.away = True
    reader.on_partitions_revoked([ONE])
    assert reader.take(5, 0) == []
    assert reader.positions() == {}


def test_no_frame_is_lost_when_a_second_worker_joins_in_a_flood(broker: Settings, fresh_topics: Callable[[Settings], None]) -> None:
    fresh_topics(broker)
    names = [f"cam{number}" for number in range(8)]
    with closing(producer(broker, Role.CAMERA)) as cameras:
        for number in range(400):
            name = names[number % 8 if number % 4 else 0].encode()
            cameras.send("frames", b"x" * 100, key=name).get(timeout=30)
    group = f"{app_id(Role.INFERENCE)}-turns"
    with (
        closing(consumer(broker, Role.INFERENCE, group=group, member="w1")) as first,
        closing(consumer(broker, Role.INFERENCE, group=group, member="w2")) as second,
    ):
        readers = {"w1": FrameReader(first), "w2": FrameReader(second)}
        readers["w1"].subscribe("frames")
        seen: dict[str, list[tuple[int, int]]] = {"w1": [], "w2": []}

        def turn(name: str, most: int) -> None:
            seen[name] += [(one.partition, one.offset) for one in readers[name].take(most, 50)]

        until = time.monotonic() + 60
        while len(seen["w1"]) < 40:
            assert time.monotonic() < until
            turn("w1", 8)
        with suppress(KafkaError):
            readers["w1"].commit()
        readers["w2"].subscribe("frames")
        with ThreadPoolExecutor(2) as pool:
            while len(set(seen["w1"] + seen["w2"])) < 400 and time.monotonic() < until:
                list(pool.map(turn, ("w1", "w2"), (4, 4)))
                for reader in readers.values():
                    with suppress(KafkaError):
                        reader.commit()
        assert len(set(seen["w1"] + seen["w2"])) == 400
        assert seen["w2"]


def test_a_worker_that_is_busy_and_far_ahead_makes_room_for_a_second_one_at_once(
    broker: Settings, fresh_topics: Callable[[Settings], None]
) -> None:
    """kafka-python never sees a join end that ends between two polls, and who does not poll holds up all others."""
    fresh_topics(broker)
    with closing(producer(broker, Role.CAMERA)) as cameras:
        for number in range(600):
            cameras.send("frames", b"x" * 100, key=f"cam{number % 8}".encode())
        cameras.flush(timeout=30)
    group = f"{app_id(Role.INFERENCE)}-room"
    with (
        closing(consumer(broker, Role.INFERENCE, group=group, member="w1")) as first,
        closing(consumer(broker, Role.INFERENCE, group=group, member="w2")) as second,
    ):
        busy, newcomer = FrameReader(first, Turns(most=16)), FrameReader(second)
        busy.subscribe("frames")
        until = time.monotonic() + 60
        while not busy.has_partitions and time.monotonic() < until:
            busy.take(1, 50)
        done = threading.Event()

        def work() -> int:
            frames = 0
            while not done.is_set() and time.monotonic() < until:
                frames += len(busy.take(1, 50))
                time.sleep(0.1)  # as a judge does
            return frames

        with ThreadPoolExecutor(1) as pool:
            frames = pool.submit(work)
            newcomer.subscribe("frames")
            while not newcomer.has_partitions and time.monotonic() < until:
                newcomer.take(1, 50)
            done.set()
            assert newcomer.has_partitions
            assert busy.has_partitions
            assert frames.result() < 200, "the newcomer had to wait until nothing was left to do"


def test_reading_goes_on_after_it_was_far_ahead_while_other_partitions_are_written(
    broker: Settings, fresh_topics: Callable[[Settings], None]
) -> None:
    fresh_topics(broker)
    with (
        closing(producer(broker, Role.CAMERA)) as cameras,
        closing(consumer(broker, Role.INFERENCE, group=f"{app_id(Role.INFERENCE)}-full", member="w1")) as client,
    ):
        reader = FrameReader(client, Turns(most=16))
        reader.subscribe("frames")
        for _ in range(300):
            cameras.send("frames", b"x" * 100, key=b"gate")
        cameras.flush(timeout=30)
        seen: set[tuple[int, int]] = set()
        sent, until = 300, time.monotonic() + 60
        while len(seen) < sent and time.monotonic() < until:
            if sent < 400:  # a frame at a time on another partition, as from a calm camera
                cameras.send("frames", b"x" * 100, key=b"bridge")
                sent += 1
            seen |= {(one.partition, one.offset) for one in reader.take(4, 50)}
        assert len(seen) == 400
        assert len({partition for partition, _ in seen}) == 2


def test_tens_of_thousands_of_names_cost_no_more_time_a_frame_than_a_few() -> None:
    def handed_out_s(names: int) -> float:
        turns = Turns()
        turns.add(ONE, [record(offset, f"name-{offset % names}") for offset in range(20_000)])
        started_s = time.process_time()
        while turns:
            assert turns.first(ONE) is not None
            assert turns.is_full or len(turns) < 1_000
            turns.take(8)
        return time.process_time() - started_s

    assert handed_out_s(20_000) < 20 * handed_out_s(4)
