"""What an incident is, and what is decided about it: a pure fold of events over a frozen state.

It decides when an incident opens, which frames are set aside, which mode it needs a context to serve, when that counts as done,
when people are called and when it is over. It refuses to treat silence as calm, a missing report as success, or a repeat as
news. It has no clock, no chance and no I/O: `store.py` feeds it (topics `signals` and `worker-status`, human acts, ticks) and
`effects.py` carries out what it decided.

    open -> containing -> contained -> recovering -> closed        the states of the evasion playbook; a playbook names its own
                 ^                        |
                 +------- relapse --------+                        at most `max_relapses` times, then a human decides

Source: paper 4.6 (safe mode), 4.7 (incident response plan), NIST SP 800-61r3.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from responders.playbooks import Action, Playbook, State, Step
from responders.windows import joined, missing
from streams.errors import BadInput
from streams.events import Context, Kind, Mode, Phase, Severity, Signal, Window, event_id

RESPONDER = "responder"
"""The actor of everything that no human did."""


class Resolution(StrEnum):
    """Why an incident is over."""

    RECOVERED = "recovered"  # calm was proven, and normal service is confirmed
    FALSE_ALARM = "false_alarm"  # a human judged that nothing was wrong
    HANDLED = "handled"  # a human dealt with it


class Verb(StrEnum):
    """What a human may do."""

    ACKNOWLEDGE = "acknowledge"
    NOTE = "note"
    CLOSE = "close"


@dataclass(frozen=True)
class Act:
    """A human's act on an incident; `comment` says why and is never empty. Raises BadInput if it or the actor is blank."""

    id: str
    time: datetime
    incident_id: str
    verb: Verb
    actor: str
    comment: str
    resolution: Resolution = Resolution.HANDLED

    def __post_init__(self) -> None:
        if not self.actor.strip() or not self.comment.strip():
            raise BadInput(f"{self.verb} needs an actor and a comment; give both (--actor, --comment)")


@dataclass(frozen=True)
class Tick:
    """A moment, and what is known of the workers then.

    `asked` is the mode that the incident's context is asked to serve; `live` are the workers heard of lately; `agreeing` those
    of them that report the very decision and weights asked for.
    """

    time: datetime
    asked: Mode
    live: tuple[str, ...] = ()
    agreeing: tuple[str, ...] = ()

    def confirms(self, mode: Mode) -> bool:
        """Whether every live worker, and at least one, serves `mode` as asked (design, promise 4)."""
        return self.asked is mode and bool(self.live) and set(self.live) <= set(self.agreeing)


Happening = Signal | Act | Tick


@dataclass(frozen=True)
class Record:
    """Something that happened to the incident, for the timeline and everybody who watches."""

    id: str
    state: State
    actor: str
    action: str
    what: str


@dataclass(frozen=True)
class SetAside:
    """Frames to be quarantined."""

    id: str
    state: State
    window: Window
    what: str
    actor: str = RESPONDER
    action: str = "quarantine"


@dataclass(frozen=True)
class Serve:
    """The mode that this incident wants its context served in. Safe wins while any incident of the context wants it."""

    id: str
    state: State
    mode: Mode
    what: str
    actor: str = RESPONDER
    action: str = "serve"


Decision = Record | SetAside | Serve


class Finding(Struct, frozen=True):
    """The last that one detector said, and up to which frame."""

    detector: str
    phase: Phase
    epoch: int
    last_sequence: int

    def is_older_than(self, other: "Finding") -> bool:
        """Whether `other` is news after this. At the same frame calm is the later word: an alarm ends where it last stood."""
        mine, others = (self.epoch, self.last_sequence), (other.epoch, other.last_sequence)
        return mine < others or (mine == others and (other.phase is Phase.CALM or self.phase is not Phase.CALM))


class Incident(Struct, frozen=True, kw_only=True):
    """All that is known of one incident; plain data, so that it rests in the database as JSON.

    `position` is the step where it stands, `since` the first tick seen there (time limits run from it), `overdue` whether that
    limit has passed. `seen` is what detectors called suspicious, `covered` what was ordered into quarantine. `decided` counts
    decisions.
    """

    id: str
    kind: Kind
    camera_id: str
    context: Context
    playbook: Playbook
    severity: Severity
    detected_at: datetime
    position: int = 0
    since: datetime | None = None
    overdue: bool = False
    signals: int = 0
    findings: tuple[Finding, ...] = ()
    seen: tuple[Window, ...] = ()
    covered: tuple[Window, ...] = ()
    relapses: int = 0
    needs_safe: bool = False
    escalated: str = ""
    decided: int = 0
    resolution: Resolution | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str = ""
    contained_at: datetime | None = None
    recovered_at: datetime | None = None
    closed_at: datetime | None = None

    @property
    def step(self) -> Step:
        """The step where the incident stands."""
        return self.playbook.steps[self.position]

    @property
    def state(self) -> State:
        """The state that this step belongs to."""
        return self.step.state

    @property
    def calm(self) -> bool:
        """Whether every detector that spoke has said calm since; silence is not calm."""
        return bool(self.findings) and all(finding.phase is Phase.CALM for finding in self.findings)

    @property
    def held(self) -> bool:
        """Whether it came back too often to be undone without a human."""
        return self.relapses > 0 and self.relapses >= self.playbook.max_relapses


