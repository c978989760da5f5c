"""Records for later: a row for every judged frame, sums of who judged and what candidates did, every audit entry as it came.

It decides which audit entry an id belongs to; it refuses to write the same thing twice or to change what is written. Fed by topics
`detections` and `audit`.

Source: paper SC-10 (audit trails), 4.7 (evidence preservation); RFC 6962 section 2.1 (leaf hash).
"""

from collections.abc import Sequence
from datetime import datetime

from msgspec.structs import asdict, replace
from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from infra.db import alone_on, insert_into
from infra.merkle import leaf_hash
from infra.tables import AuditRow, ComparisonRow, EffectRow, JudgedFrame, RolloutRow, ServedRow
from responders.proof.strangers import APART, filed_apart, same
from responders.rollouts.comparison import Tally
from streams import codec
from streams.events import AuditEntry, Detections
from streams.topics import AUDIT


def record_judged(session: Session, batch: Sequence[Detections]) -> int:
    """Write a row per frame that has none yet, whichever weights judged it first; returns how many were new.

    What new frames say of a candidate is added to its sums in the same transaction, so a frame that comes again counts once. For
    batches of up to about 2,000. Raises Unavailable (from `writing`) without the database; nothing was written then.
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
    new = set(session.scalars(insert, rows))
    fresh = [seen for frame_id, seen in {seen.frame_id: seen for seen in batch}.items() if frame_id in new]
    _count_served(session, fresh)
    _add_up(session, fresh)
    return len(new)


def _count_served(session: Session, batch: Sequence[Detections]) -> None:
    """Which weights served, from when to when (`inference.provenance.history` reads it)."""
    times: dict[tuple[str, str, str, str], list[datetime]] = {}
    for seen in batch:
        times.setdefault((seen.context, seen.weights_digest, seen.mode, seen.decision_id), []).append(seen.time)
    key = [ServedRow.context, ServedRow.weights_digest, ServedRow.mode, ServedRow.decision_id]
    for (context, digest, mode, decision_id), moments in sorted(times.items()):
        insert = insert_into(session, ServedRow).values(
            context=context,
            weights_digest=digest,
            mode=mode,
            decision_id=decision_id,
            first_at=min(moments),
            last_at=max(moments),
            frames=len(moments),
        )
        new = insert.excluded
        added = {
            "first_at": case((new.first_at < ServedRow.first_at, new.first_at), else_=ServedRow.first_at),
            "last_at": case((new.last_at > ServedRow.last_at, new.last_at), else_=ServedRow.last_at),
            "frames": ServedRow.frames + new.frames,
        }
        session.connection().execute(insert.on_conflict_do_update(index_elements=key, set_=added))


def _add_up(session: Session, batch: Sequence[Detections]) -> None:
    under_way = select(RolloutRow.candidate_digest).where(~RolloutRow.over, RolloutRow.candidate_digest != "")
    candidates = set(session.scalars(under_way))
    sums: dict[tuple[str, str], Tally] = {}
    for seen in batch:
        for digest in candidates & {seen.weights_digest, seen.compared.weights_digest if seen.compared else ""}:
            sums[digest, seen.camera_id] = sums.get((digest, seen.camera_id), Tally()).plus(_tally(seen, digest))
    for (digest, camera_id), tally in sorted(sums.items()):
        insert = insert_into(session, ComparisonRow).values(weights_digest=digest, camera_id=camera_id, **asdict(tally))
        added = {name: getattr(ComparisonRow, name) + getattr(insert.excluded, name) for name in Tally.__struct_fields__}
        key = [ComparisonRow.weights_digest, ComparisonRow.camera_id]
        session.connection().execute(insert.on_conflict_do_update(index_elements=key, set_=added))


def _tally(seen: Detections, candidate: str) -> Tally:
    score, second = seen.scores.inconsistency, seen.compared
    served = seen.weights_digest == candidate
    alone = Tally(served=int(served), scored=int(score is not None), inconsistency=score or 0.0)
    if second is None:
        return alone
    answered = (seen.features.people, seen.timings.infer_ms)
    (people, infer_ms), (beside, beside_ms) = [answered, (second.people, second.infer_ms)][:: 1 if served else -1]
    return replace(
        alone, compared=1, agreement=second.agreement, people=people, beside=beside, infer_ms=infer_ms, beside_ms=beside_ms
    )


def record_audit(session: Session, batch: Sequence[bytes]) -> int:
    """Append audit entries byte for byte, numbered without gaps from 0 in the order given; returns how many were new.

    An id belongs to the entry that the outbox recorded under it, whenever that comes, else to the first that bears it. Any
    other is kept as well, filed apart (`strangers`), where `kerbwatch audit verify` and the hourly checkpoint name it.
    Raises BadInput if one of them is no AuditEntry; nothing of the batch is written then, so decode each first.
    """
    read = {body: codec.decode(body, AUDIT, AuditEntry).event.id for body in batch}
    if not read:
        return 0
    alone_on(session, AuditRow.__tablename__)
    ids = set(read.values())
    names = ids.union(map(filed_apart, read))
    rows = {row.event_id: row for row in session.scalars(select(AuditRow).where(AuditRow.event_id.in_(names)))}
    query = select(EffectRow.id, EffectRow.payload).where(EffectRow.id.in_(ids), EffectRow.topic == AUDIT.name)
    sent = {row.id: row.payload for row in session.execute(query)}
    last = session.scalar(select(func.max(AuditRow.number)))
    start = number = 0 if last is None else last + 1
    for body, id_ in read.items():
        there, apart = rows.get(id_), filed_apart(body)
        if apart in rows or (there is not None and same(there.body, body)):
            continue
        genuine = same(body, sent[id_]) if id_ in sent else there is None
        name = id_ if genuine and not id_.startswith(APART) else apart
        if name == id_ and there is not None:
            there.event_id = filed_apart(there.body)
            rows[there.event_id] = there
            session.flush()  # before the other one takes its name
        rows[name] = AuditRow(number=number, event_id=name, body=body, leaf_hash=leaf_hash(body))
        session.add(rows[name])
        number += 1
    session.flush()
    return number - start
