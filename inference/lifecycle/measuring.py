"""Measures any detector on the real pictures there are: photographs, CityPersons frames, a square with people, an empty road.

It decides on which pictures, at which sizes and over which people a detector is compared, so that two detectors' figures may be put
side by side; it says which of them CSP-nano trained on. It refuses to choose a model and puts none into service. No topic feeds it.

Source: Zhang et al., CityPersons, CVPR 2017 (setup Reasonable); the rest as in `inference.measure.quality`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import cv2
import msgspec
import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torchvision.ops import nms  # type: ignore[import-untyped] # ships no types

from inference.lifecycle.publish import FOLDER
from inference.measure.miss_rate import EVERYBODY, SETUPS, Annotation, Mode, Setup, annotation, match, summed
from inference.networks.adapters import open_model
from inference.networks.ssdlite import Pass, SsdLiteDetector, pretrained_ssdlite
from inference.provenance.registry import Registry, digest_of, read_card
from inference.service.serving import load
from inference.training.pools import HELD_OUT, ROAD_FRAMES, SPLIT_SEED, SQUARE_FRAMES
from inference.training.samples import halved, penn_fudan, split
from infra.settings import read_settings
from streams.errors import BadInput, KerbwatchError, Unavailable
from streams.events import Box
from streams.sources.base import Picture
from streams.sources.images import read_picture
from streams.sources.video import VideoFile

LOW = 0.03
"""Boxes that score less are not asked for."""
PRECISE = 0.7
"""The precision at which the best recall is read."""
SCALES = (0.5, 0.75, 1.0)
"""Sizes at which a CityPersons frame is looked at, as shares of its 2048 x 1024 px; the first and last make the pyramid."""

_MERGE_IOU = 0.5
_SURE = 0.5  # SSDLite's threshold, as its publisher uses it
_SQUARE, _ROAD = "contexts/urban_vtest_480x360.avi", "contexts/highway_solidWhiteRight_960x540.mp4"
_EVERY_SQUARE, _EVERY_ROAD = 20, 5

Look = Callable[[Sequence[Picture]], list[tuple[Box, ...]]]
"""People in RGB pictures (H x W x 3, uint8) of any size, those of low score included."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A detector on some pictures. Shares 0..1; None where there is no truth to hold it against.

    people: who count. found: boxes above the threshold, a picture. recall, precision: at the threshold. best_recall: at whatever
    threshold keeps the precision at 0.7 or more (0 if none does). miss_rate: log-average, windowed.
    """

    data: str
    size: str
    pictures: int
    found: float
    people: int | None = None
    recall: float | None = None
    precision: float | None = None
    best_recall: float | None = None
    miss_rate: float | None = None


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """All lines of one detector at one threshold."""

    detector: str
    threshold: float
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class _Job:
    data: str
    size: str
    pictures: Callable[[], Iterator[tuple[Picture, tuple[Annotation, ...] | None]]]
    scales: tuple[float, ...]
    setup: Setup = EVERYBODY
    unseen: tuple[str, int] | None = None  # a second line, over the pictures from this one on


def measure_detector(look: Look, detector: str, threshold: float, shared_data: Path) -> Measured:
    """Every line for one detector; minutes on a CPU. Raises Unavailable, naming what is not there.

    Args:
        look: the detector, giving boxes from a score of about 0.03 on.
        detector: what it is called.
        threshold: 0..1; boxes that score more count as found.
        shared_data: the folder that holds pennfudan/, citypersons/, citypersons_frames/ and contexts/.
    """
    lines: list[Line] = []
    for job in track(_jobs(shared_data), f"{detector:20}", console=Console(stderr=True)):
        found, truth = [], []
        for picture, people in job.pictures():
            found.append(_look(look, picture, job.scales))
            truth.append(people)
        lines.append(line(job.data, job.size, found, truth, threshold, setup=job.setup))
        if job.unseen is not None:
            name, start = job.unseen
            lines.append(line(name, job.size, found[start:], truth[start:], threshold, setup=job.setup))
    return Measured(detector=detector, threshold=threshold, lines=tuple(lines))


def line(
    data: str,
    size: str,
    found: Sequence[Sequence[Box]],
    truth: Sequence[Sequence[Annotation] | None],
    threshold: float,
    *,
    setup: Setup = EVERYBODY,
) -> Line:
    """Count: `found` are the boxes of each picture, any score; `truth` its people, None for all pictures where nobody knows."""
    above = sum(box.score > threshold for boxes in found for box in boxes) / max(len(found), 1)
    known = [people for people in truth if people is not None]
    if len(known) != len(found) or not found:
        return Line(data=data, size=size, pictures=len(found), found=round(above, 3))
    matches = [match(people, boxes, setup) for people, boxes in zip(known, found, strict=True)]
    row = summed(matches, setup, Mode.WINDOWED)
    scores = np.concatenate([one.scores for one in matches])
    order = np.argsort(-scores, kind="stable")
    true = np.cumsum(np.concatenate([one.hits for one in matches])[order], dtype=np.int64)
    precise = true / np.arange(1, true.size + 1) >= PRECISE
    sure = int((scores > threshold).sum())
    hits = int(true[sure - 1]) if sure else 0
    return Line(
        data=data,
        size=size,
        pictures=len(found),
        found=round(above, 3),
        people=row.counted,
        recall=_share(hits, row.counted),
        precision=_share(hits, sure),
        best_recall=_share(int(true[precise].max()) if precise.any() else 0, row.counted),
        miss_rate=None if row.log_average_miss_rate is None else round(row.log_average_miss_rate, 3),
    )


def merged(looks: Sequence[Sequence[Box]]) -> tuple[Box, ...]:
    """Boxes of several looks at one picture, best first, without those that a better one overlaps."""
    boxes = [box for some in looks for box in some]
    if not boxes:
        return ()
    corners = torch.tensor([(b.x_px, b.y_px, b.x_px + b.w_px, b.y_px + b.h_px) for b in boxes])
    return tuple(boxes[at] for at in nms(corners, torch.tensor([b.score for b in boxes]), _MERGE_IOU).tolist())


def _look(look: Look, picture: Picture, scales: Sequence[float]) -> tuple[Box, ...]:
    looks = []
    for scale in scales:
        boxes = look([_scaled(picture, scale)])[0]
        looks.append([Box(b.x_px / scale, b.y_px / scale, b.w_px / scale, b.h_px / scale, b.score) for b in boxes])
    return tuple(looks[0]) if len(looks) == 1 else merged(looks)


def _scaled(picture: Picture, scale: float) -> Picture:
    if scale == 1.0:
        return picture
    smooth = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
    return np.ascontiguousarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=smooth), np.uint8)


def _jobs(shared_data: Path) -> list[_Job]:
    def photographs(*, held: bool, half: bool) -> Iterator[tuple[Picture, tuple[Annotation, ...]]]:
        samples = penn_fudan(shared_data / "pennfudan")
        for one in split(samples, HELD_OUT, SPLIT_SEED)[1] if held else samples:
            sample = halved(one) if half else one
            yield sample.picture, tuple(annotation(person) for person in sample.people)

    road = -(-ROAD_FRAMES.stop // _EVERY_ROAD)
    square = -(-SQUARE_FRAMES.stop // _EVERY_SQUARE)
    jobs = [
        _Job("penn-fudan held-out", "half", lambda: photographs(held=True, half=True), (1.0,)),
        _Job("penn-fudan held-out", "whole", lambda: photographs(held=True, half=False), (1.0,)),
        _Job("penn-fudan all (90 seen)", "whole", lambda: photographs(held=False, half=False), (1.0,)),
    ]
    for scales in (*((scale,) for scale in SCALES), (SCALES[0], SCALES[-1])):
        size = " + ".join(map(str, scales))
        jobs.append(_Job("citypersons Reasonable", size, lambda: _citypersons(shared_data), scales, SETUPS["Reasonable"]))
    jobs.append(
        _Job("square", "x 2", lambda: _video(shared_data / _SQUARE, _EVERY_SQUARE, None), (2.0,), unseen=("square, unseen", square))
    )
    for scale, size in ((1.0, "960x540"), (2 / 3, "640x360")):
        jobs.append(
            _Job("road", size, lambda: _video(shared_data / _ROAD, _EVERY_ROAD, ()), (scale,), unseen=("road, unseen", road))
        )
    return jobs


class _Frame(msgspec.Struct):
    id: int
    im_name: str


class _Somebody(msgspec.Struct):
    image_id: int
    bbox: tuple[float, float, float, float]
    height: float
    vis_ratio: float
    ignore: int = 0


class _Truth(msgspec.Struct):
    images: list[_Frame]
    annotations: list[_Somebody]


def _citypersons(shared_data: Path) -> Iterator[tuple[Picture, tuple[Annotation, ...]]]:
    path, frames = shared_data / "citypersons" / "val_gt.json", shared_data / "citypersons_frames"
    try:
        truth = msgspec.json.decode(path.read_bytes(), type=_Truth)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}; set KERBWATCH_SHARED_DATA to the folder that holds it") from error
    except msgspec.DecodeError as error:
        raise BadInput(f"{path} does not hold: {error}; fetch it again") from error
    there = [one for one in truth.images if (frames / Path(one.im_name).name).is_file()]
    if not there:
        raise Unavailable(f"no frame that {path} names is in {frames}; set KERBWATCH_SHARED_DATA to the folder that holds both")
    for frame in there:
        mine = [one for one in truth.annotations if one.image_id == frame.id]
        people = tuple(Annotation(one.bbox, one.height, one.vis_ratio, bool(one.ignore)) for one in mine)
        yield read_picture(frames / Path(frame.im_name).name), people


def _video(path: Path, every: int, people: tuple[()] | None) -> Iterator[tuple[Picture, tuple[()] | None]]:
    """Every so-many-th frame; on the road there is nobody, in the square nobody has counted."""
    if not path.is_file():
        raise Unavailable(f"{path} is not there; set KERBWATCH_SHARED_DATA to the folder that holds {path.parent.name}/")
    for number, shot in enumerate(VideoFile(path)):
        if number % every == 0:
            yield shot.picture, people


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 3) if whole else None


def detector_of(name: str, scratch: Path) -> tuple[Look, float]:
    """A detector and its threshold by name: `ssdlite`, `ssdlite-sized`, a shipped model, a file of CSP-nano weights, a TOML card.

    `ssdlite` stretches every picture to 300 x 300; `ssdlite-sized` looks at its own size with the two finest levels. A card
    (docs/your-own-model.md) opens anybody's model; whether it keeps its promises is for `kerbwatch models check`.

    Raises:
        BadInput: if there is no such model or file, or it holds no such weights. Others: as `open_model`.
    """
    if name.endswith(".toml"):
        foreign = open_model(Path(name))
        return lambda pictures: foreign.detect(pictures, LOW), _SURE
    if name in ("ssdlite", "ssdlite-sized"):
        network = pretrained_ssdlite()
        if name == "ssdlite":
            shipped = SsdLiteDetector(network)
            return lambda pictures: shipped.detect(pictures, LOW), _SURE

        def sized(pictures: Sequence[Picture]) -> list[tuple[Box, ...]]:
            return [SsdLiteDetector(network, (Pass(one.shape[0], one.shape[1], 2),)).detect([one], LOW)[0] for one in pictures]

        return sized, _SURE
    known = FOLDER / f"{name}.safetensors"
    weights = known if Path(name).name == name and known.is_file() else Path(name)
    if not weights.is_file():
        raise BadInput(
            f"no model {name[:80]!r}: give ssdlite, ssdlite-sized, csp-nano, csp-nano-safe, a .safetensors file, or a card (.toml)"
        )
    beside = weights.with_suffix(".json")
    card = read_card(beside if beside.is_file() else FOLDER / "csp-nano.json")
    card = msgspec.structs.replace(card, digest=digest_of(weights.read_bytes()))
    registry = Registry(scratch)
    served = load(registry, registry.put(weights, card))
    return lambda pictures: [served.look([one], LOW)[0].boxes for one in pictures], served.threshold


def measure_model(
    name: Annotated[str, typer.Argument(help="A card (.toml), ssdlite, ssdlite-sized, a shipped model, or a .safetensors file.")],
    threshold: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Instead of the model's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Measure a detector on all real pictures there are; minutes. Example: `kerbwatch models measure csp-nano`."""
    try:
        with TemporaryDirectory() as scratch:
            look, own = detector_of(name, Path(scratch))
            measured = measure_detector(look, name, own if threshold is None else threshold, read_settings().shared_data)
    except KerbwatchError as error:
        Console(stderr=True).print(f"[red]{error}[/red]", highlight=False)
        raise typer.Exit(error.exit_code) from error
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(measured), indent=2).decode())
        return
    rows = Table("pictures", "size", "n", "found", "people", "recall", "prec.", "r@p.7", "missed", box=None, pad_edge=False)
    for one in measured.lines:
        numbers = (one.people, one.recall, one.precision, one.best_recall, one.miss_rate)
        rows.add_row(
            one.data,
            one.size,
            str(one.pictures),
            f"{one.found:.2f}",
            *("-" if value is None else f"{value:g}" for value in numbers),
        )
    Console(width=100).print(rows)
