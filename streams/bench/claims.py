"""What was promised about detection, held against the figures of each part of the bench.

It decides which numbers of a part's JSON speak for or against a claim, and what the aim is; it measures nothing, and refuses a file
that lacks the numbers. No topic.

Source: `docs/detection.md`, `docs/adversarial.md`, `docs/triage.md`, `docs/data-and-gate.md` (what each figure means).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import TypeVar

import msgspec
from msgspec import Struct

from streams.errors import BadInput

DELAY_AIM = 1.3  # times the oracle's
UPDATES_AIM = 50_000  # of one feature, a second, on one core
TPR_AIM, HARM_POINTS = 0.95, 10.0
"""Share to be flagged at 5 % false flags, of every attack that is not adaptive and adds so many points to the miss rate."""
COST_AIM = 0.08  # of inference
TRIAGE_AIM = 0.9

Read = TypeVar("Read", bound=Struct)


class Claim(Struct, frozen=True):
    """A claim in words, its aim, the figure, and whether the figure meets the aim; None where there is none.

    An aim of "told" is to say plainly how it is.
    """

    part: str
    claim: str
    aim: str
    measured: str
    met: bool | None


class _RunLength(Struct, frozen=True):
    detector: str
    declared: int
    readings: int
    alarms: int
    holds: bool


class _Delay(Struct, frozen=True):
    detector: str
    declared: int
    ratio: float
    oracle: float
    limit: float | None = None


class _Recorded(Struct, frozen=True):
    name: str
    declared: int
    readings: int
    alarms: int
    holds: bool


class _Drift(Struct, frozen=True):
    run_lengths: tuple[_RunLength, ...]
    delays: tuple[_Delay, ...]
    recordings: tuple[_Recorded, ...]
    updates_per_s: dict[str, int]


class _Attack(Struct, frozen=True):
    adaptive: bool
    tpr_at_fpr5: float
    miss_rate_added_points: float | None


class _Corruption(Struct, frozen=True):
    corruption: str
    flagged: float
    frames: int
    streams: int = 0
    alarmed: float | None = None


class _Cost(Struct, frozen=True):
    share_of_inference: float


class _Adversarial(Struct, frozen=True):
    attacks: tuple[_Attack, ...]
    corruptions: tuple[_Corruption, ...]
    cost: tuple[_Cost, ...]


class _Triage(Struct, frozen=True):
    drills: int
    right: int
    share_right: float
    attacks: int
    attacks_called_weather_at_last: int


class _Row(Struct, frozen=True):
    harm: str
    judge: str
    precision: float | None
    recall: float | None


class _Poisoning(Struct, frozen=True):
    rows: tuple[_Row, ...]


def read(part: str, path: Path) -> Iterator[Claim]:
    """The claims of one part.

    Args:
        part: drift, adversarial, triage or poisoning.
        path: its JSON.

    Raises:
        BadInput: the file lacks the numbers that the claims are about.
    """
    for claim, aim, measured, met in _READ[part](path):
        yield Claim(part, claim, aim, measured, met)


_Told = tuple[str, str, str, bool | None]


def _decoded(path: Path, kind: type[Read]) -> Read:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise BadInput(f"{path} holds no figures of this bench ({error}): measure them again") from error


def _drift(path: Path) -> Iterator[_Told]:
    found = _decoded(path, _Drift)
    for declared in sorted({row.declared for row in found.run_lengths if row.detector == "default"}):
        cells = [row for row in found.run_lengths if row.detector == "default" and row.declared == declared]
        kept, alarms = sum(row.holds for row in cells), sum(row.alarms for row in cells)
        readings = sum(row.readings for row in cells)
        measured = f"{kept} of {len(cells)}; {alarms} alarms in {readings:,} readings"
        yield f"run length {declared:,} kept, by laws", "all", measured, kept == len(cells)
    for row in found.recordings:
        measured = f"{row.alarms} alarms in {row.readings:,} readings"
        yield f"run length {row.declared:,} kept, {row.name}", "kept", measured, row.holds
    for declared in sorted({row.declared for row in found.delays if row.detector == "default"}):
        waits = [row for row in found.delays if row.detector == "default" and row.declared == declared]
        ratios = [row.ratio for row in waits]
        near = sum(ratio <= DELAY_AIM for ratio in ratios)
        measured = f"{near} of {len(ratios)}; median {median(ratios):.2f}"
        limits = [row.limit / row.oracle for row in waits if row.limit is not None]
        yield f"delay at {declared:,}, times the oracle's", f"{DELAY_AIM:g}", measured, near == len(ratios)
        if limits:
            told = f"{sum(limit <= DELAY_AIM for limit in limits)} of {len(limits)}; median {median(limits):.2f}"
            yield "the same of a bank told all but level and change", "told", told, None
    slowest = min(found.updates_per_s.values())
    rates = ", ".join(f"{name} {rate:,}" for name, rate in found.updates_per_s.items())
    yield "updates a second, 16 features, one core", f"{UPDATES_AIM:,}", rates, slowest >= UPDATES_AIM


def _adversarial(path: Path) -> Iterator[_Told]:
    found = _decoded(path, _Adversarial)
    aimed = [row for row in found.attacks if not row.adaptive and (row.miss_rate_added_points or 0.0) >= HARM_POINTS]
    caught = sum(row.tpr_at_fpr5 >= TPR_AIM for row in aimed)
    what = f"TPR at FPR 5 % of attacks that add {HARM_POINTS:g} points"
    yield what, f"{TPR_AIM:g}", f"{caught} of {len(aimed)} rows", caught == len(aimed)
    adaptive = [row.tpr_at_fpr5 for row in found.attacks if row.adaptive]
    if adaptive:
        yield "the same of adaptive ones", "told", f"{min(adaptive):.2f} to {max(adaptive):.2f}", None
    corrupted = [row for row in found.corruptions if not row.corruption.startswith("clean ")]
    frames, flagged = sum(row.frames for row in corrupted), sum(row.flagged * row.frames for row in corrupted)
    yield "corruptions flagged at that threshold", "told", f"{flagged:.0f} of {frames} frames", None
    streams, alarms = sum(row.streams for row in corrupted), sum((row.alarmed or 0.0) * row.streams for row in corrupted)
    if streams:
        yield "corruptions that set in at once and alarm", "told", f"{alarms:.0f} of {streams} streams", None
    dearest = max((row.share_of_inference for row in found.cost), default=0.0)
    yield "cost, share of inference", f"{COST_AIM:.0%}", f"{dearest:.1%}", dearest <= COST_AIM


def _triage(path: Path) -> Iterator[_Told]:
    found = _decoded(path, _Triage)
    yield "drills named right", f"{TRIAGE_AIM:.0%}", f"{found.right} of {found.drills}", found.share_right >= TRIAGE_AIM
    weather = found.attacks_called_weather_at_last
    yield "attacks called weather", "0", f"{weather} of {found.attacks}", weather == 0


def _poisoning(path: Path) -> Iterator[_Told]:
    found = _decoded(path, _Poisoning)
    both = [row for row in found.rows if row.judge == "both"]
    for harm in dict.fromkeys(row.harm for row in both):
        rows = [row for row in both if row.harm == harm]
        told = []
        for name, values in (("precision", [row.precision for row in rows]), ("recall", [row.recall for row in rows])):
            known = [value for value in values if value is not None]
            told.append(f"{name} {min(known):.2f} to {max(known):.2f}" if known else f"{name} -")
        yield harm, "told", ", ".join(told), None


_READ: dict[str, Callable[[Path], Iterator[_Told]]] = {
    "drift": _drift,
    "adversarial": _adversarial,
    "triage": _triage,
    "poisoning": _poisoning,
}
