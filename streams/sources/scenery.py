"""Draws where a street lies: sky, houses, road and pavement of a town, or a highway that moves under the camera; and weather.

It decides surfaces and light; people and cars are `figures`. All randomness comes from the generator that is passed in, so a seed
is a place. It refuses to know time: a highway is asked for its picture after so many metres. No topic.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import exp

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from streams.sources.base import Picture
from streams.sources.figures import Colour, Lens, Stamp

Field = NDArray[np.float32]


class Weather(StrEnum):
    """Light and weather of a street."""

    DAY = "day"
    DUSK = "dusk"
    RAIN = "rain"
    FOG = "fog"


@dataclass(frozen=True)
class Air:
    """What a weather does to a picture: gain per channel, noise (standard deviation in grey levels), haze per metre, colours."""

    gain: Colour
    noise: float
    haze_per_m: float
    haze: Colour
    zenith: Colour
    skyline: Colour
    shadow: float
    lit: float
    """Share of windows with a light on."""
    wet: float = 0.0
    """How much the road mirrors."""


AIRS = {
    Weather.DAY: Air((1.0, 1.0, 1.0), 3.0, 0.0015, (205, 215, 225), (120, 160, 215), (215, 225, 235), 0.38, 0.03),
    Weather.DUSK: Air((0.60, 0.56, 0.64), 6.0, 0.002, (150, 120, 125), (70, 75, 130), (235, 170, 140), 0.12, 0.4),
    Weather.RAIN: Air((0.74, 0.77, 0.80), 4.5, 0.010, (172, 178, 184), (140, 147, 155), (180, 185, 190), 0.12, 0.15, 0.45),
    Weather.FOG: Air((0.95, 0.95, 0.95), 3.5, 0.045, (198, 202, 204), (198, 202, 204), (198, 202, 204), 0.10, 0.1),
}


def cloudy(rng: Generator, height: int, width: int, cells: int) -> Field:
    """Smooth noise of height x width around 0, standard deviation about 1, with so many cells across."""
    coarse = rng.standard_normal((max(2, cells * height // width) + 1, cells + 1)).astype(np.float32)
    fine = rng.standard_normal((max(2, cells * 4 * height // width) + 1, cells * 4 + 1)).astype(np.float32)
    slow, fast = (cv2.resize(cells_, (width, height), interpolation=cv2.INTER_CUBIC) for cells_ in (coarse, fine))
    return np.asarray(0.9 * slow + 0.45 * fast, np.float32)


def hazed(colours: Field, depth_m: Field, air: Air) -> Field:
    """Colours seen through `depth_m` of air: Koschmieder's law."""
    clear = np.exp(-air.haze_per_m * depth_m)[..., None]
    return np.asarray(colours * clear + np.array(air.haze, np.float32) * (1 - clear), np.float32)


def put(picture: Picture, stamp: Stamp, z_m: float, air: Air, marks: tuple[NDArray[np.uint8], int] | None) -> None:
    """Puts a stamp into the picture, seen through `z_m` of air. Its solid pixels get the number in the mask of `marks`."""
    height, width = picture.shape[:2]
    tall, wide = stamp.opacity.shape
    x0, y0 = max(0, stamp.left_px), max(0, stamp.top_px)
    x1, y1 = min(width, stamp.left_px + wide), min(height, stamp.top_px + tall)
    if x0 >= x1 or y0 >= y1:
        return
    cut = (slice(y0 - stamp.top_px, y1 - stamp.top_px), slice(x0 - stamp.left_px, x1 - stamp.left_px))
    opacity, colours = stamp.opacity[cut], stamp.colours[cut]
    spread = np.asarray(cv2.merge((opacity, opacity, opacity)), np.uint8)
    clear = exp(-air.haze_per_m * z_m)
    if clear < 0.999:  # noqa: PLR2004 air that thin changes no grey level
        colours = np.asarray(cv2.addWeighted(colours, clear, _tinted(spread, air.haze, (1 - clear) / 255), 1.0, 0.0), np.uint8)
    here = picture[y0:y1, x0:x1]
    here[:] = cv2.add(cv2.multiply(here, cv2.bitwise_not(spread), scale=1 / 255), colours)
    if marks is not None:
        mask, number = marks
        mask[y0:y1, x0:x1][opacity > 127] = number  # noqa: PLR2004 more than half covered


