"""The synthetic street: a deterministic video of a town street or a highway, with exact ground truth, for any length of time.

It decides who walks and drives where: everything is a closed form of time, so shot i is the same whichever way it is reached.
It refuses to be taken for photographs: what a model reaches on it is about it, not about a road. No topic feeds it; as a source it
stands in for a camera (paper 4.6 names the two contexts). Boxes follow CityPersons; `visible_px` bounds the pixels really seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import pi
from statistics import fmean

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from streams.errors import BadInput
from streams.events import Context
from streams.sources import figures, scenery
from streams.sources.base import Person, Picture, Shot
from streams.sources.figures import Body, Colour, Crown, Lens, Look, Pose, Stamp
from streams.sources.scenery import AIRS, Air, Highway, Town, Weather

MIN_HEIGHT_PX = 20.0
"""People drawn smaller than this are marked `ignore`."""
MIN_VISIBLE = 0.2
"""People of whom less than this share of the box's height and width is seen are marked `ignore`."""
_GROWN_M, _SKIN_MIDDLE = 1.45, 124.0  # children are drawn smaller; half-way between the lightest and the darkest skin drawn
_NEAR_M, _END_M = 5.0, 54.0
_RAIL_M = 500.0  # sorts the guard rail between the carriageways
_TRUCK = Body(2.5, 11.0, 3.6, (190, 190, 195), tall=True)


@dataclass(frozen=True)
class _Walker:
    """Somebody's way: across a zebra crossing and back, or along the pavement and in again at the other end."""

    look: Look
    across: bool
    x_m: float
    z_m: float
    speed_m_s: float
    start_m: float
    step_m: float

    def pose(self, time_s: float) -> Pose:
        way = self.start_m + self.speed_m_s * time_s
        stride = min(1.0, abs(self.speed_m_s) / 1.1)
        phase = 2 * pi * way / self.step_m
        if self.across:
            span = 2 * abs(self.x_m)
            turn = way % (2 * span)
            x, side = (turn, 1.0) if turn < span else (2 * span - turn, -1.0)
            return Pose(x - abs(self.x_m), self.z_m, side, phase, stride)
        reach = _END_M - _NEAR_M
        side = 0.12 if self.speed_m_s > 0 else -0.12
        return Pose(self.x_m, _NEAR_M + (self.z_m + way) % reach, side if stride else 0.0, phase, stride)


@dataclass(frozen=True)
class _Driver:
    """A vehicle's way: `relative_m_s` away from the camera, coming back after `loop_m`."""

    body: Body
    x_m: float
    start_m: float
    relative_m_s: float
    towards: bool
    near_m: float
    loop_m: float

    def z(self, time_s: float) -> float:
        return self.near_m + (self.start_m + self.relative_m_s * time_s) % self.loop_m


@dataclass(frozen=True)
class _Item:
    """Something to be put into the picture: far ones first. `box` is set for people."""

    z_m: float
    stamp: Stamp
    box: tuple[float, float, float, float] | None = None
    behind: float = 0.0
    """Added to the distance when sorting: what lies behind something long."""
    attributes: tuple[str, ...] = ()

    @property
    def order(self) -> float:
        return self.z_m + self.behind


def _skin(rng: Generator) -> Colour:
    light, dark = np.array((232, 190, 165)), np.array((92, 62, 48))
    red, green, blue = dark + (light - dark) * rng.random() ** 0.6
    return (float(red), float(green), float(blue))


def _cloth(rng: Generator) -> Colour:
    grey = rng.choice((28, 40, 55, 75, 110, 160, 215), p=(0.2, 0.18, 0.17, 0.15, 0.12, 0.1, 0.08))
    tint = rng.uniform(-1, 1, 3) * (10 if rng.random() < 0.65 else 45)  # noqa: PLR2004 most clothes are muted
    red, green, blue = np.clip(grey + tint, 12, 240)
    return (float(red), float(green), float(blue))


