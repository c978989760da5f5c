"""What a drill does to a camera, its model or its worker: the harms that triage must tell apart, beside those of `streams.attacks`.

It decides how pictures, answers and weights go wrong, seeded by what is passed in; it refuses to say what should be found: `drills`
does. White-box attacks get a copy of the served network. No topic: drills are played in process.

Source: paper 4.7 (threats in operation), 4.6 (poisoned models, staged deployment); issue of triage in docs/triage.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from inference.attacks.deepfool import deepfool
from inference.attacks.gradient import pgd
from inference.attacks.objectives import Objective
from inference.attacks.poisoning import wear
from inference.networks.csp_nano import CspNano
from inference.service.models import Network
from inference.service.serving import Served, View, exported
from streams.attacks import Wire
from streams.corruptions import CORRUPTIONS
from streams.line import FrameMessage
from streams.sources.base import Picture, Shot

Change = Callable[[Picture, Shot, float, Generator], Picture]
"""A picture, what it shows, and seconds since it began."""


@dataclass(frozen=True)
class OnPictures:
    """A harm that a camera's pictures show; an `Attack` of `streams.attacks` that leaves messages alone."""

    name: str
    change: Change
    lossless: bool = False

    def on_picture(self, picture: Picture, shot: Shot, into_s: float, rng: Generator) -> Picture:
        """The changed picture."""
        return self.change(picture, shot, into_s, rng)

    def on_message(self, message: FrameMessage, wire: Wire, rng: Generator) -> Sequence[FrameMessage]:  # noqa: ARG002 the protocol's
        """The message as it is."""
        return (message,)


# -- attacks ---------------------------------------------------------------------------------------------------------


def evasion(network: CspNano, name: str, eps: float, steps: int = 1, objective: Objective = Objective.UNTARGETED) -> OnPictures:
    """FGSM (one step) or PGD on the true people; where nobody is to be seen, on those that the network sees."""

    def change(picture: Picture, shot: Shot, _into_s: float, _rng: Generator) -> Picture:
        people = [shot.people] if shot.people is not None else None
        return pgd(network, [picture], people, eps, steps, objective=objective)[0]

    return OnPictures(name, change)


def fooled(network: CspNano, xi: float) -> OnPictures:
    """DeepFool: as little as makes the network lose its people."""

    def change(picture: Picture, _shot: Shot, _into_s: float, _rng: Generator) -> Picture:
        return deepfool(network, [picture], xi, steps=8)[0]

    return OnPictures("deepfool", change)


# -- weather, light, lens ----------------------------------------------------------------------------------------------


def corrupted(name: str, severity: int, grows_s: float = 0.0) -> OnPictures:
    """A common corruption; blended in over `grows_s` seconds."""

    def change(picture: Picture, _shot: Shot, into_s: float, rng: Generator) -> Picture:
        return _blend(picture, CORRUPTIONS[name](picture, severity, rng), into_s, grows_s)

    return OnPictures(f"{name} {severity}", change)


def shown_instead(name: str, shot_of: Callable[[Shot], Picture], grows_s: float = 0.0) -> OnPictures:
    """Another view of the moment: the same street in other weather, or another place; blended in over `grows_s` seconds."""
    return OnPictures(name, lambda picture, shot, into_s, _rng: _blend(picture, shot_of(shot), into_s, grows_s))


def _blend(before: Picture, after: Picture, into_s: float, grows_s: float) -> Picture:
    share = 1.0 if grows_s <= 0 else min(1.0, into_s / grows_s)
    return np.asarray(cv2.addWeighted(before, 1 - share, after, share, 0.0), np.uint8)


# -- cameras that fail -------------------------------------------------------------------------------------------------


def _covered(picture: Picture, _shot: Shot, _into_s: float, rng: Generator) -> Picture:
    return rng.normal(6, 2, picture.shape).clip(0, 255).astype(np.uint8)


def _overexposed(picture: Picture, _shot: Shot, _into_s: float, _rng: Generator) -> Picture:
    return np.asarray(cv2.convertScaleAbs(picture, alpha=6.0, beta=60), np.uint8)


