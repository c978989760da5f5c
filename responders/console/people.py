"""`kerbwatch people`: who may act and how they prove that it is them.

It decides how people and roles are shown, and in which order a key, its file and its row change so that a crash leaves a key that
works. Who may do what is decided in `access.py`. No topic feeds it.

Source: paper table 1, 4.5.5 (access control, authentication), SC-10.
"""

import base64
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from sqlalchemy.orm import Session

from infra import totp
from infra.db import reading, writing
from infra.keys import people_key, person_key_file, read_person_key, replace_person_key
from infra.settings import read_settings
from responders.console.tables import AsJson, Comment, complete_person, opened, plain, print_json, table, utc
from responders.people import desk, people
from responders.people.access import RULES, Deed
from responders.people.acts import key_id, public_of
from responders.people.login import Actor, Code, asked_for_code, logged_in, system_user
from responders.people.roles import Role, named
from streams.errors import BadInput, KerbwatchError, Tampered

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Who may act: people, roles, keys, second factors.")

Name = Annotated[str, typer.Argument(help="Who: letters, digits, '.', '_', '-'.")]
Known = Annotated[str, typer.Argument(help="Who: the name that `list` shows.", autocompletion=complete_person)]
_TRIES = 3


@app.command("add")
def add_person(  # noqa: PLR0917 - typer makes options of them
    name: Name,
    role: Annotated[list[Role], typer.Option(help="R1 to R8; several times for several roles.")],
    key_file: Annotated[Path | None, typer.Option(help="Where their key goes; keys/people/NAME.key in the home otherwise.")] = None,
    actor: Actor = None,
    code: Code = None,
    as_json: AsJson = False,
) -> None:
    """Let somebody act in these roles and no others, with a key. Example: kerbwatch people add data-scientist --role R3.

    Give them the file; they take a key that nobody else has seen with `kerbwatch people rotate-key`, and set up their second factor
    with `kerbwatch people enrol`. Somebody who has a key keeps it, and only the roles change.
    """
    with logged_in(actor, code) as login:
        people.require_name(name)
        made = key_file or person_key_file(login.settings, name)
        with reading(login.sessions) as session:
            keeps = people.key_of(session, name) is not None
            if not keeps:
                _require_free(session, made, name)  # before a code is used up
        told = ("roles", " ".join(sorted(set(role))))
        admitted = login.does(Deed.ADD_PERSON, name, f"acts as {named(sorted(set(role)))}", told)
        by, now = admitted.statement.actor, datetime.now(UTC)
        with nullcontext(b"") if keeps else _new_key(made) as public, writing(login.sessions) as session:
            person = people.put(session, name, role, by, now)
            if public:
                people.give_key(session, name, public, by, now)
    if as_json:
        print_json({"name": name, "roles": person.roles, "key_file": None if keeps else str(made)})
        return
    typer.echo(f"{plain(name)} acts as {named(person.roles)}")
    if not keeps:
        typer.echo(f"their key is in {made} (mode 0600): give it to them, nobody else may have it", err=True)


def _require_free(session: Session, path: Path, name: str) -> None:
    """Returns if a new key for `name` may lie there: nothing does, or one that they have, or had. Raises BadInput else."""
    if not path.exists():
        return
    with suppress(KerbwatchError):
        if people.signed_by(session, public_of(read_person_key(path))) == name:
            return
    raise BadInput(f"there is a file at {path} already, and no key of {name}'s: name another with --key-file, or move it away")


@contextmanager
def _new_key(path: Path) -> Iterator[bytes]:
    """The public half of a new key, whose file takes its place at the end.

    The block changes the row: after a crash the key that counts is in one of the two files.
    """
    beside = path.with_suffix(".next")
    public = public_of(replace_person_key(beside))
    try:
        yield public
    except BadInput:  # nothing was written
        beside.unlink()
        raise
    beside.replace(path)


