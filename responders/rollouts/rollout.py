"""How a retrained model comes into service, and goes back by itself: a pure fold of events over a frozen state.

It decides when a candidate may judge beside the serving model, when it may serve some cameras, when all, and when it is taken out
again. It refuses to go on without a passed gate, without two people (R3 and R8), without live proof, without every worker's word,
and to take a repeat for news. It has no clock, no chance and no I/O: `rollout_store.py` feeds it (the retraining run, human acts,
ticks with what topics `detections` and `worker-status` showed) and carries its decisions to the outbox.

    requested -> training -> gating -> awaiting_approval -> shadow -> canary -> full -> done
                    |           |              |                ^        |        |
                  failed     rejected      rejected             +-held---+     returned       (from shadow and canary too)

Source: paper 4.6 (approval by R3 and R8, staged deployment, immediate roll-back).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from responders.people.roles import Role, named
from responders.rollouts.comparison import Figures, Limits, Tally, figures, reaching, worse
from streams.errors import BadInput
from streams.events import Context, Mode, RolloutPhase, event_id

RESPONDER = "responder"
APPROVERS = (Role.DATA_SCIENTIST, Role.SECMLOPS_ENGINEER)
"""One person of each role, two different people (paper 4.6)."""


class State(StrEnum):
    """Where a rollout is."""

    REQUESTED = "requested"  # a retraining run was asked for
    TRAINING = "training"  # the run works
    GATING = "gating"  # the candidate is in the registry, the gate tests it
    AWAITING_APPROVAL = "awaiting_approval"  # the gate was passed; people are asked
    SHADOW = "shadow"  # judges every frame beside the serving model
    CANARY = "canary"  # serves some cameras
    FULL = "full"  # is the context's normal model, and may still be returned
    DONE = "done"
    RETURNED = "returned"  # taken out by itself
    REJECTED = "rejected"  # by the gate or by a person
    FAILED = "failed"  # the run could not make a candidate
    CANCELLED = "cancelled"


LIVE = (State.SHADOW, State.CANARY, State.FULL)
OVER = (State.DONE, State.RETURNED, State.REJECTED, State.FAILED, State.CANCELLED)
NOTHING = Tally()
_RUNNING = (State.REQUESTED, State.TRAINING, State.GATING)


class Verb(StrEnum):
    """What a person may do about a rollout."""

    APPROVE = "approve"
    REJECT = "reject"
    CANCEL = "cancel"


@dataclass(frozen=True)
class Act:
    """A person's act; `roles` are those that the deployment knows of `actor`. Raises BadInput if actor or comment is blank."""

    id: str
    time: datetime
    verb: Verb
    actor: str
    comment: str
    roles: tuple[Role, ...] = ()
    role: Role | None = None
    """The role acted in, where the actor has both that may approve."""

    def __post_init__(self) -> None:
        if not self.actor.strip() or not self.comment.strip():
            raise BadInput(f"{self.verb} needs an actor and a comment; give both (--actor, --comment)")


@dataclass(frozen=True)
class Progress:
    """The run is at `done` of `of` in the work called `step`, with `left_s` seconds to go by its own estimate."""

    time: datetime
    step: str
    done: int
    of: int
    left_s: float


@dataclass(frozen=True)
class Staged:
    """The run's candidate is in the registry; the gate is next."""

    time: datetime
    digest: str


@dataclass(frozen=True)
class Gated:
    """What the gate says of the candidate, and by which limits, in plain words."""

    time: datetime
    digest: str
    passed: bool
    why: str


@dataclass(frozen=True)
class Failed:
    """No candidate can be made, or the one there is cannot be served."""

    time: datetime
    why: str


