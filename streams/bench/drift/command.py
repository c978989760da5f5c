"""`kerbwatch bench detectors --part drift`: what a false alarm budget is worth, and what it costs in delay, measured.

It decides what is run and how it is told; the streams and the oracle are in `trials.py`, what can be reached at all in
`limit.py`, recordings in `recordings.py`. Every figure comes from the detectors as they serve, fed reading by reading.
What one job found is kept in the home until the detector, the trial or the plan is another. No topic.

Source: `docs/detection.md` says what each figure means.
"""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from detectors import catalogue
from detectors.base import Observation
from detectors.drift import feature, laws, rivers, seasons, sequential, whitening
from detectors.drift.feature import RESTS, Drift
from inference.measure.artefacts import machine, pyplot
from infra.files import write_whole
from infra.settings import Settings
from streams.bench.drift import limit as reachable
from streams.bench.drift import recordings, trials
from streams.bench.drift.trials import (
    LAWS,
    SIZES,
    Change,
    Law,
    Source,
    baselines,
    delays,
    false_alarms,
    holds,
    learned,
    oracle,
    surely,
)
from streams.bench.stream import progress
from streams.events import Kind

_LEARN = 2_000
_BEFORE = 4_000
_SEED = 20_261_121
_LONGEST = 10**12
_FEATURES = 16
_AIM = 1.3
_ENOUGH = 5
"""Alarms from which on a measured run length is taken for the oracle's; with fewer it gets the declared one."""


class Budget(StrEnum):
    """How much is simulated."""

    QUICK = "quick"
    FULL = "full"


@dataclass(frozen=True)
class Plan:
    """Readings for each declared run length, streams for delays, and readings after a change."""

    readings: dict[int, int]
    streams: int
    most: int


_PLANS = {
    Budget.QUICK: Plan({1_000: 30_000, 10_000: 100_000}, streams=24, most=2_500),
    Budget.FULL: Plan({1_000: 200_000, 10_000: 600_000, 100_000: 2_000_000}, streams=100, most=6_000),
}


@dataclass(frozen=True)
class RunLength:
    """Alarms without a change. low: what the run length exceeds at 95 %; holds: nothing speaks against the declared one."""

    detector: str
    law: str
    declared: int
    readings: int
    alarms: int
    measured: float
    low: float
    holds: bool


@dataclass(frozen=True)
class Delay:
    """Readings from a change to its alarm, its standard error, the share not caught, and the oracle's mean at that run length.

    limit: mean of the bank that knows all but level and change (`limit.py`), at that run length; of others it is not asked.
    """

    detector: str
    law: str
    change: str
    size: float
    declared: int
    run_length: float
    mean: float
    error: float
    missed: float
    oracle: float
    ratio: float
    limit: float | None = None


@dataclass(frozen=True)
class Figures:
    """All that the bench measures; `updates_per_s` on one core."""

    measured: str
    machine: str
    budget: str
    run_lengths: tuple[RunLength, ...]
    delays: tuple[Delay, ...]
    recordings: tuple[recordings.Recorded, ...]
    updates_per_s: dict[str, int]


def measured(budget: Budget, workers: int, out: Path, settings: Settings) -> None:
    """Measures drift, writes drift.json and drift-delay.png into the folder, and prints the tables.

    Args:
        budget: minutes, or an hour of one core.
        workers: processes.
        out: the folder.
        settings: where the home is, which keeps what was found before, and the shared data.
    """
    with progress() as say:
        figures = measure(budget, workers, say, settings)
    (out / "drift.json").write_text(json.dumps(asdict(figures), indent=1) + "\n", "utf-8")
    draw(figures, out / "drift-delay.png")
    show(figures, Console())


_Found = tuple[list[RunLength], list[Delay]]


def measure(budget: Budget, workers: int, say: Callable[[str], None], settings: Settings) -> Figures:
    """All figures, law by law, in so many processes."""
    plan = _PLANS[budget]
    folder = settings.home.resolve() / "bench" / "drift" / _fingerprint(plan)
    run_lengths: list[RunLength] = []
    found: list[Delay] = []
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(kept, folder / f"{law.name}.json", partial(_ours, plan, law)) for law in _dearest_first()]
        jobs += [pool.submit(kept, folder / f"{name}.json", partial(_other, plan, name)) for name in _others()]
        for number, job in enumerate(jobs, 1):
            say(f"drift: {number} of {len(jobs)} jobs")
            lengths, waits = job.result()
            run_lengths += lengths
            found += waits
    found += _dummy(plan)
    order = {law.name: number for number, law in enumerate(LAWS)}
    run_lengths.sort(key=lambda row: order[row.law])
    found.sort(key=lambda row: order[row.law])
    say("drift: recordings")
    recorded = recordings.measure(settings.shared_data, tuple(plan.readings))
    return Figures(
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        budget=budget,
        run_lengths=tuple(run_lengths),
        delays=tuple(found),
        recordings=recorded,
        updates_per_s=speed(),
    )


