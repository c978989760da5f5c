"""Decides which frames get the second look that an inconsistency score costs: few in calm, all while something looks strange.

A second look costs as much as the first, so in calm one frame in many gets it, at places that a camera cannot foresee. Three
things ask for more: a camera that is new, a leap of one of the cheap numbers that are at hand for every frame (`cues.Glance`), and
a cue of the second look that leaps. It refuses to call anything an attack: that is the detectors' word. No clock and no chance
inside; fed by `frames` through the judge.

Source: paper 4.5.3 (SC-4), section 6 (the defences' cost in operation); measured in docs/measurements.md.
"""

import hashlib
from dataclasses import dataclass, field

from inference.service.cues import Cues, Glance
from streams.events import InputScores

_HOT = {"inconsistency": (0.09, 1.55), "largest": (0.3, 1.6), "blot": (0.04, 1.5)}
"""How far above its usual level a cue leaps, as a step and as a ratio; one leap too many costs `_HOT_FIRST` looks."""
_HOT_FIRST = 12  # more than lie between two frames of an attack on one in ten
_HOT_FRAMES = 24  # after a second leap: more than the usual frames in a row that end an alarm
_USUAL_SHARE = 0.1
_NEW_SCORES = 24
"""A camera is new for so many scores: half as many again as the evasion detector learns from."""
_NEW_TIMES = 8
_DETAIL_RATIO, _DETAIL_STEP = 1.12, 0.0005
_HEAT_RATIO, _HEAT_STEP = 1.6, 0.003
_FOLLOW, _FOLLOW_SCORED = 0.05, 0.3
_SAFE_EVERY = 2
_STARTLED_MOST, _STARTLED_EACH = 12.0, 0.125


@dataclass
class _Camera:
    usual: dict[str, float] = field(default_factory=dict)
    glance: Glance | None = None
    hot: int = 0
    suspect: bool = False
    scored: int = 0
    looks: float = _STARTLED_MOST


@dataclass
class Sampler:
    """Which frames get the second look; one in `every` of a calm camera.

    All frames are looked at for a while after a cue that leaps above the camera's usual level, which follows only looks at which
    none did, so that an attack cannot become usual. A leaping glance gets a look too, within a budget of one frame in eight: a
    flickering camera cannot double the worker's load. While the context is in safe mode, every second frame of a camera that leapt
    is looked at: calm is proven by looks, and nobody should wait for it longer than it takes; more would make the stream wait.
    `key` makes the places of calm looks unforeseeable.
    """

    every: int
    key: bytes = b""
    _cameras: dict[str, _Camera] = field(default_factory=dict)

    def wants(self, camera_id: str, sequence: int, glance: Glance, *, safe: bool = False) -> bool:
        """Whether this frame is to be scored; takes note of its glance. `safe`: the context is served by its safe model."""
        camera = self._cameras.setdefault(camera_id, _Camera())
        camera.looks = min(_STARTLED_MOST, camera.looks + _STARTLED_EACH)
        startled = camera.glance is not None and _leaps(camera.glance, glance)
        if not startled:
            _follow(camera, glance, _FOLLOW)
        camera.suspect = camera.hot > 0 or (camera.suspect and safe)
        if camera.suspect:
            return not safe or sequence % _SAFE_EVERY == 0
        if startled and camera.looks >= 1.0:
            camera.looks -= 1.0
            return True
        every = self.every if camera.scored >= _NEW_SCORES else max(1, self.every // _NEW_TIMES)
        return sequence % every == self._place(camera_id, sequence // every, every)

    def saw(self, camera_id: str, seen: Cues | InputScores, glance: Glance) -> None:
        """Take note of what a second look told, and of its frame's glance."""
        camera = self._cameras.setdefault(camera_id, _Camera())
        camera.scored += 1
        now = {name: value for name in _HOT if (value := getattr(seen, name)) is not None}
        usual = {**now, **camera.usual}
        if any(value > max(usual[name] + _HOT[name][0], usual[name] * _HOT[name][1]) for name, value in now.items()):
            camera.hot = _HOT_FRAMES if camera.hot else _HOT_FIRST
            return
        camera.hot = max(0, camera.hot - 1)
        camera.usual = {name: level + _USUAL_SHARE * (now.get(name, level) - level) for name, level in usual.items()}
        _follow(camera, glance, _FOLLOW_SCORED)

    def hot(self, camera_id: str) -> bool:
        """Whether the camera's last looks leapt: its frames may be evidence."""
        camera = self._cameras.get(camera_id)
        return camera is not None and camera.hot > 0

    def _place(self, camera_id: str, block: int, every: int) -> int:
        drawn = hashlib.blake2b(f"{camera_id}/{block}".encode(), key=self.key, digest_size=4).digest()
        return int.from_bytes(drawn, "big") % every


def _leaps(usual: Glance, now: Glance) -> bool:
    if _apart(usual.detail, now.detail, _DETAIL_RATIO, _DETAIL_STEP):
        return True
    return usual.seen_by == now.seen_by and _apart(usual.heat, now.heat, _HEAT_RATIO, _HEAT_STEP)


def _apart(usual: float, now: float, ratio: float, step: float) -> bool:
    low, high = sorted((usual, now))
    return high > max(low * ratio, low + step)


def _follow(camera: _Camera, glance: Glance, share: float) -> None:
    if camera.glance is None:
        camera.glance = glance
        return
    detail = camera.glance.detail
    heat = camera.glance.heat if camera.glance.seen_by == glance.seen_by else glance.heat
    camera.glance = Glance(detail + share * (glance.detail - detail), heat + share * (glance.heat - heat), glance.seen_by)
