"""What a source of pictures is; every kind of source hands out the same `Shot`.

Ground truth stays in the shot: it goes to a side file at most, never into an event.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""H x W x 3, RGB, 0..255."""


@dataclass(frozen=True)
class Person:
    """A ground-truth box: left, top, width, height in pixels; `visible_px` is the part not hidden.

    `ignore` marks what an evaluation must neither count nor punish (riders, groups, too small). `attributes` are what the source
    knows of somebody, e.g. "children": the gate judges fairness for each.
    """

    box_px: tuple[float, float, float, float]
    visible_px: tuple[float, float, float, float]
    ignore: bool = False
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shot:
    """One picture of a source. `time_s` counts from the source's start by the source's own timing."""

    name: str
    time_s: float
    picture: Picture
    people: tuple[Person, ...] | None


class Source(Protocol):
    """A sequence of shots that can be gone through again and again, the same each time.

    `fps` is the source's own pictures per second. Iteration raises BadInput naming file and next step when a file is not readable.
    """

    @property
    def name(self) -> str:
        """What people call it, e.g. "street:urban" or a file's name."""
        ...

    @property
    def fps(self) -> float:
        """Pictures per second by the source's own timing."""
        ...

    def __iter__(self) -> Iterator[Shot]: ...
