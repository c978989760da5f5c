"""Draws what stands in a street - people, cars, trees, poles - as stamps to be put into a picture, nearest last.

It decides shapes and colours from what it is given, and refuses to choose: no randomness, no time, no scene. Everything is placed
in metres before a level pinhole camera, so that size, feet line and overlap agree. No topic; the pictures stand in for a camera.
People are annotated as CityPersons does it: a box from crown to sole whose width is 0.41 of its height (Zhang et al. 2017, 3.1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, cos, floor, pi, sin

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]
Point = tuple[float, float]
ASPECT = 0.41
"""Width of a person's box over its height."""
_SMALL_PX = 60  # smaller figures need finer drawing
_SWING = 0.37  # of the thigh in a step, in radians
_FINE = 2  # drawn at twice the size, then averaged down: soft edges as a lens gives them
_BITS = 4  # fractional bits of cv2's coordinates


@dataclass(frozen=True)
class Lens:
    """A level camera `eye_m` above the ground. Right, up and ahead are positive; a field of view as Cityscapes' camera has."""

    width_px: int
    height_px: int
    eye_m: float = 1.4

    @property
    def focal_px(self) -> float:
        """Focal length in pixels."""
        return 2.2 * self.height_px

    @property
    def horizon_px(self) -> float:
        """Row of the horizon."""
        return 0.42 * self.height_px

    def at(self, x_m: float, y_m: float, z_m: float) -> Point:
        """Column and row in pixels of a point `y_m` above the ground and `z_m` ahead."""
        return (self.width_px / 2 + self.focal_px * x_m / z_m, self.horizon_px + self.focal_px * (self.eye_m - y_m) / z_m)


@dataclass(frozen=True)
class Stamp:
    """A piece of picture: colours already multiplied by their opacity (h x w x 3, uint8), opacity (h x w, uint8), and its place."""

    left_px: int
    top_px: int
    colours: NDArray[np.uint8]
    opacity: NDArray[np.uint8]


class _Easel:
    """Draws with picture coordinates into a finer canvas that covers just one figure."""

    def __init__(self, left: float, top: float, right: float, bottom: float, fine: int = _FINE) -> None:
        self.left, self.top, self.fine = floor(left), floor(top), fine
        self.size = (max(1, ceil(right) - self.left), max(1, ceil(bottom) - self.top))
        self.canvas: NDArray[np.uint8] = np.zeros((self.size[1] * fine, self.size[0] * fine, 4), np.uint8)

    def polygon(self, points: Sequence[Point], colour: Colour, opacity: float = 1.0) -> None:
        fixed = np.array([[self._fix(x - self.left), self._fix(y - self.top)] for x, y in points], np.int32)
        cv2.fillPoly(self.canvas, [fixed], _ink(colour, opacity), cv2.LINE_AA, _BITS)

    def oval(self, centre: Point, half_w: float, half_h: float, colour: Colour, opacity: float = 1.0) -> None:
        middle = (self._fix(centre[0] - self.left), self._fix(centre[1] - self.top))
        axes = (self._fix(half_w), self._fix(half_h))
        cv2.ellipse(self.canvas, middle, axes, 0, 0, 360, _ink(colour, opacity), -1, cv2.LINE_AA, _BITS)

    def limb(self, start: Point, end: Point, start_w: float, end_w: float, colour: Colour) -> None:
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = (dx * dx + dy * dy) ** 0.5 or 1.0
        nx, ny = -dy / length / 2, dx / length / 2
        side = [(start[0] + nx * start_w, start[1] + ny * start_w), (end[0] + nx * end_w, end[1] + ny * end_w)]
        other = [(end[0] - nx * end_w, end[1] - ny * end_w), (start[0] - nx * start_w, start[1] - ny * start_w)]
        self.polygon([*side, *other], colour)
        if end_w * self.fine > 3:  # noqa: PLR2004 a smaller joint does not show
            self.oval(end, end_w / 2, end_w / 2, colour)

    def _fix(self, length_px: float) -> int:
        return round(length_px * (self.fine << _BITS))

    def stamp(self, light: NDArray[np.float32] | None = None) -> Stamp:
        small = cv2.resize(self.canvas, self.size, interpolation=cv2.INTER_AREA)
        colours = small[:, :, :3]
        if light is not None:
            field = cv2.resize(light, self.size, interpolation=cv2.INTER_LINEAR)
            colours = cv2.multiply(colours, cv2.merge((field, field, field)), dtype=cv2.CV_8U)
        return Stamp(self.left, self.top, np.ascontiguousarray(colours), np.ascontiguousarray(small[:, :, 3]))


