"""What happens to honest pictures: fifteen common corruptions at five severities, camera shake, and another camera.

It decides what each of them does to one picture, from a little (1) to as much as a camera in service may meet (5), seeded by the
generator passed in; a picture is never changed in place. It refuses to call any of them an attack: they are what a detector of
attacks must bear, and what triage must tell from one. Lengths are for a picture 320 px high, and grow with it. No topic.

Source: Hendrycks, Dietterich, ICLR 2019, section 4.1, for which fifteen there are; how each is made here, and how strong, is ours:
severity 1 is hardly seen, severity 5 leaves people to be seen by people.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from streams.errors import BadInput
from streams.sources.base import Picture

Corruption = Callable[[Picture, int, Generator], Picture]
"""A picture (H x W x 3, RGB), a severity of 1 to 5, and chance; a new picture of the same shape."""

SEVERITIES = (1, 2, 3, 4, 5)
_REFERENCE_PX = 320
_LEAST_SCALE = 0.6  # less would move nothing: there are whole pixels only
_Floats = NDArray[np.float32]
_Change = Callable[[_Floats, int, Generator, float], Any]


def _gaussian_noise(x: _Floats, level: int, rng: Generator, _: float) -> _Floats:
    return x + rng.standard_normal(x.shape, np.float32) * np.float32((6, 10, 16, 24, 34)[level])


def _shot_noise(x: _Floats, level: int, rng: Generator, _: float) -> _Floats:
    photons = (250.0, 100.0, 45.0, 20.0, 10.0)[level]  # that white stands for
    return (rng.poisson(x / 255 * photons) * (255 / photons)).astype(np.float32)


def _impulse_noise(x: _Floats, level: int, rng: Generator, _: float) -> _Floats:
    share = (0.005, 0.015, 0.03, 0.06, 0.1)[level]
    drawn = rng.random(x.shape, np.float32)
    return np.where(drawn < share / 2, np.float32(0), np.where(drawn > 1 - share / 2, np.float32(255), x))


def _defocus_blur(x: _Floats, level: int, _: Generator, scale: float) -> _Floats:
    return _filtered(x, _disk((1.2, 1.8, 2.6, 3.6, 5.0)[level] * scale))


def _glass_blur(x: _Floats, level: int, rng: Generator, scale: float) -> _Floats:
    reach, sigma = ((1.0, 0.4), (1.5, 0.5), (2.0, 0.6), (3.0, 0.8), (4.0, 1.0))[level]
    moves = np.rint(rng.uniform(-reach, reach, (2, *x.shape[:2])) * scale).astype(np.float32)
    return _smooth(_displaced(_smooth(x, sigma * scale), moves, cv2.INTER_NEAREST), sigma * scale)


def _motion_blur(x: _Floats, level: int, rng: Generator, scale: float) -> _Floats:
    return _filtered(x, _streak((5, 8, 11, 15, 20)[level] * scale, float(rng.uniform(0, np.pi))))


def _zoom_blur(x: _Floats, level: int, _: Generator, __: float) -> _Floats:
    most = (0.02, 0.035, 0.05, 0.075, 0.1)[level]
    return np.asarray(np.mean([_zoomed(x, float(by)) for by in np.linspace(1, 1 + most, 9)], 0), np.float32)


def _snow(x: _Floats, level: int, rng: Generator, scale: float) -> _Floats:
    share, fall, light = ((0.004, 4, 0.1), (0.008, 5, 0.15), (0.015, 6, 0.2), (0.022, 8, 0.3), (0.03, 10, 0.4))[level]
    flakes = (rng.random(x.shape[:2], np.float32) < share / scale).astype(np.float32)
    flakes = _smooth(flakes * rng.uniform(0.5, 1.0, flakes.shape).astype(np.float32), 0.8 * scale)
    flakes = _filtered(flakes, _streak(fall * scale, float(rng.uniform(1.2, 1.9))))
    white = np.clip(flakes * (1400 * scale), 0, 235)[..., None]
    grey = x.mean(2, keepdims=True)
    dim = x * (1 - light) + light * (0.6 * grey + 80)
    return np.asarray(dim * (1 - white / 255) + white, np.float32)


def _frost(x: _Floats, level: int, rng: Generator, scale: float) -> _Floats:
    share = (0.2, 0.3, 0.4, 0.5, 0.6)[level]
    height, width = x.shape[:2]
    ice = np.abs(_clouds(height, width, rng, 0.65) - 0.5) * 2  # ridges where clouds have their middle: needles of ice
    needles = _filtered(rng.random((height, width), np.float32) ** 6, _streak(14 * scale, float(rng.uniform(0, np.pi))))
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    edge = np.clip(0.35 + np.hypot(rows, columns) / 1.6, 0, 1).astype(np.float32)  # panes freeze from the rim
    cover = (share * edge * np.clip(1.3 - ice, 0, 1))[..., None]
    frozen = np.array((205, 218, 235), np.float32) + (needles[..., None] - 0.15) * 160
    return np.asarray(x * (1 - cover) + cover * frozen, np.float32)


def _fog(x: _Floats, level: int, rng: Generator, _: float) -> _Floats:
    uneven = 0.6 + 0.8 * _clouds(x.shape[0], x.shape[1], rng, 0.5)[..., None]
    cover = np.clip((0.25, 0.38, 0.5, 0.6, 0.7)[level] * uneven, 0, 0.9)
    return np.asarray(x * (1 - cover) + cover * 205, np.float32)


def _brightness(x: _Floats, level: int, _: Generator, __: float) -> _Floats:
    return x + np.float32((15, 30, 45, 62, 80)[level])


def _contrast(x: _Floats, level: int, _: Generator, __: float) -> _Floats:
    mean = x.mean((0, 1), keepdims=True)
    return np.asarray((x - mean) * (0.75, 0.6, 0.45, 0.3, 0.2)[level] + mean, np.float32)


def _elastic(x: _Floats, level: int, rng: Generator, scale: float) -> _Floats:
    reach, smooth = ((1.5, 10.0), (2.5, 10.0), (3.5, 9.0), (4.5, 8.0), (6.0, 8.0))[level]
    moves = np.stack([_smooth(rng.uniform(-1, 1, x.shape[:2]).astype(np.float32), smooth * scale) for _ in range(2)])
    return _displaced(x, moves * (reach * scale / np.abs(moves).max(initial=1e-9)), cv2.INTER_LINEAR)


def _pixelate(x: _Floats, level: int, _: Generator, __: float) -> _Floats:
    return _through(x, (0.7, 0.55, 0.42, 0.33, 0.25)[level], cv2.INTER_AREA, cv2.INTER_NEAREST)


def _jpeg(x: _Floats, level: int, _: Generator, __: float) -> NDArray[np.uint8]:
    return _coded(x, (60, 40, 28, 18, 10)[level])


def _shake(x: _Floats, level: int, rng: Generator, scale: float) -> _Floats:
    """A mast in the wind: the picture turned and moved, and smeared along the move."""
    far, turn = ((1.0, 0.15), (2.0, 0.3), (3.5, 0.5), (5.0, 0.8), (7.0, 1.2))[level]
    height, width = x.shape[:2]
    way, angle = float(rng.uniform(0, 2 * np.pi)), float(rng.choice((-1, 1)) * rng.uniform(0.5, 1.0) * turn)
    moved = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    moved = moved + np.array(((0, 0, np.cos(way)), (0, 0, np.sin(way)))) * far * scale
    still = cv2.warpAffine(x, moved, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return _filtered(np.asarray(still, np.float32), _streak(max(1.0, far * scale), way))


def _other_camera(x: _Floats, level: int, rng: Generator, _: float) -> NDArray[np.uint8]:
    """Other colours, other gamma, fewer pixels behind the same size, sharpened in the camera, and its own JPEG."""
    resolution, cast, gamma, sharp, quality = (
        (0.95, 0.03, 0.08, 0.3, 90),
        (0.85, 0.05, 0.15, 0.5, 85),
        (0.75, 0.08, 0.22, 0.8, 80),
        (0.62, 0.11, 0.30, 1.1, 75),
        (0.5, 0.15, 0.40, 1.5, 70),
    )[level]
    small = _through(x, resolution, cv2.INTER_AREA, cv2.INTER_CUBIC)
    curved = 255 * (np.clip(small, 0, 255) / 255) ** float(np.exp(rng.choice((-1, 1)) * gamma))
    coloured = curved * (1 + cast * rng.uniform(-1, 1, 3)).astype(np.float32)
    return _coded(coloured + sharp * (coloured - _smooth(np.asarray(coloured, np.float32), 1.2)), quality)


def _corruption(change: _Change) -> Corruption:
    @wraps(change)
    def corrupt(picture: Picture, severity: int, rng: Generator) -> Picture:
        if severity not in SEVERITIES:
            raise BadInput(f"a corruption's severity is 1 to 5, not {severity}")
        scale = max(_LEAST_SCALE, min(picture.shape[:2]) / _REFERENCE_PX)
        changed = change(picture.astype(np.float32), severity - 1, rng, scale)
        out: Picture = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
        return out

    return corrupt


CORRUPTIONS: Mapping[str, Corruption] = {
    name: _corruption(change)
    for name, change in {
        "gaussian noise": _gaussian_noise,
        "shot noise": _shot_noise,
        "impulse noise": _impulse_noise,
        "defocus blur": _defocus_blur,
        "glass blur": _glass_blur,
        "motion blur": _motion_blur,
        "zoom blur": _zoom_blur,
        "snow": _snow,
        "frost": _frost,
        "fog": _fog,
        "brightness": _brightness,
        "contrast": _contrast,
        "elastic": _elastic,
        "pixelate": _pixelate,
        "jpeg": _jpeg,
        "shake": _shake,
        "other camera": _other_camera,
    }.items()
}
"""All by name: the fifteen in their source's order, then shake and another camera. Each raises BadInput for another severity."""


