"""A quantised model beside the one that it was made from, in one run: time, size, and how much of the robustness it keeps.

It decides on which terms they are compared: the same picture one after the other, who goes first changing from round to round; the
same attacked pictures, made on the parent, whose gradient is known. Robustness is performance under attack, 1 - log-average miss
rate, and "kept" the copy's share of the parent's. It refuses a model that is no quantised one. No topic.

Source: paper section 6 (quantised models: 8 % inference overhead, 94 % of robustness kept); bootstrap, Efron 1979.
"""

import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from inference.attacks.batch import unmoved
from inference.attacks.gradient import fgsm, pgd
from inference.measure.miss_rate import EVERYBODY, Match, Mode, annotation, match, summed
from inference.networks.csp_nano import CspNano
from inference.provenance.registry import INT8, Registry
from inference.service.serving import Served, load, white_box
from inference.training.samples import PHOTOGRAPHS, Sample
from streams.errors import BadInput
from streams.sources.base import Picture

EPS = 8 / 255
"""Strength of the attacks."""

_LOW = 0.02  # boxes below this are not even listed
_WARM_UP = 5
_RESAMPLES, _RESAMPLES_KEPT = 2000, 200
_ATTACKS: dict[str, Callable[[CspNano, Sample], Picture]] = {
    "none": lambda _, one: one.picture,
    "fgsm 8/255": lambda white, one: fgsm(white, one.picture, one.people, EPS),
    "pgd-5 8/255": lambda white, one: pgd(white, [one.picture], [one.people], EPS, 5)[0],
}
Tick = Callable[[str, int, int], object]
"""Told what is done, how much of it, and of how much."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Performance (1 - log-average miss rate, 0..1) of both on the same pictures; `kept`: the copy's share of the full one's.

    low, high: 95 % of `kept`, drawing pictures anew. None where nobody was to be found or the full model finds nobody.
    """

    data: str
    attack: str
    pictures: int
    full: float | None
    quantised: float | None
    kept: float | None
    low: float | None
    high: float | None


class Inference(msgspec.Struct, frozen=True, kw_only=True):
    """A quantised model beside its parent. Times of one picture in one thread in milliseconds, medians; intervals are 95 %.

    ratio: quantised over full, wall time, the median over rounds in which both looked at the same picture. cpu_ratio: the same of
    processor time. size_ratio: of the weights' files.
    """

    model: str
    full: str
    quantised: str
    rounds: int
    full_ms: float
    quantised_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    cpu_ratio: float
    size_ratio: float
    robustness: tuple[Kept, ...]


def compare(
    registry: Registry, quantised: str, samples: Sequence[Sample], *, rounds: int = 60, tick: Tick = lambda *_: None
) -> Inference:  # fmt: skip
    """What a quantised model costs and keeps against the one that it was made from.

    Args:
        registry: holds both.
        quantised: digest of the copy.
        samples: pictures with people, unseen in training and calibration; told apart by pool (photographs, drawn streets).
        rounds: of the timing, in one thread.
        tick: told of progress.

    Raises:
        BadInput: if the model is no quantised one, or there are no samples. BrokenContract: if the attacks
            changed the network that they were made with. Tampered, Unavailable: as `Registry.read`.
    """
    card = registry.card(quantised)
    if not card.architecture.startswith(INT8) or card.parent is None:
        raise BadInput(f"model {quantised[:12]} is not quantised: make a copy that is, with `kerbwatch models quantise`")
    if not samples:
        raise BadInput("no pictures to measure on: give some with people")
    both = [load(registry, digest, threads=1) for digest in (card.parent, quantised)]
    largest = [one.picture for one in samples if one.picture.size == max(other.picture.size for other in samples)]
    white = white_box(registry, quantised)
    robustness = _robustness(both, white, samples, lambda *done: tick(f"{card.name}: {done[0]}", *done[1:]))
    unmoved(white, (card.parent,))
    spent = _timed(both, largest, rounds, lambda done: tick(f"{card.name}: timing", done, rounds))
    ratios = spent[1] / spent[0]
    drawn = np.random.default_rng(0).integers(0, rounds, (_RESAMPLES, rounds))
    low, high = np.percentile(np.median(ratios[0][drawn], axis=1), (2.5, 97.5))
    full_ms, quantised_ms = (float(value) for value in np.median(spent[:, 0], axis=1) * 1e3)
    return Inference(
        model=card.name,
        full=card.parent,
        quantised=quantised,
        rounds=rounds,
        full_ms=round(full_ms, 2),
        quantised_ms=round(quantised_ms, 2),
        ratio=round(float(np.median(ratios[0])), 4),
        ratio_low=round(float(low), 4),
        ratio_high=round(float(high), 4),
        cpu_ratio=round(float(np.median(ratios[1])), 4),
        size_ratio=round(len(registry.read(quantised)) / len(registry.read(card.parent)), 4),
        robustness=robustness,
    )


def _robustness(both: Sequence[Served], white: CspNano, samples: Sequence[Sample], tick: Tick) -> tuple[Kept, ...]:
    rows = []
    for name, attack in _ATTACKS.items():
        found: dict[str, list[tuple[Match, Match]]] = {}
        for number, sample in enumerate(samples):
            tick(name, number, len(samples))
            picture, people = attack(white, sample), [annotation(person) for person in sample.people]
            full, quantised = (match(people, served.look([picture], _LOW)[0].boxes, EVERYBODY) for served in both)
            found.setdefault(PHOTOGRAPHS if sample.origin == PHOTOGRAPHS else "streets", []).append((full, quantised))
        rows += [_kept(data, name, pairs) for data, pairs in found.items()]
    return tuple(rows)


def _kept(data: str, attack: str, pairs: Sequence[tuple[Match, Match]]) -> Kept:
    full, quantised = (_performance([pair[at] for pair in pairs]) for at in (0, 1))
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(_RESAMPLES_KEPT):
        some = [pairs[at] for at in rng.integers(0, len(pairs), len(pairs))]
        share = _share(*(_performance([pair[at] for pair in some]) for at in (0, 1)))
        shares += [] if share is None else [share]
    low, high = np.percentile(shares, (2.5, 97.5)) if shares else (None, None)
    return Kept(
        data=data,
        attack=attack,
        pictures=len(pairs),
        full=_short(full),
        quantised=_short(quantised),
        kept=_short(_share(full, quantised)),
        low=_short(low),
        high=_short(high),
    )


def _performance(matches: Sequence[Match]) -> float | None:
    missed = summed(matches, EVERYBODY, Mode.WINDOWED).log_average_miss_rate
    return None if missed is None else 1.0 - missed


def _share(full: float | None, quantised: float | None) -> float | None:
    return None if not full or quantised is None else quantised / full


def _short(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def _timed(
    both: Sequence[Served], pictures: Sequence[Picture], rounds: int, tick: Callable[[int], object]
) -> NDArray[np.float64]:  # fmt: skip
    """Seconds by model, kind (wall, processor) and round."""
    spent = np.zeros((2, 2, rounds))
    for number in range(-_WARM_UP, rounds):
        picture = pictures[number % len(pictures)]
        for at in (0, 1) if number % 2 else (1, 0):
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            both[at].look([picture])
            if number >= 0:
                spent[at, :, number] = time.perf_counter() - wall_s, time.process_time() - cpu_s
        tick(max(0, number))
    return spent
