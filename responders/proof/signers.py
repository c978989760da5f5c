"""What the audit log itself tells of people: who was given which key, and whether what they signed was said by them.

It decides which entries do not hold: an act without the signature of a key that its person had then, one that cannot be read, one
that bears another's id. From the log's entries alone; so a copy of the log can be checked without the database. With it, it says
also what the tables have lost or made up, and what is not as it was sent. It refuses nothing: it names what does not hold.
An entry cannot be taken out of the log; a person who disowns one by a signed act makes it count for nothing, and it is named still.
The giving of a key is signed by nobody: the log proves when it was written, no more. Fed by topic `audit`, as the log kept it.

Source: paper SC-10 (audit trails), 4.5.5; RFC 8032.
"""

import base64
import binascii
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from infra.merkle import leaf_hash
from infra.people_tables import ActRow, PersonKeyRow
from infra.tables import AuditRow, EffectRow
from responders.people.access import Deed
from responders.people.acts import Signed, Statement, key_id
from responders.people.desk import FRESH
from responders.people.people import DROPPED, told_key
from responders.proof.strangers import APART, displaced
from streams import codec
from streams.errors import BadInput
from streams.events import AuditEntry
from streams.topics import AUDIT

ABOUT_ENTRIES = "audit/"
"""How the targets of acts begin that are about entries of the log itself."""
_LEAF = "leaf"
_ACT = "people.act"


class Entry(NamedTuple):
    """Which entry of the log: its number, and its leaf hash (hex), because a number alone says nothing of what is in it."""

    number: int
    leaf: str

    @property
    def target(self) -> str:
        """What an act about it is about."""
        return f"{ABOUT_ENTRIES}{self.number}"

    @property
    def detail(self) -> tuple[str, str]:
        """What such an act says besides."""
        return _LEAF, self.leaf


@dataclass(frozen=True)
class Judged:
    """What does not hold, in the log's order, and which entries somebody disowned, with what would be wrong with them.

    lost: acts that hold and that table `acts` no longer has; they are among the faults.
    """

    faults: tuple[str, ...]
    disowned: tuple[str, ...]
    lost: tuple[Signed, ...] = ()