def _tinted(spread: NDArray[np.uint8], colour: Colour, scale: float) -> NDArray[np.uint8]:
    tint = np.array((*colour, 0.0))
    return np.asarray(cv2.multiply(spread, tint, scale=scale), np.uint8)


def _sky(rng: Generator, height: int, width: int, air: Air) -> Field:
    ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    sky = np.array(air.zenith, np.float32) * (1 - ramp) + np.array(air.skyline, np.float32) * ramp
    clouds = np.clip(cloudy(rng, height, width, 5), 0, 2)[..., None] * rng.uniform(4, 26) * exp(-30 * air.haze_per_m)
    return np.asarray(np.clip(sky + clouds, 0, 255), np.float32)


@dataclass(frozen=True)
class Town:
    """Widths of a town street in metres, the same for drawing it and for walking in it."""

    road_half_m: float
    wall_m: tuple[float, float]
    """Distance of the houses on the left and right."""
    crossings_m: tuple[tuple[float, float], ...]
    """Zebra crossings, from and to, ahead of the camera."""


FAR_M = 62.0


def town_picture(lens: Lens, town: Town, air: Air, rng: Generator) -> Picture:
    """The empty street, lens.height_px x lens.width_px x 3, found by following each ray to ground, wall or sky."""
    height, width = lens.height_px * 2, lens.width_px * 2
    column = (np.arange(width, dtype=np.float32) + 0.5) / 2
    row = (np.arange(height, dtype=np.float32) + 0.5) / 2
    dx = np.broadcast_to((column - lens.width_px / 2) / lens.focal_px, (height, width))
    dy = np.broadcast_to(((lens.horizon_px - row) / lens.focal_px)[:, None], (height, width))
    ground = np.where(dy < 0, -lens.eye_m / np.minimum(dy, np.float32(-1e-6)), np.inf).astype(np.float32)
    wall = (np.where(dx < 0, town.wall_m[0], town.wall_m[1]) / np.maximum(np.abs(dx), 1e-6)).astype(np.float32)
    depth = np.minimum(np.minimum(ground, wall), FAR_M)
    seen = _sky(rng, height, width, air)
    _far_end(rng, seen, dx * FAR_M, lens.eye_m + dy * FAR_M)
    for side in (dx < 0, dx >= 0):
        here = side & (wall < FAR_M) & (wall < ground)
        _houses(rng, seen, here, (wall, (lens.eye_m + dy * wall).astype(np.float32)), air)
    paved = ground <= np.minimum(wall, FAR_M)
    seen[paved] = _ground(rng, town, (dx[paved] * ground[paved]).astype(np.float32), ground[paved])
    if air.wet:
        middle = int(lens.horizon_px * 2)
        mirror = cv2.GaussianBlur(seen[:middle][::-1], (3, 31), 0)[: height - middle]
        share = (air.wet * 0.5 * np.linspace(1, 0, len(mirror), dtype=np.float32))[:, None, None]
        rest = seen[middle : middle + len(mirror)]
        rest[:] = rest * (1 - share) + mirror * share
    seen = hazed(seen, depth, air)
    small = cv2.resize(seen, (lens.width_px, lens.height_px), interpolation=cv2.INTER_AREA)
    return np.asarray(np.clip(small, 0, 255), np.uint8)


