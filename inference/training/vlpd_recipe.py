"""Trains VLPD as its authors did: crops, warm-up, averaged weights, five losses, with CLIP as the teacher of what a cell is.

It decides the published recipe and carries it out: seeded, resumable after a kill, stopped by a loss that is not finite. Left
out, because they are slips of the authors' loop and not of the method: the averaged weights start from the first weights and not
from those after one step, and validation does not reset the student to the averaged weights. Epoch rule: the averaged weights of
the last epoch. No topic.

Source: VLPD (Liu et al., CVPR 2023) section 4.2; lmy98129/VLPD config.py, dataloader, trainval_distributed.py (facts).
"""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import msgspec
import numpy as np
import torch
import typer
from numpy.random import Generator
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from inference.networks.clip import RN50_SHA256, TextTower, read_archive
from inference.networks.targets import draw, stack
from inference.networks.vlpd import Teacher, Vlpd, from_clip, prompts
from inference.networks.vlpd_losses import vlpd_losses
from inference.provenance.manifest import PoolSource, manifest_of
from inference.training.curves import append, cut, plot, whole
from inference.training.record import record_lineage, started_at
from inference.training.samples import Sample
from inference.training.train import CHECKPOINT, CURVES, Progress
from streams.errors import BadInput, KerbwatchError
from streams.sources.base import Person, Picture
from streams.sources.citypersons import CityPersons

_MEAN_GREY = (124, 116, 104)  # RGB; what the network subtracts, so that the canvas is its zero
_SCALES, _LIGHTS = (0.4, 1.5), (0.5, 2.0)
_LEAST_WIDTH_PX, _LEAST_LEFT, _LEAST_IGNORED_PX = 16.0, 0.5, 8.0
_FILES = (CHECKPOINT, CURVES, "settings.json")
_SOURCE = PoolSource(
    pool="citypersons", source="CityPersons, train", licence="Cityscapes' terms: non-commercial, not to be reposted"
)
_WEIGHTS = "weights.safetensors"


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """CityPersons' settings as published; sizes in pixels."""

    seed: int = 1337
    epochs: int = 300
    steps_per_epoch: int = 250
    batch: int = 8
    height_px: int = 640
    width_px: int = 1280
    rate: float = 2e-4
    warm_up_epochs: int = 3
    averaging: float = 0.999


def crop(rng: Generator, sample: Sample, height: int, width: int) -> Sample:
    """One training crop: light, mirror, scale, then a window around a random person, or the whole on a grey canvas.

    People of whom less than half is left, or that are narrower than 16 px, drop out; so do ignored ones under 8 px on a side.
    """
    picture, people = sample.picture, list(sample.people)
    if rng.random() < 0.5:  # noqa: PLR2004 - a fair coin
        picture = _lit(picture, float(rng.uniform(*_LIGHTS)))
    if rng.random() < 0.5:  # noqa: PLR2004 - a fair coin
        picture = picture[:, ::-1]
        people = [_boxed(one, picture.shape[1] - one.box_px[0] - one.box_px[2], *one.box_px[1:]) for one in people]
    scale = float(rng.uniform(*_SCALES))
    resized = cv2.resize(np.ascontiguousarray(picture), None, fx=scale, fy=scale)
    people = [_boxed(one, *(side * scale for side in one.box_px)) for one in people]
    left, top = _window(rng, resized.shape, people, height, width)
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = _MEAN_GREY
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(resized.shape[0], top + height), min(resized.shape[1], left + width)
    canvas[y0 - top : y1 - top, x0 - left : x1 - left] = resized[y0:y1, x0:x1]
    kept = tuple(found for one in people if (found := _cut(one, left, top, height, width)) is not None)
    return Sample(sample.origin, sample.name, canvas, kept)


def train_vlpd(
    recipe: Recipe,
    samples: Sequence[Sample],
    network: Vlpd,
    teacher: Teacher,
    folder: Path,
    *,
    report: Callable[[Progress], None],
    device: str = "cpu",
) -> Path:
    """Train by the recipe, or go on from the folder's checkpoint; the averaged weights as safetensors, named as the authors' are.

    Raises:
        BadInput: if the folder holds a run with other settings, or the loss is not finite (weights are those before that step).
    """
    checkpoint, curves, settings = (folder / name for name in _FILES)
    folder.mkdir(parents=True, exist_ok=True)
    written = msgspec.json.format(msgspec.json.encode(recipe))
    if settings.exists() and settings.read_bytes() != written:
        raise BadInput(f"{folder} holds a run with other settings; choose another folder, or delete it")
    settings.write_bytes(written)
    network.to(device).train()
    teacher.to(device)
    averaged = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.rate)
    first = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        averaged, first = saved["averaged"], int(saved["step"])
    cut(curves, first)
    total = recipe.epochs * recipe.steps_per_epoch
    began = time.monotonic()
    for step in range(first, total):
        pictures, people = _batch(recipe, samples, step)
        targets = stack([draw(some, recipe.height_px, recipe.width_px) for some in people], torch.device(device))
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * min(1.0, (step + 1) / (recipe.warm_up_epochs * recipe.steps_per_epoch))
        pictures = pictures.to(device)
        with torch.no_grad():
            wanted = teacher(network.normalised(pictures))
        found = vlpd_losses(network.whole(pictures), targets, wanted)
        if not torch.isfinite(found.total):
            raise BadInput(f"step {step}: the loss is {found.total.item()}; nothing was changed. Lower the rate and start again")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(found.total)
        optimizer.step()
        _average(averaged, network, recipe.averaging)
        parts = {name: round(value.item(), 6) for name, value in found.detection._asdict().items()}
        append(curves, {"step": step, **parts, "vls": found.vls.item(), "psc": found.psc.item(), "loss": found.total.item()})
        left_s = (time.monotonic() - began) / (step - first + 1) * (total - step - 1)
        report(Progress(step + 1, total, found.total.item(), left_s))
        if (step + 1) % recipe.steps_per_epoch == 0:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "averaged": averaged, "step": step + 1}
            whole(checkpoint, partial(torch.save, state))
            whole(folder / _WEIGHTS, partial(save_file, {name: value.cpu().contiguous() for name, value in averaged.items()}))
    plot(curves)
    return folder / _WEIGHTS


