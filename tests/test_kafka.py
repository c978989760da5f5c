"""The local broker's life: up, up again, killed, stale, in the way, offline, tampered with."""

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import TopicPartition
from msgspec.structs import replace

from infra import certificates, clients, jars, kafka, processes
from infra.certificates import utc_now
from infra.settings import Settings, read_settings
from streams.errors import BadInput, Tampered, Unavailable
from streams.topics import AUDIT, Role


@pytest.fixture
def own(tmp_path: Path, free_ports: Callable[[int], tuple[int, ...]]) -> Iterator[Settings]:
    """A home of this test alone, without a broker yet."""
    port, controller = free_ports(2)
    settings = replace(read_settings(), home=tmp_path / "home", kafka_port=port, kafka_controller_port=controller)
    yield settings
    kafka.down(settings)


def messages(settings: Settings) -> list[bytes]:
    place = TopicPartition(AUDIT.name, 0)
    with closing(clients.consumer(settings, Role.KEEPER, group=None)) as consumer:
        consumer.assign([place])
        end, found = consumer.end_offsets([place])[place], []
        until = time.monotonic() + 20
        while consumer.position(place) < end and time.monotonic() < until:
            found += [record.value for records in consumer.poll(timeout_ms=500).values() for record in records]
        return found


@pytest.mark.broker
def test_a_killed_broker_comes_back_with_every_message_even_if_its_pid_belongs_to_another(broker: Settings) -> None:
    before = kafka.status(broker)
    assert before.ready
    assert before.pid
    assert not kafka.up(broker).grants_made, "up again changes nothing"
    assert kafka.status(broker).pid == before.pid
    sent = [b"kept %d" % number for number in range(200)]
    with closing(clients.producer(broker, Role.OPERATOR)) as producer:
        for receipt in [producer.send(AUDIT.name, value) for value in sent]:
            receipt.get(timeout=20)
        os.kill(before.pid, signal.SIGKILL)
        until = time.monotonic() + 20
        while processes.command_line(before.pid):
            assert time.monotonic() < until
            time.sleep(0.05)
        # Its id goes to somebody else: this very process, which must be left alone.
        (broker.home / "kafka" / "broker.pid").write_text(str(os.getpid()))
        assert not kafka.status(broker).running
        kafka.up(broker)
        producer.send(AUDIT.name, b"kept after").get(timeout=30)
    assert [value for value in messages(broker) if value.startswith(b"kept")] == [*sent, b"kept after"]


@pytest.mark.broker
def test_rotated_certificates_are_taken_up_by_the_next_up_and_messages_stay(broker: Settings) -> None:
    with closing(clients.producer(broker, Role.OPERATOR)) as producer:
        producer.send(AUDIT.name, b"before rotation").get(timeout=20)
    before = kafka.status(broker).pid
    certificates.make_certificates(broker, utc_now(), rotate=True)
    kafka.up(broker)
    after = kafka.status(broker)
    assert after.ready
    assert after.pid != before
    assert b"before rotation" in messages(broker)


def test_down_without_a_broker_does_nothing(own: Settings) -> None:
    assert not kafka.down(own)
    assert not kafka.status(own).running


def test_a_taken_port_names_port_setting_and_who_listens(own: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", own.kafka_port))
        other.listen()
        with pytest.raises(Unavailable, match=rf"port {own.kafka_port} is taken by process {os.getpid()} .*KERBWATCH_KAFKA_PORT"):
            kafka.up(own)


def test_a_broker_elsewhere_is_not_started_here(own: Settings) -> None:
    with pytest.raises(BadInput, match="kerbwatch kafka provision"):
        kafka.up(replace(own, kafka_host="kafka.example"))


def test_offline_without_jars_says_what_is_missing_and_what_to_do(
    own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):  # nobody listens there: no way out
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    offline = replace(own, cache=tmp_path / "empty")
    with pytest.raises(Unavailable, match=r"\.jar is not in .*empty.* Maven Central .* run `kerbwatch kafka up`, or copy"):
        kafka.up(offline)
    assert f"Fetching {len(jars.pinned())} jars" in capfd.readouterr().err
    assert not list((tmp_path / "empty" / "jars").iterdir())


def test_a_cache_that_cannot_be_written_is_told_in_plain_words(own: Settings) -> None:
    nowhere = replace(own, cache=Path("/proc/nowhere"))  # not even root may write there
    with pytest.raises(Unavailable, match=r"jars cannot be kept in /proc/nowhere/jars \(.+\): .*KERBWATCH_CACHE"):
        kafka.up(nowhere)


def test_a_tampered_jar_is_refused_before_it_runs(own: Settings, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "jars").mkdir(parents=True)
    for path in jars.jar_files(own.cache):
        os.link(path, cache / "jars" / path.name) if path.stat().st_dev == tmp_path.stat().st_dev else shutil.copy(
            path, cache / "jars"
        )
    victim = cache / "jars" / jars.pinned()[0].file
    changed = victim.read_bytes() + b"!"
    victim.unlink()
    victim.write_bytes(changed)
    with pytest.raises(Tampered, match=rf"{victim.name} is not the pinned .*delete it"):
        kafka.up(replace(own, cache=cache))
    assert not kafka.status(own).running


def test_a_broker_that_dies_while_starting_shows_its_last_words(own: Settings) -> None:
    (own.home / "kafka" / "data").mkdir(parents=True)
    (own.home / "kafka" / "data" / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=AAAAAAAAAAAAAAAAAAAAAA\n")
    with pytest.raises(Unavailable, match=r"ended while starting; its last words(.|\n)*node"):
        kafka.up(own)


def test_a_process_that_is_not_ours_is_never_signalled() -> None:
    processes.stop(os.getpid(), "no command line holds this", 0.1)
    assert not processes.is_ours(2**22 + 1, "")
