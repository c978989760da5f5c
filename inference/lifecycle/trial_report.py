"""The trial of vetting as JSON, as a table and as a picture.

It decides how precision and recall are laid out: a line for each harm and share, the judges beside one another. It measures nothing
(`inference.lifecycle.trial`). No topic feeds it.
"""

from collections.abc import Iterable
from pathlib import Path

from inference.lifecycle.trial import BOTH, Harm, Row, Trial
from inference.measure import artefacts

NAME = "poisoning"


def write(trial: Trial, folder: Path) -> list[Path]:
    """`poisoning.json`, `poisoning.md` and `poisoning.png` in the folder; the paths written."""
    return artefacts.write(trial, NAME, folder, markdown, _draw)


def markdown(trial: Trial) -> str:
    """One table; precision / recall for each judge, and which stages found what they found together."""
    judges = (*trial.models, BOTH)
    held = ", ".join(f"{judge} {count}" for judge, count in trial.clean_held.items())
    how = f"{trial.pictures} pictures, {trial.golden} golden ones, {trial.seeds} seeds together, counted in pictures"
    out = [
        f"`{trial.command}` ({trial.machine}): {how}. Held back with no harm done: {held}.",
        "",
        f"| harm | gamma | pictures harmed | {' | '.join(f'{judge}: precision / recall' for judge in judges)} | found by |",
        f"|---|---|---|{'---|' * len(judges)}---|",
    ]
    for (harm, gamma), rows in _together(trial.rows):
        both = rows[BOTH]
        by = ", ".join(f"{stage.replace('_', '-')} {count}" for stage, count in both.stages.items())
        shares = " | ".join(f"{_share(rows[judge].precision)} / {_share(rows[judge].recall)}" for judge in judges)
        out.append(f"| {harm} | {gamma:.0%} | {both.harmed} | {shares} | {by} |")
    return "\n".join([*out, ""])


def _together(rows: Iterable[Row]) -> list[tuple[tuple[Harm, float], dict[str, Row]]]:
    found: dict[tuple[Harm, float], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row.harm, row.gamma), {})[row.judge] = row
    return list(found.items())


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _draw(trial: Trial, path: Path) -> None:
    plt = artefacts.pyplot()
    figure, grid = plt.subplots(3, 3, figsize=(12, 9), sharex=True, sharey=True)
    for axes, harm in zip(grid.flat, Harm, strict=True):
        for number, judge in enumerate((*trial.models, BOTH)):
            rows = [row for row in trial.rows if row.harm is harm and row.judge == judge]
            for part, style in (("recall", "-"), ("precision", ":")):
                known = [(100 * row.gamma, value) for row in rows if (value := getattr(row, part)) is not None]
                axes.plot(*zip(*known, strict=True), style, color=f"C{number}", marker="o", markersize=3, label=f"{judge}: {part}")
        axes.set(title=harm, ylim=(-0.03, 1.03), xscale="log")
        axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set(xlabel="gamma, %")
    grid[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
