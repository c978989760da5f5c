"""VLPD: equal to the authors' numbers, loads what they and OpenAI wrote, one step forward and one of training."""

import json
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from inference.attacks.gradient import fgsm_batch
from inference.networks.clip import CONTEXT, RN50_SHA256, PictureTower, TextTower, read_archive
from inference.networks.csp_nano import Maps
from inference.networks.detect import detect
from inference.networks.targets import draw, stack
from inference.networks.vlpd import WORDS, Teacher, Vlpd, Whole, cosines, from_clip, prompts, read_checkpoint
from inference.networks.vlpd_losses import contrast_loss, vlpd_losses
from inference.provenance.lineage import read_lineage
from inference.provenance.manifest import load_manifest
from inference.training import vlpd_recipe
from inference.training.samples import Sample
from inference.training.train import Progress
from inference.training.vlpd_recipe import Recipe, crop, train_vlpd
from infra.settings import read_settings
from streams.errors import BadInput, BrokenContract
from streams.sources.base import Person

NARROW = 8


def words(size: int = 128) -> Tensor:
    return nn.functional.normalize(torch.randn(size, len(WORDS), generator=torch.Generator().manual_seed(1)), dim=0)


class _Pool(nn.Module):
    def __init__(self, width: int, common: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(50, width))
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.c_proj = nn.Linear(width, width), nn.Linear(width, common)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.v_proj(x))


class _Visual(nn.Module):
    """A picture tower with CLIP's names, pool included, so that an archive of it has OpenAI's layout."""

    def __init__(self) -> None:
        super().__init__()
        tower = PictureTower(NARROW)
        for name, part in tower.named_children():
            setattr(self, name, part)
        self.attnpool = _Pool(32 * NARROW, 128)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(x)


class _Archive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = _Visual()
        self.token_embedding = nn.Embedding(600, 64)
        self.positional_embedding = nn.Parameter(torch.randn(CONTEXT, 64))
        self.text_projection = nn.Parameter(torch.randn(64, 128))
        self.logit_scale = nn.Parameter(torch.tensor(4.6))

    def forward(self, x: Tensor) -> Tensor:
        return self.visual(x)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    torch.manual_seed(3)
    whole = _Archive().half()
    path = tmp_path_factory.mktemp("clip") / "RN50.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is on its way out; OpenAI's archive is written in it
        torch.jit.save(torch.jit.trace(whole, torch.zeros(1, 3, 32, 32).half(), check_trace=False), str(path))
    return path, {name: value.float() for name, value in whole.state_dict().items()}


@pytest.fixture(scope="module")
def golden() -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = read_settings().shared_data / "csp_vlpd_fixture"
    if not (folder / "expected.json").is_file():
        pytest.skip(f"{folder} is not there: set KERBWATCH_SHARED_DATA")
    with np.load(folder / "maps.npz") as maps:
        return json.loads((folder / "expected.json").read_text()), {name: torch.from_numpy(maps[name]) for name in maps}


def test_all_five_losses_are_the_authors(golden: tuple[dict[str, Any], dict[str, Tensor]]) -> None:
    expected, maps = golden
    people = []
    for cut in expected["inputs"]:
        boxes = [(one, False) for one in cut["gts_xyxy"]] + [(one, True) for one in cut["ignores_xyxy"]]
        people.append([Person((a, b, c - a, d - b), (a, b, c - a, d - b), ignore) for (a, b, c, d), ignore in boxes])
    targets = stack([draw(some, 256, 512) for some in people])
    centre = torch.logit(maps["pred_cls"].double()).float()
    said = Whole(Maps(centre, maps["pred_reg"], maps["pred_off"], torch.empty(0)), maps["student_score_map"], maps["feature"])
    found = vlpd_losses(said, targets, maps["teacher_score_map"])
    want = expected["losses"]
    assert found.vls.item() == pytest.approx(want["vls"], abs=1e-5)
    assert found.psc.item() == pytest.approx(want["psc"], abs=1e-5)
    assert found.detection.total.item() == pytest.approx(want["detection_total"], abs=1e-5)
    assert found.total.item() == pytest.approx(want["vlpd_total_citypersons"], abs=1e-5)
    nobody = contrast_loss(maps["feature"], maps["student_score_map"], torch.zeros_like(targets.bump))
    assert nobody.item() == expected["losses_no_pedestrian"]["psc"] == 0


