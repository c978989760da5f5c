"""The pictures of the benchmark of adversarial-input detection: which scenes, which attacks on them, which innocent changes.

It decides on what the detector is measured: drawn streets from seed 900 on, odd photographs of Penn-Fudan, footage from frame 620
(the square) and 170 (the road) on, none of which calibration has seen. A case's picture is made when it is asked for, as bytes as a
camera sends them; the dear ones are kept by the caller. It refuses to judge anything. No topic.

Attacks are white-box on the context's normal model and know the people where there are labels. JPEG 92 is what cameras send; those
whose change is small enough for JPEG to take most of it are also sent as PNG, which is the stronger attacker.

Source: issue 5, "Adversarial input"; the attacks' sources stand in their modules.
"""

import inspect
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
from msgspec import Struct, structs
from numpy.random import Generator
from numpy.typing import NDArray
from torch import nn

from inference.attacks import adaptive, deepfool, gradient, patch, universal
from inference.attacks.objectives import Objective
from inference.service import cues
from inference.training.samples import Sample, empty_road, footage, halved, penn_fudan, streets
from streams import corruptions
from streams.camera import encode
from streams.events import Context
from streams.line import JPEG, PNG
from streams.sources.base import Person, Picture
from streams.sources.scenery import Weather

STREETS = (
    (Context.URBAN, Weather.DAY, 900),
    (Context.URBAN, Weather.DUSK, 901),
    (Context.URBAN, Weather.RAIN, 902),
    (Context.URBAN, Weather.FOG, 903),
    (Context.URBAN, Weather.DAY, 904),
    (Context.URBAN, Weather.DAY, 905),
    (Context.HIGHWAY, Weather.DAY, 906),
    (Context.HIGHWAY, Weather.DUSK, 907),
)
"""Places, and their seeds; six are towns, for that is where people are."""
_CORRUPTED = (0, 3, 6)  # of them, where fewer pictures than places are corrupted
_SQUARE, _ROAD = range(620, 795), range(170, 221)
_OTHERS_SEEDS, _SQUARE_BEFORE, _ROAD_BEFORE = range(950, 954), range(402, 600, 25), range(112, 160, 6)
_ROAD_SIZE_PX = (640, 360)
_LEVELS = 255
_EPS = (1, 2, 4, 8)
_PGD_STEPS = 5
_DEEPFOOL_STEPS = 10
_XI = 0.03
_PATCH_STEPS = 10
_QUALITIES = (98, 75, 50, 30)


@dataclass(frozen=True)
class Scene:
    """A frame of a camera of a data set, clean, and who is in it."""

    data: str
    camera: str
    number: int
    context: Context
    picture: Picture
    people: tuple[Person, ...]


@dataclass(frozen=True)
class Budget:
    """How much is looked at.

    stretch: clean frames in a row, a camera. attacked: frames of a data set. dear: those of them that patches and the adaptive
    attack are made for. corrupted: frames of a data set. strengths: of hiding and appearing, in levels, as universal and adaptive.
    """

    stretch: int
    attacked: int
    dear: int
    corrupted: int
    strengths: tuple[int, ...]
    universal: tuple[int, ...]
    adaptive: tuple[int, ...]

    def of(self, scene: Scene) -> tuple[int, int, int]:
        """(attacked, dearly attacked, corrupted) frames of the camera that a scene is of."""
        counts = (self.attacked, self.dear, self.corrupted)
        if scene.data == "photographs":
            return self.attacked * 3 // 2, self.dear, self.corrupted  # they are small
        if scene.data == "footage":
            return _of(counts, 0.75 if scene.camera == "square" else 0.25)
        place = [int(scene.camera.rpartition("-")[2]) == seed for *_, seed in STREETS].index(True)
        each, dear, corrupted = _of(counts, 1 / len(STREETS))
        return each, dear, corrupted if corrupted > 1 else int(place in _CORRUPTED)


def _of(counts: tuple[int, ...], share: float) -> tuple[int, int, int]:
    attacked, dear, corrupted = (max(1, round(count * share)) for count in counts)
    return attacked, dear, corrupted


BUDGETS = {
    "quick": Budget(stretch=40, attacked=16, dear=8, corrupted=3, strengths=(4,), universal=(8,), adaptive=(8,)),
    "full": Budget(stretch=160, attacked=64, dear=32, corrupted=16, strengths=_EPS, universal=_EPS, adaptive=(2, 4, 8)),
}


