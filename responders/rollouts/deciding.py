"""How a retrained model comes into service, and goes back by itself: a pure fold of events over a frozen state.

It decides when a candidate may judge beside the serving model, when it may serve some cameras, when all, and when it is taken out
again. It refuses to go on without a passed gate, without two people (R3 and R8), without live proof, without every worker's word,
and to take a repeat for news. It has no clock, no chance and no I/O: `store.py` feeds it (the retraining run, human acts, ticks
with what topics `detections` and `worker-status` showed) and carries its decisions to the outbox.

    requested -> training -> gating -> awaiting_approval -> shadow -> canary -> full -> done
                    |           |              |                ^        |        |
                  failed     rejected      rejected             +-held---+     returned       (from shadow and canary too)

Source: paper 4.6 (approval by R3 and R8, staged deployment, immediate roll-back).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from responders.people.access import RULES, TOGETHER
from responders.people.roles import Role, named
from responders.rollouts.comparison import Tally, figures, reaching, worse
from responders.rollouts.rollout import (
    APPROVERS,
    DEEDS,
    LIVE,
    OVER,
    RESPONDER,
    RUNNING,
    Act,
    Approval,
    Decision,
    Failed,
    Gated,
    Happening,
    Progress,
    Record,
    Rollout,
    Serve,
    Staged,
    State,
    Tick,
    Verb,
)
from streams.events import Mode, RolloutPhase, event_id


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

    def serve(
        self, what: str, phase: RolloutPhase | None, share: float = 0.0, normal: str | None = None, *, back: bool = False
    ) -> None:
        self.rollout = replace(self.rollout, phase=phase, share=share)
        self.decisions.append(Serve(self._next_id(), self.rollout.state, phase, normal, what, back=back))

    def go(self, state: State, tally: Tally | None = None) -> None:
        base = self.rollout.base if tally is None else tally
        paused = self.rollout.paused and state in RUNNING
        self.rollout = replace(self.rollout, state=state, since=self.now, base=base, paused=paused)
        self.rollout = replace(self.rollout, reported=False, serves_since=None, escalated="")

    def end(self, state: State, why: str, actor: str = RESPONDER, *, back: bool = True) -> None:
        """Over; whatever the candidate serves it serves no longer, and a former normal model is back, or people name one."""
        was = self.rollout.state
        self.go(state)
        self.rollout = replace(self.rollout, why=why)
        self.record(state, why, actor)
        if was in LIVE:
            self.serve("the candidate is out of service", None, back=back and was is State.FULL)


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
    elif state.state in RUNNING:
        _hear(turn, event)
    return turn


def _hear(turn: _Turn, event: Progress | Staged | Gated) -> None:
    """The run's word. What it says of a step that is behind it is no news."""
    rollout = turn.rollout
    heard = replace(rollout, heard_at=max(rollout.heard_at, event.time), escalated="")
    if isinstance(event, Progress):
        if rollout.paused or (event.time <= rollout.heard_at and rollout.state is not State.REQUESTED):
            return
        turn.rollout = replace(heard, step=event.step, done=event.done, of=event.of, left_s=event.left_s)
        if rollout.state is State.REQUESTED:
            turn.go(State.TRAINING)
            turn.record("training", f"retraining has begun: {event.step}")
    elif isinstance(event, Staged):
        former = rollout.candidate_digest
        if rollout.state is State.GATING and (event.digest == former or event.time <= rollout.since):
            return  # a repeat; one that was trained anew is another, and younger
        turn.rollout = replace(heard, candidate_digest=event.digest)
        turn.go(State.GATING)
        instead = f" in place of {former[:12]}, for the run was trained anew" if former else ""
        turn.record("staged", f"candidate {event.digest[:12]} is in the registry{instead}; the gate tests it")
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
    may = RULES[DEEDS[act.verb]].roles
    fit = tuple(role for role in may if role in act.roles)
    if not fit:
        known = f"has {named(act.roles)}" if act.roles else "is not known here"
        turn.record("refuse", f"{act.actor} may not {act.verb}: {known}; needed is {named(may, ' or ')}", act.actor)
    elif act.verb is Verb.CANCEL:
        turn.end(State.CANCELLED, f"cancelled: {act.comment}", act.actor)
    elif act.verb in {Verb.PAUSE, Verb.RESUME}:
        _rest(turn, act)
    elif act.verb is Verb.ROLL_BACK and rollout.state in LIVE:
        turn.end(State.CANCELLED, f"rolled back: {act.comment}", act.actor, back=False)
    elif rollout.state is not State.AWAITING_APPROVAL:
        turn.record("refuse", f"{act.actor} may not {act.verb} now: the rollout is {rollout.state}", act.actor)
    elif act.verb is Verb.REJECT:
        turn.end(State.REJECTED, f"rejected: {act.comment}", act.actor)
    else:
        _approve(turn, act, fit)


