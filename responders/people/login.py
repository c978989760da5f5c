"""Who sits at the command line: their name, their key file and their code, and every act signed with them.

It decides nothing; it refuses to sign with a key that others may read (`infra.keys`). Who has no key here is refused, and
that is on record too. No topic feeds it: commands do.

Source: paper 4.5.5 (authentication, multi-factor), SC-10.
"""

import getpass
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from infra.db import Sessions, writing
from infra.keys import make_person_key, people_key, person_key_file, read_person_key
from infra.settings import Settings, read_settings
from responders.console.tables import opened
from responders.people import desk, people
from responders.people.access import RULES, Deed
from responders.people.acts import Statement, public_of, sign
from responders.people.desk import Admitted, Desk
from streams.errors import KerbwatchError

Actor = Annotated[str | None, typer.Option(help="Who acts; KERBWATCH_PERSON or the system's user if not given.")]
Code = Annotated[str | None, typer.Option(help="The six digits of your second factor, where one is needed.")]


@dataclass(frozen=True)
class Login:
    """Somebody at a terminal, before anything is known of them. `code` may be asked for later."""

    settings: Settings
    sessions: Sessions
    name: str
    code: str | None = None

    @property
    def key_file(self) -> Path:
        """Where their private key should lie."""
        return self.settings.key_file or person_key_file(self.settings, self.name)

    def does(self, deed: Deed, target: str, comment: str, *details: tuple[str, str], code: str | None = None) -> Admitted:
        """Sign an act and give it to the desk. Raises KerbwatchError in plain words if it is not taken in; that is on record."""
        now = datetime.now(UTC)
        try:
            key = read_person_key(self.key_file)
        except KerbwatchError as error:
            with writing(self.sessions) as session:
                desk.refuse(session, self.name, deed, target, why=str(error), now=now)
            raise
        code = code or self.code
        if code is None and RULES[deed].code and sys.stdin.isatty():
            code = asked_for_code()
        said = Statement(actor=self.name, deed=deed, target=target, comment=comment, time=now, details=details)
        return Desk(self.sessions, people_key(self.settings)).admit(sign(key, said), code, datetime.now(UTC))


def asked_for_code(what: str = "second factor, six digits") -> str:
    """What the person types; the question goes to stderr."""
    return str(typer.prompt(what, err=True)).strip()


@contextmanager
def logged_in(actor: str | None, code: str | None = None) -> Iterator[Login]:
    """A login with the environment's settings, its database closed afterwards."""
    settings = read_settings()
    with opened(settings) as sessions:
        yield Login(settings, sessions, actor or settings.person or system_user(), code)


def first_operator(settings: Settings, now: datetime) -> str:
    """Make the system's user the first operator of a home in which nobody holds a key; their name, "" where somebody does.

    The key lies in `keys/people`, where it stays when the database is made anew.
    """
    name = settings.person or system_user()
    path = settings.key_file or person_key_file(settings, name)
    with opened(settings) as sessions, writing(sessions) as session:
        if people.somebody_signs(session):
            return ""
        key = read_person_key(path) if path.is_file() else make_person_key(path)
        people.begin(session, name, public_of(key), now)
    return name


def system_user() -> str:
    """The operating system's user, as a name of ours."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
        user = "operator"
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]", "-", user).lstrip("-") or "operator"
