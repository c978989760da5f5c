"""Opens a source from what a person types: KIND:WHERE?option=value&option=value.

    street:urban?weather=rain&seed=3&frames=200    the synthetic street; also street:highway
    video:film.mp4, video:rtsp://host/stream       a file or a live camera
    images:FOLDER                                  PNG and JPEG files
    citypersons:FOLDER                             Cityscapes frames with annotations; without FOLDER the shared data

`size=WxH` goes with each kind: pictures are resized on reading and boxes with them. It decides nothing but what was meant, and
refuses what it does not understand with the nearest thing that it would. No topic.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import parse_qsl, urlencode

import cv2
import numpy as np

from streams.errors import BadInput
from streams.events import Context
from streams.sources.base import Person, Shot, Source
from streams.sources.citypersons import CityPersons
from streams.sources.images import ImageFolder
from streams.sources.scenery import Weather
from streams.sources.street import Street
from streams.sources.video import LiveVideo, VideoFile

Options = Mapping[str, str]
T = TypeVar("T")
OPTIONS: Mapping[str, frozenset[str]] = {
    "street": frozenset({"weather", "seed", "size", "frames", "fps"}),
    "video": frozenset({"size"}),
    "images": frozenset({"size"}),
    "citypersons": frozenset({"size", "annotations"}),
}
"""The kinds of sources and the options that each takes."""
_SIDES = range(16, 4097)


class Places(Protocol):
    """What is needed of the settings."""

    @property
    def shared_data(self) -> Path:
        """Where the real data lie."""


class Resized:
    """Another source, resized to width x height pixels, boxes with it."""

    def __init__(self, source: Source, width_px: int, height_px: int) -> None:
        self._source, self._size = source, (width_px, height_px)

    @property
    def name(self) -> str:
        """The other source's name."""
        return self._source.name

    @property
    def fps(self) -> float:
        """The other source's pictures per second."""
        return self._source.fps

    def __iter__(self) -> Iterator[Shot]:
        for shot in self._source:
            height, width = shot.picture.shape[:2]
            if (width, height) == self._size:
                yield shot
                continue
            smaller = self._size[0] < width
            picture = cv2.resize(shot.picture, self._size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
            across, down = self._size[0] / width, self._size[1] / height
            people = None if shot.people is None else tuple(_scaled(person, across, down) for person in shot.people)
            yield replace(shot, picture=np.asarray(picture, np.uint8), people=people)


def _scaled(person: Person, across: float, down: float) -> Person:
    (x, y, w, h), (vx, vy, vw, vh) = person.box_px, person.visible_px
    return Person(
        (x * across, y * down, w * across, h * down), (vx * across, vy * down, vw * across, vh * down), ignore=person.ignore
    )


def open_source(spec: str, settings: Places) -> Source:
    """The source that `spec` names, e.g. "street:urban?weather=fog&seed=3" (see the module's head).

    Raises BadInput saying what was not understood and what comes nearest, or what the source itself finds wrong.
    """
    kind, colon, rest = spec.partition(":")
    if not colon or kind not in OPTIONS:
        raise BadInput(f"source {_without_secret(spec)!r} is not understood: {_hint(spec, kind)}")
    where, options = _options(kind, rest)
    size = _size(options.get("size"))
    if kind == "street":
        return _street(where, options, size)
    source = _SIMPLE[kind](where, options, settings)
    return source if size is None else Resized(source, *size)


def _hint(spec: str, kind: str) -> str:
    if near := difflib.get_close_matches(kind.lower(), OPTIONS, 1, 0.5):
        return f"did you mean {near[0]}:...? Kinds are {', '.join(OPTIONS)}"
    if "://" in spec or Path(spec).suffix.lower() in {".mp4", ".avi", ".mkv", ".mov"}:
        return f"a video is given as video:{_without_secret(spec)}"
    if spec and Path(spec).is_dir():
        return f"a folder of pictures is given as images:{spec}"
    return f"give KIND:WHERE, e.g. street:urban or video:film.mp4; kinds are {', '.join(OPTIONS)}"


def _without_secret(spec: str) -> str:
    """A stream's address may hold a user's password."""
    head, slashes, tail = spec.partition("://")
    return head + slashes + tail.rpartition("@")[2]


def _options(kind: str, rest: str) -> tuple[str, Options]:
    where, _, query = rest.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    if "://" in where:  # a stream's address has a query of its own: take out only what is ours
        ours = {name: value for name, value in pairs if name in OPTIONS[kind]}
        theirs = urlencode([pair for pair in pairs if pair[0] not in ours])
        return f"{where}?{theirs}" if theirs else where, ours
    for name, _value in pairs:
        if name not in OPTIONS[kind]:
            near = difflib.get_close_matches(name, OPTIONS[kind], 1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise BadInput(f"{kind}: has no option {name!r}; {meant}It takes {', '.join(sorted(OPTIONS[kind]))}")
    return where, dict(pairs)


def _number(options: Options, name: str, convert: Callable[[str], T], default: T) -> T:
    if name not in options:
        return default
    try:
        return convert(options[name])
    except ValueError as error:
        raise BadInput(f"option {name}={options[name]} is no number; write e.g. {name}=3") from error


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise BadInput(f"option size={text} is not understood; write e.g. size=640x320")
    size = (int(width), int(height))
    if size[0] not in _SIDES or size[1] not in _SIDES:
        raise BadInput(f"option size={text}: each side must be {_SIDES.start} to {_SIDES.stop - 1} pixels")
    return size


def _street(where: str, options: Options, size: tuple[int, int] | None) -> Source:
    if where not in set(Context):
        near = difflib.get_close_matches(where, list(Context), 1)
        raise BadInput(
            f"street:{where} is not one; {f'did you mean street:{near[0]}? ' if near else ''}Give {' or '.join(Context)}"
        )
    width, height = size or (640, 320)
    return Street(
        Context(where),
        options.get("weather", Weather.DAY),
        _number(options, "seed", int, 0),
        width_px=width,
        height_px=height,
        frames=_number(options, "frames", int, None),
        fps=_number(options, "fps", float, 5.0),
    )


def _video(where: str, _options: Options, _settings: Places) -> Source:
    return LiveVideo(where) if "://" in where else VideoFile(Path(where).expanduser())


def _images(where: str, _options: Options, _settings: Places) -> Source:
    return ImageFolder(Path(where).expanduser())


def _citypersons(where: str, options: Options, settings: Places) -> Source:
    notes = Path(options["annotations"]).expanduser() if "annotations" in options else None
    if where:
        return CityPersons(Path(where).expanduser(), notes)
    shared = settings.shared_data
    return CityPersons(shared / "citypersons_frames", notes or shared / "citypersons" / "anno_val.mat")


_SIMPLE: Mapping[str, Callable[[str, Options, Places], Source]] = {"video": _video, "images": _images, "citypersons": _citypersons}
