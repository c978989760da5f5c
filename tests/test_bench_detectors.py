"""One command measures every claim: its parts, what it makes of their figures, and what it keeps for the next run."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from detectors.drift.sequential import shares
from infra.settings import Settings
from streams.bench import claims, parts
from streams.bench.drift import command as detectors
from streams.bench.drift.limit import Bank
from streams.bench.drift.trials import LAWS, Change, oracle
from streams.command_line import app
from streams.errors import BadInput

RESULTS = Path(__file__).parent.parent / "docs" / "results"


@pytest.mark.parametrize("part", [part for part in parts.Part if part is not parts.Part.ALL])
def test_the_figures_in_the_documents_bear_claims(part: parts.Part) -> None:
    found = list(claims.read(part, RESULTS / f"{part}.json"))
    assert found
    assert all(claim.part == part and claim.claim and claim.measured for claim in found)
    assert all((claim.met is None) == (claim.aim == "told") for claim in found)


def test_a_claim_is_met_only_where_its_figures_say_so(tmp_path: Path) -> None:
    figures = {"drills": 10, "right": 9, "share_right": 0.9, "attacks": 2, "attacks_called_weather_at_last": 1}
    (tmp_path / "triage.json").write_text(json.dumps(figures))
    assert [claim.met for claim in claims.read("triage", tmp_path / "triage.json")] == [True, False]


def test_a_file_without_the_figures_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "triage.json").write_text('{"drills": 10}')
    with pytest.raises(BadInput, match="measure them again"):
        list(claims.read("triage", tmp_path / "triage.json"))


def test_all_parts_run_one_after_the_other_into_one_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def measured(part: parts.Part, _settings: Settings, budget: detectors.Budget, _workers: int, folder: Path) -> None:
        ran.append((part, budget))
        typer.echo("a table")
        (folder / f"{part}.json").write_bytes((RESULTS / f"{part}.json").read_bytes())

    monkeypatch.setattr(parts, "_measure", measured)
    result = CliRunner().invoke(app, ["bench", "detectors", "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    assert [part for part, _ in ran] == ["drift", "adversarial", "triage", "poisoning"]
    told = json.loads(result.stdout)
    assert told == json.loads((tmp_path / "detectors.json").read_text())
    assert [one["file"] for one in told["parts"]] == ["drift.json", "adversarial.json", "triage.json", "poisoning.json"]
    assert {claim["part"] for claim in told["claims"]} == set(parts.Part) - {"all"}
    assert "minutes of one core" in result.stderr


def test_parts_measured_before_stay_in_the_summary_of_their_folder(tmp_path: Path) -> None:
    for part in ("triage", "poisoning"):
        (tmp_path / f"{part}.json").write_bytes((RESULTS / f"{part}.json").read_bytes())
    found = parts.summarise(tmp_path, "kerbwatch bench detectors --part triage", {parts.Part.TRIAGE: 7.0})
    assert [(one.part, one.took_s) for one in found.parts] == [("triage", 7.0), ("poisoning", None)]
    with pytest.raises(BadInput):
        parts.summarise(tmp_path, "kerbwatch bench detectors --part drift", {parts.Part.DRIFT: 7.0})


def test_what_a_job_found_is_not_measured_again(tmp_path: Path) -> None:
    row = detectors.RunLength("default", "i.i.d.", 1_000, 30_000, 8, 3_750.0, 2_078.0, holds=True)
    path = tmp_path / "deep" / "law.json"
    assert detectors.kept(path, lambda: ([row], [])) == ([row], [])
    assert detectors.kept(path, lambda: pytest.fail("measured again")) == ([row], [])


def test_the_bank_that_knows_all_but_the_change_waits_a_little_longer_than_the_oracle() -> None:
    lengths, change = np.array([1_000.0, 10_000.0]), (Change.LEVEL, 1.0)
    told = oracle(LAWS[0], change, lengths, most=400, seed=2)
    waited = Bank(LAWS[0], lengths, seed=2).delays(change, learned=10**9, most=400)
    assert (waited > 1.1 * told).all()
    assert (waited < 2.0 * told).all()


def test_shares_give_most_to_what_is_hardest_to_tell_and_are_one_together() -> None:
    weights = np.array(shares((0.03, 0.1, 0.5, 2.0), 10_000.0))
    assert weights.sum() == pytest.approx(1.0)
    assert (np.diff(weights) < 0).all()
    needed = np.log(10_000.0 * np.array([0.03, 0.1, 0.5, 2.0]))
    assert -np.log(weights) / needed == pytest.approx(-np.log(weights[0]) / needed[0])
