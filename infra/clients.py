"""Kafka clients for one role each, over mutual TLS, with the settings that the promises rest on.

It decides how safely bytes are sent and read: acknowledged by all, idempotent, retried, committed by hand, nothing created by
accident. It refuses to speak without the role's certificate. Sizes follow the table of topics.
kafka-python's clients do their own I/O in threads: never inside an agents' event loop (Faust takes `ssl_context` alone).

Source: README, promises 1 and 3; paper SC-9.
"""

from typing import Any

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

from infra.certificates import ADMIN, ssl_context
from infra.provision import app_id
from infra.settings import Settings
from streams.errors import BrokenContract, Unavailable
from streams.topics import ALL, Role

_FIND_BROKER_MS = 10_000
_ENVELOPE_BYTES = 64 * 1024
"""Room around the largest value for its headers, key and batch."""
MAX_MESSAGE_BYTES = max(topic.max_bytes for topic in ALL) + _ENVELOPE_BYTES


def producer(settings: Settings, role: Role) -> KafkaProducer:
    """A producer whose sends are acknowledged, in order and free of repeats on the broker, retried for two minutes.

    Close it with a time limit (`close(timeout=...)`) to flush. Raises Unavailable if no broker answers.
    """
    return _made(
        KafkaProducer,
        settings,
        role,
        acks="all",
        enable_idempotence=True,
        delivery_timeout_ms=120_000,
        max_request_size=MAX_MESSAGE_BYTES,
        max_block_ms=_FIND_BROKER_MS,
        allow_auto_create_topics=False,
        # A few events share a batch, at less than a frame's time.
        linger_ms=2,
        batch_size=128 * 1024,
    )


def consumer(
    settings: Settings, role: Role, *, group: str | None, member: str | None = None, from_start: bool = True
) -> KafkaConsumer:
    """A consumer that commits only when told to. Without a `group` it keeps no place and commits nothing.

    `member` names it within the group (KIP-345): killed and started again it has its partitions back at once instead of after the
    session's ten seconds, and a second one of that name puts the first out (FencedInstanceIdError at its next commit).
    `from_start` says where a group without a committed place begins: at the oldest message, or at the next new one.

    Raises:
        BrokenContract: `group` is not one that the role may use (`kerbwatch-ROLE...`).
        Unavailable: no broker answers.
    """
    if group is not None and not group.startswith(app_id(role)):
        raise BrokenContract(f"role {role} may not use consumer group {group}: name it {app_id(role)} or {app_id(role)}-SOMETHING")
    return _made(
        KafkaConsumer,
        settings,
        role,
        group_id=group,
        group_instance_id=member,
        enable_auto_commit=False,
        auto_offset_reset="earliest" if from_start else "latest",
        allow_auto_create_topics=False,
        max_partition_fetch_bytes=MAX_MESSAGE_BYTES,
        fetch_max_bytes=4 * MAX_MESSAGE_BYTES,
        fetch_max_wait_ms=100,
        # A consumer that missed a topic or a broker finds it within seconds, not after the default of five minutes.
        metadata_max_age_ms=10_000,
        # A dead worker's partitions move on after this long.
        session_timeout_ms=10_000,
        heartbeat_interval_ms=2_000,
    )


def admin(settings: Settings, patience_ms: int = _FIND_BROKER_MS) -> KafkaAdminClient:
    """The administrator's client: topics, permissions, groups. Raises Unavailable if no broker answers within `patience_ms`."""
    return _made(KafkaAdminClient, settings, ADMIN, bootstrap_timeout_ms=patience_ms)


def _made(kind: type[Any], settings: Settings, identity: str, **options: Any) -> Any:
    context = ssl_context(settings, identity)
    began: list[KafkaNetClient] = []

    def begin(**configs: Any) -> KafkaNetClient:
        began.append(KafkaNetClient(**configs))
        return began[-1]

    try:
        return kind(
            bootstrap_servers=settings.bootstrap,
            client_id=f"kerbwatch-{identity}",
            security_protocol="SSL",
            ssl_context=context,
            reconnect_backoff_max_ms=1_000,
            kafka_client=begin,
            **({"bootstrap_timeout_ms": _FIND_BROKER_MS} | options),
        )
    except (KafkaError, OSError) as error:
        for client in began:  # kafka-python leaves its sockets and thread open when it gives up
            client.close()
        raise Unavailable(
            f"no broker answers role {identity} at {settings.bootstrap} ({type(error).__name__}): `kerbwatch kafka up` starts "
            "one here, KERBWATCH_KAFKA_HOST and KERBWATCH_KAFKA_PORT name another"
        ) from error
