"""A drill as a file: steady state, method, what must follow, and how it is undone.

It decides whether a scenario file holds together, and refuses one that does not, naming file and key. It runs nothing
(`rounds.py`) and judges nothing (`referee.py`). The files lie in `scenarios/`, one a scenario. No topic feeds it.

Source: Principles of Chaos Engineering (a hypothesis about a steady state); the shape steady state, method, rollbacks is Chaos
Toolkit's; paper 4.7 (the incident response plan is exercised).
"""

import tomllib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from importlib.resources import files
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from infra.metrics import Service
from responders.engine.incident import Resolution
from responders.playbooks.playbooks import State
from streams.errors import BadInput
from streams.events import Context, Kind, Mode, Share

Seconds = Annotated[float, Meta(ge=0.0, le=3600.0)]


class Do(StrEnum):
    """What a step of a method or of an undo does."""

    ATTACK = "attack"  # a camera's stream turns bad for `for_s` seconds, in the way that `attack` names
    STOP = "stop"  # a process stands still (SIGSTOP)
    RESUME = "resume"  # and goes on
    KILL = "kill"  # a process is killed (SIGKILL); the supervisor starts it again
    CLOSE = "close"  # a human closes the newest open incident of the camera, with `resolution`
    APPROVE = "approve"  # people in the roles that the playbook asks for approve the step where that incident stands
    STORM = (
        "storm"  # `count` signals within `for_s` seconds on eight cameras that do not exist; the next step does not wait for them
    )
    CALM = "calm"  # the storm's cameras say calm
    TAMPER = "tamper"  # a byte of the registry's weights of `mode` changes, and the worker starts again
    RESTORE = "restore"  # the byte is as it was
    CLEAN = "clean"  # `count` more cameras, of all weathers, play clean pictures for `for_s` seconds, two a second
    POISON = "poison"  # a training batch with flipped labels is offered to vetting
    WAIT = "wait"  # until an incident of the camera is in `state`


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step, `after_s` seconds after the one before it; which of the other keys it needs is in `_NEEDS`.

    `camera` None means the scenario's own; CLOSE and APPROVE take whatever an incident stands under (`training-data`). `kind` None
    means the kinds that the scenario expects. `attack` is a name of `kerbwatch chaos list` or of `staging.PREPARED`; several joined
    by "+" act one after the other on each picture.
    """

    do: Do
    after_s: Seconds = 0.0
    camera: str | None = None
    attack: str | None = None
    for_s: Seconds | None = None
    full_after_s: Seconds | None = None
    process: Service | None = None
    resolution: Resolution | None = None
    count: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    mode: Mode | None = None
    state: State | None = None
    kind: Kind | None = None


_NEEDS: Mapping[Do, tuple[str, ...]] = {
    Do.ATTACK: ("attack", "for_s"),
    Do.STOP: ("process",),
    Do.RESUME: ("process",),
    Do.KILL: ("process",),
    Do.CLOSE: ("resolution",),
    Do.APPROVE: (),
    Do.STORM: ("count", "for_s"),
    Do.CALM: (),
    Do.TAMPER: ("mode",),
    Do.RESTORE: (),
    Do.CLEAN: ("count", "for_s"),
    Do.POISON: (),
    Do.WAIT: ("state",),
}
_MAY = {Do.ATTACK: ("full_after_s",), Do.CLOSE: ("kind",), Do.WAIT: ("kind",), Do.APPROVE: ("kind",)}
_EVERY = ("do", "after_s", "camera")


class Expect(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must be found. What is neither expected where it was opened nor in `allowed` is a false incident.

    incidents: kinds that must be opened on the camera; where several are named all must. any_of: kinds of which one must be.
    places: where a kind must be opened instead of on the camera ("*" for any letters). actions: all of them must stand in the
    timeline of one such incident. end: the state that they must reach within `within_s` of the method's last step.
    detect_within_s, contain_within_s: of the first attacked frame (event time), to the incident and to the workers' report.
    set_aside: share of the attacked frames that must be in quarantine afterwards. witness: whether the other camera must be served
    as if nothing were. interrupted: whether a `kill` must fall between an incident's opening and the workers' report. pages:
    messages that call people, on each channel.
    """

    incidents: tuple[Kind, ...] = ()
    any_of: tuple[Kind, ...] = ()
    allowed: tuple[Kind, ...] = ()
    places: dict[Kind, str] = {}
    actions: tuple[str, ...] = ()
    end: State | None = None
    within_s: Seconds = 60.0
    detect_within_s: Seconds | None = None
    contain_within_s: Seconds | None = None
    set_aside: Share = 0.0
    escalates: bool = False
    witness: bool = True
    answers_within_s: Seconds | None = None
    """What the CLI may take to list incidents meanwhile, its own start included."""
    most_incidents: Annotated[int, Meta(ge=0)] | None = None
    pages: Annotated[int, Meta(ge=0)] | None = None
    interrupted: bool = False
    refused: bool = False
    """Whether the poisoned batch must be held back."""

    @property
    def wanted(self) -> frozenset[Kind]:
        """The kinds that are expected."""
        return frozenset((*self.incidents, *self.any_of))

    @property
    def switches(self) -> bool:
        """Whether the camera's model may be switched: where that must be on record, or an attack on the model may be found."""
        return "serve" in self.actions or Kind.EVASION in self.allowed

    def explains(self, kind: str, camera_id: str, subject: str) -> bool:
        """Whether an incident of `kind` about `camera_id` is one of those expected, where the scenario's camera is `subject`."""
        known = next((one for one in self.wanted if one == kind), None)
        return known is not None and fnmatchcase(camera_id, self.places.get(known, subject))


