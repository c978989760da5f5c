"""Eight-bit copies and half precision: what they are made of, that they answer as the full model does, and what is refused."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from a_model import NOON
from onnx import TensorProto, helper
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save
from torch import nn

from inference.experiments import quantisation
from inference.experiments.quantisation import compare
from inference.lifecycle.exam import exam_of
from inference.lifecycle.gate import judge_model
from inference.lifecycle.quantising import calibration, quantised
from inference.lifecycle.rules import GateRules
from inference.networks.csp_nano import CspNano
from inference.provenance.registry import Registry, digest_of, registry_of, shipped
from inference.service.quantised import eight_bit, quantise
from inference.service.serving import GRAPH, Precision, load, white_box
from inference.training.pools import sources_of
from inference.training.samples import Sample, halved, streets
from infra.keys import model_key
from infra.settings import Settings
from streams.errors import BadInput, BrokenContract, Tampered, Unavailable
from streams.events import Context, Mode
from streams.sources.scenery import Weather


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [halved(one) for one in streets(Context.URBAN, Weather.DAY, (1000, 1001), (0, 70))]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    model_key(settings)
    return registry_of(settings)


@pytest.fixture(scope="module")
def models(registry: Registry) -> dict[Mode, str]:
    return shipped(registry)


@pytest.fixture(scope="module")
def copy(registry: Registry, models: dict[Mode, str], samples: list[Sample]) -> str:
    return quantised(registry, models[Mode.SAFE], samples, lambda: NOON).digest


@pytest.fixture(scope="module")
def unseen() -> list[Sample]:
    return [halved(one) for one in streets(Context.URBAN, Weather.DAY, (100,), (15, 90), seen=0.0)]


def test_a_copy_is_a_signed_model_of_its_own_that_names_its_parent_and_data(
    registry: Registry, models: dict[Mode, str], copy: str, samples: list[Sample]
) -> None:
    registry.verify(copy)
    card, lineage, parent = registry.card(copy), registry.lineage(copy), registry.card(models[Mode.SAFE])
    assert registry.signed_by(copy) == registry.signed_by(models[Mode.SAFE])
    assert (card.name, card.parent, card.mode, card.threshold) == ("csp-nano-safe-int8", parent.digest, Mode.SAFE, parent.threshold)
    assert lineage is not None
    assert lineage.parent == parent.digest
    assert [one.samples for one in lineage.materials] == [len(samples)]
    assert list(load_tensors(registry.read(copy))) == [GRAPH]
    assert len(registry.read(copy)) < 0.7 * len(registry.read(parent.digest))
    assert str(Path.cwd()).encode() not in registry.read(copy)


def test_the_same_model_and_pictures_make_the_same_bytes_and_are_entered_once(
    registry: Registry, models: dict[Mode, str], copy: str, samples: list[Sample]
) -> None:
    made = quantise(registry, models[Mode.SAFE], samples, sources_of(samples), lambda: datetime.now(UTC))
    assert made == copy
    with pytest.raises(BadInput, match="quantised already"):
        quantise(registry, copy, samples, sources_of(samples), lambda: NOON)
    with pytest.raises(BadInput, match="no pictures"):
        eight_bit(CspNano(), [])


def test_a_copy_serves_what_its_parent_serves(registry: Registry, models: dict[Mode, str], copy: str, unseen: list[Sample]) -> None:
    full, small = load(registry, models[Mode.SAFE]), load(registry, copy)
    pictures = [one.picture for one in unseen]
    for mine, theirs in zip(small.look(pictures), full.look(pictures), strict=True):
        assert 0 < np.abs(mine.heat - theirs.heat).mean() < 5e-3
        assert len(mine.boxes) == pytest.approx(len(theirs.boxes), abs=2)
        assert np.abs(mine.embedding - theirs.embedding).max() < 0.1 * np.abs(theirs.embedding).max()


def test_calibration_has_no_picture_that_figures_are_made_from(tmp_path: Path) -> None:
    drawn = calibration(tmp_path)  # no photographs at hand: streets alone
    assert {one.origin for one in drawn} == {f"{context}-{weather}" for context in Context for weather in Weather}
    assert len({(one.origin, one.name) for one in drawn}) == len(drawn) == 32


def test_the_gate_attacks_the_parent_and_judges_the_copy(
    registry: Registry, models: dict[Mode, str], copy: str, unseen: list[Sample]
) -> None:
    assert digest_of(registry.read(registry.card(copy).parent or "")) == models[Mode.SAFE]
    exam, rules = exam_of(Context.URBAN, unseen), GateRules(fgsm_eps=(0.03,), deepfool_xi=())
    verdict = judge_model(registry, copy, models[Mode.NORMAL], exam, rules, now=lambda: NOON)
    assert verdict.attacks == (f"fgsm eps 0.03, white-box on its parent {models[Mode.SAFE][:12]}",)
    assert all(one.value is not None for one in verdict.checks if "kept" in one.name)


def test_the_gate_refuses_a_copy_of_another_than_it_names(
    registry: Registry, models: dict[Mode, str], copy: str, unseen: list[Sample], tmp_path: Path
) -> None:
    other = Registry(tmp_path)
    shipped(other)
    path = tmp_path / "copy.safetensors"
    path.write_bytes(registry.read(copy))
    false = other.put(path, msgspec.structs.replace(registry.card(copy), parent=models[Mode.NORMAL]))
    with pytest.raises(BadInput, match="away from its parent"):
        judge_model(other, false, models[Mode.NORMAL], exam_of(Context.URBAN, unseen), GateRules(), now=lambda: NOON)
    nobodys = Registry(tmp_path / "more")
    digest = nobodys.put(path, msgspec.structs.replace(registry.card(copy), parent=None))
    with pytest.raises(BadInput, match="has no gradient: use its parent"):
        registry.network(copy)
    with pytest.raises(BadInput, match="names no parent"):
        white_box(nobodys, digest)


def graph(*, external: bool) -> bytes:
    """A graph that takes pictures and answers nonsense; with a weight in another file if asked for."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    if external:
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="passwords.bin")
    else:
        weight.raw_data = np.zeros(1, np.float32).tobytes()
    names = ("said", "height", "offset", "embedding")
    nodes = [helper.make_node("Identity", ["w"], [name]) for name in names]
    pictures = helper.make_tensor_value_info("pictures", TensorProto.UINT8, ["n", "h", "w_px", 3])
    out = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in names]
    made = helper.make_graph(nodes, "g", [pictures], out, [weight])
    model: bytes = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    onnx.load_from_string(model)
    return model


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        (save({GRAPH: np.frombuffer(graph(external=True), np.uint8)}), "further files"),
        (save({GRAPH: np.frombuffer(graph(external=False), np.uint8)}), "shapes"),
        (save({GRAPH: np.frombuffer(b"no graph at all", np.uint8)}), "does not open"),
        (save({"kernel": np.zeros(3, np.float32)}), "no quantised graph"),
    ],
)
def test_a_graph_that_is_not_ours_is_not_served(registry: Registry, copy: str, weights: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(weights)
    card = msgspec.structs.replace(registry.card(copy), digest=digest_of(weights))
    scratch = Registry(tmp_path / "models")
    with pytest.raises(BadInput, match=why):
        load(scratch, scratch.put(path, card))


def test_one_changed_byte_of_a_copy_is_noticed(registry: Registry, copy: str, tmp_path: Path) -> None:
    path, scratch = tmp_path / "w.safetensors", Registry(tmp_path / "models")
    path.write_bytes(registry.read(copy))
    scratch.put(path, registry.card(copy))
    data = bytearray(registry.read(copy))
    data[-1] ^= 1
    (tmp_path / "models" / copy / "weights.safetensors").write_bytes(data)
    with pytest.raises(Tampered):
        load(scratch, copy)


def test_bfloat16_on_a_cpu_agrees_with_float32(registry: Registry, models: dict[Mode, str], unseen: list[Sample]) -> None:
    pictures = [one.picture for one in unseen]
    for digest in models.values():
        full = load(registry, digest).look(pictures)
        half = load(registry, digest, precision=Precision.BFLOAT16).look(pictures)
        apart = np.stack([np.abs(one.heat - other.heat) for one, other in zip(full, half, strict=True)])
        assert half[0].heat.dtype == np.float32
        assert 0 < np.quantile(apart, 0.999) < 2e-2
        assert apart.max() < 5e-2  # at the edges of a few people
        sure = registry.card(digest).threshold + 0.05  # a box nearer to the threshold may be there in one and not in the other
        for one, other in ((full, half), (half, full)):
            assert all(sum(b.score > sure for b in a.boxes) <= len(c.boxes) for a, c in zip(one, other, strict=True))


def test_a_precision_that_a_device_does_not_have_is_said_in_plain_words(
    registry: Registry, models: dict[Mode, str], copy: str
) -> None:
    with pytest.raises(Unavailable, match="KERBWATCH_PRECISION"):
        load(registry, models[Mode.NORMAL], precision=Precision.FLOAT16)
    with pytest.raises(Unavailable, match="quantised"):
        load(registry, copy, precision=Precision.BFLOAT16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here: half precision on a GPU is not tried")
@pytest.mark.parametrize("precision", [Precision.FLOAT16, Precision.BFLOAT16])
def test_half_precision_on_cuda_agrees_with_float32(
    registry: Registry, models: dict[Mode, str], unseen: list[Sample], precision: Precision
) -> None:
    pictures = [one.picture for one in unseen]
    full = load(registry, models[Mode.NORMAL], "cuda").look(pictures)
    half = load(registry, models[Mode.NORMAL], "cuda", precision=precision).look(pictures)
    assert all(np.abs(one.heat - other.heat).max() < 5e-2 for one, other in zip(full, half, strict=True))


def test_a_copy_is_compared_with_its_parent_and_nothing_else_is(
    registry: Registry, models: dict[Mode, str], copy: str, unseen: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compare(registry, copy, unseen, rounds=8)
    assert (found.full, found.quantised) == (models[Mode.SAFE], copy)
    assert 0 < found.ratio_low <= found.ratio <= found.ratio_high
    assert 0 < found.size_ratio < 1
    assert [one.attack for one in found.robustness] == ["none", "fgsm 8/255", "pgd-5 8/255"]
    clean, fgsm, _ = found.robustness
    assert (clean.full or 0) > (fgsm.full or 0) > 0
    assert clean.kept == pytest.approx(1, abs=0.15)
    with pytest.raises(BadInput, match="not quantised"):
        compare(registry, models[Mode.SAFE], unseen)

    def careless(_: object, white: nn.Module, *__: object) -> tuple[()]:
        with torch.no_grad():
            next(white.parameters()).mul_(1.01)
        return ()

    monkeypatch.setattr(quantisation, "_robustness", careless)
    with pytest.raises(BrokenContract, match=f"its file is {models[Mode.SAFE][:12]}"):
        compare(registry, copy, unseen)
