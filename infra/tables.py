"""Every table, typed: what the database holds, on SQLite and PostgreSQL alike.

It decides columns, keys and what may stand only once. It refuses naive times: every time goes in and comes out UTC-aware.
Migrations (`migrations/`) make the same tables; a test compares the two. Written by the responder (incidents, timeline, inbox,
effects, workers, rollouts, which model is named for what) and the keeper (judged_frames and their sums, quarantined_frames,
audit_entries); everybody else reads.

Source: README, promises 1-4; paper SC-10 (audit trails), 4.7 (evidence preservation).
"""

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from streams.errors import BrokenContract


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, with microseconds. Raises BrokenContract for a naive one, which nobody could place in time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database; SQLite keeps no zone, so what it keeps is UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise BrokenContract(f"{value} has no time zone: only UTC-aware times are stored")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database, always aware."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


Number = BigInteger().with_variant(Integer, "sqlite")
"""64-bit row number; SQLite numbers rows by itself only where the type is plain INTEGER (64-bit there as well)."""


class Table(DeclarativeBase):
    """Root of all tables; constraints have names, so that migrations can change them on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UtcDateTime(), bytes: LargeBinary(), str: String()}


class JudgedFrame(Table):
    """A frame and which weights judged it; the first judgement counts. `people` is how many boxes were found."""

    __tablename__ = "judged_frames"
    __table_args__ = (UniqueConstraint("camera_id", "epoch", "sequence"),)

    frame_id: Mapped[str] = mapped_column(primary_key=True)
    camera_id: Mapped[str]
    context: Mapped[str]
    epoch: Mapped[int] = mapped_column(BigInteger)
    sequence: Mapped[int] = mapped_column(BigInteger)
    weights_digest: Mapped[str]
    mode: Mapped[str]
    decision_id: Mapped[str]
    frame_partition: Mapped[int]
    frame_offset: Mapped[int] = mapped_column(BigInteger)
    camera_time: Mapped[datetime]
    judged_time: Mapped[datetime]
    people: Mapped[int]
    inconsistency: Mapped[float | None]


class IncidentRow(Table):
    """An incident as it stands. `body` is the whole state (JSON); the columns repeat what is asked for often.

    `impact_at` is the camera's time of the first suspicious frame, known once that frame's row is here.
    """

    __tablename__ = "incidents"
    __table_args__ = (
        Index(
            "one_open_incident",
            "camera_id",
            "context",
            "kind",
            unique=True,
            sqlite_where=text("state != 'closed'"),  # on PostgreSQL too, by its migration: to say so here loads that dialect
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    camera_id: Mapped[str]
    context: Mapped[str]
    state: Mapped[str] = mapped_column(index=True)
    severity: Mapped[str]
    needs_safe: Mapped[bool]
    escalated: Mapped[str]
    resolution: Mapped[str | None]
    signals: Mapped[int] = mapped_column(BigInteger)
    opened_at: Mapped[datetime]
    impact_at: Mapped[datetime | None]
    detected_at: Mapped[datetime]
    acknowledged_at: Mapped[datetime | None]
    contained_at: Mapped[datetime | None]
    recovered_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    body: Mapped[bytes]


class TimelineRow(Table):
    """One change of an incident: who, what, when it happened and what caused it."""

    __tablename__ = "timeline"

    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    incident_id: Mapped[str] = mapped_column(ForeignKey("incidents.id"), index=True)
    decision_id: Mapped[str] = mapped_column(unique=True)
    time: Mapped[datetime]
    state: Mapped[str]
    actor: Mapped[str]
    action: Mapped[str]
    what: Mapped[str] = mapped_column(Text)
    cause_id: Mapped[str]


class InboxRow(Table):
    """An event that was accepted; a second with its id changes nothing."""

    __tablename__ = "inbox"

    event_id: Mapped[str] = mapped_column(primary_key=True)
    accepted_at: Mapped[datetime]


class EffectRow(Table):
    """The outbox: an event to be sent, in the order of `number`, at least once and always under the same id.

    Effects of one `lane` (topic and key) are sent in order. A runner holds an effect until `leased_until`; then another may
    take it.
    """

    __tablename__ = "effects"
    __table_args__ = (Index("ix_effects_waiting", "state", "lane", "number"),)

    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    decision_id: Mapped[str] = mapped_column(index=True)
    incident_id: Mapped[str | None] = mapped_column(ForeignKey("incidents.id"), index=True)
    topic: Mapped[str]
    key: Mapped[str]
    lane: Mapped[str]
    payload: Mapped[bytes]
    state: Mapped[str]
    attempts: Mapped[int]
    error: Mapped[str] = mapped_column(Text)
    not_before: Mapped[datetime]
    leased_by: Mapped[str]
    leased_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    done_at: Mapped[datetime | None]


class NoticeRow(Table):
    """What people are to be told of an incident, written with the decision whose id it bears; sent by channel (`NotificationRow`).

    `body` is the notice (JSON). `dispatched` once every channel has its row.
    """

    __tablename__ = "notices"

    id: Mapped[str] = mapped_column(primary_key=True)
    incident_id: Mapped[str | None] = mapped_column(ForeignKey("incidents.id"), index=True)
    body: Mapped[bytes]
    dispatched: Mapped[bool] = mapped_column(index=True)
    created_at: Mapped[datetime]


class NotificationRow(Table):
    """One notice on one channel: whether it was delivered, how often that was tried, what went wrong last.

    `key` tells repeats apart, here and at the receiver. A runner holds a row until `leased_until`; then another may take it.
    """

    __tablename__ = "notifications"
    __table_args__ = (UniqueConstraint("key", "channel"), Index("ix_notifications_waiting", "channel", "state", "number"))

    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    key: Mapped[str] = mapped_column(ForeignKey("notices.id"))
    incident_id: Mapped[str | None] = mapped_column(ForeignKey("incidents.id"), index=True)
    channel: Mapped[str]
    sort: Mapped[str]
    role: Mapped[str]
    state: Mapped[str]
    attempts: Mapped[int]
    error: Mapped[str] = mapped_column(Text)
    not_before: Mapped[datetime]
    leased_by: Mapped[str]
    leased_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    done_at: Mapped[datetime | None]


class Assignment(Table):
    """A context's two models, and what its workers are asked to serve now, by which decision, since when."""

    __tablename__ = "model_assignments"

    context: Mapped[str] = mapped_column(primary_key=True)
    normal_digest: Mapped[str]
    safe_digest: Mapped[str]
    asked_mode: Mapped[str]
    decision_id: Mapped[str]
    asked_at: Mapped[datetime]
    changes: Mapped[int]


