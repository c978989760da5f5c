"""What people's acts do to an incident.

It decides what an act leads to: who looks after the incident, whether it is quiet, what it is held for, whether a step may go on,
how it ends. It refuses an approval that answers another step or an earlier asking, by somebody whose role the step does not ask
for, or who has given theirs, and one of a roll-back after which the model under suspicion would serve; the refusal is on record.
What somebody approved counts for a day, while they have the role. A no, and one person's close, bring back no model that people
were to look at first. Whether the actor is who they say was settled before (`desk.py`). Pure. Fed by human acts through
`deciding.py`.

Source: paper 4.6 (approval by roles), 4.7 (defined roles and immediate actions); SC-10.
"""

from msgspec.structs import replace

from responders.engine.incident import Act, Incident, Outcome, Resolution, Verb, Voice, lacking
from responders.engine.replanning import replanned
from responders.engine.severity import grade, holds
from responders.engine.turn import Turn
from responders.people.access import TOGETHER
from responders.people.roles import named
from responders.playbooks.playbooks import Action, State
from streams.events import Phase


def obey(turn: Turn, act: Act) -> None:
    """Do what somebody said to an incident that is not closed."""
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
    assert act.asking is not None  # the act was checked
    valid = _valid(incident, act)
    why = ""
    if not step.approval:
        why = f"step {step.name} asks for nobody's approval"
    elif act.asking != incident.asking:
        earlier = "as it was asked for before" if act.asking.step == step.name else "which is not asked for now"
        why = f"it was for step {act.asking.step}, {earlier}; asked for now: step {step.name}, by {named(incident.asks)}"
    elif not set(act.roles) & set(step.approval):
        why = f"step {step.name} asks for {named(step.approval)}"
    elif act.verb is Verb.APPROVE and act.actor in {voice.actor for voice in valid}:
        why = f"{act.actor} has approved it already; still asked for: {named(incident.asks)}"
    elif act.verb is Verb.APPROVE:
        why = _still_doubted(incident, act)
        if why and why != incident.escalated:
            turn.escalate(why)
    if why:
        turn.record("refused", f"{act.verb}: {why}", act.actor)
    elif act.verb is Verb.REJECT:
        turn.record("reject", f"{step.name}: {act.comment}", act.actor)
        if incident.owed:  # somebody who has called it a false alarm is contradicted
            turn.incident = replace(turn.incident, resolution=None)
        turn.fail(f"{step.name} was rejected by {act.actor}")
    else:
        voices = (*valid, Voice(act.actor, act.roles, act.time))
        left = lacking(step, voices)
        turn.incident = replace(incident, voices=voices)
        gone = sorted({voice.actor for voice in incident.voices} - {voice.actor for voice in voices})
        why = "a day old, or the role or the key is theirs no more"
        lapsed = f"; what {' and '.join(gone)} said counts no more ({why})" if gone else ""
        still = f"; still asked for: {named(left)}" if left else ""
        turn.record("approve", f"{step.name}: {act.comment}{lapsed}{still}", act.actor)


def _valid(incident: Incident, act: Act) -> tuple[Voice, ...]:
    """The approvals so far that count beside this act: of the last day, in roles that their givers have yet."""
    recent = [voice for voice in incident.voices if voice.at is not None and act.time - voice.at < TOGETHER]
    if act.still is not None:
        recent = [replace(one, roles=tuple(role for role in one.roles if role in act.still.get(one.actor, ()))) for one in recent]
    return tuple(voice for voice in recent if set(voice.roles) & set(incident.step.approval))


def _still_doubted(incident: Incident, act: Act) -> str:
    """Why a roll-back cannot be approved: the model that is to come back is the one that this incident is about."""
    if not incident.step.renews or not act.doubted or incident.resolution is Resolution.FALSE_ALARM:
        return ""
    return (
        f"{incident.step.name}: the normal model is still {act.doubted[:12]}, whose answers this incident is about: the safe one "
        "serves on. Name another (`kerbwatch models rollback`), or close the incident as false_alarm first if nothing is wrong"
    )


def _close(turn: Turn, act: Act) -> None:
    incident = turn.incident
    asked_before = incident.resolution is not None
    loud = sorted({one.detector for one in incident.findings if one.phase is not Phase.CALM})
    alarming = f". Still alarming: {', '.join(loud)}" if loud else ""
    owed = next((step for step in incident.owed if holds(step.when, incident)), None)
    if owed is not None:  # what was approved so far was approved for another reason
        waits = incident.step.action is Action.AWAIT_REPORTS and not incident.overdue
        first = "Every worker's report of the safe model is waited for; it" if waits else "The safe model"
        what = f"{act.resolution}: {act.comment}. {first} serves until {owed.name} is approved by {named(owed.approval)}"
        turn.record("close", what + alarming, act.actor)
        turn.incident = replace(turn.incident, resolution=act.resolution)
        if not waits:
            _pass_on(turn, incident.playbook.position(owed.name))
        return
    turn.record("close", f"{act.resolution}: {act.comment}{alarming}", act.actor)
    turn.incident = replace(turn.incident, resolution=act.resolution)
    restore = incident.playbook.on_human_close
    if restore is not None and incident.needs_safe:
        _pass_on(turn, incident.playbook.position(restore))
    elif incident.state is State.RECOVERING and not asked_before:
        return  # the normal model is asked for already; the reports close it, or a second close does
    else:
        _pass_on(turn, len(incident.playbook.steps) - 1)


def _pass_on(turn: Turn, position: int) -> None:
    """Go on to where a close leads; a wait was ended by people, what people or the system were to do was not done."""
    waited = turn.incident.step.action in {Action.AWAIT_ONSET, Action.AWAIT_REPORTS, Action.AWAIT_CALM}
    turn.skip_to(position, here=Outcome.MANUAL if waited else Outcome.SKIPPED)
