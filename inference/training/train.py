"""Trains CSP-nano: the normal model from real pedestrian weights, the safe-mode model adversarially from the normal one.

It decides the settings of the two shipped models and carries out a run: seeded, resumable after a kill, stopped by a loss that is
not finite before the optimizer moves. It refuses to publish: a finished run is a folder with weights, curves and settings, and
`inference.provenance.registry` takes it from there with a card. A batch is a pure function of (seed, step), so a resumed run sees
what an unbroken one would. No topic feeds it.

Source: paper 5.1.3 and Algorithm 1 (PGD adversarial training, strength eps_AT), here mixed with clean pictures; CSP section 3.4 for
the losses; averaged weights as CSP trains them (Tarvainen and Valpola 2017); one-cycle learning rate (Smith 2018).
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import matplotlib as mpl
import msgspec
import numpy as np
import torch
import typer
from numpy.random import Generator
from rich.console import Console
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from inference.attacks.gradient import raise_loss
from inference.networks.csp_nano import Bottleneck, CspNano, from_bytes, to_bytes
from inference.networks.pretrained import fill, graph_file, read_constants
from inference.networks.targets import Targets, draw, losses, stack
from inference.training.samples import Sample, crop, empty_road, footage, penn_fudan, split, streets, weathered
from infra.settings import read_settings
from streams.errors import BadInput, KerbwatchError
from streams.events import Context
from streams.sources.base import Picture
from streams.sources.scenery import Weather

HELD_OUT, SPLIT_SEED = 30, 7
"""How many Penn-Fudan pictures no training sees, and the seed that picks them."""
SQUARE_FRAMES, ROAD_FRAMES = range(0, 400, 4), range(0, 110, 4)
"""Real footage trained on; figures use the second half."""
STREET_SEEDS = range(1000, 1030)
"""Synthetic places trained on; demonstrations and figures use others."""

_SHOTS = (0, 70, 140)
_LARGEST_GRADIENT = 5.0
_EVERY = 50  # steps between two checkpoints
_CHECKPOINT, _CURVES, _WEIGHTS, _SETTINGS = "checkpoint.pt", "curves.jsonl", "weights.safetensors", "settings.json"


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One run's settings. Sizes in pixels, `eps_levels` and attack steps in levels of 0..255, shares 0..1."""

    model: str
    seed: int
    steps: int
    batch: int = 8
    height_px: int = 256
    width_px: int = 320
    backbone_rate: float = 3e-4
    head_rate: float = 2e-3
    weight_decay: float = 1e-3
    frozen_blocks: int = 3
    """So many blocks (and the stem) keep their pretrained weights."""
    averaging: float = 0.995
    shares: tuple[float, float, float, float, float] = (0.44, 0.14, 0.26, 0.06, 0.10)
    """Of crops from photographs, the real square, urban streets, highways, the real road."""
    eps_levels: float = 0.0
    """Strongest attack trained against (the paper's eps_AT); each crop gets a strength of its own up to it. 0: none."""
    least_levels: float = 0.0
    attack_steps: int = 2
    attacked_share: float = 0.5
    half: bool = True
    """Forward and backward in bfloat16 (losses and weights stay float32)."""


PRESETS = {
    "csp-nano": TrainSettings(model="csp-nano", seed=20, steps=3200),
    "csp-nano-safe-1": TrainSettings(
        model="csp-nano-safe-1",
        seed=21,
        steps=900,
        height_px=224,
        width_px=288,
        backbone_rate=4e-4,
        head_rate=1e-3,
        frozen_blocks=0,
        eps_levels=10.0,
        attacked_share=0.625,
    ),
    "csp-nano-safe": TrainSettings(
        model="csp-nano-safe",
        seed=22,
        steps=850,
        height_px=224,
        width_px=288,
        backbone_rate=5e-4,
        head_rate=1.5e-3,
        frozen_blocks=0,
        eps_levels=10.0,
        least_levels=3.0,
        attacked_share=0.75,
    ),
}
"""The shipped models; the safe one is trained twice, from the normal model and then, against stronger attacks, from the first."""


@dataclass(frozen=True)
class Pools:
    """What crops are made from; `backdrops` are pictures without people."""

    groups: tuple[Sequence[Sample], ...]
    backdrops: Sequence[Picture]


@dataclass(frozen=True)
class Progress:
    """Where a run stands: losses are those of the last step, `left_s` an estimate."""

    step: int
    steps: int
    loss: float
    left_s: float


