"""The one table of topics, in flow order: what each carries, who may write it, who may read it.

Agents, ACLs, the compose file, dashboards and documentation are made from it. A role that is not listed here is refused
by the broker (SC-9, least privilege; paper 4.5.5).
"""

from dataclasses import dataclass
from enum import StrEnum

from streams import events


class Role(StrEnum):
    """Who speaks to the broker; each holds a certificate with this as its common name."""

    CAMERA = "camera"
    INFERENCE = "inference"
    WATCHER = "watcher"
    RESPONDER = "responder"
    KEEPER = "keeper"
    OPERATOR = "operator"


EVERY_ROLE = tuple(Role)
DAY_MS = 24 * 3600 * 1000
MAX_FRAME_BYTES = 4 * 1024 * 1024
"""Largest encoded picture that travels through Kafka."""
MAX_EVENT_BYTES = 1024 * 1024
"""Largest event other than a picture."""
GIB = 1024**3
SEGMENT_BYTES = 256 * 1024**2
"""Kafka lets whole segments go: where bytes are bounded, that is by how much the bound is exceeded."""


@dataclass(frozen=True)
class Topic:
    """One topic. `key` names the event field whose value is the message key; `compacted` keeps the last value of each key.

    `retention_bytes`: of each partition, beside `retention_ms`, the oldest going first; -1: as much as comes.
    """

    name: str
    carries: type[events.Event]
    key: str
    written_by: tuple[Role, ...]
    read_by: tuple[Role, ...]
    partitions: int = 4
    compacted: bool = False
    retention_ms: int = 7 * DAY_MS
    retention_bytes: int = -1
    max_bytes: int = MAX_EVENT_BYTES


FRAMES = Topic(
    "frames",
    events.Frame,
    "camera_id",
    (Role.CAMERA,),
    (Role.INFERENCE, Role.KEEPER, Role.OPERATOR),
    retention_ms=DAY_MS,
    retention_bytes=4 * GIB,  # an hour of all that one worker judges (docs/topics.md)
    max_bytes=MAX_FRAME_BYTES,
)
DETECTIONS = Topic(
    "detections",
    events.Detections,
    "camera_id",
    (Role.INFERENCE,),
    (Role.WATCHER, Role.KEEPER, Role.OPERATOR),
    retention_bytes=3 * GIB,  # a day of all that one worker judges, as long as any picture lies in `frames`
)
WORKER_STATUS = Topic(
    "worker-status",
    events.WorkerStatus,
    "worker_id",
    (Role.INFERENCE,),
    (Role.RESPONDER, Role.OPERATOR),
    partitions=1,
    retention_bytes=GIB,
)
SIGNALS = Topic(
    "signals",
    events.Signal,
    "camera_id",
    (Role.WATCHER, Role.INFERENCE),
    (Role.RESPONDER, Role.OPERATOR),
    retention_bytes=GIB,
)
INCIDENTS = Topic("incidents", events.IncidentChange, "incident_id", (Role.RESPONDER,), (Role.OPERATOR,))
MODEL_STATE = Topic(
    "model-state", events.ModelState, "context", (Role.RESPONDER,), (Role.INFERENCE, Role.OPERATOR), partitions=1, compacted=True
)
QUARANTINE = Topic("quarantine", events.QuarantineOrder, "camera_id", (Role.RESPONDER,), (Role.KEEPER, Role.OPERATOR))
AUDIT = Topic(
    "audit",
    events.AuditEntry,
    "actor",
    (Role.WATCHER, Role.RESPONDER, Role.OPERATOR),
    (Role.KEEPER, Role.OPERATOR),
    partitions=1,
    retention_ms=-1,
)
DEAD_LETTER = Topic(
    "dead-letter",
    events.DeadLetter,
    "topic",
    (Role.INFERENCE, Role.WATCHER, Role.RESPONDER, Role.KEEPER),
    (Role.OPERATOR,),
    partitions=1,
    retention_bytes=GIB,  # whoever floods `frames` with what is refused fills this one too
    max_bytes=2 * MAX_FRAME_BYTES,
)

ALL = (FRAMES, DETECTIONS, WORKER_STATUS, SIGNALS, INCIDENTS, MODEL_STATE, QUARANTINE, AUDIT, DEAD_LETTER)
BY_NAME = {topic.name: topic for topic in ALL}


def most_bytes() -> int:
    """Most bytes on a broker's disk of all that grows with what cameras send, whatever they send (docs/topics.md).

    Of each partition that is bounded: its bound and a segment. Of the watcher's memory (Faust's changelog, compacted, a partition
    for each of `detections`): the segment that is written and the one before it. What grows with incidents is not in it.
    """
    bounded = sum(topic.partitions * (topic.retention_bytes + SEGMENT_BYTES) for topic in ALL if topic.retention_bytes > 0)
    return bounded + DETECTIONS.partitions * 2 * SEGMENT_BYTES
