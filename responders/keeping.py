"""Records for later: a row for every judged frame, and every audit entry as it came.

It decides nothing; it refuses to write the same thing twice or to change what is written. Fed by topics `detections` and `audit`.

Source: paper SC-10 (audit trails), 4.7 (evidence preservation); RFC 6962 section 2.1 (leaf hash).
"""

import hashlib
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from infra.db import alone_on, insert_into
from infra.tables import AuditRow, JudgedFrame
from streams import codec
from streams.events import AuditEntry, Detections
from streams.topics import AUDIT


def record_judged(session: Session, batch: Sequence[Detections]) -> int:
    """Write a row per frame that has none yet, whichever weights judged it first; returns how many were new.

    For batches of up to about 2,000. Raises Unavailable (from `writing`) without the database; nothing was written then.
    """
    if not batch:
        return 0
    rows = [
        {
            "frame_id": seen.frame_id,
            "camera_id": seen.camera_id,
            "context": seen.context,
            "epoch": seen.epoch,
            "sequence": seen.sequence,
            "weights_digest": seen.weights_digest,
            "mode": seen.mode,
            "decision_id": seen.decision_id,
            "frame_partition": seen.frame_partition,
            "frame_offset": seen.frame_offset,
            "camera_time": seen.camera_time,
            "judged_time": seen.time,
            "people": seen.features.people,
            "inconsistency": seen.scores.inconsistency,
        }
        for seen in sorted(batch, key=lambda seen: seen.frame_id)  # one order everywhere: two keepers cannot block each other
    ]
    insert = insert_into(session, JudgedFrame).on_conflict_do_nothing().returning(JudgedFrame.frame_id)
    return len(session.scalars(insert, rows).all())


def record_audit(session: Session, batch: Sequence[bytes]) -> int:
    """Append audit entries byte for byte, numbered without gaps from 0 in the order given; returns how many were new.

    Raises BadInput if one of them is no AuditEntry; nothing of the batch is written then, so decode each first.
    """
    entries: dict[str, bytes] = {}
    for body in batch:
        entries.setdefault(codec.decode(body, AUDIT, AuditEntry).event.id, body)
    if not entries:
        return 0
    alone_on(session, AuditRow.__tablename__)
    known = set(session.scalars(select(AuditRow.event_id).where(AuditRow.event_id.in_(entries))))
    last = session.scalar(select(func.max(AuditRow.number)))
    start = 0 if last is None else last + 1
    new = [(id_, body) for id_, body in entries.items() if id_ not in known]
    session.add_all(
        AuditRow(number=start + n, event_id=id_, body=body, leaf_hash=leaf_hash(body)) for n, (id_, body) in enumerate(new)
    )
    session.flush()
    return len(new)


def leaf_hash(body: bytes) -> bytes:
    """SHA-256 of 0x00 and the entry's bytes, 32 bytes (RFC 6962 section 2.1)."""
    return hashlib.sha256(b"\0" + body).digest()