class Case(Struct, frozen=True, kw_only=True):
    """What is judged, without its picture. kind: clean, attack, corruption or weather. frame: of the camera, from 0.

    strength: the attack's in words, a corruption's severity. sent: how the camera encoded it. made_by: a digest of what made it.
    """

    data: str
    camera: str
    frame: int
    context: Context
    kind: str
    name: str = ""
    strength: str = ""
    objective: str = ""
    adaptive: bool = False
    sent: str = JPEG
    made_by: str = ""

    @property
    def key(self) -> str:
        """A file name's worth of all of it."""
        told = "/".join(str(getattr(self, name)) for name in self.__struct_fields__)
        return sha256(told.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Made:
    """A case and how to get its picture's bytes."""

    case: Case
    people: tuple[Person, ...]
    body: Callable[[], bytes]
    dear: bool = False
    """Whether the bytes are worth keeping."""


@dataclass(frozen=True)
class _Way:
    """One attack on one scene: where its code is, and how its picture is made. png: it is sent as PNG too."""

    name: str
    strength: str
    module: ModuleType
    make: Callable[[], Picture]
    objective: Objective = Objective.UNTARGETED
    png: bool = False


@dataclass
class Bench:
    """All cases of a budget on one network. Pictures are drawn, read and attacked when they are asked for."""

    network: nn.Module
    weights: str
    budget: Budget
    shared_data: Path
    _universal: dict[tuple[str, int], NDArray[np.int16]] = field(default_factory=dict)

    def cameras(self) -> Iterator[Callable[[], list[Scene]]]:
        """How to get each camera's frames; photographs are an album that a camera is shown."""
        yield self._album
        yield partial(self._video, "square", Context.URBAN)
        yield partial(self._video, "road", Context.HIGHWAY)
        for context, weather, seed in STREETS:
            yield partial(self._street, context, weather, seed)

    def cases(self, scenes: Sequence[Scene]) -> Iterator[Made]:
        """Everything that is judged of one camera: its clean frames, attacks on some of them, corruptions of fewer."""
        for scene in scenes:
            yield _case(scene, partial(encode, scene.picture), "clean")
        attacked, dear, corrupted = self.budget.of(scenes[0])
        for place, scene in enumerate(_spread(scenes, attacked)):
            for way in self._ways(scene, dear=place < dear):
                yield from _sent(scene, way, self.weights)
        for scene in _spread(scenes, corrupted):
            for name in corruptions.CORRUPTIONS:
                for severity in corruptions.SEVERITIES:
                    made = _case(scene, partial(_corrupted, scene, name, severity), "corruption", name, str(severity))
                    yield replace(made, case=structs.replace(made.case, made_by=_source(corruptions)))
            for quality in _QUALITIES:
                yield _case(scene, partial(_coded, scene.picture, quality), "corruption", "camera's JPEG", str(quality))

    def _ways(self, scene: Scene, *, dear: bool) -> Iterator[_Way]:
        picture, people, network = [scene.picture], [scene.people], self.network
        someone = any(not person.ignore for person in scene.people)
        steepest = _Once(lambda: gradient.fgsm(network, scene.picture, scene.people, max(_EPS) / _LEVELS))

        def pgd(eps: int, objective: Objective) -> Picture:
            return gradient.pgd(network, picture, people, eps / _LEVELS, _PGD_STEPS, objective=objective)[0]

        for eps in _EPS:
            at, small = f"eps {eps}/255", eps == min(_EPS)
            # FGSM's direction is that of the clean picture, whatever the strength: one gradient serves all
            yield _Way("fgsm", at, gradient, partial(_stepped, scene.picture, steepest, eps), png=small)
            yield _Way("pgd", at, gradient, partial(pgd, eps, Objective.UNTARGETED), png=small)
        for eps in self.budget.strengths:
            for objective in (Objective.HIDE, Objective.APPEAR) if someone else (Objective.APPEAR,):
                yield _Way("pgd", f"eps {eps}/255", gradient, partial(pgd, eps, objective), objective)
        for eps in self.budget.universal:
            yield _Way("universal", f"eps {eps}/255", universal, partial(self._laid_over, scene, eps))
        if someone:
            yield _Way(
                "deepfool", f"xi {_XI}", deepfool,
                lambda: deepfool.deepfool(network, picture, _XI, people, steps=_DEEPFOOL_STEPS)[0], Objective.HIDE, png=True,
            )  # fmt: skip
        if dear:
            yield from self._dear_ways(scene, someone=someone)

    def _dear_ways(self, scene: Scene, *, someone: bool) -> Iterator[_Way]:
        def glued(place: patch.Place) -> Picture:
            return patch.patch(self.network, scene.picture, scene.people, place, _chance(scene), steps=_PATCH_STEPS).picture

        def knowing(eps: int, objective: Objective) -> Picture:
            return adaptive.adaptive(
                self.network, scene.picture, scene.people, eps / _LEVELS, cues.squeeze, objective=objective
            )  # fmt: skip

        if someone:
            yield _Way("patch on a person", "0.3 of height", patch, partial(glued, patch.Place.PERSON), Objective.HIDE)
        yield _Way("patch beside people", "0.3 of height", patch, partial(glued, patch.Place.BACKGROUND), Objective.APPEAR)
        for eps in self.budget.adaptive:
            yield _Way("adaptive", f"eps {eps}/255", adaptive, partial(knowing, eps, Objective.UNTARGETED), png=True)
            if someone:
                yield _Way("adaptive", f"eps {eps}/255", adaptive, partial(knowing, eps, Objective.HIDE), Objective.HIDE)

    def _laid_over(self, scene: Scene, eps: int) -> Picture:
        """The scene under the one perturbation of its kind of camera, made on other pictures by somebody without labels."""
        key = (scene.camera.partition("-")[0], eps)
        if key not in self._universal:
            self._universal[key] = universal.universal(self.network, self._known(scene), None, eps / _LEVELS, passes=5)
        return universal.laid_over(scene.picture, self._universal[key])

    def _known(self, scene: Scene) -> list[Picture]:
        """Eight pictures that the attacker of the universal perturbation has: of other places, or of an earlier time."""
        if scene.data == "streets":
            samples = streets(scene.context, Weather.DAY, _OTHERS_SEEDS, (0, 60))
        elif scene.data == "photographs":
            samples = [halved(one) for one in penn_fudan(self.shared_data / "pennfudan")[:64:8]]
        elif scene.camera == "square":
            samples = footage(self.shared_data, _SQUARE_BEFORE)
        else:
            samples = [_resized(one) for one in empty_road(self.shared_data, _ROAD_BEFORE)]
        height, width = (min(one.picture.shape[side] for one in samples) for side in (0, 1))
        return [np.ascontiguousarray(one.picture[:height, :width]) for one in samples]

    def _street(self, context: Context, weather: Weather, seed: int) -> list[Scene]:
        found = streets(context, weather, [seed], range(self.budget.stretch))
        return _scenes("streets", f"{context}-{weather}-{seed}", context, found)

    def _album(self) -> list[Scene]:
        odd = penn_fudan(self.shared_data / "pennfudan")[1::2]
        return _scenes("photographs", "album", Context.URBAN, [halved(one) for one in odd])

    def _video(self, camera: str, context: Context) -> list[Scene]:
        if camera == "square":
            found = footage(self.shared_data, _SQUARE[: 2 * self.budget.stretch])
        else:
            found = [_resized(one) for one in empty_road(self.shared_data, _ROAD)]
        return _scenes("footage", camera, context, found)


@dataclass
class _Once:
    """A picture made when it is first asked for."""

    make: Callable[[], Picture]
    made: Picture | None = None

    def __call__(self) -> Picture:
        if self.made is None:
            self.made = self.make()
        return self.made


def _scenes(data: str, camera: str, context: Context, found: Sequence[Sample]) -> list[Scene]:
    return [Scene(data, camera, number, context, one.picture, one.people) for number, one in enumerate(found)]


def _spread(scenes: Sequence[Scene], count: int) -> list[Scene]:
    """So many of them, evenly apart."""
    places = np.unique(np.linspace(0, len(scenes) - 1, count).round().astype(int)) if count else []
    return [scenes[int(place)] for place in places]


def _case(scene: Scene, body: Callable[[], bytes], kind: str, name: str = "", strength: str = "") -> Made:
    case = Case(
        data=scene.data, camera=scene.camera, frame=scene.number, context=scene.context, kind=kind, name=name, strength=strength
    )
    return Made(case, scene.people, body)


def _sent(scene: Scene, way: _Way, weights: str) -> Iterator[Made]:
    """The attacked picture as the camera sends it, made once for both ways of sending."""
    picture = _Once(way.make)
    for sent in (JPEG, PNG) if way.png else (JPEG,):
        case = Case(
            data=scene.data, camera=scene.camera, frame=scene.number, context=scene.context, kind="attack", name=way.name,
            strength=way.strength, objective=way.objective, adaptive=way.name == "adaptive", sent=sent,
            made_by=f"{_source(way.module)} {weights}",
        )  # fmt: skip
        yield Made(case, scene.people, partial(_encoded, picture, sent), dear=True)


def _encoded(picture: Callable[[], Picture], sent: str) -> bytes:
    return encode(picture(), sent)


def _source(module: ModuleType) -> str:
    """Which code makes the picture: changed code makes it anew."""
    return sha256(inspect.getsource(module).encode()).hexdigest()[:12]


def _stepped(picture: Picture, steepest: Callable[[], Picture], eps: int) -> Picture:
    sign = np.sign(steepest().astype(np.int16) - picture)
    out: Picture = np.clip(picture + eps * sign, 0, _LEVELS).astype(np.uint8)
    return out


def _chance(scene: Scene, *more: int) -> Generator:
    return np.random.default_rng((zlib.crc32(f"{scene.data}/{scene.camera}".encode()), scene.number, *more))


def _corrupted(scene: Scene, name: str, severity: int) -> bytes:
    rng = _chance(scene, zlib.crc32(name.encode()), severity)
    return encode(corruptions.CORRUPTIONS[name](scene.picture, severity, rng))


def _coded(picture: Picture, quality: int) -> bytes:
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def _resized(sample: Sample) -> Sample:
    """The road at the size that a camera sends; nobody is on it."""
    picture = np.asarray(cv2.resize(sample.picture, _ROAD_SIZE_PX, interpolation=cv2.INTER_AREA), np.uint8)
    return Sample(sample.origin, sample.name, picture, ())
