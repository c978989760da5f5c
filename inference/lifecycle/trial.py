"""How much poison vetting finds, and how much clean data it holds back: known harm done to known pictures, then vetted whole.

It decides which harm is tried, in which shares, with which seeds, and counts picture by picture. It refuses to tune anything: the
limits are those that a retraining run uses (`vetting.Rules`). Pictures are none that a shipped model was trained on; the golden
statistics come from others again. No topic feeds it.

Source: paper 5.1.2 (label flipping, gamma 5 to 15 %), 4.6 (multi-stage validation); harm in `inference.attacks.poisoning`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import msgspec
import numpy as np
from numpy.random import Generator

from inference.attacks.poisoning import Poisoned, duplicate, flip, remove, shift, trigger
from inference.lifecycle.traits import Reference, reference
from inference.lifecycle.vetting import Answer, Rules, ask, vet
from inference.service.serving import Served
from inference.training.pools import HELD_OUT, SPLIT_SEED
from inference.training.samples import Sample, halved, penn_fudan, split, streets
from streams.events import Context
from streams.sources.scenery import Weather

GAMMAS = (0.01, 0.05, 0.1, 0.25)
SEEDS = range(5)
_TRIED, _GOLDEN, _SHOT = range(700, 705), range(760, 765), (15,)  # places that no training sees
_FAR = 0.3  # of the height, by which a box is shifted
Report = Callable[[str, int, int], None]
"""Told what is done: words, done, of."""


class Harm(StrEnum):
    """What is tried."""

    FLIP = "labels flipped"
    SHIFT = "boxes shifted by 0.3 of the height"
    REMOVE = "boxes removed"
    TRIGGER = "backdoor patch"
    DUPLICATE = "pictures doubled"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One harm at one share, all seeds together, counted in pictures. None where nothing was held back, or nothing was harmed."""

    harm: Harm
    gamma: float
    harmed: int
    held: int
    found: int
    precision: float | None
    recall: float | None


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `pictures` were tried; of them `clean_held` are held back with no harm done at all."""

    pictures: int
    golden: int
    model: str
    seeds: int
    clean_held: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Material:
    """The pictures that are harmed, and the golden ones' statistics."""

    samples: Sequence[Sample]
    golden: Reference
    golden_pictures: int


def material(shared_data: Path) -> Material:
    """Streets of all weathers, and the held-out Penn-Fudan photographs at half size where they are to be had."""
    tried, golden = (
        [one for weather in Weather for one in streets(Context.URBAN, weather, places, _SHOT)] for places in (_TRIED, _GOLDEN)
    )
    if (shared_data / "pennfudan").is_dir():
        trained, held_out = split(penn_fudan(shared_data / "pennfudan"), HELD_OUT, SPLIT_SEED)
        tried += [halved(one) for one in held_out]
        golden += [halved(one) for one in trained[:: max(1, len(trained) // 30)]]
    return Material(tried, reference(golden), len(golden))


def run(data: Material, served: Served, rules: Rules, report: Report, seeds: Sequence[int] = SEEDS) -> Trial:
    """Harm and vet. Only pictures that harm itself changes are shown to the model again.

    Args:
        data: what is harmed.
        served: the verified model that vetting asks.
        rules: vetting's limits.
        report: told of progress.
        seeds: each harm at each share is tried once with every one.
    """
    answers = []
    for number, answer in enumerate(ask(served, data.samples)):
        report("asking the verified model", number, len(data.samples))
        answers.append(answer)
    clean = {(one.pool, one.name) for one in vet(data.samples, answers, data.golden, rules)}
    rows = []
    for number, (harm, gamma) in enumerate((harm, gamma) for harm in Harm for gamma in GAMMAS):
        counts = np.zeros(3, np.int64)
        for turn, seed in enumerate(seeds):
            report(f"{harm}, {gamma:.0%}", number * len(seeds) + turn, len(Harm) * len(GAMMAS) * len(seeds))
            counts += _once(data, answers, served, rules, harm, gamma, np.random.default_rng(seed))
        harmed, held, found = (int(count) for count in counts)
        rows.append(
            Row(
                harm=harm, gamma=gamma, harmed=harmed, held=held, found=found,
                precision=round(found / held, 3) if held else None, recall=round(found / harmed, 3) if harmed else None,
            )
        )  # fmt: skip
    return Trial(
        pictures=len(data.samples),
        golden=data.golden_pictures,
        model=served.digest,
        seeds=len(seeds),
        clean_held=len(clean),
        rows=tuple(rows),
    )


def harmed(samples: Sequence[Sample], harm: Harm, gamma: float, rng: Generator) -> Iterator[tuple[int, Sample, bool]]:
    """(place among the samples that it comes from, the sample afterwards, whether it is harmed), in the data set's new order."""
    if harm is Harm.DUPLICATE:
        before = -1
        for place in duplicate(len(samples), gamma, rng):
            again = place == before
            one = samples[place]
            yield place, replace(one, name=f"{one.name}-again") if again else one, again
            before = place
        return
    for place, one in enumerate(samples):
        done = _DONE[harm](one, gamma, rng)
        yield place, replace(one, picture=done.picture, people=done.people), bool(done.changes)


_DONE: dict[Harm, Callable[[Sample, float, Generator], Poisoned]] = {
    Harm.FLIP: lambda one, gamma, rng: flip(one.picture, one.people, gamma, rng),
    Harm.SHIFT: lambda one, gamma, rng: shift(one.picture, one.people, gamma, _FAR, rng),
    Harm.REMOVE: lambda one, gamma, rng: remove(one.picture, one.people, gamma, rng),
    Harm.TRIGGER: lambda one, gamma, rng: trigger(one.picture, one.people, gamma, rng),
}


def _once(  # noqa: PLR0917 - what is harmed, who judges, and how
    data: Material, answers: Sequence[Answer], served: Served, rules: Rules, harm: Harm, gamma: float, rng: Generator
) -> tuple[int, int, int]:
    """(pictures harmed, held back, both)."""
    bad, said, bads = [], [], set()
    for place, sample, is_bad in harmed(data.samples, harm, gamma, rng):
        same = sample.picture is data.samples[place].picture
        said.append(answers[place] if same else next(iter(ask(served, [sample]))))
        bad.append(sample)
        if is_bad:
            bads.add((sample.origin, sample.name))
    held = {(one.pool, one.name) for one in vet(bad, said, data.golden, rules)}
    return len(bads), len(held), len(held & bads)
