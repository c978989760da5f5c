"""Which entry is meant, and the proof that it is in the log, or that the log only grew, by a checkpoint that was signed.

It decides what a name of an entry means. It refuses to prove anything of a log that is not the one that was signed. How a proof is
written is decided in `infra.proofs`. No topic feeds it.

Source: RFC 6962 section 2.1, paper SC-10.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from infra.checkpoints import Checkpoint
from infra.merkle import leaf_hash
from infra.proofs import Consistency, Inclusion
from infra.tables import AuditRow
from responders.engine.records import nearest
from responders.proof import auditing
from streams.errors import BadInput, Tampered

_MOST_DIGITS = 18
_NEAR = 1000
"""So many of the newest entries are looked through for an id that is like a wrong one."""


def growth(session: Session, note: bytes, signed: Checkpoint, size: int) -> Consistency:
    """That the log of `size` entries is the beginning of the one that `note` signs. Raises BadInput if that is a shorter one."""
    if size > signed.size:
        raise BadInput(
            f"the newest checkpoint signs {signed.size} entries, fewer than {size}: `kerbwatch audit checkpoint` signs now"
        )
    return Consistency(size, auditing.signed_tree(session, signed).consistency(size), note)


def inclusion(session: Session, note: bytes, signed: Checkpoint, wanted: str) -> Inclusion:
    """That the entry named `wanted` (its number, its id, or the beginning of that) is in the log that `note` signs.

    Raises BadInput if there is no such entry or none is signed yet, Tampered if the log is not what was signed.
    """
    row = _find(session, wanted.strip().lower())
    if row.number >= signed.size:
        raise BadInput(
            f"entry {row.number} is newer than the newest checkpoint ({signed.size} entries): `kerbwatch audit checkpoint` first"
        )
    proof = Inclusion(row.body, row.number, auditing.signed_tree(session, signed).proof(row.number), note)
    if leaf_hash(row.body) != row.leaf_hash:
        raise Tampered(f"audit entry {row.number} is not the one that was written: `kerbwatch audit verify` says more")
    return proof


def _find(session: Session, wanted: str) -> AuditRow:
    if wanted.isascii() and wanted.isdigit() and len(wanted) <= _MOST_DIGITS:
        row = session.get(AuditRow, int(wanted))
        if row is None:
            raise BadInput(f"no audit entry {wanted}: the log has {auditing.length(session)}, numbered from 0")
        return row
    begins = select(AuditRow).where(AuditRow.event_id.startswith(wanted, autoescape=True)).limit(2)
    rows = session.scalars(begins).all() if wanted else ()
    if len(rows) != 1:
        ids = session.scalars(select(AuditRow.event_id).order_by(AuditRow.number.desc()).limit(_NEAR)).all()
        hint = "it fits more than one; give more of it" if rows else nearest(wanted, ids) or "give its number, from 0"
        raise BadInput(f"no single audit entry {wanted!r}: {hint}")
    return rows[0]
