"""What the readings of the benchmark of adversarial-input detection amount to: separation, false flags, harm, cost.

It decides what is compared with what: every reading with the clean frames of its own data set and context, so that thresholds are
those of a camera that stands there, by the score that it is given (`usual.py`); an attacked frame's boxes with the same
frame's clean ones. It makes no picture and runs no model; how soon streams alarm is in `streams.py`. No topic.

Source: Hanley, McNeil 1982 (the area under the curve as a probability of ranks); `docs/adversarial.md`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from detectors.calibration import probability
from inference.measure.miss_rate import EVERYBODY, Match, Mode, annotation, match, summed
from streams.bench.adversarial.cases import Case
from streams.events import Box, InputScores
from streams.line import JPEG
from streams.sources.base import Person

FPR = (0.05, 0.01)
"""False positive rates at which flags are counted."""


class Reading(Struct, frozen=True, kw_only=True, dict=True):
    """What was measured of one case. detail, heat: the glance. normal, safe: what the models see, the safe one after cleaning.

    took_ms: processor time of the normal look, the glance and the second look.
    """

    case: Case
    scores: InputScores
    detail: float
    heat: float
    people: tuple[Person, ...]
    normal: tuple[Box, ...]
    safe: tuple[Box, ...]
    took_ms: tuple[float, float, float]

    @cached_property
    def probability(self) -> float:
        """That the frame is attacked, as the shipped calibration has it."""
        found = probability(self.scores, self.case.context)
        assert found is not None
        return found

    @cached_property
    def matched(self) -> tuple[Match, Match]:
        """What the normal and the safe model's boxes add to a miss rate."""
        truth = [annotation(person) for person in self.people]
        return match(truth, self.normal, EVERYBODY), match(truth, self.safe, EVERYBODY)


Score = Callable[[Reading], float]
"""How strange a frame is: the calibrated probability (`absolute`), or to its own camera (`usual.py`)."""


def absolute(one: Reading) -> float:
    """The calibrated probability, whatever the camera's usual is."""
    return one.probability


class AttackRow(Struct, frozen=True, kw_only=True):
    """One attack at one strength on one data set.

    sent: how the camera encoded it. miss_rate_added_points: log-average miss rate with less without the attack, on the same frames
    with people; None where nobody is. auroc: against the clean frames of each frame's context; tpr_at_fpr5, tpr_at_fpr1: share that
    is flagged at those false positive rates; both by the detector's own score where there is a camera, the same with `_absolute` by
    the calibrated probability. delay_frames: median frames of a stream from its first attacked one to the alarm, that
    one included; None if most streams end first. caught: share of streams that alarm.
    """

    attack: str
    strength: str
    adaptive: bool
    objective: str
    data: str
    sent: str
    frames: int
    miss_rate_added_points: float | None
    auroc: float
    tpr_at_fpr5: float
    tpr_at_fpr1: float
    auroc_absolute: float
    tpr_at_fpr5_absolute: float
    tpr_at_fpr1_absolute: float
    delay_frames: float | None = None
    caught: float | None = None


class CorruptionRow(Struct, frozen=True, kw_only=True):
    """Share of frames flagged at the threshold that flags 5 % of the context's clean ones; scores as in `AttackRow`.

    streams, alarmed: cameras' streams in which it sets in at once and stays, and the share of them that alarm; 0 and None for what
    is no change.
    """

    corruption: str
    severity: str
    data: str
    flagged: float
    flagged_absolute: float
    frames: int
    streams: int = 0
    alarmed: float | None = None


class Cost(Struct, frozen=True, kw_only=True):
    """Medians over clean frames, processor milliseconds; looked: share of a calm camera's frames that get the second look.

    share_of_inference: (glance + looked * second look) / inference.
    """

    data: str
    infer_ms: float
    glance_ms: float
    second_look_ms: float
    looked: float
    share_of_inference: float


@dataclass(frozen=True)
class Clean:
    """The clean frames' scores by data set and context, sorted, and what scores the frames that are compared with them."""

    of: Mapping[tuple[str, str], NDArray[np.float64]]
    score: Score = absolute

    def beyond(self, readings: Iterable[Reading]) -> NDArray[np.float64]:
        """For each reading the share of its context's clean frames that are at least as strange: where it would be flagged."""
        return self._share(readings, "left")

    def auroc(self, readings: Iterable[Reading]) -> float:
        """Probability that an attacked frame is stranger than a clean one of its context; equal ones count half."""
        them = list(readings)
        return float(1 - (self._share(them, "left") + self._share(them, "right")).mean() / 2)

    def _share(self, readings: Iterable[Reading], side: str) -> NDArray[np.float64]:
        shares = []
        for one in readings:
            clean = self.of[one.case.data, one.case.context]
            at = np.searchsorted(clean, self.score(one), side="left" if side == "left" else "right")
            shares.append((len(clean) - int(at)) / len(clean))
        return np.array(shares)


