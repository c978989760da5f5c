"""The cases of the benchmark of adversarial-input detection: which attacks on which scenes, which innocent changes.

It decides how many scenes (`scenes.py`) are attacked, how and how strongly, and which are corrupted. A case's picture
is made when it is asked for, as bytes as a camera sends them; the dear ones are kept by the caller. It judges none. No topic.

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
from streams import corruptions
from streams.bench.adversarial.scenes import STREETS, Scene, known
from streams.camera import encode
from streams.events import Context
from streams.line import JPEG, PNG
from streams.sources.base import Person, Picture

_LEVELS = 255
_EPS = (1, 2, 4, 8)
_PGD_STEPS = 5
_DEEPFOOL_STEPS = 10
_XI = 0.03
_PATCH_STEPS = 10
_QUALITIES = (98, 75, 50, 30)
_SECOND = adaptive.SecondLook(cues.mirrored, mirrored=True)


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
        attacked, dear, corrupted = self.attacked, self.dear, self.corrupted
        if scene.data == "photographs":
            return 2 * attacked, 2 * dear, corrupted  # they are small
        if scene.data == "footage":
            road = [max(1, count // 4) for count in (attacked, dear, corrupted)]
            taken = road if scene.camera == "road" else [attacked - road[0], dear - road[1], corrupted - road[2]]
        else:
            place, places = [int(scene.camera.rpartition("-")[2]) == seed for *_, seed in STREETS].index(True), len(STREETS)
            taken = [count * (place + 1) // places - count * place // places for count in (attacked, dear, corrupted)]
        return taken[0], taken[1], taken[2]


BUDGETS = {
    "quick": Budget(stretch=40, attacked=12, dear=4, corrupted=3, strengths=(4,), universal=(8,), adaptive=(8,)),
    "full": Budget(stretch=160, attacked=64, dear=32, corrupted=16, strengths=_EPS, universal=_EPS, adaptive=(2, 4, 8)),
}


class Case(Struct, frozen=True, kw_only=True):
    """What is judged, without its picture. kind: clean, usual (clean, for the camera's usual), attack or corruption.

    frame: of the camera, from 0. strength: the attack's in words, a corruption's severity. sent: how the camera encoded it.
    made_by: a digest of what made it.
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

    def cases(self, scenes: Sequence[Scene]) -> Iterator[Made]:
        """Everything that is judged of one camera: its clean frames, attacks on some of them, corruptions of fewer."""
        for scene in scenes:
            yield _case(scene, partial(encode, scene.picture), "usual" if scene.usual else "clean")
        scenes = [scene for scene in scenes if not scene.usual]
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
                self.network, scene.picture, scene.people, eps / _LEVELS, _SECOND, objective=objective
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
            self._universal[key] = universal.universal(self.network, known(scene, self.shared_data), None, eps / _LEVELS, passes=5)
        return universal.laid_over(scene.picture, self._universal[key])


@dataclass
class _Once:
    """A picture made when it is first asked for."""

    make: Callable[[], Picture]
    made: Picture | None = None

    def __call__(self) -> Picture:
        if self.made is None:
            self.made = self.make()
        return self.made


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
            made_by=f"{_source(way.module)} {weights}" + (f" {_source(cues.mirrored)}" if way.name == "adaptive" else ""),
        )  # fmt: skip
        yield Made(case, scene.people, partial(_encoded, picture, sent), dear=True)


def _encoded(picture: Callable[[], Picture], sent: str) -> bytes:
    return encode(picture(), sent)


def _source(module: ModuleType | Callable[..., object]) -> str:
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