def opened(signal: Signal, playbook: Playbook) -> Incident:
    """The incident that a RAISED signal opens, before anything is decided; give the same signal to `decide` and `evolve` next."""
    return Incident(
        id=event_id("incident", signal.camera_id, signal.context, signal.kind, signal.id),
        kind=signal.kind,
        camera_id=signal.camera_id,
        context=signal.context,
        playbook=playbook,
        severity=signal.severity,
        detected_at=signal.time,
    )


def decide(state: Incident, event: Happening) -> tuple[Decision, ...]:
    """What is to be done after `event`; ids are content addresses of (incident, step, number), the same at every replay."""
    return tuple(_after(state, event).decisions)


def evolve(state: Incident, event: Happening) -> Incident:
    """The incident after `event`; the very object that was given where nothing changes."""
    return _after(state, event).incident


class _Turn:
    """One event's turn: the incident as it moves, and the decisions on the way."""

    def __init__(self, incident: Incident) -> None:
        self.incident = incident
        self.decisions: list[Decision] = []

    def _next_id(self) -> str:
        number = self.incident.decided
        self.incident = replace(self.incident, decided=number + 1)
        return event_id("decision", self.incident.id, self.incident.step.name, number)

    def go(self, position: int) -> None:
        self.incident = replace(self.incident, position=position, since=None, overdue=False)

    def record(self, action: str, what: str, actor: str = RESPONDER) -> None:
        self.decisions.append(Record(self._next_id(), self.incident.state, actor, action, what))

    def escalate(self, why: str) -> None:
        self.incident = replace(self.incident, escalated=why)
        self.record("escalate", why)

    def set_aside(self) -> None:
        """Order what is suspicious and not yet ordered."""
        for window in missing(self.incident.seen, self.incident.covered):
            what = f"frames {window.first_sequence} to {window.last_sequence} (epoch {window.epoch}) go to quarantine"
            self.decisions.append(SetAside(self._next_id(), self.incident.state, window, what))
        self.incident = replace(self.incident, covered=self.incident.seen)

    def serve(self, mode: Mode) -> None:
        self.incident = replace(self.incident, needs_safe=mode is Mode.SAFE)
        what = f"{self.incident.context} is to be served by its {mode} model"
        self.decisions.append(Serve(self._next_id(), self.incident.state, mode, what))


def _after(state: Incident, event: Happening) -> _Turn:
    turn = _Turn(state)
    if isinstance(event, Act) and event.verb is Verb.NOTE:
        turn.record("note", event.comment, event.actor)
    if state.state is State.CLOSED:
        return turn
    if isinstance(event, Signal):
        _hear(turn, event)
    elif isinstance(event, Act):
        _obey(turn, event)
    _walk(turn, event)
    if isinstance(event, Tick):
        _check_time(turn, event)
    return turn


def _hear(turn: _Turn, signal: Signal) -> None:
    before = turn.incident
    _take_in(turn, signal)
    if before.signals == 0:
        turn.record("open", signal.message or f"{signal.kind} raised by {signal.detector}")
    elif turn.incident.severity is not before.severity:
        turn.record("worse", f"severity is now {signal.severity}, says {signal.detector}")
    if turn.incident.calm and not before.calm:
        turn.record("calm", f"{signal.detector} says calm, as every detector that raised")
    if before.playbook.on_relapse is not None and _is_relapse(before, turn.incident, signal):
        turn.incident = replace(turn.incident, relapses=before.relapses + 1, resolution=None)
        turn.go(before.playbook.position(before.playbook.on_relapse))
        turn.record("relapse", f"{signal.detector} raises again, time {turn.incident.relapses}")
        if turn.incident.held:
            turn.escalate(f"came back {turn.incident.relapses} times: safe mode stays until a human closes the incident")
    if any(step.action is Action.QUARANTINE for step in turn.incident.playbook.steps[: turn.incident.position]):
        turn.set_aside()


