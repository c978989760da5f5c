"""The report's plots as SVG: scores and people around the onset, and frames with their boxes.

It decides scales, marks and colours, nothing else; it refuses words that are not escaped. Each drawing stands alone (light or dark
by the reader's own setting) and inside the page. Pure; no topic feeds it.

Source: SVG 1.1; colours that people with red-green blindness tell apart (Okabe and Ito).
"""

import base64
from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from xml.sax.saxutils import escape

from responders.report.content import Clock, Point, Snapshot, span

_WIDTH, _LEFT, _RIGHT = 540, 52, 12
_STYLE = """<style>
.kw{font:12px system-ui,sans-serif;--ink:#1d2430;--dim:#66707d;--rule:#d8dde3;--hot:#d55e00;--safe:#0072b2;--ok:#667788}
@media(prefers-color-scheme:dark){.kw{--ink:#e6e9ee;--dim:#9aa4b1;--rule:#39424e;--safe:#56b4e9;--ok:#aabbcc}}
.kw text{fill:var(--ink)}.kw .dim{fill:var(--dim)}.kw .rule{stroke:var(--rule)}
.kw .hot{fill:var(--hot)}.kw .safe{fill:var(--safe)}.kw .ok{fill:var(--ok)}
.kw .band{fill:var(--hot);opacity:.12}.kw .mark{stroke:var(--dim);stroke-dasharray:3 3}
.kw .people{fill:none;stroke:var(--dim);stroke-width:1.5}.kw .box{fill:none;stroke:#e69f00;stroke-width:2}.kw .ground{fill:#8884}
</style>"""
_SCORES, _PEOPLE = (52, 190), (214, 276)
"""Top and bottom of the two panels."""
_STEPS_S = (0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600, 14400, 86400, 1e9)
_MOST_TICKS = 7

_Scale = Callable[[float], float]


def onset(points: Sequence[Point], clocks: Sequence[Clock]) -> str:
    """Scores (0..1) and people found, against seconds after the impact's start; "" without frames.

    The band marks suspicious frames, dashed lines the clocks; what the safe model judged is blue.
    """
    if not points:
        return ""
    low, high = min(p.after_s for p in points), max(p.after_s for p in points)
    marks = [clock for clock in clocks if clock.after_s is not None and low <= clock.after_s <= high]
    width = max(high - low, 1e-3)

    def x(after_s: float) -> float:
        return _LEFT + (after_s - low) / width * (_WIDTH - _LEFT - _RIGHT)

    top, bottom = _SCORES
    best = max((p.score for p in points if p.score is not None), default=0.0)
    ceiling = max(0.05, best * 1.1)
    parts = [_band(points, x), *_axis(top, bottom, "score", f"{ceiling:.2f}"), *_seconds(low, high, x)]
    parts += _marks(marks, x)
    for point in points:
        if point.score is not None:
            colour = "safe" if point.safe else "hot" if point.suspicious else "ok"
            y = bottom - min(point.score / ceiling, 1.0) * (bottom - top)
            parts.append(f'<circle class="{colour}" cx="{x(point.after_s):.1f}" cy="{y:.1f}" r="2.6"/>')
    top, bottom = _PEOPLE
    most = max(1, *(p.people for p in points), 1)
    parts += _axis(top, bottom, "people", str(most))
    heights = [(x(p.after_s), bottom - p.people / most * (bottom - top)) for p in points]
    line = f"M{heights[0][0]:.1f} {heights[0][1]:.1f}" + "".join(f"H{b[0]:.1f}V{b[1]:.1f}" for _, b in pairwise(heights))
    parts.append(f'<path class="people" d="{line}"/>')
    parts.append(_legend(points))
    return _svg(_WIDTH, 322, "Scores of the input and people found around the onset", parts)


