"""Playbooks: what is done about each kind of incident, as data, checked before anything trusts it.

It decides whether a playbook file holds together, and refuses one that does not, naming file, line and key. It knows no incident,
clock or topic; `deciding.py` walks the steps. The files lie in `playbooks/`, one a kind; an open incident carries the playbook
it began with, so a changed file takes effect with the next incident.

Source: paper 4.6 (incident response: safe mode before performance), 4.7 (evidence is kept), NIST SP 800-61r3 (functions),
MITRE ATLAS v5.6.1 (techniques AML.T, mitigations AML.M).
"""

import tomllib
from collections.abc import Mapping
from enum import StrEnum
from importlib.resources import files
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from responders.roles import Role
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


Technique = Annotated[str, Meta(pattern=r"^AML\.T\d{4}(\.\d{3})?$")]
Mitigation = Annotated[str, Meta(pattern=r"^AML\.M\d{4}$")]
StepName = Annotated[str, Meta(pattern=r"^[a-z][a-z_]{0,31}$")]
Seconds = Annotated[float, Meta(gt=0.0)]


class Condition(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a step is to be done; everything that is named must hold. A step that waits is left as soon as it holds no more.

    at_least, below: the incident's severity. contexts: where it is. causes, confidence: the diagnosis, and how sure it is at least.
    mode: what this incident asks its context to be served in.
    """

    at_least: Severity | None = None
    below: Severity | None = None
    contexts: tuple[Context, ...] = ()
    causes: tuple[Cause, ...] = ()
    confidence: Share | None = None
    mode: Mode | None = None


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step. `state` is the incident's while it stands here; past `time_limit_s` seconds of waiting a human is called.

    text: what it is for, or what people are to do. when: else it is left out. approval: people with these roles, a different one
    for each, must approve before it is done. retries: reports that do not come are asked for so often again, spread over the time
    limit. undo: the step that takes this one back; that step is left out where there is nothing to take back. on_failure: where to
    go on when it fails (a human rejects it, the limit passes); by default it is left out when rejected, and waited on when late.
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

    base: at least that. contexts: one degree worse there. cameras: one degree worse from so many cameras with this kind on, in
    one context. doubtful_below: one degree better while the diagnosis is less sure than this, but never below what a detector says.
    """

    base: Severity = Severity.LOW
    contexts: tuple[Context, ...] = ()
    cameras: Annotated[int, Meta(ge=2)] | None = None
    doubtful_below: Share | None = None


class Playbook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The steps for one kind of incident.

    `on_relapse` names the step to go back to when the finding comes back after calm, at most `max_relapses` times before a
    human has to decide; `on_human_close` names the step from which a human's close proceeds, so that safe mode is undone in the
    closed loop. `calls` is the chain of people, empty where nobody is called.
    """

    kind: Kind
    version: Annotated[int, Meta(ge=1)]
    title: Annotated[str, Meta(min_length=1)]
    techniques: tuple[Technique, ...] = ()
    steps: Annotated[tuple[Step, ...], Meta(min_length=1)]
    on_relapse: StepName | None = None
    max_relapses: Annotated[int, Meta(ge=0)] = 0
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
    """A playbook from TOML; `where` names the file in messages.

    Raises BadInput naming file and key (for broken TOML file and line).
    """
    try:
        playbook = msgspec.convert(tomllib.loads(text), Playbook)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{where} is no TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise BadInput(f"{where} does not hold: {error}") from error
    faults = _faults(playbook)
    if faults:
        raise BadInput(f"{where} does not hold: {'; '.join(faults)}")
    return playbook


def _faults(playbook: Playbook) -> list[str]:
    names = [step.name for step in playbook.steps]
    faults = [f"steps[{n}].name: {name!r} is taken by an earlier step" for n, name in enumerate(names) if name in names[:n]]
    for n, step in enumerate(playbook.steps):
        faults += [f"steps[{n}].{fault}" for fault in _faults_of_step(step, playbook.steps[n + 1 : n + 2])]
    served = [step.mode for step in playbook.steps if step.action is Action.SERVE]
    if served and served[-1] is not Mode.NORMAL:
        faults.append("steps: the last serve must be normal, or the context stays in safe mode for ever")
    jumps = {"on_relapse": playbook.on_relapse, "on_human_close": playbook.on_human_close}
    if Mode.SAFE in served:
        faults += [f"{key}: missing, and the playbook serves the safe mode" for key, name in jumps.items() if name is None]
    return faults + [f"{key}: no step {name!r}" for key, name in jumps.items() if name is not None and name not in names]


def _faults_of_step(step: Step, following: tuple[Step, ...]) -> list[str]:
    faults = []
    if (step.mode is not None) != (step.action in NEEDS_MODE):
        faults.append(f"mode: {'missing' if step.mode is None else 'not'} for action {step.action}")
    if (step.time_limit_s is not None) != (step.action in WAITS):
        faults.append(f"time_limit_s: {'missing' if step.time_limit_s is None else 'not'} for action {step.action}")
    if (step.action is Action.CLOSE) != (not following):
        faults.append("action: close belongs to the last step, and only there")
    if (step.action is Action.CLOSE) != (step.state is State.CLOSED):
        faults.append("state: closed belongs to the step that closes, and only there")
    if step.action is Action.SERVE and [(next_.action, next_.mode) for next_ in following] != [(Action.AWAIT_REPORTS, step.mode)]:
        faults.append(f"action: serve {step.mode} must be followed by await_reports {step.mode}, or nobody knows that it is done")
    return faults


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