def _smooth(x: _Floats, sigma_px: float) -> _Floats:
    return np.asarray(cv2.GaussianBlur(x, (0, 0), max(sigma_px, 1e-3)), np.float32)


def _filtered(x: _Floats, kernel: _Floats) -> _Floats:
    return np.asarray(cv2.filter2D(x, -1, kernel, borderType=cv2.BORDER_REFLECT_101), np.float32)


def _disk(radius_px: float) -> _Floats:
    """A lens out of focus spreads a point over a disk; its rim is smoothed, so that any radius can be had."""
    side = np.arange(-int(radius_px) - 1, int(radius_px) + 2, dtype=np.float32)
    disk = np.clip(radius_px + 0.5 - np.hypot(side[:, None], side[None]), 0, 1).astype(np.float32)
    return np.asarray(disk / disk.sum(), np.float32)


def _streak(length_px: float, angle: float) -> _Floats:
    """A line of that length through the middle, at an angle in radians, whose weights add up to 1."""
    half = int(np.ceil(length_px / 2))
    side = np.arange(-half, half + 1, dtype=np.float32)
    along = side[None] * np.cos(angle) + side[:, None] * np.sin(angle)
    beside = np.abs(side[:, None] * np.cos(angle) - side[None] * np.sin(angle))
    line = np.clip(1 - beside, 0, 1) * np.clip(length_px / 2 + 0.5 - np.abs(along), 0, 1)
    return np.asarray(line / line.sum(), np.float32)


