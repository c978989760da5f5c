"""Playbooks: what is done about each kind of incident, as data, checked before anything trusts it.

It decides whether a playbook file holds together, and refuses one that does not, naming file and key. It knows no incident,
clock or topic; `incident.py` walks the steps. The files lie in `playbooks/`, one a kind; an open incident carries the playbook
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

from streams.errors import BadInput
from streams.events import Kind, Mode


class State(StrEnum):
    """Where an incident is."""

    OPEN = "open"  # known and recorded
    CONTAINING = "containing"  # safe mode is asked for; not every live worker has reported it
    CONTAINED = "contained"  # every live worker has reported safe mode
    RECOVERING = "recovering"  # the normal model is asked for; not every live worker has reported it
    CLOSED = "closed"  # over, with a resolution


class Action(StrEnum):
    """What a step does. The first two act and are done; the next two wait; the last ends the incident."""

    QUARANTINE = "quarantine"  # set the suspicious frames aside, now and as the window grows
    SERVE = "serve"  # ask every worker to serve the context in a mode
    AWAIT_REPORTS = "await_reports"  # until every live worker reports that mode
    AWAIT_CALM = "await_calm"  # until every detector that raised has said calm; silence is not calm
    CLOSE = "close"


class Function(StrEnum):
    """The function of NIST SP 800-61r3 (CSF 2.0) that a step belongs to."""

    DETECT = "detect"
    RESPOND = "respond"
    RECOVER = "recover"


Technique = Annotated[str, Meta(pattern=r"^AML\.T\d{4}(\.\d{3})?$")]
Mitigation = Annotated[str, Meta(pattern=r"^AML\.M\d{4}$")]
StepName = Annotated[str, Meta(pattern=r"^[a-z][a-z_]{0,31}$")]

_WAITS = (Action.AWAIT_REPORTS, Action.AWAIT_CALM)
_NEEDS_MODE = (Action.SERVE, Action.AWAIT_REPORTS)


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step. `state` is the incident's while it stands here; past `time_limit_s` seconds of waiting a human is called."""

    name: StepName
    action: Action
    state: State
    function: Function
    mode: Mode | None = None
    time_limit_s: Annotated[float, Meta(gt=0.0)] | None = None
    mitigations: tuple[Mitigation, ...] = ()


class Playbook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The steps for one kind of incident.

    `on_relapse` names the step to go back to when the finding comes back after calm, at most `max_relapses` times before a
    human has to decide; `on_human_close` names the step from which a human's close proceeds, so that safe mode is undone in the
    closed loop.
    """

    kind: Kind
    version: Annotated[int, Meta(ge=1)]
    title: Annotated[str, Meta(min_length=1)]
    techniques: tuple[Technique, ...] = ()
    steps: Annotated[tuple[Step, ...], Meta(min_length=1)]
    on_relapse: StepName | None = None
    max_relapses: Annotated[int, Meta(ge=0)] = 0
    on_human_close: StepName | None = None

    def position(self, name: str) -> int:
        """Where the step `name` stands, from 0. Raises BadInput if there is none."""
        for position, step in enumerate(self.steps):
            if step.name == name:
                return position
        raise BadInput(f"playbook {self.kind} has no step {name!r}; its steps are {', '.join(step.name for step in self.steps)}")


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
    if (step.mode is not None) != (step.action in _NEEDS_MODE):
        faults.append(f"mode: {'missing' if step.mode is None else 'not'} for action {step.action}")
    if (step.time_limit_s is not None) != (step.action in _WAITS):
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
