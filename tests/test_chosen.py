"""A deployment's own playbooks: each kind's own file where it holds, the packaged one everywhere else, and nothing in silence."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from infra.settings import Settings
from responders.console import doctor
from responders.console.playbooks import app
from responders.playbooks.chosen import choose, in_force
from responders.playbooks.playbooks import load
from streams.errors import Unavailable
from streams.events import Kind

HEALTH = files("responders").joinpath("playbooks", "health.toml").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a playbook for health that holds, one for evasion that does not, and one that is no text."""
    made = tmp_path / "own"
    made.mkdir()
    (made / "health.toml").write_text(HEALTH.replace("time_limit_s = 900", "time_limit_s = 60"))
    (made / "evasion.toml").write_text('kind = "evasion"\nversion = 0\n')
    (made / "notes.toml").write_bytes(b"kind = 1\n# \xff")
    (made / "notes.txt").write_text("no playbook")
    monkeypatch.setenv("KERBWATCH_PLAYBOOKS", str(made))
    monkeypatch.setenv("KERBWATCH_HOME", str(tmp_path / "home"))
    return made


def run(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "250"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_kind_with_an_own_playbook_that_holds_has_it_and_every_other_the_packaged_one(folder: Path) -> None:
    packaged, books = load(), in_force(Settings(playbooks=folder))
    assert {kind for kind in Kind if books[kind] != packaged[kind]} == {Kind.HEALTH}
    assert 60 in {step.time_limit_s for step in books[Kind.HEALTH].steps}
    assert in_force(Settings(playbooks=None)) == packaged


def test_each_file_that_is_not_used_is_told_with_the_reason(folder: Path) -> None:
    (folder / "second.toml").write_text(HEALTH)
    evasion, notes, second = choose(folder).faults
    assert f"{folder}/evasion.toml, line 2" in evasion
    assert f"{folder}/notes.toml, line 2: byte 0xff" in notes
    assert f"second.toml: not used, since {folder}/health.toml" in second
    [missing] = choose(folder / "nowhere").faults
    assert "KERBWATCH_PLAYBOOKS" in missing


def test_commands_that_read_work_and_say_where_each_comes_from(folder: Path, tmp_path: Path) -> None:
    listed = run("list", "--json")
    rows = {row["kind"]: row["source"] for row in json.loads(listed.stdout)}
    assert rows == dict.fromkeys(Kind, "package") | {"health": str(folder / "health.toml")}
    assert "evasion.toml, line 2" in listed.stderr
    assert f"from {folder}/health.toml" in run("show", "health").stderr
    assert "health is from" in run("export", "--out", str(tmp_path / "out")).stdout


def test_check_and_doctor_fail_until_the_folder_holds(folder: Path) -> None:
    failed = run("check")
    assert failed.exit_code == 1
    assert f"health ({folder}/health.toml) and its export: holds" in failed.stdout
    assert "evasion (package) and its export: holds" in failed.stdout
    assert "evasion.toml, line 2" in failed.stdout
    assert not doctor.playbooks(Settings(playbooks=folder)).met
    for name in ("evasion.toml", "notes.toml"):
        (folder / name).unlink()
    assert run("check").exit_code == 0
    finding = doctor.playbooks(Settings(playbooks=folder))
    assert (finding.met, finding.found) == (True, f"health from {folder}/health.toml")


def test_a_file_that_cannot_be_read_or_written_is_told_in_plain_words(tmp_path: Path) -> None:
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000)
    assert "brackets in brackets" in run("check", str(deep)).stdout
    (tmp_path / "file").touch()
    for words in (("export", "--out", str(tmp_path / "file")), ("show", "drift", "--drawing", str(tmp_path / "no" / "a.svg"))):
        with pytest.raises(Unavailable, match=r"name a (folder|place) where you may write"):
            run(*words)
