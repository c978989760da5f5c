"""Cheap numbers about a picture and the model's view of it: what drift and adversarial-input detectors read.

Decides what is measured and how; refuses to judge it: thresholds belong to the detectors. Topic: detections (as part of the event).

Prediction consistency carries the adversarial cue: a picture that was made to fool the model is seen otherwise in the mirror, an
honest one hardly is. One such second look gives several numbers (`Cues`): how much moves says little of an attack on one person,
how far the one cell goes that moves most does; which way it moves tells people conjured up from people hidden. A patch bears the
second look, but it is a blot of fine detail. Fine detail all over and how much the model half sees are no cues of an attack: they
tell how much noise or weather would move as well. Frequency cues alone told no attack from noise, but they cost next to nothing: a
leap of one of them (`Glance`) asks for the dear look (`sampling.py`).

Source: Xu, Evans, Qi 2018 (feature squeezing); measured in docs/adversarial.md;
paper section 4.5.3 (SC-4, input validation).
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.service.sanitise import chain
from streams.events import Features
from streams.sources.base import Picture

if TYPE_CHECKING:
    from inference.service.serving import View

_LUMA_WIDTH_PX = 320
_LAPLACIAN_MOST = 4 * 255.0
_FINGERPRINT_SIDE = 8
_FINGERPRINT_STEPS = 256.0  # of a grey level: finer than what a sensor's noise moves a cell's mean by
_SQUEEZE = chain("median-3+jpeg-60")
_CHANGE_SCALE = 0.02  # of the mean change: honest street pictures lie below 0.3 of it, pictures under attack at 0.3 to 0.8
_LEAST_CHANGE = 1e-4  # a smaller mean change has no direction
_HALF_SEEN = (0.03, 0.4)  # what a cell says that is neither background nor served
_LEVELS = 255.0
_BLOCK_PX = 16


@dataclass(frozen=True)
class Glance:
    """What every frame shows for next to nothing.

    detail: mean absolute Laplacian at full size, 0..1. heat: mean of the centre map, 0..1. people: sum of the boxes' scores, which
    is how many people are expected to be there. seen_by: the digest of the model that sees them; two models are not compared.
    """

    detail: float
    heat: float
    people: float = 0.0
    seen_by: str = ""


def glance(picture: Picture, view: "View", seen_by: str = "") -> Glance:
    """Of a picture (H x W x 3, RGB, 0..255) and a model's view of it."""
    edges = cv2.Laplacian(cv2.extractChannel(picture, 1), cv2.CV_16S, ksize=1)
    detail = _share(float(cv2.norm(edges, cv2.NORM_L1)) / edges.size / _LAPLACIAN_MOST)
    return Glance(detail, _share(float(view.heat.mean())), sum(box.score for box in view.boxes), seen_by)


@dataclass(frozen=True)
class Cues:
    """What one second look tells, all measured on the reference weights; the fields of `InputScores` beside its digest.

    inconsistency: see `inconsistency`, 0..1. largest: the change of the cell that changes most, 0..1. signed: mean change over mean
    absolute change, -1 (the second look brings people out) to 1 (it wipes people out). weak: share of cells that say 0.03 to 0.4 of
    the picture as it came, 0..1. heat: mean of that map, 0..1. high_pass: mean absolute difference of the green channel from its
    3 x 3 median, as a share of 255. blot: the same of the 16 x 16 px block where it is largest.
    """

    inconsistency: float
    largest: float
    signed: float
    weak: float
    heat: float
    high_pass: float
    blot: float


