"""What decisions let be sent, written to the outbox in the transaction that made them.

It decides which events follow from a decision - a quarantine order, the incident's change, an audit entry, a context's model
state - and gives each an id that is the same at every repeat. It refuses to send: `effects.py` does, later. Fed by `store.py`.

Source: README, promises 1 and 3; paper SC-10 (audit trails).
"""

import base64
from datetime import UTC, datetime

from msgspec.structs import replace
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from infra.tables import Assignment, EffectRow, RolloutRow
from responders.engine.incident import RESPONDER, Decision, Incident, SetAside
from responders.people.acts import Signed, Statement
from responders.playbooks.playbooks import State
from responders.rollouts import rollout
from streams import codec
from streams.events import (
    AuditEntry,
    Candidate,
    Context,
    Event,
    IncidentChange,
    Mode,
    ModelState,
    QuarantineOrder,
    RolloutPhase,
    event_id,
)
from streams.topics import AUDIT, INCIDENTS, MODEL_STATE, QUARANTINE, Topic

SOURCE = "responder/store"
WAITING = "waiting"
"""An effect's state until it is done or refused for good."""
SEALED = "evidence.sealed"
"""What audit entries call it that an incident's bundle was sealed."""
AT_ONCE = datetime.fromtimestamp(0, UTC)
"""Due by every clock: who decides and who sends need not agree on the time."""


def asked_digest(model: Assignment) -> str:
    """The weights (SHA-256) that a context's workers are asked to serve."""
    return model.safe_digest if model.asked_mode == Mode.SAFE else model.normal_digest


def post_assignment(session: Session, model: Assignment, now: datetime) -> None:
    """New weights of a context: the state that workers must serve, and its audit entry."""
    post_model_state(session, model, "weights assigned", None)
    why = f"normal {model.normal_digest}, safe {model.safe_digest}"
    entry = _audit(model.decision_id, RESPONDER, "model.assign", target=model.context, why=why, cause_id=model.decision_id, now=now)
    _post(session, AUDIT, entry, model.decision_id, None)


def post_model_state(session: Session, model: Assignment, reason: str, incident_id: str | None) -> None:
    """What a context's workers are asked to serve from now on, a candidate beside it included.

    Id and time are the decision's (`assignments.decided`): of a context's orders the one with the latest time counts.
    """
    state = ModelState(
        id=model.decision_id,
        source=SOURCE,
        time=model.asked_at,
        subject=model.context,
        context=Context(model.context),
        weights_digest=asked_digest(model),
        mode=Mode(model.asked_mode),
        reference_digest=model.normal_digest,
        decision_id=model.decision_id,
        reason=reason,
        candidate=_candidate(session, model),
        safe_digest=model.safe_digest,
    )
    _post(session, MODEL_STATE, state, model.decision_id, incident_id)


def _candidate(session: Session, model: Assignment) -> Candidate | None:
    """The context's model on its way into service; while safe mode is asked for it serves no camera."""
    row = session.scalar(select(RolloutRow).where(RolloutRow.context == model.context, RolloutRow.phase.is_not(None)))
    if row is None or row.phase is None:
        return None
    phase = RolloutPhase.SHADOW if model.asked_mode == Mode.SAFE else RolloutPhase(row.phase)
    return Candidate(weights_digest=row.candidate_digest, phase=phase, share=row.share, rollout_id=row.id)


def post_decision(session: Session, incident: Incident, decision: Decision, cause_id: str, now: datetime) -> None:
    """Everything that follows from one decision but the model state, which is settled for the whole context at once."""
    if isinstance(decision, SetAside):
        order = QuarantineOrder(
            id=decision.id,
            source=SOURCE,
            time=now,
            subject=incident.camera_id,
            decision_id=decision.id,
            incident_id=incident.id,
            camera_id=incident.camera_id,
            context=incident.context,
            window=decision.window,
            reason=f"{incident.kind}: {decision.what}",
        )
        _post(session, QUARANTINE, order, decision.id, incident.id)
    _post_change(session, incident, decision, decision.state, decision.what, now)
    action = f"incident.{decision.action}"
    entry = _audit(decision.id, decision.actor, action, target=incident.id, why=decision.what, cause_id=cause_id, now=now)
    _post(session, AUDIT, entry, decision.id, incident.id)


