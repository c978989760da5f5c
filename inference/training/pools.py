"""Which pictures a run trains on, validates on and never sees, and how a batch comes from them.

It decides the split of the real pictures (Penn-Fudan, footage) and the seeds of the drawn ones, and makes a batch as a pure
function of (settings, step), so that a resumed run sees what an unbroken one would. It refuses to hand out held-out pictures for
training. No topic.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.networks.targets import Targets, draw, stack
from inference.provenance.manifest import PoolSource
from inference.training.samples import PHOTOGRAPHS, Sample, crop, empty_road, footage, halved, penn_fudan, split, streets, weathered
from streams.events import Context
from streams.sources.base import Picture
from streams.sources.scenery import Weather

HELD_OUT, VALIDATION, SPLIT_SEED = 30, 10, 7
"""How many Penn-Fudan pictures no training sees, how many of the others judge epochs, and the seed that picks both."""
STREET_SEEDS, VALIDATION_SEEDS = range(1000, 1030), range(1900, 1904)
"""Synthetic places trained on, and those that judge epochs; demonstrations and figures use others."""
SQUARE_FRAMES, ROAD_FRAMES = range(0, 400, 4), range(0, 110, 4)
"""Real footage trained on; figures use the second half."""

_SHOTS = (0, 70, 140)
GROUPS = ("photographs", "square", "urban", "highway", "road")
"""In the order of `TrainSettings.shares`."""


_SOURCES = {
    PHOTOGRAPHS: ("Penn-Fudan database (Wang et al., ACCV 2007)", "not to be reposted; weights and numbers may be"),
    "square": (
        "PETS 2009 S2.L1 view 1, labels by a detector (MOTChallenge)",
        "footage PETS 2009; labels CC BY-NC-SA 3.0",
    ),
    "road": ("Udacity road video solidWhiteRight, nobody in it", "MIT"),
}
_LIVE = ("the deployment's own cameras, labelled where two models agree", "the deployment's own")
_DRAWN = ("drawn by streams/sources/street.py", "Apache-2.0")


@dataclass(frozen=True)
class Pools:
    """What crops are made from, group by group; `backdrops` are pictures without people, `validation` judges epochs."""

    groups: tuple[Sequence[Sample], ...]
    backdrops: Sequence[Picture]
    validation: Sequence[Sample] = ()


def training_pools(shared_data: Path, *, validated: bool = False) -> Pools:
    """Penn-Fudan without the held-out pictures, real footage, and streets of all weathers. Takes about a minute of drawing.

    Args:
        shared_data: the folder that holds pennfudan/, contexts/ and mot_streams/.
        validated: set photographs and streets aside to judge epochs by.

    Raises:
        Unavailable: naming what is not there.
    """
    photographs, _ = split(penn_fudan(shared_data / "pennfudan"), HELD_OUT, SPLIT_SEED)
    validation: list[Sample] = []
    if validated:
        photographs, judges = split(photographs, VALIDATION, SPLIT_SEED)
        validation = [halved(one) for one in judges] + streets(Context.URBAN, Weather.DAY, VALIDATION_SEEDS, _SHOTS[:2])
    urban: list[Sample] = []
    highway: list[Sample] = []
    for number, weather in enumerate(Weather):
        # every weather its own places: more of them at the same cost
        seeds = [seed + 100 * number for seed in STREET_SEEDS]
        urban += streets(Context.URBAN, weather, seeds, _SHOTS)
        highway += streets(Context.HIGHWAY, weather, seeds[:15], _SHOTS)
    square, road = footage(shared_data, SQUARE_FRAMES), empty_road(shared_data, ROAD_FRAMES)
    backdrops = [one.picture for one in highway if not one.people] + [one.picture for one in road]
    return Pools((photographs, square, urban, highway, road), backdrops, validation)


def sources_of(samples: Iterable[Sample]) -> list[PoolSource]:
    """Where the samples' pools came from and what may be done with them, for a manifest."""
    stated = {
        pool: _LIVE if pool.startswith("live-") else _SOURCES.get(pool, _DRAWN) for pool in sorted({one.origin for one in samples})
    }
    return [PoolSource(pool=pool, source=source, licence=licence) for pool, (source, licence) in stated.items()]


def described(pools: Pools, shares: Sequence[float]) -> str:
    """What is trained on, for a model's card: of each group its share of the crops, pictures, source and licence."""
    parts = []
    for group, share in zip(pools.groups, shares, strict=True):
        stated = dict.fromkeys(f"{one.source}; licence: {one.licence}" for one in sources_of(group))
        names = ", ".join(sorted({one.origin for one in group}))
        parts.append(f"{share:g} from {names}, {len(group)} pictures ({' / '.join(stated)})")
    return (
        f"Trained on crops: {'; '.join(parts)}. Drawn places are those of seeds from {STREET_SEEDS.start} on. "
        f"Held out: {HELD_OUT} Penn-Fudan pictures (split seed {SPLIT_SEED})."
    )


def batch(pools: Pools, shares: Sequence[float], size: tuple[int, int, int], seed: tuple[int, int]) -> tuple[Tensor, Targets]:
    """Pictures (N x 3 x H x W, 0..255, channels last) and targets of one step.

    Args:
        pools: what to crop from.
        shares: of crops, by group; adding up to 1.
        size: N, H, W.
        seed: (run's seed, step); the same seed gives the same batch.
    """
    number, height, width = size
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(number):
        group = pools.groups[int(rng.choice(len(pools.groups), p=shares))]
        samples.append(crop(rng, group, pools.backdrops, height, width))
    pictures = torch.from_numpy(np.stack([weathered(rng, one.picture) for one in samples])).permute(0, 3, 1, 2)
    targets = stack([draw(one.people, height, width) for one in samples])
    return pictures.float().contiguous(memory_format=torch.channels_last), targets
