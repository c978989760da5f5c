"""`kerbwatch models` as people type it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from a_model import a_registry, a_verdict, add, judged_frame, run_folder
from a_person import Phone, newcomer, refusals
from click.testing import Result
from incident_events import at
from typer.testing import CliRunner

from inference.provenance.registry import Registry
from inference.provenance.verdicts import put_verdict
from infra.db import migrate, open_database, writing
from infra.settings import Settings
from responders.engine.store import Store
from responders.people.roles import Role
from responders.playbooks import playbooks
from responders.proof.keeping import record_judged
from streams.command_line import app
from streams.console.models import complete_model, find
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import Context, Mode

Command = Callable[..., Result]
PHONES: dict[str, Phone] = {}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str, str]:
    """A home with a normal and a safe model in service, a candidate that passed the gate, and a judged frame."""
    home = tmp_path_factory.mktemp("home")
    migrate(Settings(home=home))
    registry = a_registry(home)
    normal, safe = add(registry, home, 1, name="first"), add(registry, home, 2, Mode.SAFE, name="safe one")
    better = add(registry, home, 3, name="better")
    put_verdict(registry, a_verdict(better))
    sessions = open_database(Settings(home=home))
    store = Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)
    for context in Context:
        store.assign(context, normal, safe, at(0))
    with writing(sessions) as session:
        PHONES["trainer-1"] = newcomer(session, Settings(home=home), "trainer-1", [Role.DATA_SCIENTIST], at(0))
        PHONES["security-1"] = newcomer(session, Settings(home=home), "security-1", [Role.SECMLOPS_ENGINEER], at(0))
        record_judged(session, [judged_frame(7, normal)])
    sessions.kw["bind"].dispose()
    return home, normal, safe, better


@pytest.fixture
def command(made: tuple[Path, str, str, str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("KERBWATCH_HOME", str(made[0]))
    monkeypatch.setenv("COLUMNS", "250")

    def run(*words: str) -> Result:
        result = CliRunner().invoke(app, ["models", *words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def registry(made: tuple[Path, str, str, str]) -> Registry:
    return a_registry(made[0])


def test_the_list_says_what_serves_where_and_what_the_gate_passed(command: Command, made: tuple[Path, str, str, str]) -> None:
    _, normal, safe, better = made
    rows = {row["digest"]: row for row in json.loads(command("list", "--json").stdout)}
    assert rows[normal]["serves"] == ["highway normal*", "urban normal*"]
    assert rows[safe]["serves"] == ["highway safe", "urban safe"]
    assert (rows[better]["serves"], rows[better]["gate"], rows[better]["fault"]) == ([], ["urban"], "")
    assert "better" in command("list").stdout


def test_a_model_is_shown_by_name_or_beginning_with_everything_that_is_proven(
    command: Command, made: tuple[Path, str, str, str]
) -> None:
    _, normal, _, better = made
    shown = json.loads(command("show", "first", "--json").stdout)
    assert shown["card"]["digest"] == normal
    assert shown["lineage"]["materials"][0]["samples"] == 90
    assert shown["served"][0]["frames"] == 1
    text = command("show", better[:10]).stdout
    for said in (better, "penn-fudan", "urban: passed, by the policy rules", "holds, key"):
        assert said in text


def test_what_nobody_could_mean_is_told_apart_and_the_nearest_is_named(
    registry: Registry, made: tuple[Path, str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for nonsense in ("", "nothing", "../registry"):
        with pytest.raises(BadInput, match="no model"):
            find(registry, nonsense)
    normal, better = made[1], made[3]
    with pytest.raises(BadInput, match="did you mean better"):
        find(registry, "beter")
    with pytest.raises(BadInput, match=f"did you mean {normal[:12]}"):
        find(registry, f"{normal[:7]}x{normal[8:12]}")
    monkeypatch.setenv("KERBWATCH_HOME", str(made[0]))
    assert ("better", better[:12]) in complete_model("bet")
    assert (better[:12], "better") in complete_model(better[:5].upper())
    assert complete_model("zzz") == []
    first = {digest[0] for digest in made[1:]}
    if len(first) < 3:
        with pytest.raises(BadInput, match="give more"):
            find(registry, max(first, key=[digest[0] for digest in made[1:]].count))


def test_verify_fails_and_names_the_file_and_list_still_works(command: Command, made: tuple[Path, str, str, str]) -> None:
    home, _, safe, _ = made
    assert command("verify").exit_code == 0
    card = home / "registry" / safe / "card.json"
    before = card.read_bytes()
    card.chmod(0o644)
    card.write_bytes(before + b" ")
    try:
        result = command("verify", "--json")
        assert result.exit_code == 1
        [wrong] = [row for row in json.loads(result.stdout) if not row["holds"]]
        assert wrong["digest"] == safe
        assert "card.json was changed" in wrong["fault"]
        assert command("verify", "better").exit_code == 0
        assert "card.json was changed" in command("list").stdout
        with pytest.raises(Tampered):
            command("show", safe)
    finally:
        card.write_bytes(before)


def test_a_run_is_staged_once_whole_and_traceable(command: Command, registry: Registry, tmp_path: Path) -> None:
    digest = run_folder(tmp_path / "run", 9, name="staged")
    words = ("stage", str(tmp_path / "run"), "-m", "a new corner", "--actor")
    with pytest.raises(Unavailable, match="no key at"):
        command(*words, "stranger")
    with pytest.raises(Unavailable):
        registry.verify(digest)
    assert json.loads(command(*words, "trainer-1", "--json").stdout) == {"digest": digest}
    registry.verify(digest)
    (tmp_path / "run" / "lineage.json").unlink()
    with pytest.raises(BadInput, match=r"no lineage\.json"):
        command(*words, "trainer-1")


def test_a_model_is_promoted_by_two_people_and_rolled_back_by_one(command: Command, made: tuple[Path, str, str, str]) -> None:
    home, normal, _, better = made

    def promote(who: str, *more: str) -> Result:
        return command(
            "promote", "better", "--context", "urban", "-m", "better at night", "--actor", who, "--code", PHONES[who].code(), *more
        )

    waiting = json.loads(promote("trainer-1", "--json").stdout)
    assert waiting == {"digest": better, "by": ["trainer-1"], "missing": ["R8"]}
    changed = json.loads(promote("security-1", "--json").stdout)
    assert (changed["digest"], changed["before"], changed["rules"]) == (better, normal, "policy")
    assert "waits for R8" in promote("trainer-1").stdout, "an agreement counts once"
    assert "nothing was changed" in promote("security-1").stdout
    with pytest.raises(BadInput, match="no verdict of the gate for highway"):
        command("promote", "better", "--context", "highway", "-m", "same", "--actor", "trainer-1", "--code", "1")
    assert (
        f"{normal[:12]} follows {better[:12]}"
        in command("rollback", "--context", "urban", "-m", "worse", "--actor", "trainer-1").stdout
    )
    with pytest.raises(BadInput, match="no former normal model"):
        command("rollback", "--context", "highway", "-m", "worse", "--actor", "trainer-1")
    with pytest.raises(BadInput, match="no model 'bettr'"):  # nothing was refused: nobody knows what was meant
        command("promote", "bettr", "--context", "highway", "-m", "same", "--actor", "trainer-1")
    sessions = open_database(Settings(home=home))
    assert [(entry.actor, entry.target, entry.why.split(" ")[0]) for entry in refusals(sessions)][-2:] == [
        ("trainer-1", f"{better}/highway/normal", "promote:"),
        ("trainer-1", "highway/normal", "roll-back:"),
    ]
    sessions.kw["bind"].dispose()
    told = json.loads(command("history", "--context", "urban", "--json").stdout)
    normals = [one for one in told["named"] if one["mode"] == "normal"]
    assert [one["weights_digest"] for one in normals] == [normal, better, normal]
    assert [one["actor"] for one in normals] == ["setup", "trainer-1, security-1", "trainer-1"]
    assert normals[0]["until"] == normals[1]["since"]
    assert normals[-1]["until"] is None
    assert "rolled back: worse" in command("history").stdout


def test_a_frame_names_its_weights_or_says_what_to_do(command: Command, made: tuple[Path, str, str, str]) -> None:
    found = json.loads(command("served", "cam1:1:7", "--json").stdout)
    assert found["weights_digest"] == made[1]
    assert found["mode"] == "normal"
    assert made[1] in command("served", found["frame_id"]).stdout
    missing = command("served", "cam1:1:8")
    assert missing.exit_code == 1
    assert "not on record" in missing.stderr