def _ink(colour: Colour, opacity: float) -> tuple[float, float, float, float]:
    red, green, blue = colour
    return (min(255.0, red) * opacity, min(255.0, green) * opacity, min(255.0, blue) * opacity, 255 * opacity)


_CIRCLE = [(cos(2 * pi * step / 14), sin(2 * pi * step / 14)) for step in range(14)]


def tone(colour: Colour, factor: float) -> Colour:
    """The colour, lighter or darker by `factor`."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


@dataclass(frozen=True)
class Look:
    """A person's appearance. `build` is 1 for average width; `coat` is how far the upper garment reaches below the hip (0..1)."""

    height_m: float
    build: float
    skin: Colour
    hair: Colour
    top: Colour
    bottom: Colour
    shoes: Colour
    coat: float
    bare_legs: bool
    long_hair: bool
    bag: Colour | None
    light: NDArray[np.float32]
    """Small field of brightness factors: folds and the side that the light comes from."""


@dataclass(frozen=True)
class Pose:
    """Where a person is and how: `side` is 1 walking to the right, -1 to the left, 0 along the view; `phase` in radians."""

    x_m: float
    z_m: float
    side: float
    phase: float
    stride: float
    """0 standing, 1 walking."""


def person(lens: Lens, look: Look, pose: Pose, shadow: float) -> tuple[Stamp, tuple[float, float, float, float]]:
    """A person's stamp and CityPersons box (left, top, width, height in pixels; may leave the picture).

    `shadow` is the opacity of the shadow at the feet, under 0.5, so that it never counts as the person's own pixels.
    """
    figure = _Figure(lens, look, pose)
    if shadow:
        figure.easel.oval(figure.spot(0.05, 0.005), 0.24 * figure.size, 0.035 * figure.size, (0, 0, 0), shadow)
    figure.arm(-1, 0.72)
    figure.leg(-1, 0.78)
    figure.leg(1, 1.0)
    figure.trunk()
    figure.arm(1, 0.9)
    figure.head()
    size = figure.size
    return figure.easel.stamp(look.light), (figure.axis - ASPECT * size / 2, figure.soles - size, ASPECT * size, size)


