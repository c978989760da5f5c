"""docs/on-call.md says what the playbooks, the commands and the alert rules say; somebody tired will follow it to the letter."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from responders.people.access import RULES, Deed
from responders.playbooks import playbooks
from responders.playbooks.playbooks import Playbook
from streams.command_line import app
from streams.events import Kind

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "on-call.md").read_text(encoding="utf-8")
LINES = re.findall(r"^ {4,}(kerbwatch .*)$", TEXT, re.MULTILINE) + re.findall(r"`(kerbwatch [^`]*)`", TEXT)
BOOKS = playbooks.load()
ALERTS = yaml.safe_load((ROOT / "infra" / "docker" / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]


def anchors() -> set[str]:
    heads = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", head.lower()).replace(" ", "-") for head in heads}


def section(kind: Kind) -> str:
    title = str(kind).replace("_", " ").capitalize()
    return re.split(r"^## ", TEXT.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def row(kind: Kind) -> str:
    (found,) = [line for line in TEXT.splitlines() if line.startswith(f"| [{kind}](#")]
    return found


@pytest.mark.parametrize("line", LINES)
def test_every_command_line_parses(line: str) -> None:
    command: Any = typer.main.get_command(app)
    _, *words = shlex.split(line, comments=True)
    name = []
    while hasattr(command, "commands"):
        assert words, line
        assert words[0] in command.commands, line
        name.append(words.pop(0))
        command = command.commands[name[-1]]
    if command.context_settings.get("ignore_unknown_options"):  # its options are read when it is called
        told = CliRunner().invoke(app, [*name, "--help"]).output
        assert all(word in told for word in words if word.startswith("-")), line
        return
    command.make_context(" ".join(name), words)  # raises what the user would read


@pytest.mark.parametrize("book", BOOKS.values(), ids=list(BOOKS))
def test_every_kind_s_section_names_each_step_that_waits_for_people_and_their_roles(book: Playbook) -> None:
    told, head = section(book.kind), row(book.kind)
    for step in book.steps:
        if step.approval:
            assert f"`{step.name}`" in told, step.name
            assert f"`{step.name}`" in head, step.name
            assert all(role in told and role in head for role in step.approval), step.name
            assert RULES[Deed.APPROVE_STEP].code
            assert "code" in head
    named = set(re.findall(r"--step (\w+)", told))
    assert named <= {step.name for step in book.steps if step.approval}


@pytest.mark.parametrize("book", BOOKS.values(), ids=list(BOOKS))
def test_who_is_called_and_when_is_as_in_the_playbooks(book: Playbook) -> None:
    minutes = {"evasion": 5, "tampering": 5, "compromise": 5, "traffic": 10, "health": 10}.get(book.kind, 15)
    assert [(call.role, call.wait_s) for call in book.calls] == [(role, minutes * 60) for role in ("R8", "R7", "R6")]
    assert {call.at_least for call in book.calls} == {"medium" if book.kind is Kind.TAMPERING else "high"}
    assert (
        "R8 is called first, then R7, then R6, 5 minutes apart for evasion, tampering and compromise, 10 for traffic and health"
        in TEXT
    )


def test_who_may_close_and_roll_back_is_as_in_the_rules() -> None:
    assert set(RULES[Deed.CLOSE].roles) == {"R6", "R7", "R8"}
    assert not RULES[Deed.CLOSE].code
    assert set(RULES[Deed.ROLL_BACK].roles) == {"R3", "R6", "R7", "R8"}
    assert not RULES[Deed.ROLL_BACK].code
    assert "By hand: R6, R7 or R8, no code." in TEXT
    assert "one of R3, R6, R7, R8; no code" in TEXT


def test_every_link_into_the_page_leads_somewhere() -> None:
    assert set(re.findall(r"\(#([^)]+)\)", TEXT)) <= anchors()


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_leads_to_a_part_of_the_page(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert page == "docs/on-call.md"
    assert anchor in anchors()
