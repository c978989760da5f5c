"""What the audit log tells of one incident, with proofs, if the log holds against itself and every kept checkpoint.

It decides which entries are an incident's: those that it sent, those about it, its frames in quarantine or its rollouts, and which
keys the people had who acted. It refuses to prove anything by a log that does not hold: then the entries come as they lie there,
without proofs, and `faults` say what is wrong. Entries that strangers wrote under an id of ours are left out (`strangers.py`). No
topic feeds it.

Source: paper 4.7 (evidence preservation), SC-10; RFC 6962 section 2.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from infra.checkpoints import Checkpoint, kept_notes, public_key_file
from infra.merkle import Tree
from infra.settings import Settings
from infra.tables import AuditRow, EffectRow, RolloutRow
from responders.engine.outbox import SEALED
from responders.people.people import DROPPED, KEY_GIVEN
from responders.proof import auditing
from responders.proof.comparing import ABOUT_ENTRIES, Log
from responders.proof.evidence import Growth, Proven
from responders.proof.strangers import APART, same
from streams import codec
from streams.errors import BadInput
from streams.events import AuditEntry, event_id
from streams.topics import AUDIT

_GROWTH = 200
"""So many of the newest older checkpoints are proven to be this log's beginning: a week of hourly ones."""
_FAULTS = 20


@dataclass(frozen=True)
class Trail:
    """An incident's entries. `checkpoint` is the smallest that covers them, None over a log that does not hold (`faults`).

    waiting: entries that were sent and are not in the log yet. sealings: what entries tell of bundles of it, in the log or not yet.
    """

    entries: tuple[Proven, ...]
    checkpoint: Checkpoint | None
    growth: tuple[Growth, ...]
    waiting: tuple[bytes, ...]
    sealings: tuple[AuditEntry, ...]
    faults: tuple[str, ...]

    @property
    def log(self) -> Log:
        """The same, to be compared."""
        return Log({one.number: one.body for one in self.entries}, self.waiting)


@dataclass
class _Ours:
    """Sorts an incident's entries out of all that it hears."""

    incident_id: str
    targets: set[str]
    sent: Mapping[str, bytes]
    bodies: dict[int, bytes] = field(default_factory=dict)
    sealings: list[AuditEntry] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    people: set[str] = field(default_factory=set)
    _keys: list[tuple[str, int, bytes]] = field(default_factory=list)
    _about: list[tuple[int, int, bytes, str]] = field(default_factory=list)

    def hear(self, number: int, body: bytes, id_: str) -> None:
        if id_.startswith(APART) or (id_ in self.sent and not same(body, self.sent[id_])):
            return
        known = id_ in self.sent
        if not known and not any(sign in body for sign in (b'"people.', b'"rollout.', self.incident_id.encode())):
            return
        try:
            entry = codec.decode(body, AUDIT, AuditEntry).event
        except BadInput:
            self.unread.append(f"audit entry {number} cannot be read")
            return
        if known or self.concerns(entry):
            self.bodies[number] = body
            self.learn(entry)
        elif entry.action in {KEY_GIVEN, DROPPED}:
            self._keys.append((entry.target, number, body))
        elif entry.signed and (about := entry.target.removeprefix(ABOUT_ENTRIES)) != entry.target and about.isdecimal():
            self._about.append((int(about), number, body, entry.actor))

    def concerns(self, entry: AuditEntry) -> bool:
        return entry.target in self.targets or entry.target.startswith(f"{self.incident_id}/")

    def learn(self, entry: AuditEntry) -> None:
        if entry.action == SEALED:
            self.sealings.append(entry)
        if entry.signed:
            self.people.add(entry.actor)
            self.targets.add(event_id("rollout", self.incident_id, entry.cause_id))  # what the act may have begun

    def chosen(self) -> dict[int, bytes]:
        """The incident's entries by number, with acts about them and the keys of all who acted."""
        found = dict(self.bodies)
        for about, number, body, actor in self._about:
            if about in self.bodies:
                found[number] = body
                self.people.add(actor)
        found.update({number: body for name, number, body in self._keys if name in self.people})
        return dict(sorted(found.items()))


def follow(session: Session, settings: Settings, incident_id: str) -> Trail:
    """Hash the whole log anew and pick out what it tells of an incident. Raises Unavailable if there are checkpoints and no key."""
    rollouts = session.scalars(select(RolloutRow.id).where(RolloutRow.incident_id == incident_id)).all()
    mine = select(EffectRow.id, EffectRow.payload).where(EffectRow.incident_id == incident_id, EffectRow.topic == AUDIT.name)
    ours = _Ours(incident_id, {incident_id, *rollouts}, {row.id: row.payload for row in session.execute(mine)})
    notes = kept_notes(settings)
    found = auditing.examine(session, notes, public_key_file(settings), ours.hear)
    waiting = _waiting(session, ours)
    chosen = ours.chosen()
    faults = (*found.faults, *ours.unread)
    if len(faults) > _FAULTS:
        faults = (*faults[:_FAULTS], f"{len(faults) - _FAULTS} more: `kerbwatch audit verify` names them")
    if faults:
        bare = tuple(Proven(number=number, body=body, proof=()) for number, body in chosen.items())
        return Trail(bare, None, (), waiting, tuple(ours.sealings), faults)
    size = max(chosen, default=-1) + 1
    tree = Tree(session.scalars(select(AuditRow.leaf_hash).where(AuditRow.number < size).order_by(AuditRow.number)).all())
    proven = tuple(Proven(number=number, body=body, proof=tree.proof(number)) for number, body in chosen.items())
    older = [int(note.stem) for note in notes if 0 < int(note.stem) < size][-_GROWTH:]
    growth = tuple(Growth(size=one, proof=tree.consistency(one)) for one in older)
    return Trail(proven, Checkpoint(size, tree.root), growth, waiting, tuple(ours.sealings), faults)


def _waiting(session: Session, ours: _Ours) -> tuple[bytes, ...]:
    """What was sent about the incident and is not in the log; that it was sealed before is no part of its course."""
    rows = session.execute(
        select(EffectRow.id, EffectRow.payload, AuditRow.body)
        .outerjoin(AuditRow, AuditRow.event_id == EffectRow.id)
        .where(EffectRow.topic == AUDIT.name, AuditRow.body.is_(None) | (AuditRow.body != EffectRow.payload))
        .order_by(EffectRow.number)
    )
    found, keys = [], []
    for row in rows:
        if row.body is not None and same(row.body, row.payload):
            continue
        try:
            entry = codec.decode(row.payload, AUDIT, AuditEntry).event
        except BadInput:
            if row.id in ours.sent:
                ours.unread.append(f"effect {row.id} of the incident cannot be read")
            continue
        if row.id in ours.sent or ours.concerns(entry):
            ours.learn(entry)
            found += [row.payload] if entry.action != SEALED else []
        elif entry.action in {KEY_GIVEN, DROPPED}:
            keys.append((entry.target, row.payload))
    return (*found, *(payload for name, payload in keys if name in ours.people))