class _Figure:
    """A person's parts. Lengths are shares of the height; far limbs are drawn first and darker."""

    def __init__(self, lens: Lens, look: Look, pose: Pose) -> None:
        self.look, self.pose = look, pose
        self.axis, self.soles = lens.at(pose.x_m, 0.0, pose.z_m)
        self.size = size = lens.focal_px * look.height_m / pose.z_m
        left, right = self.axis - 0.42 * size, self.axis + 0.42 * size
        self.easel = _Easel(left, self.soles - 1.04 * size, right, self.soles + 0.06 * size, 3 if size < _SMALL_PX else _FINE)
        self.across = abs(pose.side)
        self.facing = 1.0 if pose.side >= 0 else -1.0
        self.sideways = self.facing * self.across
        self.frontal = self.across < 0.5  # noqa: PLR2004 halfway between along and across
        wide = look.build * (1 - 0.42 * self.across)
        self.shoulder, self.hip = 0.112 * wide, 0.08 * wide * (1 + 0.3 * self.across)

    def spot(self, right: float, up: float) -> Point:
        return (self.axis + right * self.size, self.soles - up * self.size)

    def leg(self, sign: float, shade: float) -> None:
        size, build, stride = self.size, self.look.build, self.pose.stride
        beat = self.pose.phase + (0 if sign > 0 else pi)
        thigh = _SWING * stride * sin(beat)
        shin = thigh - stride * (0.12 + 0.75 * max(0.0, cos(beat)) ** 2)
        lift = 0.05 * stride * max(0.0, cos(beat)) if self.frontal else 0.0  # seen from the front a step is a lifted foot
        root = self.spot(sign * self.hip * 0.55 * (1 - 0.8 * self.across), 0.5)
        knee = (root[0] + self.sideways * 0.235 * size * sin(thigh), root[1] + (0.235 * cos(thigh) - lift * 0.5) * size)
        ankle = (knee[0] + self.sideways * 0.225 * size * sin(shin), knee[1] + (0.225 * cos(shin) - lift * 0.5) * size)
        ankle = (ankle[0], min(ankle[1], self.soles - 0.03 * size))
        cloth = tone(self.look.skin if self.look.bare_legs else self.look.bottom, shade)
        self.easel.limb(root, knee, 0.105 * build * size, 0.078 * build * size, cloth)
        self.easel.limb(knee, ankle, 0.075 * build * size, 0.05 * size, cloth)
        toe = (ankle[0] + self.sideways * 0.045 * size, ankle[1] + 0.012 * size)
        self.easel.oval(toe, (0.032 + 0.033 * self.across) * size, 0.0185 * size, tone(self.look.shoes, shade))

    def arm(self, sign: float, shade: float) -> None:
        size, build = self.size, self.look.build
        lean = 0.5 * self.pose.stride * sin(self.pose.phase + (pi if sign > 0 else 0))
        reach = lean + 0.25 * self.pose.stride
        out = 0.012 * sign * (1 - self.across) * size
        root = self.spot(sign * self.shoulder * (1 - 0.75 * self.across) * 0.95, 0.80)
        elbow = (root[0] + self.sideways * 0.17 * size * sin(lean) + out, root[1] + 0.17 * size * cos(lean))
        hand = (elbow[0] + self.sideways * 0.16 * size * sin(reach) + out * 0.3, elbow[1] + 0.15 * size * cos(reach))
        sleeve = tone(self.look.top, shade)
        self.easel.limb(root, elbow, 0.062 * build * size, 0.05 * build * size, sleeve)
        self.easel.limb(elbow, hand, 0.05 * build * size, 0.038 * size, sleeve)
        self.easel.oval(hand, 0.022 * size, 0.026 * size, tone(self.look.skin, shade))

    def trunk(self) -> None:
        hem, flare = 0.49 - 0.2 * self.look.coat, self.hip * (1 + 0.45 * self.look.coat)
        half = (
            (self.shoulder * 0.45, 0.865), (self.shoulder, 0.835), (self.shoulder * 1.02, 0.79), (self.shoulder * 0.86, 0.66),
            (self.hip * 1.02, 0.55), (flare, hem),
        )  # fmt: skip
        outline = [self.spot(right, up) for right, up in half] + [self.spot(-right, up) for right, up in reversed(half)]
        self.easel.polygon(outline, self.look.top)
        if self.look.bag is not None:
            place = self.spot(-self.sideways * 0.09, 0.71)
            self.easel.oval(place, (0.085 - 0.03 * self.across) * self.size, 0.1 * self.size, self.look.bag)

    def head(self) -> None:
        size, look = self.size, self.look
        self.easel.limb(self.spot(0, 0.84), self.spot(0, 0.89), 0.055 * size, 0.05 * size, tone(look.skin, 0.85))
        if look.long_hair:
            self.easel.oval(self.spot(-self.sideways * 0.02, 0.9), 0.056 * size, 0.085 * size, look.hair)
        self.easel.oval(self.spot(self.sideways * 0.012, 0.932), 0.05 * size, 0.066 * size, look.skin)
        away = self.frontal and self.pose.side >= 0  # the back of the head
        hair = self.spot(-self.sideways * 0.014, 0.938 if away else 0.952)
        self.easel.oval(hair, 0.053 * size, (0.06 if away else 0.048) * size, look.hair)


