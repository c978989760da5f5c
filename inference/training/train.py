"""Trains a centre-and-scale detector, with any of the paper's defences or none.

It decides the settings of the shipped models and carries out a run: seeded, resumable after a kill, stopped by a loss that is not
finite before the optimizer moves. It refuses to publish: a finished run is a folder with weights, curves and settings, to which
`inference.training.record` adds card, lineage and manifest. A batch is a pure function of (seed, step), so a resumed run sees what
an unbroken one would. No topic feeds it.

Epoch rule: with early stopping the weights of the best epoch by validation are kept, else those of the last step; both are
averaged over steps, as CSP trains them.

Source: paper 5.1.3, 5.1.4 and Algorithm 1; CSP (Liu et al., CVPR 2019) section 3.4 for the losses; averaged weights as CSP trains
them (Tarvainen and Valpola 2017); one-cycle learning rate (Smith 2018).
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from inference.networks.csp_nano import Bottleneck, CspNano, Maps, to_bytes
from inference.networks.targets import Targets, losses
from inference.training.curves import append, cut, plot, whole
from inference.training.defences import Defences, EarlyStopping, attacked, cutmix, distilled, taught
from inference.training.pools import Pools, batch
from streams.errors import BadInput

_LARGEST_GRADIENT = 5.0
CHECKPOINT, CURVES, WEIGHTS = "checkpoint.pt", "curves.jsonl", "weights.safetensors"
"""In a run's folder; the checkpoint is written last of all."""
_SETTINGS = "settings.json"
_DISTILLING = 0.3  # the last share of a run with distillation
_CUTMIX_STREAM, _ATTACK_STREAM = 1, 2  # generators of their own, so that one defence does not change another's draws


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One run's settings. Sizes in pixels, shares 0..1; `epoch` is how many steps count as one."""

    model: str
    seed: int
    steps: int
    epoch: int = 50
    batch: int = 8
    height_px: int = 256
    width_px: int = 320
    backbone_rate: float = 3e-4
    head_rate: float = 2e-3
    weight_decay: float = 1e-3
    frozen_blocks: int = 3
    """So many blocks (and the stem) keep their pretrained weights."""
    averaging: float = 0.995
    shares: tuple[float, ...] = (0.44, 0.14, 0.26, 0.06, 0.10)
    """Of crops from photographs, the real square, urban streets, highways, the real road (`pools.GROUPS`)."""
    defences: Defences = Defences()
    half: bool = True
    """Forward and backward in bfloat16 (losses and weights stay float32)."""


PRESETS = {
    "csp-nano": TrainSettings(model="csp-nano", seed=20, steps=3200),
    "csp-nano-safe": TrainSettings(
        model="csp-nano-safe",
        seed=21,
        steps=3000,
        height_px=224,
        width_px=288,
        backbone_rate=5e-4,
        head_rate=1.5e-3,
        frozen_blocks=0,
        defences=Defences(eps_at=9 / 255),
    ),
}
"""The shipped models; the safe one starts from the normal one."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands: losses are those of the last step, `left_s` an estimate."""

    step: int
    steps: int
    loss: float
    left_s: float


def run(
    settings: TrainSettings,
    pools: Pools,
    start: CspNano,
    folder: Path,
    *,
    threads: int,
    report: Callable[[Progress], None],
    validate: Callable[[nn.Module], float] | None = None,
    device: str = "cpu",
) -> Path:
    """Train until `settings.steps`, or until epochs stop getting better; goes on from the folder's checkpoint if there is one.

    Args:
        settings: what and how.
        pools: what to crop from.
        start: the network to begin with; it is changed.
        folder: where the run is kept.
        threads: CPU threads.
        report: called after each step.
        validate: a network's miss rate on the validation pictures, lower is better; a patience needs it, else it is only drawn.
        device: "cpu" or "cuda".

    Returns:
        The weights file.

    Raises:
        BadInput: if the folder holds a run with other settings, the loss is not finite (the weights are those before that step),
            or a patience is set and there is nothing to validate with.
    """
    if settings.defences.patience and validate is None:
        raise BadInput("early stopping needs a validation: give `validate`, or no patience")
    folder.mkdir(parents=True, exist_ok=True)
    written = msgspec.json.format(msgspec.json.encode(settings))
    if (folder / _SETTINGS).exists() and (folder / _SETTINGS).read_bytes() != written:
        raise BadInput(f"{folder} holds a run with other settings; choose another --folder, or delete it")
    (folder / _SETTINGS).write_bytes(written)
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    training = _Training(settings, start, folder, torch.device(device))
    first = training.resume()
    cut(folder / CURVES, first)
    began = time.monotonic()
    for step in range(first, settings.steps):
        if training.stopped:
            break
        size = (settings.batch, settings.height_px, settings.width_px)
        parts = training.step(step, *batch(pools, settings.shares, size, (settings.seed, step)))
        left_s = (time.monotonic() - began) / (step - first + 1) * (settings.steps - step - 1)
        append(folder / CURVES, {"step": step, **parts, "left_s": round(left_s)})
        report(Progress(step + 1, settings.steps, parts["loss"], left_s))
        if (step + 1) % settings.epoch == 0 or step + 1 == settings.steps:
            training.end_epoch(step, validate)
    plot(folder / CURVES)
    return folder / WEIGHTS


