"""The audit log after a restore: what the copy of the database lacks, taken in again from topic `audit`, before anybody writes.

A copy is as old as its day and checkpoints are hourly, so a restored log is nearly always shorter than the newest of them. It
decides whether what the topic tells makes the log the one that was signed, and which people's acts come back into their table with
it. It refuses, and writes nothing, where the log does not hold against every kept checkpoint afterwards. Fed by topic `audit`.

Source: paper SC-10 (audit trails); NIST SP 800-53 CP-10(2) (transaction recovery); RFC 6962.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from infra.people_tables import ActRow, PersonKeyRow
from infra.settings import Settings
from responders.people.acts import Signed
from responders.proof import auditing
from responders.proof.keeping import record_audit
from responders.proof.signers import Signers
from streams.errors import Tampered


@dataclass(frozen=True)
class Restored:
    """How many entries and acts came back, and how the log stands: so many entries, so many checkpoints agree.

    faults: what is wrong with its entries and tables still (`kerbwatch audit verify` names it, too).
    """

    entries: int
    acts: int
    size: int
    checkpoints: int
    faults: tuple[str, ...]


def take_in(session: Session, settings: Settings, batches: Iterable[Sequence[bytes]]) -> Restored:
    """Append what the log lacks of these entries, the topic's from its beginning, in its order, and put back acts that they bear.

    Raises Tampered if the log is then not the one that was signed; roll back.
    """
    entries = sum(record_audit(session, batch) for batch in batches)
    signers = Signers()
    try:
        found = auditing.check(session, settings, signers.hear)
    except Tampered as error:
        raise Tampered(
            f"nothing was taken in: the log would not hold with topic audit's {entries} entries more: {error}. If the stack ran "
            "since the restore, restore the copy again and give this before `kerbwatch up`; if the broker's log is lost as well, "
            'see "Restoring" in docs/schedule.md'
        ) from error
    acts = _put_back(session, signers.judged(session).lost)
    return Restored(entries, acts, found.size, found.checkpoints, signers.judged(session).faults)


def _put_back(session: Session, lost: Sequence[Signed]) -> int:
    """Acts as they were signed. What came of each is not known here, so none may become one of two that decide something."""
    keys = session.scalars(select(PersonKeyRow)).all()
    back = 0
    for act in lost:
        said = act.statement()
        key = next((row for row in keys if row.name == said.actor and act.holds(row.public_key)), None)
        if key is None:  # given since the copy was made: `kerbwatch audit verify` names key and act
            continue
        row = ActRow(id=act.id, actor=said.actor, deed=said.deed, target=said.target, time=said.time, key_id=key.key_id,
                     with_code=False, body=act.body, signature=act.signature, used_by=act.id)  # fmt: skip
        session.add(row)
        back += 1
    session.flush()
    return back
