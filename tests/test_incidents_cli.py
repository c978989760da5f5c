"""The commands that a human at 3 a.m. types."""

import json
from collections.abc import Callable

import pytest
from a_person import newcomer
from click.testing import Result
from incident_events import NORMAL, SAFE, at, signal, status
from typer.testing import CliRunner

from infra.db import Sessions, reading, writing
from infra.settings import Settings
from infra.tables import EffectRow
from responders import playbooks
from responders.incidents_cli import app
from responders.quarantine_cli import app as quarantine_app
from responders.roles import Role
from responders.store import Store
from streams import codec
from streams.errors import BadInput
from streams.events import Context, Kind, ModelState, Phase
from streams.topics import MODEL_STATE

pytest_plugins = ["databases"]

Command = Callable[..., Result]


@pytest.fixture
def store(database: Settings, sessions: Sessions) -> Store:
    made = Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)
    made.assign(Context.URBAN, NORMAL, SAFE, at(0))
    made.accept(signal(Phase.RAISED, 10, 14), at(3))
    with writing(sessions) as session:
        for name in ("operator-1", "operator-2"):
            newcomer(session, database, name, [Role.SECMLOPS_ENGINEER], at(0))
    return made


@pytest.fixture
def command(database: Settings, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("KERBWATCH_HOME", str(database.home))
    monkeypatch.setenv("KERBWATCH_PERSON", "operator-1")
    monkeypatch.setenv("COLUMNS", "250")
    if database.database_url is not None:
        monkeypatch.setenv("KERBWATCH_DATABASE_URL", database.database_url.get_secret_value())

    def run(*words: str) -> Result:
        result = CliRunner().invoke(quarantine_app if words[0] == "quarantine" else app, list(words[words[0] == "quarantine" :]))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def only(command: Command) -> dict[str, object]:
    [incident] = json.loads(command("list", "--json").stdout)
    return dict(incident)


def test_a_list_says_what_is_wrong_in_utc(store: Store, command: Command) -> None:
    text = command("list").stdout
    assert "evasion" in text
    assert "containing" in text
    assert "2026-11-21 12:00:02" in text
    assert only(command)["detected_at"] == "2026-11-21T12:00:02.800000Z"
    assert command("list", "--open").stdout == text
    assert store.playbooks


def test_an_empty_list_says_so(sessions: Sessions, command: Command) -> None:
    assert "no incident" in command("list").stdout
    assert json.loads(command("list", "--json").stdout) == []
    assert sessions


def test_show_prints_clocks_playbook_timeline_and_effects(store: Store, command: Command) -> None:
    text = command("show", str(only(command)["id"])[:8]).stdout
    for part in ("impact start", "evasion v1", "AML.T0015", "await_safe_mode", "go to quarantine", "model-state", "0 frames"):
        assert part in text
    full = json.loads(command("show", str(only(command)["id"]), "--json").stdout)
    assert full["step"] == "await_safe_mode"
    assert [change["action"] for change in full["timeline"]] == ["open", "quarantine", "serve"]
    assert store.playbooks


def test_acknowledging_keeps_actor_and_comment(store: Store, command: Command) -> None:
    id_ = str(only(command)["id"])
    command("ack", id_, "--comment", "looking at it", "--actor", "operator-1")
    full = json.loads(command("show", id_, "--json").stdout)
    assert full["acknowledged_by"] == "operator-1"
    assert full["timeline"][-1]["what"] == "looking at it"
    assert {effect["topic"] for effect in full["effects"]} >= {"audit", "incidents"}
    assert store.playbooks


def test_the_actor_is_the_os_user_unless_named(store: Store, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERBWATCH_PERSON")
    monkeypatch.setattr("getpass.getuser", lambda: "operator-2")
    assert "operator-2" in command("note", str(only(command)["id"]), "-m", "sticker on the lens").stdout
    assert store.playbooks


def test_closing_undoes_safe_mode_first_and_says_so(store: Store, command: Command, sessions: Sessions) -> None:
    id_ = str(only(command)["id"])
    assert "every live worker" in command("close", id_, "--resolution", "false_alarm", "-m", "a bus").stdout
    assert only(command)["state"] == "recovering"
    with reading(sessions) as session:
        row = max(session.query(EffectRow).filter_by(topic="model-state"), key=lambda effect: effect.number)
    asked = codec.decode(row.payload, MODEL_STATE, ModelState).event
    store.accept(status("w1", 9, asked), at(9))
    after = only(command)
    assert (after["state"], after["resolution"]) == ("closed", "false_alarm")
    with pytest.raises(BadInput, match="notes only"):
        command("ack", id_, "-m", "late")
    command("note", id_, "-m", "it was a bus")


def test_an_act_without_a_comment_is_refused(store: Store, command: Command) -> None:
    id_ = str(only(command)["id"])
    assert command("ack", id_).exit_code == 2
    with pytest.raises(BadInput, match="--comment"):
        command("ack", id_, "-m", " ")
    with pytest.raises(BadInput, match="proves by itself"):
        command("close", id_, "-m", "fine", "--resolution", "recovered")
    assert store.playbooks


def test_a_bad_id_brings_a_suggestion(store: Store, command: Command) -> None:
    id_ = str(only(command)["id"])
    wrong = id_[:9] + ("0" if id_[9] != "0" else "1") + id_[10:]
    with pytest.raises(BadInput, match=f"did you mean {id_}"):
        command("show", wrong)
    with pytest.raises(BadInput, match="incidents list"):
        command("show", "%")
    store.accept(signal(Phase.RAISED, 1, 2, kind=Kind.DRIFT), at(4))
    with pytest.raises(BadInput, match="no incident ''"):
        command("show", "")


def test_words_of_others_have_no_power_over_the_terminal(store: Store, command: Command) -> None:
    id_ = str(only(command)["id"])
    command("note", id_, "-m", "[bold]x[/] \x1b[2J[/nonsense]")
    text = command("show", id_).stdout
    assert "[bold]x[/]" in text
    assert "\x1b[2J" not in text
    assert store.playbooks


def test_quarantine_can_be_listed(store: Store, command: Command) -> None:
    assert "0 frames" in command("quarantine", "list").stdout
    assert json.loads(command("quarantine", "list", "--json").stdout) == {"total": 0, "frames": []}
    assert store.playbooks


def test_help_shows_an_example(command: Command) -> None:
    for name in ("list", "show", "ack", "note", "close"):
        assert "Example: kerbwatch incidents" in " ".join(command(name, "--help").stdout.split())