def _displaced(x: _Floats, moves: _Floats, how: int) -> _Floats:
    """Each pixel taken from elsewhere: moves are 2 x H x W, pixels to the right and down."""
    rows, columns = np.indices(x.shape[:2], np.float32)
    return np.asarray(cv2.remap(x, columns + moves[0], rows + moves[1], how, borderMode=cv2.BORDER_REFLECT_101), np.float32)


def _zoomed(x: _Floats, by: float) -> _Floats:
    height, width = x.shape[:2]
    closer = cv2.getRotationMatrix2D((width / 2, height / 2), 0.0, by)
    return np.asarray(
        cv2.warpAffine(x, closer, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101), np.float32
    )


def _through(x: _Floats, share: float, down: int, up: int) -> _Floats:
    """Shrunk to a share of its sides, and back."""
    height, width = x.shape[:2]
    small = cv2.resize(x, (max(1, round(width * share)), max(1, round(height * share))), interpolation=down)
    return np.asarray(cv2.resize(small, (width, height), interpolation=up), np.float32)


def _coded(x: Any, quality: int) -> NDArray[np.uint8]:
    levels = np.clip(np.rint(x), 0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(levels[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1], np.uint8)


def _clouds(height: int, width: int, rng: Generator, roughness: float) -> _Floats:
    """Noise of all sizes, H x W, 0..1: octaves of random grids, each finer one weighing `roughness` as much."""
    total, weight, cells = np.zeros((height, width), np.float32), 1.0, 2
    while cells < min(height, width):
        grid = rng.random((cells + 1, round(cells * width / height) + 1), np.float32)
        total += weight * np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
        weight, cells = weight * roughness, cells * 2
    low, high = float(total.min(initial=0)), float(total.max(initial=0))
    return np.asarray((total - low) / max(high - low, 1e-6), np.float32)