def _look(rng: Generator) -> Look:
    folds = (
        1
        + 0.09 * rng.standard_normal((10, 4))
        + np.linspace(0.14, -0.14, 4) * rng.choice((-1, 1))
        - np.linspace(-0.08, 0.08, 10)[:, None]
    )
    child = rng.random() < 0.1  # noqa: PLR2004 one in ten
    hair = tuple(float(part) for part in np.array((40, 30, 24)) * rng.uniform(0.5, 3.2) + rng.uniform(-5, 5, 3))
    return Look(
        height_m=float(rng.uniform(1.1, 1.4) if child else np.clip(rng.normal(1.70, 0.09), 1.5, 1.95)),
        build=float(np.clip(rng.normal(1.08, 0.14), 0.85, 1.45)),
        skin=_skin(rng), hair=(hair[0], hair[1], hair[2]),
        top=_cloth(rng), bottom=_cloth(rng), shoes=figures.tone(_cloth(rng), 0.8),
        coat=float(rng.choice((0.0, 0.2, 0.5, 1.0), p=(0.4, 0.25, 0.2, 0.15))),
        bare_legs=bool(rng.random() < 0.08), long_hair=bool(rng.random() < 0.4),  # noqa: PLR2004 shares of people
        bag=_cloth(rng) if rng.random() < 0.35 else None,  # noqa: PLR2004 same
        light=folds.astype(np.float32),
    )  # fmt: skip


def _paint(rng: Generator) -> Colour:
    grey = rng.choice((30, 60, 110, 165, 215))
    red, green, blue = np.clip(grey + rng.uniform(-1, 1, 3) * rng.choice((4, 55)), 10, 235)
    return (float(red), float(green), float(blue))


def _tree(lens: Lens, rng: Generator, x_m: float, z_m: float) -> Stamp:
    red, green, blue = (float(part) for part in rng.uniform((58, 84, 38), (96, 122, 62)))
    count = 90
    angle, reach = rng.uniform(0, 2 * pi, count), np.sqrt(rng.random(count))
    right, up = np.cos(angle) * reach, np.sin(angle) * reach
    leaves = [
        (float(right[k]), float(up[k]), float(rng.uniform(0.12, 0.3)), float(0.75 + 0.3 * up[k] + rng.uniform(-0.22, 0.22)))
        for k in np.argsort(up)
    ]
    return figures.tree(lens, Crown(float(rng.uniform(4.5, 8)), (red, green, blue), leaves), x_m, z_m)


