"""The scenes of the benchmark of adversarial-input detection: frames of drawn streets, of photographs and of real footage.

It decides on what the detector is measured: streets from seed 900 on, odd photographs of Penn-Fudan, the square's footage from
frame 620 and the road's from 170 on. Calibration has seen none of them; a universal perturbation is made on yet other pictures
(`known`). It refuses to change a picture. No topic.

Source: docs/adversarial.md, "How it is calibrated", for who may use what.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from inference.training.samples import Sample, empty_road, footage, halved, penn_fudan, streets
from streams.events import Context
from streams.sources.base import Person, Picture
from streams.sources.scenery import Weather

STREETS = (
    (Context.URBAN, Weather.DUSK, 901),
    (Context.URBAN, Weather.DAY, 900),
    (Context.URBAN, Weather.RAIN, 902),
    (Context.URBAN, Weather.DAY, 904),
    (Context.URBAN, Weather.FOG, 903),
    (Context.URBAN, Weather.DAY, 905),
    (Context.HIGHWAY, Weather.DUSK, 907),
    (Context.HIGHWAY, Weather.DAY, 906),
)
"""Places, and their seeds; six are towns, for that is where people are."""
_SQUARE, _ROAD = range(620, 795), range(170, 221)
_OTHERS_SEEDS, _SQUARE_BEFORE, _ROAD_BEFORE = range(950, 954), range(402, 600, 25), range(112, 160, 6)
_ROAD_SIZE_PX = (640, 360)
_USUAL, _CALM_EVERY, _NEW_EVERY = 24, 32, 4  # the sampler's: frames of a new camera, of which one in 4; one in 32 of a calm one


@dataclass(frozen=True)
class Scene:
    """A frame of a camera of a data set, clean, and who is in it."""

    data: str
    camera: str
    number: int
    context: Context
    picture: Picture
    people: tuple[Person, ...]
    usual: bool = False
    """Whether the camera's own usual is learned from it, and nothing else is done with it."""


def cameras(shared_data: Path, stretch: int) -> Iterator[Callable[[], list[Scene]]]:
    """How to get each camera's frames, `stretch` in a row (twice as many of the square); the photographs are an album.

    After a street's and the square's come some that its usual is learned from; there are no more of the road.

    Getting them raises Unavailable, naming what is not there.
    """
    yield partial(_album, shared_data)
    yield partial(_square, shared_data, 2 * stretch)
    yield partial(_road, shared_data)
    for context, weather, seed in STREETS:
        yield partial(_street, context, weather, seed, stretch)


def known(scene: Scene, shared_data: Path) -> list[Picture]:
    """Eight pictures of one size that the attacker of a universal perturbation has: of other places, or of an earlier time."""
    if scene.data == "streets":
        samples = streets(scene.context, Weather.DAY, _OTHERS_SEEDS, (0, 60))
    elif scene.data == "photographs":
        samples = [halved(one) for one in penn_fudan(shared_data / "pennfudan")[:64:8]]
    elif scene.camera == "square":
        samples = footage(shared_data, _SQUARE_BEFORE)
    else:
        samples = [_resized(one) for one in empty_road(shared_data, _ROAD_BEFORE)]
    height, width = (min(one.picture.shape[side] for one in samples) for side in (0, 1))
    return [np.ascontiguousarray(one.picture[:height, :width]) for one in samples]


def _album(shared_data: Path) -> list[Scene]:
    odd = penn_fudan(shared_data / "pennfudan")[1::2]
    return _scenes("photographs", "album", Context.URBAN, [halved(one) for one in odd])


def _square(shared_data: Path, frames: int) -> list[Scene]:
    later = _SQUARE[frames : frames + _NEW_EVERY * _USUAL : _NEW_EVERY]  # the video ends too soon for one in 32
    evaluated = _scenes("footage", "square", Context.URBAN, footage(shared_data, _SQUARE[:frames]))
    return evaluated + _usual(evaluated[0], [one - _SQUARE.start for one in later], footage(shared_data, later) if later else [])


def _road(shared_data: Path) -> list[Scene]:
    return _scenes("footage", "road", Context.HIGHWAY, [_resized(one) for one in empty_road(shared_data, _ROAD)])


def _street(context: Context, weather: Weather, seed: int, frames: int) -> list[Scene]:
    later = range(frames + _CALM_EVERY, frames + _CALM_EVERY * (_USUAL + 1), _CALM_EVERY)
    camera = f"{context}-{weather}-{seed}"
    evaluated = _scenes("streets", camera, context, streets(context, weather, [seed], range(frames)))
    return evaluated + _usual(evaluated[0], later, streets(context, weather, [seed], later))


def _scenes(data: str, camera: str, context: Context, found: Sequence[Sample]) -> list[Scene]:
    return [Scene(data, camera, number, context, one.picture, tuple(map(_plain, one.people))) for number, one in enumerate(found)]


def _usual(like: Scene, numbers: Sequence[int], found: Sequence[Sample]) -> list[Scene]:
    """Frames of the camera that `like` is of, to learn its usual from."""
    return [
        Scene(like.data, like.camera, number, like.context, one.picture, tuple(map(_plain, one.people)), usual=True)
        for number, one in zip(numbers, found, strict=True)
    ]


def _plain(person: Person) -> Person:
    """With Python's numbers: those of footage's labels are numpy's, which no message takes."""
    box, visible = (tuple(float(side) for side in sides) for sides in (person.box_px, person.visible_px))
    return Person((box[0], box[1], box[2], box[3]), (visible[0], visible[1], visible[2], visible[3]), bool(person.ignore))


def _resized(sample: Sample) -> Sample:
    """The road at the size that a camera sends; nobody is on it."""
    picture = np.asarray(cv2.resize(sample.picture, _ROAD_SIZE_PX, interpolation=cv2.INTER_AREA), np.uint8)
    return Sample(sample.origin, sample.name, picture, ())
