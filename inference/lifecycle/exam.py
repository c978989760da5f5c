"""What a model is examined on before it may serve a context, and how well it does there, as one number 0..1.

It decides the pictures (places that no training, figure or demonstration uses; photographs held out of training; the second half of
the real road) and what performance means. Urban: 1 - log-average miss rate over the Reasonable people (50 px and more, 65 % visible
and more), where missing fewer than half a person counts as missing that half. Highway: hardly anybody walks there, but who does
must be seen, so people of drawn town streets stand in. Its number is the share of pictures without people that show no false person
(at the card's threshold) times town's measure on the pictures with people: what sees nobody has 0, so has what sees somebody
everywhere, and a loss of either shows (the smaller of the two would hide the other's). It refuses an exam with fewer real pictures
than the rules ask for, and to attack (`gate` does). No topic feeds it.

Source: paper 4.6 (separate baselines for urban and highway; fairness across groups, demographic ones too); official CityPersons
setups.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from inference.measure.miss_rate import SETUPS, Mode, Setup, annotation, evaluate
from inference.provenance.manifest import Manifest, manifest_of
from inference.training.pools import HELD_OUT, SPLIT_SEED, sources_of
from inference.training.samples import PHOTOGRAPHS, Sample, empty_road, halved, penn_fudan, split, streets
from streams.errors import Unavailable
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
    """People who must not be much worse off than others: who counts, in which pools (by ending; all if empty).

    `attribute`: only those whose labels say it; all if empty.
    """

    name: str
    setup: Setup
    pools: tuple[str, ...] = ()
    attribute: str = ""


GROUPS = (
    Group("small", Setup("small", (50, 75), (0.65, _HIGH))),
    Group("large", Setup("large", (75, _HIGH), (0.65, _HIGH))),
    Group("bare", SETUPS["bare"]),
    Group("partly hidden", SETUPS["partial"]),
    Group("by day", SETUPS["Reasonable"], (Weather.DAY, PHOTOGRAPHS)),
    Group("at dusk", SETUPS["Reasonable"], (Weather.DUSK,)),
    Group("in rain and fog", SETUPS["Reasonable"], (Weather.RAIN, Weather.FOG)),
)
"""Size, occlusion and light, which every label tells. Each attribute that labels name is a group of its own beside these."""


def make_exam(context: Context, shared_data: Path, places: int, real: int) -> Exam:
    """The pictures of a context.

    Args:
        context: which.
        shared_data: folder with pennfudan/ and contexts/.
        places: drawn places for each weather, two shots of each; for the highway as many town streets beside them.
        real: photographs, or frames of the road.

    Raises:
        Unavailable: as `real_pictures`, before anything is drawn.
    """
    footage = real_pictures(context, shared_data, real)
    drawn = [
        one
        for where in dict.fromkeys((context, Context.URBAN))
        for number, weather in enumerate(Weather)
        for one in streets(
            where, weather, range(PLACES + 100 * number, PLACES + 100 * number + places), SHOTS, seen=0.0, attributes=True
        )
    ]
    return exam_of(context, [*footage, *drawn])


def real_pictures(context: Context, shared_data: Path, real: int) -> list[Sample]:
    """The context's `real` real pictures, at half their size; seconds, so that whoever trains first can ask whether they are there.

    Raises Unavailable naming the setting if there are fewer: an exam without them would be an easier one under the same rules.
    """
    if not real:
        return []
    if context is Context.URBAN:
        found = split(penn_fudan(shared_data / "pennfudan"), HELD_OUT, SPLIT_SEED)[1][:real]
    else:
        step = max(1, len(_ROAD_FRAMES) // real)
        found = empty_road(shared_data, _ROAD_FRAMES[::step][:real])
    if len(found) < real:
        raise Unavailable(
            f"the gate's rules ask for {real} real pictures of {context} and {shared_data} has {len(found)} that no training sees; "
            "set KERBWATCH_SHARED_DATA to a folder that has them"
        )
    return [halved(one) for one in found]


def exam_of(context: Context, samples: Sequence[Sample]) -> Exam:
    """An exam on these samples. Raises BadInput if two have one name."""
    return Exam(context, tuple(samples), manifest_of(f"gate-{context}", samples, sources_of(samples)))


def performance(context: Context, samples: Sequence[Sample], found: Sequence[Sequence[Box]], threshold: float) -> float | None:
    """How well a model did, 0..1; None where that cannot be said: nobody is there; on the highway, or somebody everywhere.

    Args:
        context: whose measure.
        samples: with the truth.
        found: the model's boxes in each, down to a low score.
        threshold: the card's, 0..1: what serving shows.
    """
    if context is Context.URBAN:
        return _seen(samples, found, Group("all", SETUPS["Reasonable"]))[0]
    pairs = list(zip(samples, found, strict=True))
    quiet = [not any(box.score > threshold for box in boxes) for one, boxes in pairs if not one.people]
    peopled = [(one, boxes) for one, boxes in pairs if one.people]
    seen, _ = _seen([one for one, _ in peopled], [boxes for _, boxes in peopled], Group("all", SETUPS["Reasonable"]))
    return fmean(quiet) * seen if quiet and seen is not None else None


def by_group(samples: Sequence[Sample], found: Sequence[Sequence[Box]], least: int) -> dict[str, float]:
    """Performance for each group of at least `least` people, 0..1."""
    named = sorted({said for one in samples for person in one.people for said in person.attributes})
    results = {}
    for group in (*GROUPS, *(Group(name, SETUPS["Reasonable"], attribute=name) for name in named)):
        pairs = [(one, boxes) for one, boxes in zip(samples, found, strict=True) if one.origin.endswith(group.pools or "")]
        value, people = _seen([one for one, _ in pairs], [boxes for _, boxes in pairs], group)
        if value is not None and people >= least:
            results[group.name] = value
    return results


def _seen(samples: Sequence[Sample], found: Sequence[Sequence[Box]], group: Group) -> tuple[float | None, int]:
    """Town's measure over the group's people, and how many count; who is of another group is neither counted nor punished."""
    truth = [
        [replace(annotation(one), ignore=one.ignore or group.attribute not in (*one.attributes, "")) for one in sample.people]
        for sample in samples
    ]
    row = evaluate(truth, found, [group.setup], Mode.WINDOWED)[0]
    if row.recall_at is None:
        return None, 0
    # one reference at which nobody is missed would make the geometric mean nearly 0: fewer than half a person cannot be told
    missed = [max(1.0 - recall, 0.5 / row.counted) for recall in row.recall_at]
    return 1.0 - math.exp(fmean(math.log(share) for share in missed)), row.counted