def test_the_real_width_gives_maps_of_the_legend_and_the_papers_size() -> None:
    torch.manual_seed(0)
    network = Vlpd(words(1024)).eval()
    with torch.no_grad():
        said = network.whole(torch.rand(1, 3, 64, 128) * 255)
    assert [tuple(part.shape) for part in said.maps] == [(1, 1, 16, 32), (1, 1, 16, 32), (1, 2, 16, 32), (1, 1024, 4, 8)]
    assert said.score_map.shape == (1, 10, 4, 8)
    assert said.contrast.shape == (1, 768, 16, 32)
    assert said.score_map.abs().max() <= 1
    assert torch.sigmoid(said.maps.centre).mean() == pytest.approx(0.01, rel=0.9)
    with pytest.raises(BrokenContract, match="multiples of 16"):
        network(torch.zeros(1, 3, 60, 128))


def test_it_is_a_detector_like_any_other(archive: tuple[Path, dict[str, Tensor]]) -> None:
    network = from_clip(archive[1], words(), NARROW).eval()
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    assert isinstance(detect(network, [picture], 0.005)[0], tuple)
    (moved,) = fgsm_batch(network, [picture], [[Person((10, 5, 16, 40), (10, 5, 16, 40))]], 8 / 255)
    assert 0 < np.abs(moved.astype(int) - picture).max() <= 8


def test_one_training_step_lowers_the_loss_and_moves_all_but_the_words(archive: tuple[Path, dict[str, Tensor]]) -> None:
    torch.manual_seed(0)
    network, teacher = from_clip(archive[1], words(), NARROW).train(), Teacher(archive[1], words(), NARROW).train()
    pictures = torch.rand(2, 3, 64, 96) * 255
    targets = stack([draw([Person((30, 8, 20, 48), (30, 8, 20, 48))], 64, 96)] * 2)
    wanted = teacher(network.normalised(pictures))
    assert wanted.shape == (2, 10, 4, 6)
    before = {name: value.clone() for name, value in network.named_parameters()}
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    seen = []
    for _ in range(4):
        loss = vlpd_losses(network.whole(pictures), targets, wanted).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < seen[0]
    assert not [name for name, value in network.named_parameters() if torch.equal(value, before[name])]
    assert torch.equal(network.backbone.zeroshot_weights, words())
    assert not any(weight.requires_grad for weight in teacher.parameters())


def test_the_dilated_top_has_clips_weights_at_twice_the_resolution(archive: tuple[Path, dict[str, Tensor]]) -> None:
    network = from_clip(archive[1], words(), NARROW)
    top = network.backbone.dilated_layer4.state_dict()
    assert all(torch.equal(value, archive[1][f"visual.layer4.{name}"]) for name, value in top.items())
    assert network.backbone.dilated_layer4(torch.rand(1, 16 * NARROW, 8, 8)).shape == (1, 32 * NARROW, 8, 8)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_checkpoint_in_the_authors_layout_is_loaded_as_it_is(tmp_path: Path, wrapped: bool) -> None:
    torch.manual_seed(5)
    network = Vlpd(words(), NARROW).eval()
    state = {f"module.{name}" if wrapped else name: value for name, value in network.state_dict().items()}
    extra = "module.backbone.visual.layer4.0.conv1.weight" if wrapped else "backbone.visual.attnpool.q_proj.bias"
    state[extra] = torch.zeros(3)
    names = {name.removeprefix("module.") for name in state}
    assert {"backbone.visual.layer3.5.bn3.running_var", "backbone.dilated_layer4.0.downsample.0.weight"} <= names
    assert {"backbone.p3_l2.weight", "backbone.feat_bn.bias", "head.cls.0.weight", "head.offset.0.bias"} <= names
    torch.save({"model": state} if wrapped else state, tmp_path / "VLPD.pth")
    again = read_checkpoint(tmp_path / "VLPD.pth", width=NARROW)
    pictures = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        assert torch.equal(again(pictures).centre, network(pictures).centre)


