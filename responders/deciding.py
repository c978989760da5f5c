"""What is decided about an incident: a pure fold of happenings over its frozen state.

It decides when an incident counts, which frames are set aside, which mode it needs a context to serve, when that counts as done,
what people must approve, when they are called, what is left to do when it turns out to be something else, and when it is over. It
refuses to treat silence as calm, a missing report as success, or a repeat as news. It has no clock, no chance and no I/O:
`store.py` feeds it, `effects.py` carries out what it decided.

Source: paper 4.6 (safe mode), 4.7 (incident response plan), NIST SP 800-61r3.
"""

from datetime import timedelta

from msgspec.structs import replace

from responders.calling import call
from responders.incident import Act, Decision, Finding, Happening, Incident, Outcome, Resolution, Tick, Verb, Voice, lacking
from responders.playbooks import Action, State, Step
from responders.replanning import replanned
from responders.roles import named
from responders.severity import grade, holds, worse
from responders.turn import Turn
from responders.windows import joined
from streams.events import Mode, Phase, Signal


def decide(state: Incident, event: Happening) -> tuple[Decision, ...]:
    """What is to be done after `event`; ids are content addresses of (incident, step, number), the same at every replay."""
    return tuple(_after(state, event).decisions)


def evolve(state: Incident, event: Happening) -> Incident:
    """The incident after `event`; the very object that was given where nothing changes."""
    return _after(state, event).incident


def advance(state: Incident, event: Happening, *, more: bool = False) -> tuple[tuple[Decision, ...], Incident]:
    """What `decide` and `evolve` say, at once.

    `more`: further signals of this incident follow in the same breath. Frames by which the suspicion merely grows are then ordered
    into quarantine together, with the last of them: a storm of findings is no storm of orders.
    """
    turn = _after(state, event, more=more)
    return tuple(turn.decisions), turn.incident


def _after(state: Incident, event: Happening, *, more: bool = False) -> Turn:
    turn = Turn(state, event.time)
    if isinstance(event, Act) and event.verb is Verb.NOTE:
        turn.record("note", event.comment, event.actor)
    if state.state is State.CLOSED:
        return turn
    if isinstance(event, Signal):
        _hear(turn, event, more=more)
    elif isinstance(event, Act):
        _obey(turn, event)
    elif event.cameras > state.cameras:
        _regrade(turn, replace(state, cameras=event.cameras))
    _walk(turn, event)
    if isinstance(event, Tick) and _check_time(turn, event):
        _walk(turn, event)
    call(turn, event)
    return turn


# -- hearing what detectors say --------------------------------------------------------------------------------------


def _hear(turn: Turn, signal: Signal, *, more: bool) -> None:
    before = turn.incident
    after = _taken_in(before, signal)
    if before.signals == 0:
        severity, rule = grade(after)
        turn.incident = replace(after, severity=severity, graded=rule)
        _leave_out(turn)
        action = "suspect" if turn.incident.state is State.SUSPECTED else "open"
        why = signal.message or f"{signal.kind} raised by {signal.detector}"
        turn.record(action, f"{why}. Severity {severity}: {rule}")
    else:
        _regrade(turn, after)
    found = turn.incident.diagnosis
    if found is not None and (before.diagnosis is None or before.diagnosis.cause is not found.cause):
        turn.record("diagnose", f"{found.cause}, {found.confidence:.0%} sure. {' '.join(found.evidence)}")
    if turn.incident.calm and not before.calm:
        turn.record("calm", f"{signal.detector} says calm, as every detector that raised")
    if before.playbook.on_relapse is not None and _is_relapse(before, turn.incident, signal):
        turn.incident = replace(turn.incident, resolution=None)
        _go_back(turn, before.playbook.on_relapse, f"{signal.detector} raises again")
    if more and signal.phase is Phase.ONGOING:
        return
    if any(_sets_aside(turn.incident, step) for step in turn.incident.playbook.steps[: turn.incident.position]):
        turn.set_aside()


