"""Models by digest: written once, verified before use, whole or not there."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from a_model import a_card, a_registry, add
from safetensors.numpy import save

import inference.provenance.registry as registry_module
from inference.networks.csp_nano import CspNano, to_bytes
from inference.provenance.registry import SHIPPED, Card, Registry, digest_of, read_card, shipped, write_card
from infra.keys import model_key, model_keys
from infra.settings import Settings
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import Mode

NOBODY = "0" * 64


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "some.safetensors"
    path.write_bytes(to_bytes(CspNano()))
    return path


@pytest.fixture(scope="module")
def card(weights: Path) -> Card:
    return msgspec.structs.replace(a_card(digest_of(weights.read_bytes()), name="some"), architecture="csp-nano")


def test_a_model_goes_in_and_comes_out_by_its_digest(tmp_path: Path, weights: Path, card: Card) -> None:
    registry = Registry(tmp_path / "models")
    digest = registry.put(weights, card)
    assert registry.weights(digest).read_bytes() == weights.read_bytes()
    assert to_bytes(registry.network(digest)) == weights.read_bytes()
    assert list(registry.cards()) == [digest]
    assert registry.put(weights, card) == digest
    assert not list((tmp_path / "models").glob(".put-*"))


def test_an_entry_is_never_given_another_card(tmp_path: Path, weights: Path, card: Card) -> None:
    registry = Registry(tmp_path)
    registry.put(weights, card)
    with pytest.raises(BadInput, match="written once"):
        registry.put(weights, msgspec.structs.replace(card, notes="better"))


def test_changed_weights_are_not_handed_out(tmp_path: Path, weights: Path, card: Card) -> None:
    registry = Registry(tmp_path)
    path = registry.weights(registry.put(weights, card))
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for use in (registry.read, registry.weights, registry.network):
        with pytest.raises(Tampered, match="do not serve it"):
            use(card.digest)


def test_a_file_that_is_not_its_cards_is_refused(tmp_path: Path, weights: Path, card: Card) -> None:
    with pytest.raises(Tampered):
        Registry(tmp_path).put(weights, msgspec.structs.replace(card, digest=NOBODY))
    other = tmp_path / "other"
    other.write_bytes(b"no weights")
    with pytest.raises(BadInput, match="no safetensors weights"):
        Registry(tmp_path).put(other, msgspec.structs.replace(card, digest=digest_of(b"no weights")))


def test_a_pickle_a_damaged_header_and_other_tensors_are_never_taken(tmp_path: Path, weights: Path, card: Card) -> None:
    pickled = io.BytesIO()
    torch.save(CspNano().state_dict(), pickled)
    whole = weights.read_bytes()
    for content in (pickled.getvalue(), b"\x80\x04K\x01.", b"", whole[:-1], b"\xff" * 8 + whole[8:]):
        path = tmp_path / "weights"
        path.write_bytes(content)
        with pytest.raises(BadInput, match="no safetensors weights"):
            Registry(tmp_path / "models").put(path, msgspec.structs.replace(card, digest=digest_of(content)))
    other = save({"kernel": np.zeros(3, np.float32)})
    path.write_bytes(other)
    with pytest.raises(BadInput, match="no CSP-nano weights"):
        Registry(tmp_path / "models").put(path, msgspec.structs.replace(card, digest=digest_of(other)))
    assert not (tmp_path / "models").exists()


def test_files_larger_than_any_such_file_are_refused_before_they_are_read(
    tmp_path: Path, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    with path.open("wb") as sparse:
        sparse.truncate((1 << 30) + 1)
    monkeypatch.setitem(registry_module._LARGEST, "weights.safetensors", 1 << 20)
    with pytest.raises(BadInput, match="nothing of it was taken"):
        Registry(tmp_path / "models").put(path, card)
    with (tmp_path / "card.json").open("wb") as sparse:
        sparse.truncate((1 << 20) + 1)
    with pytest.raises(BadInput, match="nothing of it was taken"):
        read_card(tmp_path / "card.json")


def test_what_is_not_there_and_what_is_no_digest_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no model 000000000000"):
        Registry(tmp_path).read(NOBODY)
    with pytest.raises(BadInput, match="no model digest"):
        Registry(tmp_path).read("../../etc/passwd")
    (tmp_path / "card.json").write_text('{"name": 1}')
    with pytest.raises(BadInput, match="no model card"):
        read_card(tmp_path / "card.json")


def test_many_who_add_the_same_model_at_once_find_one_whole_entry(tmp_path: Path) -> None:
    registry = a_registry(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: add(registry, tmp_path / f"{_}", 1), range(16)))
    assert set(registry.digests()) == found
    assert len(found) == 1
    registry.verify(found.pop())
    assert [path.name for path in registry.root.iterdir()] == list(registry.digests())


def test_setup_signs_the_shipped_models_and_again_when_their_key_is_retired(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    registry = a_registry(tmp_path)
    digests = shipped(registry)
    old, new = model_key(settings), model_key(settings, rotate=True)
    assert {registry.signed_by(digest) for digest in digests.values()} == {old}
    (model_keys(settings) / f"{old}.pub").unlink()
    assert shipped(registry) == digests
    assert {registry.signed_by(digest) for digest in digests.values()} == {new}


FORMER_DATA = (
    "Trained on Penn-Fudan, 90 of 120 pictures (split seed 7), and synthetic streets, seeds from 1000 on, both contexts, all "
    "weathers. Figures: the other 30 photographs at half size; streets of seeds 0-5; a person's width is 0.41 of the height; "
    "IoU 0.5; all pictures sent as JPEG 92; attacks are white-box unless named otherwise."
)


def as_shipped_before(folder: Path, name: str) -> str:
    """Writes a shipped model's weights with the card and lineage of the version before; its digest."""
    folder.mkdir()
    card = read_card(SHIPPED / f"{name}.json")
    notes = card.notes.removesuffix(f"Loss curves: docs/results/curves-{name}.png.").strip()
    statement = json.loads((SHIPPED / f"{name}.lineage.json").read_bytes())
    statement["predicate"]["figures"] = {}
    del statement["predicate"]["note"]
    (folder / "weights.safetensors").write_bytes((SHIPPED / f"{name}.safetensors").read_bytes())
    (folder / "card.json").write_bytes(write_card(msgspec.structs.replace(card, data=FORMER_DATA, notes=notes)))
    (folder / "lineage.json").write_text(json.dumps(statement, indent=2, sort_keys=True) + "\n")
    return card.digest