def _rest(turn: _Turn, act: Act) -> None:
    """The run stops when it speaks next, and is not expected to speak; or it goes on where it stood."""
    rollout, pauses = turn.rollout, act.verb is Verb.PAUSE
    if rollout.state not in RUNNING:
        turn.record("refuse", f"{act.actor} cannot {act.verb} it: no run works for it, the rollout is {rollout.state}", act.actor)
    elif rollout.paused is pauses:
        turn.record("refuse", f"{act.actor} cannot {act.verb} it: the run is {'' if pauses else 'not '}paused", act.actor)
    else:
        turn.rollout = replace(rollout, paused=pauses, heard_at=max(rollout.heard_at, act.time), escalated="")
        turn.record(act.verb, f"the run {'rests' if pauses else 'goes on'}: {act.comment}", act.actor)


def _lapse(turn: _Turn, act: Act) -> None:
    """What was said a day ago, or by somebody who has lost role or key since, counts no more."""
    for one in turn.rollout.approvals:
        why = "they have that role no longer, or another key" if one.actor in act.gone else "it was given more than a day ago"
        if one.actor in act.gone or act.time - one.time >= TOGETHER:
            turn.rollout = replace(turn.rollout, approvals=tuple(kept for kept in turn.rollout.approvals if kept is not one))
            turn.record("lapse", f"the approval by {one.actor} as {named([one.role])} counts no more: {why}")


def _approve(turn: _Turn, act: Act, fit: Sequence[Role]) -> None:
    _lapse(turn, act)
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
            turn.rollout = replace(turn.rollout, normal_digest=act.normal_digest or turn.rollout.normal_digest)
            turn.go(State.SHADOW)
            turn.serve("the candidate judges frames beside the serving model", RolloutPhase.SHADOW)


def _tick(turn: _Turn, tick: Tick) -> None:
    rollout = turn.rollout
    if rollout.state in RUNNING:
        silent = not rollout.paused and tick.time - rollout.heard_at >= timedelta(seconds=rollout.limits.silent_s)
        if silent and not rollout.escalated:
            goes_on = f"`kerbwatch retrain --reason {rollout.incident_id[:8]}` goes on where it stood"
            why = f"the run is silent for {rollout.limits.silent_s:g} s; {goes_on}, the keeper's log says why it ended"
            turn.rollout = replace(rollout, escalated=why)
            turn.record("escalate", why)
    elif rollout.state in LIVE:
        _watch(turn, tick)


def _watch(turn: _Turn, tick: Tick) -> None:
    """A candidate in service: taken back at the first sign, brought further on proof only."""
    rollout, limits = turn.rollout, turn.rollout.limits
    lasted_s = (tick.time - rollout.since).total_seconds()
    if rollout.state is State.FULL and tick.normal_digest not in {"", rollout.candidate_digest}:
        turn.end(State.CANCELLED, f"people have named {tick.normal_digest[:12]} the normal model since", back=False)
    elif tick.alarm and rollout.state is not State.SHADOW:
        turn.end(State.RETURNED, f"incident {tick.alarm[:8]} opened on frames that the candidate judged")
    elif rollout.state is State.CANARY and tick.mode is Mode.SAFE:
        turn.go(State.SHADOW, tick.tally)
        turn.serve("held: the context needs its safe model; the candidate judges beside it", RolloutPhase.SHADOW)
    elif not rollout.reported:
        if tick.confirmed:
            serves_since = tick.time if tick.mode is Mode.NORMAL else None
            turn.rollout = replace(rollout, reported=True, base=tick.tally, serves_since=serves_since)
            turn.record("reported", f"every live worker reports the {rollout.state} step: {', '.join(tick.live)}")
        elif lasted_s >= limits.reports_s:
            late = ", ".join(sorted(set(tick.live) - set(tick.agreeing))) or "no worker is alive"
            turn.end(State.RETURNED, f"{rollout.state} was not reported in {limits.reports_s:g} s: {late}")
    elif rollout.state is not State.FULL:
        _weigh(turn, tick, lasted_s)
    else:
        _settle(turn, tick)


def _settle(turn: _Turn, tick: Tick) -> None:
    """The normal model proves itself by serving: what passes while the safe one serves in its place proves nothing."""
    rollout = turn.rollout
    if tick.mode is Mode.SAFE:
        if rollout.serves_since is not None:
            turn.rollout = replace(rollout, serves_since=None)
            turn.record("wait", "the context needs its safe model: the time in which the candidate settles begins anew after it")
    elif rollout.serves_since is None:
        turn.rollout = replace(rollout, serves_since=tick.time)
    elif tick.time - rollout.serves_since >= timedelta(seconds=rollout.limits.settle_s):
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