def training_pools(shared_data: Path) -> Pools:
    """Penn-Fudan without the held-out pictures, and streets of all weathers. Takes about a minute of drawing."""
    photographs, _ = split(penn_fudan(shared_data / "pennfudan"), HELD_OUT, SPLIT_SEED)
    urban: list[Sample] = []
    highway: list[Sample] = []
    for number, weather in enumerate(Weather):
        # every weather its own places: more of them at the same cost
        seeds = [seed + 100 * number for seed in STREET_SEEDS]
        urban += streets(Context.URBAN, weather, seeds, _SHOTS)
        highway += streets(Context.HIGHWAY, weather, seeds[:15], _SHOTS)
    square, road = footage(shared_data, SQUARE_FRAMES), empty_road(shared_data, ROAD_FRAMES)
    backdrops = [one.picture for one in highway if not one.people] + [one.picture for one in road]
    return Pools((photographs, square, urban, highway, road), backdrops)


def batch(settings: TrainSettings, pools: Pools, step: int) -> tuple[Tensor, Targets]:
    """Pictures (N x 3 x H x W, 0..255, channels last) and targets of one step; the same for the same seed and step."""
    rng = np.random.default_rng((settings.seed, step))
    samples = [_one(rng, settings, pools) for _ in range(settings.batch)]
    pictures = torch.from_numpy(np.stack([weathered(rng, one.picture) for one in samples])).permute(0, 3, 1, 2)
    targets = stack([draw(one.people, settings.height_px, settings.width_px) for one in samples])
    return pictures.float().contiguous(memory_format=torch.channels_last), targets


def run(
    settings: TrainSettings, pools: Pools, start: CspNano, folder: Path, *, threads: int, report: Callable[[Progress], None]
) -> Path:
    """Train until `settings.steps`; goes on from the folder's checkpoint if there is one. Returns the weights file.

    Raises:
        BadInput: if the folder holds a run with other settings, or the loss is not finite (the weights are those before that step).
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = msgspec.json.format(msgspec.json.encode(settings))
    if (folder / _SETTINGS).exists() and (folder / _SETTINGS).read_bytes() != written:
        raise BadInput(f"{folder} holds a run with other settings; choose another --folder, or delete it")
    (folder / _SETTINGS).write_bytes(written)
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    network = start.to(memory_format=torch.channels_last).train()
    _freeze(network, settings.frozen_blocks)
    head = [*network.fuse.parameters(), *network.out.parameters()]
    body = [weight for weight in network.backbone.parameters() if weight.requires_grad]
    rates = [settings.backbone_rate, settings.head_rate]
    optimizer = torch.optim.AdamW([{"params": body}, {"params": head}], lr=settings.head_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=settings.steps, pct_start=0.15)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.averaging))  # type: ignore[no-untyped-call]
    kept: dict[str, Any] = {"network": network, "averaged": averaged, "optimizer": optimizer, "schedule": schedule}
    first = 0
    if (folder / _CHECKPOINT).exists():
        saved = torch.load(folder / _CHECKPOINT, weights_only=True)
        for name, part in kept.items():
            part.load_state_dict(saved[name])
        first = saved["step"]
    _cut(folder / _CURVES, first)
    began = time.monotonic()
    with (folder / _CURVES).open("a", encoding="utf-8") as curves:
        for step in range(first, settings.steps):
            pictures, targets = batch(settings, pools, step)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.half):
                pictures = _attacked(settings, network, pictures, targets, step)
                found = losses(network(pictures), targets)
            loss = found.total
            if not torch.isfinite(loss):
                raise BadInput(f"step {step}: the loss is {loss.item()}; nothing was changed. Lower the rates and start again")
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_GRADIENT)
            optimizer.step()
            schedule.step()
            averaged.update_parameters(network)
            left_s = (time.monotonic() - began) / (step - first + 1) * (settings.steps - step - 1)
            parts = {name: round(value.item(), 5) for name, value in found._asdict().items()}
            curves.write(json.dumps({"step": step, **parts, "rate": schedule.get_last_lr()[1], "left_s": round(left_s)}) + "\n")
            report(Progress(step + 1, settings.steps, loss.item(), left_s))
            if (step + 1) % _EVERY == 0 or step + 1 == settings.steps:
                curves.flush()
                state = {name: part.state_dict() for name, part in kept.items()} | {"step": step + 1}
                _whole(folder / _CHECKPOINT, partial(torch.save, state))
                weights = to_bytes(averaged.module)
                _whole(folder / _WEIGHTS, lambda path, data=weights: path.write_bytes(data))  # type: ignore[misc]
    plot(folder)
    return folder / _WEIGHTS


def plot(folder: Path) -> Path:
    """Draws curves.jsonl as curves.png: the three losses over steps, averaged over 25."""
    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    lines = [json.loads(line) for line in (folder / _CURVES).read_text(encoding="utf-8").splitlines()]
    figure, axes = plt.subplots(figsize=(8, 4))
    for name in ("centre", "height", "offset"):
        window = min(25, len(lines))
        values = np.convolve([line[name] for line in lines], np.ones(window) / window, mode="valid")
        axes.semilogy([line["step"] for line in lines][: len(values)], values, label=name)
    axes.set(xlabel="step", ylabel="loss", title=folder.name)
    axes.legend()
    figure.savefig(folder / "curves.png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return folder / "curves.png"


def train(
    model: Annotated[
        str, typer.Option(help="csp-nano, csp-nano-safe-1 (from csp-nano) or csp-nano-safe (from that).")
    ] = "csp-nano",
    folder: Annotated[
        Path | None, typer.Option(help="Where the run is kept and resumed; default: training/MODEL in the home.")
    ] = None,
    parent: Annotated[
        Path | None, typer.Option(help="Weights to start from (safetensors); default: the pretrained backbone.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps, instead of the model's own number.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Train CSP-nano, or go on with a run that was stopped.

    Example: kerbwatch train --model csp-nano-safe-1 --parent var/training/csp-nano/weights.safetensors
    """
    console = Console(stderr=True)
    try:
        if model not in PRESETS:
            raise BadInput(f"no model {model!r}; there are {', '.join(PRESETS)}")
        deployment = read_settings()
        settings = msgspec.structs.replace(PRESETS[model], steps=steps or PRESETS[model].steps)
        torch.manual_seed(settings.seed)
        if parent is None:
            network = CspNano()
            fill(network.backbone, read_constants(graph_file()))
        else:
            network = from_bytes(parent.read_bytes())
        with console.status("drawing streets, reading photographs"):
            pools = training_pools(deployment.shared_data)
        with console.status(model) as status:

            def show(at: Progress) -> None:
                line = f"{model}: step {at.step}/{at.steps}, loss {at.loss:.3f}, {at.left_s / 60:.1f} minutes left"
                if console.is_terminal:
                    status.update(line)
                elif at.step % 25 == 0:
                    console.print(line)

            weights = run(settings, pools, network, folder or deployment.home / "training" / model, threads=threads, report=show)
    except KerbwatchError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        raise typer.Exit(error.exit_code) from error
    console.print(f"weights: {weights}; curves: {weights.parent / 'curves.png'}")


