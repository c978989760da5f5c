"""A run's curves: one JSON line a step, cut at the last checkpoint after a kill, drawn as a picture.

It decides how a run's numbers lie on disk and refuses to keep lines of steps that will be taken again. No topic.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np

_PARTS = ("centre", "height", "offset")
_OVER = 25


def append(curves: Path, numbers: Mapping[str, float]) -> None:
    """Add one line."""
    with curves.open("a", encoding="utf-8") as file:
        file.write(json.dumps(numbers) + "\n")


def cut(curves: Path, step: int) -> None:
    """Drop the lines that a killed run wrote after its last checkpoint, the one it was writing included."""
    lines = curves.read_text(encoding="utf-8").splitlines() if curves.exists() else []
    kept = [f"{line}\n" for line in lines if line.endswith("}") and json.loads(line)["step"] < step]
    whole(curves, lambda path: path.write_text("".join(kept), encoding="utf-8"))


def summary(curves: Path) -> dict[str, float]:
    """Of a finished run, for its lineage: steps taken, loss of the last one, the best epoch's validation miss rate if any."""
    lines = [json.loads(line) for line in curves.read_text(encoding="utf-8").splitlines()]
    losses = [float(line["loss"]) for line in lines if "loss" in line]
    judged = [float(line["validation"]) for line in lines if "validation" in line]
    best = {"best_validation_miss_rate": min(judged)} if judged else {}
    return {"steps": float(len(losses)), "last_loss": losses[-1]} | best


def plot(curves: Path) -> Path:
    """Draws the three losses over steps, averaged over 25, and the validation if there is one, beside the lines as a PNG."""
    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    lines = [json.loads(line) for line in curves.read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if _PARTS[0] in line]
    judged = [line for line in lines if "validation" in line]
    figure, axes = plt.subplots(figsize=(8, 4))
    for name in _PARTS:
        window = max(1, min(_OVER, len(steps)))
        values = np.convolve([line[name] for line in steps], np.ones(window) / window, mode="valid")
        axes.semilogy([line["step"] for line in steps][: len(values)], values, label=name)
    if judged:
        axes.semilogy(
            [line["step"] for line in judged], [line["validation"] for line in judged], "k.-", label="validation miss rate"
        )
    axes.set(xlabel="step", ylabel="loss", title=curves.parent.name)
    axes.legend()
    out = curves.with_suffix(".png")
    figure.savefig(out, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return out


def whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that a kill leaves either the old or the new one."""
    part = path.with_name(f"{path.name}.part")
    write(part)
    os.replace(part, path)  # noqa: PTH105 - the atomic one
