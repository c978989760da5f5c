"""What the detector is trained and measured on: annotated pictures, a fixed split, and random crops of them.

It reads Penn-Fudan and renders streets into memory, and makes training crops as a pure function of a generator, so that a batch is
known by its seed and step and a killed run goes on where it was. It refuses a folder whose annotations do not parse, and writes no
picture. All people get CityPersons' shape, a width of 0.41 of their height, whatever width the source gave. No topic feeds it.

Source: Penn-Fudan (Wang et al., ACCV 2007), PASCAL 1.00 text annotations, corners counted from 1; augmentation after CSP
(`trainval` settings: brightness, flip, resize, crop around a person) with small people added by putting four pictures into one.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

from inference.networks.csp_nano import GREY
from inference.networks.targets import ASPECT
from streams.errors import BadInput, Unavailable
from streams.events import Context
from streams.sources.base import Person, Picture
from streams.sources.scenery import Weather
from streams.sources.street import Street

PHOTOGRAPHS = "penn-fudan"
"""The pool of real photographs."""
SQUARE, ROAD = "contexts/urban_vtest_480x360.avi", "contexts/highway_solidWhiteRight_960x540.mp4"
"""Real footage in the shared data: a square seen from above with people, and a road without any."""
SQUARE_PEOPLE = "mot_streams/PETS09-S2L1.det.txt"
"""A published detector's boxes in SQUARE, frame by frame: the pseudo-labels. In pixels of the original, 768 wide."""
SMALLEST_PX = 20.0
"""Shorter people are ignored in training and measuring."""

_BOX = re.compile(r"\(Xmin, Ymin\) - \(Xmax, Ymax\) : \((\d+), (\d+)\) - \((\d+), (\d+)\)")
_SQUARE_WIDTH_PX = 768.0
_SURE = 0.8  # pseudo-labels with a lower score are ignored people
_SEEN = 0.4  # a person of whom others or cars leave less to be seen is ignored
_SHOWN = 0.6  # a person of whom less is left in a crop is ignored
_REACH = (0.09, 0.85)  # a person's height in a crop, as shares of the crop's height
_SCALES = (0.12, 1.7)
_MOSAIC = 0.3  # share of crops put together from four
_BACKED = 0.8  # share of crops whose outside is a picture without people, not grey


@dataclass(frozen=True)
class Sample:
    """An annotated picture; `origin` names the pool it came from (e.g. penn-fudan, urban-fog)."""

    origin: str
    name: str
    picture: Picture
    people: tuple[Person, ...]


def penn_fudan(folder: Path) -> list[Sample]:
    """All pictures of a Penn-Fudan folder (`Annotation`, `PNGImages`), by name.

    Raises Unavailable if the folder is not there, BadInput naming the file if one does not parse.
    """
    notes = sorted((folder / "Annotation").glob("*.txt"))
    if not notes:
        raise Unavailable(
            f"{folder}: no Penn-Fudan annotations there; set KERBWATCH_SHARED_DATA to the folder that holds pennfudan/"
        )
    samples = []
    for note in notes:
        path = folder / "PNGImages" / f"{note.stem}.png"
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        corners = [tuple(map(int, found)) for found in _BOX.findall(note.read_text(encoding="latin-1"))]
        if picture is None or not corners:
            fault = f"its picture {path} is unreadable" if picture is None else "no box found in it"
            raise BadInput(f"{note}: {fault}; fetch Penn-Fudan again")
        people = tuple(shaped((x1 - 1.0, y1 - 1.0, x2 - x1 + 1.0, y2 - y1 + 1.0)) for x1, y1, x2, y2 in corners)
        samples.append(Sample(PHOTOGRAPHS, note.stem, np.ascontiguousarray(picture[:, :, ::-1], np.uint8), people))
    return samples


def footage(shared_data: Path, frames: range) -> list[Sample]:
    """Frames of the real square, with people where a published detector saw them (pseudo-labels, checked by eye).

    Boxes that it was less sure of are ignored people. Raises Unavailable if the footage is not there.
    """
    rows = np.loadtxt(_there(shared_data / SQUARE_PEOPLE), delimiter=",")
    samples = []
    for number, picture in _frames(shared_data / SQUARE, frames):
        scale = picture.shape[1] / _SQUARE_WIDTH_PX
        found = rows[rows[:, 0] == number + 1]  # the list counts frames from 1
        people = tuple(
            shaped((row[2] * scale, row[3] * scale, row[4] * scale, row[5] * scale), ignore=row[6] < _SURE) for row in found
        )
        samples.append(Sample("square", f"square-{number}", picture, people))
    return samples


