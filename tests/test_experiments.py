"""The experiments: every number of the paper has its model and attack, nothing is done twice, results say what made them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from inference.experiments import figures, paper, report
from inference.experiments.data import Data, poisoned
from inference.experiments.grid import SUBSETS, Attack, Budget, Cell, Grid, Starts
from inference.networks.csp_nano import CspNano, to_bytes
from inference.training.defences import Defences
from inference.training.pools import Pools
from inference.training.samples import Sample, shaped
from streams.errors import BrokenContract
from streams.sources.base import Picture

TINY = Budget(name="tiny", steps=2, epoch=1, height_px=64, width_px=96, tests=1, iterations=1)


@pytest.fixture
def data() -> Data:
    rng = np.random.default_rng(3)

    def sample(name: str) -> Sample:
        return Sample("test", name, rng.integers(0, 256, (96, 128, 3), np.uint8), (shaped((30.0, 20.0, 24.0, 60.0)),))

    return Data("test", Pools(([sample("a"), sample("b")],), [], [sample("judge")]), (1.0,), (sample("held"),))


@pytest.fixture
def grid(tmp_path: Path, data: Data) -> Grid:
    torch.manual_seed(0)
    return Grid(tmp_path, data, Starts(to_bytes(CspNano()), to_bytes(CspNano())), TINY, threads=1, say=lambda _: None, device="cpu")


def test_table_6_has_every_attack_under_every_strategy_from_ten_models() -> None:
    rows = list(paper.table6(1))
    assert {(attack, strategy) for attack, strategy, _, _ in rows} == {(a, s) for a in paper.ATTACKS for s in paper.STRATEGIES}
    assert len(rows) == 40
    assert len({repr(cell) for _, _, cell, _ in rows}) == 10
    assert all((cell.gamma > 0) == ("DP" in attack) for attack, _, cell, _ in rows)
    assert all((done.eps > 0, done.xi > 0) == ("FGSM" in attack, "DF" in attack) for attack, _, _, done in rows)


def test_figures_ask_for_each_panel_of_the_paper() -> None:
    assert len({point.panel for point in paper.figure4(1)}) == 12
    assert len({point.panel for point in paper.figure5(1)}) == 16
    assert {point.panel for point in paper.figure6(1)} == {"DP", "FGSM", "DF"}
    assert all(cell.judged for _, cell in paper.figure7(1))


def test_a_model_is_trained_once_and_measured_once(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell(defences=Defences(patience=3, eps_at=0.02, cutmix=0.5, alpha=0.5), gamma=0.0, seed=1)
    rows = grid.measured(cell, Attack(eps=0.03))
    assert set(rows) == set(SUBSETS)
    assert rows["reasonable"].counted == 1

    def never(*_: object, **__: object) -> None:
        raise AssertionError("this was done before")

    monkeypatch.setattr("inference.experiments.grid.run", never)
    monkeypatch.setattr("inference.experiments.grid.detect", never)
    assert grid.measured(cell, Attack(eps=0.03)) == rows
    with pytest.raises(AssertionError, match="done before"):
        grid.measured(cell, Attack(eps=0.01))


def test_figures_do_not_count_once_an_attack_changed_the_network(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell(defences=Defences(), gamma=0.0, seed=1)

    def careless(network: nn.Module, pictures: list[Picture], *_: object) -> list[Picture]:
        with torch.no_grad():
            next(network.parameters()).mul_(1.01)
        return pictures

    with monkeypatch.context() as patched:
        patched.setattr("inference.experiments.grid.fgsm_batch", careless)
        with pytest.raises(BrokenContract, match="no figure counts"):
            grid.measured(cell, Attack(eps=0.03))
    assert not list(grid.trained(cell).glob("fgsm-*.json"))


def test_poisoning_moves_training_labels_the_same_way_each_time_and_leaves_the_judges(data: Data) -> None:
    bad = poisoned(data.pools, 1.0, 5)
    moved = [sample.people[0].box_px for sample in bad.groups[0]]
    assert moved == [sample.people[0].box_px for sample in bad.groups[0]]
    assert moved != [sample.people[0].box_px for sample in data.pools.groups[0]]
    assert bad.validation is data.pools.validation
    assert poisoned(data.pools, 0.0, 5) is data.pools


def test_a_figure_is_written_as_numbers_table_and_picture(tmp_path: Path) -> None:
    points = tuple(
        figures.Measured(panel=panel, line=line, x=x, seed=seed, miss_rate=dict.fromkeys(SUBSETS, rate))
        for panel in ("DP", "FGSM")
        for line in ("0", "0.02")
        for x, rate in ((0.01, 0.25), (0.02, None))
        for seed in (1, 2)
    )
    for name in ("figure4", "figure6"):
        figure = figures.Figure(name=name, command="c", machine="m", data="d", budget=TINY, seeds=(1, 2), points=points)
        as_json, table, picture = figures.write(figure, tmp_path)
        assert json.loads(as_json.read_text())["points"][0]["miss_rate"]["reasonable"] == 0.25
        assert "| 0.02 | 25.0 | - |" in table.read_text()
        assert picture.stat().st_size > 5000


def test_convergence_is_drawn_over_epochs_from_the_one_subset_that_was_judged(tmp_path: Path) -> None:
    points = tuple(
        figures.Measured(panel="validation", line="no defence", x=epoch, seed=1, miss_rate={"all": rate})
        for epoch, rate in enumerate((0.5, 0.2, 0.3), 1)
    )
    figure = figures.Figure(name="figure7", command="c", machine="m", data="d", budget=TINY, seeds=(1,), points=points)
    _, table, picture = figures.write(figure, tmp_path)
    assert "| all | 1 | 2 | 3 |" in table.read_text()
    assert "| no defence | 50.0 | 20.0 | 30.0 |" in table.read_text()
    assert picture.stat().st_size > 5000


def test_table_6_gives_means_intervals_and_what_was_taken_back(tmp_path: Path) -> None:
    rates = {("clean", "none"): 0.1, ("FGSM", "none"): 0.5, ("FGSM", "secmlops"): 0.2, ("DP", "none"): None}
    rows = [
        report.Measured(
            subset="reasonable", attack=attack, strategy=strategy, seed=seed, miss_rate=rate and rate + 0.01 * (seed - 2)
        )
        for (attack, strategy), rate in rates.items()
        for seed in (1, 2, 3)
    ]
    path, table, picture = report.write(report.table6(rows, settings={}, command="c", machine="m"), tmp_path)
    result = json.loads(path.read_text())
    assert list(result["laMR"]) == ["reasonable", "small", "heavy", "all"]
    assert list(result["laMR"]["small"]) == list(paper.ATTACKS)
    assert result["laMR"]["reasonable"]["FGSM"]["none"] == pytest.approx(50)
    assert result["laMR"]["reasonable"]["DP"]["none"] is None
    assert result["intervals"]["reasonable"]["FGSM"]["none"] == pytest.approx(4.303 / 3**0.5, abs=0.01)
    assert result["taken_back"]["FGSM"]["secmlops"] == 0.75
    assert "| FGSM | 50.0 ± 2.5 [35.6] | 20.0 ± 2.5 [14.9] |" in table.read_text()
    assert picture.stat().st_size > 5000
