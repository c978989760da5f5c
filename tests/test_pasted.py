"""A command that is printed for somebody to paste runs: no option that it needs is missing, and a shell reads it as one command."""

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from incident_events import NORMAL, SAFE, at, signal
from msgspec.structs import replace
from rich.console import Console
from typer.testing import CliRunner

from infra.db import Sessions, reading
from infra.settings import Settings
from responders.console import tables
from responders.engine import records
from responders.engine.incident import Act, Verb
from responders.engine.store import Store
from responders.notify.notices import Notice, Sort, text
from responders.people.roles import Role
from responders.playbooks import playbooks
from streams.command_line import app
from streams.events import Context, Kind, Phase, Severity

pytest_plugins = ["databases"]

ID = "16d604ba287b87fab5a2d7eca3ab19aa"
COMMANDS = typer.main.get_command(app)


def printed(words: str) -> Iterator[str]:
    """Each command line in a text: between backticks, on a line of its own, or at the end of one."""
    for quoted, bare in re.findall(r"`(kerbwatch [^`]+)`|(?:^|: )[ ]*(kerbwatch [^`\n]+)$", words, re.MULTILINE):
        yield quoted or bare


def parse(line: str) -> None:
    """Read a line as a shell and our own parser would. Raises where one of them refuses it."""
    subprocess.run(["bash", "-n", "-c", line], check=True)
    command: Any = COMMANDS
    words = shlex.split(line)[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


@pytest.fixture
def store(sessions: Sessions) -> Store:
    made = Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)
    made.assign(Context.URBAN, NORMAL, SAFE, at(0))
    return made


def test_the_parser_of_this_test_knows_what_is_missing() -> None:
    with pytest.raises(Exception, match="comment"):
        parse("kerbwatch incidents ack 16d604ba")
    with pytest.raises(subprocess.CalledProcessError):
        parse("kerbwatch incidents list (newest first)")


def test_what_a_page_says_can_be_pasted() -> None:
    page = Notice(
        key="k", sort=Sort.PAGE, time=at(0), what="evasion on gate", role="R8", incident_id=ID, kind=Kind.EVASION,
        severity=Severity.CRITICAL, camera_id="gate", context=Context.URBAN, signals=1,
    )  # fmt: skip
    over = replace(page, sort=Sort.OVER)
    lines = list(printed(text([page]))) + list(printed(text([over] * 21)))
    assert f'kerbwatch incidents ack {ID[:8]} -m "looking into it"' in lines
    assert "kerbwatch incidents list --open" in lines
    for line in lines:
        parse(line)


@pytest.fixture
def shown(database: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a command prints; wide enough that no line breaks."""
    monkeypatch.setenv("KERBWATCH_HOME", str(database.home))
    monkeypatch.setenv("COLUMNS", "500")
    if database.database_url is not None:
        monkeypatch.setenv("KERBWATCH_DATABASE_URL", database.database_url.reveal())

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, words)
        assert (done.exit_code, done.exception) == (0, None)
        return done.stdout

    return run


def test_what_an_incident_that_waits_for_approval_says_can_be_pasted(store: Store, shown: Callable[..., str]) -> None:
    [id_] = store.accept(signal(Phase.RAISED, 20, 21, camera="gate", kind=Kind.POISONING), at(5)).incident_ids
    note = Act("a", at(6), id_, Verb.NOTE, "operator-1", "see `kerbwatch status`", roles=(Role.SECMLOPS_ENGINEER,))
    store.accept(note, at(6))
    store.tick(at(20_000))  # nobody approved in time
    lines = list(printed(shown("incidents", "show", id_)))
    assert f'kerbwatch incidents approve {id_[:8]} --step review -m "what you looked at"' in lines
    for line in [*lines, *printed(shown("watch", "--once"))]:
        parse(line)


def test_each_step_that_people_do_is_shown_with_commands_for_this_incident(
    store: Store, sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    [id_] = store.accept(signal(Phase.RAISED, 20, 21, camera="gate", kind=Kind.POISONING), at(5)).incident_ids
    with reading(sessions) as session:
        full = records.shown(session, id_)
    lines: list[str] = []
    for book in playbooks.load().values():
        for step in book.steps:
            if step.approval:
                asked = replace(full, steps=book.steps, step=step.name, asks=step.approval)
                tables._print_asked(Console(width=500), asked)
                lines += printed(capsys.readouterr().out)
    assert 'kerbwatch models rollback --context urban -m "under suspicion"' in lines
    assert 'kerbwatch keys rotate --camera gate -m "may be known"' in lines
    for line in lines:
        parse(line)


def test_what_alerts_say_can_be_pasted() -> None:
    file = Path(__file__).parent.parent / "infra" / "docker" / "prometheus" / "alerts.yml"
    rules = yaml.safe_load(file.read_text())["groups"][0]["rules"]
    lines = [line for rule in rules for line in printed(rule["annotations"]["next"])]
    assert len(lines) > 3
    for line in lines:
        parse(line)
