"""The command as people meet it: every command explains itself with an example, and no document names one that does not exist."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from inference.experiments.cli import app as experiments
from inference.lifecycle.cli import data
from infra.db import migrate
from infra.metrics import Service
from infra.settings import Secret, Settings
from infra.supervise import environment
from streams.__main__ import main
from streams.command_line import app
from streams.demo.story import demo_home
from streams.errors import BadInput

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LONGEST_MODULE = 400
FOLDERS = ("streams", "detectors", "inference", "responders", "infra", "dashboards")


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by its words; typer brings click's classes of its own, so they are told apart by what they have."""

    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for inner in command.commands.values():
                yield from walk(inner, f"{name} {inner.name}".strip())
        else:
            yield name, command

    yield from walk(typer.main.get_command(app), "")


ALL = dict(commands())


@pytest.mark.parametrize("name", ALL)
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    text = ALL[name].help or ""
    assert f"kerbwatch {name}" in text, text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_names_a_command_that_does_not_exist(document: Path) -> None:
    lines = re.findall(r"`([^`\n]+)`", document.read_text()) + re.findall(r"^    (\S.*)$", document.read_text(), re.MULTILINE)
    for line in lines:
        for words in re.findall(r"(?:^|/)kerbwatch ([a-z][a-z |-]*)", line):
            group, *rest = words.replace("|", " ").split()
            known = {name for name in ALL if name.split()[0] == group}
            assert known, f"{document.name}: {line}"
            if f"{group}" not in ALL and rest:
                assert f"{group} {rest[0]}" in ALL, f"{document.name}: {line}"


def test_no_message_sends_an_operator_to_a_command_that_does_not_exist() -> None:
    sent = {
        words
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for words in re.findall(r"`kerbwatch ([a-z][a-z-]*(?: [a-z][a-z-]*)?)", path.read_text(encoding="utf-8"))
    }
    assert len(sent) > 20
    groups = {name.split()[0] for name in ALL if " " in name}
    assert [words for words in sent if words not in ALL and words.split()[0] not in set(ALL) - groups and words not in groups] == []


def test_no_group_offers_a_completion_of_its_own_that_would_displace_the_whole_commands() -> None:
    groups = [group.typer_instance for group in app.registered_groups]
    assert len(groups) > 10
    for group in (*groups, experiments, data):
        assert group is not None
        options = {option for parameter in typer.main.get_command(group).params for option in parameter.opts}
        assert "--install-completion" not in options, group.info.help


def test_help_of_the_whole_command_loads_neither_torch_nor_faust() -> None:
    code = "import streams.command_line, sys; sys.exit(bool({'torch', 'faust', 'jgo'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_a_list_of_incidents_for_programs_loads_nothing_that_it_can_do_without(tmp_path: Path) -> None:
    migrate(Settings(home=tmp_path))
    slow = {"torch", "faust", "kafka", "numpy", "rich", "pydantic", "sqlalchemy.dialects.postgresql"}
    code = f"""
import atexit, sys
from streams.__main__ import main
atexit.register(lambda: print(sorted({slow} & set(sys.modules)), file=sys.stderr))
sys.argv[1:] = ["incidents", "list", "--json"]
main()
"""
    environment = os.environ | {"KERBWATCH_HOME": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (said.stdout.strip(), said.stderr.strip()) == ("[]", "[]")


def test_wrong_settings_are_told_in_plain_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("KERBWATCH_KAFKA_PORT", "99999")
    monkeypatch.setattr("sys.argv", ["kerbwatch", "status"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "KERBWATCH_KAFKA_PORT" in capsys.readouterr().err


def test_the_demo_never_clears_a_home_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "kerbwatch.db").write_text("precious")
    with demo_home(Settings(home=tmp_path), Console(quiet=True)) as settings:
        assert settings.home == tmp_path / "demo"
    assert (tmp_path / "kerbwatch.db").read_text() == "precious"


def test_the_demo_calls_nobody_and_uses_no_broker_or_database_of_a_deployments(tmp_path: Path) -> None:
    real = Settings(
        home=tmp_path,
        kafka_host="kafka.example",
        database_url=Secret("postgresql://db.example/kerbwatch"),
        webhook_url=Secret("https://pager.example/hook"),
        alertmanager_url="https://alerts.example",
        smtp_host="mail.example",
        grafana_url="https://grafana.example",
    )
    with demo_home(real, Console(quiet=True)) as settings:
        assert "example" not in "".join(value for name, value in environment(settings).items() if name.startswith("KERBWATCH_"))


def test_a_second_demo_in_a_home_leaves_the_first_alone(tmp_path: Path) -> None:
    with demo_home(Settings(home=tmp_path), Console(quiet=True)):
        (tmp_path / "kerbwatch.db").write_text("of the first")
        with pytest.raises(BadInput, match="a demo or a drill plays in"), demo_home(Settings(home=tmp_path), Console(quiet=True)):
            pass
        assert (tmp_path / "kerbwatch.db").exists()


def test_a_demo_begins_without_what_a_killed_one_left_in_the_registry(tmp_path: Path) -> None:
    for _ in range(2):
        with demo_home(Settings(home=tmp_path), Console(quiet=True)):
            assert not (tmp_path / "registry").exists()
            (tmp_path / "registry").mkdir()


def test_every_process_can_be_asked_for() -> None:
    result = CliRunner().invoke(app, ["work", "--help"])
    assert all(service in result.output for service in Service)


def test_no_module_is_longer_than_four_hundred_lines() -> None:
    modules = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(modules) > 50
    assert [path.name for path in modules if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST_MODULE] == []