def features(picture: Picture, view: "View") -> Features:
    """What is measured of every frame.

    Args:
        picture: H x W x 3, RGB, 0..255.
        view: the serving model's boxes, heat (any size, 0..1) and embedding for it.
    """
    height, width = picture.shape[:2]
    shrink = max(1, round(width / _LUMA_WIDTH_PX))  # whole: anything else takes OpenCV ten times as long
    size = (max(1, width // shrink), max(1, height // shrink))
    picture = picture[: size[1] * shrink, : size[0] * shrink]
    luma = np.asarray(cv2.cvtColor(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY), np.uint8)
    mean, deviation = cv2.meanStdDev(luma)
    edges = cv2.Laplacian(luma, cv2.CV_16S, ksize=1)
    scores = [box.score for box in view.boxes]
    return Features(
        brightness=_share(mean.item() / 255.0),
        contrast=_share(deviation.item() / 255.0),
        sharpness=_share(float(cv2.norm(edges, cv2.NORM_L1)) / edges.size / _LAPLACIAN_MOST),
        people=len(scores),
        score_mean=_share(sum(scores) / len(scores)) if scores else 0.0,
        score_max=_share(max(scores, default=0.0)),
        height_mean_px=sum(box.h_px for box in view.boxes) / len(scores) if scores else 0.0,
        heat=_share(float(view.heat.mean(dtype=np.float64))),
        embedding=tuple(round(float(part), 4) for part in np.nan_to_num(view.embedding)),
        fingerprint=fingerprint(luma),
    )


def fingerprint(luma: NDArray[np.uint8]) -> bytes:
    """8 x 8 means of luminance (H x W, 0..255) in 1/256 grey level, row by row, big-endian, for `detectors/traffic/pictures.py`."""
    sums = np.asarray(cv2.integral(luma))
    rows, columns = (np.rint(np.linspace(0, size, _FINGERPRINT_SIDE + 1)).astype(int) for size in luma.shape)
    cells = np.diff(np.diff(sums[np.ix_(rows, columns)], axis=0), axis=1)
    areas = np.maximum(1, np.outer(np.diff(rows), np.diff(columns)))
    steps: NDArray[np.uint16] = np.rint(cells * _FINGERPRINT_STEPS / areas).astype(">u2")
    return steps.tobytes()


def squeeze(picture: Picture) -> Picture:
    """The picture after a 3 x 3 median and JPEG at quality 60: an honest one survives that, a perturbation does not. Same shape.

    What vetting of training data looks with (`inference.lifecycle.vetting`).
    """
    return _SQUEEZE(picture)


def inconsistency(plain: "View", squeezed: "View") -> float:
    """How far the centre map moved by squeezing, 0 (not at all) towards 1: 1 - exp(-mean change of a cell / 0.02).

    The mean over all cells, because a perturbation of the whole picture stirs the whole map: on the synthetic street it told
    attacks from honest pictures better (AUROC 0.999) than the largest change did (0.915). A map that is not finite counts as
    wholly inconsistent: no honest picture leads there.
    """
    change = float(np.abs(plain.heat - squeezed.heat).mean(dtype=np.float64))
    return _share(1.0 - math.exp(-change / _CHANGE_SCALE)) if math.isfinite(change) else 1.0


def mirrored(picture: Picture) -> Picture:
    """The picture as the second look takes it, left and right swapped: what is honestly seen is there in the mirror too.

    Of median and JPEG, coarser copies, and the mirror with either, the mirror alone told most attacks from corruptions.
    """
    return np.ascontiguousarray(picture[:, ::-1])


def second_look(plain: "View", other: "View", picture: Picture) -> Cues:
    """All cues of one sampled frame. A map that is not finite counts as wholly inconsistent.

    Args:
        plain: the reference model's view of the picture as it came.
        other: its view of `mirrored(picture)`.
        picture: H x W x 3, RGB, 0..255, as it came.
    """
    change = plain.heat.astype(np.float64) - other.heat[:, ::-1]
    mean = float(np.abs(change).mean())
    known = math.isfinite(mean)
    low, high = _HALF_SEEN
    green = cv2.extractChannel(picture, 1)
    fine = cv2.absdiff(green, cv2.medianBlur(green, 3))
    return Cues(
        inconsistency=_share(1.0 - math.exp(-mean / _CHANGE_SCALE)) if known else 1.0,
        largest=_share(float(np.abs(change).max())) if known else 1.0,
        signed=max(-1.0, min(1.0, float(change.mean()) / (mean + _LEAST_CHANGE))) if known else 0.0,
        weak=_share(float(((plain.heat > low) & (plain.heat < high)).mean())),
        heat=_share(float(plain.heat.mean(dtype=np.float64))),
        high_pass=_share(float(cv2.mean(fine)[0]) / _LEVELS),
        blot=_share(float(_block_means(fine).max()) / _LEVELS),
    )


def _block_means(of: Any) -> NDArray[np.float64]:
    rows, columns = (max(1, size // _BLOCK_PX) for size in of.shape)
    whole = of[: rows * _BLOCK_PX, : columns * _BLOCK_PX]
    return np.asarray(cv2.resize(whole.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA), np.float64)


def _share(value: float) -> float:
    """Within 0..1, as the event demands; rounding may leave it by a hair, and no number counts as 0."""
    return min(1.0, max(0.0, value)) if value == value else 0.0  # noqa: PLR0124 - how NaN is told
