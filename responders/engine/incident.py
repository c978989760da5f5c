"""What an incident is: its state, what happens to it, and what can be decided about it. Frozen data, nothing else.

It decides nothing: `deciding.py` does, as a pure fold of happenings over this state. It refuses an act that lacks what its verb
needs. Fed through `store.py` (topics `signals` and `worker-status`, human acts, ticks); `effects.py` carries out what was decided.

    suspected -> open -> containing -> contained -> recovering -> closed        a playbook names its own
                             ^                          |
                             +-------- relapse ---------+          at most `max_relapses` times, then a human decides

Source: paper 4.6 (safe mode), 4.7 (incident response plan), NIST SP 800-61r3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from responders.people.access import missing
from responders.people.roles import Role
from responders.playbooks.playbooks import Action, Playbook, State, Step
from streams.errors import BadInput
from streams.events import Context, Diagnosis, Kind, Mode, Phase, Severity, Signal, Window, event_id

RESPONDER = "responder"
"""The actor of everything that no human did."""


class Resolution(StrEnum):
    """Why an incident is over."""

    RECOVERED = "recovered"  # calm was proven, and normal service is confirmed
    PASSED = "passed"  # the suspicion was over before it counted
    FALSE_ALARM = "false_alarm"  # a human judged that nothing was wrong
    HANDLED = "handled"  # a human dealt with it


class Verb(StrEnum):
    """What a human may do."""

    ACKNOWLEDGE = "acknowledge"
    NOTE = "note"
    ASSIGN = "assign"
    SNOOZE = "snooze"
    RECLASSIFY = "reclassify"
    APPROVE = "approve"
    REJECT = "reject"
    CLOSE = "close"


class Asking(Struct, frozen=True):
    """What an approval or rejection answers: a step, and the how-manieth step it was that the incident came to (from 0).

    A step that is asked for again, after a relapse or as another kind's, has another number.
    """

    step: str
    number: int


@dataclass(frozen=True)
class Act:
    """A human's act on an incident; `comment` says why and is never empty.

    assignee: who looks after it from now on (ASSIGN). until: when paging goes on (SNOOZE). kind: what it really is (RECLASSIFY);
    `plan` is that kind's playbook, which `store.py` adds. roles: those that the actor has, proven where the act was taken in; an
    approval or rejection counts in these. asking: what it answers (APPROVE, REJECT); it counts for nothing else. doubted: the
    context's normal model (SHA-256) where it judged this incident's suspicious frames, which `store.py` adds to an approval. still:
    the roles that those who approved before have by now, added likewise; as they were if None.

    Raises BadInput where actor, comment or what the verb needs is missing.
    """

    id: str
    time: datetime
    incident_id: str
    verb: Verb
    actor: str
    comment: str
    resolution: Resolution = Resolution.HANDLED
    assignee: str = ""
    until: datetime | None = None
    kind: Kind | None = None
    plan: Playbook | None = None
    roles: tuple[Role, ...] = ()
    asking: Asking | None = None
    doubted: str = ""
    still: Mapping[str, tuple[Role, ...]] | None = None

    def __post_init__(self) -> None:
        if not self.actor.strip() or not self.comment.strip():
            raise BadInput(f"{self.verb} needs an actor and a comment; give both (--actor, --comment)")
        if self.verb is Verb.ASSIGN and not self.assignee.strip():
            raise BadInput("assign needs somebody to assign it to")
        if self.verb is Verb.SNOOZE and (self.until is None or self.until <= self.time):
            raise BadInput("snooze needs an end that is still to come")
        if self.verb is Verb.RECLASSIFY and self.kind is None:
            raise BadInput(f"reclassify needs the kind that it really is: {', '.join(Kind)}")
        if self.verb in {Verb.APPROVE, Verb.REJECT} and self.asking is None:
            raise BadInput(f"{self.verb} needs the step that it answers")


@dataclass(frozen=True)
class Tick:
    """A moment, and what is known of the workers then.

    `asked` is the mode that the incident's context is asked to serve; `live` are the workers heard of lately; `agreeing` those
    of them that report the very decision and weights asked for. `cameras`: how many cameras of the context have an open incident
    of this kind. `judged_at`: when the camera's newest frame was judged (the context's, where the incident is about no camera);
    None where not known: then no time of calm passes.
    """

    time: datetime
    asked: Mode
    live: tuple[str, ...] = ()
    agreeing: tuple[str, ...] = ()
    cameras: int = 1
    judged_at: datetime | None = None

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
    """The mode that this incident wants its context served in. Safe wins while any incident of the context wants it.

    `again`: it was asked for before and not everybody reported it, so it is to be sent anew under this decision's id.
    """

    id: str
    state: State
    mode: Mode
    what: str
    actor: str = RESPONDER
    action: str = "serve"
    again: bool = False


@dataclass(frozen=True)
class Page:
    """People with `role` are to be called now, because of `what`. `number` counts the incident's pages from 1."""

    id: str
    state: State
    role: Role
    number: int
    what: str
    actor: str = RESPONDER
    action: str = "page"


