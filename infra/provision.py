"""Topics and permissions on a broker, made from the one table and nothing else.

It decides what must exist and who may do what; it refuses to change a topic's partition count, because keys would move. Applied as
a difference: a repeat changes nothing, and a row taken out of the table takes its permissions with it. Only permissions of our own
roles are touched. Agents' own topics (`kerbwatch-ROLE-...`, Faust's changelogs) and groups are theirs by prefix.

Source: paper SC-9 (least privilege), 4.5.5; the table is `streams.topics`.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ConfigResource,
    ConfigResourceType,
    KafkaAdminClient,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)

from streams.errors import BrokenContract, Unavailable
from streams.topics import ALL, EVERY_ROLE, SEGMENT_BYTES, Role, Topic

AGENTS = (Role.WATCHER, Role.RESPONDER, Role.KEEPER)
"""The Faust apps; each keeps changelogs under its own prefix."""

_SETTLE_S = 15.0
_DELETE_DELAY_MS = 1000
"""From when a segment is let go to when its bytes are free; a minute by default, in which a flood goes on."""


@dataclass(frozen=True, order=True)
class Grant:
    """One permission, in Kafka's words: `operation` on the `resource` called `name` (or starting so, if `prefix`)."""

    role: str
    operation: str
    resource: str
    name: str
    prefix: bool = False


@dataclass(frozen=True)
class Changes:
    """What applying the table changed; empty when it was in place already."""

    topics_made: tuple[str, ...]
    topics_changed: tuple[str, ...]
    grants_made: tuple[Grant, ...]
    grants_removed: tuple[Grant, ...]


def app_id(role: Role) -> str:
    """A role's consumer group and Faust app id, and the prefix of whatever it owns on the broker."""
    return f"kerbwatch-{role}"


def grants(topics: Iterable[Topic] = ALL) -> frozenset[Grant]:
    """Every permission that the table means, and no other."""
    wanted: set[Grant] = set()
    for topic in topics:
        wanted |= {Grant(role, operation, "TOPIC", topic.name) for role in topic.written_by for operation in ("WRITE", "DESCRIBE")}
        wanted |= {Grant(role, operation, "TOPIC", topic.name) for role in topic.read_by for operation in ("READ", "DESCRIBE")}
        wanted |= {Grant(role, "READ", "GROUP", app_id(role), prefix=True) for role in topic.read_by}
    for role in AGENTS:
        own = ("CREATE", "DESCRIBE", "DESCRIBE_CONFIGS", "READ", "WRITE")
        wanted |= {Grant(role, operation, "TOPIC", f"{app_id(role)}-", prefix=True) for operation in own}
    return frozenset(wanted)


def topic_settings(topic: Topic) -> dict[str, str]:
    """A topic's configuration in Kafka's words.

    Kafka's own time stamp is the time of arrival, so that no sender can make its messages expire at once, or never.
    """
    settings = {"max.message.bytes": str(topic.max_bytes), "message.timestamp.type": "LogAppendTime"}
    if topic.compacted:
        return settings | {"cleanup.policy": "compact", "segment.ms": "3600000"}
    if topic.retention_bytes > 0:
        settings |= {"segment.bytes": str(SEGMENT_BYTES), "file.delete.delay.ms": str(_DELETE_DELAY_MS)}
    bounds = {"retention.ms": str(topic.retention_ms), "retention.bytes": str(topic.retention_bytes)}
    return settings | {"cleanup.policy": "delete"} | bounds