def _one(rng: Generator, settings: TrainSettings, pools: Pools) -> Sample:
    group = pools.groups[int(rng.choice(len(pools.groups), p=settings.shares))]
    return crop(rng, group, pools.backdrops, settings.height_px, settings.width_px)


def _freeze(network: CspNano, blocks: int) -> None:
    if blocks:
        network.backbone.stem.requires_grad_(requires_grad=False)
    for block in network.backbone.blocks[:blocks]:
        assert isinstance(block, Bottleneck)
        block.requires_grad_(requires_grad=False)


def _attacked(settings: TrainSettings, network: CspNano, pictures: Tensor, targets: Targets, step: int) -> Tensor:
    """The batch with its first part attacked: random start, then signed steps, every crop with a strength of its own."""
    count = round(settings.batch * settings.attacked_share) if settings.eps_levels else 0
    if not count:
        return pictures
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    clean = pictures[:count]
    eps = settings.least_levels + (settings.eps_levels - settings.least_levels) * torch.rand((count, 1, 1, 1), generator=generator)
    begin = clean + eps * (2 * torch.rand(clean.shape, generator=generator) - 1)
    begin = begin.clamp(0, 255).contiguous(memory_format=torch.channels_last)
    part = Targets(*(values[:count] for values in targets))
    moved = raise_loss(
        network, begin, part, eps=eps, step=1.5 * eps / settings.attack_steps, steps=settings.attack_steps, origin=clean
    )
    return torch.cat([moved, pictures[count:]]).contiguous(memory_format=torch.channels_last)


def _cut(curves: Path, step: int) -> None:
    """Drop the lines that a killed run wrote after its last checkpoint."""
    lines = curves.read_text(encoding="utf-8").splitlines() if curves.exists() else []
    curves.write_text(
        "".join(f"{line}\n" for line in lines if line.endswith("}") and json.loads(line)["step"] < step), encoding="utf-8"
    )


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that a kill leaves either the old or the new one."""
    part = path.with_name(f"{path.name}.part")
    write(part)
    os.replace(part, path)  # noqa: PTH105 - the atomic one


if __name__ == "__main__":
    typer.run(train)