@dataclass(frozen=True)
class Body:
    """A vehicle's shape in metres and its paint; `tall` ones (vans, lorries) are boxes, others have a cabin."""

    width_m: float
    length_m: float
    height_m: float
    paint: Colour
    tall: bool = False


CAR = Body(1.8, 4.4, 1.46, (120, 120, 125))


def vehicle(lens: Lens, body: Body, x_m: float, z_m: float, *, towards: bool, lights: bool, shadow: float) -> Stamp:
    """A vehicle whose nearest face is `z_m` ahead, centred on `x_m`; `towards` shows its front. Needs z_m of at least 2."""
    half, far = body.width_m / 2, z_m + body.length_m
    around = product((-half - 0.1, half + 0.1), (-0.05, body.height_m + 0.05), (z_m, far))
    corners = [lens.at(x_m + dx, y, z) for dx, y, z in around]
    columns, rows = [c for c, _ in corners], [r for _, r in corners]
    bound = (-0.2 * lens.width_px, 1.2 * lens.width_px)
    left, right = max(min(columns), bound[0]), min(max(columns), bound[1])
    easel = _Easel(left, min(rows), max(right, left + 1), max(rows) + 2, 1 if right - left > lens.width_px / 4 else _FINE)

    def face(*points: tuple[float, float, float]) -> list[Point]:
        return [lens.at(*point) for point in points]

    if shadow:
        easel.polygon(
            face((x_m - half, 0, z_m - 0.1), (x_m + half, 0, z_m - 0.1), (x_m + half, 0, far), (x_m - half, 0, far)),
            (0, 0, 0),
            0.45,
        )
    if abs(x_m) > half:
        flank = x_m - half if x_m > 0 else x_m + half
        _side(easel, body, lambda up, along: lens.at(flank, up, z_m + along))
    _end(easel, body, lambda right, up: lens.at(x_m + right, up, z_m), towards=towards, lights=lights)
    return easel.stamp()


_GLASS: Colour = (46, 56, 66)
_TYRE: Colour = (24, 24, 26)


_Surface = Callable[[float, float], Point]
"""From metres on one face of a vehicle to pixels."""


def _waist(body: Body) -> float:
    return body.height_m * (0.9 if body.tall else 0.6)


def _side(easel: _Easel, body: Body, at: _Surface) -> None:
    end, waist, top, paint = body.length_m, _waist(body), body.height_m, tone(body.paint, 0.78)

    def face(*points: Point) -> list[Point]:
        return [at(up, along) for up, along in points]

    easel.polygon(face((0.28, 0), (waist, 0.02), (waist, end - 0.1), (0.28, end)), paint)
    if body.tall:
        easel.polygon(face((waist, 0.02), (top, 0.1), (top, end - 0.1), (waist, end)), paint)
    else:
        easel.polygon(face((waist, 0.25), (top, 0.75), (top, end - 1.9), (waist, end - 1.1)), tone(paint, 1.05))
        easel.polygon(face((waist, 0.5), (top - 0.1, 0.85), (top - 0.1, end - 2.0), (waist, end - 1.4)), _GLASS)
    for hub in (0.85, end - 0.85):
        easel.polygon([at(0.31 + 0.31 * dy, hub + 0.31 * dx) for dx, dy in _CIRCLE], _TYRE)
        easel.polygon([at(0.31 + 0.17 * dy, hub + 0.17 * dx) for dx, dy in _CIRCLE], (120, 122, 126))