def provision(admin: KafkaAdminClient, topics: Iterable[Topic] = ALL) -> Changes:
    """Makes a broker's topics and permissions those of the table.

    Raises:
        BrokenContract: a topic exists with another partition count.
        Unavailable: the broker refused a permission.
    """
    topics = tuple(topics)
    there = {row["name"]: len(row["partitions"]) for row in admin.describe_topics() if not row["error_code"]}
    missing = [topic for topic in topics if topic.name not in there]
    if missing:
        admin.create_topics(
            {
                topic.name: {"num_partitions": topic.partitions, "replication_factor": 1, "configs": topic_settings(topic)}
                for topic in missing
            },
            wait_for_metadata=True,
        )
    for topic in topics:
        if there.get(topic.name, topic.partitions) != topic.partitions:
            raise BrokenContract(
                f"topic {topic.name} has {there[topic.name]} partitions, the table says {topic.partitions}: empty it, delete it"
            )
    changed = _settle(admin, [topic for topic in topics if topic.name in there])
    made, removed = _permit(admin, grants(topics))
    return Changes(tuple(topic.name for topic in missing), changed, made, removed)


def _settle(admin: KafkaAdminClient, topics: list[Topic]) -> tuple[str, ...]:
    """Gives topics that exist the table's settings; returns the names of those that had others."""
    if not topics:
        return ()
    found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in topics])["topic"]
    wrong = [
        topic for topic in topics if any(_value(found[topic.name], name) != value for name, value in topic_settings(topic).items())
    ]
    if wrong:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name, topic_settings(topic)) for topic in wrong])
    return tuple(topic.name for topic in wrong)


def _value(configs: Mapping[str, Mapping[str, str]], name: str) -> str | None:
    return configs.get(name, {}).get("value")


def _permit(admin: KafkaAdminClient, wanted: frozenset[Grant]) -> tuple[tuple[Grant, ...], tuple[Grant, ...]]:
    found = _permitted(admin)
    new, old = sorted(wanted - found.keys()), sorted(found.keys() - wanted)
    if new:
        failed = admin.create_acls([_as_acl(grant) for grant in new])["failed"]
        if failed:
            raise Unavailable(f"the broker refused {len(failed)} permissions, first {failed[0]}: see its log")
    if old:
        admin.delete_acls([_as_filter(found[grant]) for grant in old])
    # The broker acknowledges before its authorizer has caught up; whoever starts at once would be refused.
    until = time.monotonic() + _SETTLE_S
    while (new or old) and _permitted(admin).keys() != wanted:
        if time.monotonic() > until:
            raise Unavailable(f"permissions are not in force after {_SETTLE_S:.0f} s: see the broker's log")
        time.sleep(0.05)
    return tuple(new), tuple(old)


def _permitted(admin: KafkaAdminClient) -> dict[Grant, ACL]:
    """What our roles may do now, as the broker sees it."""
    everything = ACLFilter(
        None,
        None,
        ACLOperation.ANY,
        ACLPermissionType.ANY,
        ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY),
    )
    present, error = admin.describe_acls(everything)
    if getattr(error, "errno", 0):
        raise Unavailable(f"the broker does not show its permissions ({error}): is StandardAuthorizer on?")
    ours = {f"User:{role}" for role in EVERY_ROLE}
    return {_as_grant(acl): acl for acl in present if acl.principal in ours}


def _as_grant(acl: ACL) -> Grant:
    pattern = acl.resource_pattern
    return Grant(
        acl.principal.removeprefix("User:"),
        acl.operation.name,
        pattern.resource_type.name,
        pattern.resource_name,
        pattern.pattern_type == ACLResourcePatternType.PREFIXED,
    )


def _as_acl(grant: Grant) -> ACL:
    pattern_type = ACLResourcePatternType.PREFIXED if grant.prefix else ACLResourcePatternType.LITERAL
    pattern = ResourcePattern(ResourceType[grant.resource], grant.name, pattern_type)
    return ACL(f"User:{grant.role}", "*", ACLOperation[grant.operation], ACLPermissionType.ALLOW, pattern)


def _as_filter(acl: ACL) -> ACLFilter:
    pattern = acl.resource_pattern
    return ACLFilter(
        acl.principal,
        acl.host,
        acl.operation,
        acl.permission_type,
        ResourcePatternFilter(pattern.resource_type, pattern.resource_name, pattern.pattern_type),
    )
