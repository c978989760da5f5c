"""What shipping a model writes, and that the shipped models' cards and lineages say what the runs used and measured."""

import json
from pathlib import Path

import msgspec
import pytest
from a_model import a_card, a_lineage, run_folder

from inference.lifecycle import publish
from inference.provenance.lineage import read_lineage, write_lineage
from inference.provenance.registry import Card, Figure, read_card
from inference.training.pools import ROAD_FRAMES, SQUARE_FRAMES, sources_of
from inference.training.samples import Sample
from inference.training.train import PRESETS
from streams.errors import Tampered


def figure(data: str, attack: str, miss_rate: float | None) -> Figure:
    return Figure(
        data=data, attack=attack, pictures=3, people=4, recall=None, precision=0.5, average_precision=0.5,
        miss_rate=miss_rate, false_per_picture=0.25,
    )  # fmt: skip


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(publish, "FOLDER", tmp_path / "weights")
    monkeypatch.setattr(publish, "DOCS", tmp_path / "docs")
    return tmp_path


def test_shipping_adds_the_clean_figures_to_the_lineage_and_the_curves_to_the_docs(at: Path) -> None:
    digest = run_folder(at / "run", 1)
    (at / "run" / "curves.png").write_bytes(b"a picture")
    measured = (figure("urban", "none", 0.3), figure("urban", "fgsm 8/255", 0.9), figure("highway", "none", None))
    publish.ship(msgspec.structs.replace(a_card(digest), figures=measured), at / "run")
    shipped = at / "weights"
    assert read_card(shipped / "small.json").digest == digest
    assert (shipped / "small.safetensors").read_bytes() == (at / "run" / "weights.safetensors").read_bytes()
    assert (at / "docs" / "curves-small.png").read_bytes() == b"a picture"
    assert read_lineage((shipped / "small.lineage.json").read_bytes()).figures == {
        "validation": 0.125, "urban miss_rate": 0.3, "urban false_boxes": 0.25, "highway false_boxes": 0.25,
    }  # fmt: skip


def test_the_lineage_of_another_model_is_not_shipped(at: Path) -> None:
    digest = run_folder(at / "run", 1)
    (at / "run" / "lineage.json").write_bytes(write_lineage(a_lineage("a" * 64)))
    with pytest.raises(Tampered, match=f"is not of {digest[:12]}"):
        publish.ship(a_card(digest), at / "run")
    assert not (at / "weights").exists()


@pytest.fixture(params=PRESETS)
def card(request: pytest.FixtureRequest) -> Card:
    return read_card(publish.FOLDER / f"{request.param}.json")


def test_a_shipped_card_names_every_source_its_share_and_its_licence(card: Card) -> None:
    shares = json.loads(bytes(card.settings))["shares"]
    pools = ("penn-fudan", "square", "urban-day", "highway-day", "road")
    for pool, share in zip(pools, shares, strict=True):
        assert f"{share:g} from {pool}" in card.data
    for one in sources_of([Sample(pool, "", None, ()) for pool in pools]):  # type: ignore[arg-type] # no picture is looked at
        assert f"{one.source}; licence: {one.licence}" in card.data
    assert f"square, {len(SQUARE_FRAMES)} pictures" in card.data
    assert f"road, {len(ROAD_FRAMES)} pictures" in card.data
    assert publish.MEASURED_ON in card.data
    assert f"docs/results/curves-{card.name}.png" in card.notes
    assert (publish.DOCS / f"curves-{card.name}.png").stat().st_size > 10_000


def test_a_shipped_lineage_carries_the_runs_figures_and_what_was_not_recorded_in_time(card: Card) -> None:
    lineage = read_lineage((publish.FOLDER / f"{card.name}.lineage.json").read_bytes())
    assert lineage.figures["steps"] == PRESETS[card.name].steps
    assert lineage.figures["last_loss"] > 0
    assert publish.clean(card).items() <= lineage.figures.items()
    assert {"csp-nano": "Written after the fact", "csp-nano-safe": "when its last life began"}[card.name] in lineage.note
