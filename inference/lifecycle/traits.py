"""What annotated pictures look like in numbers (labels, light, detail), and whether two sets look alike.

It decides which numbers those are, what of a reference set is kept (the numbers themselves, pool by pool), and when a set has
drifted from it. It asks no model and judges no single picture (`vetting` does). No topic feeds it.

Source: paper 4.6 (statistical anomalies against known clean data); Kolmogorov-Smirnov test of two samples, Bonferroni's correction.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp  # type: ignore[import-untyped]

from inference.training.samples import Sample

_WIDTH_PX = 320  # pictures are measured at this width, so that resolution does not pass for detail
_LEVELS = 255.0
_SURE = 0.01  # chance of calling two samples of the same source different, over all traits together
_FAR = 0.25  # largest distance of the distribution functions that does not matter
_ENOUGH = 20  # values without which a pool says nothing of its own

Values = Mapping[str, tuple[float, ...]]
"""Trait to values: one a picture, or one a label."""


class Trait(StrEnum):
    """One number; of each label unless it says picture."""

    HEIGHT = "height"  # of the picture's
    ASPECT = "aspect"  # width over height
    MIDDLE_X = "middle_x"  # 0 left to 1 right
    FOOT_Y = "foot_y"  # 0 top to 1 bottom
    PEOPLE = "people"  # counted labels of a picture
    BRIGHTNESS = "brightness"  # of a picture: mean, 0..1
    CONTRAST = "contrast"  # of a picture: deviation, 0..1
    SHARPNESS = "sharpness"  # of a picture: mean absolute Laplacian, 0..1
    FINE = "fine"  # of a picture: what a 3 x 3 median takes away, 0..1; perturbations live there


class Reference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The traits of a trusted set by pool."""

    pools: dict[str, dict[str, tuple[float, ...]]]

    def of(self, pool: str, trait: Trait) -> NDArray[np.float64]:
        """The values for a pool, or of all pools where it has fewer than 20 of its own."""
        own = self.pools.get(pool, {}).get(trait, ())
        if len(own) < _ENOUGH:
            own = tuple(value for values in self.pools.values() for value in values.get(trait, ()))
        return np.array(own, np.float64)

    def all(self, trait: Trait) -> NDArray[np.float64]:
        """The values of all pools."""
        return np.array([value for values in self.pools.values() for value in values.get(trait, ())], np.float64)


def traits(sample: Sample) -> dict[Trait, tuple[float, ...]]:
    """All traits of one sample; ignored people are not among its labels."""
    height, width = sample.picture.shape[:2]
    boxes = [one.box_px for one in sample.people if not one.ignore]
    scale = min(1.0, _WIDTH_PX / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    luma = cv2.cvtColor(cv2.resize(sample.picture, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    whole = cv2.cvtColor(sample.picture, cv2.COLOR_RGB2GRAY)
    edges = cv2.Laplacian(luma, cv2.CV_16S, ksize=1)
    fine = cv2.absdiff(whole, cv2.medianBlur(whole, 3))
    return {
        Trait.HEIGHT: tuple(h / height for _, _, _, h in boxes),
        Trait.ASPECT: tuple(w / h for _, _, w, h in boxes),
        Trait.MIDDLE_X: tuple((x + w / 2) / width for x, _, w, _ in boxes),
        Trait.FOOT_Y: tuple((y + h) / height for _, y, _, h in boxes),
        Trait.PEOPLE: (float(len(boxes)),),
        Trait.BRIGHTNESS: (float(luma.mean()) / _LEVELS,),
        Trait.CONTRAST: (float(luma.std()) / _LEVELS,),
        Trait.SHARPNESS: (float(np.abs(edges.astype(np.float32)).mean()) / (4 * _LEVELS),),
        Trait.FINE: (float(fine.mean()) / _LEVELS,),
    }


def reference(samples: Iterable[Sample]) -> Reference:
    """What is kept of a trusted set; values rounded to six places, so that they survive JSON as they are."""
    pools: dict[str, dict[str, list[float]]] = {}
    for sample in samples:
        pool = pools.setdefault(sample.origin, {})
        for trait, values in traits(sample).items():
            pool.setdefault(trait.value, []).extend(round(value, 6) for value in values)
    return Reference(pools={pool: {name: tuple(sorted(values)) for name, values in found.items()} for pool, found in pools.items()})


def drifted(before: Reference, now: Reference) -> tuple[str, ...]:
    """The traits whose distributions differ, in words; empty where the two sets look alike.

    A trait drifted if chance explains it in fewer than one of a hundred sets, and the distribution functions are 0.25 apart.
    """
    found = []
    for trait in Trait:
        one, two = before.all(trait), now.all(trait)
        if not len(one) or not len(two):
            if len(one) != len(two):
                found.append(f"{trait}: {len(one)} values then, {len(two)} now")
            continue
        test = ks_2samp(one, two)
        if test.pvalue < _SURE / len(Trait) and test.statistic > _FAR:
            found.append(f"{trait}: median {np.median(one):.3f} then, {np.median(two):.3f} now")
    return tuple(found)


def same(stored: Reference, now: Reference, slack: float = 1e-3) -> tuple[str, ...]:
    """The pools and traits whose values are not the stored ones, beyond what another version of OpenCV may round otherwise."""
    found = []
    for pool in sorted(stored.pools.keys() | now.pools.keys()):
        for trait in Trait:
            one, two = (np.array(some.pools.get(pool, {}).get(trait, ()), np.float64) for some in (stored, now))
            if one.shape != two.shape or (len(one) and float(np.abs(one - two).max()) > slack):
                found.append(f"{trait} of pool {pool}")
    return tuple(found)
