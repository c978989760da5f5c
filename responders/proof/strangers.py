"""Audit entries that are not what was sent under their id: somebody else wrote them.

Ids of entries can be computed by whoever knows what they are about, so an id proves nothing. It decides whether an entry is the one
that the outbox recorded under its id, and by which name the log files one that is not: it stays in the log, byte for byte, as
evidence, and the genuine one has its own place there. It refuses nothing. No topic feeds it; `keeping.py` and `signers.py` ask.

Source: paper SC-10 (audit trails); STRIDE (spoofing, repudiation).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from infra.merkle import leaf_hash
from infra.tables import AuditRow, EffectRow
from streams import codec
from streams.errors import BadInput
from streams.events import AuditEntry
from streams.topics import AUDIT

APART = "#"
"""How the names begin by which entries are filed whose id is another's."""


@dataclass(frozen=True)
class Displaced:
    """An entry that stands in the log under the id of another: its number and bytes, that id, and the bytes that were sent."""

    number: int
    body: bytes
    id: str
    genuine: bytes


def filed_apart(body: bytes) -> str:
    """The name of an entry that may not have the id that it bears: made of its leaf hash, so a repeat has the same."""
    return f"{APART}{leaf_hash(body).hex()}"


def same(one: bytes, other: bytes) -> bool:
    """Whether two entries say the same; a newer kerbwatch may write in other bytes what an older one recorded."""
    if leaf_hash(one) == leaf_hash(other):
        return True
    try:
        return codec.decode(one, AUDIT, AuditEntry) == codec.decode(other, AUDIT, AuditEntry)
    except BadInput:
        return False


def displaced(session: Session) -> Iterator[Displaced]:
    """Every entry that is filed under the id of one that the outbox recorded, and is another."""
    rows = session.execute(
        select(AuditRow.number, AuditRow.body, EffectRow.id, EffectRow.payload)
        .join(EffectRow, EffectRow.id == AuditRow.event_id)
        .where(EffectRow.topic == AUDIT.name, AuditRow.body != EffectRow.payload)
        .order_by(AuditRow.number)
    )
    return (Displaced(row.number, row.body, row.id, row.payload) for row in rows if not same(row.body, row.payload))
