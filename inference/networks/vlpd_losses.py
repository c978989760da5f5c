"""VLPD's two own losses: pseudo segmentation by words (VLS), and people contrasted with everything else (PSC).

Pure arithmetic on maps; the three losses it shares with CSP are `inference.networks.targets`'. Checked against the authors' code
on two real crops (tests/test_vlpd.py). No topic.

Source: VLPD (Liu et al., CVPR 2023) sections 3.3 and 3.4; weights from the authors' settings for CityPersons.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as nnf

from inference.networks.targets import Losses, Targets, losses
from inference.networks.vlpd import HUMAN, Whole

VLS_WEIGHT, PSC_WEIGHT = 100.0, 1e-3
"""CityPersons; the authors use 1e-4 for PSC on Caltech."""

_TEMPERATURE = 0.07
_SHARPNESS = 1e-3  # divides the score map before its softmax: nearly one-hot
_FLOOR = 1e-5


class VlpdLosses(NamedTuple):
    """CSP's three, weighted; VLS and PSC unweighted."""

    detection: Losses
    vls: Tensor
    psc: Tensor

    @property
    def total(self) -> Tensor:
        """What training lowers, with CityPersons' weights."""
        return self.detection.total + VLS_WEIGHT * self.vls + PSC_WEIGHT * self.psc


def vlpd_losses(said: Whole, targets: Targets, teacher_map: Tensor) -> VlpdLosses:
    """All five losses of N pictures; `teacher_map` is N x 10 x H/16 x W/16."""
    return VlpdLosses(
        losses(said.maps, targets),
        nnf.smooth_l1_loss(said.score_map.float(), teacher_map.float()),
        contrast_loss(said.contrast.float(), said.score_map.float(), targets.bump),
    )


def contrast_loss(features: Tensor, score_map: Tensor, bump: Tensor) -> Tensor:
    """PSC: every cell near a person's middle is to look like its picture's people and unlike all pictures' other things.

    Args:
        features: N x C x h x w, before the score map is joined to them.
        score_map: N x 10 x h' x w'; enlarged to h x w; no gradient flows through it.
        bump: N x 1 x h x w, Gaussian over each person; cells above 0 are the anchors.

    Returns:
        A scalar; 0 where nobody is.
    """
    n, channels = features.shape[:2]
    near = nnf.interpolate(score_map.detach(), features.shape[2:])
    share = torch.softmax(near / _SHARPNESS, 1).flatten(2)
    flat = features.flatten(2)
    things = _unit(torch.einsum("nck,ntk->ntc", flat, share))
    people = _unit(torch.einsum("nck,nk->nc", flat, bump.detach().flatten(1)))
    others = [word for word in range(score_map.shape[1]) if word != HUMAN]
    negatives = things[:, others].reshape(-1, channels)
    picture, cell = (bump.flatten(1) > 0).nonzero(as_tuple=True)
    if not len(picture):
        return features.sum() * 0.0
    anchors = _unit(flat.transpose(1, 2)[picture, cell])
    alike = (anchors * people[picture]).sum(1, keepdim=True)
    logits = torch.cat([alike, anchors @ negatives.T], 1) / _TEMPERATURE
    assert logits.shape[1] == 1 + n * len(others)
    return nnf.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def _unit(vectors: Tensor) -> Tensor:
    unit: Tensor = vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=_FLOOR)
    return unit
