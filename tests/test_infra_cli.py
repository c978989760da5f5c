"""The commands that run the stack: what they print, and with which exit code."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from infra import certificates, cli, kafka, supervise
from infra.certificates import utc_now
from infra.doctor import REST_BYTES
from infra.settings import Settings
from responders.console import doctor
from streams.topics import ALL, GIB, most_bytes

app = typer.Typer()
cli.mount(app)
app.command("doctor")(doctor.diagnose)


def run(settings: Settings, *arguments: str) -> Result:
    environment = {name: value for name, value in supervise.environment(settings).items() if name.startswith("KERBWATCH_")}
    return CliRunner().invoke(app, arguments, env=environment)


def answer(result: Result) -> Any:
    return json.loads(result.stdout)


@pytest.fixture
def own(tmp_path: Path, free_ports: Callable[[int], tuple[int, ...]]) -> Settings:
    port, controller = free_ports(2)
    return Settings(home=tmp_path / "home", kafka_port=port, kafka_controller_port=controller)


@pytest.mark.broker
def test_a_running_broker_is_reported_and_provisioned_again_without_change(broker: Settings) -> None:
    result = run(broker, "kafka", "status", "--json")
    assert result.exit_code == 0
    assert answer(result)["ready"]
    assert {topic.name for topic in ALL} <= set(answer(result)["topics"])
    assert "ready" in run(broker, "kafka", "status").stdout
    assert "were in place" in run(broker, "kafka", "provision").stdout
    assert not answer(run(broker, "kafka", "up", "--json"))["changes"]["topics_made"]


def test_what_does_not_run_is_reported_with_exit_code_1(own: Settings) -> None:
    assert run(own, "kafka", "status").exit_code == 1
    result = run(own, "status", "--json")
    assert result.exit_code == 1
    assert [process["state"] for process in answer(result)["processes"]] == ["STOPPED"] * 4
    assert answer(run(own, "down", "--json")) == {"processes_stopped": False, "broker_stopped": False}


def test_keys_are_made_once(own: Settings) -> None:
    first = answer(run(own, "keys", "init", "--camera", "gate-1", "--json"))
    assert len(first["certificates"]) == 1 + len(certificates.IDENTITIES)
    assert (own.home / "keys" / "cameras" / "gate-1.pub").is_file()
    sealing = (own.home / "keys" / "quarantine.key").read_bytes()
    assert answer(run(own, "keys", "init", "--json"))["certificates"] == []
    assert (own.home / "keys" / "quarantine.key").read_bytes() == sealing


def test_the_doctor_names_what_is_lacking_and_the_next_step(own: Settings, tmp_path: Path) -> None:
    bare = replace(own, cache=tmp_path / "empty")
    result = run(bare, "doctor", "--json")
    assert result.exit_code == 1
    findings = {finding["need"]: finding for finding in answer(result)["findings"]}
    assert findings["packages"]["met"], findings["packages"]
    assert findings["Java"]["met"]
    assert not findings["jars"]["met"]
    assert findings["keys"]["next_step"] == "run `kerbwatch keys init`"
    certificates.make_certificates(own, utc_now() - timedelta(days=350))
    assert "expires in" in run(own, "doctor").stdout.replace("\n", " ")


def test_the_doctor_says_whether_anybody_would_be_told(own: Settings) -> None:
    def said(**given: str) -> dict[str, Any]:
        environment = {"KERBWATCH_HOME": str(own.home), **{f"KERBWATCH_{name.upper()}": value for name, value in given.items()}}
        done = CliRunner().invoke(app, ["doctor", "--json"], env=environment)
        assert "hooks.example.org/hunter2" not in done.output
        return next(finding for finding in answer(done)["findings"] if finding["need"] == "channels")

    alone = said()
    assert alone["met"]
    assert "responder's log" in alone["warning"]
    webhook = {"webhook_url": "https://hooks.example.org/hunter2", "webhook_secret": "abc"}
    faulty = said(**webhook, smtp_host="mail", mail_from="k@example.org", mail_to="R9=oncall")
    assert not faulty["met"]
    assert "webhook, email faulty" in faulty["found"]
    assert "KERBWATCH_WEBHOOK_SECRET" in faulty["next_step"]
    assert "KERBWATCH_MAIL_TO" in faulty["next_step"]
    reached = said(smtp_host="mail.example.org", mail_from="k@example.org", mail_to="oncall@example.org")
    assert reached["met"]
    assert not reached["warning"]


def test_the_doctor_warns_of_a_disk_that_kafka_s_bounds_do_not_fit_on_and_refuses_only_where_nothing_would_run(
    own: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(free: int, settings: Settings = own) -> dict[str, Any]:
        left = shutil.disk_usage(own.home.parent)._replace(free=free)
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "disk_usage", lambda _: left)
            findings = answer(run(settings, "doctor", "--json"))["findings"]
        return next(finding for finding in findings if finding["need"] == "disk")

    log = own.home / "kafka" / "data" / "frames-0" / "0.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(bytes(range(256)) * 4096 * 3)
    index = log.with_suffix(".index")
    index.touch()
    os.truncate(index, GIB)  # Kafka makes its indexes so; they take nothing
    used = kafka.used_bytes(own)
    assert log.stat().st_size <= used < 2 * log.stat().st_size
    enough = most_bytes() + REST_BYTES - used
    assert said(enough)["met"]
    assert not said(enough)["warning"]
    short = said(enough - 10 * GIB)
    assert short["met"], "a small machine runs all the same"
    assert "10.0 GiB are lacking" in short["warning"]
    assert "`kerbwatch kafka provision`" in short["warning"]
    assert not said(3 * GIB, replace(own, kafka_host="kafka.example"))["warning"], "Kafka's disk is elsewhere"
    assert not said(REST_BYTES - 1)["met"]


def test_no_report_shows_the_databases_password(own: Settings) -> None:
    result = CliRunner().invoke(
        app,
        ["doctor", "--json"],
        env={"KERBWATCH_HOME": str(own.home), "KERBWATCH_DATABASE_URL": "postgresql+psycopg://kw:hunter2@127.0.0.1:9/kw"},
    )
    assert "hunter2" not in result.output
    assert "database" in result.stdout
    assert os.environ.get("KERBWATCH_HOME") is None
