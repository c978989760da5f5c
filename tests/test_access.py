"""Who may do what on the real broker: what the table grants, and nothing else (SC-9)."""

import ssl
from contextlib import closing

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError, TopicAuthorizationFailedError

from infra import certificates, clients
from infra.settings import Settings
from streams.errors import BrokenContract
from streams.topics import DETECTIONS, FRAMES, MODEL_STATE, Role

pytestmark = pytest.mark.broker


def send(settings: Settings, role: Role, topic: str, value: bytes = b"x") -> None:
    producer = clients.producer(settings, role)
    try:
        producer.send(topic, value, key=b"k").get(timeout=20)
    finally:
        producer.close(timeout=0)


def test_a_camera_may_write_frames_up_to_their_limit(broker: Settings) -> None:
    send(broker, Role.CAMERA, FRAMES.name, bytes(FRAMES.max_bytes - 4096))


@pytest.mark.parametrize(
    ("role", "topic"), [(Role.CAMERA, DETECTIONS.name), (Role.INFERENCE, MODEL_STATE.name), (Role.WATCHER, DETECTIONS.name)]
)
def test_a_role_is_refused_on_a_topic_it_may_not_write(broker: Settings, role: Role, topic: str) -> None:
    with pytest.raises(TopicAuthorizationFailedError):
        send(broker, role, topic)


def test_a_camera_may_not_read_what_other_cameras_send(broker: Settings) -> None:
    with closing(clients.consumer(broker, Role.CAMERA, group=None)) as consumer:
        consumer.assign([TopicPartition(FRAMES.name, 0)])
        with pytest.raises(TopicAuthorizationFailedError):
            consumer.poll(timeout_ms=5000)


def test_a_role_may_not_use_another_roles_group(broker: Settings) -> None:
    with pytest.raises(BrokenContract, match="may not use consumer group"):
        clients.consumer(broker, Role.WATCHER, group="kerbwatch-responder")


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


def test_a_client_without_tls_is_refused(broker: Settings) -> None:
    with pytest.raises(KafkaError):
        KafkaProducer(bootstrap_servers=broker.bootstrap, bootstrap_timeout_ms=2000, max_block_ms=2000)
