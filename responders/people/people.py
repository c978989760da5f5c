"""Who may act: the people of a deployment, their roles, the keys they sign with and their second factors.

It decides nothing about deeds (`access.py` does); it refuses a name that is none, a person without a role, and to leave nobody who
may add people. Every change is an audit entry, sent from the outbox. No topic feeds it: `kerbwatch people` does.

Source: paper table 1 (roles R1 to R8), 4.6 (approval by R3 and R8), SC-10 (audit trails).
"""

import base64
import re
from collections.abc import Sequence
from datetime import datetime
from difflib import get_close_matches

import msgspec
from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session

from infra.keys import open_sealed, seal
from infra.people_tables import PersonKeyRow, PersonRow
from responders.engine import outbox
from responders.notify.deliveries import remind
from responders.notify.notices import reminder
from responders.people.access import RULES, Deed
from responders.people.acts import key_id
from responders.people.roles import Role, named
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import AuditEntry, event_id

LONGEST_NAME = 64
FIRST_ROLES = (Role.DEVOPS_ENGINEER, Role.MLOPS_ENGINEER, Role.SECMLOPS_ENGINEER)
"""What the first operator of a home is: who runs it and answers its incidents, and so may add the others."""
KEY_GIVEN, DROPPED = "people.key", "people.drop"
"""What audit entries call it that somebody got a key, and that somebody may act no longer."""
_GIVEN = re.compile(r"signs with (?P<public>[A-Za-z0-9+/=]{44}) from now on \(key (?P<id>[0-9a-f]{64})\)")
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")
_SETUP, _RECOVERY = "setup", "recovery"


class Person(msgspec.Struct, frozen=True):
    """Somebody who may act; `key_id` is the SHA-256 of the key they sign with now, "" without one."""

    name: str
    roles: tuple[Role, ...]
    changed_at: datetime
    key_id: str = ""
    second_factor: bool = False


def listed(session: Session) -> tuple[Person, ...]:
    """Everybody, by name."""
    keys = {row.name: row.key_id for row in session.scalars(select(PersonKeyRow).where(PersonKeyRow.until.is_(None)))}
    return tuple(_person(row, keys.get(row.name, "")) for row in session.scalars(select(PersonRow).order_by(PersonRow.name)))


def roles_of(session: Session, name: str) -> tuple[Role, ...]:
    """The roles of `name`; none for somebody who is not known."""
    row = session.get(PersonRow, name)
    return () if row is None else _roles(row)


def key_of(session: Session, name: str) -> PersonKeyRow | None:
    """The key that `name` signs with now."""
    return session.scalar(select(PersonKeyRow).where(PersonKeyRow.name == name, PersonKeyRow.until.is_(None)))


def put(session: Session, name: str, roles: Sequence[Role], by: str, now: datetime) -> Person:
    """Let `name` act in these roles and no others. Raises BadInput without a role or for what is no name."""
    if not roles:
        raise BadInput(f"{name} needs a role (--role R1 to R8)")
    require_name(name)
    could = _who_can_add(session)
    row = session.get(PersonRow, name) or PersonRow(name=name)
    row.roles, row.changed_at = " ".join(sorted(set(roles))), now
    session.add(row)
    session.flush()
    _require_who_can_add(session, could)
    key = key_of(session, name)
    person = _person(row, "" if key is None else key.key_id)
    _post(session, "people.put", name, by, why=named(person.roles), now=now)
    return person


def require_name(name: str) -> None:
    """Returns if somebody may be called so; raises BadInput else."""
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name[:LONGEST_NAME]!r} is no name: letters, digits, '.', '_', '-', at most {LONGEST_NAME}")


def give_key(session: Session, name: str, public: bytes, by: str, now: datetime) -> str:
    """From now on `name` signs with the key whose public half (32 bytes) this is; former ones stay, to check old acts by.

    Returns the key's id. Raises BadInput if the key is, or was, somebody's already.
    """
    id_ = key_id(public)
    if session.get(PersonKeyRow, id_) is not None:
        raise BadInput(f"key {id_[:12]} is on record already: every person needs a key of their own, and a new one each time")
    _end_keys(session, name, now)
    session.add(PersonKeyRow(key_id=id_, name=name, public_key=public, since=now, until=None))
    session.flush()
    _post(session, KEY_GIVEN, name, by, why=f"signs with {base64.b64encode(public).decode()} from now on (key {id_})", now=now)
    return id_


def told_key(entry: AuditEntry) -> bytes | None:
    """The public key (32 bytes) that an audit entry gave its target; None for any other entry, and for one that is not ours."""
    said = _GIVEN.fullmatch(entry.why) if entry.action == KEY_GIVEN else None
    if said is None:
        return None
    try:
        public = base64.b64decode(said["public"], validate=True)
    except ValueError:
        return None
    return public if key_id(public) == said["id"] else None


def enrol(session: Session, name: str, secret: bytes, sealing_key: bytes, *, step: int, now: datetime) -> None:
    """Give `name` a new second factor; codes of steps later than `step` count.

    Raises BadInput for a stranger, Unavailable for a key that opens no other's.
    """
    row = _row(session, name)
    require_sealing_key(session, sealing_key)
    row.totp_sealed = seal(sealing_key, secret, about_factor(name))
    row.totp_step, row.totp_failures, row.totp_failed_at = step, 0, None
    _post(session, "people.enrol", name, name, why="a new second factor", now=now)