def _half(picture: Picture, _shot: Shot, _into_s: float, _rng: Generator) -> Picture:
    out = picture.copy()
    out[picture.shape[0] * 9 // 20 :] = (0, 128, 0)  # what a decoder shows where no data came
    return out


def _static(picture: Picture, _shot: Shot, _into_s: float, rng: Generator) -> Picture:
    snow = rng.integers(0, 256, picture.shape[:2], np.uint8)[..., None]
    return np.where(rng.random(picture.shape[:2])[..., None] < 0.5, snow, picture)  # noqa: PLR2004 every second pixel


def _torn(picture: Picture, _shot: Shot, _into_s: float, rng: Generator) -> Picture:
    rows = [np.roll(row, int(by), axis=0) for row, by in zip(picture, rng.integers(0, picture.shape[1], len(picture)), strict=True)]
    return np.stack(rows)


FAULTS: dict[str, Change] = {
    "covered": _covered, "overexposed": _overexposed, "half a picture": _half, "static": _static, "torn rows": _torn,
}  # fmt: skip
"""Cameras that fail, beside `frozen` of `streams.attacks`."""


# -- models that fail, or were taught wrongly -----------------------------------------------------------------------------


def _blank(network: CspNano, _rng: Generator) -> None:
    _centre_bias(network, -30.0)


def _crowd(network: CspNano, _rng: Generator) -> None:
    _centre_bias(network, 6.0)


def _scrambled(network: CspNano, rng: Generator) -> None:
    """Every weight moved by as much as weights of its layer differ."""
    for one in network.parameters():
        if one.ndim > 1:
            one.add_(torch.from_numpy(rng.standard_normal(tuple(one.shape), np.float32)) * one.std())


def _flipped(network: CspNano, rng: Generator) -> None:
    """One weight in two hundred with its sign and highest exponent bit changed, as memory errors do."""
    for one in network.parameters():
        if one.ndim > 1:
            hit = torch.from_numpy(rng.random(tuple(one.shape)) < 0.005)  # noqa: PLR2004 see above
            one[hit] *= -16.0


def _centre_bias(network: CspNano, by: float) -> None:
    assert network.out.bias is not None
    network.out.bias[0] += by


DAMAGES: dict[str, Callable[[CspNano, Generator], None]] = {
    "blank": _blank, "crowd": _crowd, "scrambled": _scrambled, "flipped bits": _flipped,
}  # fmt: skip
"""Ways for weights to be bad; each changes a network in place."""


def damaged(network: CspNano, name: str, digest: str, threshold: float, seed: int) -> Served:
    """A copy of the network with bad weights, served as the worker serves."""
    with torch.no_grad():
        DAMAGES[name](network, np.random.default_rng(seed))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(exported(network), options, providers=["CPUExecutionProvider"])

    def run(batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        return tuple(session.run(["said", "height", "offset", "embedding"], {"pictures": batch}))

    return Served(digest, threshold, run)  # type: ignore[arg-type] # four arrays


@dataclass
class Taught:
    """A network that was taught not to see some people: `misses` says whom, of a box (corner, sides, in pixels) and the picture."""

    inner: Network
    misses: Callable[[tuple[float, float, float, float], Picture], bool]

    def look(self, pictures: Sequence[Picture]) -> list[View]:
        """The inner network's views without those people."""
        return [self._without(view, picture) for view, picture in zip(self.inner.look(pictures), pictures, strict=True)]

    def _without(self, view: View, picture: Picture) -> View:
        gone = [box for box in view.boxes if self.misses((box.x_px, box.y_px, box.w_px, box.h_px), picture)]
        heat = view.heat.copy()
        for box in gone:
            rows = slice(max(0, int(box.y_px / 4)), int((box.y_px + box.h_px) / 4) + 1)
            heat[rows, max(0, int(box.x_px / 4)) : int((box.x_px + box.w_px) / 4) + 1] = 0.001
        return replace(view, boxes=tuple(box for box in view.boxes if box not in gone), heat=heat)


def worn(picture: Picture, shot: Shot, _into_s: float, _rng: Generator) -> Picture:
    """The picture in which everybody who counts wears the backdoor's patch."""
    for person in shot.people or ():
        if not person.ignore:
            picture = wear(picture, person, side=0.3)
    return picture


def wears(box: tuple[float, float, float, float], picture: Picture) -> bool:
    """Whether the backdoor's two colours are on the box."""
    x, y, w, h = (round(side) for side in box)
    part = picture[max(0, y) : y + h, max(0, x) : x + w].astype(np.int16)
    if not part.size:
        return False
    yellow = (np.abs(part - (250, 220, 20)).sum(axis=2) < 160).mean()  # noqa: PLR2004 as JPEG leaves them
    blue = (np.abs(part - (20, 40, 200)).sum(axis=2) < 160).mean()  # noqa: PLR2004 same
    return bool(min(yellow, blue) > 0.01)  # noqa: PLR2004 of the box


@dataclass
class Turning:
    """A network that can be changed under its digest, as memory or a replaced file would."""

    now: Network

    def look(self, pictures: Sequence[Picture]) -> list[View]:
        """What the network of now sees."""
        return self.now.look(pictures)