def empty_road(shared_data: Path, frames: range) -> list[Sample]:
    """Frames of the real road, on which nobody is. Raises Unavailable if the footage is not there."""
    return [Sample("road", f"road-{number}", picture, ()) for number, picture in _frames(shared_data / ROAD, frames)]


def streets(
    context: Context,
    weather: Weather,
    seeds: Sequence[int],
    shots: Sequence[int],
    *,
    seen: float = _SEEN,
    size: tuple[int, int] = (640, 320),
    attributes: bool = False,
) -> list[Sample]:
    """The given shots (5 a second) of synthetic streets with the given seeds; `size` is width and height, pixels.

    A person of whom less than the share `seen` is visible is ignored; 0 leaves that to the evaluation. With `attributes` labels say
    what the drawing knows of people, too; training data goes without, so that its manifests stay what lineages name.
    """
    samples = []
    for seed in seeds:
        street = Street(context, weather, seed, *size)
        for number in shots:
            shot = street.shot(number)
            people = tuple(
                shaped(
                    person.box_px,
                    ignore=person.ignore or _visible(person) < seen,
                    visible=_visible(person),
                    attributes=person.attributes if attributes else (),
                )
                for person in shot.people or ()
            )
            samples.append(Sample(f"{context}-{weather}", shot.name, shot.picture, people))
    return samples