@app.command("remove")
def remove_person(name: Known, actor: Actor = None, code: Code = None) -> None:
    """Let somebody act no longer; what they did stays on record. Example: kerbwatch people remove data-scientist."""
    with logged_in(actor, code) as login:
        admitted = login.does(Deed.REMOVE_PERSON, name, "removed")
        with writing(login.sessions) as session:
            people.drop(session, name, admitted.statement.actor, datetime.now(UTC))
    typer.echo(f"{plain(name)} may act no longer")


@app.command("list")
def list_people(as_json: AsJson = False) -> None:
    """List who may act in which roles. Example: kerbwatch people list."""
    with opened(read_settings()) as sessions, reading(sessions) as session:
        everybody, last = people.listed(session), people.last_who_can_add(session)
    if as_json:
        print_json(everybody)
        return
    if not everybody:
        typer.echo("nobody yet: `kerbwatch up` makes you the first operator, who brings in the others with `kerbwatch people add`")
        return
    shown = table("name", "roles", "key", "second factor", "since (UTC)")
    for person in everybody:
        factor = "yes" if person.second_factor else "[yellow]no[/]"
        shown.add_row(plain(person.name), named(person.roles), person.key_id[:12] or "none", factor, utc(person.changed_at))
    Console().print(shown)
    if last:
        typer.echo(
            f"only {plain(last)} may add people: without their phone or key the home's owner alone can help "
            "(`kerbwatch people recover`); bring in a second person with R8",
            err=True,
        )


@app.command("roles")
def show_roles(as_json: AsJson = False) -> None:
    """Show what each role may do, and what needs two people or a code. Example: kerbwatch people roles."""
    if as_json:
        print_json(
            [
                {"deed": deed, "what": rule.what, "roles": rule.roles, "two_people": rule.together, "code": rule.code}
                for deed, rule in RULES.items()
            ]
        )
        return
    shown = table("deed", *(role.value for role in Role), "code", "what")
    for deed, rule in RULES.items():
        marks = ("[bold]2[/]" if role in rule.together else "x" if role in rule.roles else "" for role in Role)
        shown.add_row(deed.value, *marks, "yes" if rule.code else "", rule.what)
    console = Console()
    console.print(shown)
    console.print("x: may do it alone; 2: two different people must, one of each of these roles; code: with the second factor")
    console.print(named(tuple(Role), between=", "))


@app.command()
def whoami(actor: Actor = None, as_json: AsJson = False) -> None:
    """Say who you are here, where your key lies and what you may do. Example: kerbwatch people whoami."""
    with logged_in(actor) as login, reading(login.sessions) as session:
        person = next((one for one in people.listed(session) if one.name == login.name), None)
        key_file = login.key_file
    may = [] if person is None else [deed for deed, rule in RULES.items() if set(rule.roles) & set(person.roles)]
    if as_json:
        print_json({"name": login.name, "person": person, "key_file": str(key_file), "may": may})
    elif person is None:
        typer.echo(f"{plain(login.name)} is not known here; somebody with {named(RULES[Deed.ADD_PERSON].roles)} can add you")
    else:
        there = "" if key_file.is_file() else ", which is not there"
        typer.echo(f"{plain(person.name)} acts as {named(person.roles)}; key {key_file}{there}")
        typer.echo(f"second factor: {'set up' if person.second_factor else 'none yet: `kerbwatch people enrol`'}")
        alone = ", ".join(deed for deed in may if not RULES[deed].together)
        together = ", ".join(deed for deed in may if RULES[deed].together)
        typer.echo(f"may: {alone}")
        typer.echo(f"may with another person: {together or 'nothing'}")


