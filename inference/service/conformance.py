"""Whether a detector keeps the promises that the rest of kerbwatch relies on: the check behind `kerbwatch models check`.

It decides what a conforming detector does with well-formed, odd and wrong input, and says of every promise whether it holds, what
was seen, and what to do where it does not. It judges form, not quality (`inference.lifecycle.measuring` does that), and refuses
to go on guessing after an error: a check that raises has failed, the others are made all the same. No topic feeds it.

Source: paper 5.1 (an external model, EE-2, is verified before use).
"""

import itertools
import math
import re
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np

from inference.networks.adapters import Detector
from streams.errors import BadInput
from streams.events import Box, Context
from streams.sources.base import Picture
from streams.sources.street import Street

_SIZES = ((1, 1), (1, 64), (97, 131), (480, 40), (33, 640), (320, 640))
_LOW = 0.05
_NEAR_PX, _NEAR_SCORE = 0.5, 1e-3
_EDGE_PX = 1e-3  # float32 of a box at the far edge of a large picture
_MANY = 50
_GROWTH_MB = 20.0
_TIMED = 5
Clock = Callable[[], float]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One promise: its sentence, whether it holds, what was seen, and what to do if it does not (empty where it holds)."""

    promise: str
    holds: bool
    seen: str
    todo: str


class Conformance(msgspec.Struct, frozen=True, kw_only=True):
    """All promises of one detector. Times of one 640 x 320 picture, milliseconds; `cores`: processor time over wall time."""

    name: str
    digest: str
    findings: tuple[Finding, ...]
    latency_ms: float | None
    cores: float | None

    @property
    def holds(self) -> bool:
        """Whether all do."""
        return all(one.holds for one in self.findings)


def check(detector: Detector, clock_s: Clock = time.perf_counter, tick: Callable[[str], object] = lambda _: None) -> Conformance:
    """Ask a detector about drawn streets, noise and nonsense, about a hundred pictures in all.

    Args:
        detector: what is checked; it is not changed.
        clock_s: seconds, monotonic.
        tick: told each promise before it is tried.
    """
    streets = [Street(Context.URBAN, seed=seed).shot(20).picture for seed in (3, 4)]
    rng = np.random.default_rng(0)
    odd = [rng.integers(0, 256, (*size, 3), np.uint8) for size in _SIZES]
    findings = []
    for promise, todo, attempt in _promises(detector, streets, odd):
        tick(promise)
        try:
            fault = attempt()
        except Exception as error:  # noqa: BLE001 - whatever a foreign model raises: it has then failed this promise
            fault = f"{type(error).__name__}: {str(error)[:200]}"
        findings.append(Finding(promise=promise, holds=not fault, seen=fault or "as promised", todo=todo if fault else ""))
    tick("latency")
    latency_ms, cores = _timed(detector, streets[0], clock_s)
    return Conformance(
        name=str(detector.name), digest=str(detector.digest), findings=tuple(findings), latency_ms=latency_ms, cores=cores
    )


def _promises(
    detector: Detector, streets: Sequence[Picture], odd: Sequence[Picture]
) -> tuple[tuple[str, str, Callable[[], str]], ...]:
    """(the promise, what to do where it does not hold, the attempt, which says what is wrong or nothing)."""
    return (
        (
            "the same picture gets the same answer",
            "switch off whatever draws at random at inference: dropout, sampling, test-time augmentation (torch: module.eval())",
            lambda: _differ(detector.detect(streets[:1], _LOW), detector.detect(streets[:1], _LOW), exactly=True),
        ),
        (
            "a batch says what its pictures say alone, in their order",
            "let no picture see another one (batch norm in training mode), and answer in the order you were asked",
            lambda: _differ(
                detector.detect([*streets, odd[-1]], _LOW), [detector.detect([one], _LOW)[0] for one in (*streets, odd[-1])]
            ),
        ),
        (
            "pictures of any size get an answer, one pixel, tall and wide ones included",
            "pad or resize inside the adapter: `size_px` or `grain` in a card's [input]",
            lambda: _counted(detector.detect(odd, _LOW), len(odd)),
        ),
        (
            "no pictures get no answers",
            "return an empty list for an empty list",
            lambda: _counted(detector.detect([], _LOW), 0),
        ),
        (
            "boxes are finite, have a size, and lie inside the picture",
            "clip boxes to the picture and drop those without width or height; look for `relative` and `form` in the card",
            lambda: _outside([*streets, *odd], detector.detect([*streets, *odd], _LOW)),
        ),
        (
            "scores lie in 0..1 and the best box comes first",
            "give probabilities (`logits = true` in the card where they are not yet) and sort by them",
            lambda: _unsorted(detector.detect([*streets, *odd], _LOW)),
        ),
        (
            "a higher threshold keeps exactly the boxes that score more than it",
            "suppress and limit boxes by score before the threshold is applied, never by the threshold",
            lambda: _not_monotone(detector, streets),
        ),
        (
            "pictures are left as they are",
            "work on a copy: normalise or draw on picture.copy()",
            lambda: _changed(detector, [*streets, odd[2]]),
        ),
        (
            "the digest is a SHA-256 and stays the same",
            "give the SHA-256 of the weights' file, 64 lower-case hexadecimal characters, computed once",
            lambda: _unstable(detector, streets),
        ),
        (
            "what is no picture is refused as bad input",
            "raise streams.errors.BadInput for anything but H x W x 3 uint8 with a pixel at least",
            lambda: _accepts(detector),
        ),
        (
            "two threads that ask in turns get the answers of one",
            "keep no state between calls, or guard it with a lock",
            lambda: _differ(_threaded(detector, streets), [detector.detect([one], _LOW)[0] for one in (*streets, *streets)]),
        ),
        (
            f"memory stays within {_GROWTH_MB:g} MB over {_MANY} pictures",
            "hold on to no pictures, graphs or answers (torch: run under torch.inference_mode())",
            lambda: _grows(detector, streets[0]),
        ),
    )


def _differ(one: Sequence[Sequence[Box]], other: Sequence[Sequence[Box]], *, exactly: bool = False) -> str:
    if len(one) != len(other):
        return f"{len(one)} answers and {len(other)}"
    for number, (boxes, others) in enumerate(zip(one, other, strict=True)):
        if exactly and tuple(boxes) != tuple(others):
            return f"picture {number}: {len(boxes)} boxes and {len(others)}, not the same"
        unlike = _unmatched(boxes, others) + _unmatched(others, boxes)
        if unlike:
            return f"picture {number}: {len(boxes)} boxes and {len(others)}, {len(unlike)} without a like one, e.g. {unlike[0]}"
    return ""


def _unmatched(boxes: Sequence[Box], others: Sequence[Box]) -> list[Box]:
    """Boxes without a like one; those that score so near the threshold that rounding decides are passed over."""
    return [
        box
        for box in boxes
        if box.score > _LOW + _NEAR_SCORE and not any(_like(box, other) for other in others)
    ]  # fmt: skip


def _like(one: Box, other: Box) -> bool:
    sides = ((one.x_px, other.x_px), (one.y_px, other.y_px), (one.w_px, other.w_px), (one.h_px, other.h_px))
    return abs(one.score - other.score) <= _NEAR_SCORE and all(abs(a - b) <= _NEAR_PX for a, b in sides)


def _counted(found: Sequence[Sequence[Box]], wanted: int) -> str:
    return "" if len(found) == wanted else f"{len(found)} answers for {wanted} pictures"


def _outside(pictures: Sequence[Picture], found: Sequence[Sequence[Box]]) -> str:
    for picture, boxes in zip(pictures, found, strict=True):
        height, width = picture.shape[:2]
        for box in boxes:
            if not all(math.isfinite(value) for value in (box.x_px, box.y_px, box.w_px, box.h_px)):
                return f"{box} is not finite"
            inside = box.x_px + box.w_px <= width + _EDGE_PX and box.y_px + box.h_px <= height + _EDGE_PX
            if min(box.w_px, box.h_px) <= 0 or min(box.x_px, box.y_px) < -_EDGE_PX or not inside:
                return f"{box} in a picture of {width} x {height} px"
    return ""


def _unsorted(found: Sequence[Sequence[Box]]) -> str:
    for boxes in found:
        scores = [box.score for box in boxes]
        wrong = [score for score in scores if not 0.0 <= score <= 1.0]
        if wrong:
            return f"a score of {wrong[0]}"
        if any(first < second for first, second in itertools.pairwise(scores)):
            return f"scores in the order {[round(score, 3) for score in scores[:6]]}"
    return ""


def _not_monotone(detector: Detector, streets: Sequence[Picture]) -> str:
    every = detector.detect(streets, _LOW)
    for threshold in (0.2, 0.5, 0.8):
        kept = [[box for box in boxes if box.score > threshold] for boxes in every]
        fault = _differ(detector.detect(streets, threshold), kept)
        if fault:
            return f"at threshold {threshold}: {fault}"
    return ""


def _changed(detector: Detector, pictures: Sequence[Picture]) -> str:
    before = [picture.copy() for picture in pictures]
    detector.detect(pictures, _LOW)
    changed = [number for number, (one, other) in enumerate(zip(before, pictures, strict=True)) if not np.array_equal(one, other)]
    return f"{len(changed)} of {len(pictures)} pictures were changed" if changed else ""


def _unstable(detector: Detector, streets: Sequence[Picture]) -> str:
    before = detector.digest
    detector.detect(streets[:1], _LOW)
    if detector.digest != before:
        return f"{before} became {detector.digest}"
    return "" if re.fullmatch(r"[0-9a-f]{64}", before) else f"the digest is {before!r}"


def _accepts(detector: Detector) -> str:
    wrong: dict[str, object] = {
        "a grey picture (H x W)": np.zeros((64, 64), np.uint8),
        "four channels": np.zeros((64, 64, 4), np.uint8),
        "floats": np.zeros((64, 64, 3), np.float32),
        "a picture without pixels": np.zeros((0, 64, 3), np.uint8),
    }
    for what, picture in wrong.items():
        try:
            detector.detect([picture], _LOW)  # type: ignore[list-item] # wrong on purpose
        except BadInput:
            continue
        except Exception as error:  # noqa: BLE001 - any other error is an outage to the caller, not a refusal
            return f"{what}: {type(error).__name__} in place of BadInput"
        return f"{what} got an answer"
    return ""


def _threaded(detector: Detector, streets: Sequence[Picture]) -> list[tuple[Box, ...]]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda one: detector.detect([one], _LOW)[0], [*streets, *streets]))


def _grows(detector: Detector, picture: Picture) -> str:
    for _ in range(_MANY // 5):
        detector.detect([picture], _LOW)
    before = _held_mb()
    for _ in range(_MANY):
        detector.detect([picture.copy()], _LOW)
    grown = _held_mb() - before
    return f"{grown:.0f} MB more after {_MANY} pictures" if grown > _GROWTH_MB else ""


def _held_mb() -> float:
    """Memory of this process now, MB; where the system does not tell (not Linux), the most it has held."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    return pages * resource.getpagesize() / 2**20


def _timed(detector: Detector, picture: Picture, clock_s: Clock) -> tuple[float | None, float | None]:
    try:
        wall, cpu = [], []
        for _ in range(_TIMED):
            start_s, start_cpu_s = clock_s(), time.process_time()
            detector.detect([picture], _LOW)
            wall.append(clock_s() - start_s)
            cpu.append(time.process_time() - start_cpu_s)
    except Exception:  # noqa: BLE001 - the failure is among the findings already
        return None, None
    took_s = float(np.median(wall))
    return round(took_s * 1e3, 2), round(float(np.median(cpu)) / took_s, 2) if took_s > 0 else None
