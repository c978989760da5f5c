"""Playbooks: what is done about each kind of incident, as data, checked before anything trusts it.

It decides whether a playbook file holds together, and refuses one that does not, naming file, line and key. It knows no incident,
clock or topic; `deciding.py` walks the steps. The files lie in `playbooks/`, one a kind; an open incident carries the playbook
it began with, so a changed file takes effect with the next incident.

Source: paper 4.6 (incident response: safe mode before performance), 4.7 (evidence is kept), NIST SP 800-61r3 (functions),
MITRE ATLAS v5.6.1 (techniques AML.T, mitigations AML.M).
"""

import re
import tomllib
from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from importlib.resources import files
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from responders.people.roles import Role
from responders.playbooks.detectors import stranger
from streams.errors import BadInput
from streams.events import Cause, Context, Kind, Mode, Severity, Share


class State(StrEnum):
    """Where an incident is."""

    SUSPECTED = "suspected"  # a finding that has not lasted long enough yet; nobody is called
    OPEN = "open"  # known and recorded
    CONTAINING = "containing"  # safe mode is asked for; not every live worker has reported it
    CONTAINED = "contained"  # every live worker has reported safe mode
    RECOVERING = "recovering"  # the normal model is asked for; not every live worker has reported it
    CLOSED = "closed"  # over, with a resolution


class Action(StrEnum):
    """What a step does. The first two act and are done; the next four wait; the last ends the incident."""

    QUARANTINE = "quarantine"  # set the suspicious frames aside, now and as the window grows
    SERVE = "serve"  # ask every worker to serve the context in a mode
    AWAIT_ONSET = "await_onset"  # until a finding has been told often enough, or has lasted without calm
    AWAIT_REPORTS = "await_reports"  # until every live worker reports that mode
    AWAIT_CALM = "await_calm"  # until every detector that raised has said calm; silence is not calm
    MANUAL = "manual"  # until people with the step's roles have done it and say so
    CLOSE = "close"


WAITS = frozenset({Action.AWAIT_ONSET, Action.AWAIT_REPORTS, Action.AWAIT_CALM, Action.MANUAL})
NEEDS_MODE = frozenset({Action.SERVE, Action.AWAIT_REPORTS})


class Function(StrEnum):
    """The function of NIST SP 800-61r3 (CSF 2.0) that a step belongs to."""

    DETECT = "detect"
    RESPOND = "respond"
    RECOVER = "recover"


Technique = Annotated[str, Meta(pattern=r"^AML\.T\d{4}(\.\d{3})?\Z")]
Mitigation = Annotated[str, Meta(pattern=r"^AML\.M\d{4}\Z")]
StepName = Annotated[str, Meta(pattern=r"^[a-z][a-z_]{0,31}\Z")]
Seconds = Annotated[float, Meta(gt=0.0, le=365 * 86_400.0)]
"""Up to a year: no clock reaches further, and infinity is no time at all."""


