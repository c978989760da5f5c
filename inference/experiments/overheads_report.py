"""Section 6's figures as JSON, as a Markdown table beside the paper's, and as a picture.

It decides which of our figures stands beside which of the paper's, and says where the two are not the same thing. It measures
nothing (`inference.experiments.overheads`). No topic.

Source: paper section 6.
"""

from pathlib import Path

from inference.experiments.overheads import Overheads
from inference.measure import artefacts

PAPER_LATENCY, PAPER_QUANTISED, PAPER_KEPT = 47 / 39, 1.08, 0.94
"""The paper's ratios: protected model over unprotected; quantised over unprotected; share of robustness that quantising keeps."""

_MIB_PER_GIB = 1024


def write(found: Overheads, folder: Path) -> list[Path]:
    """`overheads.json`, `overheads.md` and `overheads.png` in the folder; the paths written."""
    return artefacts.write(found, "overheads", folder, markdown, _draw)


def markdown(found: Overheads) -> str:
    """The figures beside the paper's, then cleaning, memory, and the quantised models in full."""
    clean, plain, cleaned, small = found.cleaning[0], found.protection, found.cleaned, found.quantised[0]
    before, after = found.memory[0].resident_mib, found.memory[2].resident_mib
    kept = [one.kept for one in small.robustness if one.attack != "none" and one.kept is not None]
    rows = [
        ("cleaning a picture", "5 to 8 ms", f"{clean.clean_ms:.1f} ms ({clean.chain})"),
        ("cleaning, share of inference", "13 to 21 %", f"{clean.share_of_inference:.1%}"),
        ("latency of the adversarially trained model over the normal one", f"{PAPER_LATENCY:.2f}", f"{found.safe_over_normal:.2f}"),
        (
            "latency, protected over unprotected",
            "not stated",
            f"{plain.ratio:.3f} ({plain.ratio_low:.3f} to {plain.ratio_high:.3f})",
        ),
        ("the same, pictures cleaned", "not stated", f"{cleaned.ratio:.3f} ({cleaned.ratio_low:.3f} to {cleaned.ratio_high:.3f})"),
        ("processor time, protected over unprotected", "1.12 to 1.15", f"{plain.cpu_ratio:.3f}; cleaned {cleaned.cpu_ratio:.3f}"),
        ("memory that protection adds", "2.3 GB", f"{(after - before) / _MIB_PER_GIB:.2f} GiB (of {after / _MIB_PER_GIB:.2f})"),
        (
            "latency of the quantised safe model",
            f"{PAPER_QUANTISED:.2f} of unprotected",
            f"{small.ratio:.2f} ({small.ratio_low:.2f} to {small.ratio_high:.2f}) of the full safe model",
        ),
        (
            "robustness that quantising keeps",
            f"{PAPER_KEPT:.0%}",
            f"{min(kept):.0%} to {max(kept):.0%}" if kept else "not measurable",
        ),
    ]
    out = ["# Overheads", "", f"`{found.command}`; {found.machine}.", "", "| figure | paper | here |", "|---|---|---|"]
    out += [f"| {name} | {paper} | {here} |" for name, paper, here in rows]
    out += ["", "## Cleaning", "", "| chain | ms a picture | share of inference |", "|---|---|---|"]
    out += [f"| {one.chain} | {one.clean_ms:.2f} | {one.share_of_inference:.1%} |" for one in found.cleaning]
    out += [
        "",
        "## Protection",
        "",
        f"{plain.frames} frames of a calm camera, {plain.second_looks:.1%} of them looked at twice.",
        "",
        "| | unprotected, ms | protected, ms | ratio | processor time |",
        "|---|---|---|---|---|",
    ]
    for name, one in (("not cleaned", plain), (f"cleaned, {clean.chain}", cleaned)):
        ratio = f"{one.ratio:.3f} ({one.ratio_low:.3f} to {one.ratio_high:.3f})"
        out.append(f"| {name} | {one.unprotected_ms:.1f} | {one.protected_ms:.1f} | {ratio} | {one.cpu_ratio:.3f} |")
    out += ["", "## Memory of the worker's inference", "", "| with | resident, MiB |", "|---|---|"]
    out += [f"| {one.what} | {one.resident_mib:.0f} |" for one in found.memory]
    for model in found.quantised:
        ratio = f"{model.ratio:.3f} ({model.ratio_low:.3f} to {model.ratio_high:.3f})"
        said = (
            f"Latency {ratio} of its parent's ({model.quantised_ms:.1f} against {model.full_ms:.1f} ms), processor time "
            f"{model.cpu_ratio:.3f}, size {model.size_ratio:.3f}. Performance is 1 - log-average miss rate; intervals are 95 %."
        )
        out += ["", f"## {model.model}", "", said, "", "| pictures | attack | full | quantised | kept |", "|---|---|---|---|---|"]
        for line in model.robustness:
            shown = f"{_of(line.kept)} ({_of(line.low)} to {_of(line.high)})"
            out.append(f"| {line.data}, {line.pictures} | {line.attack} | {_of(line.full)} | {_of(line.quantised)} | {shown} |")
    return "\n".join(out) + "\n"


def _of(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _draw(found: Overheads, path: Path) -> None:
    plt = artefacts.pyplot()
    small = found.quantised[0]
    figure, (time, memory, kept) = plt.subplots(1, 3, figsize=(14, 4))
    ratios = {
        "protected": (found.protection.ratio, found.protection.ratio_low, found.protection.ratio_high),
        "and cleaned": (found.cleaned.ratio, found.cleaned.ratio_low, found.cleaned.ratio_high),
        "quantised": (small.ratio, small.ratio_low, small.ratio_high),
    }
    for at, (value, low, high) in enumerate(ratios.values()):
        time.bar(at, value, yerr=[[value - low], [high - value]], capsize=4, color=f"C{at}")
    time.axhline(1.0, color="black", linewidth=0.8)
    for value, what in ((PAPER_LATENCY, "adversarially trained"), (PAPER_QUANTISED, "quantised")):
        time.axhline(value, color="grey", linestyle="--", linewidth=0.8)
        time.text(len(ratios) - 0.5, value, f"paper: {what}", fontsize=7, va="bottom", ha="right")
    time.set_xticks(range(len(ratios)), list(ratios))
    time.set(title="latency ratio")
    memory.barh(
        [one.what.replace(", ", "\n").replace(" loaded", "\nloaded") for one in found.memory],
        [one.resident_mib for one in found.memory],
    )
    memory.set(title="resident memory, MiB")
    memory.tick_params(axis="y", labelsize=7)
    lines = [one for one in small.robustness if one.kept is not None]
    kept.bar(range(len(lines)), [one.kept or 0.0 for one in lines])
    kept.axhline(PAPER_KEPT, color="grey", linestyle="--", linewidth=0.8, label="paper")
    kept.set_xticks(range(len(lines)), [f"{one.data}\n{one.attack}" for one in lines], fontsize=6, rotation=30)
    kept.set_title(f"{small.model}: performance kept", fontsize=10)
    kept.legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