def _ground(rng: Generator, town: Town, x: Field, z: Field) -> Field:
    grain = rng.standard_normal((256, 256)).astype(np.float32)
    patch = cv2.GaussianBlur(rng.standard_normal((256, 256)).astype(np.float32), (0, 0), 9) * 9
    rough = grain[(z * 23).astype(int) & 255, (x * 23).astype(int) & 255] / (1 + z / 12)
    worn = patch[(z * 7).astype(int) & 255, (x * 11).astype(int) & 255]
    road = rng.uniform(82, 118) + 5 * rough + 4 * worn
    level = road[..., None] * np.array((1.0, 1.0, 1.03), np.float32)
    away = np.abs(x)
    tile = rng.uniform(0.5, 1.1)
    joint = np.minimum((z / tile) % 1, ((away + 3) / tile) % 1) < 0.05  # noqa: PLR2004 of a tile
    stone = (rng.uniform(135, 175) + 5 * rough + 5 * worn) * np.where(joint & (z < 30), 0.84, 1.0)  # noqa: PLR2004 finer than a pixel beyond
    paving = stone[..., None] * np.array((1.0, 0.98, 0.94), np.float32)
    level = np.where((away > town.road_half_m)[..., None], paving, level)
    kerb = (away > town.road_half_m) & (away < town.road_half_m + 0.18)
    level[kerb] = 188
    level[(away > town.road_half_m - 0.08) & (away <= town.road_half_m)] *= 0.72
    white = (away < 0.07) & (z % 6 < 3)  # noqa: PLR2004 three metres of line, three of gap
    for near, far in town.crossings_m:
        zebra = (z > near) & (z < far)
        white = np.where(zebra, ((x + 50) % 1.0 < 0.5) & (away < town.road_half_m - 0.3), white)  # noqa: PLR2004 half a metre of white
    level[white] = (level[white] * 0.25 + 160 + 6 * rough[white][:, None]).astype(np.float32)
    return np.asarray(level, np.float32)


def _far_end(rng: Generator, seen: Field, x: Field, y: Field) -> None:
    """The block that closes the street, painted over the sky."""
    here = (y < 9 + 4 * np.sin(np.floor(x / 8) * 1.7)) & (y > 0)
    paint = rng.uniform(105, 165) * rng.uniform((0.95, 0.9, 0.8), (1.06, 1.0, 1.0))
    pane = (x[here] % 2.4 > 1.3) & (y[here] % 3 > 1.2)  # noqa: PLR2004 distant windows
    seen[here] = np.where(pane[:, None], paint * 0.55, paint)


def _houses(rng: Generator, seen: Field, side: NDArray[np.bool_], wall_zy: tuple[Field, Field], air: Air) -> None:
    """One side's facades, painted over what is behind them: house by house with its own colour, storeys and windows."""
    z_all, y_all = wall_zy
    edges = np.cumsum(rng.uniform(6, 13, 12))
    count = len(edges) + 1
    roof = rng.uniform(9, 19, count).astype(np.float32)
    side = side & (y_all < roof[np.searchsorted(edges, z_all)])
    z, y = z_all[side], y_all[side]
    number = np.searchsorted(edges, z)
    hues = (rng.uniform(95, 205, (count, 1)) * rng.uniform((0.95, 0.88, 0.72), (1.08, 1.0, 0.98), (count, 3))).astype(np.float32)
    pitch, storey, share = (
        rng.uniform(low, high, count).astype(np.float32)[number] for low, high in ((1.8, 3.2), (2.9, 3.5), (0.21, 0.31))
    )
    column, floor = z / pitch, np.maximum(y - 0.6, 0) / storey
    across, up = np.abs(column % 1 - 0.5), floor % 1
    window = (across < share) & (up > 0.22) & (up < 0.78)  # noqa: PLR2004 parts of a storey
    frame = (across < share + 0.05) & (up > 0.17) & (up < 0.83)  # noqa: PLR2004 same
    bars = window & ((across < 0.03) | (np.abs(up - 0.6) < 0.02))  # noqa: PLR2004 same
    shop = (y < 2.9) & (y > 0.5) & (across < 0.4) & (number % 3 == 0)  # noqa: PLR2004 every third house has a shop
    chance = rng.random((64, 64)).astype(np.float32)[column.astype(np.int32) & 63, floor.astype(np.int32) & 63]
    height, width = side.shape
    level = 1 + 0.05 * cloudy(rng, height, width, 24)[side]
    level *= np.where(y < 3.4, 0.9, 1.0)  # noqa: PLR2004 a darker ground floor
    level *= np.where((up < 0.05) & (y > 3), 0.82, 1.0)  # noqa: PLR2004 a ledge at each storey
    level[frame] = 1.18
    wall = hues[number] * level[:, None]
    glass = window | shop
    wall[glass] = np.array((62, 74, 88), np.float32) * (0.7 + 0.7 * chance[glass, None])
    wall[glass & (chance < air.lit)] = (255, 225, 160)
    wall[bars] = 215
    seen[side] = np.minimum(wall, 255)


