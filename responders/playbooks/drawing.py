"""A playbook as people look at it: what each step does in words, a tree for the terminal, a drawing for the browser (SVG).

It decides words and places; it refuses nothing. The same playbook gives the same bytes. Pure. No topic feeds it.

Source: SVG 1.1; colours after Okabe and Ito (told apart by colour-blind people too).
"""

import re
from xml.sax.saxutils import escape

from rich import markup
from rich.tree import Tree

from responders.people.roles import named
from responders.playbooks.cacao import condition_text
from responders.playbooks.playbooks import Action, Condition, Function, Playbook, Step

_LEFT, _WIDTH, _TOP, _GAP, _LINE, _PAD = 24, 560, 92, 26, 17, 12
_SIDE = 250
_WRAP = 84
_COLOUR = {Function.DETECT: "#0072b2", Function.RESPOND: "#d55e00", Function.RECOVER: "#009e73"}
_FONT = "font-family='system-ui, sans-serif'"
_RICH = {Function.DETECT: "blue", Function.RESPOND: "red", Function.RECOVER: "green"}


def words(step: Step) -> tuple[str, ...]:
    """What a step does, in lines: action, condition, approval, limits."""
    does = {
        Action.QUARANTINE: "set the suspicious frames aside, and those that follow",
        Action.SERVE: f"serve the {step.mode} model",
        Action.AWAIT_ONSET: f"wait for {step.onset_signals} signals, or {step.dwell_s or 0:g} s without calm",
        Action.AWAIT_REPORTS: f"wait until every live worker reports the {step.mode} model",
        Action.AWAIT_CALM: "wait until every detector that raised says calm",
        Action.MANUAL: "people do this",
        Action.CLOSE: "close",
    }[step.action]
    if step.action is Action.AWAIT_CALM and step.dwell_s is not None:
        does += f", and for {step.dwell_s:g} s of judged frames more"
    lines = [does]
    if step.when is not None:
        lines.append(f"only if {_in_words(step.when)}")
    if step.approval:
        lines.append(f"{'by' if step.action is Action.MANUAL else 'once approved by'} {named(step.approval)}")
    if step.time_limit_s is not None:
        again = f", asked {step.retries} time{'s' * (step.retries > 1)} more" if step.retries else ""
        lines.append(f"within {_duration(step.time_limit_s)}{again}, or people are called")
    return tuple(lines)


def _in_words(condition: Condition) -> str:
    text = condition_text(condition).replace("__", "").replace(":value", "").replace("'", "")
    text = re.sub(r"IN \(([^)]*)\)", lambda found: "is " + found[1].replace(", ", " or "), text)
    return text.replace(" = ", " is ").replace(" != ", " is not ").replace(" >= ", " is at least ").replace(" AND ", " and ")


def tree(playbook: Playbook) -> Tree:
    """The steps for a terminal; brackets in a playbook's words stay brackets."""
    root = Tree(f"[bold]{playbook.kind} v{playbook.version}[/]  {markup.escape(playbook.title)}")
    for step in playbook.steps:
        colour = _RICH[step.function]
        branch = root.add(f"[bold {colour}]{step.name}[/]  [dim]{step.state}, {step.function}[/]")
        for line in (*words(step), *_jumps_in_words(playbook, step)):
            branch.add(markup.escape(line))
        if step.text:
            branch.add(f"[italic]{markup.escape(step.text)}[/]")
        if step.techniques or step.mitigations:
            branch.add(f"[dim]{' '.join((*step.techniques, *step.mitigations))}[/]")
    calls = root.add("[bold]calls[/]") if playbook.calls else root.add("calls nobody")
    for one in playbook.calls:
        calls.add(f"{named((one.role,))}, from severity {one.at_least} on; the next one after {_duration(one.wait_s)}")
    return root


def _jumps_in_words(playbook: Playbook, step: Step) -> tuple[str, ...]:
    jumps = []
    if step.undo is not None:
        jumps.append(f"taken back by {step.undo}")
    if step.on_failure is not None:
        jumps.append(f"if it fails, go to {step.on_failure}")
    if playbook.on_relapse == step.name:
        jumps.append(
            f"from here again if the finding comes back while recovering ({playbook.max_relapses} times, then people decide)"
        )
    return tuple(jumps)


