"""Table 6 as JSON, as a Markdown table beside the paper's numbers, and as a picture.

It decides how seeds become means and 95 % intervals (Student's t) and what "taken back" means: the share of what an attack adds
to the undefended miss rate that a strategy does not add. It measures nothing (`inference.experiments.grid`). No topic.

Source: paper 5.2.1, Table 6.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import msgspec
from scipy import stats  # type: ignore[import-untyped] # ships no types

from inference.experiments.grid import SUBSETS
from inference.experiments.paper import ATTACKS, STRATEGIES
from inference.measure import artefacts

PAPER: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "clean": ((9.9, 11.3, 39.8, 35.8), (11.4, 14.0, 41.2, 38.3)),
    "DP": ((21.7, 23.3, 48.2, 44.1), (12.8, 18.4, 44.7, 41.6)),
    "FGSM": ((35.6, 42.8, 61.4, 56.0), (14.9, 20.5, 45.2, 42.3)),
    "DF": ((38.4, 40.7, 56.8, 54.1), (18.1, 21.8, 48.3, 45.4)),
    "DP+FGSM": ((46.2, 38.9, 58.7, 57.6), (17.6, 21.2, 47.1, 44.3)),
    "DP+DF": ((52.5, 54.0, 63.3, 61.2), (18.6, 22.3, 49.2, 46.8)),
    "FGSM+DF": ((61.4, 64.6, 75.1, 72.5), (22.8, 28.5, 52.1, 49.9)),
}
"""Percent, by attack: undefended and SecMLOps, each for reasonable, small, heavy, all. The text at hand lacks the row of all
three."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One measured number: log-average miss rate as a fraction, None where nobody counts."""

    subset: str
    attack: str
    strategy: str
    seed: int
    miss_rate: float | None


class Table6(msgspec.Struct, frozen=True, kw_only=True):
    """The table: percent, means over seeds; half-widths of 95 % intervals in the same layout, None with one seed.

    `taken_back`: by attack and strategy, on the reasonable subset, 0..1 (below 0: the defence made it worse).
    """

    laMR: dict[str, dict[str, dict[str, float | None]]]  # noqa: N815 - the paper's name
    intervals: dict[str, dict[str, dict[str, float | None]]]
    taken_back: dict[str, dict[str, float | None]]
    seeds: tuple[int, ...]
    settings: Any
    command: str
    machine: str


def table6(rows: Sequence[Measured], *, settings: object, command: str, machine: str) -> Table6:
    """Fold measured numbers into the table; combinations that were not measured are None."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        if row.miss_rate is not None:
            found.setdefault((row.subset, row.attack, row.strategy), []).append(100 * row.miss_rate)
    means = {key: fmean(values) for key, values in found.items()}
    halves = {key: _half_width(values) for key, values in found.items()}
    return Table6(
        laMR=_laid_out(means),
        intervals=_laid_out(halves),
        taken_back={
            attack: {strategy: _taken_back(means, attack, strategy) for strategy in STRATEGIES if strategy != "none"}
            for attack in ATTACKS
            if attack != "clean"
        },
        seeds=tuple(sorted({row.seed for row in rows})),
        settings=settings,
        command=command,
        machine=machine,
    )


def write(table: Table6, folder: Path) -> list[Path]:
    """`table6.json`, `table6.md` and `table6.png` in the folder; the paths written."""
    return artefacts.write(table, "table6", folder, markdown, _draw)


def markdown(table: Table6) -> str:
    """The table with intervals, the paper's numbers in brackets where it has them."""
    seeds = ", ".join(map(str, table.seeds))
    out = ["# Table 6", "", f"`{table.command}`; seeds {seeds}; {table.machine}.", ""]
    out += ["Log-average miss rate in percent, mean over seeds, half-width of its 95 % interval; in brackets the paper's.", ""]
    for at, subset in enumerate(SUBSETS):
        out += [f"## {subset}", "", "| attack | " + " | ".join(STRATEGIES) + " |", "|" + "---|" * (len(STRATEGIES) + 1)]
        for attack in ATTACKS:
            cells = []
            for strategy in STRATEGIES:
                value, half = table.laMR[subset][attack][strategy], table.intervals[subset][attack][strategy]
                text = "-" if value is None else f"{value:.1f}" + ("" if half is None else f" ± {half:.1f}")
                if strategy in ("none", "secmlops") and attack in PAPER:
                    text += f" [{PAPER[attack][strategy == 'secmlops'][at]}]"
                cells.append(text)
            out.append(f"| {attack} | " + " | ".join(cells) + " |")
        out.append("")
    defended = " | ".join(strategy for strategy in STRATEGIES if strategy != "none")
    out += ["## Taken back (reasonable)", "", f"| attack | {defended} | SecMLOps in the paper |"]
    out.append("|" + "---|" * (len(STRATEGIES) + 1))
    for attack, shares in table.taken_back.items():
        cells = ["-" if share is None else f"{100 * share:.0f} %" for share in shares.values()]
        out.append(f"| {attack} | " + " | ".join([*cells, _paper_taken_back(attack)]) + " |")
    return "\n".join(out) + "\n"


def _laid_out(values: Mapping[tuple[str, str, str], float | None]) -> dict[str, dict[str, dict[str, float | None]]]:
    def shown(value: float | None) -> float | None:
        return None if value is None else round(value, 2)

    return {s: {a: {d: shown(values.get((s, a, d))) for d in STRATEGIES} for a in ATTACKS} for s in SUBSETS}


def _half_width(values: Sequence[float]) -> float | None:
    if len(values) < 2:  # noqa: PLR2004 - one number has no spread
        return None
    half: float = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return half


def _taken_back(means: Mapping[tuple[str, str, str], float], attack: str, strategy: str) -> float | None:
    clean, bad = means.get(("reasonable", "clean", "none")), means.get(("reasonable", attack, "none"))
    defended = means.get(("reasonable", attack, strategy))
    if clean is None or bad is None or defended is None or bad <= clean:
        return None
    return round((bad - defended) / (bad - clean), 3)


def _paper_taken_back(attack: str) -> str:
    if attack not in PAPER:
        return "-"
    clean, bad, defended = PAPER["clean"][0][0], PAPER[attack][0][0], PAPER[attack][1][0]
    return f"{100 * (bad - defended) / (bad - clean):.0f} %"


def _gap(value: float | None) -> float:
    """Nothing measured leaves a gap: a bar of height 0 would look like a perfect score."""
    return float("nan") if value is None else value


def _draw(table: Table6, path: Path) -> None:
    plt = artefacts.pyplot()
    figure, grid = plt.subplots(2, 2, figsize=(13, 8), sharey=True)
    width = 0.8 / len(STRATEGIES)
    for axes, subset in zip(grid.flat, SUBSETS, strict=True):
        for number, strategy in enumerate(STRATEGIES):
            values = [_gap(table.laMR[subset][attack][strategy]) for attack in ATTACKS]
            errors = [table.intervals[subset][attack][strategy] or 0.0 for attack in ATTACKS]
            places = [at + (number - 2) * width for at in range(len(ATTACKS))]
            axes.bar(places, values, width, yerr=errors, label=strategy, capsize=2, error_kw={"linewidth": 0.7})
        axes.set(title=subset, ylabel="miss rate, %", ylim=(0, 100))
        axes.set_xticks(range(len(ATTACKS)), list(ATTACKS), rotation=20, fontsize=8)
    grid.flat[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
