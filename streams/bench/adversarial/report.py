"""The benchmark of adversarial-input detection told: all figures of a run together, as tables for people, and drawn.

It decides what is put side by side and what a table leaves out; what each figure is, `figures.py` and
`streams.py` decide. It refuses to hide an attack that is not caught: the tables mark what falls short of the aim. No
topic.

Source: issue 5 ("Adversarial input") for the aim; `docs/adversarial.md`.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct, structs
from rich.console import Console
from rich.table import Table

from streams.bench.adversarial.figures import (
    FPR,
    AttackRow,
    CorruptionRow,
    Cost,
    Reading,
    attack_row,
    attacks,
    clean_of,
    corruption_rows,
    costs,
    missed,
    place,
)
from streams.bench.adversarial.streams import OnOff, Stream, median_delay, streams, worth
from streams.bench.adversarial.usual import relative

AIM, HARM = 0.95, 10.0
"""Share to be flagged at 5 % false flags, of every attack that is not adaptive and adds so many points to the miss rate."""
_RARE_ATTACK = ("pgd", "eps 8/255", "untargeted", "jpeg 92")
_AIMED = {"pgd", "adaptive"}  # of the others, the name says what they are after
_LEAST_FPR = 0.004
_STREAMED = ("streets", "footage")  # an album has no calm: each picture is another place


class Calm(Struct, frozen=True, kw_only=True):
    """Clean frames of one data set and context, and streams of them that alarmed although nobody attacked."""

    data: str
    frames: int
    streams: int
    false_alarms: int


class Figures(Struct, frozen=True, kw_only=True):
    """All that the bench measures. own_calibration: whether the weights have one of their own."""

    own_calibration: bool
    attacks: tuple[AttackRow, ...]
    corruptions: tuple[CorruptionRow, ...]
    on_off: tuple[OnOff, ...]
    cost: tuple[Cost, ...]
    calm: tuple[Calm, ...]


def figures(readings: Sequence[Reading], every: int, *, own_calibration: bool) -> Figures:
    """Every figure of a run. `every`: one calm frame in so many is looked at twice (setting score_every)."""
    clean = [one for one in readings if one.case.kind == "clean"]
    own, plainly, plain = clean_of(clean, relative(readings)), clean_of(clean), {place(one): one for one in clean}
    by_camera: dict[tuple[str, str], list[Reading]] = defaultdict(list)
    for one in clean:
        by_camera[one.case.data, one.case.camera].append(one)
    shown, calm = {}, []
    for camera, frames in by_camera.items():
        shown[camera], alarmed = streams(frames, every)
        calm.append(Calm(data=" ".join(camera), frames=len(frames), streams=len(shown[camera]) + alarmed, false_alarms=alarmed))
    rows, on_off = [], []
    for them in attacks(readings).values():
        row = attack_row(them, own, plainly, plain)
        ways = (False, True) if (row.attack, row.strength, row.objective, row.sent) == _RARE_ATTACK else (False,)
        for told, worthwhile in (_streamed(row, them, shown, plain, rare=rare) for rare in ways):
            rows += [] if told is None else [told]
            on_off += [] if worthwhile is None else [worthwhile]
    looked = {
        data: float(np.mean([stream.looked for key, found in shown.items() if key[0] == data for stream in found] or [1.0]))
        for data in _STREAMED
    }
    return Figures(
        own_calibration=own_calibration,
        attacks=tuple(rows),
        corruptions=tuple(_set_in(row, readings, shown) for row in corruption_rows(readings, own, plainly)),
        on_off=tuple(on_off),
        cost=tuple(costs(clean, looked)),
        calm=tuple(calm),
    )


def _set_in(row: CorruptionRow, readings: Sequence[Reading], shown: dict[tuple[str, str], list[Stream]]) -> CorruptionRow:
    """The row with the share of streams that alarm when this sets in at once and stays; photographs are no stream."""
    alarms: list[bool] = []
    if row.data in _STREAMED:
        for camera, found in shown.items():
            mine = [one for one in readings if (one.case.data, one.case.camera) == camera and one.case.kind == "corruption"]
            these = [
                one for one in mine if (one.case.name, one.case.strength, one.case.data) == (row.corruption, row.severity, row.data)
            ]
            alarms += [stream.under(these)[1] is not None for stream in found if these]
    return structs.replace(row, streams=len(alarms), alarmed=round(float(np.mean(alarms)), 4)) if alarms else row


def _streamed(
    row: AttackRow,
    them: Sequence[Reading],
    shown: dict[tuple[str, str], list[Stream]],
    plain: dict[tuple[str, str, int], Reading],
    *,
    rare: bool,
) -> tuple[AttackRow | None, OnOff | None]:
    """The row with its delay, and what the system is worth against it; `rare`: only one frame in ten is attacked."""
    under = []
    for camera in dict.fromkeys((one.case.data, one.case.camera) for one in them):
        mine = [one for one in them if one.case.camera == camera[1]]
        under += [stream.under(mine, rare=rare) for stream in shown[camera]]
    if not under:  # every stream alarmed before its attack
        return None if rare else row, None
    median, caught = median_delay([delay for _, delay in under])
    row = structs.replace(row, delay_frames=median, caught=round(caught, 3))
    before = [plain[place(one)].matched for frames, _ in under for one in frames]
    clean, clean_safe = missed([normal for normal, _ in before]), missed([safe for _, safe in before])
    found = worth(under)
    if rare:
        harm = None if found is None or clean is None else round(found[0] - clean, 2)
        row = structs.replace(row, attack=f"{row.attack}, one frame in ten", miss_rate_added_points=harm)
    if found is None or clean is None or clean_safe is None:
        return row, None
    off, safe, on, after = found
    return row, OnOff(
        attack=row.attack, strength=row.strength, objective=row.objective, data=row.data, sent=row.sent,
        clean=clean, clean_safe=clean_safe, off=off, safe=safe, on=on, after=after,
    )  # fmt: skip


def show(found: Figures, console: Console) -> None:
    """Tables, 80 columns wide: attacks (a star where the aim is missed), false flags, on and off, the cost."""
    for data in dict.fromkeys(row.data for row in found.attacks):
        table = Table(f"attacks on {data}", "added", "AUROC", "TPR 5 %", "TPR 1 %", "absolute", "delay", "caught", box=None)
        for row in (one for one in found.attacks if one.data == data):
            harm = "" if row.miss_rate_added_points is None else f"{row.miss_rate_added_points:.1f}"
            star = "*" if falls_short(row) else ""
            delay = "-" if row.delay_frames is None else f"{row.delay_frames:g}"
            caught = "-" if row.caught is None else f"{row.caught:.0%}"
            flagged, plainly = f"{row.tpr_at_fpr5:.2f}{star}", f"{row.tpr_at_fpr5_absolute:.2f}"
            table.add_row(label(row), harm, f"{row.auroc:.3f}", flagged, f"{row.tpr_at_fpr1:.2f}", plainly, delay, caught)
        console.print(table)
    console.print(f"* below {AIM:.0%} although it adds {HARM:g} points to the miss rate; adaptive attacks are told, not judged")
    console.print("absolute: TPR 5 % of the probability alone; the rest is the detector's score, relative to the camera's usual")
    table = Table("false flags at 5 %", "severity", "streets", "photographs", "footage", box=None)
    cells: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for flag in found.corruptions:
        cells[flag.corruption, flag.severity][flag.data] = flag.flagged
    for key, by_data in cells.items():
        if any(by_data.values()):
            shares = (f"{by_data[data]:.0%}" if data in by_data else "" for data in ("streets", "photographs", "footage"))
            table.add_row(*key, *shares)
    console.print(table)
    console.print(f"none of the other {sum(not any(by_data.values()) for by_data in cells.values())} is flagged once")
    for data in dict.fromkeys(row.data for row in found.on_off):
        table = Table(f"miss rate of streams of {data}", "clean", "off", "on", "safe model", box=None)
        for one in (each for each in found.on_off if each.data == data):
            table.add_row(label(one), *(f"{rate:.1f}" for rate in (one.clean, one.off, one.on, one.safe)))
        console.print(table)
    for cost in found.cost:
        console.print(
            f"{cost.data}: inference {cost.infer_ms:.1f} ms, glance {cost.glance_ms:.2f} ms, second look {cost.second_look_ms:.1f} "
            f"ms on {cost.looked:.1%} of calm frames: {cost.share_of_inference:.1%} of inference"
        )
    console.print(
        f"streams that alarmed in calm: {sum(one.false_alarms for one in found.calm)} of {sum(one.streams for one in found.calm)}"
    )
    sudden = [(row.streams, row.alarmed) for row in found.corruptions if row.alarmed is not None]
    alarms, streamed = sum(count * share for count, share in sudden), sum(count for count, _ in sudden)
    console.print(f"streams that alarmed when a corruption set in at once: {alarms:.0f} of {streamed}")


def label(row: AttackRow | OnOff) -> str:
    """An attack in few words, e.g. "pgd 4/255, hide, png"."""
    aim = f", {row.objective}" if row.attack in _AIMED and row.objective != "untargeted" else ""
    strength = row.strength.removeprefix("eps ") if row.strength[0] in "ex" else ""
    return f"{row.attack} {strength}".strip() + aim + (", png" if row.sent == "png" else "")


def falls_short(row: AttackRow) -> bool:
    """Whether an attack that the aim is about is caught too seldom."""
    harm = row.miss_rate_added_points
    return not row.adaptive and harm is not None and harm >= HARM and row.tpr_at_fpr5 < AIM


def draw(readings: Sequence[Reading], found: Figures, folder: Path) -> None:
    """`adversarial-roc.png`, a panel an attack, and `adversarial-flags.png`, a group of bars a corruption."""
    import matplotlib as mpl  # noqa: PLC0415 - it takes a second to load

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    own, plainly = clean_of(readings, relative(readings)), clean_of(readings)
    panels: dict[str, dict[str, list[Reading]]] = defaultdict(lambda: defaultdict(list))
    for (name, strength, objective, sent, _), them in attacks(readings).items():
        if sent.endswith("jpeg"):
            panel = f"{name}, {objective}" if name in _AIMED else name
            panels[panel][strength] += them
    columns = 3
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(10, 3 * rows), sharex=True, sharey=True, squeeze=False)
    for number, axis in enumerate(axes.flat):
        axis.set_visible(number < len(panels))
        axis.tick_params(labelbottom=number + columns >= len(panels))
    for axis, (name, strengths) in zip(axes.flat, panels.items(), strict=False):
        for number, (strength, them) in enumerate(strengths.items()):
            filmed = [one for one in them if one.case.data in _STREAMED]
            album = [one for one in them if one.case.data not in _STREAMED]
            label, colour = f"{strength}, {len(filmed)} and {len(album)} frames", f"C{number}"
            dashed = {"color": colour, "linewidth": 0.8, "linestyle": "--"}
            for clean, shown, look in (
                (plainly, filmed, {"color": "grey", "linewidth": 0.6}),
                (plainly, album, dashed),
                (own, filmed, {"color": colour, "label": label}),
            ):
                beyond = np.sort(np.maximum(clean.beyond(shown), _LEAST_FPR)) if shown else np.array([])
                share = np.arange(1, len(beyond) + 1) / max(1, len(beyond))
                axis.step([_LEAST_FPR, *beyond, 1.0], [0.0, *share, 1.0], where="post", **look)
        axis.axvline(FPR[0], color="grey", linewidth=0.6, linestyle=":")
        axis.set(xscale="log", xlim=(_LEAST_FPR, 1), ylim=(0, 1.02), title=name)
        axis.legend(fontsize=7, loc="lower right")
    what = "cameras; dashed: photographs; grey: cameras by the probability alone"
    figure.supxlabel(f"share of clean frames flagged ({what})", fontsize=10)
    figure.supylabel("share of attacked frames flagged", fontsize=10)
    figure.tight_layout()
    figure.savefig(folder / "adversarial-roc.png", dpi=110)
    plt.close(figure)
    figure, axis = plt.subplots(figsize=(10, 4))
    _bars(axis, found.corruptions)
    figure.tight_layout()
    figure.savefig(folder / "adversarial-flags.png", dpi=110)
    plt.close(figure)


def _bars(axis: Any, rows: Sequence[CorruptionRow]) -> None:
    """A group of bars for each corruption, its severities from left to right, over all data sets."""
    frames: dict[str, dict[str, list[CorruptionRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        frames[row.corruption][row.severity].append(row)
    for number, (_, severities) in enumerate(frames.items()):
        for at, (_, them) in enumerate(sorted(severities.items())):
            flagged = sum(row.flagged * row.frames for row in them) / sum(row.frames for row in them)
            shift = 0.15 * (at - (len(severities) - 1) / 2)
            axis.bar(number + shift, 100 * flagged, 0.14, color=f"C{at}")
    axis.axhline(100 * FPR[0], color="grey", linewidth=0.8, linestyle=":")
    axis.set_xticks(range(len(frames)), list(frames), rotation=60, ha="right", fontsize=8)
    axis.set(ylabel="% of frames flagged", title="False flags at the threshold of 5 % of clean frames, severities 1 to 5")