def _end(easel: _Easel, body: Body, at: _Surface, *, towards: bool, lights: bool) -> None:
    half, waist, top = body.width_m / 2, _waist(body), body.height_m

    def quad(sides: Point, heights: Point, narrow: float = 0.0) -> list[Point]:
        (x0, x1), (y0, y1) = sides, heights
        return [at(x0, y0), at(x1, y0), at(x1 - narrow, y1), at(x0 + narrow, y1)]

    for sign in (-1, 1):
        easel.polygon(quad((sign * half * 0.62, sign * half * 0.97), (0.0, 0.4)), _TYRE)
    easel.polygon(quad((-half, half), (0.26, waist), 0.03), body.paint)
    easel.polygon(quad((-half * 0.94, half * 0.94), (waist, top), 0.02 if body.tall else 0.2), tone(body.paint, 0.95))
    if not body.tall or towards:
        low, high = (waist * 0.55, waist) if body.tall else (waist + 0.03, top - 0.1)
        easel.polygon(quad((-half * 0.84, half * 0.84), (low, high), 0.17), _GLASS)
        easel.polygon(quad((-half * 0.6, -half * 0.2), (low + 0.1, high - 0.04), 0.1), tone(_GLASS, 1.5))
    easel.polygon(quad((-half, half), (0.26, 0.42)), tone(body.paint, 0.6))
    easel.polygon(quad((-0.26, 0.26), (0.46, 0.57)), (225, 225, 215))
    front: Colour = (255, 250, 225) if lights else (215, 215, 210)
    rear: Colour = (255, 60, 45) if lights else (150, 25, 25)
    for sign in (-1, 1):
        easel.polygon(quad((sign * half * 0.62, sign * half * 0.95), (0.62, 0.78)), front if towards else rear)


@dataclass(frozen=True)
class Crown:
    """A tree's shape: its height, and leaf clusters as (right, up, radius, brightness), lengths as shares of the crown's size."""

    tall_m: float
    green: Colour
    leaves: Sequence[tuple[float, float, float, float]]


def tree(lens: Lens, crown: Crown, x_m: float, z_m: float) -> Stamp:
    """A tree that stands at (x_m, z_m)."""
    foot, top = lens.at(x_m, 0, z_m), lens.at(x_m, crown.tall_m, z_m)
    size = foot[1] - top[1]
    easel = _Easel(foot[0] - 0.45 * size, top[1] - 0.1 * size, foot[0] + 0.45 * size, foot[1] + 1, 1)
    easel.limb(foot, (foot[0], foot[1] - 0.5 * size), 0.045 * size, 0.035 * size, (74, 62, 52))
    for right, up, radius, light in crown.leaves:
        middle = (foot[0] + right * 0.3 * size, foot[1] - (0.68 + up * 0.28) * size)
        easel.oval(middle, radius * 0.3 * size, radius * 0.24 * size, tone(crown.green, light))
    return easel.stamp()


def pole(lens: Lens, x_m: float, z_m: float, tall_m: float, sign: Colour | None) -> Stamp:
    """A lamp post, or a traffic sign's where `sign` gives its colour."""
    foot, top = lens.at(x_m, 0, z_m), lens.at(x_m, tall_m, z_m)
    metre = lens.focal_px / z_m
    easel = _Easel(foot[0] - metre, max(top[1] - metre * 0.5, -metre), foot[0] + metre, foot[1] + 1)
    easel.limb(top, foot, 0.1 * metre, 0.14 * metre, (88, 92, 95))
    if sign is None:
        easel.limb(top, (top[0] - np.sign(x_m) * 0.8 * metre, top[1]), 0.09 * metre, 0.16 * metre, (95, 98, 100))
    else:
        easel.oval(top, 0.36 * metre, 0.36 * metre, sign)
        easel.oval(top, 0.25 * metre, 0.25 * metre, (235, 235, 235))
    return easel.stamp()


def rail(lens: Lens, x_m: float, near_m: float, far_m: float) -> Stamp:
    """A guard rail along the road from `near_m` to `far_m` ahead."""
    (left, near), (right, far) = lens.at(x_m, 0, near_m), lens.at(x_m, 0, far_m)
    top = min(lens.at(x_m, 1, near_m)[1], far) - 2
    easel = _Easel(max(min(left, right), -8.0), top, max(left, right) + 2, min(max(near, far), lens.height_px + 8.0), 1)
    for low, high, colour in ((0.48, 0.80, (168.0, 172.0, 176.0)), (0.60, 0.66, (112.0, 116.0, 120.0))):
        corners = ((low, near_m), (high, near_m), (high, far_m), (low, far_m))
        easel.polygon([lens.at(x_m, up, z) for up, z in corners], colour)
    return easel.stamp()
