"""Whom a rollout's turns are told: those who approve, when they are asked and when a candidate goes without their doing.

It decides the words, and that each is told once to each role. It refuses to page: a rollout that waits or was taken back does no
harm, so it is told as other work that waits for people (a run that is silent is paged by `store.py`). No topic feeds it.

Source: paper 4.6 (approval by R3 and R8), 4.7 (notification).
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from responders.notify import deliveries
from responders.notify.notices import reminder
from responders.people.roles import named
from responders.rollouts.rollout import APPROVERS, RESPONDER, Decision, Rollout, State

_GONE = (State.RETURNED, State.FAILED, State.REJECTED)


def tell(session: Session, rollout: Rollout, decisions: Sequence[Decision], now: datetime) -> None:
    """Write what R3 and R8 are to hear of one turn of a rollout, in the transaction of its decisions."""
    for number, decision in enumerate(decisions):
        if decision.actor != RESPONDER:
            continue
        if decision.action == "ask":
            wants = f"waits for the approval of {named(APPROVERS)}, gate passed: {rollout.gate}"
            next_ = f"kerbwatch incidents approve {rollout.incident_id[:8]} -m WHY"
        elif decision.action in _GONE:
            wants = f"is {decision.action}: {'; '.join(one.what for one in decisions[number:])}"
            next_ = f"kerbwatch rollouts show {rollout.id[:8]}"
        else:
            continue
        for role in APPROVERS:
            what = f"rollout {rollout.id[:8]} of {rollout.context} {wants}. Next: `{next_}`"
            deliveries.remind(session, reminder(f"{decision.id} {role}", what, role, now), now)