def _sets_aside(incident: Incident, step: Step) -> bool:
    return step.action is Action.QUARANTINE and (incident.did(step.name) or step.when is None)


def _regrade(turn: Turn, after: Incident) -> None:
    """Take over what is new; severity only ever rises by itself."""
    severity, rule = grade(after)
    if worse(severity, after.severity) is after.severity:
        turn.incident = after
        return
    turn.incident = replace(after, severity=severity, graded=rule)
    turn.record("worse", f"severity is now {severity}: {rule}")


def _go_back(turn: Turn, name: str, why: str) -> None:
    """Begin again from an earlier step; too often, and only people may let it go on from there."""
    turn.incident = replace(turn.incident, relapses=turn.incident.relapses + 1)
    turn.go(turn.incident.playbook.position(name))
    turn.record("relapse", f"{why}, time {turn.incident.relapses}")
    if turn.incident.held:
        turn.escalate(f"came back {turn.incident.relapses} times: safe mode stays until a human closes the incident")


def _is_relapse(before: Incident, after: Incident, signal: Signal) -> bool:
    if before.state is not State.RECOVERING:
        return False
    if before.resolution is None:
        return before.calm and not after.calm
    # An alarm that merely goes on does not overrule the human who has just closed; a fresh one does.
    return signal.phase is Phase.RAISED and _fresh(before, signal)


def _finding(signal: Signal) -> Finding:
    return Finding(signal.detector, signal.phase, signal.window.epoch, signal.window.last_sequence, signal.time)


def _fresh(incident: Incident, signal: Signal) -> bool:
    known = {finding.detector: finding for finding in incident.findings}.get(signal.detector)
    return known is None or known.is_older_than(_finding(signal))


def _taken_in(incident: Incident, signal: Signal) -> Incident:
    findings, diagnosis = incident.findings, incident.diagnosis
    if _fresh(incident, signal):
        findings = (*(known for known in findings if known.detector != signal.detector), _finding(signal))
        if signal.diagnosis is not None and signal.phase is not Phase.CALM:
            diagnosis = signal.diagnosis
    return replace(
        incident,
        signals=incident.signals + 1,
        findings=findings,
        seen=joined((*incident.seen, signal.window)),
        diagnosis=diagnosis,
        said=worse(incident.said, signal.severity),
    )


# -- obeying people --------------------------------------------------------------------------------------------------


def _obey(turn: Turn, act: Act) -> None:
    incident = turn.incident
    match act.verb:
        case Verb.ACKNOWLEDGE:
            if incident.acknowledged_at is None:
                turn.incident = replace(incident, acknowledged_at=act.time, acknowledged_by=act.actor)
            turn.incident = replace(turn.incident, quiet=True)
            turn.record("acknowledge", act.comment, act.actor)
        case Verb.ASSIGN:
            turn.incident = replace(incident, assignee=act.assignee)
            turn.record("assign", f"to {act.assignee}: {act.comment}", act.actor)
        case Verb.SNOOZE:
            assert act.until is not None  # the act was checked
            turn.incident = replace(incident, snoozed_until=act.until)
            turn.record("snooze", f"until {act.until:%Y-%m-%d %H:%M:%S} UTC: {act.comment}", act.actor)
        case Verb.RECLASSIFY:
            _reclassify(turn, act)
        case Verb.APPROVE | Verb.REJECT:
            _judge(turn, act)
        case Verb.CLOSE:
            _close(turn, act)
        case Verb.NOTE:
            pass  # on record already


def _reclassify(turn: Turn, act: Act) -> None:
    incident = turn.incident
    if act.kind is incident.kind or act.plan is None or act.plan.kind is not act.kind:
        turn.record("refused", f"reclassify to {act.kind}: it is held for {incident.kind}, or there is no such playbook", act.actor)
        return
    turn.incident = replanned(incident, act.plan)
    severity, rule = grade(turn.incident)
    turn.incident = replace(turn.incident, severity=severity, graded=rule)
    what = f"{incident.kind} was really {act.kind}: {act.comment}. Severity {severity}: {rule}"
    turn.record("reclassify", what, act.actor)


