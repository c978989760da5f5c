"""`kerbwatch people` and `kerbwatch keys rotate` as people type them."""

import base64
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from a_person import Phone
from click.testing import Result
from msgspec.structs import replace
from sqlalchemy import select
from typer.testing import CliRunner

from infra import totp
from infra.db import Sessions, reading, writing
from infra.keys import make_people_key, person_key_file, quarantine_key, read_person_key
from infra.settings import Settings
from infra.tables import EffectRow, NoticeRow
from responders.people.acts import key_id, public_of
from responders.people.login import first_operator
from streams import codec
from streams.command_line import app
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import AuditEntry
from streams.topics import AUDIT

pytest_plugins = ["databases"]

Command = Callable[..., Result]


@pytest.fixture
def here(database: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    settings = replace(database, person="operator-1")
    assert first_operator(settings, datetime.now(UTC)) == "operator-1"
    monkeypatch.setenv("KERBWATCH_HOME", str(settings.home))
    monkeypatch.setenv("KERBWATCH_PERSON", "operator-1")
    monkeypatch.setenv("COLUMNS", "250")
    if settings.database_url is not None:
        monkeypatch.setenv("KERBWATCH_DATABASE_URL", settings.database_url.reveal())
    return settings


def command(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def enrolled(*words: str) -> Phone:
    told = json.loads(command("people", "enrol", "--json", *words).stdout)
    assert told["uri"].startswith("otpauth://totp/kerbwatch:")
    return Phone(base64.b32decode(told["secret"]))


def test_people_are_added_changed_listed_and_removed(here: Settings, sessions: Sessions) -> None:
    with pytest.raises(BadInput, match="people enrol"):
        command("people", "add", "lin", "--role", "R3", "--code", "123456")
    phone = enrolled()
    made = json.loads(command("people", "add", "lin", "--role", "R3", "--role", "R8", "--code", phone.code(), "--json").stdout)
    assert Path(made["key_file"]) == person_key_file(here, "lin")
    assert Path(made["key_file"]).stat().st_mode & 0o777 == 0o600
    lin = {person["name"]: person for person in json.loads(command("people", "list", "--json").stdout)}["lin"]
    assert (lin["roles"], lin["second_factor"]) == (["R3", "R8"], False)
    assert lin["key_id"] == key_id(public_of(read_person_key(person_key_file(here, "lin"))))

    changed = json.loads(command("people", "add", "lin", "--role", "R4", "--code", phone.code(), "--json").stdout)
    assert (changed["roles"], changed["key_file"]) == (["R4"], None)
    assert "R4 (data engineer)" in command("people", "list").stdout
    assert "may: note" in command("people", "whoami", "--actor", "lin").stdout
    assert "not known here" in command("people", "whoami", "--actor", "ben").stdout
    with writing(sessions) as session:
        phone.rest(session, "operator-1")
    command("people", "remove", "lin", "--code", phone.code())
    assert "lin" not in command("people", "list").stdout
    with pytest.raises(BadInput, match="people list"):
        command("people", "remove", "lin", "--code", phone.code())
    assert "5 of 5 acts hold" in command("people", "check").stdout


def test_a_second_factor_is_shown_once_and_a_new_one_needs_the_old(here: Settings) -> None:
    old = enrolled()
    with pytest.raises(BadInput, match="six digits"):
        enrolled()
    new = enrolled("--code", old.code())
    assert old.secret != new.secret
    shown = command("people", "whoami").stdout
    assert "second factor: set up" in shown
    for path in here.home.rglob("*"):
        if path.is_file():
            assert new.secret not in path.read_bytes()


def test_a_new_personal_key_takes_the_place_of_the_old(here: Settings) -> None:
    phone = enrolled()
    path = person_key_file(here, "operator-1")
    before = path.read_bytes()
    command("people", "rotate-key", "--code", phone.code())
    assert path.read_bytes() != before
    assert not list(path.parent.glob("*.next"))
    new = path.read_bytes()
    path.write_bytes(before)
    with pytest.raises(BadInput, match="not signed with their key"):
        command("people", "rotate-key", "--code", "000000")
    path.write_bytes(new)
    command("people", "rotate-key", "--code", phone.code())
    assert json.loads(command("people", "check", "--json").stdout) == {"acts": 3, "faults": []}


def test_keys_are_rotated_by_somebody_who_may_and_shows_a_code(here: Settings, sessions: Sessions) -> None:
    phone = enrolled()
    command("keys", "init", "--camera", "gate-1")
    sealing = quarantine_key(here)
    public = here.home / "keys" / "cameras" / "gate-1.pub"
    before = public.read_bytes()
    with pytest.raises(BadInput, match="six digits"):
        command("keys", "rotate", "--camera", "gate-1", "-m", "replaced")
    assert public.read_bytes() == before
    told = json.loads(command("keys", "rotate", "--camera", "gate-1", "-m", "replaced", "--code", phone.code(), "--json").stdout)
    assert told["certificates"] == []
    assert public.read_bytes() != before
    rotated = command("keys", "rotate", "-m", "yearly", "--code", phone.code())
    assert "kerbwatch up" in rotated.stderr
    assert quarantine_key(here) == sealing
    with reading(sessions) as session:
        bodies = session.scalars(select(EffectRow.payload).where(EffectRow.topic == "audit").order_by(EffectRow.number))
        entries = [codec.decode(body, AUDIT, AuditEntry).event for body in bodies]
    assert [(entry.action, entry.target) for entry in entries if "rotate-keys" in entry.why] == [
        ("people.refuse", "camera gate-1"),
        ("people.act", "camera gate-1"),
        ("people.act", "certificates"),
    ]


def test_the_table_of_roles_is_for_people_and_programs(here: Settings) -> None:
    text = command("people", "roles").stdout
    assert "R8 (SecMLOps engineer)" in text
    rows = {row["deed"]: row for row in json.loads(command("people", "roles", "--json").stdout)}
    assert rows["release"]["two_people"] == ["R4", "R8"]
    assert rows["close"] == {
        "deed": "close",
        "what": "close an incident",
        "roles": ["R6", "R7", "R8"],
        "two_people": [],
        "code": False,
    }
    assert here


def test_a_forged_act_is_told_with_its_name(here: Settings, sessions: Sessions) -> None:
    enrolled()
    with sessions.kw["bind"].begin() as connection:
        connection.exec_driver_sql("UPDATE acts SET target = 'somebody else'")
    with pytest.raises(Tampered, match="operator-1, enrol"):
        command("people", "check")
    assert here


def test_who_was_removed_is_added_again_over_the_key_file_they_left_and_no_other(here: Settings, sessions: Sessions) -> None:
    phone = enrolled()

    def people_command(*words: str) -> Result:
        with writing(sessions) as session:
            phone.rest(session, "operator-1")
        return command("people", *words, "--code", phone.code())

    people_command("add", "scientist-1", "--role", "R3")
    path = person_key_file(here, "scientist-1")
    lost = path.read_bytes()
    people_command("remove", "scientist-1")
    people_command("add", "scientist-1", "--role", "R3")
    assert path.read_bytes() != lost
    assert [file.name for file in path.parent.iterdir() if file.suffix == ".next"] == []
    command("people", "enrol", "--actor", "scientist-1")

    with writing(sessions) as session:
        phone.rest(session, "operator-1")
    code = phone.code()
    with pytest.raises(BadInput, match="no key of engineer-1's"):
        command("people", "add", "engineer-1", "--role", "R4", "--key-file", str(path), "--code", code)
    command("people", "add", "engineer-1", "--role", "R4", "--code", code)  # the refusal used up no code


def test_who_has_the_home_brings_its_last_operator_back_which_everybody_with_r8_is_told(here: Settings, sessions: Sessions) -> None:
    phone = enrolled()
    path = person_key_file(here, "operator-1")
    path.unlink()
    with pytest.raises(Unavailable, match="people recover"):
        command("people", "add", "scientist-1", "--role", "R8", "--code", phone.code())
    assert "only operator-1 may add people" in command("people", "list").stderr

    command("people", "recover", "operator-1", "-m", "laptop and phone are gone")
    with reading(sessions) as session:
        [notice] = [json.loads(row.body) for row in session.scalars(select(NoticeRow))]
        bodies = session.scalars(select(EffectRow.payload).where(EffectRow.topic == "audit").order_by(EffectRow.number))
        entries = [codec.decode(body, AUDIT, AuditEntry).event for body in bodies]
    assert (notice["role"], "operator-1 was given a new key" in notice["what"]) == ("R8", True)
    [entry] = [entry for entry in entries if entry.action == "people.recover"]
    assert (entry.actor, entry.target, "laptop and phone are gone" in entry.why) == ("recovery", "operator-1", True)

    new = enrolled()  # no code of the lost phone is asked for
    assert new.secret != phone.secret
    command("people", "add", "scientist-1", "--role", "R8", "--code", new.code())
    assert "may add people" not in command("people", "list").stderr
    with writing(sessions) as session:
        new.rest(session, "operator-1")
    command("people", "add", "engineer-1", "--role", "R3", "--code", new.code())
    with pytest.raises(BadInput, match=r"R8 .* removes them and adds them again"):
        command("people", "recover", "engineer-1", "-m", "no phone")
    assert json.loads(command("people", "check", "--json").stdout)["faults"] == []


def test_without_the_key_that_factors_are_sealed_with_nothing_is_set_up_or_recovered(
    here: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another machine: the same database, the person's own key, and no `keys/people.key`."""
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv("KERBWATCH_DATABASE_URL", here.database)
    monkeypatch.setenv("KERBWATCH_KEY_FILE", str(person_key_file(here, "operator-1")))
    monkeypatch.setenv("KERBWATCH_HOME", str(elsewhere))
    for words in (["enrol"], ["recover", "operator-1", "-m", "lost"]):
        with pytest.raises(Unavailable, match=r"people\.key .*copy it from the home"):
            command("people", *words)
    monkeypatch.setenv("KERBWATCH_HOME", str(here.home))
    phone = enrolled()

    monkeypatch.setenv("KERBWATCH_HOME", str(elsewhere))
    code = phone.code()
    with pytest.raises(Unavailable, match=r"people\.key .*copy it from the home"):
        command("people", "add", "scientist-1", "--role", "R3", "--code", code)
    make_people_key(Settings(home=elsewhere))
    for words in (["enrol", "--code", code], ["recover", "operator-1", "-m", "lost"]):
        with pytest.raises(Unavailable, match="opens no second factor on record"):
            command("people", *words)
    shutil.copy(here.home / "keys" / "people.key", elsewhere / "keys" / "people.key")
    command("people", "add", "scientist-1", "--role", "R3", "--code", code)  # it was not used up


def test_setting_a_home_up_makes_no_second_key_for_factors_that_there_are(here: Settings) -> None:
    enrolled()
    path = here.home / "keys" / "people.key"
    path.unlink()
    first_operator(here, datetime.now(UTC))
    assert not path.exists()


def test_a_code_brings_in_one_person_and_no_second(here: Settings) -> None:
    phone = enrolled()
    code = totp.code_at(phone.secret, totp.step_of(datetime.now(UTC)))
    command("people", "add", "lin", "--role", "R3", "--code", code)
    with pytest.raises(BadInput, match="wrong or was used"):
        command("people", "add", "ben", "--role", "R8", "--code", code)
    assert here
