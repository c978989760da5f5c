"""Who sits at the command line: their name, their key file and their code, and every act signed with them.

It decides nothing; it refuses to sign with a key that others may read (`infra.keys`). Whatever refuses what somebody wants - here,
at the desk, by the gate, by an incident or a rollout - is on record, once. No topic feeds it: commands do.

Source: paper 4.5.5 (authentication, multi-factor), SC-10.
"""

import getpass
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from infra.db import Sessions, writing
from infra.keys import make_people_key, make_person_key, people_key, person_key_file, read_person_key
from infra.settings import Settings, read_settings
from responders.console.tables import opened
from responders.people import desk, people
from responders.people.access import RULES, Deed
from responders.people.acts import Statement, public_of, sign
from responders.people.desk import Admitted, Desk
from streams.errors import BadInput, KerbwatchError, Tampered

Actor = Annotated[str | None, typer.Option(help="Who acts; KERBWATCH_PERSON or the system's user if not given.")]
Code = Annotated[str | None, typer.Option(help="The six digits of your second factor, where one is needed.")]


@dataclass
class Login:
    """Somebody at a terminal, before anything is known of them. `code` may be asked for later."""

    settings: Settings
    sessions: Sessions
    name: str
    code: str | None = None
    _wanted: tuple[Deed, str] | None = field(default=None, init=False)

    @property
    def key_file(self) -> Path:
        """Where their private key should lie."""
        return self.settings.key_file or person_key_file(self.settings, self.name)

    def wants(self, deed: Deed, target: str) -> None:
        """Say what they are about to do, where it may be refused before it is signed; `does` says it as well."""
        self._wanted = deed, target

    def settled(self) -> None:
        """What they wanted is done: what fails later is no refusal of theirs."""
        self._wanted = None

    def refused(self, error: KerbwatchError) -> None:
        """Put on record that what they wanted was refused, unless it is; before anything was wanted there is nothing to record."""
        if self._wanted is None or error.on_record:
            return
        deed, target = self._wanted
        with writing(self.sessions) as session:
            desk.refuse(session, self.name, deed, target, why=str(error), now=datetime.now(UTC))
        error.on_record = True

    def does(self, deed: Deed, target: str, comment: str, *details: tuple[str, str], code: str | None = None) -> Admitted:
        """Sign an act and give it to the desk. Raises KerbwatchError in plain words if it is not taken in; that is on record."""
        self.wants(deed, target)
        now = datetime.now(UTC)
        try:
            key = read_person_key(self.key_file)
        except KerbwatchError as error:
            self.refused(error)
            raise
        code = code or self.code
        if code is None and RULES[deed].code and sys.stdin.isatty():
            code = asked_for_code()
        said = Statement(actor=self.name, deed=deed, target=target, comment=comment, time=now, details=details)
        return Desk(self.sessions, partial(people_key, self.settings)).admit(sign(key, said), code, datetime.now(UTC))


def asked_for_code(what: str = "second factor, six digits") -> str:
    """What the person types; the question goes to stderr."""
    return str(typer.prompt(what, err=True)).strip()


@contextmanager
def logged_in(actor: str | None, code: str | None = None) -> Iterator[Login]:
    """A login with the environment's settings, its database closed afterwards; a refusal in between is put on record."""
    settings = read_settings()
    with opened(settings) as sessions:
        login = Login(settings, sessions, actor or settings.person or system_user(), code)
        try:
            yield login
        except (BadInput, Tampered) as error:  # what is unavailable is no refusal: it may be given again
            login.refused(error)
            raise


def first_operator(settings: Settings, now: datetime) -> str:
    """Make the system's user the first operator of a home in which nobody holds a key; their name, "" where somebody does.

    The key lies in `keys/people`, where it stays when the database is made anew. What second factors are sealed with is made here,
    too, before there are any, and nowhere else.
    """
    name = settings.person or system_user()
    path = settings.key_file or person_key_file(settings, name)
    with opened(settings) as sessions, writing(sessions) as session:
        if not people.somebody_enrolled(session):
            make_people_key(settings)
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