def test_a_home_with_an_earlier_versions_cards_keeps_them_also_when_the_key_is_retired(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    registry = a_registry(tmp_path)
    for name in ("csp-nano", "csp-nano-safe"):
        there = tmp_path / name
        as_shipped_before(there, name)
        registry.put(there / "weights.safetensors", read_card(there / "card.json"), (there / "lineage.json").read_bytes())
    before = {digest: registry.card(digest) for digest in registry.digests()}
    assert {card.data for card in before.values()} == {FORMER_DATA}
    digests = shipped(registry)
    old, new = model_key(settings), model_key(settings, rotate=True)
    (model_keys(settings) / f"{old}.pub").unlink()
    assert shipped(registry) == digests
    assert {registry.signed_by(digest) for digest in digests.values()} == {new}
    assert {digest: registry.card(digest) for digest in digests.values()} == before
    registry.put(
        SHIPPED / "csp-nano.safetensors", read_card(SHIPPED / "csp-nano.json"), (SHIPPED / "csp-nano.lineage.json").read_bytes()
    )
    assert registry.card(digests[Mode.NORMAL]).data == FORMER_DATA


def test_the_shipped_models_verify_and_carry_figures_and_licence(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    digests = shipped(registry)
    assert shipped(registry) == digests
    assert set(digests) == set(Mode)
    for mode, digest in digests.items():
        card = registry.card(digest)
        assert card.mode is mode
        assert "cftang" in card.licence
        assert card.figures
    assert registry.card(digests[Mode.SAFE]).parent == digests[Mode.NORMAL]