def _dearest_first() -> list[Law]:
    return sorted(LAWS, key=lambda law: -law.season - law.phi)


def _fingerprint(plan: Plan) -> str:
    """Another where anything differs that could change a figure."""
    parts = (feature, laws, rivers, seasons, sequential, whitening, reachable, trials)
    sources = b"".join(Path(str(part.__file__)).read_bytes() for part in (*parts, catalogue))
    return sha256(sources + Path(__file__).read_bytes() + repr(plan).encode()).hexdigest()[:12]


def kept(path: Path, job: Callable[[], _Found]) -> _Found:
    """What the job found when it ran before, or now."""
    if path.exists():
        known: _Found = msgspec.json.decode(path.read_bytes(), type=_Found)
        return known
    found = job()
    write_whole(path, msgspec.json.encode(found))
    return found


def _ours(plan: Plan, law: Law) -> _Found:
    """Our detector under one law: budgets, then delays against the oracle at the run lengths just measured."""
    made = Drift(arl=_LONGEST, learn=_LEARN, resolution=1e-3)
    lengths = []
    for declared, readings in plan.readings.items():
        calm = min(readings, max(2_000, declared // 2))
        detector = replace(made, arl=declared)
        alarms, count = false_alarms(detector, law, learn=_LEARN, calm=calm, streams=-(-readings // calm), seed=_SEED)
        measured, low = surely(alarms, count)
        lengths.append(RunLength("default", law.name, declared, count, alarms, measured, low, holds(alarms, count, declared)))
    states = baselines(made, law, learn=_BEFORE, streams=plan.streams, seed=_SEED + 1)
    reached = np.array([_reached(length) for length in lengths])
    bank = reachable.Bank(law, reached, seed=_SEED)
    waits = []
    for change in Change:
        for size in SIZES:
            best = oracle(law, (change, size), reached, most=plan.most, seed=_SEED)
            limits = bank.delays((change, size), learned=_BEFORE, most=plan.most)
            for length, run_length, first, limit in zip(lengths, reached, best, limits, strict=True):
                detector = replace(made, arl=length.declared)
                taken = delays(detector, states, law, (change, size), learn=_BEFORE, most=plan.most, seed=_SEED + 1)
                wait = _delay("default", law, (change, size), length.declared, float(run_length), taken, float(first), plan.most)
                waits.append(replace(wait, limit=round(float(limit), 2)))
    return lengths, waits


def _reached(length: RunLength) -> float:
    return length.measured if length.alarms >= _ENOUGH else float(length.declared)


def _delay(  # noqa: PLR0917 - a row of the table
    name: str, law: Law, change: tuple[Change, float], declared: int, run_length: float, taken: Any, first: float, most: int
) -> Delay:
    mean = float(taken.mean())
    return Delay(
        detector=name,
        law=law.name,
        change=change[0],
        size=change[1],
        declared=declared,
        run_length=round(run_length, 1),
        mean=round(mean, 2),
        error=round(float(taken.std() / max(len(taken), 1) ** 0.5), 2),
        missed=round(float((taken >= most).mean()), 3),
        oracle=round(first, 2),
        ratio=round(mean / first, 3),
    )


def _dummy(plan: Plan) -> list[Delay]:
    """What alarms by the clock: its budget holds on any readings, and it waits half of it on average, whatever the change."""
    declared = np.array(list(plan.readings), dtype=np.float64)
    rows = []
    for size in SIZES:
        change = (Change.LEVEL, size)
        best = oracle(LAWS[0], change, declared, most=plan.most, seed=_SEED)
        for length, first in zip(plan.readings, best, strict=True):
            taken = np.array([(length + 1) / 2])
            rows.append(_delay("periodic dummy", LAWS[0], change, length, float(length), taken, float(first), 2 * length))
    return rows


def _others() -> list[str]:
    """The catalogue's other drift detectors, by name."""
    return [
        entry.name
        for entry in catalogue.ALL.values()
        if entry.kind is Kind.DRIFT and not isinstance(entry.detector, Drift) and hasattr(entry.detector, "unit")
    ]


def _other(plan: Plan, name: str) -> _Found:
    """A detector that has no run length to choose: what it does by default on independent and on dependent readings."""
    entry = catalogue.ALL[name]
    made: Any = entry.detector
    detector = replace(made, unit=1.0)
    lengths, waits = [], []
    for law in (LAWS[0], LAWS[2]):
        alarms, count = false_alarms(detector, law, learn=entry.learn, calm=2_000, streams=max(5, plan.streams // 5), seed=_SEED)
        measured, low = surely(alarms, count)
        lengths.append(RunLength(name, law.name, entry.arl, count, alarms, measured, low, holds(alarms, count, entry.arl)))
        states = baselines(detector, law, learn=entry.learn, streams=max(8, plan.streams // 5), seed=_SEED + 1)
        for size in SIZES:
            change = (Change.LEVEL, size)
            run_length = min(max(measured, 100.0), 1e6)
            first = oracle(law, change, np.array([run_length]), most=plan.most, seed=_SEED)[0]
            taken = delays(detector, states, law, change, learn=entry.learn, most=min(plan.most, 2_000), seed=_SEED + 1)
            waits.append(_delay(name, law, change, entry.arl, measured, taken, float(first), min(plan.most, 2_000)))
    return lengths, waits


def speed() -> dict[str, int]:
    """Updates of one feature a second on one core, for an observation of 16 features: while it learns, and when it has learned."""
    rates = {}
    for name, first in (("learning", 3_000), ("learned", 200 * RESTS + 2_000)):
        detector = Drift(arl=100_000, learn=3_000 if name == "learning" else 200, resolution=1e-3)
        state = learned(detector, Source(LAWS[1], _SEED).take(first))
        states = [state] * _FEATURES
        values = Source(LAWS[1], _SEED, 1).take(200).tolist()
        begun = time.process_time()
        for number, value in enumerate(values, first):
            seen = Observation(number, 0.0, value)
            states = [detector.step(each, seen)[0] for each in states]
        rates[name] = round(_FEATURES * len(values) / (time.process_time() - begun))
    return rates


def show(figures: Figures, console: Console) -> None:
    """Two tables and the recordings; delays as our readings / the bank's that knows most / the oracle's, a star beyond the aim."""
    table = Table("law", "detector", "declared", "alarms", "run length", "above, 95 %", "kept", box=None)
    for row in figures.run_lengths:
        kept = "yes" if row.holds else "NO"
        table.add_row(row.law, row.detector, f"{row.declared:,}", str(row.alarms), f"{row.measured:,.0f}", f"{row.low:,.0f}", kept)
    console.print(table)
    cells: dict[tuple[str, str, str], list[str]] = {}
    for wait in figures.delays:
        star = "" if wait.ratio <= _AIM else "*"
        key = (f"{wait.law}, {wait.detector}", f"{wait.declared:,}", wait.change)
        limit = "" if wait.limit is None else f"{wait.limit:.3g}/"
        cells.setdefault(key, []).append(f"{wait.mean:.4g}/{limit}{wait.oracle:.4g}{star}")
    table = Table("law, detector", "declared", "change", *(f"{size:g}" for size in SIZES), box=None)
    for key in sorted(cells, key=lambda key: (key[0], int(key[1].replace(",", "")))):
        table.add_row(*key, *cells[key])
    console.print(table)
    for recorded in figures.recordings:
        console.print(
            f"{recorded.name}, declared {recorded.declared:,}: {recorded.alarms} alarms in {recorded.readings:,} readings"
        )
    console.print(f"updates of one feature a second: {figures.updates_per_s}; * beyond {_AIM} times the oracle")


def draw(figures: Figures, path: Path) -> None:
    """Delay of a step by 1 standard deviation against run length, per detector, with the oracle's line."""
    plt = pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharex=True)
    lengths = np.geomspace(100, 100_000, 13)
    for axis, law in zip(axes, (LAWS[0], LAWS[2]), strict=True):
        axis.plot(lengths, oracle(law, (Change.LEVEL, 1.0), lengths, most=2_500, seed=_SEED), "k-", label="oracle")
        _points(axis, [wait for wait in figures.delays if wait.law == law.name and (wait.change, wait.size) == ("level", 1.0)])
        axis.set(xscale="log", yscale="log", title=f"{law.name}, step of 1 sd", xlabel="readings between false alarms")
    axes[0].set_ylabel("mean delay, readings")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _points(axis: Any, waits: Sequence[Delay]) -> None:
    for name in dict.fromkeys(wait.detector for wait in waits):
        mine = [wait for wait in waits if wait.detector == name]
        axis.plot([wait.run_length for wait in mine], [wait.mean for wait in mine], "o-", label=name)
