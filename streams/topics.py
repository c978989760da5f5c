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
DETECTIONS = Topic("detections", events.Detections, "camera_id", (Role.INFERENCE,), (Role.WATCHER, Role.KEEPER, Role.OPERATOR))
WORKER_STATUS = Topic(
    "worker-status", events.WorkerStatus, "worker_id", (Role.INFERENCE,), (Role.RESPONDER, Role.OPERATOR), partitions=1
)
SIGNALS = Topic("signals", events.Signal, "camera_id", (Role.WATCHER, Role.INFERENCE), (Role.RESPONDER, Role.OPERATOR))
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