class Scenario(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One drill. `context` says which of the two cameras is the subject; the other is the witness.

    `learn_s`: so long must the camera have run before (drift needs its baseline). `watch_s`: how long one still looks on.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
    title: Annotated[str, Meta(min_length=1)]
    hypothesis: Annotated[str, Meta(min_length=1)]
    security: bool = True
    context: Context = Context.URBAN
    techniques: tuple[Annotated[str, Meta(pattern=r"^AML\.T\d{4}(\.\d{3})?$")], ...] = ()
    learn_s: Seconds = 0.0
    watch_s: Seconds = 3.0
    long: bool = False
    """Played only where it is asked for by name."""
    method: Annotated[tuple[Step, ...], Meta(min_length=1)]
    expect: Expect = Expect()
    undo: tuple[Step, ...] = ()

    @property
    def signals(self) -> int:
        """How many signals its storms send."""
        return sum(step.count or 0 for step in self.method if step.do is Do.STORM)

    @property
    def clean(self) -> Sequence[Step]:
        """Its steps that let more cameras play."""
        return [step for step in self.method if step.do is Do.CLEAN]


def parse(text: str, where: str) -> Scenario:
    """A scenario from TOML; `where` names the file in messages. Raises BadInput naming file and key."""
    try:
        scenario = msgspec.convert(tomllib.loads(text), Scenario)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{where} is no TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise BadInput(f"{where} does not hold: {error}") from error
    faults = [
        f"{part}[{number}].{fault}"
        for part, steps in (("method", scenario.method), ("undo", scenario.undo))
        for number, step in enumerate(steps)
        for fault in _faults(step)
    ]
    faults += _left_undone(scenario)
    if faults:
        raise BadInput(f"{where} does not hold: {'; '.join(faults)}")
    return scenario


def _faults(step: Step) -> list[str]:
    given = {name for name in step.__struct_fields__ if name not in _EVERY and getattr(step, name) is not None}
    needed, may = set(_NEEDS[step.do]), set(_MAY.get(step.do, ()))
    faults = [f"{name}: missing for {step.do}" for name in sorted(needed - given)]
    return faults + [f"{name}: not for {step.do}" for name in sorted(given - needed - may)]


def _left_undone(scenario: Scenario) -> list[str]:
    """What the method harms must be mended by it or by the undo: a drill leaves nothing behind."""
    steps = (*scenario.method, *scenario.undo)
    stopped = {step.process for step in steps if step.do is Do.STOP}
    resumed = {step.process for step in steps if step.do is Do.RESUME}
    faults = [f"undo: {process} is stopped and nothing resumes it" for process in sorted(stopped - resumed, key=str)]
    done = {step.do for step in steps}
    if Do.TAMPER in done and Do.RESTORE not in done:
        faults.append("undo: weights are tampered with and nothing restores them")
    return faults


def load() -> Mapping[str, Scenario]:
    """Every packaged scenario by name, in the order of their files. Raises BadInput if one does not hold or two share a name."""
    found: dict[str, Scenario] = {}
    folder = files("streams").joinpath("drill", "scenarios")
    for file in sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name):
        where = f"streams/drill/scenarios/{file.name}"
        scenario = parse(file.read_text(encoding="utf-8"), where)
        if scenario.name in found:
            raise BadInput(f"{where}: the name {scenario.name} is taken by another scenario; choose one of its own")
        found[scenario.name] = scenario
    return found