class _Training:
    """A run's moving parts, and how they are kept in its folder."""

    def __init__(self, settings: TrainSettings, start: CspNano, folder: Path, device: torch.device) -> None:
        self._settings, self._folder, self._device = settings, folder, device
        self._network = network = start.to(device).to(memory_format=torch.channels_last).train()
        _freeze(network, settings.frozen_blocks)
        head = [*network.fuse.parameters(), *network.out.parameters()]
        body = [weight for weight in network.backbone.parameters() if weight.requires_grad]
        rates = [settings.backbone_rate, settings.head_rate]
        self._optimizer = torch.optim.AdamW(
            [{"params": body}, {"params": head}], lr=settings.head_rate, weight_decay=settings.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(self._optimizer, rates, total_steps=settings.steps, pct_start=0.15)
        self._averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.averaging))  # type: ignore[no-untyped-call]
        self._teacher = copy.deepcopy(network).eval()
        self._stopping = EarlyStopping(patience=settings.defences.patience or settings.steps)
        self._distil_from = round(settings.steps * (1 - _DISTILLING)) if settings.defences.alpha else settings.steps
        self.stopped = False

    def resume(self) -> int:
        """The step to go on with: that of the folder's checkpoint, or 0."""
        if not (self._folder / CHECKPOINT).exists():
            return 0
        saved = torch.load(self._folder / CHECKPOINT, weights_only=True, map_location=self._device)
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        self._stopping = EarlyStopping(patience=self._stopping.patience, best=saved["best"], best_epoch=saved["best_epoch"])
        self.stopped = bool(saved["stopped"])
        return int(saved["step"])

    def step(self, number: int, pictures: Tensor, targets: Targets) -> dict[str, float]:
        """One optimizer step; the losses by name. Raises BadInput, and moves nothing, if the loss is not finite."""
        settings, defences = self._settings, self._settings.defences
        rng = np.random.default_rng((settings.seed, number, _CUTMIX_STREAM))
        if rng.random() < defences.cutmix:
            pictures, targets = cutmix(rng, pictures, targets)
        pictures = pictures.to(self._device).contiguous(memory_format=torch.channels_last)
        targets = Targets(*(part.to(self._device) for part in targets))
        generator = torch.Generator().manual_seed((settings.seed * 1_000_003 + number) * 4 + _ATTACK_STREAM)
        pictures = attacked(defences, self._network, pictures, targets, generator)
        if number == self._distil_from:
            self._teacher.load_state_dict(self._averaged.module.state_dict())
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=settings.half):
            maps = self._network(pictures)
            found = losses(maps, targets)
            loss = found.total
            if number >= self._distil_from:
                with torch.no_grad():
                    said: Maps = self._teacher(pictures)
                loss = distilled(maps, said, loss)
        if not torch.isfinite(loss):
            raise BadInput(f"step {number}: the loss is {loss.item()}; nothing was changed. Lower the rates and start again")
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), _LARGEST_GRADIENT)
        self._optimizer.step()
        self._schedule.step()
        self._averaged.update_parameters(self._network)
        rate = self._schedule.get_last_lr()[1]
        return {"loss": loss.item(), **{name: round(value.item(), 5) for name, value in found._asdict().items()}, "rate": rate}

    def end_epoch(self, step: int, validate: Callable[[nn.Module], float] | None) -> None:
        """Move the teacher, validate if asked for, and put everything on disk; a kill leaves the last whole state."""
        epoch = step // self._settings.epoch
        alpha = self._settings.defences.alpha
        if alpha and step >= self._distil_from:
            taught(self._teacher, self._network, alpha)
        best: nn.Module = self._teacher if alpha and step >= self._distil_from else self._averaged.module
        if validate is not None:
            score = validate(best)
            append(self._folder / CURVES, {"step": step, "validation": score})
            over = self._stopping.seen(epoch, score)
            self.stopped = over and bool(self._settings.defences.patience)
        if not self._settings.defences.patience or self._stopping.best_epoch == epoch:
            whole(self._folder / WEIGHTS, partial(_write, to_bytes(best)))
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"step": step + 1, "best": self._stopping.best, "best_epoch": self._stopping.best_epoch, "stopped": self.stopped}
        whole(self._folder / CHECKPOINT, partial(torch.save, state))

    def _parts(self) -> dict[str, Any]:
        return {
            "network": self._network,
            "averaged": self._averaged,
            "teacher": self._teacher,
            "optimizer": self._optimizer,
            "schedule": self._schedule,
        }


def _freeze(network: CspNano, blocks: int) -> None:
    if blocks:
        network.backbone.stem.requires_grad_(requires_grad=False)
    for block in network.backbone.blocks[:blocks]:
        assert isinstance(block, Bottleneck)
        block.requires_grad_(requires_grad=False)


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)
