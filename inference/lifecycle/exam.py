"""What a model is examined on before it may serve a context, and how well it does there, as one number 0..1.

It decides the pictures (places that no training, figure or demonstration uses; photographs held out of training; the second half of
the real road) and what performance means. Urban: 1 - log-average miss rate over the Reasonable people (50 px and more, 65 % visible
and more), where missing fewer than half a person counts as missing that half. Highway: nobody walks there, so the share of pictures
without a false person, at the card's threshold; whether a model finds people is asked in town only. It refuses to attack (`gate`
does). No topic feeds it.

Source: paper 4.6 (separate baselines for urban and highway; fairness across groups); official CityPersons setups.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from inference.measure.miss_rate import SETUPS, Mode, Setup, annotation, evaluate
from inference.provenance.manifest import Manifest, manifest_of
from inference.training.pools import HELD_OUT, SPLIT_SEED, sources_of
from inference.training.samples import PHOTOGRAPHS, Sample, empty_road, halved, penn_fudan, split, streets
from streams.events import Box, Context
from streams.sources.scenery import Weather

PLACES, SHOTS = 3000, (15, 90)
"""The first seed of the places examined on, and the shots of each."""

_ROAD_FRAMES = range(120, 220)
_HIGH = 1e9


@dataclass(frozen=True)
class Exam:
    """The pictures of one context. `manifest.digest` names exactly them."""

    context: Context
    samples: tuple[Sample, ...]
    manifest: Manifest


@dataclass(frozen=True)
class Group:
    """People who must not be much worse off than others: who counts, and in which pools (by ending; all if empty)."""

    name: str
    setup: Setup
    pools: tuple[str, ...] = ()


GROUPS = (
    Group("small", Setup("small", (50, 75), (0.65, _HIGH))),
    Group("large", Setup("large", (75, _HIGH), (0.65, _HIGH))),
    Group("bare", SETUPS["bare"]),
    Group("partly hidden", SETUPS["partial"]),
    Group("by day", SETUPS["Reasonable"], (Weather.DAY, PHOTOGRAPHS)),
    Group("at dusk", SETUPS["Reasonable"], (Weather.DUSK,)),
    Group("in rain and fog", SETUPS["Reasonable"], (Weather.RAIN, Weather.FOG)),
)
"""Size, occlusion and light: what the data at hand tells of people."""


def make_exam(context: Context, shared_data: Path, places: int, real: int) -> Exam:
    """The pictures of a context.

    Args:
        context: which.
        shared_data: folder with pennfudan/ and contexts/; without it the exam is of drawn streets only, and its digest says so.
        places: drawn places for each weather, two shots of each.
        real: photographs, or frames of the road.
    """
    drawn = [
        one
        for number, weather in enumerate(Weather)
        for one in streets(context, weather, range(PLACES + 100 * number, PLACES + 100 * number + places), SHOTS, seen=0.0)
    ]
    footage: list[Sample] = []
    if context is Context.URBAN and (shared_data / "pennfudan").is_dir():
        held = split(penn_fudan(shared_data / "pennfudan"), HELD_OUT, SPLIT_SEED)[1]
        footage = [halved(one) for one in held[:real]]
    elif context is Context.HIGHWAY and (shared_data / "contexts").is_dir():
        step = max(1, len(_ROAD_FRAMES) // max(1, real))
        frames = range(_ROAD_FRAMES.start, min(_ROAD_FRAMES.stop, _ROAD_FRAMES.start + step * real), step)
        footage = [halved(one) for one in empty_road(shared_data, frames)] if real else []
    return exam_of(context, [*footage, *drawn])


def exam_of(context: Context, samples: Sequence[Sample]) -> Exam:
    """An exam on these samples. Raises BadInput if two have one name."""
    return Exam(context, tuple(samples), manifest_of(f"gate-{context}", samples, sources_of(samples)))


def performance(context: Context, samples: Sequence[Sample], found: Sequence[Sequence[Box]], threshold: float) -> float | None:
    """How well a model did, 0..1; None where there was nothing to do well (no picture; in town: nobody).

    Args:
        context: whose measure.
        samples: with the truth.
        found: the model's boxes in each, down to a low score.
        threshold: the card's, 0..1: what serving shows.
    """
    if not samples:
        return None
    if context is Context.HIGHWAY:
        quiet = sum(not any(box.score > threshold for box in boxes) for boxes in found)
        return quiet / len(samples)
    return _seen(samples, found, SETUPS["Reasonable"])[0]


def by_group(samples: Sequence[Sample], found: Sequence[Sequence[Box]], least: int) -> dict[str, float]:
    """Performance for each group of at least `least` people, 0..1."""
    results = {}
    for group in GROUPS:
        pairs = [(one, boxes) for one, boxes in zip(samples, found, strict=True) if one.origin.endswith(group.pools or "")]
        value, people = _seen([one for one, _ in pairs], [boxes for _, boxes in pairs], group.setup)
        if value is not None and people >= least:
            results[group.name] = value
    return results


def _seen(samples: Sequence[Sample], found: Sequence[Sequence[Box]], setup: Setup) -> tuple[float | None, int]:
    truth = [[annotation(person) for person in one.people] for one in samples]
    row = evaluate(truth, found, [setup], Mode.WINDOWED)[0]
    if row.recall_at is None:
        return None, 0
    # one reference at which nobody is missed would make the geometric mean nearly 0: fewer than half a person cannot be told
    missed = [max(1.0 - recall, 0.5 / row.counted) for recall in row.recall_at]
    return 1.0 - math.exp(fmean(math.log(share) for share in missed)), row.counted
