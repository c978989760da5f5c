"""Figures 4 to 7 as JSON, as a Markdown table and as pictures, from what `inference.experiments.grid` measured.

It decides how means over seeds are drawn (lines; a heat map for Figure 6) and refuses nothing: a number that was not to be had is
null in the JSON and a gap in the picture. No topic.

Source: paper 5.2, Figures 4 to 7.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import numpy as np

from inference.measure import artefacts

SUBSET = "reasonable"
"""What is drawn where it was measured; the JSON has all subsets. Figure 7's validation has one alone: all people."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One measured number of a figure: log-average miss rate by subset, as a fraction or null."""

    panel: str
    line: str
    x: float
    seed: int
    miss_rate: Mapping[str, float | None]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """All numbers of one figure, with what they depend on."""

    name: str
    command: str
    machine: str
    data: str
    budget: object
    seeds: tuple[int, ...]
    points: tuple[Measured, ...]


def write(figure: Figure, folder: Path) -> list[Path]:
    """`NAME.json`, `NAME.md` and `NAME.png` in the folder; the paths written."""
    return artefacts.write(figure, figure.name, folder, markdown, _draw)


def markdown(figure: Figure) -> str:
    """Means over seeds in percent, a table for each panel."""
    out = [
        f"# {figure.name}",
        "",
        f"`{figure.command}`; {figure.data}; seeds {', '.join(map(str, figure.seeds))}; {figure.machine}.",
        "",
    ]
    for panel, lines in _means(figure.points).items():
        columns = sorted({x for values in lines.values() for x in values})
        out += [
            f"## {panel}",
            "",
            f"| {_subset(figure.points)} | " + " | ".join(f"{x:g}" for x in columns) + " |",
            "|" + "---|" * (len(columns) + 1),
        ]
        for line, values in lines.items():
            out.append(f"| {line} | " + " | ".join(_percent(values.get(x)) for x in columns) + " |")
        out.append("")
    return "\n".join(out)


def _subset(points: Sequence[Measured]) -> str:
    return SUBSET if SUBSET in points[0].miss_rate else next(iter(points[0].miss_rate))


def _means(points: Sequence[Measured]) -> dict[str, dict[str, dict[float, float | None]]]:
    found: dict[str, dict[str, dict[float, list[float]]]] = {}
    for point in points:
        values = found.setdefault(point.panel, {}).setdefault(point.line, {}).setdefault(point.x, [])
        value = point.miss_rate[_subset(points)]
        if value is not None:
            values.append(value)
    return {
        panel: {line: {x: fmean(some) if some else None for x, some in values.items()} for line, values in lines.items()}
        for panel, lines in found.items()
    }


_STRENGTHS = {"DP": "share of people moved", "FGSM": "eps", "DF": "xi"}
"""What the strength of an attack is, by panel."""
_ALONG = {"radii": "radius, levels", "figure7": "epoch"}
"""What lines are drawn over, where it is no strength."""
_DARK = 45.0
"""Percent from which on a colour of the heat map is too dark for black numbers."""


def _draw(figure: Figure, path: Path) -> None:
    plt = artefacts.pyplot()
    panels = _means(figure.points)
    columns = len({panel.partition(",")[0] for panel in panels})  # a row for each of the paper's columns of parameters
    rows = -(-len(panels) // columns)
    drawn, grid = plt.subplots(rows, columns, figsize=(3.6 * columns, 3.0 * rows), squeeze=False, sharey=True)
    for axes, (panel, lines) in zip(grid.flat, panels.items(), strict=False):
        if figure.name == "figure6":
            _heat(axes, lines)
            axes.set(xlabel=_STRENGTHS[panel], ylabel="eps_AT", title=f"{panel}: miss rate, %")
        else:
            for line, values in lines.items():
                axes.plot(list(values), [np.nan if value is None else 100 * value for value in values.values()], ".-", label=line)
            axes.set(xlabel=_ALONG.get(figure.name, "strength"), ylabel="miss rate, %", title=panel)
            if figure.name == "radii":
                axes.set(xscale="log")
    for axes in list(grid.flat)[len(panels) :]:
        axes.axis("off")
    if figure.name != "figure6":
        grid.flat[0].legend(fontsize=7)
    drawn.tight_layout()
    drawn.savefig(path, dpi=100)
    plt.close(drawn)


def _heat(axes: Any, lines: Mapping[str, Mapping[float, float | None]]) -> None:
    """One scale for all panels, so that one colour means one miss rate."""
    xs = sorted({x for values in lines.values() for x in values})
    rates = [[np.nan if (value := values.get(x)) is None else 100 * value for x in xs] for values in lines.values()]
    axes.imshow(rates, cmap="viridis_r", vmin=0, vmax=100, aspect="auto")
    axes.set(xticks=range(len(xs)), xticklabels=[f"{x:g}" for x in xs], yticks=range(len(lines)), yticklabels=list(lines))
    for row, numbers in enumerate(rates):
        for column, rate in enumerate(numbers):
            axes.text(column, row, f"{rate:.0f}", ha="center", va="center", color="white" if rate > _DARK else "black", fontsize=8)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