class Street:
    """A synthetic camera. The same arguments give the same pixels on every machine with the same cv2.

    `context` and `weather` choose the scene, `seed` the place, people and traffic. `frames` ends it (None: endless).
    Raises BadInput for sizes and rates that make no picture.
    """

    def __init__(  # noqa: PLR0917 read as one line: Street("urban", "rain", 3, 640, 320)
        self,
        context: Context | str,
        weather: Weather | str = Weather.DAY,
        seed: int = 0,
        width_px: int = 640,
        height_px: int = 320,
        frames: int | None = None,
        fps: float = 5.0,
    ) -> None:
        try:
            self.context, self.weather = Context(context), Weather(weather)
        except ValueError as error:
            known = f"contexts: {', '.join(Context)}; weathers: {', '.join(Weather)}"
            raise BadInput(f"synthetic street: {error}; {known}") from error
        if not (64 <= width_px <= 4096 and 64 <= height_px <= 4096 and 0 < fps <= 1000 and seed >= 0):  # noqa: PLR2004 what the drawing is made for
            raise BadInput(f"synthetic street of {width_px}x{height_px} at {fps} fps, seed {seed}: sides 64 to 4096, fps 0 to 1000")
        if frames is not None and frames < 1:
            raise BadInput(f"synthetic street of {frames} frames: give at least 1, or leave frames out for no end")
        self.seed, self.frames, self._fps = seed, frames, fps
        self._air: Air = AIRS[self.weather]
        self._lens = Lens(width_px, height_px)
        rng = np.random.default_rng((seed, list(Context).index(self.context)))
        gain = np.arange(256)[:, None] * np.array(self._air.gain) * rng.uniform(0.85, 1.08)
        self._gain = np.clip(gain, 0, 255).astype(np.uint8)[None]
        side = max(width_px, height_px) + 128
        grain = np.asarray(cv2.GaussianBlur(rng.standard_normal((side, side, 3)).astype(np.float32), (0, 0), 0.6))
        self._grain = (grain * (self._air.noise / float(grain.std()))).astype(np.int8)
        self._walkers: list[_Walker] = []
        self._drivers: list[_Driver] = []
        self._standing: list[_Item] = []
        if self.context is Context.URBAN:
            self._town(rng)
        else:
            self._highway_scene(rng)

    @property
    def name(self) -> str:
        """What the source calls itself in ledgers and logs."""
        return f"street-{self.context}-{self.weather}-{self.seed}"

    @property
    def fps(self) -> float:
        """Pictures per second."""
        return self._fps

    def __iter__(self) -> Iterator[Shot]:
        number = 0
        while self.frames is None or number < self.frames:
            yield self.shot(number)
            number += 1

    def shot(self, number: int) -> Shot:
        """Shot `number` from 0: RGB picture and people with boxes in pixels, nearest last."""
        time_s = number / self._fps
        rng = np.random.default_rng((self.seed, number, 1))
        picture, items = self._scene(time_s)
        mask: NDArray[np.uint8] = np.zeros(picture.shape[:2], np.uint8)
        items.sort(key=lambda item: -item.order)
        shown: list[_Item] = []
        for item in items:
            if item.box is not None:
                shown.append(item)
                if self._air.wet:
                    scenery.put(picture, _mirrored(item.stamp, self._air.wet), item.z_m, self._air, None)
            scenery.put(picture, item.stamp, item.z_m, self._air, (mask, 0 if item.box is None else len(shown)))
        picture = self._develop(picture, rng)
        people = tuple(person for at, item in enumerate(shown) if (person := _seen(mask, at + 1, item)) is not None)
        return Shot(f"{self.name}-{number:06d}", time_s, picture, people)

    def _scene(self, time_s: float) -> tuple[Picture, list[_Item]]:
        lens, air = self._lens, self._air
        items = list(self._standing)
        lights = self.weather is not Weather.DAY
        for walker in self._walkers:
            pose = walker.pose(time_s)
            if abs(pose.x_m) * lens.focal_px < (lens.width_px / 2) * pose.z_m + lens.focal_px:
                stamp, box = figures.person(lens, walker.look, pose, air.shadow)
                items.append(_Item(pose.z_m, stamp, box, attributes=_attributes(walker.look)))
        for driver in self._drivers:
            z = driver.z(time_s)
            stamp = figures.vehicle(lens, driver.body, driver.x_m, z, towards=driver.towards, lights=lights, shadow=air.shadow)
            over_there = driver.towards and self.context is Context.HIGHWAY
            items.append(_Item(z, stamp, behind=_RAIL_M if over_there else 0.0))
        if self.context is Context.URBAN:
            return self._empty.copy(), items
        driven = self._speed_m_s * time_s
        picture = self._highway.picture(driven)
        for x, start, look in self._roadside:
            z = 6 + (start - driven) % 240
            if look is None:
                items.append(_Item(z, figures.pole(lens, x, z, 1.1, None)))
            else:
                stamp, box = figures.person(lens, look, Pose(x, z, -0.1, 2 * pi * time_s, 1.0), air.shadow)
                items.append(_Item(z, stamp, box, attributes=_attributes(look)))
        items.append(_Item(30.0, self._rail, behind=_RAIL_M - 30))
        return picture, items

    def _develop(self, picture: Picture, rng: Generator) -> Picture:
        """Light, rain and the sensor's noise."""
        picture = np.asarray(cv2.LUT(picture, self._gain), np.uint8)
        height, width = picture.shape[:2]
        if self.weather is Weather.RAIN:
            count = width * height // 900
            start = rng.uniform((0, -20), (width, height), (count, 2))
            length = rng.uniform(0.02, 0.06, (count, 1)) * height
            drops = np.concatenate((start, start + length * (0.12, 1.0)), axis=1).astype(np.int32).reshape(-1, 2, 2)
            veil = picture.copy()
            cv2.polylines(veil, list(drops), False, (205, 210, 215), 1, cv2.LINE_AA)  # noqa: FBT003 cv2's order
            picture = np.asarray(cv2.addWeighted(picture, 0.62, veil, 0.38, 0), np.uint8)
        down, right = rng.integers(0, 128, 2)
        grain = self._grain[down : down + height, right : right + width]
        return np.asarray(cv2.add(picture, grain, dtype=cv2.CV_8U), np.uint8)

    def _town(self, rng: Generator) -> None:
        half = float(rng.uniform(3.2, 4.6))
        left, right = (half + float(rng.uniform(2.6, 4.5)) for _ in range(2))
        near, far = float(rng.uniform(8.2, 12.0)), float(rng.uniform(22, 34))
        town = Town(half, (left, right), ((near, near + 3.5), (far, far + 3.0)))
        self._empty = scenery.town_picture(self._lens, town, self._air, rng)
        for sign, wall in ((-1, left), (1, right)):
            z = float(rng.uniform(6, 9))
            while z < 50:  # noqa: PLR2004 beyond, cars are dots
                clear = all(z + 4.8 < start - 0.4 or z > end + 0.4 for start, end in town.crossings_m)
                if clear and rng.random() < 0.62:  # noqa: PLR2004 most places are taken
                    body = Body(1.8, 4.4, float(rng.uniform(1.42, 1.9)), _paint(rng))
                    stamp = figures.vehicle(
                        self._lens, body, sign * (half - 1.0), z, towards=sign < 0, lights=False, shadow=self._air.shadow
                    )
                    self._standing.append(_Item(z, stamp))
                z += 5.4
            for z_pole in np.arange(rng.uniform(8, 14), 50, rng.uniform(11, 17)):
                x = sign * (half + 0.35)
                what = rng.random()
                stamp = _tree(self._lens, rng, x, float(z_pole)) if what < 0.5 else figures.pole(  # noqa: PLR2004 as many trees as poles
                    self._lens, x, float(z_pole), 2.6 if what < 0.7 else 5.2, (190, 35, 35) if what < 0.7 else None)  # noqa: PLR2004 same  # fmt: skip
                self._standing.append(_Item(float(z_pole), stamp))
            for _ in range(int(rng.integers(3, 11))):
                x = sign * float(rng.uniform(half + 0.6, wall - 0.4))
                speed = float(rng.uniform(0.9, 1.7)) * float(rng.choice((-1, 1))) if rng.random() < 0.8 else 0.0  # noqa: PLR2004 one in five stands
                start = float(rng.uniform(0, 60))
                self._walkers.append(_Walker(_look(rng), False, x, 0.0, speed, start, 1.5))  # noqa: FBT003 along
                if rng.random() < 0.3:  # noqa: PLR2004 some walk in pairs
                    self._walkers.append(_Walker(_look(rng), False, x + 0.5, float(rng.uniform(-0.4, 0.4)), speed, start, 1.4))  # noqa: FBT003 along
        for near_m, far_m in town.crossings_m:
            for _ in range(int(rng.integers(1, 6))):
                speed, start = float(rng.uniform(0.9, 1.8)), float(rng.uniform(0, 60))
                z = float(rng.uniform(near_m, far_m))
                self._walkers.append(_Walker(_look(rng), True, min(left, right) - 0.5, z, speed, start, 1.5))  # noqa: FBT003 across
        for _ in range(int(rng.integers(0, 3))):
            oncoming = bool(rng.random() < 0.5)  # noqa: PLR2004 either way
            speed = float(rng.uniform(4, 9)) * (-1 if oncoming else 1)
            x = -half * 0.28 if oncoming else half * 0.28
            near_m = town.crossings_m[1][1] + 0.5
            self._drivers.append(
                _Driver(Body(1.8, 4.4, 1.5, _paint(rng)), x, float(rng.uniform(0, 60)), speed, oncoming, near_m, 58 - near_m)
            )

    def _highway_scene(self, rng: Generator) -> None:
        lane, lens = Highway.LANE_M, self._lens
        self._highway = Highway(lens, self._air, rng)
        self._speed_m_s = float(rng.uniform(20, 30))
        for number in range(3):
            for _ in range(int(rng.integers(1, 3))):
                relative = float(rng.uniform(1, 5)) * (1 if number == 0 else -0.6)
                body = _TRUCK if number == 2 and rng.random() < 0.5 else Body(1.8, 4.4, 1.46, _paint(rng))  # noqa: PLR2004 lorries keep right
                near = 14.0 if number == 0 else 5.0
                self._drivers.append(_Driver(body, number * lane, float(rng.uniform(0, 150)), relative, False, near, 150))  # noqa: FBT003 same way
        for x in (-5.6, -9.8):
            for _ in range(int(rng.integers(1, 4))):
                body = _TRUCK if rng.random() < 0.25 else Body(1.8, 4.4, 1.46, _paint(rng))  # noqa: PLR2004 a quarter are lorries
                self._drivers.append(_Driver(body, x, float(rng.uniform(0, 160)), -2 * self._speed_m_s, True, 6.0, 160))  # noqa: FBT003 towards us
        self._roadside: list[tuple[float, float, Look | None]] = [(Highway.EDGE_M + 2.6, k * 20.0, None) for k in range(12)]
        if rng.random() < 0.15:  # noqa: PLR2004 now and then somebody with a breakdown
            self._roadside.append((Highway.EDGE_M + 1.2, 97.0, _look(rng)))
        self._rail = figures.rail(lens, Highway.RAIL_M, 3.0, 170.0)


