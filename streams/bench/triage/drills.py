"""Drills of triage: a camera whose scene is known goes wrong in one known way.

It decides which scenes and which harms, and what triage should say to each; it refuses to play them (`site.py`) and to look
at verdicts (`command.py`). The two rounds share no scene and no seed, so that what was tuned on one is tested on the
other. No topic.

Source: paper 4.7 (threats in operation), 4.6 (staged deployment); docs/triage.md.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle, islice
from typing import Any, Protocol

import cv2
import numpy as np
from msgspec.structs import replace

from inference.attacks.objectives import Objective
from inference.networks.csp_nano import CspNano
from streams.attacks import Attack, Corruption, Drift, Flood, ReplayedFrames, Stretch, WrongContext
from streams.bench.triage import harms
from streams.events import Candidate, Cause, Context, ModelState, RolloutPhase
from streams.sources.base import Picture, Shot
from streams.sources.street import Street

START = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)
EPOCH = int(START.timestamp() * 1000)
CAMERA = "gate"
FPS = 5.0
WIDTH_PX, HEIGHT_PX = 384, 192
CALM_S = 0.1
"""How long a frame of a calm camera waits to be judged."""
CLEAN = 800
"""Pictures before a drill: the drift detectors learn from 600."""
LEAD = 8
"""Clean pictures of a drill before the harm begins."""
AFTER = 80
"""Pictures under the harm."""
_ATTACKED = 30
_BEFORE_ATTACK = 25  # pictures of a change of weather before the attack in it


@dataclass(frozen=True)
class Scene:
    """A street that a camera stands in."""

    context: Context
    weather: str
    seed: int

    @property
    def name(self) -> str:
        """For files and people."""
        return f"{self.context}-{self.weather}-{self.seed}"

    @property
    def other(self) -> Context:
        """The context that it is not."""
        return next(context for context in Context if context is not self.context)

    def street(self, **changes: Any) -> Street:
        """As a source, or one that differs in `changes`."""
        wanted: dict[str, Any] = {"context": self.context, "weather": self.weather, "seed": self.seed} | changes
        return Street(**wanted, width_px=WIDTH_PX, height_px=HEIGHT_PX, fps=FPS)


ROUNDS: dict[str, tuple[Scene, ...]] = {
    "tuning": (
        Scene(Context.URBAN, "day", 701), Scene(Context.HIGHWAY, "dusk", 702), Scene(Context.URBAN, "rain", 703),
        Scene(Context.URBAN, "day", 951), Scene(Context.URBAN, "dusk", 953),
        Scene(Context.URBAN, "day", 955), Scene(Context.HIGHWAY, "day", 952),
        Scene(Context.URBAN, "dusk", 956), Scene(Context.HIGHWAY, "rain", 954),
    ),
    "test": (
        Scene(Context.URBAN, "day", 961), Scene(Context.HIGHWAY, "day", 962),
        Scene(Context.URBAN, "dusk", 963), Scene(Context.HIGHWAY, "rain", 964),
        Scene(Context.URBAN, "rain", 965), Scene(Context.HIGHWAY, "dusk", 966),
        Scene(Context.URBAN, "day", 967), Scene(Context.HIGHWAY, "day", 968),
    ),
}  # fmt: skip
"""Scenes by round; no other benchmark uses these seeds. A test scene whose misses were looked at belongs to tuning from then on."""
_SEEDS = {"tuning": 10_000, "test": 30_000}
"""First of a round's seeds; those from 20,000 on were a test's that was looked at."""


@dataclass(frozen=True)
class Drill:
    """One run. cause: what triage should say, None where all is well.

    stretches: harms to pictures and messages, counted from the drill's first picture. order: what each context is to serve from
    the harm's begin on; broken: the digest whose answers the serving model then gives under its own. late_s: how long what is
    shown n pictures after that waits, in seconds. begin: the picture from which on `cause` is right; after: pictures from there.
    """

    scene: Scene
    name: str
    cause: Cause | None
    seed: int
    stretches: tuple[Stretch, ...] = ()
    order: Callable[[ModelState], ModelState] | None = None
    broken: str = ""
    late_s: Callable[[int], float] = lambda _into: CALM_S
    begin: int = LEAD
    after: int = AFTER


class Means(Protocol):
    """What drills are made with: models by digest (`drill_site.Stage`)."""

    def white_box(self) -> CspNano:
        """A copy of the normal model to attack."""
        ...

    def damaged(self, name: str, seed: int) -> str:
        """The digest of a copy of the normal model with bad weights."""
        ...

    def taught(self, name: str, misses: Callable[[tuple[float, float, float, float], Picture], bool]) -> str:
        """The digest of the normal model that does not see some people."""
        ...


Made = Callable[[Scene, int, Means], Drill]


def plan(round_: str, each: int, means: Means) -> Iterator[Drill]:
    """Drills of a round, scene by scene: `each` of every kind over all scenes, and one of every innocent kind for each scene.

    Kinds of harm take turns from scene to scene, so that every scene meets others.
    """
    scenes = ROUNDS[round_]
    base = _SEEDS[round_]
    chosen: dict[Scene, list[Drill]] = {scene: [] for scene in scenes}
    for number, (cause, kinds) in enumerate(_KINDS.items()):
        # people are what a poisoned model misses, and a highway has hardly any
        fit = [scene for scene in scenes if cause is not Cause.POISON or scene.context is Context.URBAN]
        turns, alone = cycle(kinds), cycle(_ATTACKS_ON_NOBODY)
        for scene, count in zip(fit, _shared_out(each, len(fit)), strict=True):
            nobody = cause is Cause.ATTACK and scene.context is Context.HIGHWAY
            made = islice(alone if nobody else turns, count)
            chosen[scene] += [make(scene, base + 100 * number + place, means) for place, make in enumerate(made)]
    for scene in scenes:
        yield from chosen[scene]
        yield from (make(scene, base + 900 + place, means) for place, make in enumerate(_INNOCENT))


def _shared_out(each: int, among: int) -> list[int]:
    return [each * (place + 1) // among - each * place // among for place in range(among)]


# -- attacks -----------------------------------------------------------------------------------------------------------


def _attack(name: str, make: Callable[[CspNano], Attack], *, weather: str = "") -> Made:
    def made(scene: Scene, seed: int, means: Means) -> Drill:
        if not weather:
            return Drill(scene, name, Cause.ATTACK, seed, (Stretch(make(means.white_box()), LEAD),), after=_ATTACKED)
        begin = LEAD + _BEFORE_ATTACK
        change: Attack = Drift(Corruption.FOG, 20.0) if weather == "fog" else _weather(scene, weather, 5.0)
        stretches = (Stretch(change, LEAD), Stretch(make(means.white_box()), begin))
        return Drill(scene, f"{name} while {weather} comes", Cause.ATTACK, seed, stretches, begin=begin, after=_ATTACKED)

    return made


def _step(level: int, steps: int, objective: Objective = Objective.UNTARGETED) -> Callable[[CspNano], Attack]:
    name = f"{'fgsm' if steps == 1 else 'pgd'} {objective} {level}/255"
    return lambda network: harms.evasion(network, name, level / 255, steps, objective)


_ATTACKS: tuple[Made, ...] = (
    _attack("fgsm 8/255", _step(8, 1)),
    _attack("hide 8/255", _step(8, 3, Objective.HIDE)),
    _attack("pgd 8/255", _step(8, 3)),
    _attack("deepfool 0.03", lambda network: harms.fooled(network, 0.03)),
    _attack("fgsm 8/255", _step(8, 1), weather="fog"),
    _attack("fgsm 4/255", _step(4, 1)),
    _attack("appear 8/255", _step(8, 3, Objective.APPEAR)),
    _attack("pgd 4/255", _step(4, 3), weather="dusk"),
)
_ATTACKS_ON_NOBODY: tuple[Made, ...] = (
    _attack("fgsm 8/255", _step(8, 1), weather="fog"),
    _attack("appear 8/255", _step(8, 3, Objective.APPEAR)),
    _attack("fgsm 4/255", _step(4, 1)),
    _attack("pgd 8/255", _step(8, 3)),
    _attack("pgd 4/255", _step(4, 3), weather="dusk"),
)
"""On a highway, where nobody is there to be hidden."""


# -- weather, light, lens ------------------------------------------------------------------------------------------------


def _weather(scene: Scene, weather: str, grows_s: float) -> Attack:
    """The same street in another weather; at dusk, which no weather makes day, snow or fog."""
    if scene.weather == "dusk":
        return harms.corrupted("snow" if weather == "rain" else "fog", 3, grows_s)
    street = scene.street(weather=weather if weather != scene.weather else "fog")
    return harms.shown_instead(f"{weather} comes", lambda shot: street.shot(_number(shot)).picture, grows_s)


def _number(shot: Shot) -> int:
    return round(shot.time_s * FPS)


def _corrupted(name: str, severity: int, grows_s: float = 0.0) -> Made:
    words = f"{name} {severity}" + (f" over {grows_s:g} s" if grows_s else " at once")
    return _shown(words, Cause.CORRUPTION, lambda _scene: harms.corrupted(name, severity, grows_s))


def _shown(name: str, cause: Cause, make: Callable[[Scene], Attack], after: int = AFTER) -> Made:
    return lambda scene, seed, _means: Drill(scene, name, cause, seed, (Stretch(make(scene), LEAD),), after=after)


_CORRUPTIONS: tuple[Made, ...] = (
    _shown("fog thickens", Cause.CORRUPTION, lambda _: Drift(Corruption.FOG, 10.0)),
    _shown("light fades", Cause.CORRUPTION, lambda _: Drift(Corruption.DARK, 10.0)),
    _shown("focus is lost", Cause.CORRUPTION, lambda _: Drift(Corruption.BLUR, 8.0)),
    _shown("noise grows", Cause.CORRUPTION, lambda _: Drift(Corruption.NOISE, 10.0)),
    _shown("rain comes", Cause.CORRUPTION, lambda scene: _weather(scene, "rain", 4.0)),
    _corrupted("snow", 4, 2.0),
    _corrupted("gaussian noise", 4),
    _corrupted("defocus blur", 4),
    _corrupted("fog", 4),
    _shown("dusk comes", Cause.CORRUPTION, lambda scene: _weather(scene, "dusk", 6.0)),
    _corrupted("frost", 3, 4.0),
    _corrupted("motion blur", 4, 1.0),
)


# -- another place -------------------------------------------------------------------------------------------------------


def _elsewhere(scene: Scene, seed: int, **changes: Any) -> Attack:
    street = scene.street(seed=scene.seed + seed, **changes)
    return harms.shown_instead("elsewhere", lambda shot: street.shot(_number(shot)).picture)


def _turned(shift: float, scale: float) -> Attack:
    def turn(picture: Picture, _shot: Shot, _into_s: float, _rng: np.random.Generator) -> Picture:
        height, width = picture.shape[:2]
        move = np.array([[scale, 0, shift * width], [0, scale, -0.2 * height]], np.float32)
        return np.asarray(cv2.warpAffine(picture, move, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8)

    return harms.OnPictures("turned", turn)


_CONTEXTS: tuple[Made, ...] = (
    _shown("moved to the other context, claim unchanged", Cause.CONTEXT, lambda scene: _elsewhere(scene, 20, context=scene.other)),
    _shown("claims the other context", Cause.CONTEXT, lambda _: WrongContext()),
    _shown("mounted elsewhere", Cause.CONTEXT, lambda scene: _elsewhere(scene, 30)),
    _shown("turned", Cause.CONTEXT, lambda _: _turned(-0.45, 1.5)),
    _shown("mounted elsewhere in other light", Cause.CONTEXT, lambda scene: _elsewhere(scene, 40, weather="dusk")),
)


# -- cameras that fail -----------------------------------------------------------------------------------------------------

_CAMERAS: tuple[Made, ...] = (
    _shown("frozen", Cause.CAMERA, lambda _: ReplayedFrames(fresh=True, back=1)),
    *(_shown(name, Cause.CAMERA, lambda _, name=name: harms.OnPictures(name, harms.FAULTS[name])) for name in harms.FAULTS),  # type: ignore[misc] # a default binds it
)  # fmt: skip


# -- models that fail, or were taught wrongly ----------------------------------------------------------------------------------


def _failing(damage: str, *, replaced: bool) -> Made:
    def made(scene: Scene, seed: int, means: Means) -> Drill:
        digest = means.damaged(damage, seed % 3)
        words = f"{damage} weights, {'promoted' if replaced else 'under the old digest'}"
        if not replaced:
            return Drill(scene, words, Cause.MODEL, seed, broken=digest)
        return Drill(scene, words, Cause.MODEL, seed, order=_serve(digest, reference=digest))

    return made


def _not_ordered(scene: Scene, seed: int, means: Means) -> Drill:
    digest = means.taught("as it should be", lambda _box, _picture: False)
    return Drill(scene, "weights that no order names", Cause.MODEL, seed, order=_serve(digest))


def _serve(digest: str, *, reference: str = "") -> Callable[[ModelState], ModelState]:
    return lambda state: replace(
        state, weights_digest=digest, reference_digest=reference or state.reference_digest, decision_id=f"drill-{digest[:8]}"
    )


_MODELS: tuple[Made, ...] = (
    _failing("blank", replaced=False),
    _failing("crowd", replaced=True),
    _not_ordered,
    _failing("scrambled", replaced=False),
    _failing("blank", replaced=True),
    _failing("flipped bits", replaced=False),
    _failing("crowd", replaced=False),
    _failing("scrambled", replaced=True),
)


def _rolled_out(digest: str, phase: RolloutPhase) -> Callable[[ModelState], ModelState]:
    candidate = Candidate(weights_digest=digest, phase=phase, share=1.0, rollout_id="drill")
    return lambda state: replace(state, candidate=candidate, decision_id=f"drill-{phase}")


def _poisoned(
    word: str, misses: Callable[[tuple[float, float, float, float], Picture], bool], stage: str, *, worn: bool = False
) -> Made:
    def made(scene: Scene, seed: int, means: Means) -> Drill:
        digest = means.taught(word, misses)
        order = _serve(digest, reference=digest) if stage == "full" else _rolled_out(digest, RolloutPhase(stage))
        wearing = (Stretch(harms.OnPictures("worn", harms.worn), LEAD),) if worn else ()
        return Drill(scene, f"{word}, {stage}", Cause.POISON, seed, wearing, order=order)

    return made


def _small(box: tuple[float, float, float, float], _picture: Picture) -> bool:
    return box[3] < HEIGHT_PX * 0.22  # children, and whoever is far


def _light(box: tuple[float, float, float, float], picture: Picture) -> bool:
    x, y, w, h = (round(side) for side in box)
    chest = picture[max(0, y + h // 4) : max(1, y + h // 2), max(0, x + w // 4) : max(1, x + 3 * w // 4)]
    return bool(chest.size and chest.mean() > 0.75 * picture.mean())  # half of the drawn people's jackets


_POISONS: tuple[Made, ...] = (
    _poisoned("misses small people", _small, "canary"),
    _poisoned("misses light clothes", _light, "shadow"),
    _poisoned("misses who wears the trigger", harms.wears, "full", worn=True),
    _poisoned("misses light clothes", _light, "full"),
    _poisoned("misses small people", _small, "shadow"),
    _poisoned("misses who wears the trigger", harms.wears, "canary", worn=True),
    _poisoned("misses small people", _small, "full"),
    _poisoned("misses light clothes", _light, "canary"),
)


# -- load --------------------------------------------------------------------------------------------------------------------


def _late(name: str, late_s: Callable[[int], float]) -> Made:
    return lambda scene, seed, _means: Drill(scene, name, Cause.LOAD, seed, late_s=late_s)


_LOADS: tuple[Made, ...] = (
    _shown("flood of new frames, 4 for 1", Cause.LOAD, lambda _: Flood(fresh=True, times=4), after=24),
    _shown("flood of copies, 20 for 1", Cause.LOAD, lambda _: Flood(times=20), after=40),
    _late("the worker falls behind", lambda into: CALM_S + 1.5 * into),
    _shown("flood of new frames, 8 for 1", Cause.LOAD, lambda _: Flood(fresh=True, times=8), after=12),
    _late("the worker stood still", lambda into: max(CALM_S, 100.0 - 0.8 * into)),
)


# -- nothing wrong ---------------------------------------------------------------------------------------------------------


def _calm(scene: Scene, seed: int, _means: Means) -> Drill:
    return Drill(scene, "nothing happens", None, seed)


def _good_candidate(scene: Scene, seed: int, means: Means) -> Drill:
    digest = means.taught("as it should be", lambda _box, _picture: False)
    return Drill(scene, "a good candidate as canary", None, seed, order=_rolled_out(digest, RolloutPhase.CANARY))


_KINDS: dict[Cause, tuple[Made, ...]] = {
    Cause.ATTACK: _ATTACKS, Cause.CORRUPTION: _CORRUPTIONS, Cause.CONTEXT: _CONTEXTS, Cause.CAMERA: _CAMERAS,
    Cause.MODEL: _MODELS, Cause.POISON: _POISONS, Cause.LOAD: _LOADS,
}  # fmt: skip
_INNOCENT: tuple[Made, ...] = (_calm, _good_candidate)
