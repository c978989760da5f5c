"""How likely a frame is under attack: the cues of one second look in, a probability out, calibrated per context and weights.

Decides what the cues of one frame weigh together; refuses to raise an alarm (`adversarial.py` does, over many frames) and to guess:
a frame without all cues has no probability. Topic: detections (through `features.py`).

A logistic model on the logarithms of the cues, their squares and products. How far honest pictures' cues move belongs to the
weights and to what the context looks like, so each digest has coefficients of its own, fitted by `kerbwatch bench calibrate` and
kept as data with their provenance in `calibrations/`. A digest without is judged by generic ones, and that is said.

Source: Platt 1999 (a score calibrated by a logistic model); Xu, Evans, Qi 2018 (feature squeezing); docs/adversarial.md.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import combinations_with_replacement

from streams.events import Context, InputScores

GENERIC = "generic"
"""The calibration for weights that have none of their own."""
TERMS = ("change", "largest", "signed", "weak", "heat", "high_pass", "blot")
"""What the model is linear and quadratic in, see `terms`."""
PAIRS = tuple(combinations_with_replacement(range(len(TERMS)), 2))
_MOST_LOGIT = 12.0
_CHANGE_SCALE = 0.02  # of `inference.service.cues.inconsistency`, whose exponential is taken back
_FARTHEST = 4.0  # spreads from the middle of what was calibrated on: farther out a square is no knowledge


@dataclass(frozen=True)
class Calibration:
    """One context's model: terms are centred and scaled, then weighed.

    middle, spread: of each term over the calibration's pictures. weights: bias, one for each of `TERMS`, one for each of `PAIRS`.
    """

    middle: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Judged:
    """How likely the frame was made to fool the model, if half of all frames were; `generic`: by other weights' calibration."""

    probability: float
    generic: bool


def terms(scores: InputScores) -> tuple[float, ...] | None:
    """The cues as the model takes them, one for each of `TERMS`; None unless all are there."""
    inconsistency, largest, signed = scores.inconsistency, scores.largest, scores.signed
    weak, heat, high_pass, blot = scores.weak, scores.heat, scores.high_pass, scores.blot
    if inconsistency is None or largest is None or signed is None or weak is None or heat is None:
        return None
    if high_pass is None or blot is None:
        return None
    change = -_CHANGE_SCALE * math.log(max(1.0 - inconsistency, 1e-6))
    return (
        math.log(change + 1e-4),
        math.log(largest + 1e-2),
        signed,
        math.log(weak + 1e-3),
        math.log(heat + 1e-3),
        math.log(high_pass + 1e-3),
        math.log(blot + 1e-3),
    )


def expanded(values: Sequence[float], middle: Sequence[float], spread: Sequence[float]) -> tuple[float, ...]:
    """What the weights apply to: 1, the standardised terms within +-4, their squares and products."""
    far = [max(-_FARTHEST, min(_FARTHEST, (value - at) / wide)) for value, at, wide in zip(values, middle, spread, strict=True)]
    return (1.0, *far, *(far[one] * far[other] for one, other in PAIRS))


def judge(scores: InputScores, context: Context) -> Judged | None:
    """The frame's probability, by the calibration of its reference weights or by the generic one; None without all cues."""
    values = terms(scores)
    if values is None:
        return None
    own = calibrations().get(scores.reference_digest)
    by_context = own or calibrations()[GENERIC]
    return Judged(1.0 / (1.0 + math.exp(-logit(values, by_context[context]))), own is None)


def probability(scores: InputScores, context: Context) -> float | None:
    """As `judge`, the number alone."""
    judged = judge(scores, context)
    return None if judged is None else judged.probability


@cache
def calibrations() -> Mapping[str, Mapping[Context, Calibration]]:
    """All shipped calibrations by digest, and `GENERIC`."""
    found = {}
    for file in files("detectors").joinpath("calibrations").iterdir():
        if file.name.endswith(".json"):
            told = json.loads(file.read_text(encoding="utf-8"))
            found[str(told["digest"])] = {Context(name): read(each) for name, each in told["contexts"].items()}
    return found


def read(told: Mapping[str, Mapping[str, float] | float]) -> Calibration:
    """One context's coefficients as they lie in a file (`written`)."""
    middle, spread, weights = told["middle"], told["spread"], told["weights"]
    assert isinstance(middle, Mapping)
    assert isinstance(spread, Mapping)
    assert isinstance(weights, Mapping)
    return Calibration(
        tuple(middle[name] for name in TERMS), tuple(spread[name] for name in TERMS), tuple(weights[name] for name in names())
    )


def written(one: Calibration) -> dict[str, dict[str, float]]:
    """The same as plain JSON, each number by its name."""
    return {
        "middle": dict(zip(TERMS, one.middle, strict=True)),
        "spread": dict(zip(TERMS, one.spread, strict=True)),
        "weights": dict(zip(names(), one.weights, strict=True)),
    }


def names() -> tuple[str, ...]:
    """What each weight applies to."""
    return ("bias", *TERMS, *(f"{TERMS[one]}*{TERMS[other]}" for one, other in PAIRS))


def logit(values: Sequence[float], by: Calibration) -> float:
    """Logarithm of the odds that a model gives to these terms, within +-12."""
    said = sum(weight * value for weight, value in zip(by.weights, expanded(values, by.middle, by.spread), strict=True))
    return max(-_MOST_LOGIT, min(_MOST_LOGIT, said))
