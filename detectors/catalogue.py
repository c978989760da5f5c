"""The one list of detectors: what runs on every camera, what does not, and why.

Decides parameters and budgets; refuses nothing. Each entry owes everything in `checks.py`, and a test walks this package for a
detector that is not listed here. Priors and resolutions are measured on the synthetic street in all weathers and on real footage.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from detectors.adversarial import Evasion
from detectors.base import Detector
from detectors.drift.embedding import EmbeddingDrift
from detectors.drift.feature import Drift
from detectors.drift.rivers import Adwin, HalfSpace, Hinkley, Kswin
from streams.events import Kind, Severity


class Baseline(StrEnum):
    """What a detector's memory belongs to, besides camera and context: other weights mean other baselines."""

    PICTURE = "picture"  # nothing more: the feature is of the picture alone
    SERVING = "serving"  # the weights that judged the frame
    REFERENCE = "reference"  # the context's normal weights, against which input is scored


@dataclass(frozen=True)
class Trial:
    """Readings that the entry's declared figures are about, in the feature's unit: a usual level, its spread, and a planted shift.

    phis: autocorrelations (AR(1)) under which the budget is declared to hold. within: readings after which the shift is caught.
    wider: how many times as wide a spread is caught within as many readings; 1 where nothing is declared.
    """

    level: float
    spread: float
    shift: float
    phis: tuple[float, ...]
    within: int
    wider: float = 1.0


@dataclass(frozen=True)
class Entry:
    """One detector at work on one feature.

    arl: declared mean readings between false alarms. learn: readings before it judges. remind: unusual readings between two ONGOING
    signals. reads: feature name (`features.py`). runs: by default, on every camera; why: what speaks for or against that.
    """

    name: str
    detector: Detector
    kind: Kind
    reads: str
    baseline: Baseline
    severity: Severity
    runs: bool
    why: str
    arl: int
    learn: int
    remind: int
    trial: Trial

    @cached_property
    def key(self) -> str:
        """Under which its state is kept: with changed parameters it starts anew rather than misread an old state."""
        return f"{self.name}/{self.detector.name}"


EVASION_PER_DAY = 0.1
"""False alarms of `evasion` for each camera and day that are budgeted."""
_LOOKS_PER_DAY = 86_400 * 5 // 32  # second looks of a calm camera at 5 frames/s, one frame in 32
DRIFT_ARL = 200_000  # readings: eleven hours at 5 frames/s, per feature
_ANY_DEPENDENCE = (0.0, 0.5, 0.9)


def _drift(reads: str, baseline: Baseline, *, resolution: float, level: float, spread: float, why: str, runs: bool = True) -> Entry:
    detector = Drift(arl=DRIFT_ARL, block=5, learn=600, resolution=resolution)
    return Entry(
        name=f"drift-{reads.replace('_', '-')}",
        detector=detector,
        kind=Kind.DRIFT,
        reads=reads,
        baseline=baseline,
        severity=Severity.LOW,
        runs=runs,
        why=why,
        arl=DRIFT_ARL,
        learn=detector.learn,
        remind=300,
        trial=Trial(level, spread, shift=2 * spread, phis=_ANY_DEPENDENCE, within=600, wider=3.0),
    )


def _yardstick(word: str, detector: Detector, *, learn: int, why: str) -> Entry:
    """A published detector, to be compared with. Its budget is declared for independent readings: that is all it was made for."""
    return Entry(
        name=f"{word}-brightness",
        detector=detector,
        kind=Kind.DRIFT,
        reads="brightness",
        baseline=Baseline.PICTURE,
        severity=Severity.LOW,
        runs=False,
        why=why,
        arl=20_000,
        learn=learn,
        remind=300,
        trial=Trial(level=0.45, spread=0.02, shift=0.04, phis=(0.0,), within=600),
    )


_BESIDE = ((0.15, 0.08), (2.85, 0.2), (1.3, 0.25))  # over honest pictures of the benchmark's places and of calibration's
_ENTRIES = (
    Entry(
        name="evasion",
        detector=Evasion(arl=round(_LOOKS_PER_DAY / EVASION_PER_DAY), level=-1.0, spread=1.5, beside=_BESIDE),
        kind=Kind.EVASION,
        reads="attack_probability",
        baseline=Baseline.REFERENCE,
        severity=Severity.HIGH,
        runs=True,
        why="cues of a second look, weighed together, tell attacks from noise, blur and weather; opens the evasion playbook",
        arl=round(_LOOKS_PER_DAY / EVASION_PER_DAY),
        learn=16,
        remind=5,
        trial=Trial(level=0.08, spread=0.03, shift=0.9, phis=(0.0, 0.5), within=10),
    ),
    _drift("brightness", Baseline.PICTURE, resolution=2e-3, level=0.45, spread=0.02, why="light, exposure, a covered lens"),
    _drift("contrast", Baseline.PICTURE, resolution=1e-3, level=0.2, spread=0.02, why="fog, dirt, a failing sensor"),
    _drift("sharpness", Baseline.PICTURE, resolution=3e-4, level=0.05, spread=0.01, why="focus, rain on the lens, noise"),
    _drift(
        "heat",
        Baseline.SERVING,
        resolution=5e-4,
        level=0.02,
        spread=0.005,
        why="the model sees more or fewer people than it used to",
    ),
    _drift(
        "score_mean",
        Baseline.SERVING,
        resolution=1e-2,
        level=0.6,
        spread=0.1,
        why="known only where somebody is seen: heat says it sooner",
        runs=False,
    ),
    _yardstick(
        "adwin",
        Adwin(unit=0.02),
        learn=300,
        why="keeps quiet on block means, and takes some twenty times the readings of drift (docs/detection.md)",
    ),
    _yardstick(
        "kswin",
        Kswin(unit=0.02),
        learn=1_000,
        why="compares with its last window: a change that lasts is the new usual, a slow one is never seen",
    ),
    _yardstick(
        "page-hinkley",
        Hinkley(unit=0.02),
        learn=300,
        why="one false alarm in some thousand readings where these depend on one another",
    ),
    _yardstick(
        "half-space", HalfSpace(unit=0.02), learn=1_050, why="quick on large shifts, blind to small ones, and no budget of its own"
    ),
)

ALL: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""Every detector by name."""
_EMBEDDING = EmbeddingDrift(arl=DRIFT_ARL)
VECTORS: dict[str, Entry] = {
    "drift-embedding": Entry(
        name="drift-embedding",
        detector=_EMBEDDING,
        kind=Kind.DRIFT,
        reads="embedding",
        baseline=Baseline.SERVING,
        severity=Severity.LOW,
        runs=True,
        why="another kind of picture, by what the model makes of it, that no single feature shows",
        arl=DRIFT_ARL,
        learn=_EMBEDDING.learn,
        remind=300,
        trial=Trial(level=0.0, spread=1.0, shift=2.0, phis=_ANY_DEPENDENCE, within=600, wider=2.0),
    )
}
"""Detectors of whole embeddings; apart, because what checks and draws single numbers cannot feed them."""
RUNNING: tuple[Entry, ...] = tuple(entry for entry in (*_ENTRIES, *VECTORS.values()) if entry.runs)
"""What watches every camera, evasion first: what follows looks at its verdict."""