def split(samples: Sequence[Sample], held: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """(to train on, held out), the same for the same seed and samples."""
    order = np.random.default_rng(seed).permutation(len(samples))
    out = set(order[:held].tolist())
    return [one for at, one in enumerate(samples) if at not in out], [one for at, one in enumerate(samples) if at in out]


def halved(sample: Sample) -> Sample:
    """The sample at half its size."""
    picture = cv2.resize(sample.picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    people = tuple(_moved(person, 0.5, 0.0, 0.0) for person in sample.people)
    return Sample(sample.origin, sample.name, np.asarray(picture, np.uint8), people)


def shaped(
    box_px: tuple[float, float, float, float], *, ignore: bool = False, visible: float = 1.0, attributes: tuple[str, ...] = ()
) -> Person:
    """A person whose box keeps its middle and height and gets CityPersons' width; the top share `visible` of it is seen."""
    x, y, w, h = box_px
    box = (x + w / 2 - ASPECT * h / 2, y, ASPECT * h, h)
    return Person(box, (*box[:3], h * visible), ignore or h < SMALLEST_PX, attributes)


def crop(
    rng: Generator, pool: Sequence[Sample], backdrops: Sequence[Picture], height: int, width: int, *, whole: bool = True
) -> Sample:
    """A random training crop of one picture of the pool, or of four; height x width px.

    A random person is brought to a random share of the crop's height and into it. People cut to less than 0.6, or shorter than
    20 px, are ignored. What the picture leaves uncovered shows a part of a backdrop (a picture without people) or grey.
    """
    if whole and rng.random() < _MOSAIC:
        canvas = np.full((height, width, 3), GREY, np.uint8)
        people: list[Person] = []
        for top in (0, height // 2):
            for left in (0, width // 2):
                part = crop(rng, pool, backdrops, height // 2, width // 2, whole=False)
                canvas[top : top + height // 2, left : left + width // 2] = part.picture
                people += [_moved(person, 1.0, left, top) for person in part.people]
        return Sample("mosaic", "mosaic", canvas, tuple(people))
    sample = pool[int(rng.integers(len(pool)))]
    picture, people = sample.picture, list(sample.people)
    counted = [person for person in people if not person.ignore]
    if counted:
        one = counted[int(rng.integers(len(counted)))]
        reach = height * float(np.exp(rng.uniform(*np.log(_REACH))))
        scale = float(np.clip(reach / one.box_px[3], *_SCALES))
        middle = ((one.box_px[0] + one.box_px[2] / 2) * scale, (one.box_px[1] + one.box_px[3] / 2) * scale)
    else:
        scale = float(rng.uniform(0.6, 1.3))
        middle = (rng.uniform(0, picture.shape[1]) * scale, rng.uniform(0, picture.shape[0]) * scale)
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=kind)
    flip = rng.random() < 0.5  # noqa: PLR2004 - a fair coin
    left = _place(rng, middle[0], resized.shape[1], width)
    top = _place(rng, middle[1], resized.shape[0], height)
    canvas = _outside(rng, backdrops, height, width)
    y0, x0, y1, x1 = max(0, top), max(0, left), min(resized.shape[0], top + height), min(resized.shape[1], left + width)
    canvas[y0 - top : y1 - top, x0 - left : x1 - left] = resized[y0:y1, x0:x1]
    moved = [_moved(person, scale, -left, -top) for person in people]
    kept = [_judged(person, height, width) for person in moved if _shown(person, height, width) > 0]
    if flip:
        canvas = canvas[:, ::-1]
        kept = [_mirrored(person, width) for person in kept]
    return Sample(sample.origin, sample.name, np.ascontiguousarray(canvas), tuple(kept))


def weathered(rng: Generator, picture: Picture) -> Picture:
    """The picture in another light, through another lens: brightness, colour, haze, blur, noise, JPEG."""
    x = picture.astype(np.float32)
    gain = np.exp(rng.uniform(np.log(0.45), np.log(1.6))) if rng.random() < 0.6 else 1.0  # noqa: PLR2004 - a share
    x *= (gain * rng.uniform(0.9, 1.1, 3)).astype(np.float32)
    if rng.random() < 0.25:  # noqa: PLR2004 - a share
        clear = rng.uniform(0.35, 0.9)
        x = x * clear + rng.uniform(120, 225) * (1 - clear)
    if rng.random() < 0.2:  # noqa: PLR2004 - a share
        x = np.asarray(cv2.GaussianBlur(x, (0, 0), float(rng.uniform(0.4, 1.4))), np.float32)
    if rng.random() < 0.5:  # noqa: PLR2004 - a share
        x += rng.standard_normal(x.shape[:2], np.float32)[..., None] * np.float32(rng.uniform(1, 9))
    out = np.clip(x, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:  # noqa: PLR2004 - a share
        _, data = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))])
        out = cv2.imdecode(data, cv2.IMREAD_COLOR).astype(np.uint8)
    return out


def _there(path: Path) -> Path:
    if not path.exists():
        raise Unavailable(f"{path} is not there; set KERBWATCH_SHARED_DATA to the folder that holds {path.parent.name}/")
    return path


def _frames(path: Path, wanted: range) -> Iterator[tuple[int, Picture]]:
    """(number from 0, RGB picture) of the wanted frames of a video."""
    capture = cv2.VideoCapture(str(_there(path)))
    try:
        for number in range(wanted.stop):
            done, frame = capture.read()
            if not done:
                raise BadInput(f"{path} ends before frame {number}; fetch it again")
            if number in wanted:
                yield number, np.ascontiguousarray(frame[:, :, ::-1], np.uint8)
    finally:
        capture.release()


def _outside(rng: Generator, backdrops: Sequence[Picture], height: int, width: int) -> Picture:
    if not backdrops or rng.random() >= _BACKED:
        return np.full((height, width, 3), GREY, np.uint8)
    picture = backdrops[int(rng.integers(len(backdrops)))]
    top = int(rng.integers(max(1, picture.shape[0] - height + 1)))
    left = int(rng.integers(max(1, picture.shape[1] - width + 1)))
    part = picture[top : top + height, left : left + width]
    if part.shape[:2] != (height, width):
        part = cv2.resize(part, (width, height)).astype(np.uint8)
    return part.copy()


def _place(rng: Generator, middle: float, size: int, window: int) -> int:
    """Where a window starts: it holds the middle, somewhere, and as much picture as it can."""
    start = middle - window * rng.uniform(0.25, 0.75)
    low, high = min(0, size - window), max(0, size - window)
    return int(np.clip(start, low, high))


def _moved(person: Person, scale: float, x_px: float, y_px: float) -> Person:
    x, y, w, h = person.box_px
    box = (x * scale + x_px, y * scale + y_px, w * scale, h * scale)
    return Person(box, _top(box, person), person.ignore, person.attributes)


def _mirrored(person: Person, width: int) -> Person:
    x, y, w, h = person.box_px
    box = (width - x - w, y, w, h)
    return Person(box, _top(box, person), person.ignore)


def _top(box: tuple[float, float, float, float], person: Person) -> tuple[float, float, float, float]:
    """The visible part of a person whose box is now `box`."""
    return (*box[:3], box[3] * _visible(person))


def _visible(person: Person) -> float:
    return person.visible_px[2] * person.visible_px[3] / (person.box_px[2] * person.box_px[3])


def _shown(person: Person, height: int, width: int) -> float:
    x, y, w, h = person.box_px
    return max(0.0, min(x + w, width) - max(x, 0.0)) * max(0.0, min(y + h, height) - max(y, 0.0)) / (w * h)


def _judged(person: Person, height: int, width: int) -> Person:
    ignore = person.ignore or person.box_px[3] < SMALLEST_PX or _shown(person, height, width) < _SHOWN
    return Person(person.box_px, person.visible_px, ignore)
