"""Who may say what: the people of a deployment and their roles.

It decides nothing; it refuses a name that is none and a person without a role. Every change is an audit entry, sent from the
outbox. No topic feeds it: `kerbwatch people` does.

Source: paper table 1 (roles R1 to R8), 4.6 (approval by R3 and R8), SC-10 (audit trails).
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from infra.tables import PersonRow
from responders import outbox
from responders.roles import Role, named
from streams.errors import BadInput
from streams.events import event_id

LONGEST_NAME = 64


class Person(msgspec.Struct, frozen=True):
    """Somebody who may act."""

    name: str
    roles: tuple[Role, ...]
    changed_at: datetime


def listed(session: Session) -> tuple[Person, ...]:
    """Everybody, by name."""
    return tuple(_person(row) for row in session.scalars(select(PersonRow).order_by(PersonRow.name)))


def roles_of(session: Session, name: str) -> tuple[Role, ...]:
    """The roles of `name`; none for somebody who is not known."""
    row = session.get(PersonRow, name)
    return () if row is None else _person(row).roles


def put(session: Session, name: str, roles: Sequence[Role], by: str, now: datetime) -> Person:
    """Let `name` act in these roles and no others. Raises BadInput without a role or a printable name of at most 64 characters."""
    if not roles:
        raise BadInput(f"{name} needs a role (--role R1 to R8)")
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        raise BadInput(f"{name[:LONGEST_NAME]!r} is no name: give at most {LONGEST_NAME} printable characters")
    row = session.get(PersonRow, name) or PersonRow(name=name)
    row.roles, row.changed_at = " ".join(sorted(set(roles))), now
    session.add(row)
    person = _person(row)
    outbox.post_audit(
        session, event_id("person", name, now.isoformat()), by, "people.put", target=name, why=named(person.roles), now=now
    )
    return person


def drop(session: Session, name: str, by: str, now: datetime) -> None:
    """Let `name` act no longer. Raises BadInput if nobody is called so."""
    row = session.get(PersonRow, name)
    if row is None:
        raise BadInput(f"nobody is called {name!r}; see `kerbwatch people list`")
    session.delete(row)
    outbox.post_audit(session, event_id("person", name, now.isoformat()), by, "people.drop", target=name, why="removed", now=now)


def _person(row: PersonRow) -> Person:
    return Person(row.name, tuple(Role(role) for role in row.roles.split()), row.changed_at)
