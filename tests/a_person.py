"""People as tests want them: with a key in the home and a phone that shows codes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from sqlalchemy import select
from sqlalchemy.orm import Session
from typer.testing import CliRunner, Result

from infra import totp
from infra.db import Sessions, reading
from infra.keys import make_people_key, make_person_key, person_key_file
from infra.people_tables import PersonRow
from infra.settings import Settings
from infra.tables import EffectRow
from responders.people import people
from responders.people.acts import public_of
from responders.people.roles import Role
from streams import codec
from streams.events import AuditEntry
from streams.topics import AUDIT


@dataclass
class Phone:
    """An authenticator app that gives each code once: the present one, then the next, which one step of drift allows."""

    secret: bytes
    given: list[int] = field(default_factory=list)

    def code(self, now: datetime | None = None) -> str:
        here = totp.step_of(now or datetime.now(UTC))
        last = self.given[-1] if self.given else 0
        step = max(here, last + 1)
        assert step <= here + 1, "two codes in half a minute are all there are; `rest` lets time pass"
        self.given.append(step)
        return totp.code_at(self.secret, step)

    def rest(self, session: Session, name: str) -> None:
        """As if a minute had passed."""
        session.get_one(PersonRow, name).totp_step = 0
        self.given.clear()


def newcomer(session: Session, settings: Settings, name: str, roles: Sequence[Role], now: datetime) -> Phone:
    """Somebody who can act: known, with a key file in the home and a second factor."""
    people.put(session, name, roles, "root", now)
    key = make_person_key(person_key_file(settings, name))
    people.give_key(session, name, public_of(key), "root", now)
    secret = totp.new_secret()
    people.enrol(session, name, secret, make_people_key(settings), step=0, now=now)
    return Phone(secret)


def refusals(sessions: Sessions) -> list[AuditEntry]:
    """Every audit entry that tells of something refused, in order."""
    with reading(sessions) as session:
        bodies = session.scalars(select(EffectRow.payload).where(EffectRow.topic == AUDIT.name).order_by(EffectRow.number)).all()
    entries = [codec.decode(body, AUDIT, AuditEntry).event for body in bodies]
    return [entry for entry in entries if entry.action.endswith((".refuse", ".refused"))]


Command = Callable[..., Result]


def quarantine_command(
    app: typer.Typer, settings: Settings, phones: Mapping[str, Phone], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> Command:
    """`kerbwatch quarantine ...` by a person, with a code from their phone if `coded`; our own errors are raised."""
    monkeypatch.setenv("KERBWATCH_HOME", str(settings.home))
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.chdir(folder)
    if settings.database_url is not None:
        monkeypatch.setenv("KERBWATCH_DATABASE_URL", settings.database_url.reveal())

    def run(*words: str, actor: str = "", coded: bool = True) -> Result:
        more = ["--actor", actor] if actor else []
        more += ["--code", phones[actor].code()] if actor and coded else []
        result = CliRunner().invoke(app, ["quarantine", *words, *more])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run
