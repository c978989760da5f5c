"""The commands that a human at 3 a.m. types."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from a_person import Phone, newcomer, refusals
from incident_events import NORMAL, SAFE, act, at, signal, status
from sqlalchemy import select
from typer.testing import CliRunner, Result

from infra.db import Sessions, reading, writing
from infra.keys import person_key_file, replace_person_key
from infra.people_tables import ActRow
from infra.settings import Settings
from infra.tables import EffectRow, TimelineRow
from responders.console.incidents import app
from responders.console.tables import complete_incident, complete_person
from responders.console.watch import follow
from responders.engine.incident import Verb
from responders.engine.store import Store
from responders.people import desk, people
from responders.people.acts import Signed, public_of
from responders.people.roles import Role
from responders.playbooks import playbooks
from streams import codec
from streams.command_line import app as everything
from streams.console.quarantine import app as quarantine_app
from streams.errors import BadInput, Unavailable
from streams.events import AuditEntry, Context, Kind, ModelState, Phase
from streams.topics import AUDIT, MODEL_STATE

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
        monkeypatch.setenv("KERBWATCH_DATABASE_URL", database.database_url.reveal())

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
    playbook = f"evasion v{store.playbooks[Kind.EVASION].version}"
    for part in ("impact start", playbook, "AML.T0015", "await_safe_mode", "go to quarantine", "model-state", "0 frames"):
        assert part in text
    full = json.loads(command("show", str(only(command)["id"]), "--json").stdout)
    assert full["step"] == "await_safe_mode"
    assert [change["action"] for change in full["timeline"]] == ["open", "quarantine", "serve", "page"]
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
    assert json.loads(command("quarantine", "list", "--json").stdout) == {
        "total": 0,
        "frames": [],
        "samples_total": 0,
        "samples": [],
    }
    assert store.playbooks


def test_help_shows_an_example(command: Command) -> None:
    for name in ("list", "show", "ack", "note", "close"):
        assert "Example: kerbwatch incidents" in " ".join(command(name, "--help").stdout.split())


# -- who may, and what else people say -------------------------------------------------------------------------------


@pytest.fixture
def phones(database: Settings, sessions: Sessions) -> dict[str, Phone]:
    people = (("data-1", Role.DATA_ENGINEER), ("security-1", Role.SECMLOPS_ENGINEER), ("architect-1", Role.SOLUTION_ARCHITECT))
    with writing(sessions) as session:
        return {name: newcomer(session, database, name, [role], at(0)) for name, role in people}


def test_who_may_not_close_may_still_take_note_and_both_are_on_record(
    store: Store, command: Command, phones: dict[str, Phone], sessions: Sessions
) -> None:
    id_ = str(only(command)["id"])
    with pytest.raises(BadInput, match="may not close: has R2"):
        command("close", id_, "-m", "nothing", "--actor", "architect-1")
    with pytest.raises(Unavailable, match="no key"):
        command("note", id_, "-m", "hello", "--actor", "stranger-1")
    command("note", id_, "-m", "designed so", "--actor", "architect-1")
    assert only(command)["state"] == "containing"
    full = json.loads(command("show", id_, "--json").stdout)
    with reading(sessions) as session:
        acts = {row.id: row for row in session.query(ActRow)}
        audit = [codec.decode(row.payload, AUDIT, AuditEntry).event for row in session.query(EffectRow).filter_by(topic="audit")]
    assert acts[full["timeline"][-1]["cause_id"]].actor == "architect-1", "the timeline points to the signed act"
    assert [(entry.actor, entry.target) for entry in audit if entry.action == "people.refuse"] == [
        ("architect-1", id_),
        ("stranger-1", id_),
    ]
    assert phones
    assert store.playbooks


def test_what_nobody_signed_is_found(store: Store, command: Command, sessions: Sessions) -> None:
    id_ = str(only(command)["id"])
    command("note", id_, "-m", "looked")
    with reading(sessions) as session:
        assert desk.check(session) == desk.Checked(1, ())
    store.accept(act(Verb.ACKNOWLEDGE, id_, 9), at(9))  # past the desk
    with reading(sessions) as session:
        assert desk.check(session).faults == (f"incident {id_[:8]}: acknowledge by operator-1 was signed by nobody",)


def test_an_incident_is_assigned_to_somebody_who_exists(store: Store, command: Command, phones: dict[str, Phone]) -> None:
    id_ = str(only(command)["id"])
    with pytest.raises(BadInput, match="did you mean security-1"):
        command("assign", id_, "--to", "securty-1", "-m", "yours")
    command("assign", id_, "--to", "security-1", "-m", "yours")
    assert "to security-1: yours" in command("show", id_).stdout
    assert phones
    assert store.playbooks


def test_a_snooze_has_an_end(store: Store, command: Command) -> None:
    id_ = str(only(command)["id"])
    command("snooze", id_, "--hours", "2", "-m", "parts are on the way")
    assert "until " in json.loads(command("show", id_, "--json").stdout)["timeline"][-1]["what"]
    assert command("snooze", id_, "--hours", "0", "-m", "x").exit_code == 2
    assert store.playbooks


def test_an_incident_becomes_what_it_really_is(store: Store, command: Command) -> None:
    id_ = str(only(command)["id"])
    command("reclassify", id_, "--kind", "camera", "-m", "the lens is cracked")
    assert only(command)["kind"] == "camera"
    with pytest.raises(BadInput, match="on record"):
        command("reclassify", id_, "--kind", "camera", "-m", "again")
    [second] = store.accept(signal(Phase.RAISED, 20, 21, kind=Kind.COMPROMISE, detector="answers"), at(5)).incident_ids
    with pytest.raises(BadInput, match="already"):
        command("reclassify", second, "--kind", "camera", "-m", "the same")
    assert [(entry.actor, entry.action, entry.target) for entry in refusals(store.sessions)] == [
        ("operator-1", "incident.refused", id_),
        ("operator-1", "people.refuse", second),
    ]


def test_a_step_is_approved_by_the_roles_it_names_each_with_a_code(
    store: Store, command: Command, phones: dict[str, Phone], sessions: Sessions
) -> None:
    id_ = store.accept(signal(Phase.RAISED, 20, 21, camera="cam2", kind=Kind.POISONING), at(5)).incident_ids[0]

    def step() -> str:
        return str(json.loads(command("show", id_, "--json").stdout)["step"])

    assert step() == "review"
    with pytest.raises(BadInput, match="six digits"):
        command("approve", id_, "-m", "looked", "--actor", "data-1")
    with pytest.raises(BadInput, match="asks for R4"):
        command("approve", id_, "-m", "looked", "--actor", "architect-1", "--code", phones["architect-1"].code())
    command("approve", id_, "-m", "looked", "--actor", "data-1", "--code", phones["data-1"].code())
    with pytest.raises(BadInput, match="approved it already"):
        command("approve", id_, "-m", "looked", "--actor", "data-1", "--code", phones["data-1"].code())
    assert step() == "review"
    command("approve", id_, "-m", "looked", "--actor", "security-1", "--code", phones["security-1"].code())
    assert step() != "review"
    with writing(sessions) as session:
        phones["security-1"].rest(session, "security-1")
    command("reject", id_, "-m", "nothing to trace", "--actor", "security-1", "--code", phones["security-1"].code())


@pytest.mark.parametrize("verb", ["approve", "reject"])
@pytest.mark.parametrize("step", [(), ("--step", "safe_mode")], ids=["no step", "step"])
def test_an_answer_that_nobody_asks_for_is_refused_on_record_and_a_mistyped_id_brings_the_nearest(
    store: Store, command: Command, phones: dict[str, Phone], verb: str, step: tuple[str, ...]
) -> None:
    id_ = str(only(command)["id"])
    wrong = id_[:5] + ("0" if id_[5] != "0" else "1")

    def answer(incident: str) -> None:
        command(verb, incident, "-m", "looked", "--actor", "security-1", "--code", phones["security-1"].code(), *step)

    with pytest.raises(BadInput, match=rf"no incident '{wrong}'; did you mean {id_}"):
        answer(wrong)
    with pytest.raises(BadInput, match=r"asks for nobody's approval\. This is on record"):
        answer(id_)
    assert [(entry.actor, entry.action, entry.target) for entry in refusals(store.sessions)] == [
        ("security-1", "incident.refused", id_)
    ]


def test_who_has_lost_the_role_since_has_approved_nothing(
    store: Store, command: Command, phones: dict[str, Phone], sessions: Sessions
) -> None:
    id_ = store.accept(signal(Phase.RAISED, 20, 21, camera="cam2", kind=Kind.POISONING), at(5)).incident_ids[0]
    command("approve", id_, "-m", "looked", "--actor", "data-1", "--code", phones["data-1"].code())
    with writing(sessions) as session:
        people.put(session, "data-1", [Role.SOFTWARE_ENGINEER], "root", at(6))
    command("approve", id_, "-m", "looked", "--actor", "security-1", "--code", phones["security-1"].code())
    shown = json.loads(command("show", id_, "--json").stdout)
    assert (shown["step"], shown["asks"]) == ("review", ["R4"])
    assert "what data-1 said counts no more" in shown["timeline"][-1]["what"]


def test_what_was_approved_with_a_key_that_is_theirs_no_more_is_asked_for_again(
    store: Store, command: Command, phones: dict[str, Phone], sessions: Sessions, database: Settings
) -> None:
    id_ = store.accept(signal(Phase.RAISED, 20, 21, camera="cam2", kind=Kind.POISONING), at(5)).incident_ids[0]

    def approve(name: str) -> dict[str, Any]:
        with writing(sessions) as session:
            phones[name].rest(session, name)
        command("approve", id_, "-m", "looked", "--actor", name, "--code", phones[name].code())
        shown: dict[str, Any] = json.loads(command("show", id_, "--json").stdout)
        return shown

    approve("data-1")
    with writing(sessions) as session:  # the key was stolen: they were removed and added again
        public = public_of(replace_person_key(person_key_file(database, "data-1")))
        people.give_key(session, "data-1", public, "root", datetime.now(UTC))
    shown = approve("security-1")
    assert (shown["step"], shown["asks"]) == ("review", ["R4"])
    assert "what data-1 said counts no more" in shown["timeline"][-1]["what"]
    assert approve("data-1")["step"] != "review"


def test_an_approval_shows_and_signs_its_step_and_counts_for_no_other(
    store: Store, command: Command, phones: dict[str, Phone], sessions: Sessions
) -> None:
    id_ = store.accept(signal(Phase.RAISED, 20, 21, camera="cam2", kind=Kind.POISONING), at(5)).incident_ids[0]

    def approve(name: str, *more: str) -> Result:
        with writing(sessions) as session:
            phones[name].rest(session, name)
        return command("approve", id_, "-m", "looked", "--actor", name, "--code", phones[name].code(), *more)

    assert "approve step review, asked for of R4 (data engineer) and R8" in approve("data-1").stderr
    said = approve("security-1", "--step", "review", "--json")
    assert "asked for of R8 (SecMLOps engineer): Look at what was held back" in said.stderr
    assert json.loads(said.stdout)["id"] == id_
    with pytest.raises(BadInput, match=r"was for step review, .* asked for now: step trace_models, by R3 .* This is on record"):
        approve("security-1", "--step", "review")
    with reading(sessions) as session:
        acts = session.scalars(select(ActRow).order_by(ActRow.number)).all()
        signed = [dict(Signed(row.body, row.signature).statement().details) for row in acts]
        assert desk.check(session) == desk.Checked(3, ())
    assert [one["step"] for one in signed] == ["review"] * 3
    assert signed[0] == signed[1] != signed[2]
    with writing(sessions) as session:  # somebody makes the timeline say another step
        line = session.scalars(select(TimelineRow).where(TimelineRow.cause_id == acts[0].id)).one()
        line.what = line.what.replace("review", "trace_models")
    with reading(sessions) as session:
        [fault] = desk.check(session).faults
    assert "data-1 signed for step review, and it says 'trace_models: looked" in fault


def test_watching_shows_each_change_once_as_it_comes(store: Store, command: Command, sessions: Sessions) -> None:
    id_ = str(only(command)["id"])
    comments = ["first", "second", "third"]

    def pause() -> bool:
        if not comments:
            return False
        command("note", id_, "-m", comments.pop(0))
        return True

    lines = list(follow(sessions, None, pause))
    assert [(line.incident_id, line.actor, line.what) for line in lines] == [
        (id_, "operator-1", what) for what in ("first", "second", "third")
    ]
    comments += ["elsewhere"]
    assert list(follow(sessions, "f" * 32, pause)) == []
    assert store.playbooks


def test_the_shell_completes_ids_from_the_database(store: Store, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    id_ = str(only(command)["id"])
    assert complete_incident(id_[:3]) == [(id_, "evasion on cam1, containing")]
    assert complete_incident("zzz") == []

    def completed(*words: str) -> list[str]:
        typed = {"COMP_WORDS": f"kerbwatch {' '.join(words)}", "COMP_CWORD": str(len(words))}
        asked = {"_KERBWATCH_COMPLETE": "complete_bash", **typed}
        return CliRunner().invoke(everything, prog_name="kerbwatch", env=asked).stdout.split()

    assert completed("incidents", "show", id_[:4]) == [id_]
    assert completed("incidents", "assign", id_, "--to", "op") == ["operator-1", "operator-2"]
    assert completed("people", "remove", "operator-2") == ["operator-2"]
    assert completed("schedule", "run", "ba") == ["backup"]
    monkeypatch.setenv("KERBWATCH_DATABASE_URL", "sqlite:////nowhere/at/all.db")
    assert complete_incident(id_[:3]) == []
    assert complete_person("operator") == []
    assert store.playbooks


def test_in_eighty_columns_nothing_but_a_cameras_name_is_broken(
    store: Store, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "a-camera-with-a-name-of-forty-characters"
    for _ in range(2):  # the second closes it at once
        command("close", str(only(command)["id"]), "-m", "a bus", "--resolution", "false_alarm")
    store.accept(signal(Phase.RAISED, 20, 21, camera=name, kind=Kind.COMPROMISE, detector="answers"), at(5))
    store.accept(status("w1", 59, None), at(59))
    for second in (60, 61, 90):  # the reports of the safe model are late
        store.tick(at(second))
    text = command("list").stdout
    rows = json.loads(command("list", "--json").stdout)
    assert [bool(row["escalated"]) for row in rows] == [True, False]
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for row in rows:
        [line] = [line for line in text.splitlines() if line.startswith(row["id"][:8])]
        assert {row["kind"], row["state"], row["severity"], "11-21", "12:00"} <= set(line.split())
    assert name in "".join(part for line in text.splitlines() for part in line.split() if part in name)
