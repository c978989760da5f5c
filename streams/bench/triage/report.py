"""Triage's figures, its confusion matrix and one drill with what was said of it drawn in.

It decides how outcomes are counted and shown; it refuses to count a drill as right whose last word was another kind, or none. Pure
but for the pictures that it writes. No topic.

Source: docs/triage.md says what each figure means.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from inference.measure.artefacts import machine
from streams.bench.triage.drills import AFTER, CLEAN, FPS, HEIGHT_PX, ROUNDS, WIDTH_PX, Drill
from streams.events import Cause, Diagnosis

NOTHING = "nothing said"


@dataclass(frozen=True)
class Said:
    """A signal that began a finding or goes on: frames since the harm began, who said it, and its diagnosis."""

    into: int
    detector: str
    raised: bool
    diagnosis: Diagnosis | None


@dataclass(frozen=True)
class Moment:
    """What was measured of a frame: probability of an attack (None where not sampled), detail, heat, each detector's evidence."""

    into: int
    attack: float | None
    sharpness: float
    heat: float
    evidence: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """A drill and what was said of it."""

    drill: Drill
    said: tuple[Said, ...]
    moments: tuple[Moment, ...]

    @property
    def diagnoses(self) -> tuple[tuple[int, Diagnosis], ...]:
        """What was diagnosed and how many frames after the harm began, in order."""
        return tuple((one.into, one.diagnosis) for one in self.said if one.diagnosis is not None)

    @property
    def last(self) -> Diagnosis | None:
        """The last word."""
        return self.diagnoses[-1][1] if self.diagnoses else None

    @property
    def named(self) -> str:
        """The kind that it names."""
        return NOTHING if self.last is None else str(self.last.cause)

    @property
    def right(self) -> bool:
        """Whether that is what was done."""
        return self.last is not None and self.last.cause is self.drill.cause


def figures(outcomes: Sequence[Outcome], command: str, weights: Mapping[str, str]) -> dict[str, Any]:
    """What goes into triage.json."""
    harmed = [one for one in outcomes if one.drill.cause is not None]
    attacks = [one for one in harmed if one.drill.cause is Cause.ATTACK]
    weather = [one for one in attacks if any(said.cause is Cause.CORRUPTION for _, said in one.diagnoses)]
    right = [one for one in harmed if one.right]
    sure = [one for one in harmed if one.last is not None]
    firsts = [one.diagnoses[0] for one in harmed if one.diagnoses]
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "weights": dict(weights),
        "settings": {
            "size": f"{WIDTH_PX}x{HEIGHT_PX}", "fps": FPS, "clean_frames": CLEAN, "frames_under_harm": AFTER,
            "scenes": {name: [scene.name for scene in scenes] for name, scenes in ROUNDS.items()},
        },
        "drills": len(harmed),
        "right": len(right),
        "share_right": round(len(right) / max(1, len(harmed)), 4),
        "attacks": len(attacks),
        "attacks_called_weather_at_last": sum(one.named == Cause.CORRUPTION for one in attacks),
        "attacks_called_weather_at_any_time": len(weather),
        "right_at_first_word": sum(one.diagnoses[0][1].cause is one.drill.cause for one in harmed if one.diagnoses),
        "frames_to_first_word": median(into for into, _ in firsts) if firsts else None,
        "confidence_where_right": _mean([one.last.confidence for one in right if one.last is not None]),
        "confidence_where_wrong": _mean([one.last.confidence for one in sure if not one.right and one.last is not None]),
        "innocent": {
            "drills": len(outcomes) - len(harmed),
            "with_a_finding": sum(bool(one.said) for one in outcomes if one.drill.cause is None),
        },
        "confusion": {str(cause): dict(sorted(_counted(harmed, cause).items())) for cause in Cause},
        "outcomes": [_row(one) for one in outcomes],
    }  # fmt: skip


