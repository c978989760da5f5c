"""A poisoned training batch, offered to the vetting that every retraining passes: drawn streets, a third of their labels flipped.

It decides what is offered and says whether it was held back: at least four in five of the harmed pictures, by the rules that a
retraining uses. No topic.

Source: paper 5.1.2 (label flipping), 4.6 (multi-stage validation before any training).
"""

from dataclasses import replace

import numpy as np

from inference.attacks.poisoning import flip
from inference.lifecycle.traits import reference
from inference.lifecycle.vetting import Rules, ask, known, vet
from inference.provenance.registry import registry_of, shipped
from inference.service.serving import load
from inference.training.samples import streets
from infra.settings import Settings
from streams.events import Context, Mode
from streams.sources.scenery import Weather

_OFFERED, _GOLDEN, _SHOT = range(780, 784), range(760, 765), (15,)
_GAMMA, _ENOUGH = 0.33, 0.8


def batch_refused(settings: Settings) -> bool:
    """Whether vetting holds back what was harmed. Raises Unavailable without the normal model in the registry, Tampered."""
    golden = [one for weather in Weather for one in streets(Context.URBAN, weather, _GOLDEN, _SHOT)]
    rng = np.random.default_rng(1)
    offered, harmed = [], set()
    for weather in Weather:
        for one in streets(Context.URBAN, weather, _OFFERED, _SHOT):
            done = flip(one.picture, one.people, _GAMMA, rng)
            offered.append(replace(one, picture=done.picture, people=done.people))
            if done.changes:
                harmed.add((one.origin, one.name))
    registry = registry_of(settings)
    served = load(registry, shipped(registry)[Mode.NORMAL], threads=1)
    rules = Rules()
    basis = known(reference(golden), golden, list(ask(served, golden)), rules)
    held = {(one.pool, one.name) for one in vet(offered, list(ask(served, offered)), basis, rules)}
    return len(held & harmed) >= _ENOUGH * len(harmed)
