"""The pictures that the adversarial-input score is calibrated on: attacked ones and honest ones, encoded as a camera sends them.

It decides what is drawn: places, weathers, attacks at several strengths, corruptions, encodings - each from a generator seeded by
the base picture's name, so that a stopped run goes on where it was. It refuses what a benchmark may use: streets from seed 900 on,
odd Penn-Fudan pictures, later stretches of the videos. No topic. Attacked pictures may show real people: they stay in the home.

Source: docs/adversarial.md, "How it is calibrated".
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from torch import nn

from inference.attacks.deepfool import deepfool
from inference.attacks.gradient import fgsm_batch, pgd
from inference.attacks.objectives import Objective
from inference.attacks.patch import Place, patch
from inference.training.samples import Sample, empty_road, footage, halved, penn_fudan, streets
from streams.camera import encode
from streams.corruptions import CORRUPTIONS, SEVERITIES
from streams.errors import BadInput, Unavailable
from streams.events import Context
from streams.line import JPEG, PNG
from streams.sources.base import Picture
from streams.sources.scenery import Weather

FITTED_SEEDS, HELD_OUT_SEEDS = range(300, 600), range(600, 900)
"""Drawn places that are fitted to, and those that only judge the fit; a benchmark takes others."""
SQUARE_FRAMES, ROAD_FRAMES = range(402, 600), range(112, 162)
_STREETS, _FRAMES = 4, 14  # places of a context and weather to fit to, frames of a video
_SHARE_FITTED = 0.6  # of a video's stretch: its beginning
_STRENGTHS = (1, 2, 4, 8)
_QUALITIES = (98, 85, 75, 60, 45, 30)
_CORRUPTED = 6
_STEPS = 5
_AS_PNG = 0.35


@dataclass(frozen=True)
class Base:
    """A clean picture; `fitted`: it belongs to the fit, not to what is held out."""

    name: str
    context: Context
    fitted: bool
    sample: Sample


@dataclass(frozen=True)
class Case:
    """One encoded picture; strength in 1/255 for bounded attacks, the severity of a corruption, the quality of a JPEG, else 0."""

    kind: str
    strength: int
    sent: str
    body: bytes
    attack: bool = False


def bases(shared_data: Path) -> list[Base]:
    """The clean pictures, in an order that mixes all kinds, so that the first so many serve as well."""
    found = list(_bases(shared_data))
    return [found[at] for at in np.random.default_rng(1).permutation(len(found))]


def _bases(shared_data: Path) -> Iterator[Base]:
    for context in Context:
        for weather in Weather:
            for fitted, seeds in ((True, FITTED_SEEDS), (False, HELD_OUT_SEEDS)):
                for number in range(_STREETS if fitted else _STREETS // 2):
                    seed = seeds[number + 10 * list(Weather).index(weather) + 100 * (context is Context.HIGHWAY)]
                    (sample,) = streets(context, weather, [seed], [(37 * seed) % 160])
                    yield Base(f"{context}-{weather}-{seed}", context, fitted, sample)
    try:
        even = penn_fudan(shared_data / "pennfudan")[::2]
        square, road = footage(shared_data, SQUARE_FRAMES), empty_road(shared_data, ROAD_FRAMES)
    except Unavailable:
        return
    for number, sample in enumerate(even[::2]):
        yield Base(sample.name, Context.URBAN, number % 3 != 1, halved(sample))
    for context, stretch in ((Context.URBAN, square), (Context.HIGHWAY, road)):
        for number in np.linspace(0, len(stretch) - 1, _FRAMES).astype(int).tolist():
            yield Base(stretch[number].name, context, number < _SHARE_FITTED * len(stretch), stretch[number])


def cases(base: Base, network: nn.Module) -> Iterator[Case]:
    """What is made of one base: clean, corrupted, badly encoded and attacked on these weights.

    One strength each of FGSM, PGD, hiding and appearing; DeepFool; a patch on every second base, which is the dearest to make.
    """
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(base.name.encode()).digest()[:8], "big"))
    picture = base.sample.picture
    yield Case("clean", 0, JPEG, encode(picture))
    yield Case("clean", 0, PNG, encode(picture, PNG))
    quality = int(rng.choice(_QUALITIES))
    yield Case("quality", quality, JPEG, _at_quality(picture, quality))
    for name in rng.choice(list(CORRUPTIONS), _CORRUPTED, replace=False):
        severity = int(rng.choice(SEVERITIES))
        yield Case(str(name), severity, JPEG, encode(CORRUPTIONS[str(name)](picture, severity, rng)))
    for kind, strength, attacked in _attacks(base.sample, network, rng):
        yield Case(kind, strength, JPEG, encode(attacked), attack=True)
        if rng.random() < _AS_PNG:
            yield Case(kind, strength, PNG, encode(attacked, PNG), attack=True)


def decoded(body: bytes) -> Picture:
    """The RGB picture that a worker sees."""
    return np.ascontiguousarray(cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1], np.uint8)


def _attacks(sample: Sample, network: nn.Module, rng: Generator) -> Iterator[tuple[str, int, Picture]]:
    picture, people = [sample.picture], [sample.people]
    there = any(not person.ignore for person in sample.people)
    bounded: dict[str, Callable[[float], list[Picture]]] = {
        "fgsm": lambda eps: fgsm_batch(network, picture, people, eps),
        "pgd": lambda eps: pgd(network, picture, people, eps, _STEPS),
        "appear": lambda eps: pgd(network, picture, people, eps, _STEPS, objective=Objective.APPEAR),
    }
    if there:
        bounded["hide"] = lambda eps: pgd(network, picture, people, eps, _STEPS, objective=Objective.HIDE)
    for kind, make in bounded.items():
        strength = int(rng.choice(_STRENGTHS))
        yield kind, strength, make(strength / 255)[0]
    if there:
        yield "deepfool", 0, deepfool(network, picture, 0.03, people=people)[0]
    place = (Place.BACKGROUND, Place.PERSON, None, None)[int(rng.integers(4))]
    if place is Place.BACKGROUND or (place is Place.PERSON and there):
        with suppress(BadInput):  # a small picture full of people has no place for one on the background
            yield f"patch-{place}", 0, patch(network, sample.picture, sample.people, place, rng, steps=15).picture


def _at_quality(picture: Picture, quality: int) -> bytes:
    done, data = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return data.tobytes()
