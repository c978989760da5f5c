"""Playbooks leave as CACAO 2.0, and the checker knows what that standard demands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from responders.console.playbooks import app
from responders.playbooks import playbooks
from responders.playbooks.cacao import NAMESPACE, as_bytes, condition_text, export
from responders.playbooks.cacao_rules import faults
from responders.playbooks.drawing import svg
from responders.playbooks.playbooks import Action, Condition
from streams.events import Cause, Kind, Mode, Severity

BOOKS = playbooks.load()
Json = dict[str, Any]


def steps_of(book: Json, **having: object) -> list[Json]:
    return [step for step in book["workflow"].values() if all(step.get(key) == value for key, value in having.items())]


@pytest.mark.parametrize("kind", Kind)
def test_every_playbook_leaves_as_the_standard_demands_and_the_same_each_time(kind: Kind) -> None:
    book = json.loads(as_bytes(BOOKS[kind]))
    assert faults(book) == []
    assert as_bytes(BOOKS[kind]) == as_bytes(playbooks.load()[kind])


@pytest.mark.parametrize("kind", Kind)
def test_steps_carry_technique_mitigation_and_nist_function(kind: Kind) -> None:
    book = export(BOOKS[kind])
    for step in BOOKS[kind].steps:
        if step.action is Action.CLOSE:
            continue
        [first, *_] = [one for one in steps_of(book, type="action") if one["name"].split(":")[0] == step.name]
        ids = {one["external_id"] for one in first["external_references"]}
        assert set(step.mitigations) <= ids
        assert any(id_.startswith("AML.T") for id_ in ids)
        assert ids & {"DE", "RS", "RC"}
        assert step.mitigations, f"{kind}/{step.name} names no mitigation"


def test_ids_are_those_of_every_export_and_no_two_are_alike() -> None:
    exports = [export(book) for book in BOOKS.values()]
    ids = [id_ for book in exports for id_ in (book["id"], *book["workflow"])]
    assert len(ids) == len(set(ids))
    assert {UUID(book["id"].split("--")[1]).version for book in exports} == {5}
    assert NAMESPACE.hex.startswith("aa7caf3a")


def test_a_condition_becomes_a_branch_with_an_end_of_its_own() -> None:
    book = export(BOOKS[Kind.DRIFT])
    [branch] = steps_of(book, name="safe_mode?")
    assert branch["condition"] == "__severity__:value IN ('high', 'critical')"
    asked = book["workflow"][branch["on_true"]]
    assert asked["name"] == "safe_mode: approved by R8"
    assert book["workflow"][asked["on_failure"]]["type"] == "end"
    assert book["workflow"][asked["on_success"]]["name"] == "safe_mode"


def test_conditions_read_as_the_standard_writes_them() -> None:
    condition = Condition(at_least=Severity.MEDIUM, below=Severity.CRITICAL, causes=(Cause.ATTACK,), confidence=0.8, mode=Mode.SAFE)
    assert condition_text(condition) == (
        "__severity__:value IN ('medium', 'high') AND __cause__:value = 'attack' AND __confidence__:value >= 0.8 "
        "AND __mode__:value = 'safe'"
    )


def test_a_failed_way_back_leads_to_the_safe_mode() -> None:
    book = export(BOOKS[Kind.EVASION])
    [back] = steps_of(book, name="await_normal_mode")
    assert book["workflow"][back["on_failure"]]["name"] == "safe_mode"
    assert back["timeout"] == 15_000
    assert "on_completion" not in back


def test_a_no_to_what_people_are_to_do_leads_to_the_chain_of_people_and_not_on() -> None:
    book = export(BOOKS[Kind.COMPROMISE])
    asked = [step for step in book["workflow"].values() if step["name"].startswith("roll_back: done by")]
    assert [("on_success" in step, "on_failure" in step) for step in asked] == [(True, False)] * 2
    assert book["workflow"][book["workflow_exception"]]["name"] == "call people"


def drop(key: str) -> Callable[[Json], object]:
    return lambda book: book.pop(key)


def of(type_: str, key: str, value: object) -> Callable[[Json], object]:
    return lambda book: steps_of(book, type=type_)[0].__setitem__(key, value)


def renamed(book: Json) -> None:
    old = next(id_ for id_ in book["workflow"] if id_.startswith("action"))
    text = json.dumps(book).replace(old, old[:22] + "5" + old[23:])
    book.clear()
    book.update(json.loads(text))


BREAKS: list[tuple[Callable[[Json], object], str]] = [
    (drop("created_by"), "3.1 created_by: missing"),
    (lambda book: book.update(colour="red"), "3.1 colour"),
    (lambda book: book.update(spec_version="1.1"), "3.1 spec_version"),
    (lambda book: book.update(created="2026-11-01T00:00:00Z"), "3.1 created: must be UTC"),
    (lambda book: book.update(modified="2025-11-01T00:00:00.000Z"), "3.1 modified: earlier"),
    (lambda book: book.update(severity=101), "3.1 severity"),
    (drop("playbook_activities"), "3.1 playbook_activities: at least one"),
    (lambda book: book["playbook_activities"].append("map-network"), "no step does map-network"),
    (lambda book: book.update(workflow_start="start--x"), "3.1 workflow_start"),
    (lambda book: book["playbook_variables"].update(severity={"type": "string"}), "10.18 playbook_variables"),
    (drop("playbook_variables"), "10.18 settle?.condition"),
    (of("start", "on_success", "x"), "4.3 start"),
    (of("end", "on_completion", "x"), "4.4"),
    (of("action", "on_failure", "x"), "4.1 settle.on_completion: not beside"),
    (of("action", "timeout", 1.5), "4.1 settle.timeout"),
    (of("action", "commands", []), "4.5 settle.commands"),
    (of("action", "commands", [{"type": "manual"}]), "5 settle.commands"),
    (of("action", "agent", "group--x"), "4.5 settle.agent"),
    (of("action", "colour", "red"), "4 settle.colour"),
    (of("action", "type", "dance"), "4.1 settle.type"),
    (of("if-condition", "on_true", "x"), "4.1 settle?.on_true"),
    (drop("extension_definitions"), "8 settle.step_extensions"),
    (drop("external_references"), "3.1 settle.external_references"),
    (renamed, "10.10"),
]


@pytest.mark.parametrize(("breaking", "says"), BREAKS, ids=[says for _, says in BREAKS])
def test_what_breaks_the_standard_is_named_with_its_section(breaking: Callable[[Json], object], says: str) -> None:
    book = json.loads(as_bytes(BOOKS[Kind.DRIFT]))
    breaking(book)
    assert any(says in fault for fault in faults(book)), faults(book)


def test_what_is_no_playbook_at_all_is_refused() -> None:
    assert faults([]) == ["3.1 a playbook is a JSON object"]
    assert len(faults({})) == 9


@pytest.mark.parametrize("kind", Kind)
def test_the_drawing_is_whole_and_names_every_step(kind: Kind) -> None:
    text = "".join(ET.fromstring(svg(BOOKS[kind])).itertext())  # noqa: S314 - our own bytes
    assert all(step.name in text for step in BOOKS[kind].steps)


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return f"{result.exit_code} {result.output}"


def test_playbooks_can_be_listed_shown_drawn_and_exported(tmp_path: Path) -> None:
    assert all(kind in run("list") for kind in Kind)
    assert len(json.loads(run("list", "--json")[2:])) == len(Kind)
    shown = run("show", "drift")
    assert "once approved by R8" in shown
    assert "only if severity is high or critical" in shown
    run("show", "evasion", "--drawing", str(tmp_path / "e.svg"))
    assert (tmp_path / "e.svg").read_text().startswith("<svg")
    assert json.loads(run("export", "evasion")[2:])["spec_version"] == "cacao-2.0"
    run("export", "--out", str(tmp_path / "out"))
    exported = sorted((tmp_path / "out").iterdir())
    assert len(exported) == len(Kind)
    assert run("check", *map(str, exported)).startswith("0 ")


def test_check_names_file_and_line_and_ends_with_one(tmp_path: Path) -> None:
    broken = tmp_path / "mine.toml"
    broken.write_text('kind = "drift"\nversion = 1\ntitle = "x"\n\n[[steps]]\nname = "a"\naction = "dance"\n')
    assert f"{broken}, line 7" in run("check", str(broken))
    assert run("check", str(broken)).startswith("1 ")
    assert run("check", str(tmp_path / "none.json")).startswith("1 ")
    assert run("check").startswith("0 ")
