"""Which incident speaks against a model on its way into service.

It decides by what the incident is about: the frames that the candidate judged, a worker that serves it, or its very bytes. It
refuses to blame a model for what speaks of the camera: drift counts only where its playbook asks for the safe model, as it does for
a harmful cause. No topic feeds it: `store.py` asks at every tick.

Source: paper 4.6 (immediate roll-back).
"""

from sqlalchemy import and_, exists, or_, select
from sqlalchemy.orm import Session

from infra.tables import IncidentRow, JudgedFrame, ServedRow
from responders.engine.past import readable
from responders.playbooks.playbooks import Action
from responders.rollouts.rollout import Rollout, State
from streams.events import Kind, Mode

_ALWAYS = (Kind.EVASION, Kind.POISONING, Kind.COMPROMISE, Kind.HEALTH)
"""Kinds that speak against the model that judged; traffic and bad input speak of the camera, health of a worker."""


def alarm(session: Session, rollout: Rollout) -> str:
    """The first incident that opened in this step and speaks against the candidate; "" for none, and beside the serving model.

    Bytes that do not verify (tampering) are the candidate's once it is the normal model; before, they are its predecessor's.
    """
    if rollout.state is State.SHADOW:
        return ""
    kinds = (*_ALWAYS, Kind.DRIFT, Kind.TAMPERING) if rollout.state is State.FULL else (*_ALWAYS, Kind.DRIFT)
    judged = exists().where(
        JudgedFrame.camera_id == IncidentRow.camera_id,
        JudgedFrame.context == IncidentRow.context,
        JudgedFrame.weights_digest == rollout.candidate_digest,
    )
    served = exists().where(ServedRow.context == IncidentRow.context, ServedRow.weights_digest == rollout.candidate_digest)
    since = (IncidentRow.context == rollout.context, IncidentRow.opened_at > rollout.since, IncidentRow.kind.in_(kinds))
    ours = or_(judged, and_(IncidentRow.kind.in_([Kind.HEALTH, Kind.TAMPERING]), served))
    rows = session.scalars(select(IncidentRow).where(*since, ours).order_by(IncidentRow.opened_at))
    return next((row.id for row in rows if row.kind in _ALWAYS or _asks_for_safe(row)), "")


def _asks_for_safe(row: IncidentRow) -> bool:
    """Whether it wants the safe model to serve, or waits for people who may let it."""
    steps = [incident.step for incident in readable([row])]
    return row.needs_safe or any(step.action is Action.SERVE and step.mode is Mode.SAFE for step in steps)