Decision = Record | SetAside | Serve | Page


class Finding(Struct, frozen=True):
    """The last that one detector said, up to which frame, and when by its own clock."""

    detector: str
    phase: Phase
    epoch: int
    last_sequence: int
    at: datetime | None = None

    def is_older_than(self, other: "Finding") -> bool:
        """Whether `other` is news after this. At the same frame calm is the later word: an alarm ends where it last stood."""
        mine, others = (self.epoch, self.last_sequence), (other.epoch, other.last_sequence)
        return mine < others or (mine == others and (other.phase is Phase.CALM or self.phase is not Phase.CALM))


def finding_of(signal: Signal) -> Finding:
    """What a signal says of its detector."""
    return Finding(signal.detector, signal.phase, signal.window.epoch, signal.window.last_sequence, signal.time)


class Outcome(StrEnum):
    """How a step ended."""

    SUCCESS = "success"
    FAILURE = "failure"  # rejected, or its limit passed
    MANUAL = "manual"  # a human did it, or ended it
    SKIPPED = "skipped"  # its condition did not hold, or there was nothing to undo
    UNDONE = "undone"  # done, and taken back since


class Ended(Struct, frozen=True):
    """One step's end."""

    step: str
    outcome: Outcome
    at: datetime


class Voice(Struct, frozen=True):
    """Somebody's approval of the step where the incident stands, the roles they had, and when (None: before that was kept)."""

    actor: str
    roles: tuple[Role, ...]
    at: datetime | None = None


