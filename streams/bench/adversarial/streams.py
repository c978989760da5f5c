"""Streams of judged frames put together from the benchmark's readings: how soon the shipped detector alarms, and what that saves.

It decides what a stream is: a camera's clean frames there and back, then attacked ones of the same camera in turn, each getting its
second look when the shipped sampler asks for it, the detector `evasion` reading what was looked at. It refuses to let an attack
begin before the detector has learned. A stream that alarms before its attack counts as a false alarm and nothing else. No topic.

On and off: off, the normal model judges all attacked frames. On, it judges those up to the alarm and the next `SWITCH_FRAMES`, then
the safe model judges cleaned ones; the attacker, who attacks the normal model, is not told. The miss rates before and after the
switch are averaged, weighed by their frames: one curve over both would let the false boxes of the first spoil all of it.

Source: issue 5 ("what counts in the end"); `inference.service.judge` for the order of glance, look and score.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import cycle, islice

import numpy as np
from msgspec import Struct

from detectors import catalogue
from detectors.base import Observation, State, Status
from detectors.features import beside
from inference.measure.miss_rate import Match
from inference.service.cues import Glance
from inference.service.sampling import Sampler
from streams.bench.adversarial.figures import Reading, missed

CALM_FRAMES, ATTACKED_FRAMES, RARE_FRAMES = 320, 60, 300
"""Of a stream: before the attack, under it, and under one that comes in one frame of ten."""
SWITCH_FRAMES = 5
"""From the alarm to the first frame that the safe model judges: a second at 5 frames/s."""
RARE = 10
_RUNS = 4
_LEARNED = 160  # frames after which a camera is no longer new to the sampler
_EVASION = catalogue.ALL["evasion"]
_SERVED = 0.4  # the normal model's threshold: readings hold what it half sees as well


class OnOff(Struct, frozen=True, kw_only=True):
    """Log-average miss rates in points over the frames of all streams from the first attacked one on.

    clean, clean_safe: of both models without the attack. off: the normal model under it. safe: the safe model under it, after
    cleaning. on: off until the switch, safe from then on, weighed by frames. after: share of the frames that came after the switch.
    """

    attack: str
    strength: str
    objective: str
    data: str
    sent: str
    clean: float
    clean_safe: float
    off: float
    safe: float
    on: float
    after: float


@dataclass
class _Camera:
    """The worker's sampler and the watcher's detector for one camera."""

    sampler: Sampler
    state: State = field(default_factory=_EVASION.detector.start)
    sequence: int = 0
    looks: list[bool] = field(default_factory=list)

    def alarms(self, one: Reading) -> bool:
        """One frame further: whether the detector alarms now."""
        people = sum(box.score for box in one.normal if box.score >= _SERVED)
        glance = Glance(one.detail, one.heat, people, one.scores.reference_digest)
        looked = self.sampler.wants("camera", self.sequence, glance)
        self.looks.append(looked)
        alarm = False
        if looked:
            self.sampler.saw("camera", self.sequence, one.case.context, one.scores, glance)
            self.state, verdict = _EVASION.detector.step(
                self.state, Observation(self.sequence, 0.0, one.probability, beside(one.scores))
            )
            alarm = verdict.status is Status.ALARM
        self.sequence += 1
        return alarm


@dataclass(frozen=True)
class Stream:
    """A camera after its calm frames; calm: those that go on where nothing is attacked. looked: share of looks once it is known."""

    camera: _Camera
    calm: tuple[Reading, ...]
    looked: float
    run: int

    def under(self, attacked: Sequence[Reading], *, rare: bool = False) -> tuple[list[Reading], int | None]:
        """The attacked frames of a stream in order, and the number of them after which it alarms; None: it does not."""
        camera = deepcopy(self.camera)
        turn = np.random.default_rng(self.run).permutation(len(attacked))
        bad, calm = cycle([attacked[int(at)] for at in turn]), cycle(self.calm)
        shown, delay = [], None
        for number in range(RARE_FRAMES if rare else ATTACKED_FRAMES):
            one = next(calm) if rare and number % RARE else next(bad)
            shown.append(one)
            if delay is None and camera.alarms(one):
                delay = number + 1
        return shown, delay


def streams(clean: Sequence[Reading], every: int) -> tuple[list[Stream], int]:
    """Some streams of one camera, each sampled at other places, and how many were left out because they alarmed in calm.

    Args:
        clean: the camera's clean readings in order.
        every: one calm frame in so many is looked at (setting score_every).
    """
    walk = [*clean, *reversed(clean[1:-1])]
    found, false_alarms = [], 0
    for run in range(_RUNS):
        camera = _Camera(Sampler(every, key=run.to_bytes(2, "big")))
        frames = islice(cycle(walk), 7 * run, 7 * run + CALM_FRAMES)
        if any(camera.alarms(one) for one in frames):
            false_alarms += 1
            continue
        rest = tuple(islice(cycle(walk), 7 * run + CALM_FRAMES, 7 * run + CALM_FRAMES + len(walk)))
        found.append(Stream(camera, rest, float(np.mean(camera.looks[_LEARNED:])), run))
    return found, false_alarms


def median_delay(delays: Sequence[int | None]) -> tuple[float | None, float]:
    """(median frames, share that alarmed); no median where most streams end without an alarm."""
    frames = float(np.median([np.inf if one is None else one for one in delays]))
    return None if frames == np.inf else frames, float(np.mean([one is not None for one in delays]))


def worth(shown: Sequence[tuple[Sequence[Reading], int | None]]) -> tuple[float, float, float, float] | None:
    """(off, safe, on, after) as in `OnOff` of streams and their delays; None where nobody is in them."""
    before: list[Match] = []
    after: list[Match] = []
    hidden: list[Match] = []
    for frames, delay in shown:
        switched = len(frames) if delay is None else delay + SWITCH_FRAMES
        before += [one.matched[0] for one in frames[:switched]]
        hidden += [one.matched[0] for one in frames[switched:]]
        after += [one.matched[1] for one in frames[switched:]]
    everything = [one.matched[1] for frames, _ in shown for one in frames]
    off, safe, first, then = missed([*before, *hidden]), missed(everything), missed(before), missed(after)
    if off is None or safe is None:
        return None
    share = len(after) / (len(before) + len(after))
    on = (1 - share) * (off if first is None else first) + share * (safe if then is None else then)
    return off, safe, round(on, 2), round(share, 3)