@dataclass
class Signers:
    """Hears a log's entries in any order, and says afterwards what does not hold. `acts`: how many people's acts it heard."""

    _odd: dict[Entry, str] = field(default_factory=dict)
    _keys: list[tuple[Entry | None, str, datetime, bytes]] = field(default_factory=list)
    _drops: list[tuple[Entry | None, str, datetime]] = field(default_factory=list)
    _acts: list[tuple[Entry, AuditEntry]] = field(default_factory=list)

    @property
    def acts(self) -> int:
        """How many acts of people the log tells of."""
        return len(self._acts)

    def hear(self, number: int, body: bytes, event_id: str | None = None) -> None:
        """Take entry `number` in; `event_id`, where it is filed under one, must be its own."""
        which = entry_of(number, body)
        try:
            entry = codec.decode(body, AUDIT, AuditEntry).event
        except BadInput as error:
            self._odd[which] = f"cannot be read: {error}"
            return
        if event_id is not None and event_id.startswith(APART):
            self._odd[which] = _not_sent(entry.id)
            return
        if event_id not in {None, entry.id}:
            self._odd[which] = f"is filed under id {event_id}, and says that it is {entry.id}"
        self.learn(entry, which)
        if entry.signed or entry.signature or entry.action == _ACT:
            self._acts.append((which, entry))

    def learn(self, entry: AuditEntry, which: Entry | None = None) -> None:
        """What an entry tells of keys; without `which` for those that are not judged themselves."""
        public = told_key(entry)
        if public is not None:
            self._keys.append((which, entry.target, entry.time, public))
        elif entry.action == DROPPED:
            self._drops.append((which, entry.target, entry.time))

    def judged(self, session: Session | None = None) -> Judged:
        """What is wrong with what was heard; with `session` also against the tables and the outbox."""
        odd, others = dict(self._odd), list[str]()
        if session is not None:
            for sent in waiting(session):
                self.learn(sent)
            for one in displaced(session):
                odd.setdefault(entry_of(one.number, one.body), _not_sent(one.id))
            others += self._against_keys(session, odd)
        disowned = self._disowned()
        for which, entry in self._acts:
            if which not in odd and (why := self._fault(entry, disowned)):
                odd[which] = f"({entry.actor}): {why}"
        lost = [] if session is None else self._lost(session, odd)
        others += [
            f"act {entry.cause_id[:8]} by {entry.actor} is in the log (entry {which.number}), but no longer in table acts"
            for which, entry in lost
        ]
        named = [f"audit entry {which.number} {why}" for which, why in sorted(odd.items()) if which not in disowned]
        told = tuple(_told(which, said, odd) for which, said in sorted(disowned.items()))
        return Judged((*named, *others), told, tuple(_read(entry)[0] for _, entry in lost))

    def _disowned(self) -> dict[Entry, Statement]:
        """By any key that their person ever had: a stranger's entry about that very person may be what is disowned."""
        found = {}
        for _, entry in self._acts:
            signed, said = _read(entry)
            if said is None or said.deed is not Deed.DISOWN:
                continue
            if any(who == said.actor and signed.holds(public) for _, who, _, public in self._keys):
                number = said.target.removeprefix(ABOUT_ENTRIES)
                if number.isdecimal():
                    found[Entry(int(number), dict(said.details).get(_LEAF, ""))] = said
        return found

    def _fault(self, entry: AuditEntry, disowned: Container[Entry | None]) -> str:
        signed, said = _read(entry)
        if said is None:
            return "bears an act that cannot be read"
        if (said.actor, said.target, signed.id) != (entry.actor, entry.target, entry.cause_id):
            return f"says something else than what was signed ({said.deed} by {said.actor})"
        keys = self._keys_of(said.actor, said.time, disowned)
        if not keys:
            return f"the log tells of no key that they had at {said.time:%Y-%m-%d %H:%M:%S} UTC"
        if not any(signed.holds(public) for public in keys):
            return f"{said.deed} is not signed with a key that they had then"
        return ""

    def _keys_of(self, name: str, moment: datetime, disowned: Container[Entry | None]) -> list[bytes]:
        """A key counts until the next one is given, or its person goes; clocks may differ by as much as the desk allows."""
        given = sorted((since, public) for which, who, since, public in self._keys if who == name and which not in disowned)
        dropped = [at for which, who, at in self._drops if who == name and which not in disowned]
        ends = sorted([since for since, _ in given] + dropped)
        found = []
        for since, public in given:
            until = next((end for end in ends if end > since), None)
            if since - FRESH <= moment and (until is None or moment <= until + FRESH):
                found.append(public)
        return found

    def _against_keys(self, session: Session, odd: dict[Entry, str]) -> list[str]:
        """Keys that only the log or only the table tells of; `odd` learns of the log's."""
        rows = {row.key_id: row for row in session.scalars(select(PersonKeyRow))}
        for which, who, _, public in self._keys:
            if which is not None and key_id(public) not in rows:
                odd.setdefault(which, f"gives {who} key {key_id(public)[:12]}, which is no longer in table person_keys")
        told = {key_id(public): public for _, _, _, public in self._keys}
        return [
            f"key {id_[:12]} of {row.name} is in table person_keys, but the log never told that it was given"
            for id_, row in rows.items()
            if told.get(id_) != row.public_key
        ]

    def _lost(self, session: Session, odd: Container[Entry]) -> list[tuple[Entry, AuditEntry]]:
        kept = set(session.scalars(select(ActRow.id)))
        return [(which, entry) for which, entry in self._acts if which not in odd and entry.cause_id not in kept]


def entry_of(number: int, body: bytes) -> Entry:
    """What an entry is called where somebody disowns it."""
    return Entry(number, leaf_hash(body).hex())


def waiting(session: Session) -> tuple[AuditEntry, ...]:
    """Entries that were sent, or are about to be, and that the log does not have yet; another one in their place is not they."""
    kept = exists().where(AuditRow.event_id == EffectRow.id)
    absent = select(EffectRow.payload).where(EffectRow.topic == AUDIT.name, ~kept).order_by(EffectRow.number)
    bodies = (*session.scalars(absent), *(one.genuine for one in displaced(session)))
    return tuple(codec.decode(body, AUDIT, AuditEntry).event for body in bodies)


def _read(entry: AuditEntry) -> tuple[Signed, Statement | None]:
    """The act that an entry bears; no statement if it cannot be read."""
    try:
        signed = Signed(entry.signed.encode(), base64.b64decode(entry.signature, validate=True))
        return signed, signed.statement()
    except (binascii.Error, BadInput):
        return Signed(b"", b""), None


def _not_sent(id_: str) -> str:
    return f"bears id {id_[:12]} and is not what was sent under it: somebody else wrote it"


def _told(which: Entry, said: Statement, odd: Mapping[Entry, str]) -> str:
    wrong = f", which {odd[which]}" if which in odd else ""
    return f"audit entry {which.number}{wrong}: disowned by {said.actor} at {said.time:%Y-%m-%d %H:%M:%S} UTC: {said.comment}"