def require_sealing_key(session: Session, sealing_key: bytes) -> None:
    """Returns if the key opens a second factor on record, or there is none. Raises Unavailable for another deployment's key."""
    rows = session.execute(select(PersonRow.name, PersonRow.totp_sealed).where(PersonRow.totp_sealed.is_not(None))).all()
    if rows and not any(_opens(sealing_key, sealed or b"", name) for name, sealed in rows):
        raise Unavailable(
            "keys/people.key of this home opens no second factor on record: copy the one that they were set up with, from its home "
            "or a backup"
        )


def _opens(sealing_key: bytes, sealed: bytes, name: str) -> bool:
    try:
        open_sealed(sealing_key, sealed, about_factor(name))
    except Tampered:
        return False
    return True


def about_factor(name: str) -> bytes:
    """What a sealed second factor is bound to: nobody else's opens in its place."""
    return f"totp/{name}".encode()


def somebody_enrolled(session: Session) -> bool:
    """Whether anybody has a second factor."""
    return bool(session.scalar(select(exists().where(PersonRow.totp_sealed.is_not(None)))))


def somebody_signs(session: Session) -> bool:
    """Whether anybody holds a key."""
    return bool(session.scalar(select(exists().where(PersonKeyRow.until.is_(None)))))


def begin(session: Session, user: str, public: bytes, now: datetime) -> None:
    """The first operator of a home in which nobody holds a key: `user`, in `FIRST_ROLES` and what they had before."""
    put(session, user, (*FIRST_ROLES, *roles_of(session, user)), _SETUP, now)
    give_key(session, user, public, _SETUP, now)


def recover(session: Session, name: str, public: bytes, why: str, now: datetime) -> None:
    """Give `name`, who may add people, a new key and no second factor, past the desk; that is on record, and told all who may.

    Raises BadInput for a stranger, and for anybody else: whoever may add people adds those again.
    """
    row = _row(session, name)
    needed = RULES[Deed.ADD_PERSON].roles
    if not set(needed) & set(_roles(row)):
        raise BadInput(f"{name} acts as {named(_roles(row))}: {named(needed)} removes them and adds them again")
    give_key(session, name, public, _RECOVERY, now)
    row.totp_sealed, row.totp_step, row.totp_failures, row.totp_failed_at = None, 0, 0, None
    _post(session, "people.recover", name, _RECOVERY, why=why, now=now)
    what = f"{name} was given a new key and no second factor, past the desk: {why}. Unexpected? Then somebody else has your home"
    for role in needed:
        remind(session, reminder(f"recovered {name} {now.isoformat()}", what, role, now), now)


def drop(session: Session, name: str, by: str, now: datetime) -> None:
    """Let `name` act no longer. Raises BadInput if nobody is called so, or nobody would be left who may add people."""
    could = _who_can_add(session)
    session.delete(_row(session, name))
    _end_keys(session, name, now)
    session.flush()
    _require_who_can_add(session, could)
    _post(session, DROPPED, name, by, why="removed", now=now)


def _end_keys(session: Session, name: str, now: datetime) -> None:
    session.execute(update(PersonKeyRow).where(PersonKeyRow.name == name, PersonKeyRow.until.is_(None)).values(until=now))


def _who_can_add(session: Session) -> frozenset[str]:
    needed = set(RULES[Deed.ADD_PERSON].roles)
    return frozenset(person.name for person in listed(session) if person.key_id and needed & set(person.roles))


def last_who_can_add(session: Session) -> str:
    """The only one who may add people, "" where there are several or none."""
    names = _who_can_add(session)
    return next(iter(names)) if len(names) == 1 else ""


def signed_by(session: Session, public: bytes) -> str:
    """Whose key this is, or was; "" if nobody's."""
    row = session.get(PersonKeyRow, key_id(public))
    return "" if row is None else row.name


def _require_who_can_add(session: Session, before: frozenset[str]) -> None:
    if before and not _who_can_add(session):
        raise BadInput(f"nobody would be left who may add people: give {named(RULES[Deed.ADD_PERSON].roles)} to another first")


def _row(session: Session, name: str) -> PersonRow:
    row = session.get(PersonRow, name)
    if row is None:
        near = get_close_matches(name, session.scalars(select(PersonRow.name)).all(), n=1)
        hint = f"did you mean {near[0]}?" if near else "see `kerbwatch people list`"
        raise BadInput(f"nobody is called {name[:LONGEST_NAME]!r}; {hint}")
    return row


def _post(session: Session, action: str, name: str, by: str, *, why: str, now: datetime) -> None:
    outbox.post_audit(session, event_id(action, name, by, now.isoformat()), by, action, target=name, why=why, now=now)


def _roles(row: PersonRow) -> tuple[Role, ...]:
    return tuple(Role(role) for role in row.roles.split())


def _person(row: PersonRow, key: str) -> Person:
    return Person(row.name, _roles(row), row.changed_at, key, row.totp_sealed is not None)
