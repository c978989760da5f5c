"""A poisoned training batch, offered to the vetting that every retraining passes: drawn streets, a third of their labels flipped.

It decides what is offered and says whether it was held back: at least four in five of the harmed pictures, by the two models and
the rules that a retraining uses. What is held back goes the way of a retraining's: sealed, listed, an incident. No topic.

Source: paper 5.1.2 (label flipping), 4.6 (multi-stage validation before any training).
"""

from dataclasses import replace
from datetime import datetime

import numpy as np

from inference.attacks.poisoning import flip
from inference.lifecycle.collect import Vetting, vetted
from inference.lifecycle.traits import reference
from inference.lifecycle.vetting import fit
from inference.provenance.registry import registry_of, shipped
from inference.service.serving import load
from inference.training.samples import Sample, streets
from infra.settings import Settings
from responders.engine.store import Store
from streams.console.poisoned import bring
from streams.events import Context, Mode, event_id
from streams.sources.scenery import Weather

_OFFERED, _GOLDEN, _SHOT = range(780, 784), range(760, 765), (15,)
_GAMMA, _ENOUGH = 0.33, 0.8


def batch_refused(settings: Settings, store: Store, now: datetime) -> bool:
    """Whether vetting holds back what was harmed; the incident store hears of it as of a run's.

    Raises Unavailable without the models in the registry or without the database, Tampered.
    """
    golden = [one for weather in Weather for one in streets(Context.URBAN, weather, _GOLDEN, _SHOT)]
    offered, harmed = batch(np.random.default_rng(1))
    registry = registry_of(settings)
    digests = shipped(registry)
    models = [load(registry, digests[mode], threads=1) for mode in (Mode.SAFE, Mode.NORMAL)]
    findings = vetted(offered, models, golden, reference(golden), lambda *_: None)
    _, refused = fit(offered, findings)
    run = event_id("drill", "poison", now.isoformat())
    bring(settings, store, run, Context.URBAN, Vetting(len(offered), refused, findings), now=now)
    held = {(one.origin, one.name) for one in refused}
    return len(held & harmed) >= _ENOUGH * len(harmed)


def batch(rng: np.random.Generator) -> tuple[list[Sample], set[tuple[str, str]]]:
    """The pictures that are offered, of every weather, and which of them were harmed (pool and name)."""
    offered, harmed = [], set()
    for weather in Weather:
        for one in streets(Context.URBAN, weather, _OFFERED, _SHOT):
            done = flip(one.picture, one.people, _GAMMA, rng)
            offered.append(replace(one, picture=done.picture, people=done.people))
            if done.changes:
                harmed.add((one.origin, one.name))
    return offered, harmed