def _is_relapse(before: Incident, after: Incident, signal: Signal) -> bool:
    if before.state is not State.RECOVERING:
        return False
    if before.resolution is None:
        return before.calm and not after.calm
    # An alarm that merely goes on does not overrule the human who has just closed; a fresh one does.
    return signal.phase is Phase.RAISED and _fresh(before, signal)


def _finding(signal: Signal) -> Finding:
    return Finding(signal.detector, signal.phase, signal.window.epoch, signal.window.last_sequence)


def _fresh(incident: Incident, signal: Signal) -> bool:
    known = {finding.detector: finding for finding in incident.findings}.get(signal.detector)
    return known is None or known.is_older_than(_finding(signal))


def _take_in(turn: _Turn, signal: Signal) -> None:
    incident = turn.incident
    findings = incident.findings
    if _fresh(incident, signal):
        findings = (*(known for known in findings if known.detector != signal.detector), _finding(signal))
    order = list(Severity)
    turn.incident = replace(
        incident,
        signals=incident.signals + 1,
        findings=findings,
        seen=joined((*incident.seen, signal.window)),
        severity=max(incident.severity, signal.severity, key=order.index),
    )


def _obey(turn: _Turn, act: Act) -> None:
    incident = turn.incident
    if act.verb is Verb.ACKNOWLEDGE:
        if incident.acknowledged_at is None:
            turn.incident = replace(incident, acknowledged_at=act.time, acknowledged_by=act.actor)
        turn.record("acknowledge", act.comment, act.actor)
    elif act.verb is Verb.CLOSE:
        turn.record("close", f"{act.resolution}: {act.comment}", act.actor)
        asked_before = incident.resolution is not None
        turn.incident = replace(turn.incident, resolution=act.resolution)
        restore = incident.playbook.on_human_close
        if restore is not None and incident.needs_safe:
            turn.go(incident.playbook.position(restore))
        elif incident.state is State.RECOVERING and not asked_before:
            return  # the normal model is asked for already; the reports close it, or a second close does
        else:
            turn.go(len(incident.playbook.steps) - 1)


def _walk(turn: _Turn, event: Happening) -> None:
    while True:
        incident, step = turn.incident, turn.incident.step
        if step.action is Action.QUARANTINE:
            turn.set_aside()
        elif step.action is Action.SERVE:
            assert step.mode is not None  # the playbook was checked
            turn.serve(step.mode)
        elif step.action is Action.AWAIT_REPORTS:
            assert step.mode is not None
            if not (isinstance(event, Tick) and event.confirms(step.mode)):
                return
            _confirmed(turn, event, step.mode)
        elif step.action is Action.AWAIT_CALM:
            if not incident.calm or incident.held:
                return
        else:
            resolution = incident.resolution or Resolution.RECOVERED
            turn.incident = replace(incident, resolution=resolution, needs_safe=False, closed_at=event.time)
            turn.record("closed", f"closed: {resolution}")
            return
        turn.go(incident.position + 1)


def _confirmed(turn: _Turn, tick: Tick, mode: Mode) -> None:
    if mode is Mode.SAFE:
        if turn.incident.contained_at is None:
            turn.incident = replace(turn.incident, contained_at=tick.time)
    else:
        turn.incident = replace(turn.incident, recovered_at=tick.time)
    action = "contained" if mode is Mode.SAFE else "restored"
    turn.record(action, f"every live worker reports the {mode} model: {', '.join(tick.live)}")


def _check_time(turn: _Turn, tick: Tick) -> None:
    incident, step = turn.incident, turn.incident.step
    if step.time_limit_s is None or incident.overdue:
        return
    if step.action is Action.AWAIT_REPORTS and tick.asked is not step.mode:
        # Another incident of the context still needs safe mode: nothing was asked of the workers, so no limit runs.
        if incident.since is not None:
            turn.incident = replace(incident, since=None)
        return
    if incident.since is None:
        turn.incident = replace(incident, since=tick.time)
    elif tick.time - incident.since >= timedelta(seconds=step.time_limit_s):
        turn.incident = replace(incident, overdue=True)
        turn.escalate(f"{step.name} took longer than {step.time_limit_s:g} s: {_lacking(step, tick)}")


def _lacking(step: Step, tick: Tick) -> str:
    if step.action is Action.AWAIT_CALM:
        return "no proof of calm came; look at the camera and its detectors"
    late = sorted(set(tick.live) - set(tick.agreeing))
    if not late:
        return "no worker is alive; start one (kerbwatch status)"
    return f"not reported by {', '.join(late)}; look at these workers (kerbwatch status)"