def svg(playbook: Playbook) -> str:
    """The steps from top to bottom, coloured by NIST function; jumps on the right."""
    boxes: list[str] = []
    places: dict[str, tuple[int, int]] = {}
    y = _TOP
    for step in playbook.steps:
        lines = [*words(step), *_wrapped(step.text)]
        ids = " ".join((*step.techniques, *step.mitigations))
        height = 2 * _PAD + _LINE * (1 + len(lines)) + (_LINE if ids else 0)
        places[step.name] = (y, height)
        boxes.append(_box(step, lines, ids, y, height))
        if step.action is not Action.CLOSE:
            below = y + height
            boxes.append(f"<path d='M {_LEFT + 60} {below} v {_GAP - 2}' stroke='#444' fill='none' marker-end='url(#tip)'/>")
        y += height + _GAP
    total, width = y + 10, _LEFT + _WIDTH + _SIDE
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{total}' viewBox='0 0 {width} {total}'>"
        f"<title>kerbwatch playbook {playbook.kind}, version {playbook.version}</title>"
        "<defs><marker id='tip' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' orient='auto'>"
        "<path d='M0 0 8 4 0 8z' fill='context-stroke'/></marker></defs>"
        "<rect width='100%' height='100%' fill='#fff'/>"
    )
    title = _text(_LEFT, 32, f"{playbook.kind} v{playbook.version}", size=20, weight="bold")
    lines = _wrapped(playbook.title, 72)
    title += "".join(_text(_LEFT, 54 + 16 * n, line, fill="#444") for n, line in enumerate(lines))
    legend = "".join(
        f"<rect x='{width - 220}' y='{18 + 18 * n}' width='12' height='12' fill='{_COLOUR[function]}'/>"
        + _text(width - 202, 29 + 18 * n, f"{function} (NIST SP 800-61r3)", size=11)
        for n, function in enumerate(Function)
    )
    return head + title + legend + "".join(boxes) + "".join(_jumps(playbook, places)) + "</svg>\n"


def _box(step: Step, lines: list[str], ids: str, y: int, height: int) -> str:
    colour = _COLOUR[step.function]
    dash = " stroke-dasharray='6 4'" if step.when is not None or step.approval else ""
    right, line_y = _LEFT + _WIDTH - _PAD, y + _PAD + 12
    frame = f"<rect x='{_LEFT}' y='{y}' width='{_WIDTH}' height='{height}' rx='8' fill='{colour}' fill-opacity='0.07'"
    parts = [
        f"{frame} stroke='{colour}' stroke-width='1.5'{dash}/>",
        _text(_LEFT + _PAD, line_y, step.name, weight="bold", fill=colour),
        f"<text x='{right}' y='{line_y}' text-anchor='end' font-size='11' fill='#666' {_FONT}>{step.state}</text>",
    ]
    for n, line in enumerate(lines, start=1):
        parts.append(_text(_LEFT + _PAD, y + _PAD + 12 + _LINE * n, line, size=12))
    if ids:
        parts.append(_text(_LEFT + _PAD, y + height - _PAD, ids, size=10, fill="#666"))
    return "".join(parts)


def _jumps(playbook: Playbook, places: dict[str, tuple[int, int]]) -> list[str]:
    wanted = [(step.name, step.undo, "#666", "undone by") for step in playbook.steps if step.undo is not None]
    wanted += [(step.name, step.on_failure, "#cc3311", "failed") for step in playbook.steps if step.on_failure is not None]
    if playbook.on_relapse is not None:
        start = next(step.name for step in reversed(playbook.steps) if step.action is Action.AWAIT_REPORTS)
        wanted.append((start, playbook.on_relapse, "#aa4499", f"comes back, {playbook.max_relapses} times"))
    drawn = []
    for lane, (start, end, colour, label) in enumerate(wanted):
        assert end is not None  # only jumps that are there were taken
        (y, height), (there, tall) = places[start], places[end]
        begin, finish, out = y + height // 2 + 8 * lane, there + tall // 2 + 8 * lane, 40 + 70 * lane
        right = _LEFT + _WIDTH
        drawn.append(
            f"<path d='M {right} {begin} C {right + out} {begin} {right + out} {finish} {right + 3} {finish}' fill='none' "
            f"stroke='{colour}' stroke-width='1.4' stroke-dasharray='5 4' marker-end='url(#tip)'/>"
            + _text(right + (out * 3) // 4 - 12, (begin + finish) // 2 + 20 * lane, label, size=11, fill=colour)
        )
    return drawn


def _text(x: int, y: int, text: str, *, size: int = 13, weight: str = "normal", fill: str = "#111") -> str:
    look = f"font-size='{size}' font-weight='{weight}' fill='{fill}' {_FONT}"
    # A white edge keeps words readable where lines cross them.
    return f"<text x='{x}' y='{y}' {look} paint-order='stroke' stroke='#fff' stroke-width='2.5'>{escape(text)}</text>"


def _wrapped(text: str, most: int = _WRAP) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + len(word) < most:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
