"""Decides which frames get the second look that an inconsistency score costs: few in calm, all while something looks strange.

A second look costs as much as the first, so in calm one frame in many gets it, at places that a camera cannot foresee. Three
things ask for more: a camera that is new, a leap of one of the cheap numbers that are at hand for every frame (`cues.Glance`), and
a look that the evasion detector finds unusual. That detector runs here beside the watcher's own, on the same looks, so that what it
needs to make up its mind is what it gets; its alarm is still the watcher's to raise. No clock and no chance inside; fed by `frames`
through the judge.

Source: paper 4.5.3 (SC-4), section 6 (the defences' cost in operation); measured in docs/measurements.md.
"""

import hashlib
from dataclasses import dataclass, field

from detectors.base import State, Status
from detectors.catalogue import ALL
from detectors.features import look
from inference.service.cues import Glance
from streams.events import Context, InputScores

_EVASION = ALL["evasion"].detector
_HOT_FIRST = 12  # looks after an unusual one: more than lie between two frames of an attack on one in ten
_HOT_FRAMES = 24  # after a second
_NEW_SCORES = 24
"""A camera is new for so many looks: half as many again as the evasion detector learns from."""
_NEW_TIMES = 8
_DETAIL_RATIO, _DETAIL_STEP = 1.12, 0.0005
_HEAT_RATIO, _HEAT_STEP = 1.6, 0.003
_PEOPLE_RATIO, _PEOPLE_STEP = 1.6, 0.6  # on a busy street one frame in eighty; a change too small for the others leaps here
_FOLLOW, _FOLLOW_SCORED, _FOLLOW_PEOPLE = 0.05, 0.3, 0.5  # people come and go sooner than light does
_ALARMED_EVERY = 2
_STARTLED_MOST, _STARTLED_EACH = 12.0, 0.125
_KEPT = 4  # contexts and weights for which a camera's usual is remembered


@dataclass
class _Camera:
    evasion: dict[str, State] = field(default_factory=dict)
    glance: Glance | None = None
    hot: int = 0
    alarmed: bool = False
    suspect: bool = False
    scored: int = 0
    looks: float = _STARTLED_MOST


@dataclass
class Sampler:
    """Which frames get the second look; one in `every` of a calm camera.

    All frames are looked at for a while after an unusual look. A leaping glance gets a look too, within a budget of one frame in
    eight: a flickering camera cannot double the worker's load. Under an alarm, and while the context is in safe mode after it,
    every second frame is looked at: calm is proven by looks, and nobody should wait for it longer than it takes; more would make
    the stream wait. `key` makes the places of calm looks unforeseeable.
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
        camera.suspect = self.hot(camera_id) or (camera.suspect and safe)
        if camera.suspect:
            return not (safe or camera.alarmed) or sequence % _ALARMED_EVERY == 0
        if startled and camera.looks >= 1.0:
            camera.looks -= 1.0
            return True
        every = self.every if camera.scored >= _NEW_SCORES else max(1, self.every // _NEW_TIMES)
        return sequence % every == self._place(camera_id, sequence // every, every)

    def saw(self, camera_id: str, sequence: int, context: Context, scores: InputScores, glance: Glance) -> None:
        """Take note of what a second look told, and of its frame's glance."""
        camera = self._cameras.setdefault(camera_id, _Camera())
        camera.scored += 1
        seen = look(scores, context, sequence, 0.0)
        if seen is None:
            return
        usual_of = f"{context}/{scores.reference_digest}"
        state, verdict = _EVASION.step(camera.evasion.pop(usual_of, _EVASION.start()), seen)
        camera.evasion = dict([*camera.evasion.items(), (usual_of, state)][-_KEPT:])
        camera.alarmed = verdict.status is Status.ALARM
        if verdict.status is Status.SUSPICIOUS or (camera.alarmed and verdict.unusual):
            camera.hot = _HOT_FRAMES if camera.hot else _HOT_FIRST
            return
        camera.hot = max(0, camera.hot - 1)
        _follow(camera, glance, _FOLLOW_SCORED)

    def hot(self, camera_id: str) -> bool:
        """Whether the camera's last looks were unusual: its frames may be evidence."""
        camera = self._cameras.get(camera_id)
        return camera is not None and (camera.hot > 0 or camera.alarmed)

    def _place(self, camera_id: str, block: int, every: int) -> int:
        drawn = hashlib.blake2b(f"{camera_id}/{block}".encode(), key=self.key, digest_size=4).digest()
        return int.from_bytes(drawn, "big") % every


def _leaps(usual: Glance, now: Glance) -> bool:
    if _apart(usual.detail, now.detail, _DETAIL_RATIO, _DETAIL_STEP):
        return True
    if usual.seen_by != now.seen_by:
        return False
    return _apart(usual.heat, now.heat, _HEAT_RATIO, _HEAT_STEP) or _apart(usual.people, now.people, _PEOPLE_RATIO, _PEOPLE_STEP)


def _apart(usual: float, now: float, ratio: float, step: float) -> bool:
    low, high = sorted((usual, now))
    return high > max(low * ratio, low + step)


def _follow(camera: _Camera, glance: Glance, share: float) -> None:
    if camera.glance is None:
        camera.glance = glance
        return
    usual, same = camera.glance, camera.glance.seen_by == glance.seen_by
    camera.glance = Glance(
        detail=usual.detail + share * (glance.detail - usual.detail),
        heat=usual.heat + share * (glance.heat - usual.heat) if same else glance.heat,
        people=usual.people + max(share, _FOLLOW_PEOPLE) * (glance.people - usual.people) if same else glance.people,
        seen_by=glance.seen_by,
    )
