"""Who may do what on the real broker: what the table grants, and nothing else (SC-9)."""

import dataclasses
import ssl
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError, TopicAuthorizationFailedError

from infra import certificates, clients
from infra.certificates import utc_now
from infra.provision import app_id, grants, provision
from infra.settings import Settings
from streams.errors import BrokenContract, Unavailable
from streams.topics import ALL, AUDIT, DEAD_LETTER, DETECTIONS, EVERY_ROLE, FRAMES, MODEL_STATE, SIGNALS, Role


def send(settings: Settings, role: Role, topic: str, value: bytes = b"x") -> None:
    producer = clients.producer(settings, role)
    try:
        producer.send(topic, value, key=b"k").get(timeout=20)
    finally:
        producer.close(timeout=0)


@pytest.mark.broker
def test_a_camera_may_write_frames_up_to_their_limit(broker: Settings) -> None:
    send(broker, Role.CAMERA, FRAMES.name, bytes(FRAMES.max_bytes - 4096))


@pytest.mark.broker
@pytest.mark.parametrize(
    ("role", "topic"), [(Role.CAMERA, DETECTIONS.name), (Role.INFERENCE, MODEL_STATE.name), (Role.WATCHER, DETECTIONS.name)]
)
def test_a_role_is_refused_on_a_topic_it_may_not_write(broker: Settings, role: Role, topic: str) -> None:
    with pytest.raises(TopicAuthorizationFailedError):
        send(broker, role, topic)


@pytest.mark.broker
def test_a_camera_may_not_read_what_other_cameras_send(broker: Settings) -> None:
    with closing(clients.consumer(broker, Role.CAMERA, group=None)) as consumer:
        consumer.assign([TopicPartition(FRAMES.name, 0)])
        with pytest.raises(TopicAuthorizationFailedError):
            consumer.poll(timeout_ms=5000)


@pytest.mark.broker
def test_a_role_may_not_use_another_roles_group(broker: Settings) -> None:
    with pytest.raises(BrokenContract, match="may not use consumer group"):
        clients.consumer(broker, Role.WATCHER, group="kerbwatch-responder")


@pytest.mark.broker
def test_a_client_without_a_certificate_is_refused(broker: Settings) -> None:
    context = ssl.create_default_context(cafile=str(certificates.authority_file(broker)))
    with pytest.raises(KafkaError):
        KafkaProducer(
            bootstrap_servers=broker.bootstrap,
            security_protocol="SSL",
            ssl_context=context,
            bootstrap_timeout_ms=2000,
            max_block_ms=2000,
        )


@pytest.mark.broker
def test_a_client_without_tls_is_refused(broker: Settings) -> None:
    with pytest.raises(KafkaError):
        KafkaProducer(bootstrap_servers=broker.bootstrap, bootstrap_timeout_ms=2000, max_block_ms=2000)


@pytest.mark.broker
def test_a_role_that_is_not_in_the_table_is_refused_everywhere(broker: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "IDENTITIES", (*certificates.IDENTITIES, "stranger"))
    assert certificates.make_certificates(broker, utc_now()) == ("stranger",)
    stranger: Role = "stranger"  # type: ignore[assignment]
    with pytest.raises(TopicAuthorizationFailedError):
        send(broker, stranger, AUDIT.name)
    with closing(clients.consumer(broker, stranger, group=None)) as consumer:
        assert consumer.topics() == set(), "it does not even see which topics there are"


@pytest.mark.broker
def test_the_table_is_applied_as_a_difference(broker: Settings) -> None:
    """A repeat changes nothing; a row taken out of the table takes its permissions with it; a changed setting is settled."""
    with closing(clients.admin(broker)) as admin:
        again = provision(admin)
        assert again == type(again)((), (), (), ())
        narrower = [dataclasses.replace(topic, read_by=(), retention_ms=1000) if topic is AUDIT else topic for topic in ALL]
        try:
            changed = provision(admin, narrower)
            assert changed.topics_changed == ("audit",)
            assert {(grant.role, grant.operation, grant.name) for grant in changed.grants_removed} == {
                (Role.KEEPER, "READ", "audit"),
                (Role.KEEPER, "DESCRIBE", "audit"),
                (Role.OPERATOR, "READ", "audit"),
            }
            with closing(clients.consumer(broker, Role.OPERATOR, group=None)) as consumer:
                consumer.assign([TopicPartition(AUDIT.name, 0)])
                with pytest.raises(TopicAuthorizationFailedError):
                    consumer.poll(timeout_ms=5000)
        finally:
            provision(admin)
        with pytest.raises(BrokenContract, match="has 4 partitions, the table says 5"):
            provision(admin, [dataclasses.replace(SIGNALS, partitions=5)])
        provision(admin)


