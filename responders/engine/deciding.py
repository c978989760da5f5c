"""What is decided about an incident: a pure fold of happenings over its frozen state.

It decides when an incident counts, which frames are set aside, which mode it needs a context to serve, when that counts as done,
what people must approve, when they are called, what is left to do when it turns out to be something else, and when it is over. It
refuses to treat silence as calm, a missing report as success, or a repeat as news. It has no clock, no chance and no I/O:
`store.py` feeds it, `effects.py` carries out what it decided.

Source: paper 4.6 (safe mode), 4.7 (incident response plan), NIST SP 800-61r3.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta

from msgspec.structs import replace

from responders.engine.calling import call
from responders.engine.incident import Act, Decision, Happening, Incident, Outcome, Resolution, Tick, Verb, finding_of
from responders.engine.obeying import obey
from responders.engine.severity import grade, holds, worse
from responders.engine.turn import Turn
from responders.engine.windows import joined
from responders.people.roles import named
from responders.playbooks.playbooks import Action, State, Step
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
        obey(turn, event)
    elif event.cameras > state.cameras:
        _regrade(turn, replace(state, cameras=event.cameras))
    _walk(turn, event)
    if isinstance(event, Tick) and _check_time(turn, event):
        _walk(turn, event)
    _ask(turn)
    call(turn, event)
    return turn


def _ask(turn: Turn) -> None:
    """Tell those whose approval is asked for, once an asking; the calls of the chain go to others."""
    incident = turn.incident
    if incident.asks and (not turn.before.asks or turn.before.signals == 0 or incident.asking != turn.before.asking):
        turn.record("ask", f"{incident.step.name} waits for {named(incident.asks)}: {incident.step.text}")


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
        if after.relapses:
            turn.record("relapse", f"an incident of this kind has just closed by itself here, time {after.relapses}")
    else:
        _regrade(turn, after)
    found = turn.incident.diagnosis
    if found is not None and (before.diagnosis is None or before.diagnosis.cause is not found.cause):
        turn.record("diagnose", f"{found.cause}, {found.confidence:.0%} sure. {' '.join(found.evidence)}")
    if turn.incident.calm and not before.calm:
        turn.record("calm", f"{signal.detector} says calm, as every detector that raised")
    if before.playbook.on_relapse is not None and _is_relapse(before, turn.incident, signal):
        turn.incident = replace(turn.incident, resolution=None)
        turn.go_back(before.playbook.on_relapse, f"{signal.detector} raises again")
    if (step := _passed_over(turn.incident)) is not None and signal.phase is not Phase.CALM:
        turn.go(turn.incident.playbook.position(step.name))
        turn.record("replan", f"{signal.detector} raises too: {step.name} is needed after all")
    if more and signal.phase is Phase.ONGOING:
        return
    if any(_sets_aside(turn.incident, step) for step in turn.incident.playbook.steps[: turn.incident.position]):
        turn.set_aside()


def _passed_over(incident: Incident) -> Step | None:
    """A switch to the safe model that was left out, and is asked for by what is known now."""
    if incident.needs_safe or incident.resolution is not None:
        return None
    ended = {one.step: one.outcome for one in incident.ended}
    passed = incident.playbook.steps[: incident.position]
    serves = (step for step in passed if step.action is Action.SERVE and step.mode is Mode.SAFE)
    raised = replace(incident, findings=tuple(one for one in incident.findings if one.phase is not Phase.CALM))
    return next((step for step in serves if ended.get(step.name) is Outcome.SKIPPED and holds(step.when, raised)), None)


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


def _is_relapse(before: Incident, after: Incident, signal: Signal) -> bool:
    if before.state is not State.RECOVERING:
        return False
    if before.resolution is None:
        return before.calm and not after.calm
    # An alarm that merely goes on does not overrule the human who has just closed; a fresh one does.
    return signal.phase is Phase.RAISED and before.hears(signal)


def _taken_in(incident: Incident, signal: Signal) -> Incident:
    findings, diagnosis = incident.findings, incident.diagnosis
    if incident.hears(signal):
        findings = (*(known for known in findings if known.detector != signal.detector), finding_of(signal))
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
    """Do what can be done now, until a step waits or the incident is closed."""
    while True:
        _leave_out(turn)
        if turn.incident.asks or not _DOES[turn.incident.step.action](turn, event):
            return


def _quarantine(turn: Turn, _event: Happening) -> bool:
    turn.set_aside()
    turn.end(Outcome.SUCCESS)
    return True


def _serve(turn: Turn, _event: Happening) -> bool:
    step, mode = turn.incident.step, turn.incident.step.mode
    assert mode is not None  # the playbook was checked
    if mode is Mode.NORMAL or not turn.incident.needs_safe:
        turn.serve(mode)
    if mode is Mode.SAFE and turn.incident.held and all(one.step != step.name for one in turn.incident.ended):
        turn.hold()  # it began so; what comes back later is held where it goes back
    turn.end(Outcome.SUCCESS)
    return True


def _await_onset(turn: Turn, event: Happening) -> bool:
    if turn.incident.calm:
        turn.incident = replace(turn.incident, resolution=Resolution.PASSED)
        turn.skip_to(len(turn.incident.playbook.steps) - 1)
        return True
    if not _lasts(turn.incident, event):
        return False
    turn.end(Outcome.SUCCESS)
    incident = turn.incident
    turn.record("open", f"it lasts: {incident.signals} signals so far. Severity {incident.severity}: {incident.graded}")
    return True


def _await_reports(turn: Turn, event: Happening) -> bool:
    incident, mode = turn.incident, turn.incident.step.mode
    assert mode is not None  # the playbook was checked
    if not (isinstance(event, Tick) and event.confirms(mode)):
        return False
    if mode is Mode.NORMAL:
        turn.incident = replace(incident, recovered_at=event.time)
    elif incident.contained_at is None:
        turn.incident = replace(incident, contained_at=event.time)
    action = "contained" if mode is Mode.SAFE else "restored"
    turn.record(action, f"every live worker reports the {mode} model: {', '.join(event.live)}")
    turn.end(Outcome.SUCCESS)
    return True


def _await_calm(turn: Turn, event: Happening) -> bool:
    if turn.incident.resolution is not None:  # people have closed it; calm may be held, or its camera be dead
        turn.end(Outcome.MANUAL)
        return True
    if not _calm_lasts(turn.incident, event):
        return False
    turn.end(Outcome.SUCCESS)
    return True


def _manual(turn: Turn, _event: Happening) -> bool:
    people = " and ".join(voice.actor for voice in turn.incident.voices)
    turn.record("done", f"{turn.incident.step.name} is done, by the word of {people}")
    turn.end(Outcome.MANUAL)
    return True


def _shut(turn: Turn, event: Happening) -> bool:
    resolution = turn.incident.resolution or (Resolution.RECOVERED if turn.incident.calm else Resolution.HANDLED)
    turn.incident = replace(turn.incident, resolution=resolution, needs_safe=False, closed_at=event.time)
    turn.note(turn.incident.step.name, Outcome.SUCCESS)
    turn.record("closed", f"closed: {resolution}")
    return False


_DOES: Mapping[Action, Callable[[Turn, Happening], bool]] = {
    Action.QUARANTINE: _quarantine,
    Action.SERVE: _serve,
    Action.AWAIT_ONSET: _await_onset,
    Action.AWAIT_REPORTS: _await_reports,
    Action.AWAIT_CALM: _await_calm,
    Action.MANUAL: _manual,
    Action.CLOSE: _shut,
}
"""What each action does; True where the walk goes on."""


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


def _calm_lasts(incident: Incident, event: Happening) -> bool:
    """Whether calm was proven, and frames have been judged since for as long as the step asks: no frames, no calm."""
    if not incident.calm or (incident.held and incident.needs_safe):
        return False
    dwell_s, since = incident.step.dwell_s, incident.calm_at
    if dwell_s is None:
        return True
    if not isinstance(event, Tick) or event.judged_at is None or since is None:
        return False
    return event.judged_at - since >= timedelta(seconds=dwell_s)


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
        return _fail(turn)
    if incident.tries < step.retries and waited_s >= limit_s * (incident.tries + 1) / (step.retries + 1):
        assert step.mode is not None  # only reports are asked for again; the playbook was checked
        turn.incident = replace(incident, tries=incident.tries + 1)
        turn.serve(step.mode, again=True)
    return False


def _fail(turn: Turn) -> bool:
    """A step's limit has passed: where the incident stands at another one because of it, True."""
    incident, step = turn.incident, turn.incident.step
    if step.on_failure is not None:
        turn.fail(f"{step.name} failed")
        return True
    if step.action is Action.AWAIT_REPORTS and incident.resolution is not None and incident.owed:
        turn.end(Outcome.FAILURE)  # somebody has closed it: what people owe comes next, whatever the workers say
        return True
    return False


def _lacking(incident: Incident, tick: Tick) -> str:
    if incident.asks:
        approve = f'kerbwatch incidents approve {incident.id[:8]} --step {incident.step.name} -m "what you looked at"'
        return f"still to be approved by {named(incident.asks)}: `{approve}`"
    if incident.step.action is Action.AWAIT_CALM:
        return "no proof of calm came; look at the camera and its detectors"
    late = sorted(set(tick.live) - set(tick.agreeing))
    if not late:
        return "no worker is alive; start one (kerbwatch status)"
    return f"not reported by {', '.join(late)}; look at these workers (kerbwatch status)"
