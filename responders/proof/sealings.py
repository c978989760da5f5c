"""Which bundles of an incident were sealed: named in the audit log by their SHA-256, so that no other can take their place unseen.

It decides what such an entry says, whether a file is one of those that were named, and whether the one that the keeper sealed is
still where it lay. It refuses nothing: it names what is wrong. No topic feeds it; it posts to `audit`.

Source: paper 4.7 (evidence preservation), SC-10 (audit trails).
"""

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from infra.settings import Settings
from infra.tables import AuditRow, EffectRow
from responders.engine import outbox
from responders.engine.outbox import SEALED
from responders.proof import auditing
from responders.proof.evidence import Verified
from streams import codec
from streams.errors import BadInput, Tampered
from streams.events import AuditEntry
from streams.topics import AUDIT

KEEPER = "schedule"
"""Who seals what lies in `evidence/` of the home; any other bundle is a copy that somebody asked for."""
_BATCH = 1000
_SAME_S = 1.0
_WHY = re.compile(r"bundle of \d+ bytes, SHA-256 (?P<digest>[0-9a-f]{64})")


def standing(settings: Settings, incident_id: str) -> Path:
    """Where the keeper's bundle of an incident lies."""
    return settings.home.resolve() / "evidence" / f"{incident_id}.tar"


def name(session: Session, incident_id: str, bundle: bytes, actor: str, now: datetime) -> None:
    """Put on record that this bundle was sealed; harmless if it is."""
    digest = hashlib.sha256(bundle).hexdigest()
    why = f"bundle of {len(bundle)} bytes, SHA-256 {digest}"
    outbox.post_sealed(session, incident_id, digest, actor, why, now)


def mark(settings: Settings, incident_id: str, now: datetime) -> None:
    """Give the keeper's bundle the time under which it was named, so that `unnamed` need not read it again."""
    os.utime(standing(settings, incident_id), (now.timestamp(), now.timestamp()))


def told(session: Session, incident_ids: Collection[str]) -> dict[str, tuple[AuditEntry, ...]]:
    """What the log, or what is on its way into it, tells of bundles of each of these incidents. Reads the whole log, once."""
    sent = select(EffectRow.payload).where(EffectRow.topic == AUDIT.name).order_by(EffectRow.number)
    found: dict[str, dict[str, AuditEntry]] = {id_: {} for id_ in incident_ids}
    for entry in _read(chain(_logged(session), session.scalars(sent))):
        if entry.target in found:
            found[entry.target][entry.id] = entry
    return {id_: tuple(entries.values()) for id_, entries in found.items()}


def _logged(session: Session) -> Iterable[bytes]:
    return session.scalars(select(AuditRow.body).order_by(AuditRow.number).execution_options(yield_per=_BATCH))


def _read(bodies: Iterable[bytes]) -> Iterator[AuditEntry]:
    for body in bodies:
        if SEALED.encode() in body:
            with suppress(BadInput):  # `kerbwatch audit verify` names what cannot be read
                entry = codec.decode(body, AUDIT, AuditEntry).event
                if entry.action == SEALED:
                    yield entry


def digests(entries: Sequence[AuditEntry]) -> dict[str, AuditEntry]:
    """By the SHA-256 of the bundle that each tells of."""
    return {said["digest"]: entry for entry in entries if (said := _WHY.fullmatch(entry.why)) is not None}


def gone(entries: Sequence[AuditEntry], settings: Settings, incident_id: str) -> tuple[str, ...]:
    """What is wrong with the keeper's bundle of an incident, if these entries tell of one: deleted, or another in its place."""
    kept = {digest: entry for digest, entry in digests(entries).items() if entry.actor == KEEPER}
    path = standing(settings, incident_id)
    if not kept or (path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() in kept):
        return ()
    what = "is not in its place any more" if path.is_file() else "was deleted"
    return tuple(
        f"the bundle that was sealed at {entry.time:%Y-%m-%d %H:%M:%S} UTC (SHA-256 {digest}) {what} ({path.name})"
        for digest, entry in kept.items()
    )


def replaced(entries: Sequence[AuditEntry], settings: Settings, incident_id: str, found: Verified) -> tuple[str, ...]:
    """What `gone` says, but of bundles that the one that stands there tells of itself: it was sealed because they were gone."""
    faults = gone(entries, settings, incident_id)
    return tuple(fault for fault in faults if not any(doubt.startswith(fault.partition(")")[0]) for doubt in found.doubts))


def unnamed(session: Session, settings: Settings, incident_ids: Collection[str]) -> tuple[str, ...]:
    """Those of these incidents whose bundle, as it stands, no entry tells of; the log is read only if the outbox does not tell."""
    sent = select(EffectRow.payload).where(EffectRow.lane == f"{AUDIT.name}/{KEEPER}")
    left = _unlike(settings, incident_ids, session.scalars(sent))
    return _unlike(settings, left, _logged(session)) if left else ()


def _unlike(settings: Settings, incident_ids: Collection[str], bodies: Iterable[bytes]) -> tuple[str, ...]:
    entries: dict[str, list[AuditEntry]] = {id_: [] for id_ in incident_ids}
    for entry in _read(bodies):
        if entry.target in entries:
            entries[entry.target].append(entry)
    return tuple(id_ for id_, known in entries.items() if not _is_one(standing(settings, id_), known))


def _is_one(path: Path, known: Sequence[AuditEntry]) -> bool:
    """A file of the very time that an entry tells of is taken for it: to hash every old bundle at each run would cost too much."""
    written = path.stat().st_mtime
    if any(abs(entry.time.timestamp() - written) < _SAME_S for entry in known if entry.actor == KEEPER):
        return True
    return bool(known) and hashlib.sha256(path.read_bytes()).hexdigest() in digests(known)


@dataclass(frozen=True)
class Standing:
    """How a bundle stands to this database's log: what the log tells of it ("" if nothing), and what is wrong."""

    said: str
    faults: tuple[str, ...]


def against_log(session: Session, bundle: bytes, found: Verified) -> Standing:
    """Hold a bundle against the log that is here now: is it one that was named, and is its log the beginning of this one."""
    faults = list[str]()
    if found.checkpoint is not None:
        try:
            auditing.signed_tree(session, found.checkpoint)
        except Tampered as error:
            faults.append(str(error))
    id_, digest = found.about.incident_id, hashlib.sha256(bundle).hexdigest()
    known = digests(told(session, [id_])[id_])
    if digest in known:
        entry = known[digest]
        return Standing(f"named in the audit log by {entry.actor} at {entry.time:%Y-%m-%d %H:%M:%S} UTC", tuple(faults))
    if known or found.compared:
        others = ", ".join(f"{one} of {entry.time:%Y-%m-%d %H:%M:%S} UTC" for one, entry in known.items())
        faults.append(
            f"the audit log does not tell that this bundle was sealed ({others or 'of none'}): it was put in the place of one"
        )
    return Standing("", tuple(faults))
