"""Who is called when: along the playbook's chain, until somebody acknowledges.

It decides that the first of the chain is called when an incident opens, the next when nobody has acknowledged in time, and again
whoever was called last when something goes wrong, the incident comes back or a snooze is over. A chain that was called in vain is
silent until something goes wrong, or worse; one that somebody acknowledged, until the incident comes back: then it begins anew. It
refuses to call anybody for a mere suspicion, and while an incident is snoozed. Pure; `notify` carries the calls out.

Source: paper 4.7 (defined roles and immediate actions); NIST SP 800-61r3 (RS.CO, notification).
"""

from datetime import datetime, timedelta

from msgspec.structs import replace

from responders.engine.incident import Act, Happening, Tick
from responders.engine.severity import at_least
from responders.engine.turn import Turn
from responders.playbooks.playbooks import Call, State


def call(turn: Turn, event: Happening) -> None:
    """Call who is to be called after this happening; the last part of every turn."""
    incident = turn.incident
    if incident.state in {State.SUSPECTED, State.CLOSED}:
        return
    if incident.snoozed_until is not None and not _awakes(turn, event, incident.snoozed_until):
        return
    chain = _chain(turn)
    if not chain or not _speaks(turn, event):
        return
    incident = turn.incident
    last = next((one for one in chain if incident.called and one.role is incident.called[-1]), None)
    if last is None:
        _next(turn, chain, turn.urgent or f"{incident.kind} on {incident.camera_id}, severity {incident.severity}")
    elif turn.urgent:
        turn.page(last.role, turn.urgent)
    elif isinstance(event, Tick):
        _wait(turn, chain, last, event)


def _awakes(turn: Turn, event: Happening, until: datetime) -> bool:
    if not isinstance(event, Tick) or event.time < until:
        return False
    turn.incident = replace(turn.incident, snoozed_until=None, quiet=False, called_at=None)
    turn.record("awake", "the snooze is over, and so is the silence")
    turn.urgent = turn.urgent or "the snooze is over and the incident is still open"
    return True


def _speaks(turn: Turn, event: Happening) -> bool:
    """Whether anybody is to be called at all; a chain that was over begins anew by it."""
    incident, before = turn.incident, turn.before
    came_back = incident.relapses > before.relapses and not isinstance(event, Act)
    if came_back:
        turn.urgent = turn.urgent or f"it has come back, time {incident.relapses}"
    if not (incident.quiet or incident.exhausted):
        return True
    # Quiet without an acknowledgement are old states, of when a chain that was called in vain was quiet as well.
    acknowledged = incident.quiet and incident.acknowledged_at is not None
    again = came_back if acknowledged else turn.urgent or not at_least(before.severity, incident.severity)
    if again:
        turn.incident = replace(incident, called=(), called_at=None, quiet=False, exhausted=False)
    return bool(again)


def _chain(turn: Turn) -> tuple[Call, ...]:
    """Who may be called for something as severe; for what has gone wrong, all."""
    incident = turn.incident
    return tuple(one for one in incident.playbook.calls if incident.escalated or at_least(incident.severity, one.at_least))


def _wait(turn: Turn, chain: tuple[Call, ...], last: Call, tick: Tick) -> None:
    incident = turn.incident
    if incident.called_at is None:
        turn.incident = replace(incident, called_at=tick.time)
    elif tick.time - incident.called_at >= timedelta(seconds=last.wait_s):
        _next(turn, chain, f"nobody has acknowledged for {last.wait_s:g} s since {last.role} was called")


def _next(turn: Turn, chain: tuple[Call, ...], why: str) -> None:
    one = next((one for one in chain if one.role not in turn.incident.called), None)
    if one is None:
        roles = ", ".join(turn.incident.called)
        turn.escalate(f"nobody acknowledged: {roles} were called in vain")
        turn.incident = replace(turn.incident, exhausted=True)
        return
    turn.incident = replace(turn.incident, called=(*turn.incident.called, one.role), called_at=None)
    turn.page(one.role, why)
