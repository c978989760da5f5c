"""What the audit log itself tells of people: who was given which key, and whether what they signed was said by them.

It decides, from the log's entries alone, whether each act in it bears the signature of a key that its person had then. It refuses
nothing: it names what does not hold. So a copy of the log can be checked without the database; with it, `against` says what the
tables have lost or made up. The giving of a key is signed by nobody: the log proves when it was written, no more.
Fed by topic `audit`, as the log kept it.

Source: paper SC-10 (audit trails), 4.5.5; RFC 8032.
"""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from infra.people_tables import ActRow, PersonKeyRow
from infra.tables import AuditRow, EffectRow
from responders.people.acts import Signed, key_id
from responders.people.desk import FRESH
from responders.people.people import DROPPED, told_key
from streams import codec
from streams.errors import BadInput
from streams.events import AuditEntry
from streams.topics import AUDIT


@dataclass
class Signers:
    """Hears a log's entries in any order, and says afterwards what does not hold. `acts`: how many people's acts it heard."""

    faults: list[str] = field(default_factory=list)
    _keys: list[tuple[str, datetime, bytes]] = field(default_factory=list)
    _drops: list[tuple[str, datetime]] = field(default_factory=list)
    _acts: list[tuple[int, AuditEntry]] = field(default_factory=list)

    @property
    def acts(self) -> int:
        """How many acts of people the log tells of."""
        return len(self._acts)

    def hear(self, number: int, body: bytes, event_id: str | None = None) -> None:
        """Take entry `number` in; `event_id`, where it is filed under one, must be its own."""
        try:
            entry = codec.decode(body, AUDIT, AuditEntry).event
        except BadInput as error:
            self.faults.append(f"audit entry {number} cannot be read: {error}")
            return
        if event_id not in {None, entry.id}:
            self.faults.append(f"audit entry {number} is filed under id {event_id}, and says that it is {entry.id}")
        self.learn(entry)
        if entry.signed or entry.signature:
            self._acts.append((number, entry))

    def learn(self, entry: AuditEntry) -> None:
        """What an entry tells of keys; for those that are not judged themselves."""
        public = told_key(entry)
        if public is not None:
            self._keys.append((entry.target, entry.time, public))
        elif entry.action == DROPPED:
            self._drops.append((entry.target, entry.time))

    def judged(self) -> tuple[str, ...]:
        """What is wrong with what was heard, in the log's order."""
        return (
            *self.faults,
            *(f"audit entry {number} ({entry.actor}): {why}" for number, entry in self._acts if (why := self._fault(entry))),
        )

    def _fault(self, entry: AuditEntry) -> str:
        try:
            signed = Signed(entry.signed.encode(), base64.b64decode(entry.signature, validate=True))
            said = signed.statement()
        except (binascii.Error, BadInput):
            return "bears an act that cannot be read"
        if (said.actor, said.target, signed.id) != (entry.actor, entry.target, entry.cause_id):
            return f"says something else than what was signed ({said.deed} by {said.actor})"
        keys = self._keys_of(said.actor, said.time)
        if not keys:
            return f"the log tells of no key that they had at {said.time:%Y-%m-%d %H:%M:%S} UTC"
        if not any(signed.holds(public) for public in keys):
            return f"{said.deed} is not signed with a key that they had then"
        return ""

    def _keys_of(self, name: str, moment: datetime) -> list[bytes]:
        """A key counts until the next one is given, or its person goes; clocks may differ by as much as the desk allows."""
        given = sorted((since, public) for who, since, public in self._keys if who == name)
        ends = sorted([since for since, _ in given] + [at for who, at in self._drops if who == name])
        found = []
        for since, public in given:
            until = next((end for end in ends if end > since), None)
            if since - FRESH <= moment and (until is None or moment <= until + FRESH):
                found.append(public)
        return found

    def against(self, session: Session) -> tuple[str, ...]:
        """Where the tables of acts and keys differ from the log, or from what is on its way into it."""
        for entry in waiting(session):
            self.learn(entry)
        told = {key_id(public): public for _, _, public in self._keys}
        rows = {row.key_id: row for row in session.scalars(select(PersonKeyRow))}
        kept = set(session.scalars(select(ActRow.id)))
        return (
            *(f"act {entry.cause_id[:8]} by {entry.actor} is in the log (entry {number}), but no longer in table acts"
              for number, entry in self._acts if entry.cause_id not in kept),
            *(f"key {id_[:12]} is in the log, but no longer in table person_keys" for id_ in told if id_ not in rows),
            *(f"key {id_[:12]} of {row.name} is in table person_keys, but the log never told that it was given"
              for id_, row in rows.items() if told.get(id_) != row.public_key),
        )  # fmt: skip


def waiting(session: Session) -> tuple[AuditEntry, ...]:
    """Entries that were sent, or are about to be, and that the log does not have yet."""
    kept = exists().where(AuditRow.event_id == EffectRow.id)
    bodies: Iterable[bytes] = session.scalars(
        select(EffectRow.payload).where(EffectRow.topic == AUDIT.name, ~kept).order_by(EffectRow.number)
    )
    return tuple(codec.decode(body, AUDIT, AuditEntry).event for body in bodies)
