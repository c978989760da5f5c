"""What the paper's experiments train and measure on: drawn streets with photographs here, CityPersons where a user has it.

It decides which pictures those are and how data poisoning reaches them (before the split into crops, into training pictures
alone). It refuses a folder that is not CityPersons. No topic.

Source: paper 5.1.1 (data), equation (1) (poisoning with probability gamma).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inference.attacks.poisoning import flip
from inference.training.pools import HELD_OUT, SPLIT_SEED, VALIDATION_SEEDS, Pools
from inference.training.samples import Sample, halved, penn_fudan, split, streets
from streams.events import Context
from streams.sources.base import Person
from streams.sources.citypersons import CityPersons
from streams.sources.scenery import Weather

HERE = "streets+penn-fudan"
"""The data that needs no download but Penn-Fudan."""

_TRAINING_SEEDS, _TRAINING_SHOTS = range(1000, 1030), (0, 70, 140)
_TEST_SEEDS, _TEST_SHOTS = range(100, 112), (15, 90)
_WEATHERS = (Weather.DAY, Weather.DUSK)
_CITY_VALIDATION = 100
_CITY_SHARES, _HERE_SHARES = (1.0,), (0.45, 0.55)


@dataclass(frozen=True)
class Data:
    """`shares` of crops go with `pools.groups`; `test` pictures are seen by no training and keep who is visible how far."""

    name: str
    pools: Pools
    shares: tuple[float, ...]
    test: tuple[Sample, ...]


def here(shared_data: Path, test_pictures: int) -> Data:
    """Penn-Fudan (90 to train on, 30 to test) and drawn town streets of other places for training, judging epochs and testing.

    Epochs are judged on streets alone: the weights that models begin with have seen all 90 photographs, and judged by some of those
    the first epoch is always the best.

    Args:
        shared_data: the folder that holds pennfudan/.
        test_pictures: so many streets are tested on at most, of day and dusk in equal parts.
    """
    photographs, held = split(penn_fudan(shared_data / "pennfudan"), HELD_OUT, SPLIT_SEED)
    town: list[Sample] = []
    validation: list[Sample] = []
    for number, weather in enumerate(_WEATHERS):
        town += streets(Context.URBAN, weather, [seed + 100 * number for seed in _TRAINING_SEEDS], _TRAINING_SHOTS)
        validation += streets(Context.URBAN, weather, VALIDATION_SEEDS, _TRAINING_SHOTS)
    empty = [one.picture for one in streets(Context.HIGHWAY, Weather.DAY, _TRAINING_SEEDS[:10], _TRAINING_SHOTS) if not one.people]
    tested: list[Sample] = []
    for weather in _WEATHERS:
        tested += streets(Context.URBAN, weather, _TEST_SEEDS, _TEST_SHOTS, seen=0.0)[: test_pictures // len(_WEATHERS)]
    return Data(HERE, Pools((photographs, town), empty, validation), _HERE_SHARES, (*map(halved, held), *tested))


def citypersons(folder: Path, test_pictures: int) -> Data:
    """A CityPersons folder: leftImg8bit/{train,val}, annotations anywhere below it. Pictures are read when they are cropped.

    Raises BadInput naming what is missing.
    """
    train = _Read(CityPersons(folder / "leftImg8bit" / "train", folder))
    test = _Read(CityPersons(folder / "leftImg8bit" / "val", folder))
    order = np.random.default_rng(SPLIT_SEED).permutation(len(train))
    judges = [train[int(at)] for at in order[:_CITY_VALIDATION]]
    kept = _Chosen(train, [int(at) for at in order[_CITY_VALIDATION:]])
    return Data(f"citypersons:{folder.name}", Pools((kept,), [], judges), _CITY_SHARES, tuple(test[: test_pictures or len(test)]))


def poisoned(pools: Pools, gamma: float, seed: int) -> Pools:
    """The pools with each training person's label moved to a false centre with probability gamma; the validation stays clean.

    The paper's defender keeps a verified set to judge by (4.6, the golden dataset), so epochs are judged by clean labels.
    """
    if not gamma:
        return pools
    return replace(pools, groups=tuple(_Poisoned(group, gamma, (seed, number)) for number, group in enumerate(pools.groups)))


class _Read(Sequence[Sample]):
    """CityPersons frames as samples, each read anew when asked for: the whole training set would take 18 GB."""

    def __init__(self, source: CityPersons) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        shot = self._source.shot(at)
        return Sample("citypersons", shot.name, shot.picture, shot.people or ())


class _Chosen(Sequence[Sample]):
    """Some of a sequence's samples, in the given order."""

    def __init__(self, group: Sequence[Sample], numbers: Sequence[int]) -> None:
        self._group, self._numbers = group, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, at: Any) -> Any:
        return self._group[self._numbers[at]]


class _Poisoned(Sequence[Sample]):
    """A group whose labels are poisoned, the same way each time a sample is asked for."""

    def __init__(self, group: Sequence[Sample], gamma: float, seed: tuple[int, int]) -> None:
        self._group, self._gamma, self._seed = group, gamma, seed
        self._people: dict[int, tuple[Person, ...]] = {}

    def __len__(self) -> int:
        return len(self._group)

    def __getitem__(self, at: Any) -> Any:
        sample = self._group[at]
        if at not in self._people:
            rng = np.random.default_rng((*self._seed, at))
            self._people[at] = flip(sample.picture, sample.people, self._gamma, rng).people
        return replace(sample, people=self._people[at])