def clean_of(readings: Iterable[Reading], score: Score = absolute) -> Clean:
    """What all others are compared with, by one score."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in readings:
        if one.case.kind == "clean":
            found[one.case.data, one.case.context].append(score(one))
    return Clean({key: np.sort(values) for key, values in found.items()}, score)


def attacks(readings: Sequence[Reading]) -> dict[tuple[str, ...], list[Reading]]:
    """Attacked readings by (attack, strength, objective, sent, data), in the order in which they come."""
    found: dict[tuple[str, ...], list[Reading]] = defaultdict(list)
    for one in readings:
        case = one.case
        if case.kind == "attack":
            found[case.name, case.strength, case.objective, case.sent, case.data].append(one)
    return dict(sorted(found.items(), key=lambda item: (item[0][4], item[0])))


def attack_row(them: Sequence[Reading], own: Clean, plainly: Clean, plain: Mapping[tuple[str, str, int], Reading]) -> AttackRow:
    """How attacked frames of one kind are told from clean ones, and what they do to the model.

    Args:
        them: the attacked frames.
        own: clean frames by the detector's score.
        plainly: the same by the calibrated probability.
        plain: clean frames by place.
    """
    case, beyond, beyond_plainly = them[0].case, own.beyond(them), plainly.beyond(them)
    return AttackRow(
        attack=case.name,
        strength=case.strength,
        adaptive=case.adaptive,
        objective=case.objective,
        data=case.data,
        sent="jpeg 92" if case.sent == JPEG else "png",
        frames=len(them),
        miss_rate_added_points=added([one.matched[0] for one in them], [plain[place(one)].matched[0] for one in them]),
        auroc=round(own.auroc(them), 4),
        tpr_at_fpr5=round(float((beyond <= FPR[0]).mean()), 4),
        tpr_at_fpr1=round(float((beyond <= FPR[1]).mean()), 4),
        auroc_absolute=round(plainly.auroc(them), 4),
        tpr_at_fpr5_absolute=round(float((beyond_plainly <= FPR[0]).mean()), 4),
        tpr_at_fpr1_absolute=round(float((beyond_plainly <= FPR[1]).mean()), 4),
    )


def place(one: Reading) -> tuple[str, str, int]:
    """Which frame of which camera."""
    return one.case.data, one.case.camera, one.case.frame


def missed(matches: Sequence[Match]) -> float | None:
    """Log-average miss rate in points; None where nobody counts."""
    rate = summed(matches, EVERYBODY, Mode.WINDOWED).log_average_miss_rate
    return None if rate is None else round(100 * rate, 2)


def added(attacked: Sequence[Match], clean: Sequence[Match]) -> float | None:
    """Points that an attack adds to the miss rate."""
    after, before = missed(attacked), missed(clean)
    return None if after is None or before is None else round(after - before, 2)


def corruption_rows(readings: Sequence[Reading], own: Clean, plainly: Clean) -> list[CorruptionRow]:
    """False flags by corruption, severity and data set; of streets, also by weather and context."""
    rows = []
    corrupted = [one for one in readings if one.case.kind == "corruption"]

    def key(one: Reading) -> tuple[str, str, str]:
        return one.case.name, one.case.strength, one.case.data

    for (name, severity, data), group in groupby(sorted(corrupted, key=key), key):
        rows.append(_flags((name, severity, data), list(group), own, plainly))
    drawn = [one for one in readings if one.case.kind == "clean" and one.case.data == "streets"]
    by_air = sorted(drawn, key=lambda one: one.case.camera.rpartition("-")[0])
    for air, group in groupby(by_air, lambda one: one.case.camera.rpartition("-")[0]):
        rows.append(_flags((f"clean {air.replace('-', ' ')}", "", "streets"), list(group), own, plainly))
    return rows


def _flags(what: tuple[str, str, str], them: Sequence[Reading], own: Clean, plainly: Clean) -> CorruptionRow:
    name, severity, data = what
    flagged, flagged_plainly = (round(float((clean.beyond(them) <= FPR[0]).mean()), 4) for clean in (own, plainly))
    return CorruptionRow(
        corruption=name, severity=severity, data=data, flagged=flagged, flagged_absolute=flagged_plainly, frames=len(them)
    )


def costs(clean: Sequence[Reading], looked: Mapping[str, float]) -> list[Cost]:
    """By data set, for calm cameras of whose frames the share `looked` gets the second look; sets without frames left out."""
    rows = []
    for data, looks in looked.items():
        took = np.array([one.took_ms for one in clean if one.case.data == data])
        if not len(took):
            continue
        infer, glance, second = np.median(took, axis=0)
        share = np.median((took[:, 1] + looks * took[:, 2]) / took[:, 0])
        rows.append(
            Cost(
                data=data,
                infer_ms=round(float(infer), 2),
                glance_ms=round(float(glance), 3),
                second_look_ms=round(float(second), 2),
                looked=round(looks, 4),
                share_of_inference=round(float(share), 4),
            )
        )
    return rows