class Incident(Struct, frozen=True, kw_only=True):
    """All that is known of one incident; plain data, so that it rests in the database as JSON.

    `kind` is what it is held for, `raised_as` what detectors call it, under which their signals come (the same where not set).
    `position` is the step where it stands, `since` the first tick seen there (time limits run from it), `overdue` whether that
    limit has passed, `tries` how often reports were asked for again, `voices` who approved the step; `arrivals` counts how often
    it came to another step. `ended` are the steps that are over, in order. `seen` is what detectors called suspicious, `covered`
    what was ordered into quarantine. `decided` counts decisions.

    `relapses` counts how often it came back, incidents that closed shortly before included. `said` is the worst that a detector
    said, `graded` the rule by which it is as severe as it is. `called` are the roles called since the chain began, the last of them
    `called_at` (the first tick after that), with `pages` in all; it is `quiet` once somebody has acknowledged, `exhausted` once the
    whole chain was called in vain; nobody is called until `snoozed_until`.
    """

    id: str
    kind: Kind
    camera_id: str
    context: Context
    playbook: Playbook
    severity: Severity
    detected_at: datetime
    raised_as: Kind | None = None
    position: int = 0
    since: datetime | None = None
    overdue: bool = False
    tries: int = 0
    voices: tuple[Voice, ...] = ()
    arrivals: int = 0
    ended: tuple[Ended, ...] = ()
    signals: int = 0
    findings: tuple[Finding, ...] = ()
    seen: tuple[Window, ...] = ()
    covered: tuple[Window, ...] = ()
    diagnosis: Diagnosis | None = None
    said: Severity = Severity.LOW
    graded: str = ""
    cameras: int = 1
    relapses: int = 0
    needs_safe: bool = False
    escalated: str = ""
    called: tuple[Role, ...] = ()
    called_at: datetime | None = None
    pages: int = 0
    quiet: bool = False
    exhausted: bool = False
    snoozed_until: datetime | None = None
    assignee: str = ""
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
    def asking(self) -> Asking:
        """What an approval has to answer now."""
        return Asking(self.step.name, self.arrivals)

    @property
    def state(self) -> State:
        """The state that this step belongs to."""
        return self.step.state

    @property
    def calm(self) -> bool:
        """Whether every detector that spoke has said calm since; silence is not calm."""
        return bool(self.findings) and all(finding.phase is Phase.CALM for finding in self.findings)

    @property
    def calm_at(self) -> datetime | None:
        """When the last of its detectors said calm; None while one has not."""
        moments = [finding.at for finding in self.findings if finding.at is not None]
        return max(moments) if self.calm and moments else None

    @property
    def counts_calm(self) -> bool:
        """Whether a tick must say when the newest frame was judged (`Tick.judged_at`)."""
        return self.calm and self.step.action is Action.AWAIT_CALM and self.step.dwell_s is not None

    @property
    def held(self) -> bool:
        """Whether it came back too often to be undone without a human."""
        return self.relapses > 0 and self.relapses >= self.playbook.max_relapses

    @property
    def asks(self) -> tuple[Role, ...]:
        """The roles whose approval the step where it stands still lacks; none where it asks for nobody's."""
        return lacking(self.step, self.voices)

    @property
    def owed(self) -> tuple[Step, ...]:
        """What people still have to do before the normal model may come back; nothing while the safe one is not asked for."""
        left = self.playbook.steps[self.position :] if self.needs_safe else ()
        back = next((n for n, step in enumerate(left) if (step.action, step.mode) == (Action.SERVE, Mode.NORMAL)), len(left))
        return tuple(step for step in left[:back] if step.action is Action.MANUAL)

    @property
    def left_safe_mode_by_itself(self) -> bool:
        """Whether it ended with proven calm after the safe model had served, and no human said so."""
        return self.resolution is Resolution.RECOVERED and self.contained_at is not None

    def takes(self, kind: Kind) -> bool:
        """Whether detectors' signals of `kind` on its camera belong to it, whatever people hold it for."""
        return kind in {self.kind, self.raised_as or self.kind}

    def hears(self, signal: Signal) -> bool:
        """Whether a signal is news: nothing later is known of its detector."""
        known = next((one for one in self.findings if one.detector == signal.detector), None)
        return known is None or known.is_older_than(finding_of(signal))

    def did(self, name: str) -> bool:
        """Whether the step `name` was done and not taken back since."""
        last = next((one for one in reversed(self.ended) if one.step == name), None)
        return last is not None and last.outcome in {Outcome.SUCCESS, Outcome.MANUAL}


def lacking(step: Step, voices: Sequence[Voice]) -> tuple[Role, ...]:
    """The roles that still have to approve a step; each person speaks for one of them."""
    return missing(step.approval, {voice.actor: voice.roles for voice in voices})


def opened(signal: Signal, playbook: Playbook, former: Sequence[Incident] = ()) -> Incident:
    """The incident that an alarm opens, before anything is decided; give the same signal to `decide` and `evolve` next.

    `former`: what closed on its camera within the playbook's `relapse_within_s`, oldest first. Where the safe model was left by
    itself, this is a relapse of that; where a human has closed, the count begins anew.
    """
    by_people = [n for n, one in enumerate(former) if one.resolution in {Resolution.FALSE_ALARM, Resolution.HANDLED}]
    since = former[by_people[-1] + 1 :] if by_people else former
    return Incident(
        id=event_id("incident", signal.camera_id, signal.context, signal.kind, signal.id),
        kind=signal.kind,
        raised_as=signal.kind,
        camera_id=signal.camera_id,
        context=signal.context,
        playbook=playbook,
        severity=signal.severity,
        detected_at=signal.time,
        relapses=max((one.relapses + 1 for one in since if one.left_safe_mode_by_itself), default=0),
    )