@dataclass(frozen=True)
class Tick:
    """A moment, and what is known then of the rollout's context.

    `mode` is what the context is asked to serve; `live` and `agreeing` are the workers heard of, and those of them that obey its
    newest model state. `cameras` and `tally` are of the candidate's whole time in service. `alarm` names an incident that opened on
    frames which the candidate answered for.
    """

    time: datetime
    mode: Mode
    live: tuple[str, ...] = ()
    agreeing: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    tally: Tally = NOTHING
    alarm: str = ""

    @property
    def confirmed(self) -> bool:
        """Whether every live worker, and at least one, obeys (README, promise 4)."""
        return bool(self.live) and set(self.live) <= set(self.agreeing)


Happening = Act | Progress | Staged | Gated | Failed | Tick


@dataclass(frozen=True)
class Record:
    """Something for the timeline and everybody who watches."""

    id: str
    state: State
    actor: str
    action: str
    what: str


@dataclass(frozen=True)
class Serve:
    """What workers are told: the candidate's phase, None without one, and the normal model from now on, None where that stays."""

    id: str
    state: State
    phase: RolloutPhase | None
    normal_digest: str | None
    what: str
    actor: str = RESPONDER
    action: str = "serve"


Decision = Record | Serve


class Approval(Struct, frozen=True):
    """Who approved, in which role, when and why."""

    actor: str
    role: Role
    time: datetime
    comment: str


class Rollout(Struct, frozen=True, kw_only=True):
    """All that is known of one rollout; plain data, so that it rests in the database as JSON.

    `normal_digest` is the model that it is to follow, and that comes back if it fails. `since` is when the state began, `reported`
    whether the workers obey in it, `base` the tally then, `before` the figures in shadow. `heard_at` is the run's last word.
    """

    id: str
    context: Context
    incident_id: str
    requested_by: str
    requested_at: datetime
    normal_digest: str
    limits: Limits
    short: bool = False
    state: State = State.REQUESTED
    since: datetime
    heard_at: datetime
    step: str = ""
    done: int = 0
    of: int = 0
    left_s: float = 0.0
    candidate_digest: str = ""
    gate: str = ""
    approvals: tuple[Approval, ...] = ()
    acts: tuple[str, ...] = ()
    phase: RolloutPhase | None = None
    share: float = 0.0
    reported: bool = False
    base: Tally = Tally()
    before: Figures | None = None
    ticked_at: datetime | None = None
    escalated: str = ""
    why: str = ""
    decided: int = 0

    @property
    def missing(self) -> tuple[Role, ...]:
        """The roles that have not approved yet."""
        return tuple(role for role in APPROVERS if role not in {approval.role for approval in self.approvals})


def decide(state: Rollout, event: Happening) -> tuple[Decision, ...]:
    """What is to be done after `event`; ids are content addresses of (rollout, state, number), the same at every replay."""
    return tuple(_after(state, event).decisions)


def evolve(state: Rollout, event: Happening) -> Rollout:
    """The rollout after `event`; the very object that was given where nothing changes."""
    return _after(state, event).rollout


class _Turn:
    """One event's turn: the rollout as it moves, and the decisions on the way."""

    def __init__(self, rollout: Rollout, now: datetime) -> None:
        self.rollout, self.now = rollout, now
        self.decisions: list[Decision] = []

    def _next_id(self) -> str:
        number = self.rollout.decided
        self.rollout = replace(self.rollout, decided=number + 1)
        return event_id("decision", self.rollout.id, self.rollout.state, number)

    def record(self, action: str, what: str, actor: str = RESPONDER) -> None:
        self.decisions.append(Record(self._next_id(), self.rollout.state, actor, action, what))

    def serve(self, what: str, phase: RolloutPhase | None, share: float = 0.0, normal: str | None = None) -> None:
        self.rollout = replace(self.rollout, phase=phase, share=share)
        self.decisions.append(Serve(self._next_id(), self.rollout.state, phase, normal, what))

    def go(self, state: State, tally: Tally | None = None) -> None:
        base = self.rollout.base if tally is None else tally
        self.rollout = replace(self.rollout, state=state, since=self.now, reported=False, base=base, escalated="")

    def end(self, state: State, why: str, actor: str = RESPONDER) -> None:
        """Over; whatever the candidate serves it serves no longer, and the former normal model is back."""
        was = self.rollout.state
        self.go(state)
        self.rollout = replace(self.rollout, why=why)
        self.record(state, why, actor)
        if was in LIVE:
            self.serve("the candidate is out of service", None, normal=self.rollout.normal_digest if was is State.FULL else None)