def _mirrored(stamp: Stamp, wet: float) -> Stamp:
    """The stamp's reflection in wet ground, below its feet."""
    tall = stamp.opacity.shape[0]
    colours = cv2.convertScaleAbs(stamp.colours[::-1], alpha=0.4 * wet)
    opacity = cv2.convertScaleAbs(stamp.opacity[::-1], alpha=0.4 * wet)
    return Stamp(stamp.left_px, stamp.top_px + round(tall * 0.9), np.asarray(colours, np.uint8), np.asarray(opacity, np.uint8))


def _attributes(look: Look) -> tuple[str, ...]:
    """What the drawing knows of somebody that a detector should not care about."""
    age = "children" if look.height_m < _GROWN_M else "adults"
    return age, "darker skin" if fmean(look.skin) < _SKIN_MIDDLE else "lighter skin"


def _seen(mask: NDArray[np.uint8], number: int, item: _Item) -> Person | None:
    """The person whose pixels carry `number`, with the bounding box of those inside the item's; None if no pixel shows."""
    assert item.box is not None
    box = item.box
    height, width = mask.shape
    x0, y0 = max(0, int(box[0])), max(0, int(box[1]))
    x1, y1 = min(width, int(np.ceil(box[0] + box[2]))), min(height, int(np.ceil(box[1] + box[3])))
    if x0 >= x1 or y0 >= y1:
        return None
    x, y, w, h = cv2.boundingRect((mask[y0:y1, x0:x1] == number).astype(np.uint8))
    if not w or not h:
        return None
    left, top = max(box[0], float(x0 + x)), max(box[1], float(y0 + y))
    right, bottom = min(box[0] + box[2], float(x0 + x + w)), min(box[1] + box[3], float(y0 + y + h))
    hidden = (right - left) < MIN_VISIBLE * box[2] or (bottom - top) < MIN_VISIBLE * box[3]
    ignore = hidden or box[3] < MIN_HEIGHT_PX
    return Person(box, (left, top, right - left, bottom - top), ignore, item.attributes)
