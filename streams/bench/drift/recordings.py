"""Recordings from the real world in which nothing is known to have changed, as streams of readings for drift detectors.

Decides what of the shared data is taken for calm: of each Numenta series the longest stretch without a labelled window, of the
pedestrian videos the number of boxes in each frame, of the context videos each frame's mean and spread of luminance. Refuses to
call them clean: nobody labelled small changes in them. No topic.

Source: Numenta Anomaly Benchmark; MOTChallenge; PETS 2009; see the data's own README.
"""

import csv
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from detectors.base import Observation, Status
from detectors.drift.feature import Drift
from streams.bench.drift.trials import holds

_LEARN = 600
_SHARE = 3  # short recordings give this part of themselves to the baseline
_LEAST = 100
_WHITE = 255.0


@dataclass(frozen=True)
class Recorded:
    """Alarms on a group of recordings; after each the detector learns anew. readings: those that were judged."""

    name: str
    declared: int
    recordings: int
    readings: int
    alarms: int
    holds: bool


def measure(shared: Path, declared: tuple[int, ...]) -> tuple[Recorded, ...]:
    """The default detector on all recordings under `shared`, in groups; none if the data is not there."""
    groups = {"Numenta, no label": _numenta(shared), "boxes in a frame": _boxes(shared), "luminance": _luminance(shared)}
    found = []
    for name, series in groups.items():
        for run_length in declared if series else ():
            counts = [_judge(values, run_length) for values in series.values()]
            alarms, readings = sum(count for count, _ in counts), sum(count for _, count in counts)
            found.append(Recorded(name, run_length, len(series), readings, alarms, holds(alarms, readings, run_length)))
    return tuple(found)


def _judge(values: NDArray[np.float64], declared: int) -> tuple[int, int]:
    """Alarms, and readings that were judged."""
    learn = max(_LEAST, min(_LEARN, len(values) // _SHARE))
    spread = float(np.std(values[:learn])) or 1.0
    detector = Drift(arl=declared, learn=learn, resolution=1e-3 * spread)
    state, alarms, readings = detector.start(), 0, 0
    for number, value in enumerate(values.tolist()):
        state, verdict = detector.step(state, Observation(number, 0.0, value))
        readings += verdict.status is not Status.LEARNING
        if verdict.status is Status.ALARM:
            alarms += 1
            state = detector.start()
    return alarms, readings


def _numenta(shared: Path) -> dict[str, NDArray[np.float64]]:
    labels = shared / "drift" / "nab" / "labels" / "combined_windows.json"
    if not labels.exists():
        return {}
    windows = json.loads(labels.read_text("utf-8"))
    series = {}
    for path in sorted((shared / "drift" / "nab" / "data").glob("*/*.csv")):
        if path.parent.name.startswith("artificial"):
            continue
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        labelled = windows.get(f"{path.parent.name}/{path.name}", [])
        calm = [all(not first[:19] <= row["timestamp"] <= last[:19] for first, last in labelled) for row in rows]
        first, last = _longest(calm)
        series[path.stem] = np.array([float(row["value"]) for row in rows[first:last]])
    return series


def _longest(calm: list[bool]) -> tuple[int, int]:
    """Where the longest run of True begins and ends."""
    best, begin = (0, 0), None
    for number, quiet in enumerate([*calm, False]):
        if quiet and begin is None:
            begin = number
        elif not quiet and begin is not None:
            best, begin = max(best, (begin, number), key=lambda stretch: stretch[1] - stretch[0]), None
    return best


def _boxes(shared: Path) -> dict[str, NDArray[np.float64]]:
    series = {}
    for path in sorted((shared / "mot_streams").glob("*.txt")):
        counts = Counter(int(line.split(",", 1)[0]) for line in path.read_text("utf-8").splitlines() if line)
        series[path.stem] = np.array([float(counts[frame]) for frame in range(1, max(counts) + 1)])
    return {name: values for name, values in series.items() if len(values) > _LEAST}


def _luminance(shared: Path) -> dict[str, NDArray[np.float64]]:
    series = {}
    for path in sorted(shared.glob("contexts/*.*")):
        video = cv2.VideoCapture(str(path))
        rows = []
        while True:
            more, picture = video.read()
            if not more:
                break
            grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
            rows.append((float(grey.mean()) / _WHITE, float(grey.std()) / _WHITE))
        video.release()
        for place, name in enumerate(("mean", "spread")):
            if rows:
                series[f"{path.stem} {name}"] = np.array([row[place] for row in rows])
    return series