def train_vlpd_command(
    data: Annotated[Path, typer.Argument(help="CityPersons: leftImg8bit/train and annotations below this folder.")],
    clip: Annotated[Path, typer.Option(help="OpenAI's RN50.pt; only its tensors are read.")],
    folder: Annotated[Path, typer.Option(help="Where the run is kept and resumed.")] = Path("var/training/vlpd"),
    device: Annotated[str, typer.Option(help="cuda, or cpu (which takes weeks).")] = "cuda",
) -> None:
    """Train VLPD by its authors' recipe, or go on with a run that was stopped.

    Example: kerbwatch train-vlpd /data/citypersons --clip RN50.pt
    """
    console = Console(stderr=True)
    try:
        state = read_archive(clip, RN50_SHA256)
        with torch.no_grad():
            words = TextTower(state)(prompts()).T.contiguous()
        source = CityPersons(data / "leftImg8bit" / "train", data)
        samples = _Frames(source)
        torch.manual_seed(Recipe().seed)
        network, teacher = from_clip(state, words), Teacher(state, words)
        began = started_at(folder, datetime.now(UTC))
        with console.status("vlpd") as status:
            weights = train_vlpd(
                Recipe(),
                samples,
                network,
                teacher,
                folder,
                report=lambda at: status.update(
                    f"step {at.step}/{at.steps}, loss {at.loss:.3f}, {at.left_s / 3600:.1f} hours left"
                ),
                device=device,
            )
            status.update("digests of the training data, for the lineage")
            record_lineage(
                weights,
                Recipe(),
                manifest_of("citypersons", samples, [_SOURCE]),
                RN50_SHA256,
                started_at=began,
                finished_at=datetime.fromtimestamp((folder / CHECKPOINT).stat().st_mtime, UTC),
                device=device,
            )
    except KerbwatchError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        raise typer.Exit(error.exit_code) from error
    console.print(f"weights: {weights}; curves: {folder / 'curves.png'}")


class _Frames(Sequence[Sample]):
    """CityPersons frames, each read when it is cropped."""

    def __init__(self, source: CityPersons) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, at: Any) -> Any:
        shot = self._source.shot(at)
        return Sample("citypersons", shot.name, shot.picture, shot.people or ())


def _batch(recipe: Recipe, samples: Sequence[Sample], step: int) -> tuple[Tensor, list[tuple[Person, ...]]]:
    """A pure function of (seed, step): every epoch goes through a new order of the samples."""
    numbers = []
    for at in range(step * recipe.batch, (step + 1) * recipe.batch):
        epoch, place = divmod(at, len(samples))
        numbers.append(int(np.random.default_rng((recipe.seed, epoch)).permutation(len(samples))[place]))
    rng = np.random.default_rng((recipe.seed, step, 1))
    crops = [crop(rng, samples[number], recipe.height_px, recipe.width_px) for number in numbers]
    pictures = torch.from_numpy(np.stack([one.picture for one in crops])).permute(0, 3, 1, 2).float()
    return pictures, [one.people for one in crops]


def _average(averaged: dict[str, Tensor], network: nn.Module, keep: float) -> None:
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            averaged[name].lerp_(value.detach(), 1 - keep)
        else:
            averaged[name].copy_(value)


def _lit(picture: Picture, factor: float) -> Picture:
    colours = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2HSV)
    colours[..., 2] = np.clip(colours[..., 2].astype(np.float32) * factor, 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(colours, cv2.COLOR_HSV2RGB), np.uint8)


def _window(rng: Generator, shape: tuple[int, ...], people: Sequence[Person], height: int, width: int) -> tuple[int, int]:
    """Left and top of the crop in the resized picture: around a random person; a smaller picture goes anywhere on the canvas."""
    counted = [one for one in people if not one.ignore]
    if counted:
        x, y, w, h = counted[int(rng.integers(len(counted)))].box_px
        middle = (x + w / 2, y + h / 2)
    else:
        middle = (rng.uniform(0, shape[1]), rng.uniform(0, shape[0]))
    starts = []
    for centre, size, window in ((middle[0], shape[1], width), (middle[1], shape[0], height)):
        if size >= window:
            starts.append(int(np.clip(centre - window / 2, 0, size - window)))
        else:
            starts.append(-int(rng.integers(0, window - size + 1)))
    return starts[0], starts[1]


def _cut(person: Person, left: int, top: int, height: int, width: int) -> Person | None:
    x, y, w, h = person.box_px
    x, y = x - left, y - top
    x0, y0, x1, y1 = max(0.0, x), max(0.0, y), min(float(width), x + w), min(float(height), y + h)
    shown: NDArray[np.float64] = np.maximum([x1 - x0, y1 - y0], 0.0)
    wide, tall = float(shown[0]), float(shown[1])
    if person.ignore:
        return _boxed(person, x0, y0, wide, tall) if min(wide, tall) >= _LEAST_IGNORED_PX else None
    kept = wide >= _LEAST_WIDTH_PX and wide * tall >= _LEAST_LEFT * w * h
    return _boxed(person, x0, y0, wide, tall) if kept else None


def _boxed(person: Person, x: float, y: float, w: float, h: float) -> Person:
    return Person((x, y, w, h), (x, y, w, h), person.ignore)