def _judge(turn: Turn, act: Act) -> None:
    """Somebody's yes or no to the step where the incident stands."""
    incident, step = turn.incident, turn.incident.step
    why = ""
    if not step.approval:
        why = f"step {step.name} asks for nobody's approval"
    elif not set(act.roles) & set(step.approval):
        why = f"step {step.name} asks for {named(step.approval)}"
    elif act.verb is Verb.APPROVE and act.actor in {voice.actor for voice in incident.voices}:
        why = f"{act.actor} has approved it already; still asked for: {named(incident.asks)}"
    if why:
        turn.record("refused", f"{act.verb}: {why}", act.actor)
    elif act.verb is Verb.REJECT:
        turn.record("reject", f"{step.name}: {act.comment}", act.actor)
        _fail(turn, f"{step.name} was rejected")
    else:
        voices = (*incident.voices, Voice(act.actor, act.roles))
        left = lacking(step, voices)
        turn.incident = replace(incident, voices=voices)
        still = f"; still asked for: {named(left)}" if left else ""
        turn.record("approve", f"{step.name}: {act.comment}{still}", act.actor)


def _fail(turn: Turn, why: str) -> None:
    """A step has failed: go where it says, else leave it out."""
    step = turn.incident.step
    if step.on_failure is None:
        turn.leave_out(Outcome.FAILURE)
        return
    position = turn.incident.playbook.position(step.on_failure)
    forward = position > turn.incident.position
    turn.end(Outcome.FAILURE)
    if forward:
        turn.go(position)
    else:
        _go_back(turn, step.on_failure, why)


def _close(turn: Turn, act: Act) -> None:
    incident = turn.incident
    asked_before = incident.resolution is not None
    turn.record("close", f"{act.resolution}: {act.comment}", act.actor)
    turn.incident = replace(turn.incident, resolution=act.resolution)
    restore = incident.playbook.on_human_close
    if restore is not None and incident.needs_safe:
        turn.go(incident.playbook.position(restore))
    elif incident.state is State.RECOVERING and not asked_before:
        return  # the normal model is asked for already; the reports close it, or a second close does
    else:
        turn.go(len(incident.playbook.steps) - 1)


# -- walking the steps -----------------------------------------------------------------------------------------------


def _leave_out(turn: Turn) -> None:
    """Go past the steps that are not to be done as things stand."""
    while True:
        incident, step = turn.incident, turn.incident.step
        undone = incident.playbook.undone_by(step.name)
        idle = undone is not None and not incident.did(undone.name)
        if holds(step.when, incident) and not idle:
            return
        turn.leave_out()


def _walk(turn: Turn, event: Happening) -> None:
    while True:
        _leave_out(turn)
        incident, step = turn.incident, turn.incident.step
        if incident.asks:
            return
        match step.action:
            case Action.QUARANTINE:
                turn.set_aside()
            case Action.SERVE:
                assert step.mode is not None  # the playbook was checked
                if step.mode is Mode.NORMAL or not incident.needs_safe:
                    turn.serve(step.mode)
            case Action.AWAIT_ONSET:
                if incident.calm:
                    turn.incident = replace(incident, resolution=Resolution.PASSED)
                    turn.go(len(incident.playbook.steps) - 1)
                    continue
                if not _lasts(incident, event):
                    return
                _open(turn)
                continue
            case Action.AWAIT_REPORTS:
                assert step.mode is not None
                if not (isinstance(event, Tick) and event.confirms(step.mode)):
                    return
                _confirmed(turn, event, step)
            case Action.AWAIT_CALM:
                if not _calm_lasts(incident, event):
                    return
            case Action.MANUAL:
                turn.record("done", f"{step.name} is done, say {' and '.join(voice.actor for voice in incident.voices)}")
            case Action.CLOSE:
                resolution = incident.resolution or Resolution.RECOVERED
                turn.incident = replace(incident, resolution=resolution, needs_safe=False, closed_at=event.time)
                turn.record("closed", f"closed: {resolution}")
                return
        turn.end(Outcome.MANUAL if step.action is Action.MANUAL else Outcome.SUCCESS)


