"""How strange a frame is to its own camera: the number that the shipped detector weighs, for every frame of the benchmark.

It decides which clean frames a camera's own usual is learned from: those read apart from the evaluated ones (kind "usual"), or,
where the data have no more frames (the road), the half of its clean frames in which the judged frame does not lie. So no frame is
judged by a usual that holds it, its clean twin, or anything attacked. The detector itself learns and judges; once it has learned,
its state is held, so that each frame is judged alone. Where there is no camera (an album) it leaves the probability as it is. It
judges no sequence: that is `streams.py`. No topic.

Source: `detectors/adversarial.py` for level and spread; `docs/adversarial.md`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from detectors import catalogue
from detectors.base import Observation, State
from detectors.features import beside
from streams.bench.adversarial.figures import Reading, Score

ALBUM = "photographs"
"""Each picture is of another place: no camera, and no usual."""
SCORES = {
    "score": "auroc, tpr_at_fpr5, tpr_at_fpr1, flagged: of streets and footage by the score of the detector evasion (spreads above "
    "the camera's own usual, 0 below it); of photographs, which have no camera, by the calibrated probability",
    "score_absolute": "fields that end in _absolute: the calibrated probability, everywhere",
    "usual": "learned from the place's own clean frames that are apart from the evaluated ones: of streets 24, one in 32, of the "
    "square 24, one in 4, both after them; of the road (and of a square whose frames are all evaluated) from the half of the clean "
    "frames in which the judged one is not",
}
"""Which figure is of which score, for whoever reads the results by machine."""
_EVASION = catalogue.ALL["evasion"].detector


@dataclass(frozen=True)
class _Camera:
    """Detectors that have learned: one for frames before `second_half`, one for those from it on."""

    second_half: int
    first: State
    second: State

    def score(self, one: Reading) -> float:
        state = self.first if one.case.frame < self.second_half else self.second
        return _EVASION.step(state, _seen(one))[1].score


def relative(readings: Sequence[Reading]) -> Score:
    """The detector's score of any frame of the cameras that are in `readings`: spreads above the own usual, 0 or more.

    Of an album's pictures, the calibrated probability.
    """
    usual: dict[tuple[str, str], list[Reading]] = defaultdict(list)
    clean: dict[tuple[str, str], list[Reading]] = defaultdict(list)
    for one in readings:
        if one.case.kind in {"usual", "clean"}:
            (usual if one.case.kind == "usual" else clean)[one.case.data, one.case.camera].append(one)
    cameras = {key: _camera(usual.get(key, []), them) for key, them in clean.items() if key[0] != ALBUM}

    def score(one: Reading) -> float:
        return one.probability if one.case.data == ALBUM else cameras[one.case.data, one.case.camera].score(one)

    return score


def _camera(usual: Sequence[Reading], clean: Sequence[Reading]) -> _Camera:
    if usual:
        state = _learned(usual)
        return _Camera(0, state, state)
    ordered = sorted(clean, key=lambda one: one.case.frame)
    half = len(ordered) // 2
    return _Camera(ordered[half].case.frame, first=_learned(ordered[half:]), second=_learned(ordered[:half]))


def _learned(usual: Sequence[Reading]) -> State:
    state = _EVASION.start()
    for one in sorted(usual, key=lambda one: one.case.frame):
        state, _ = _EVASION.step(state, _seen(one))
    return state


def _seen(one: Reading) -> Observation:
    return Observation(one.case.frame, 0.0, one.probability, beside(one.scores))
