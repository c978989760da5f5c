"""Reads truth and detections in the official CityPersons JSON forms, strictly.

It decides what is a record and refuses what is not with one error that names the file, the record and what is wrong with it. An
id of a picture that the truth does not have is refused; no detections at all are allowed. No topic.

Source: cvgroup-njust/CityPersons, evaluation/val_gt.json for the form; only category 1 counts.
"""

import json
import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from inference.measure.miss_rate import Annotation
from streams.errors import BadInput
from streams.events import Box

_PEDESTRIAN = 1
_LARGEST_BYTES = 1 << 30
_Size = Annotated[float, Meta(gt=0.0, le=1e9)]


class _Image(Struct, frozen=True):
    id: int


class _Person(Struct, frozen=True):
    image_id: int
    category_id: int
    bbox: tuple[float, float, _Size, _Size]
    height: float
    vis_ratio: float
    ignore: int = 0


class _Found(Struct, frozen=True):
    image_id: int
    category_id: int
    bbox: tuple[float, float, _Size, _Size]
    score: float


_Record = TypeVar("_Record", _Image, _Person, _Found)


def read(truth: Path, found: Path) -> tuple[list[list[Annotation]], list[list[Box]]]:
    """People and boxes of each picture, in the order of the pictures' ids. Scores may have any scale; the measure only ranks them.

    Raises:
        BadInput: naming file and record for whatever does not hold.
    """
    content = _parsed(truth)
    if not isinstance(content, dict) or not {"images", "annotations"} <= set(content):
        raise BadInput(f"{truth} is no truth: it must be an object with images and annotations, as val_gt.json is")
    images = sorted(image.id for image in _records(truth, "image", content["images"], _Image))
    twice = next((one for one, after in pairwise(images) if one == after), None)
    if twice is not None:
        raise BadInput(f"{truth}: image {twice} is there twice; keep one")
    people: dict[int, list[Annotation]] = {image: [] for image in images}
    for number, one in enumerate(_records(truth, "annotation", content["annotations"], _Person)):
        if one.image_id not in people:
            raise BadInput(f"{truth}: annotation {number}: image_id {one.image_id} is not among its images; add it, or remove this")
        if one.category_id == _PEDESTRIAN:
            people[one.image_id].append(Annotation(one.bbox, one.height, one.vis_ratio, bool(one.ignore)))
    boxes: dict[int, list[Box]] = {image: [] for image in images}
    for number, box in enumerate(_records(found, "detection", _parsed(found), _Found)):
        if box.image_id not in boxes:
            raise BadInput(f"{found}: detection {number}: image_id {box.image_id} is not in {truth}; are these its detections?")
        if box.category_id == _PEDESTRIAN:
            boxes[box.image_id].append(Box(*box.bbox, box.score))
    return list(people.values()), list(boxes.values())


def _parsed(path: Path) -> Any:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise BadInput(f"{path} is larger than {_LARGEST_BYTES >> 20} MiB; evaluate it in parts")
        return json.loads(path.read_bytes())  # it takes NaN, which is then refused by record and not by byte
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is no JSON: {error}") from error


def _records(path: Path, what: str, content: object, kind: type[_Record]) -> Iterable[_Record]:
    if not isinstance(content, list):
        raise BadInput(f"{path}: {what}s must be a list, this is {type(content).__name__}")
    for number, value in enumerate(content):
        try:
            record = msgspec.convert(value, kind)
        except (msgspec.ValidationError, UnicodeEncodeError) as error:  # the second: half a surrogate pair as a string
            raise BadInput(f"{path}: {what} {number}: {error}; correct this record") from error
        if not all(map(math.isfinite, _numbers(record))):
            raise BadInput(f"{path}: {what} {number} holds a number that is not finite; correct this record")
        yield record


def _numbers(record: _Image | _Person | _Found) -> Iterable[float]:
    match record:
        case _Image():
            return ()
        case _Person():
            return (*record.bbox, record.height, record.vis_ratio)
        case _Found():
            return (*record.bbox, record.score)
