"""A folder of pictures as a source, in the natural order of their names; nobody's boxes are known.

It decides what counts as a picture and how one is read from disk; it refuses a file that does not decode, naming it. No topic; it
stands in for a camera. Paper 4.4 (data sources).
"""

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from streams.errors import BadInput, Refusal
from streams.sources.base import Picture, Shot

STILLS_FPS = 5.0
"""Stills have no timing of their own; they are shown at this many a second."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})


def natural(path: Path) -> tuple[tuple[int, str], ...]:
    """Sort key under which frame 2 comes before frame 10."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.as_posix()))


def read_picture(path: Path) -> Picture:
    """A PNG or JPEG from disk, H x W x 3 RGB. Raises BadInput naming the file if it is not readable as one."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise BadInput(f"picture {path} is not readable: {error.strerror}; check path and permissions") from error
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if decoded is None:
        raise BadInput(f"picture {path} is damaged or no PNG or JPEG; replace or remove it", Refusal.UNDECODABLE)
    return np.ascontiguousarray(decoded[:, :, ::-1], np.uint8)


class ImageFolder:
    """PNG and JPEG files of one folder. Raises BadInput if it has none."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise BadInput(f"image folder {folder} is not a folder; give one with PNG or JPEG files, e.g. images:holiday/")
        self._files = sorted((path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES), key=natural)
        if not self._files:
            raise BadInput(f"image folder {folder} has no PNG or JPEG file; sub-folders are not searched")
        self._name = f"images-{folder.resolve().name}"

    @property
    def name(self) -> str:
        """What the source calls itself in ledgers and logs."""
        return self._name

    @property
    def fps(self) -> float:
        """Pictures per second."""
        return STILLS_FPS

    def __iter__(self) -> Iterator[Shot]:
        for number, path in enumerate(self._files):
            yield Shot(path.stem, number / STILLS_FPS, read_picture(path), None)