def post_rollout(
    session: Session, incident: Incident, decision: rollout.Decision, *, rollout_id: str, cause_id: str, now: datetime
) -> None:
    """The incident's watchers and the audit trail learn of a step of its retrained model; workers learn by `post_model_state`."""
    _post_change(session, incident, decision, incident.state, f"retraining, {decision.state}: {decision.what}", now)
    action = f"rollout.{decision.action}"
    entry = _audit(decision.id, decision.actor, action, target=rollout_id, why=decision.what, cause_id=cause_id, now=now)
    _post(session, AUDIT, entry, decision.id, incident.id)


def gate_said(entry: AuditEntry) -> bool | None:
    """Whether the gate passed a rollout's candidate, where an entry tells that; a person's rejection bears the person's name."""
    if entry.action == "rollout.gate":
        return True
    return False if (entry.action, entry.actor) == (f"rollout.{rollout.State.REJECTED}", rollout.RESPONDER) else None


def post_audit(session: Session, decision_id: str, actor: str, action: str, *, target: str, why: str, now: datetime) -> None:
    """An act of a person that no incident is about."""
    entry = _audit(decision_id, actor, action, target=target, why=why, cause_id=decision_id, now=now)
    _post(session, AUDIT, entry, decision_id, None)


def post_sealed(session: Session, incident_id: str, digest: str, actor: str, why: str, now: datetime) -> None:  # noqa: PLR0917 - which bundle, by whom, when
    """A bundle of an incident was sealed; its SHA-256 is put on record once, however often that is said."""
    decision_id = event_id("evidence", incident_id, digest)
    entry = _audit(decision_id, actor, SEALED, target=incident_id, why=why, cause_id=decision_id, now=now)
    if session.scalar(select(exists().where(EffectRow.id == entry.id))):
        return
    _post(session, AUDIT, entry, decision_id, None)


def post_act(session: Session, act: Signed, said: Statement, now: datetime) -> None:
    """What a person did, with their signature: whoever has the audit trail and the person's public key can check it."""
    why = f"{said.deed}: {said.comment}"
    entry = _audit(act.id, said.actor, "people.act", target=said.target, why=why, cause_id=act.id, now=now)
    signature = base64.b64encode(act.signature).decode()
    _post(session, AUDIT, replace(entry, signed=act.body.decode(), signature=signature), act.id, None)


def _post_change(  # noqa: PLR0917 - an incident's change has these parts
    session: Session, incident: Incident, decision: Decision | rollout.Decision, state: State, what: str, now: datetime
) -> None:
    change = IncidentChange(
        id=event_id("incident-change", decision.id),
        source=SOURCE,
        time=now,
        subject=incident.id,
        incident_id=incident.id,
        kind=incident.kind,
        camera_id=incident.camera_id,
        context=incident.context,
        state=state,
        severity=incident.severity,
        actor=decision.actor,
        what=what,
    )
    _post(session, INCIDENTS, change, decision.id, incident.id)


def _audit(decision_id: str, actor: str, action: str, *, target: str, why: str, cause_id: str, now: datetime) -> AuditEntry:
    return AuditEntry(
        id=event_id("audit", decision_id),
        source=SOURCE,
        time=now,
        subject=target,
        actor=actor,
        action=action,
        target=target,
        why=why,
        cause_id=cause_id,
    )


def _post(session: Session, topic: Topic, event: Event, decision_id: str, incident_id: str | None) -> None:
    key = str(getattr(event, topic.key))
    session.add(
        EffectRow(
            id=event.id,
            decision_id=decision_id,
            incident_id=incident_id,
            topic=topic.name,
            key=key,
            lane=f"{topic.name}/{key}",
            payload=codec.encode(event),
            state=WAITING,
            attempts=0,
            error="",
            not_before=AT_ONCE,
            leased_by="",
            leased_until=None,
            created_at=event.time,
            done_at=None,
        )
    )
    session.flush()  # numbers follow the order of posting