class AssignedRow(Table):
    """A model was named for a context's mode: by whom, why, since when. Rows are only added; the newest of a role counts."""

    __tablename__ = "assigned_models"
    __table_args__ = (Index("ix_assigned_models_role", "context", "mode", "number"),)

    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    context: Mapped[str]
    mode: Mapped[str]
    weights_digest: Mapped[str]
    since: Mapped[datetime]
    actor: Mapped[str]
    why: Mapped[str] = mapped_column(Text)
    decision_id: Mapped[str]


class ServedRow(Table):
    """Which weights judged frames of a context under one decision: how many, the first and the last when, by the worker's clock.

    Sums of `judged_frames`, kept in its transactions.
    """

    __tablename__ = "served_models"

    context: Mapped[str] = mapped_column(primary_key=True)
    weights_digest: Mapped[str] = mapped_column(primary_key=True)
    mode: Mapped[str] = mapped_column(primary_key=True)
    decision_id: Mapped[str] = mapped_column(primary_key=True)
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
    frames: Mapped[int] = mapped_column(BigInteger)


class WorkerRow(Table):
    """What each worker said last (`body`, a WorkerStatus), when by its own clock, and when we heard it by ours."""

    __tablename__ = "workers"

    worker_id: Mapped[str] = mapped_column(primary_key=True)
    said_at: Mapped[datetime]
    heard_at: Mapped[datetime]
    body: Mapped[bytes]


class QuarantinedFrame(Table):
    """A frame set aside: where its sealed file lies under `home`, that file's SHA-256, and the picture's own.

    `sealed_key` is the file's own key, sealed with the quarantine's; a discarded frame has lost it. NULL in files of before.
    """

    __tablename__ = "quarantined_frames"

    frame_id: Mapped[str] = mapped_column(primary_key=True)
    incident_id: Mapped[str] = mapped_column(index=True)
    decision_id: Mapped[str]
    camera_id: Mapped[str]
    epoch: Mapped[int] = mapped_column(BigInteger)
    sequence: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str]
    sealed_sha256: Mapped[str]
    reason: Mapped[str] = mapped_column(Text)
    sealed_at: Mapped[datetime]
    state: Mapped[str] = mapped_column(default="sealed")
    sealed_key: Mapped[bytes | None]
    picture_sha256: Mapped[str] = mapped_column(default="")
    reviewed_at: Mapped[datetime | None]
    reviewed_by: Mapped[str] = mapped_column(default="")


class RolloutRow(Table):
    """A retrained model's way into service. `body` is the whole state (JSON); the columns repeat what others ask for.

    `phase` and `share` are what the candidate serves with now, None and 0 where it serves nothing.
    """

    __tablename__ = "rollouts"
    __table_args__ = (
        Index(
            "one_open_rollout",
            "context",
            unique=True,
            sqlite_where=text("NOT over"),  # and on PostgreSQL, as above
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    incident_id: Mapped[str] = mapped_column(ForeignKey("incidents.id"), index=True)
    context: Mapped[str]
    state: Mapped[str]
    over: Mapped[bool]
    candidate_digest: Mapped[str]
    phase: Mapped[str | None]
    share: Mapped[float]
    requested_at: Mapped[datetime]
    body: Mapped[bytes]


class ComparisonRow(Table):
    """What live frames of one camera say of a candidate: the sums of `responders.rollouts.comparison.Tally`."""

    __tablename__ = "comparisons"

    weights_digest: Mapped[str] = mapped_column(primary_key=True)
    camera_id: Mapped[str] = mapped_column(primary_key=True)
    compared: Mapped[int] = mapped_column(BigInteger)
    agreement: Mapped[float]
    people: Mapped[int] = mapped_column(BigInteger)
    beside: Mapped[int] = mapped_column(BigInteger)
    infer_ms: Mapped[float]
    beside_ms: Mapped[float]
    served: Mapped[int] = mapped_column(BigInteger)
    scored: Mapped[int] = mapped_column(BigInteger)
    inconsistency: Mapped[float]


class AuditRow(Table):
    """An audit entry, byte for byte as received, numbered from 0 without gaps (leaf index of the log).

    `leaf_hash` is SHA-256 of 0x00 and the body (RFC 6962, section 2.1).
    """

    __tablename__ = "audit_entries"

    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=False)
    event_id: Mapped[str] = mapped_column(unique=True)
    body: Mapped[bytes]
    leaf_hash: Mapped[bytes]