def _after(state: Rollout, event: Happening) -> _Turn:
    turn = _Turn(state, event.time)
    if state.state in OVER:
        return turn
    if isinstance(event, Act):
        if event.id not in state.acts:
            turn.rollout = replace(state, acts=(*state.acts, event.id))
            _obey(turn, event)
    elif isinstance(event, Tick):
        if event.time > max(state.since, state.ticked_at or state.since):
            _tick(turn, event)
            if turn.rollout is not state:
                turn.rollout = replace(turn.rollout, ticked_at=event.time)
    elif isinstance(event, Failed):
        turn.end(State.RETURNED if state.state in LIVE else State.FAILED, event.why)
    elif state.state in _RUNNING:
        _hear(turn, event)
    return turn


def _hear(turn: _Turn, event: Progress | Staged | Gated) -> None:
    """The run's word. What it says of a step that is behind it is no news."""
    rollout = turn.rollout
    heard = replace(rollout, heard_at=max(rollout.heard_at, event.time), escalated="")
    if isinstance(event, Progress):
        if event.time <= rollout.heard_at and rollout.state is not State.REQUESTED:
            return
        turn.rollout = replace(heard, step=event.step, done=event.done, of=event.of, left_s=event.left_s)
        if rollout.state is State.REQUESTED:
            turn.go(State.TRAINING)
            turn.record("training", f"retraining has begun: {event.step}")
    elif isinstance(event, Staged):
        if rollout.state is State.GATING:
            return
        turn.rollout = replace(heard, candidate_digest=event.digest)
        turn.go(State.GATING)
        turn.record("staged", f"candidate {event.digest[:12]} is in the registry; the gate tests it")
    elif rollout.state is State.GATING and event.digest == rollout.candidate_digest:
        turn.rollout = replace(heard, gate=event.why)
        if event.passed:
            turn.go(State.AWAITING_APPROVAL)
            turn.record("gate", f"gate passed: {event.why}")
            turn.record("ask", f"approval is asked of {named(APPROVERS)}, two different people")
        else:
            turn.end(State.REJECTED, f"the gate refuses it: {event.why}")


def _obey(turn: _Turn, act: Act) -> None:
    rollout = turn.rollout
    fit = tuple(role for role in APPROVERS if role in act.roles)
    if not fit:
        known = f"has {named(act.roles)}" if act.roles else "is not known here"
        turn.record("refuse", f"{act.actor} may not {act.verb}: {known}; needed is {named(APPROVERS, ' or ')}", act.actor)
    elif act.verb is Verb.CANCEL:
        turn.end(State.CANCELLED, f"cancelled: {act.comment}", act.actor)
    elif rollout.state is not State.AWAITING_APPROVAL:
        turn.record("refuse", f"{act.actor} may not {act.verb} now: the rollout is {rollout.state}", act.actor)
    elif act.verb is Verb.REJECT:
        turn.end(State.REJECTED, f"rejected: {act.comment}", act.actor)
    else:
        _approve(turn, act, fit)