def frame(snapshot: Snapshot) -> str:
    """One frame with the boxes that the model found; its picture beneath, where there is one."""
    width, height = snapshot.size_px
    parts = [f'<rect class="ground" width="{width}" height="{height}"/>']
    if snapshot.picture is not None:
        kind = "png" if snapshot.picture.startswith(b"\x89PNG") else "jpeg"
        data = base64.b64encode(snapshot.picture).decode()
        parts.append(f'<image width="{width}" height="{height}" href="data:image/{kind};base64,{data}"/>')
    for box in snapshot.boxes:
        where = f'x="{box.x_px:.1f}" y="{box.y_px:.1f}" width="{box.w_px:.1f}" height="{box.h_px:.1f}"'
        parts.append(f'<rect class="box" {where}><title>score {box.score:.2f}</title></rect>')
    return _svg(width, height, f"{snapshot.label}: {len(snapshot.boxes)} people found", parts)


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="kw" viewBox="0 0 {width} {height}" role="img">'
    return f"{head}<title>{escape(title)}</title>{_STYLE}{''.join(parts)}</svg>"


def _band(points: Sequence[Point], x: _Scale) -> str:
    bands = []
    for suspicious, run in groupby(points, key=lambda point: point.suspicious):
        if suspicious:
            members = list(run)
            start, end = x(members[0].after_s), x(members[-1].after_s)
            bands.append(
                f'<rect class="band" x="{start:.1f}" y="{_SCORES[0]}" width="{max(end - start, 1.5):.1f}" '
                f'height="{_PEOPLE[1] - _SCORES[0]}"/>'
            )
    return "".join(bands)


def _axis(top: int, bottom: int, name: str, high: str) -> list[str]:
    lines = [f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>' for y in (top, bottom)]
    at = _LEFT - 6
    return [
        *lines,
        f'<text class="dim" x="{at}" y="{top + 4}" text-anchor="end">{high}</text>',
        f'<text class="dim" x="{at}" y="{bottom + 4}" text-anchor="end">0</text>',
        f'<text class="dim" x="{at}" y="{(top + bottom) / 2 + 4}" text-anchor="end">{name}</text>',
    ]


def _seconds(low: float, high: float, x: _Scale) -> list[str]:
    step = next(step for step in _STEPS_S if (high - low) / step <= _MOST_TICKS)
    y = _PEOPLE[1] + 16
    ticks = [number * step for number in range(int(low // step) + 1, int(high // step) + 1)]
    return [
        f'<text class="dim" x="{x(tick):.1f}" y="{y}" text-anchor="middle">{"0" if tick == 0 else f"{tick:+g} s"}</text>'
        for tick in ticks
    ]


def _marks(marks: Sequence[Clock], x: _Scale) -> list[str]:
    """Dashed lines with their names; names that would lie on each other take turns in height."""
    parts, ends = [], [-1e9, -1e9, -1e9]
    for clock in sorted(marks, key=lambda clock: clock.after_s or 0.0):
        at = x(clock.after_s or 0.0)
        name = clock.name if not clock.after_s else f"{clock.name} {span(clock.after_s)}"
        length = 6.2 * len(name)
        row = next((row for row, end in enumerate(ends) if at > end), 2)
        anchor = "end" if at + length > _WIDTH else "start"
        ends[row] = at + length + 6
        y = 16 + 14 * row
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{y + 2}" y2="{_PEOPLE[1]}"/>')
        parts.append(f'<text x="{at:.1f}" y="{y - 2}" text-anchor="{anchor}">{escape(name)}</text>')
    return parts


def _legend(points: Sequence[Point]) -> str:
    entries = [("ok", "normal model"), ("hot", "suspicious frame")]
    if any(point.safe for point in points):
        entries.append(("safe", "safe model"))
    parts, at = [], _LEFT
    for colour, name in entries:
        parts.append(f'<circle class="{colour}" cx="{at + 4}" cy="312" r="4"/><text x="{at + 14}" y="316">{name}</text>')
        at += 34 + 7 * len(name)
    return "".join(parts)