def _lasts(incident: Incident, event: Happening) -> bool:
    """Whether a suspicion counts: told often enough, or not calm for so long. That nothing is heard makes it no weaker."""
    step = incident.step
    if step.onset_signals is not None and incident.signals >= step.onset_signals:
        return True
    return (
        isinstance(event, Tick)
        and step.dwell_s is not None
        and incident.since is not None
        and event.time - incident.since >= timedelta(seconds=step.dwell_s)
    )


def _open(turn: Turn) -> None:
    signals = turn.incident.signals
    turn.end(Outcome.SUCCESS)
    turn.record("open", f"it lasts: {signals} signals so far. Severity {turn.incident.severity}: {turn.incident.graded}")


def _calm_lasts(incident: Incident, event: Happening) -> bool:
    """Whether calm was proven, and frames have been judged since for as long as the step asks: no frames, no calm."""
    if not incident.calm or incident.held:
        return False
    dwell_s, since = incident.step.dwell_s, incident.calm_at
    if dwell_s is None:
        return True
    if not isinstance(event, Tick) or event.judged_at is None or since is None:
        return False
    return event.judged_at - since >= timedelta(seconds=dwell_s)


def _confirmed(turn: Turn, tick: Tick, step: Step) -> None:
    if step.mode is Mode.SAFE:
        if turn.incident.contained_at is None:
            turn.incident = replace(turn.incident, contained_at=tick.time)
    else:
        turn.incident = replace(turn.incident, recovered_at=tick.time)
    action = "contained" if step.mode is Mode.SAFE else "restored"
    turn.record(action, f"every live worker reports the {step.mode} model: {', '.join(tick.live)}")


# -- watching the time -----------------------------------------------------------------------------------------------


def _check_time(turn: Turn, tick: Tick) -> bool:
    """Let time pass at a step that waits; True where it failed and the incident stands at another one."""
    incident, step = turn.incident, turn.incident.step
    limit_s = step.time_limit_s if step.action is not Action.AWAIT_ONSET else step.dwell_s
    if limit_s is None or incident.overdue:
        return False
    if step.action is Action.AWAIT_REPORTS and tick.asked is not step.mode:
        # Another incident of the context still needs safe mode: nothing was asked of the workers, so no limit runs.
        if incident.since is not None:
            turn.incident = replace(incident, since=None)
        return False
    if incident.since is None:
        turn.incident = replace(incident, since=tick.time)
        return False
    waited_s = (tick.time - incident.since).total_seconds()
    if step.action is Action.AWAIT_ONSET:
        return False
    if waited_s >= limit_s:
        turn.incident = replace(incident, overdue=True)
        turn.escalate(f"{step.name} took longer than {limit_s:g} s: {_lacking(incident, tick)}")
        if step.on_failure is not None:
            _fail(turn, f"{step.name} failed")
            return True
    elif incident.tries < step.retries and waited_s >= limit_s * (incident.tries + 1) / (step.retries + 1):
        assert step.mode is not None  # only reports are asked for again; the playbook was checked
        turn.incident = replace(incident, tries=incident.tries + 1)
        turn.serve(step.mode, again=True)
    return False


def _lacking(incident: Incident, tick: Tick) -> str:
    if incident.asks:
        return f"still to be approved by {named(incident.asks)} (`kerbwatch incidents approve`)"
    if incident.step.action is Action.AWAIT_CALM:
        return "no proof of calm came; look at the camera and its detectors"
    late = sorted(set(tick.live) - set(tick.agreeing))
    if not late:
        return "no worker is alive; start one (kerbwatch status)"
    return f"not reported by {', '.join(late)}; look at these workers (kerbwatch status)"