def test_a_checkpoint_without_words_or_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.pth"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(BadInput, match="holds no text embeddings"):
        read_checkpoint(path)
    with pytest.raises(BadInput, match="no VLPD of width 8"):
        read_checkpoint(path, words(), NARROW)
    torch.save(Vlpd, path)
    with pytest.raises(BadInput, match="no checkpoint of tensors alone"):
        read_checkpoint(path)
    with pytest.raises(BadInput, match="must be E x 10"):
        Vlpd(torch.zeros(4, 3), NARROW)


def test_openais_archive_is_read_without_running_it(archive: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    path, state = archive
    found = read_archive(path)
    assert set(state) <= set(found)
    assert all(torch.equal(found[name].float(), value) for name, value in state.items())
    (tmp_path / "text.pt").write_text("no archive")
    with pytest.raises(BadInput, match="no TorchScript archive"):
        read_archive(tmp_path / "text.pt")


def test_a_name_that_no_tensor_needs_is_refused_in_an_archive(tmp_path: Path) -> None:
    import pickle  # noqa: PLC0415 - to make what must be refused
    import zipfile  # noqa: PLC0415 - same

    class _Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("ran",)

    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as made:
        made.writestr("evil/data.pkl", pickle.dumps(_Evil()))
    with pytest.raises(BadInput, match="print, which no tensor needs"):
        read_archive(tmp_path / "evil.pt")


def test_cosines_are_bounded_and_find_the_word_itself() -> None:
    found = cosines(words().T[None, :, :, None].transpose(1, 2) * 7, words())[0, :, :, 0]
    assert torch.allclose(found.diagonal(), torch.ones(10), atol=1e-6)
    assert found.abs().max() <= 1 + 1e-6


def test_the_ten_prompts_are_embedded_as_unit_vectors() -> None:
    found = prompts()
    assert found.shape == (len(WORDS), CONTEXT)
    assert found[WORDS.index("traffic sign"), :8].tolist() == [49406, 320, 1674, 539, 3399, 2292, 49407, 0]
    state = {
        "token_embedding.weight": torch.randn(49408, 64),
        "positional_embedding": torch.randn(CONTEXT, 64),
        "text_projection": torch.randn(64, 128),
        "ln_final.weight": torch.ones(64),
        "ln_final.bias": torch.zeros(64),
    }
    with torch.no_grad():
        vectors = TextTower(state)(found)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(len(WORDS)), atol=1e-5)


SHORT = Recipe(epochs=2, steps_per_epoch=2, batch=2, height_px=64, width_px=96, rate=1e-3, warm_up_epochs=1)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    rng = np.random.default_rng(7)
    people = tuple(Person((40.0 + 60 * n, 20.0, 33.0, 80.0), (40.0 + 60 * n, 20.0, 33.0, 80.0), n == 2) for n in range(3))
    return [Sample("test", str(n), rng.integers(0, 256, (128, 256, 3), np.uint8), people) for n in range(3)]


def trained(folder: Path, archive: dict[str, Tensor], samples: list[Sample], stop_at: int | None = None) -> dict[str, Tensor]:
    def watch(at: Progress) -> None:
        assert (at.left_s > 0) == (at.step < at.steps)
        if at.step == stop_at:
            raise KeyboardInterrupt

    torch.manual_seed(1)
    network, teacher = from_clip(archive, words(), NARROW), Teacher(archive, words(), NARROW)
    return load_file(train_vlpd(SHORT, samples, network, teacher, folder, report=watch))


