"""Coefficients of the adversarial-input score from measured cues: a ridge-penalised logistic fit, and how well it tells.

It decides how pictures weigh against one another (attacks as much as all else together, each kind of either as much as the next)
and refuses to choose pictures: `cases.py` does. No topic.

Source: Platt 1999; AUROC as the Mann-Whitney statistic.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]
from scipy.special import expit  # type: ignore[import-untyped]

from detectors.calibration import PAIRS, TERMS, Calibration, expanded, terms
from streams.events import InputScores

_LEAST_SPREAD = 1e-3
_CLEAN = 6.0  # clean pictures weigh as much as six kinds of corruption: they are what a camera mostly shows


@dataclass(frozen=True)
class Row:
    """One picture's cues. kind: what was done to it, weighed as one; base: the picture it was made from; fitted: not held out."""

    base: str
    context: str
    origin: str
    fitted: bool
    attack: bool
    kind: str
    strength: int
    sent: str
    scores: InputScores


def fit(rows: Sequence[Row], ridge: float = 1.0) -> Calibration:
    """The model of these rows, which must hold attacks and others."""
    values = np.array([known for row in rows if (known := terms(row.scores)) is not None])
    attack = np.array([row.attack for row in rows], np.float64)
    kinds = Counter((row.attack, row.kind) for row in rows)
    weights = np.array([(_CLEAN if row.kind == "clean" else 1.0) / kinds[row.attack, row.kind] for row in rows])
    for side in (0.0, 1.0):
        weights[attack == side] *= len(rows) / 2 / weights[attack == side].sum()
    middle, spread = values.mean(axis=0), np.maximum(values.std(axis=0), _LEAST_SPREAD)
    grown = np.array([expanded(each, middle, spread) for each in values])
    free = np.r_[0.0, np.full(len(TERMS) + len(PAIRS), ridge)]

    def loss(beta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logit = grown @ beta
        value = float(weights @ (np.logaddexp(0.0, logit) - attack * logit) + 0.5 * free @ beta**2)
        return value, grown.T @ (weights * (expit(logit) - attack)) + free * beta

    found = minimize(loss, np.zeros(grown.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    return Calibration(*(tuple(round(float(each), 5) for each in part) for part in (middle, spread, found.x)))


def auroc(attacked: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """The chance that an attacked picture's score is above another's, ties counted half."""
    above = np.searchsorted(np.sort(others), attacked, "left") + np.searchsorted(np.sort(others), attacked, "right")
    return float(above.mean() / 2 / len(others))
