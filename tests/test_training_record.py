"""What `kerbwatch train` leaves behind: a folder that can be staged, with card, lineage and the time the run really began."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from a_person import newcomer
from incident_events import at
from typer.testing import CliRunner

from inference.lifecycle.publish import MEASURED_ON, draft
from inference.networks.csp_nano import CspNano, to_bytes
from inference.provenance.lineage import Code, read_lineage
from inference.provenance.registry import digest_of, registry_of
from inference.training import cli
from inference.training import train as training
from inference.training.pools import Pools
from inference.training.samples import Sample, shaped
from inference.training.train import PRESETS, Progress
from infra.db import migrate, open_database, writing
from infra.keys import model_key
from infra.settings import Settings
from responders.people.roles import Role
from streams.command_line import app
from streams.events import Context, Mode

ORIGINS = ("penn-fudan", "square", "urban-fog", "highway-day", "road")


def a_pool(origin: str) -> list[Sample]:
    picture = np.random.default_rng(ORIGINS.index(origin)).integers(0, 256, (120, 160, 3), np.uint8)
    return [Sample(origin, f"{origin} {number}", picture, (shaped((20.0, 30.0, 20.0, 50.0)),)) for number in range(2)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a run of four steps; two steps are an epoch, pictures are tiny, every group has its source."""
    groups = tuple(a_pool(origin) for origin in ORIGINS)
    pools = Pools(groups, [groups[0][0].picture], groups[0])
    small = msgspec.structs.replace(PRESETS["csp-nano-safe"], steps=4, epoch=2, batch=2, height_px=64, width_px=96, half=False)
    monkeypatch.setattr(cli, "training_pools", lambda *_, **__: pools)
    monkeypatch.setattr(cli, "PRESETS", {"csp-nano-safe": small})
    monkeypatch.setenv("KERBWATCH_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    (tmp_path / "parent.safetensors").write_bytes(to_bytes(CspNano()))
    return tmp_path / "run"


def train(run: Path, *options: str) -> None:
    words = ["train", "--model", "csp-nano-safe", "--parent", str(run.parent / "parent.safetensors"), "--folder", str(run)]
    result = CliRunner().invoke(app, [*words, *options])
    assert result.exit_code == 0, result.output


def test_a_finished_run_is_staged_as_it_lies_and_published_by_its_own_card(run: Path, tmp_path: Path) -> None:
    train(run, "--eps-at", "0.0")
    settings = Settings(home=tmp_path / "home")
    migrate(settings)
    model_key(settings)
    sessions = open_database(settings)
    with writing(sessions) as session:
        newcomer(session, settings, "trainer-1", [Role.DATA_SCIENTIST], at(0))
    sessions.kw["bind"].dispose()
    result = CliRunner().invoke(app, ["models", "stage", str(run), "-m", "a new corner", "--actor", "trainer-1", "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    registry = registry_of(settings)
    digest = json.loads(result.stdout)["digest"]
    registry.verify(digest)
    card = registry.card(digest)
    parent = digest_of((tmp_path / "parent.safetensors").read_bytes())
    assert (card.name, card.mode, card.contexts, card.threshold, card.parent) == (
        "csp-nano-safe", Mode.SAFE, tuple(Context), 0.3, parent,
    )  # fmt: skip
    assert card.figures == ()
    assert "cftang" in card.licence
    assert json.loads(bytes(card.settings))["steps"] == 4
    assert card.commands == (f"kerbwatch train --model csp-nano-safe --parent {tmp_path / 'parent.safetensors'} --eps-at 0.0",)
    for said in ("0.44 from penn-fudan, 2 pictures", "0.14 from square", "CC BY-NC-SA 3.0", "0.1 from road", "Udacity", "MIT"):
        assert said in card.data
    lineage = registry.lineage(digest)
    assert lineage is not None
    assert lineage.parent == parent
    assert lineage.figures["steps"] == 4
    assert lineage.figures["last_loss"] > 0
    published = draft(run, "a note")
    assert published.data == f"{card.data} {MEASURED_ON}"
    assert published.commands == (*card.commands, "kerbwatch publish --model csp-nano-safe")
    assert (published.digest, published.parent, published.threshold) == (digest, parent, 0.3)


def test_a_run_that_was_stopped_keeps_the_time_it_began_and_a_second_call_changes_no_word(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training.run

    def dying(*given: object, **named: object) -> Path:
        def report(now: Progress) -> None:
            if now.step == 3:
                raise KeyboardInterrupt

        return real(*given, **named | {"report": report})  # type: ignore[arg-type] # as the command gave it

    monkeypatch.setattr("inference.training.cli.run", dying)
    assert CliRunner().invoke(app, ["train", "--model", "csp-nano-safe", "--parent", str(run.parent / "parent.safetensors"),
                                    "--folder", str(run), "--patience", "5"]).exit_code != 0  # fmt: skip
    first_life = (run / "checkpoint.pt").stat().st_mtime
    monkeypatch.setattr("inference.training.cli.run", real)
    train(run, "--patience", "5")
    lineage = read_lineage((run / "lineage.json").read_bytes())
    assert lineage.started_at.timestamp() < first_life < lineage.finished_at.timestamp()
    assert 0 <= lineage.figures["best_validation_miss_rate"] <= 1
    changed = Code(version="9", commit="", source_digest="9" * 64)
    monkeypatch.setattr("inference.training.record.this_code", lambda: changed)
    said = {name: (run / name).read_bytes() for name in ("lineage.json", "card.json", "manifest.json")}
    train(run, "--patience", "5")
    assert said == {name: (run / name).read_bytes() for name in said}
