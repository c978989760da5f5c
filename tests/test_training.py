"""A training run: known by its seed, goes on after a kill, stops before a bad step, measures honestly."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from inference.measure.quality import measure
from inference.networks.csp_nano import CspNano, from_bytes, to_bytes
from inference.training.curves import plot
from inference.training.defences import Defences, EarlyStopping, cutmix
from inference.training.pools import GROUPS, Pools, batch
from inference.training.samples import Sample, crop, shaped, split
from inference.training.train import PRESETS, Progress, TrainSettings, run
from streams.errors import BadInput
from streams.events import Box

TINY = TrainSettings(
    model="tiny", seed=4, steps=4, batch=2, height_px=64, width_px=96, half=False, frozen_blocks=0, epoch=2, shares=(0.5, 0.3, 0.2)
)


@pytest.fixture(scope="module")
def pools() -> Pools:
    rng = np.random.default_rng(2)

    def sample(name: str, people: int) -> Sample:
        boxes = tuple(shaped((20.0 + 40 * at, 30.0, 20.0, 50.0)) for at in range(people))
        return Sample("test", name, rng.integers(0, 256, (120, 160, 3), np.uint8), boxes)

    empty = sample("empty", 0)
    return Pools(([sample("a", 2)], [sample("b", 1)], [empty]), [empty.picture])


def trained(folder: Path, pools: Pools, settings: TrainSettings = TINY, stop_at: int | None = None) -> bytes:
    def watch(at: Progress) -> None:
        if at.step == stop_at:
            raise KeyboardInterrupt

    torch.manual_seed(settings.seed)
    return run(settings, pools, CspNano(), folder, threads=1, report=watch).read_bytes()


def test_a_run_killed_half_way_ends_as_an_unbroken_one(tmp_path: Path, pools: Pools) -> None:
    whole = trained(tmp_path / "whole", pools)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", pools, stop_at=3)
    assert trained(tmp_path / "killed", pools) == whole
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / "curves.jsonl").read_text().splitlines()]
    assert steps == list(range(4))
    assert plot(tmp_path / "killed" / "curves.jsonl").stat().st_size > 1000
    assert isinstance(from_bytes(whole), CspNano)


def test_adversarial_training_takes_its_steps_too(tmp_path: Path, pools: Pools) -> None:
    assert trained(tmp_path, pools, msgspec.structs.replace(TINY, steps=2, defences=Defences(eps_at=0.03), half=True))


SECMLOPS = Defences(cutmix=0.5, patience=9, eps_at=0.02, alpha=0.5)


def test_all_defences_together_resume_as_if_unbroken(tmp_path: Path, pools: Pools) -> None:
    settings = msgspec.structs.replace(TINY, steps=8, defences=SECMLOPS)

    def judge(network: nn.Module) -> float:
        return sum(weight.abs().sum().item() for weight in network.parameters())

    def go(folder: Path, stop_at: int | None = None) -> bytes:
        def watch(at: Progress) -> None:
            if at.step == stop_at:
                raise KeyboardInterrupt

        torch.manual_seed(settings.seed)
        return run(settings, pools, CspNano(), folder, threads=1, report=watch, validate=judge).read_bytes()

    whole = go(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "killed", stop_at=7)
    assert go(tmp_path / "killed") == whole


def test_early_stopping_keeps_the_best_epoch_and_ends_the_run(tmp_path: Path, pools: Pools) -> None:
    settings = msgspec.structs.replace(TINY, steps=20, defences=Defences(patience=2))
    seen: list[bytes] = []

    def judge(network: nn.Module) -> float:
        seen.append(to_bytes(network))
        return (0.5, 0.2, 0.3, 0.25, 0.1)[len(seen) - 1]

    torch.manual_seed(1)
    weights = run(settings, pools, CspNano(), tmp_path, threads=1, report=lambda _: None, validate=judge).read_bytes()
    assert len(seen) == 4
    assert weights == seen[1]


def test_a_patience_without_validation_is_refused(tmp_path: Path, pools: Pools) -> None:
    with pytest.raises(BadInput, match="needs a validation"):
        trained(tmp_path, pools, msgspec.structs.replace(TINY, defences=Defences(patience=1)))


@given(scores=st.lists(st.floats(0, 1), min_size=1, max_size=30), patience=st.integers(1, 5))
def test_early_stopping_stops_after_that_many_epochs_without_a_better_one(scores: list[float], patience: int) -> None:
    stopping = EarlyStopping(patience=patience)
    for epoch, score in enumerate(scores):
        over = stopping.seen(epoch, score)
        assert stopping.best == min(scores[: epoch + 1])
        assert over == (epoch - scores.index(stopping.best) >= patience)
        if over:
            break


def test_cutmix_moves_pixels_and_truth_together(pools: Pools) -> None:
    pictures, targets = batch(pools, TINY.shares, (2, 64, 96), (4, 0))
    mixed, truth = cutmix(np.random.default_rng(3), pictures, targets)
    came = (mixed != pictures).any(1)
    assert came.any()
    inside = came.reshape(2, 16, 4, 24, 4).any(4).any(2)
    for n in range(2):
        for new, old in zip(truth, targets, strict=True):
            assert torch.equal(new[n][:, ~inside[n]], old[n][:, ~inside[n]])
            assert torch.equal(new[n][:, inside[n]], old[1 - n][:, inside[n]])


def test_a_loss_that_is_not_finite_stops_before_the_weights_move(tmp_path: Path, pools: Pools) -> None:
    network = CspNano()
    with torch.no_grad():
        network.out.bias[0] = float("nan")
    before = network.out.weight.clone()
    with pytest.raises(BadInput, match="step 0: the loss is nan"):
        run(TINY, pools, network, tmp_path, threads=1, report=lambda _: None)
    assert torch.equal(network.out.weight, before)


def test_a_folder_of_another_run_is_not_overwritten(tmp_path: Path, pools: Pools) -> None:
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(BadInput, match="other settings"):
        trained(tmp_path, pools)


def test_a_batch_is_known_by_seed_and_step(pools: Pools) -> None:
    def pictures(step: int) -> Tensor:
        return batch(pools, TINY.shares, (2, 64, 96), (4, step))[0]

    assert torch.equal(pictures(3), pictures(3))
    assert not torch.equal(pictures(3), pictures(4))
    assert {len(preset.shares) for preset in PRESETS.values()} == {len(GROUPS)}
    assert {preset.height_px % 32 + preset.width_px % 32 for preset in PRESETS.values()} == {0}


def test_a_crop_keeps_boxes_on_people_and_ignores_who_is_cut(pools: Pools) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        one = crop(rng, pools.groups[0], pools.backdrops, 64, 96)
        assert one.picture.shape == (64, 96, 3)
        for person in one.people:
            x, y, w, h = person.box_px
            shown = max(0.0, min(x + w, 96) - max(x, 0)) * max(0.0, min(y + h, 64) - max(y, 0)) / (w * h)
            assert shown > 0
            assert person.ignore or (shown >= 0.6 and h >= 20)


def test_the_split_is_fixed_and_has_no_overlap() -> None:
    samples = [Sample("test", str(number), np.zeros((1, 1, 3), np.uint8), ()) for number in range(20)]
    train, held = split(samples, 5, 7)
    assert len(train) == 15
    assert not {one.name for one in train} & {one.name for one in held}
    assert [one.name for one in split(samples, 5, 7)[1]] == [one.name for one in held]


def test_figures_count_hits_false_boxes_misses_and_ignored_people() -> None:
    people = [
        shaped((10.0, 10.0, 41.0, 100.0)),
        shaped((100.0, 10.0, 41.0, 100.0)),
        shaped((200.0, 10.0, 41.0, 100.0), ignore=True),
    ]
    boxes = [Box(10, 10, 41, 100, 0.9), Box(12, 10, 41, 100, 0.8), Box(200, 10, 41, 100, 0.7), Box(300, 10, 41, 100, 0.1)]
    quality = measure([boxes, []], [people, []], 0.4)
    assert (quality.people, quality.recall, quality.precision) == (2, 0.5, 0.5)
    assert quality.false_per_picture == 0.5
    assert quality.average_precision == 0.5
    assert quality.miss_rate == pytest.approx(0.5)
    nobody = measure([[]], [[]], 0.4)
    assert nobody.recall is nobody.miss_rate is nobody.precision is None