@pytest.mark.broker
def test_a_camera_that_could_write_to_the_audit_topic_before_no_longer_can(broker: Settings) -> None:
    """Audit ids can be computed by whoever knows a signal's; installations of before gave every role both topics."""
    wide = [dataclasses.replace(topic, written_by=EVERY_ROLE) if topic in {AUDIT, DEAD_LETTER} else topic for topic in ALL]
    with closing(clients.admin(broker)) as admin:
        try:
            assert (Role.CAMERA, "WRITE", "audit") in {
                (grant.role, grant.operation, grant.name) for grant in provision(admin, wide).grants_made
            }
        finally:
            removed = provision(admin).grants_removed
    assert {(Role.CAMERA, "WRITE", "audit"), (Role.CAMERA, "WRITE", "dead-letter"), (Role.OPERATOR, "WRITE", "dead-letter")} <= {
        (grant.role, grant.operation, grant.name) for grant in removed
    }
    for topic in (AUDIT, DEAD_LETTER):
        with pytest.raises(TopicAuthorizationFailedError):
            send(broker, Role.CAMERA, topic.name)


@pytest.mark.broker
def test_an_emptied_broker_has_the_tables_topics_and_no_message(broker: Settings, fresh_topics: Callable[[Settings], None]) -> None:
    send(broker, Role.WATCHER, SIGNALS.name)
    with closing(clients.consumer(broker, Role.RESPONDER, group=app_id(Role.RESPONDER))) as consumer:
        consumer.subscribe([SIGNALS.name])
        assert consumer.poll(timeout_ms=10_000)
        consumer.commit()
    fresh_topics(broker)
    with closing(clients.admin(broker)) as admin:
        assert set(admin.list_topics()) - {"__consumer_offsets"} == {topic.name for topic in ALL}
        assert admin.list_groups() == []
    with closing(clients.consumer(broker, Role.RESPONDER, group=app_id(Role.RESPONDER))) as consumer:
        consumer.subscribe([SIGNALS.name])
        assert not consumer.poll(timeout_ms=1500)


def test_what_the_table_grants_is_least_privilege() -> None:
    camera = {(grant.operation, grant.resource, grant.name) for grant in grants() if grant.role is Role.CAMERA}
    assert camera == {("WRITE", "TOPIC", "frames"), ("DESCRIBE", "TOPIC", "frames")}
    assert {grant.role for grant in grants() if grant.operation == "WRITE" and grant.name == "audit"} == set(AUDIT.written_by)
    assert set(AUDIT.written_by) == {Role.WATCHER, Role.RESPONDER, Role.OPERATOR}
    assert not {Role.CAMERA, Role.OPERATOR} & set(DEAD_LETTER.written_by)
    assert {grant.role for grant in grants() if grant.operation == "WRITE" and grant.name == "model-state"} == {Role.RESPONDER}
    assert {grant.role for grant in grants() if grant.operation == "READ" and grant.name == "frames"} == set(FRAMES.read_by)
    assert not any(grant.resource == "CLUSTER" or grant.operation in {"ALL", "ALTER", "DELETE"} for grant in grants())


def test_no_broker_is_said_with_the_next_step(
    tmp_path: Path, free_ports: Callable[[int], tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "_FIND_BROKER_MS", 500)
    settings = Settings(home=tmp_path, kafka_port=free_ports(1)[0])
    certificates.make_certificates(settings, utc_now())
    with pytest.raises(Unavailable, match=r"no broker answers role camera at localhost:\d+.*`kerbwatch kafka up`"):
        clients.producer(settings, Role.CAMERA)
