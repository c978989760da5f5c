"""The paper's training defences (5.1.3): CutMix, early stopping, adversarial training, distillation, and all of them together.

It decides what each defence does to a batch, a loss or a run, as pure functions over tensors and numbers;
`inference.training.train` calls them in its loop, with every random draw from the run's own generators. It refuses strengths
outside their ranges. No topic.

Source: paper 5.1.3, Algorithm 1 and the caption of Table 6 (P 0.5, p 15, eps_AT 0.02, alpha 0.5); CutMix, Yun et al., ICCV 2019;
PGD, Madry et al., ICLR 2018; averaged teachers, Tarvainen and Valpola, NeurIPS 2017.
"""

from typing import Annotated

import numpy as np
import torch
from msgspec import Meta, Struct
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn import functional as nnf

from inference.attacks.gradient import raise_loss
from inference.networks.csp_nano import STRIDE, Maps
from inference.networks.targets import Targets

LEVELS = 255.0
_LEAST = 0.3  # each attacked crop has a strength of its own, from this share of eps_AT up to it
_REACH = 1.5  # a step is so many times eps / steps, so that the edge of the box is reached
_SOFT = 0.5  # share of the teacher's word in the loss while distilling


class Defences(Struct, frozen=True, kw_only=True):
    """Which defences a run has; 0 or None switches one off.

    cutmix: P, the chance that a batch is mixed. patience: p, so many epochs without a better validation end the run. eps_at:
    eps_AT as a share of 255. pgd_steps: K of Algorithm 1. attacked_share: of each batch; Algorithm 1 attacks all of it, a clean
    rest keeps clean figures. alpha: influence of the student on the teacher's weights at the end of each epoch of the
    distillation.
    """

    cutmix: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    patience: Annotated[int, Meta(ge=1)] | None = None
    eps_at: Annotated[float, Meta(ge=0.0, le=0.2)] = 0.0
    pgd_steps: Annotated[int, Meta(ge=1, le=50)] = 2
    attacked_share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.75
    alpha: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None


def cutmix(rng: Generator, pictures: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
    """Each picture gets a rectangle of the next one, with all that the targets say there; whole cells of 4 px.

    Args:
        rng: draws one rectangle for the batch; its share of the picture is uniform, as Beta(1, 1).
        pictures: N x 3 x H x W.
        targets: of the same pictures. A person cut by the border belongs to where the middle lies.
    """
    rows, columns = targets.middle.shape[2:]
    side = float(np.sqrt(1.0 - rng.random()))
    tall, wide = max(1, round(rows * side)), max(1, round(columns * side))
    top, left = int(rng.integers(rows - tall + 1)), int(rng.integers(columns - wide + 1))
    mixed = [_pasted(part, top, left, tall, wide) for part in targets]
    return _pasted(pictures, top * STRIDE, left * STRIDE, tall * STRIDE, wide * STRIDE), Targets(*mixed)


def attacked(defences: Defences, network: nn.Module, pictures: Tensor, targets: Targets, generator: torch.Generator) -> Tensor:
    """The batch with its first part moved by PGD against its targets (Algorithm 1, lines 7 to 12); random start.

    Args:
        defences: strength, steps and share; with eps_at 0 the batch comes back as it is.
        network: attacked as it is now; its weights get no gradient.
        pictures: N x 3 x H x W, 0..255.
        targets: the truth.
        generator: draws each crop's strength and start, on the CPU so that every device sees the same.
    """
    count = round(len(pictures) * defences.attacked_share) if defences.eps_at else 0
    if not count:
        return pictures
    clean = pictures[:count]
    share = _LEAST + (1 - _LEAST) * torch.rand((count, 1, 1, 1), generator=generator)
    eps = (defences.eps_at * LEVELS * share).to(pictures.device)
    noise = torch.rand(clean.shape, generator=generator).to(pictures.device)
    begin = (clean + eps * (2 * noise - 1)).clamp(0, LEVELS).contiguous(memory_format=torch.channels_last)
    part = Targets(*(values[:count] for values in targets))
    steps = defences.pgd_steps
    moved = raise_loss(network, begin, part, eps=eps, step=_REACH * eps / steps, steps=steps, origin=clean)
    return torch.cat([moved, pictures[count:]]).contiguous(memory_format=torch.channels_last)


def distilled(student: Maps, teacher: Maps, hard: Tensor) -> Tensor:
    """The loss while distilling: half the labels' (`hard`), half how far the student's maps are from the teacher's.

    Centre maps are compared as probabilities in every cell (binary cross entropy, weighted by how sure the teacher is), heights and
    offsets where the teacher sees somebody.
    """
    sure = torch.sigmoid(teacher.centre.float()).detach()
    people = sure.sum().clamp(min=1.0)
    told = nnf.binary_cross_entropy_with_logits(student.centre.float(), sure, reduction="none")
    least = -(sure * (sure + 1e-9).log() + (1 - sure) * (1 - sure + 1e-9).log())
    centre = ((told - least) * (sure + 0.05)).sum() / people
    shape = nnf.smooth_l1_loss(student.height.float(), teacher.height.float().detach(), reduction="none")
    place = nnf.smooth_l1_loss(student.offset.float(), teacher.offset.float().detach(), reduction="none").sum(1, keepdim=True)
    soft = 0.01 * centre + ((shape + 0.1 * place) * sure).sum() / people
    return (1 - _SOFT) * hard + _SOFT * soft


def taught(teacher: nn.Module, student: nn.Module, alpha: float) -> None:
    """Move the teacher's weights towards the student's: teacher = (1 - alpha) teacher + alpha student."""
    with torch.no_grad():
        for kept, new in zip(teacher.parameters(), student.parameters(), strict=True):
            kept.lerp_(new, alpha)


class EarlyStopping(Struct, kw_only=True):
    """Remembers the best epoch; `patience` epochs without a better one end the run. Lower scores (miss rates) are better."""

    patience: int
    best: float = float("inf")
    best_epoch: int = -1

    def seen(self, epoch: int, score: float) -> bool:
        """Take note of an epoch's score (counted from 0); whether the run is over."""
        if score < self.best:
            self.best, self.best_epoch = score, epoch
        return epoch - self.best_epoch >= self.patience


def _pasted(values: Tensor, top: int, left: int, tall: int, wide: int) -> Tensor:
    place = (..., slice(top, top + tall), slice(left, left + wide))
    out = values.clone(memory_format=torch.preserve_format)
    out[place] = values.roll(-1, 0)[place]
    return out