def _approve(turn: _Turn, act: Act, fit: Sequence[Role]) -> None:
    rollout = turn.rollout
    open_ = [role for role in rollout.missing if role in fit and act.role in {None, role}]
    if act.actor in {approval.actor for approval in rollout.approvals}:
        turn.record("refuse", f"{act.actor} has approved already: the other approval must be another person's", act.actor)
    elif not open_:
        lacking = f"an approval by {named(rollout.missing)} is missing"
        turn.record("refuse", f"{act.actor} may not approve as {named([act.role] if act.role else fit)}: {lacking}", act.actor)
    else:
        turn.rollout = replace(rollout, approvals=(*rollout.approvals, Approval(act.actor, open_[0], act.time, act.comment)))
        turn.record("approve", f"approved as {named(open_[:1])}: {act.comment}", act.actor)
        if not turn.rollout.missing:
            turn.go(State.SHADOW)
            turn.serve("the candidate judges frames beside the serving model", RolloutPhase.SHADOW)


def _tick(turn: _Turn, tick: Tick) -> None:
    rollout = turn.rollout
    if rollout.state in _RUNNING:
        silent = tick.time - rollout.heard_at >= timedelta(seconds=rollout.limits.silent_s)
        if silent and not rollout.escalated:
            why = f"the run is silent for {rollout.limits.silent_s:g} s; `kerbwatch retrain` goes on where it stood"
            turn.rollout = replace(rollout, escalated=why)
            turn.record("escalate", why)
    elif rollout.state in LIVE:
        _watch(turn, tick)


def _watch(turn: _Turn, tick: Tick) -> None:
    """A candidate in service: taken back at the first sign, brought further on proof only."""
    rollout, limits = turn.rollout, turn.rollout.limits
    lasted_s = (tick.time - rollout.since).total_seconds()
    if tick.alarm and rollout.state is not State.SHADOW:
        turn.end(State.RETURNED, f"incident {tick.alarm[:8]} opened on frames that the candidate judged")
    elif rollout.state is State.CANARY and tick.mode is Mode.SAFE:
        turn.go(State.SHADOW, tick.tally)
        turn.serve("held: the context needs its safe model; the candidate judges beside it", RolloutPhase.SHADOW)
    elif not rollout.reported:
        if tick.confirmed:
            turn.rollout = replace(rollout, reported=True, base=tick.tally)
            turn.record("reported", f"every live worker reports the {rollout.state} step: {', '.join(tick.live)}")
        elif lasted_s >= limits.reports_s:
            late = ", ".join(sorted(set(tick.live) - set(tick.agreeing))) or "no worker is alive"
            turn.end(State.RETURNED, f"{rollout.state} was not reported in {limits.reports_s:g} s: {late}")
    elif rollout.state is not State.FULL:
        _weigh(turn, tick, lasted_s)
    elif lasted_s >= limits.settle_s:
        turn.go(State.DONE)
        turn.record("done", f"{rollout.candidate_digest[:12]} is the normal model of {rollout.context}")


def _weigh(turn: _Turn, tick: Tick, lasted_s: float) -> None:
    """What the live figures of this step say, once there are enough of them."""
    rollout, limits = turn.rollout, turn.rollout.limits
    seen = figures(tick.tally.since(rollout.base))
    enough = seen.compared >= limits.compared if rollout.state is State.SHADOW else seen.served >= limits.served
    fault = worse(seen, rollout.before, limits) if enough else ""
    if fault:
        turn.end(State.RETURNED, f"worse in service: {fault}")
    elif not enough:
        if lasted_s >= limits.phase_s:
            turn.end(State.RETURNED, f"no proof in {limits.phase_s:g} s: {seen.compared} frames compared, {seen.served} served")
    elif tick.mode is Mode.NORMAL and rollout.state is State.SHADOW:
        turn.go(State.CANARY, tick.tally)
        turn.rollout = replace(turn.rollout, before=seen)
        share = reaching(limits, rollout.id, tick.cameras)
        turn.serve(f"as good beside the serving model ({seen}): it serves {share:.0%} of the cameras", RolloutPhase.CANARY, share)
    elif tick.mode is Mode.NORMAL:
        turn.go(State.FULL, tick.tally)
        what = f"as good in service ({seen}): it becomes the normal model of {rollout.context}"
        turn.serve(what, None, normal=rollout.candidate_digest)