class Condition(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a step is to be done; everything that is named must hold. A step that waits is left as soon as it holds no more.

    at_least, below: the incident's severity. contexts: where it is. detectors: one of them has spoken. not_detectors: none of
    them has. causes, confidence: the diagnosis, and how sure it is at least. mode: what this incident asks its context to be served
    in.
    """

    at_least: Severity | None = None
    below: Severity | None = None
    contexts: tuple[Context, ...] = ()
    detectors: tuple[str, ...] = ()
    not_detectors: tuple[str, ...] = ()
    causes: tuple[Cause, ...] = ()
    confidence: Share | None = None
    mode: Mode | None = None


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step. `state` is the incident's while it stands here; past `time_limit_s` seconds of waiting a human is called.

    text: what it is for, or what people are to do. when: else it is left out. approval: people with these roles, a different one
    for each, must approve before it is done. retries: reports that do not come are asked for so often again, spread over the time
    limit. undo: the step that takes this one back; that step is left out where there is nothing to take back. on_failure: where to
    go on when it fails (a human rejects it, the limit passes); by default it is waited on when late, and when rejected too if it is
    manual, else left out. renews: it is done only once the context's normal model is none that judged what the incident is about.
    onset_signals, dwell_s: an onset counts from so many signals on, or once it has lasted so long; calm once frames have been
    judged for `dwell_s` since without a new finding.
    """

    name: StepName
    action: Action
    state: State
    function: Function
    text: str = ""
    mode: Mode | None = None
    when: Condition | None = None
    approval: tuple[Role, ...] = ()
    time_limit_s: Seconds | None = None
    retries: Annotated[int, Meta(ge=0, le=10)] = 0
    undo: StepName | None = None
    on_failure: StepName | None = None
    renews: bool = False
    onset_signals: Annotated[int, Meta(ge=2)] | None = None
    dwell_s: Seconds | None = None
    techniques: tuple[Technique, ...] = ()
    mitigations: tuple[Mitigation, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether somebody or something else ends it, so that a time limit is due."""
        return self.action in WAITS or bool(self.approval)


class Call(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is called, in order: the next one when nobody has acknowledged `wait_s` seconds after the call before."""

    role: Role
    wait_s: Seconds
    at_least: Severity = Severity.LOW


class Grading(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How bad an incident of this kind is (`severity.py` has the rule).

    base: at least that. harmful: these causes are at least high, where the diagnosis is as sure as `sure_from`. contexts: one
    degree worse there. cameras: one degree worse from so many cameras with this kind on, in one context. doubtful_below: one degree
    milder while the diagnosis is less sure than this, but never below what a detector says.
    """

    base: Severity = Severity.LOW
    harmful: tuple[Cause, ...] = ()
    sure_from: Share = 0.8
    contexts: tuple[Context, ...] = ()
    cameras: Annotated[int, Meta(ge=2)] | None = None
    doubtful_below: Share | None = None


class Playbook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The steps for one kind of incident.

    `on_relapse` names the step to go back to when the finding comes back after calm, at most `max_relapses` times before a
    human has to decide; what begins on the same camera within `relapse_within_s` seconds after the safe model was left by itself
    counts as coming back too. By detector, an alarm may go on for `alarm_may_last_s` after the incident is closed before it opens
    one anew, for two minutes where not given.
    `on_human_close` names the step from which a human's close proceeds, so that safe mode is undone in the closed loop. `calls` is
    the chain of people, empty where nobody is called. `changed` is the day of this version.
    """

    kind: Kind
    version: Annotated[int, Meta(ge=1)]
    changed: date = date(2026, 11, 21)
    title: Annotated[str, Meta(min_length=1)]
    techniques: tuple[Technique, ...] = ()
    steps: Annotated[tuple[Step, ...], Meta(min_length=1)]
    on_relapse: StepName | None = None
    max_relapses: Annotated[int, Meta(ge=0)] = 0
    relapse_within_s: Seconds | None = None
    alarm_may_last_s: dict[str, Seconds] = {}
    on_human_close: StepName | None = None
    grading: Grading = Grading()
    calls: tuple[Call, ...] = ()

    def position(self, name: str) -> int:
        """Where the step `name` stands, from 0. Raises BadInput if there is none."""
        for position, step in enumerate(self.steps):
            if step.name == name:
                return position
        raise BadInput(f"playbook {self.kind} has no step {name!r}; its steps are {', '.join(step.name for step in self.steps)}")

    def undone_by(self, name: str) -> Step | None:
        """The step that `name` takes back; None where it is no undo of anything."""
        return next((step for step in self.steps if step.undo == name), None)


def parse(text: str, where: str) -> Playbook:
    """A playbook from TOML; `where` names the file in messages. Raises BadInput naming file, line and key of each fault."""
    try:
        playbook = msgspec.convert(tomllib.loads(text), Playbook)
    except RecursionError:
        deepest = max(enumerate(text.splitlines(), start=1), key=lambda line: line[1].count("[") + line[1].count("{"))
        raise BadInput(f"{where}, line {deepest[0]}: brackets in brackets, deeper than any playbook goes") from None
    except msgspec.ValidationError as error:
        raise BadInput(f"{where}, line {_line(text, _named(str(error)))}: {error}") from error
    except ValueError as error:  # also of a number with thousands of digits
        raise BadInput(f"{where} is no TOML: {error}") from error
    faults = [f"line {_line(text, fault.partition(':')[0])}: {fault}" for fault in _faults(playbook)]
    if faults:
        raise BadInput(f"{where} does not hold: {'; '.join(faults)}")
    return playbook


def _named(error: str) -> str:
    """The place that a message of msgspec's names, e.g. "steps[3].mode"; a field it does not know is at its end."""
    place = re.search(r"at `\$\.?([^`]*)`", error)
    field = re.search(r"unknown field `([^`]*)`", error)
    return ".".join(part for part in (place and place[1], field and field[1]) if part)


def _line(text: str, place: str) -> int:
    """The line, from 1, on which a key stands; that of what it belongs to where it is missing."""
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if many := re.match(r"\s*\[\[\s*([a-z_]+)\s*\]\]", line):
            counts[many[1]] = counts.get(many[1], -1) + 1
            table = f"{many[1]}[{counts[many[1]]}]"
            lines[table] = number
        elif one := re.match(r"\s*\[\s*([a-z_]+)(?:\.([a-z_]+))?\s*\]", line):
            table = f"{one[1]}[{counts[one[1]]}]" if one[1] in counts else one[1]
            table += f".{one[2]}" if one[2] else ""
            lines[table] = number
        elif key := re.match(r"\s*([A-Za-z_]+)\s*=", line):
            lines.setdefault(f"{table}.{key[1]}".removeprefix("."), number)
    while place and place not in lines:
        place = place[: max(place.rfind("."), place.rfind("["), 0)]
    return lines.get(place, 1)


def _faults(playbook: Playbook) -> list[str]:
    """Everything that does not hold, each beginning with the key that it is about."""
    steps = playbook.steps
    names = [step.name for step in steps]
    faults = [f"steps[{n}].name: {name!r} is taken by an earlier step" for n, name in enumerate(names) if name in names[:n]]
    for n, step in enumerate(steps):
        rules = (*_rules(step, last=n + 1 == len(steps), first=n == 0), *_rules_of_jumps(playbook, n))
        faults += [f"steps[{n}].{what}" for broken, what in rules if broken]
    faults += [
        f"steps[{n}].when.{key}: {wrong}"
        for n, step in enumerate(steps)
        if step.when is not None
        for key, named in (("detectors", step.when.detectors), ("not_detectors", step.when.not_detectors))
        for name in named
        if (wrong := stranger(name))
    ]
    faults += [f"alarm_may_last_s.{name}: {wrong}" for name in playbook.alarm_may_last_s if (wrong := stranger(name))]
    served = [step.mode for step in steps if step.action is Action.SERVE]
    if served and served[-1] is not Mode.NORMAL:
        faults.append("steps: the last serve must be normal, or the context stays in safe mode for ever")
    jumps = {"on_relapse": playbook.on_relapse, "on_human_close": playbook.on_human_close}
    if Mode.SAFE in served:
        faults += [f"{key}: missing, and the playbook serves the safe mode" for key, name in jumps.items() if name is None]
    faults += [f"{key}: no step {name!r}" for key, name in jumps.items() if name is not None and name not in names]
    if playbook.relapse_within_s is not None and playbook.on_relapse is None:
        faults.append("relapse_within_s: not without on_relapse")
    roles = [one.role for one in playbook.calls]
    return faults + [f"calls[{n}].role: {role} is called earlier in the chain" for n, role in enumerate(roles) if role in roles[:n]]


def _rules(step: Step, *, last: bool, first: bool) -> tuple[tuple[bool, str], ...]:
    """What one step must keep to: (whether it is broken, key and what is wrong)."""
    action, when = step.action, step.when
    onset, calm, close = action is Action.AWAIT_ONSET, action is Action.AWAIT_CALM, action is Action.CLOSE
    limited = step.waits and not onset
    lost = "missing" if step.time_limit_s is None else "not"
    order = tuple(Severity)
    return (
        (
            (step.mode is not None) != (action in NEEDS_MODE),
            f"mode: {'missing' if step.mode is None else 'not'} for action {action}",
        ),
        ((step.time_limit_s is not None) != limited, f"time_limit_s: {lost} for action {action}"),
        (onset and step.dwell_s is None, "dwell_s: missing for action await_onset"),
        (onset and step.onset_signals is None, "onset_signals: missing for action await_onset"),
        (step.dwell_s is not None and not (onset or calm), f"dwell_s: not for action {action}"),
        (step.onset_signals is not None and not onset, f"onset_signals: not for action {action}"),
        (onset and not first, "action: await_onset belongs to the first step, and only there"),
        (onset != (step.state is State.SUSPECTED), "state: suspected belongs to await_onset, and only there"),
        (close != last, "action: close belongs to the last step, and only there"),
        (close != (step.state is State.CLOSED), "state: closed belongs to the step that closes, and only there"),
        (action is Action.MANUAL and not step.approval, "approval: missing for action manual: who says that it is done?"),
        (action is Action.MANUAL and not step.text, "text: missing for action manual: what is to be done?"),
        (bool(step.approval) and (action in WAITS - {Action.MANUAL} or close), f"approval: not for action {action}"),
        (len(set(step.approval)) < len(step.approval), "approval: a role is named twice"),
        (step.retries > 0 and action is not Action.AWAIT_REPORTS, f"retries: not for action {action}"),
        (step.on_failure is not None and not limited, f"on_failure: action {action} cannot fail"),
        (step.renews and action is not Action.MANUAL, f"renews: not for action {action}"),
        (when is not None and (close or action is Action.AWAIT_REPORTS), f"when: not for action {action}"),
        (when == Condition(), "when: names nothing that must hold"),
        (
            when is not None and when.below is not None and order.index(when.below) <= order.index(when.at_least or Severity.LOW),
            "when: no severity is below the one and at least the other",
        ),
    )


def _rules_of_jumps(playbook: Playbook, n: int) -> tuple[tuple[bool, str], ...]:
    """What a step must keep to beside the other steps."""
    step, following, earlier = playbook.steps[n], playbook.steps[n + 1 : n + 2], playbook.steps[:n]
    by_name = {one.name: one for one in playbook.steps}
    undo, failed = by_name.get(step.undo or ""), by_name.get(step.on_failure or "")
    serves = step.action is Action.SERVE
    safe = serves and step.mode is Mode.SAFE
    return (
        (
            serves and [(one.action, one.mode) for one in following] != [(Action.AWAIT_REPORTS, step.mode)],
            f"action: serve {step.mode} must be followed by await_reports {step.mode}, or nobody knows that it is done",
        ),
        (
            step.action is Action.AWAIT_REPORTS and [(one.action, one.mode) for one in earlier[-1:]] != [(Action.SERVE, step.mode)],
            f"action: await_reports {step.mode} must come right after serve {step.mode}, or nobody was asked",
        ),
        (safe and step.undo is None, "undo: missing for serve safe: which step goes back?"),
        (step.undo is not None and not safe, "undo: only serve safe is undone by a step"),
        (
            step.undo is not None and (undo is None or undo in earlier or (undo.action, undo.mode) != (Action.SERVE, Mode.NORMAL)),
            f"undo: {step.undo!r} is no later step that serves the normal mode",
        ),
        (
            step.on_failure is not None
            and (failed is None or failed is step or failed.action in {Action.AWAIT_REPORTS, Action.AWAIT_ONSET}),
            f"on_failure: {step.on_failure!r} is no other step that can be begun with",
        ),
        (
            step.action is Action.MANUAL
            and failed in playbook.steps[n + 1 :]
            and failed is not None
            and failed.action is not step.action,
            f"on_failure: {step.on_failure!r} goes on as if people had done what they refused; name an earlier or a manual step",
        ),
    )


def load() -> Mapping[Kind, Playbook]:
    """Every packaged playbook by kind. Raises BadInput if one does not hold, two share a kind, or a kind has none."""
    found: dict[Kind, Playbook] = {}
    folder = files("responders").joinpath("playbooks")
    for file in sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name):
        playbook = parse(file.read_text(encoding="utf-8"), f"responders/playbooks/{file.name}")
        if playbook.kind in found:
            raise BadInput(f"responders/playbooks/{file.name}: kind {playbook.kind} has a playbook already; keep one")
        found[playbook.kind] = playbook
    missing = [kind for kind in Kind if kind not in found]
    if missing:
        raise BadInput(f"no playbook for {', '.join(missing)} in responders/playbooks: add a file for each")
    return found
