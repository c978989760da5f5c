"""How much poison vetting finds, and how much clean data it holds back: known harm done to known pictures, then vetted whole.

It decides which harm is tried, in which shares, with which seeds, and counts picture by picture. It refuses to tune anything: the
limits are those that `kerbwatch data vet` and a retraining run use (`vetting.Rules`, and what golden pictures teach). Pictures are
none that a shipped model was trained on; the golden ones are others again. No topic feeds it.

Source: paper 5.1.2 (label flipping, gamma 5 to 15 %), 4.6 (multi-stage validation); harm in `inference.attacks.poisoning`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import msgspec
import numpy as np
from numpy.random import Generator
from torch import nn

from inference.attacks.batch import unmoved
from inference.attacks.gradient import fgsm, pgd
from inference.attacks.poisoning import Poisoned, duplicate, flip, invent, remove, shift, shrink, trigger
from inference.lifecycle.findings import Finding, Stage
from inference.lifecycle.traits import reference
from inference.lifecycle.vetting import Answer, Known, Rules, ask, examine, known, returning
from inference.service.serving import Served
from inference.training.pools import HELD_OUT, SPLIT_SEED
from inference.training.samples import Sample, halved, penn_fudan, split, streets
from streams.events import Context
from streams.sources.base import Picture
from streams.sources.scenery import Weather

RATES = (0.01, 0.05, 0.1, 0.2, 0.5)
SEEDS = range(3)
BOTH = "both"
"""The judge that holds back what either model does, as a retraining run does."""
_TRIED, _GOLDEN, _SHOT = range(700, 710), range(760, 770), (15,)  # places that no training sees
_FAR, _SMALLER = 0.3, 0.6  # of the height, by which a box is shifted; of its size, to which it shrinks
_FGSM, _PGD, _STEPS = 0.03, 0.0157, 5
Report = Callable[[str, int, int], None]
"""Told what is done: words, done, of."""


class Harm(StrEnum):
    """What is tried."""

    FLIP = "labels flipped"
    SHIFT = "boxes shifted by 0.3 of the height"
    SHRINK = "boxes shrunk to 0.6"
    REMOVE = "boxes removed"
    ADD = "boxes added"
    TRIGGER = "backdoor patch"
    DUPLICATE = "pictures doubled"
    FGSM = "pictures under FGSM 0.03"
    PGD = "pictures under PGD 4/255"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One harm at one share, as one judge sees it; all seeds together, counted in pictures.

    `precision` is None where nothing was held back, `recall` where nothing was harmed; `stages`: how many of the harmed pictures
    each stage found.
    """

    harm: Harm
    gamma: float
    judge: str
    harmed: int
    held: int
    found: int
    precision: float | None
    recall: float | None
    stages: dict[Stage, int]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `pictures` were tried; `clean_held`: how many of them each judge holds back with no harm done at all.

    `command`, `machine`: how and where it was measured, for whoever reads the file.
    """

    pictures: int
    golden: int
    models: dict[str, str]
    seeds: int
    clean_held: dict[str, int]
    rows: tuple[Row, ...]
    command: str = ""
    machine: str = ""


@dataclass(frozen=True)
class Material:
    """The pictures that are harmed, and the golden ones."""

    samples: Sequence[Sample]
    golden: Sequence[Sample]


@dataclass(frozen=True)
class _Judge:
    """A model, what golden pictures say of it, and what it found in the pictures before any harm, one by one."""

    served: Served
    golden: Known
    clean: Sequence[Sequence[Finding]]
    said: Mapping[int, Answer]
    """By `id` of the pictures that live as long as the trial: the clean and the perturbed ones."""


def material(shared_data: Path) -> Material:
    """Streets of all weathers, and the held-out Penn-Fudan photographs at half size where they are to be had."""
    tried, golden = (
        [one for weather in Weather for one in streets(Context.URBAN, weather, places, _SHOT)] for places in (_TRIED, _GOLDEN)
    )
    if (shared_data / "pennfudan").is_dir():
        trained, held_out = split(penn_fudan(shared_data / "pennfudan"), HELD_OUT, SPLIT_SEED)
        tried += [halved(one) for one in held_out]
        golden += [halved(one) for one in trained[:: max(1, len(trained) // 30)]]
    return Material(tried, golden)


def run(  # noqa: PLR0917 - what is harmed, who judges, and how
    data: Material,
    models: Mapping[str, Served],
    network: nn.Module,
    rules: Rules,
    report: Report,
    rates: Sequence[float] = RATES,
    seeds: Sequence[int] = SEEDS,
) -> Trial:
    """Harm and vet. Only pictures that harm itself changes are shown to the models again.

    Args:
        data: what is harmed, and what is trusted.
        models: the verified models that vetting asks, by name.
        network: the white box of whoever perturbs pictures: one of the models.
        rules: vetting's limits.
        report: told of progress.
        rates: 0..1, of labels, or of pictures where whole pictures are harmed.
        seeds: each harm at each share is tried once with every one.

    Raises:
        BrokenContract: if the network is none of the models once pictures were perturbed with it.
    """
    attacked = {harm: _attacked(harm, data.samples, network, report) for harm in (Harm.FGSM, Harm.PGD)}
    unmoved(network, {one.digest for one in models.values()})
    lasting = [one for some in attacked.values() for one in some]
    judges = {name: _judge(name, served, data, lasting, rules, report) for name, served in models.items()}
    again = returning(data.samples, rules)
    nothing = [(place, sample, False) for place, sample in enumerate(data.samples)]
    untouched = {judge: len(held) for judge, held in _held(nothing, judges, rules, data.samples, again).items()}
    rows: list[Row] = []
    trials = [(harm, gamma) for harm in Harm for gamma in rates]
    for number, (harm, gamma) in enumerate(trials):
        tally: dict[str, Counter[str]] = {judge: Counter() for judge in untouched}
        for turn, seed in enumerate(seeds):
            report(f"{harm}, {gamma:.0%}", number * len(seeds) + turn, len(trials) * len(seeds))
            bad = list(harmed(data.samples, harm, gamma, np.random.default_rng(seed), attacked.get(harm, ())))
            names = {(one.origin, one.name) for _, one, is_bad in bad if is_bad}
            for judge, held in _held(bad, judges, rules, data.samples, again).items():
                found = {name: stages for name, stages in held.items() if name in names}
                tally[judge].update(harmed=len(names), held=len(held), found=len(found))
                tally[judge].update(stage for stages in found.values() for stage in stages)
        rows += [_row(harm, gamma, judge, counts) for judge, counts in tally.items()]
    return Trial(
        pictures=len(data.samples), golden=len(data.golden), models={name: one.digest for name, one in models.items()},
        seeds=len(seeds), clean_held=untouched, rows=tuple(rows),
    )  # fmt: skip


def harmed(
    samples: Sequence[Sample], harm: Harm, gamma: float, rng: Generator, attacked: Sequence[Picture] = ()
) -> Iterator[tuple[int, Sample, bool]]:
    """(place among the samples that it comes from, the sample afterwards, whether it is harmed), in the data set's new order.

    `attacked`: the perturbed picture of every sample, for the harms that put them in.
    """
    if harm is Harm.DUPLICATE:
        before = -1
        for place in duplicate(len(samples), gamma, rng):
            again = place == before
            one = samples[place]
            yield place, replace(one, name=f"{one.name}-again") if again else one, again
            before = place
        return
    for place, one in enumerate(samples):
        if harm in _DONE:
            done = _DONE[harm](one, gamma, rng)
            yield place, replace(one, picture=done.picture, people=done.people), bool(done.changes)
        else:
            is_bad = bool(rng.random() < gamma)
            yield place, replace(one, picture=attacked[place]) if is_bad else one, is_bad


_DONE: dict[Harm, Callable[[Sample, float, Generator], Poisoned]] = {
    Harm.FLIP: lambda one, gamma, rng: flip(one.picture, one.people, gamma, rng),
    Harm.SHIFT: lambda one, gamma, rng: shift(one.picture, one.people, gamma, _FAR, rng),
    Harm.SHRINK: lambda one, gamma, rng: shrink(one.picture, one.people, gamma, _SMALLER, rng),
    Harm.REMOVE: lambda one, gamma, rng: remove(one.picture, one.people, gamma, rng),
    Harm.ADD: lambda one, gamma, rng: invent(one.picture, one.people, gamma, rng),
    Harm.TRIGGER: lambda one, gamma, rng: trigger(one.picture, one.people, gamma, rng),
}


def _judge(  # noqa: PLR0917 - what is harmed, who judges, and how
    name: str, served: Served, data: Material, attacked: Sequence[Picture], rules: Rules, report: Report
) -> _Judge:
    every = [*data.golden, *data.samples, *(replace(data.samples[0], picture=one) for one in attacked)]
    said: list[Answer] = []
    for answer in ask(served, every):
        report(f"asking the {name} model", len(said), len(every))
        said.append(answer)
    trusted, answers = said[: len(data.golden)], said[len(data.golden) :]
    golden = known(reference(data.golden), data.golden, trusted, rules)
    clean = [examine(one, answer, golden, rules) for one, answer in zip(data.samples, answers, strict=False)]
    return _Judge(served, golden, clean, {id(one.picture): answer for one, answer in zip(every, said, strict=True)})


def _attacked(harm: Harm, samples: Sequence[Sample], network: nn.Module, report: Report) -> list[Picture]:
    out = []
    for number, one in enumerate(samples):
        report(f"making {harm}", number, len(samples))
        if harm is Harm.FGSM:
            out.append(fgsm(network, one.picture, one.people, _FGSM))
        else:
            out.append(pgd(network, [one.picture], [one.people], _PGD, _STEPS)[0])
    return out


def _held(
    data: Sequence[tuple[int, Sample, bool]],
    judges: Mapping[str, _Judge],
    rules: Rules,
    before: Sequence[Sample],
    again: Sequence[Finding],
) -> dict[str, dict[tuple[str, str], set[Stage]]]:
    """What each judge, and both together, hold back: pictures, and the stages that found something.

    `again` is what the last stage found in the pictures as they were `before`; where no picture is another it is found again.
    """
    bad = [sample for _, sample, _ in data]
    same = len(bad) == len(before) and all(one.picture is old.picture for one, old in zip(bad, before, strict=True))
    shared = again if same else returning(bad, rules)
    out: dict[str, dict[tuple[str, str], set[Stage]]] = {name: {} for name in (*judges, BOTH)}
    for name, judge in judges.items():
        found = list(shared)
        for place, sample, is_bad in data:
            if not is_bad or (sample.picture is before[place].picture and sample.people == before[place].people):
                found += [msgspec.structs.replace(one, name=sample.name) for one in judge.clean[place]]
            else:
                answer = judge.said.get(id(sample.picture)) or next(iter(ask(judge.served, [sample])))
                found += examine(sample, answer, judge.golden, rules)
        for one in found:
            for to in (name, BOTH):
                out[to].setdefault((one.pool, one.name), set()).add(one.stage)
    return out


def _row(harm: Harm, gamma: float, judge: str, counts: Mapping[str, int]) -> Row:
    bad, held, found = (counts.get(name, 0) for name in ("harmed", "held", "found"))
    return Row(
        harm=harm, gamma=gamma, judge=judge, harmed=bad, held=held, found=found,
        precision=round(found / held, 3) if held else None, recall=round(found / bad, 3) if bad else None,
        stages={stage: counts[stage] for stage in Stage if counts.get(stage)},
    )  # fmt: skip