def test_the_recipe_killed_half_way_ends_as_an_unbroken_run(
    tmp_path: Path, archive: tuple[Path, dict[str, Tensor]], samples: list[Sample]
) -> None:
    unbroken = trained(tmp_path / "unbroken", archive[1], samples)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", archive[1], samples, stop_at=3)
    resumed = trained(tmp_path / "killed", archive[1], samples)
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())
    lines = [json.loads(line) for line in (tmp_path / "killed" / "curves.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert {"centre", "height", "offset", "vls", "psc"} <= set(lines[0])
    network = read_checkpoint(tmp_path / "killed" / "weights.safetensors", width=NARROW)
    assert isinstance(network, Vlpd)
    assert all(torch.equal(value, unbroken[name]) for name, value in network.state_dict().items())
    assert not list((tmp_path / "killed").glob("*.pth"))


def test_the_command_leaves_weights_and_their_lineage(
    tmp_path: Path, archive: tuple[Path, dict[str, Tensor]], samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [Sample("citypersons", one.name, one.picture, one.people) for one in samples]
    monkeypatch.setattr(vlpd_recipe, "Recipe", lambda: SHORT)
    monkeypatch.setattr(vlpd_recipe, "read_archive", lambda *_: archive[1])
    monkeypatch.setattr(vlpd_recipe, "TextTower", lambda _: lambda _: words().T)
    monkeypatch.setattr(vlpd_recipe, "from_clip", lambda state, given: from_clip(state, given, NARROW))
    monkeypatch.setattr(vlpd_recipe, "Teacher", lambda state, given: Teacher(state, given, NARROW))
    monkeypatch.setattr(vlpd_recipe, "CityPersons", lambda *_: None)
    monkeypatch.setattr(vlpd_recipe, "_Frames", lambda _: frames)
    vlpd_recipe.train_vlpd_command(tmp_path, tmp_path / "RN50.pt", tmp_path / "run", "cpu")
    lineage = read_lineage((tmp_path / "run" / "lineage.json").read_bytes())
    assert lineage.digest == sha256((tmp_path / "run" / "weights.safetensors").read_bytes()).hexdigest()
    assert (lineage.parent, lineage.materials[0].samples) == (RN50_SHA256, 3)
    assert (lineage.figures["steps"], lineage.settings["rate"]) == (4, 1e-3)
    assert lineage.started_at < lineage.finished_at
    manifest = load_manifest(tmp_path / "run" / "manifest.json")
    assert manifest.digest == lineage.materials[0].manifest_digest


def test_the_recipe_stops_before_a_loss_that_is_not_finite(
    tmp_path: Path, archive: tuple[Path, dict[str, Tensor]], samples: list[Sample]
) -> None:
    network, teacher = from_clip(archive[1], words(), NARROW), Teacher(archive[1], words(), NARROW)
    with torch.no_grad():
        network.head["cls"][0].bias.fill_(float("nan"))
    with pytest.raises(BadInput, match="step 0: the loss is nan"):
        train_vlpd(SHORT, samples, network, teacher, tmp_path, report=lambda _: None)
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(BadInput, match="other settings"):
        train_vlpd(SHORT, samples, network, teacher, tmp_path, report=lambda _: None)


def test_a_crop_keeps_who_is_half_left_and_wide_enough(samples: list[Sample]) -> None:
    rng = np.random.default_rng(0)
    kept = 0
    for _ in range(60):
        one = crop(rng, samples[0], 64, 96)
        assert one.picture.shape == (64, 96, 3)
        for person in one.people:
            x, y, w, h = person.box_px
            assert 0 <= x <= x + w <= 96
            assert 0 <= y <= y + h <= 64
            assert min(w, h) >= 8
            assert person.ignore or w >= 16
            kept += not person.ignore
    assert kept > 10