def _row(one: Outcome) -> dict[str, Any]:
    last = one.last
    return {
        "scene": one.drill.scene.name,
        "drill": one.drill.name,
        "seed": one.drill.seed,
        "cause": None if one.drill.cause is None else str(one.drill.cause),
        "named": one.named,
        "confidence": None if last is None else last.confidence,
        "evidence": [] if last is None else list(last.evidence),
        "frames_to_first_finding": next((said.into for said in one.said if said.raised), None),
        "words": [[into, str(said.cause), said.confidence] for into, said in one.diagnoses],
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(mean(values), 3) if values else None


def _counted(outcomes: Sequence[Outcome], cause: Cause) -> Counter[str]:
    return Counter(one.named for one in outcomes if one.drill.cause is cause)


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """The matrix, and what went wrong in words."""
    table = Table("what was done", *(_short(cause) for cause in Cause), NOTHING, box=None)
    for cause in Cause:
        counted = _counted(outcomes, cause)
        table.add_row(_short(cause), *(str(counted[name] or "") for name in (*map(str, Cause), NOTHING)))
    console.print(table)
    harmed = [one for one in outcomes if one.drill.cause is not None]
    right = sum(one.right for one in harmed)
    console.print(f"{right} of {len(harmed)} right ({right / max(1, len(harmed)):.1%})")
    for one in outcomes:
        if one.drill.cause is None and one.said:
            console.print(f"nothing wrong, yet {one.said[0].detector} spoke: {one.drill.scene.name}, {one.drill.name}")
        elif one.drill.cause is not None and not one.right:
            console.print(f"{one.drill.cause}: {one.drill.name} ({one.drill.scene.name}) was called {one.named}")


def _short(cause: Cause) -> str:
    return str(cause).replace("_", " ")


def _plots() -> Any:
    import matplotlib as mpl  # noqa: PLC0415 - it takes a second to load

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    return plt


def draw_confusion(outcomes: Sequence[Outcome], path: Path) -> None:
    """Rows: what was done; columns: what triage said."""
    plt = _plots()
    columns = [*map(str, Cause), NOTHING]
    counts = np.array([[_counted(outcomes, cause)[name] for name in columns] for cause in Cause])
    figure, axis = plt.subplots(figsize=(8, 6))
    axis.imshow(counts / np.maximum(1, counts.sum(axis=1, keepdims=True)), cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:
            dark = counts[row, column] > counts[row].sum() / 2
            axis.text(column, row, counts[row, column], ha="center", va="center", color="white" if dark else "black")
    axis.set_xticks(range(len(columns)), [name.replace("_", " ") for name in columns], rotation=35, ha="right")
    axis.set_yticks(range(len(Cause)), [_short(cause) for cause in Cause])
    right = int(np.trace(counts))
    axis.set(xlabel="what triage said last", ylabel="what was done", title=f"{right} of {counts.sum()} drills right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_drill(one: Outcome, path: Path) -> None:
    """One drill over time: scores and evidence, the stretch of the harm, each finding, and what triage said of it."""
    plt = _plots()
    figure, (scores, picture) = plt.subplots(2, 1, figsize=(10, 6), sharex=True, height_ratios=(3, 2))
    frames = [moment.into for moment in one.moments]
    sampled = [(moment.into, moment.attack) for moment in one.moments if moment.attack is not None]
    scores.plot(*zip(*sampled, strict=True), "o", color="tab:red", label="probability of an attack (frames sampled)")
    names = [name for name in ("evasion", "drift-sharpness", "drift-heat") if any(name in m.evidence for m in one.moments)]
    for name, colour in zip(names, ("tab:red", "tab:blue", "tab:green"), strict=False):
        gathered = [min(2.0, moment.evidence.get(name, 0.0)) for moment in one.moments]
        scores.plot(frames, gathered, color=colour, label=f"{name}: evidence (1 alarms)")
    scores.axhline(1.0, color="grey", linestyle=":", linewidth=1)
    for axis in (scores, picture):
        axis.axvspan(0, frames[-1], color="tab:red", alpha=0.08)
    for said in (said for said in one.said if said.raised):
        scores.axvline(said.into, color="black", linewidth=1, linestyle="--")
        scores.text(said.into, 2.02, f"{said.detector} alarms", rotation=30, fontsize=8, va="bottom")
    told, high = "", 1.75
    for into, diagnosis in one.diagnoses:
        if str(diagnosis.cause) != told:
            told = str(diagnosis.cause)
            words = f"triage: {_short(diagnosis.cause)}, {diagnosis.confidence:.0%} sure"
            scores.annotate(words, (into, 1.0), (into + 3, high), fontsize=9, arrowprops={"arrowstyle": "->"})
            high = max(1.1, high - 0.15)
    scores.set(ylim=(0, 2.0), ylabel="probability, evidence")
    scores.legend(loc="upper right", fontsize=8)
    first = one.moments[0]
    picture.plot(
        frames,
        [moment.sharpness / max(first.sharpness, 1e-6) for moment in one.moments],
        label="fine detail, over the first frame's",
    )
    picture.plot(
        frames, [moment.heat / max(first.heat, 1e-6) for moment in one.moments], label="model's heat, over the first frame's"
    )
    picture.set(xlabel=f"frames since the harm began ({one.drill.name}, {one.drill.scene.name})")
    picture.legend(loc="upper left", fontsize=8)
    evidence = "\n".join(one.last.evidence) if one.last is not None else ""
    figure.text(0.02, 0.005, evidence, fontsize=8, va="bottom")
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)