class Highway:
    """A highway of three lanes for us and an opposite carriageway beyond the guard rail on the left."""

    LANE_M = 3.6
    RAIL_M = -2.9
    EDGE_M = 9.4

    def __init__(self, lens: Lens, air: Air, rng: Generator) -> None:
        self.air, self.lens = air, lens
        width, height = lens.width_px, lens.height_px
        self.top = int(lens.horizon_px) + 1
        self.backdrop = self._hills(rng, _sky(rng, height, width, air))
        rows = np.arange(self.top, height, dtype=np.float32)[:, None] + 0.5
        ahead = np.broadcast_to(lens.focal_px * lens.eye_m / (rows - lens.horizon_px), (height - self.top, width))
        self.z = ahead.astype(np.float32)
        x = ((np.arange(width, dtype=np.float32)[None] + 0.5 - width / 2) / lens.focal_px * self.z).astype(np.float32)
        self.grain = np.asarray(cv2.GaussianBlur(rng.standard_normal((512, 256)).astype(np.float32), (0, 0), 0.8) * 9, np.float32)
        self.columns = (x * 9).astype(int) & 255
        road = (x > -14.5) & (x < self.EDGE_M + 2.2) & ~((x > self.RAIL_M - 1.2) & (x < self.RAIL_M + 0.4))  # noqa: PLR2004 widths of the carriageways
        asphalt, grass = rng.uniform(95, 130), np.array(rng.uniform((80, 100, 50), (120, 130, 75)), np.float32)
        self.base = np.where(road[..., None], np.array((1.0, 1.0, 1.02), np.float32) * asphalt, grass).astype(np.float32)
        pixel = self.z / lens.focal_px

        def stripe(at_m: float) -> Field:
            return np.asarray(np.clip((0.1 + pixel / 2 - np.abs(x - at_m)) / pixel, 0, 1) * np.minimum(1, 0.2 / pixel), np.float32)

        solid = stripe(self.RAIL_M + 1.0) + stripe(self.EDGE_M)
        self.base += solid[..., None] * (225 - self.base)
        self.dashed = stripe(-1.8 + self.LANE_M) + stripe(-1.8 + 2 * self.LANE_M) + stripe(-7.8)
        clear = np.exp(-air.haze_per_m * self.z).astype(np.float32)
        self.clear = np.asarray(cv2.merge((clear, clear, clear)), np.float32)
        self.veil = np.array(air.haze, np.float32) * (1 - self.clear)
        self.rows = (self.z[:, 0] * 9).astype(int)

    def _hills(self, rng: Generator, sky: Field) -> Picture:
        width, horizon = self.lens.width_px, self.lens.horizon_px
        leaves = cloudy(rng, self.lens.height_px, width, 60)
        for tall, shade, far in ((0.16, 1.15, 260.0), (0.09, 0.8, 110.0)):
            ridge = horizon - np.abs(cloudy(rng, 4, width, 6)[0] * 0.45 + 1) * tall * self.lens.height_px
            green = np.array(rng.uniform((62, 84, 50), (92, 112, 74)), np.float32) * shade
            depth = np.full(sky.shape[:2], far, np.float32)
            hill = hazed(green * (1 + 0.16 * leaves)[..., None], depth, self.air)
            under = np.arange(self.lens.height_px)[:, None] > ridge[None]
            sky = np.where(under[..., None], hill, sky).astype(np.float32)
        return np.clip(sky, 0, 255).astype(np.uint8)

    def picture(self, driven_m: float) -> Picture:
        """The empty highway after `driven_m` metres."""
        seen = self.backdrop.copy()
        rough = self.grain[((self.rows + int(driven_m * 9)) & 511)[:, None], self.columns]
        dash = self.dashed * ((self.z[:, :1] + driven_m) % 12 < 4)  # noqa: PLR2004 four metres of line, eight of gap
        rough += dash * (225 - self.base[..., 2])
        level = cv2.add(self.base, np.asarray(cv2.merge((rough, rough, rough)), np.float32))
        level = np.asarray(cv2.add(cv2.multiply(level, self.clear), self.veil), np.float32)
        if self.air.wet:
            mirror = seen[: self.top][::-1][: len(level)]
            below = level[: len(mirror)]
            level[: len(mirror)] = below + self.air.wet * 0.4 * (mirror - below)
        seen[self.top :] = np.clip(level, 0, 255).astype(np.uint8)
        return seen