@app.command()
def enrol(actor: Actor = None, code: Code = None, as_json: AsJson = False) -> None:
    """Set up your second factor: the secret is shown once, for your authenticator app. Example: kerbwatch people enrol.

    Where you have one already, a code of the old one is needed. Lost it? Somebody with role R8 removes you and adds you again.
    """
    with logged_in(actor, code) as login:
        sealing_key = people_key(login.settings)
        with reading(login.sessions) as session:
            people.require_sealing_key(session, sealing_key)
            had = next((one.second_factor for one in people.listed(session) if one.name == login.name), False)
        asks = sys.stdin.isatty() and not as_json
        old = asked_for_code("a code of your present second factor") if had and code is None and asks else code
        login.does(Deed.ENROL, login.name, "sets up a second factor", code=old)
        secret, step = totp.new_secret(), 0
        uri = totp.uri(secret, login.name)
        if as_json:
            print_json({"uri": uri, "secret": base64.b32encode(secret).decode()})
        else:
            typer.echo(
                f"{uri}\nsecret {base64.b32encode(secret).decode()}: give either to your authenticator app; it is not shown again"
            )
        if asks:
            step = _confirmed(secret)
        with writing(login.sessions) as session:
            people.enrol(session, login.name, secret, sealing_key, step=step, now=datetime.now(UTC))
    typer.echo("your second factor is set up", err=True)


def _confirmed(secret: bytes) -> int:
    """The step of a code that the person's app shows. Raises BadInput after three wrong ones; nothing has changed then."""
    for _ in range(_TRIES):
        step = totp.matched(secret, asked_for_code("the code that your app shows now"), datetime.now(UTC), after=0)
        if step is not None:
            return step
        typer.echo("that is not it", err=True)
    raise BadInput("no right code came: nothing was changed; see that the clocks of machine and phone are right, and enrol again")


@app.command("rotate-key")
def rotate_key(actor: Actor = None, code: Code = None) -> None:
    """Take a new personal key; what the old one signed stays checkable. Example: kerbwatch people rotate-key."""
    with logged_in(actor, code) as login:
        path = login.key_file
        admitted = login.does(Deed.ROTATE_OWN_KEY, login.name, "takes a new key")
        with _new_key(path) as public, writing(login.sessions) as session:
            people.give_key(session, login.name, public, admitted.statement.actor, datetime.now(UTC))
    typer.echo(f"{plain(login.name)} signs with key {key_id(public)[:12]} from now on ({path})")


@app.command()
def recover(
    name: Known,
    comment: Comment,
    key_file: Annotated[Path | None, typer.Option(help="Where the key goes; keys/people/NAME.key in the home otherwise.")] = None,
) -> None:
    """Give somebody with role R8 who lost phone or key a new key, at home. Example: kerbwatch people recover root -m "phone lost".

    For whoever may read the home's keys/people.key and write to its database; no act is signed. Everybody with R8 is told, and the
    audit trail. They set up a second factor anew with `kerbwatch people enrol`. Anybody else is removed and added again.
    """
    people.require_name(name)
    settings = read_settings()
    sealing_key, path = people_key(settings), key_file or person_key_file(settings, name)
    if not comment.strip():
        raise BadInput("a comment that says why is missing (-m, --comment)")
    with opened(settings) as sessions:
        with reading(sessions) as session:
            people.require_sealing_key(session, sealing_key)
            _require_free(session, path, name)
        with _new_key(path) as public, writing(sessions) as session:
            why = f"{comment} (by the system's user {system_user()}, who can read the home's keys)"
            people.recover(session, name, public, why, datetime.now(UTC))
    typer.echo(f"{plain(name)} has a new key in {path}, and no second factor: next, `kerbwatch people enrol --actor {plain(name)}`")


@app.command()
def check(as_json: AsJson = False) -> None:
    """Check the signature of everything that people did; 1 if any does not hold. Example: kerbwatch people check."""
    with opened(read_settings()) as sessions, reading(sessions) as session:
        found = desk.check(session)
    if as_json:
        print_json({"acts": found.acts, "faults": found.faults})
    else:
        typer.echo(f"{found.acts - len(found.faults)} of {found.acts} acts hold")
    if found.faults:
        raise Tampered(f"{'; '.join(found.faults[:5])}: keep the database as evidence and compare it with the audit trail")
