"""Where rollouts live: each event about a retrained model, what was decided and what follows, in one SQL transaction.

It decides which rollout an event belongs to and which model state follows from a decision; it refuses a second rollout of a context
while one is under way, and to send anything: effects go to the outbox. Fed by the retraining run, by people's acts and by the clock
(what topics `detections` and `worker-status` showed is in the database by then). Locks as `store.py` does.

Source: README, promises 1, 3 and 4; paper 4.6.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec
import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from infra.db import reading, writing
from infra.tables import Assignment, ComparisonRow, IncidentRow, RolloutRow, TimelineRow, WorkerRow
from responders.engine import assignments, outbox
from responders.engine.incident import Incident, Page
from responders.engine.past import incident_of
from responders.engine.records import nearest
from responders.engine.store import Store, locked
from responders.notify import deliveries
from responders.people.access import TOGETHER, Deed
from responders.people.desk import roles_behind
from responders.people.people import roles_of
from responders.people.roles import Role, named
from responders.rollouts.alarms import alarm
from responders.rollouts.comparison import SHORT, Limits, Tally
from responders.rollouts.deciding import decide, evolve
from responders.rollouts.rollout import (
    APPROVERS,
    LIVE,
    OVER,
    Act,
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
from responders.rollouts.telling import tell
from streams.errors import BadInput, KerbwatchError, Tampered, Unavailable
from streams.events import Context, Mode, event_id

Vouch = Callable[[Context, str], object]
"""Raises KerbwatchError unless the registry vouches for a model (by digest) in a context: signed, and passed by the gate."""


def nobody_vouches(context: Context, digest: str) -> None:
    """For whoever moves rollouts by people's acts only: those never promote a candidate. Raises BadInput."""
    raise BadInput(f"model {digest[:12]} is not promoted for {context} here: the responder does that (`kerbwatch up`)")


Former = Callable[[Session, Context], str]
"""The model (by digest) that a context goes back to from its present normal one; raises BadInput where there is none."""


def nobody_goes_back(_session: Session, context: Context) -> str:
    """For whoever never takes a normal model out of service. Raises BadInput."""
    raise BadInput(f"no former model of {context} is chosen here: `kerbwatch rollouts cancel` and the responder do that")


class _Unvouched(Unavailable):
    """Nothing speaks against the model, but the registry cannot vouch for it now: no key, no signature, no folder."""


log = structlog.get_logger("rollouts")
_CALLED = Role.SECMLOPS_ENGINEER
"""Is paged where a run is silent: leads the response (paper, table 1)."""


@dataclass(frozen=True)
class Rollouts:
    """The rollouts of one database. `store` knows the workers.

    `vouch` is asked before a candidate becomes a normal model, `former` which one follows it when it goes.
    """

    store: Store
    vouch: Vouch = nobody_vouches
    former: Former = nobody_goes_back

    def under_way(self, incident_id: str) -> Rollout | None:
        """The rollout that answers an incident and is not over; None if there is none."""
        with reading(self.store.sessions) as session:
            row = session.scalar(select(RolloutRow).where(RolloutRow.incident_id == incident_id, ~RolloutRow.over))
            return None if row is None else rollout_of(row)

    def request(self, incident_id: str, actor: str, *, short: bool, now: datetime, act_id: str = "") -> Rollout:
        """The rollout that answers an incident: the one under way, or a new one, caused by the signed act of that id.

        An act that began a rollout and comes again finds it, even if that is over. Raises BadInput if another holds the context.
        """
        with writing(self.store.sessions) as session:
            incident = _incident(session, incident_id)
            model = locked(session, (incident.context,))[incident.context]
            if act_id and (asked_before := session.get(RolloutRow, event_id("rollout", incident_id, act_id))) is not None:
                return rollout_of(asked_before)
            row = session.scalar(select(RolloutRow).where(RolloutRow.context == incident.context, ~RolloutRow.over))
            if row is not None and row.incident_id == incident_id:
                return rollout_of(row)
            if row is not None:
                raise BadInput(
                    f"rollout {row.id[:8]} of {row.context} is {row.state} (incident {row.incident_id[:8]}); one at a time: "
                    "let it end, or `kerbwatch rollouts cancel` it"
                )
            count = session.scalar(select(func.count()).select_from(RolloutRow).where(RolloutRow.incident_id == incident_id))
            rollout = Rollout(
                id=event_id("rollout", incident_id, act_id or count or 0),
                context=incident.context,
                incident_id=incident_id,
                requested_by=actor,
                requested_at=now,
                normal_digest=model.normal_digest,
                limits=SHORT if short else Limits(),
                short=short,
                since=now,
                heard_at=now,
            )
            _save(session, rollout)
            what = f"secure retraining is asked for ({'short' if short else 'full'} budget)"
            asked = Record(event_id("decision", rollout.id, "request"), rollout.state, actor, "request", what)
            _put_on_record(session, incident, rollout.id, asked, cause_id=act_id or rollout.id, now=now)
            return rollout

    def hear(self, rollout_id: str, event: Progress | Staged | Gated | Failed, now: datetime) -> Rollout:
        """The run's word; the rollout afterwards. Raises BadInput for an unknown rollout."""
        return self._take_in(rollout_id, lambda _session, _model: event, f"run-{rollout_id}", now)[0]

    def act(  # noqa: PLR0917 - an act has these parts
        self, rollout_id: str, verb: Verb, actor: str, comment: str, role: Role | None, now: datetime, *, id_: str = ""
    ) -> Rollout:
        """A person's act (`id_`: that of the signed one); what a person has no right to is put on record and refused.

        Raises BadInput in plain words for what was refused, and for an act on a rollout that is over.
        """
        id_ = id_ or event_id("act", rollout_id, verb, actor, comment, now.isoformat())
        rollout, decisions = self._take_in(
            rollout_id,
            lambda session, model: replace(
                Act(id_, now, verb, actor, comment, roles_of(session, actor), role, model.normal_digest),
                gone=_gone(session, rollout_of(session.get_one(RolloutRow, rollout_id))),
            ),
            id_,
            now,
        )
        refused = next((decision.what for decision in decisions if decision.action == "refuse"), None)
        if refused is not None:
            raise BadInput(f"{refused}. This is on record; see `kerbwatch people list`", on_record=True)
        if not decisions:
            raise BadInput(f"rollout {rollout_id[:8]} is {rollout.state}: nothing can be done about it any more")
        return rollout

    def rolled_back(  # noqa: PLR0917 - an act has these parts
        self, session: Session, context: Context, act_id: str, actor: str, comment: str, now: datetime
    ) -> Rollout | None:
        """In the session's transaction, take a candidate out of service because people go back from the context's normal model.

        Returns the rollout as it was, None where no candidate was in service. Which model follows is the caller's business. Raises
        BadInput for somebody who may not.
        """
        model = locked(session, (context,))[context]
        row = session.scalar(select(RolloutRow).where(RolloutRow.context == context, RolloutRow.state.in_(LIVE)))
        if row is None:
            return None
        before = rollout_of(row)
        act = Act(act_id, now, Verb.ROLL_BACK, actor, comment, roles_of(session, actor), None, model.normal_digest)
        after, decisions = self._settle(session, before, act, model, cause_id=act_id, now=now)
        if after.state not in OVER:
            raise BadInput("; ".join(decision.what for decision in decisions))
        return before

    def tick(self, now: datetime) -> tuple[Decision, ...]:
        """Let time pass for every rollout under way. Raises Unavailable without the database; the next tick makes up for it.

        What cannot be vouched for now is asked about again until its step has lasted `phase_s`; no other rollout waits for it.
        """
        moved_by_time = ~RolloutRow.over & (RolloutRow.state != State.AWAITING_APPROVAL)
        with reading(self.store.sessions) as session:
            ids = session.scalars(select(RolloutRow.id).where(moved_by_time).order_by(RolloutRow.context)).all()
        made: list[Decision] = []
        cause_id = f"clock {now.isoformat()}"
        for id_ in ids:
            try:
                made += self._take_in(id_, None, cause_id, now)[1]
            except _Unvouched as error:
                log.warning("waiting", rollout=id_[:8], cause=str(error))
            except (BadInput, Tampered) as error:  # the registry does not vouch for the model that was to be served
                made += self._take_in(id_, lambda _session, _model, why=str(error): Failed(now, why), cause_id, now)[1]  # type: ignore[misc]
        return tuple(made)

    def _take_in(
        self, rollout_id: str, event_of: Callable[[Session, Assignment], Happening] | None, cause_id: str, now: datetime
    ) -> tuple[Rollout, tuple[Decision, ...]]:
        """One event (a tick if there is none) on one rollout, with everything that follows."""
        with writing(self.store.sessions) as session:
            context = session.scalar(select(RolloutRow.context).where(RolloutRow.id == rollout_id))
            if context is None:
                raise BadInput(f"no rollout {rollout_id}; see `kerbwatch rollouts list`")
            model = locked(session, (Context(context),))[Context(context)]
            session.expire_all()
            before = rollout_of(session.get_one(RolloutRow, rollout_id))
            event = self._moment(session, before, model, now) if event_of is None else event_of(session, model)
            return self._settle(session, before, event, model, cause_id=cause_id, now=now)

    def _settle(
        self, session: Session, before: Rollout, event: Happening, model: Assignment, *, cause_id: str, now: datetime
    ) -> tuple[Rollout, tuple[Decision, ...]]:
        decisions, after = decide(before, event), evolve(before, event)
        if after is before:
            return after, ()
        _save(session, after)
        incident = _incident(session, after.incident_id)
        told: list[Decision] = []
        for decision in decisions:
            said = (
                self._serve(session, after, model, decision, now, began=before.since) if isinstance(decision, Serve) else decision
            )
            _put_on_record(session, incident, after.id, said, cause_id=cause_id, now=now)
            told.append(said)
        tell(session, after, told, now)
        return after, decisions

    def _serve(
        self, session: Session, rollout: Rollout, model: Assignment, decision: Serve, now: datetime, *, began: datetime
    ) -> Serve:
        """What workers are told; returns the decision, with what came of naming a model."""
        named = decision.normal_digest
        if named is not None:
            self._vouched(rollout, named, now - began)
        elif decision.back and model.normal_digest == rollout.candidate_digest:  # what people have named since stays
            try:
                named = self.former(session, rollout.context)
            except BadInput as error:
                stays = f"{model.normal_digest[:12]} stays the normal model, for nothing else may be: {error}"
                decision = replace(decision, what=f"{decision.what}; {stays}; let people choose: `kerbwatch models promote`")
            except Unavailable as error:  # it goes back as soon as the registry is there again
                raise _Unvouched(f"what follows model {model.normal_digest[:12]} is not known yet: {error}") from error
            else:
                decision = replace(decision, what=f"{decision.what}; back to {named[:12]}")
        if named is not None:
            assignments.name(
                session,
                rollout.context,
                Mode.NORMAL,
                named,
                decision_id=decision.id,
                actor=decision.actor,
                why=f"rollout {rollout.id[:8]}: {decision.what}",
                now=now,
            )
        assignments.decided(model, decision.id, now)
        outbox.post_model_state(session, model, decision.what, rollout.incident_id)
        return decision

    def _vouched(self, rollout: Rollout, digest: str, lasted: timedelta) -> None:
        try:
            self.vouch(rollout.context, digest)
        except (BadInput, Tampered):
            raise
        except (KerbwatchError, OSError) as error:
            limit_s = rollout.limits.phase_s
            if lasted >= timedelta(seconds=limit_s):
                raise BadInput(f"the registry could not vouch for it in {limit_s:g} s: {error}") from error
            raise _Unvouched(f"model {digest[:12]} is not vouched for yet: {error}") from error

    def _moment(self, session: Session, rollout: Rollout, model: Assignment, now: datetime) -> Tick:
        if rollout.state not in LIVE:
            return Tick(now, Mode(model.asked_mode))
        workers = session.scalars(select(WorkerRow).order_by(WorkerRow.worker_id)).all()
        live, agreeing = self.store.obedience(model, workers, now, rollout.candidate_digest if rollout.phase else None)
        cameras = select(ComparisonRow.camera_id).where(ComparisonRow.weights_digest == rollout.candidate_digest)
        return Tick(
            time=now,
            mode=Mode(model.asked_mode),
            live=live,
            agreeing=agreeing,
            cameras=tuple(session.scalars(cameras.order_by(ComparisonRow.camera_id))),
            tally=tally_of(session, rollout),
            alarm=alarm(session, rollout),
            normal_digest=model.normal_digest,
        )


def rollout_of(row: RolloutRow) -> Rollout:
    """The whole state out of its row."""
    return msgspec.json.decode(row.body, type=Rollout)


def tally_of(session: Session, rollout: Rollout) -> Tally:
    """What all cameras' frames say of the candidate, since it is known."""
    rows = session.scalars(select(ComparisonRow).where(ComparisonRow.weights_digest == rollout.candidate_digest)).all()
    return Tally(**{name: sum(getattr(row, name) for row in rows) for name in Tally.__struct_fields__})


def listed(session: Session, limit: int = 50) -> tuple[Rollout, ...]:
    """Rollouts, newest first."""
    rows = session.scalars(select(RolloutRow).order_by(RolloutRow.requested_at.desc(), RolloutRow.id).limit(limit))
    return tuple(rollout_of(row) for row in rows)


def awaiting(session: Session, now: datetime) -> str:
    """Which rollouts wait for whose approvals, in words; "" for none. An approval counts for a day."""
    rows = session.scalars(select(RolloutRow).where(RolloutRow.state == State.AWAITING_APPROVAL).order_by(RolloutRow.context))
    waits = []
    for one in map(rollout_of, rows):
        given = {approval.role for approval in one.approvals if now - approval.time < TOGETHER}
        waits.append(f"{one.id[:8]} of {one.context} for {named([role for role in APPROVERS if role not in given])}")
    return f"rollouts wait for approval: {', '.join(waits)}: `kerbwatch rollouts list`" if waits else ""


def find(session: Session, text: str) -> Rollout:
    """The rollout that `text` names: its id, its incident's (then the newest), or the beginning of either. Raises BadInput."""
    wanted = text.strip().lower()
    if wanted:
        named = RolloutRow.id.startswith(wanted, autoescape=True) | RolloutRow.incident_id.startswith(wanted, autoescape=True)
        rows = session.scalars(select(RolloutRow).where(named).order_by(RolloutRow.requested_at.desc())).all()
        if len({row.incident_id for row in rows}) == 1:
            return rollout_of(rows[0])
        if rows:
            raise BadInput(f"{text!r} could be rollout {rows[0].id}, {rows[1].id} or another: give more of the id")
    known = session.scalars(select(RolloutRow.id).order_by(RolloutRow.requested_at.desc()).limit(1000)).all()
    hint = nearest(wanted, known) or "see `kerbwatch rollouts list`, or ask for one with `kerbwatch retrain`"
    raise BadInput(f"no rollout {text!r}; {hint}")


def _incident(session: Session, incident_id: str) -> Incident:
    row = session.get(IncidentRow, incident_id)
    if row is None:
        raise BadInput(f"no incident {incident_id}; see `kerbwatch incidents list`")
    return incident_of(row)


def _gone(session: Session, rollout: Rollout) -> tuple[str, ...]:
    """Who approved and does not have that role any more, or not the key that they signed it with."""
    return tuple(
        given.actor
        for given in rollout.approvals
        if given.role not in roles_behind(session, Deed.APPROVE_MODEL, rollout.id, given.actor, given.time)
    )


def _save(session: Session, rollout: Rollout) -> None:
    row = session.get(RolloutRow, rollout.id) or RolloutRow(
        id=rollout.id, incident_id=rollout.incident_id, context=rollout.context, requested_at=rollout.requested_at
    )
    row.state, row.over, row.candidate_digest = rollout.state, rollout.state in OVER, rollout.candidate_digest
    row.phase, row.share, row.body = rollout.phase, rollout.share, msgspec.json.encode(rollout)
    session.add(row)
    session.flush()


def _put_on_record(
    session: Session, incident: Incident, rollout_id: str, decision: Decision, *, cause_id: str, now: datetime
) -> None:
    session.add(
        TimelineRow(
            incident_id=incident.id,
            decision_id=decision.id,
            time=now,
            state=incident.state,
            actor=decision.actor,
            action=f"rollout.{decision.action}",
            what=decision.what,
            cause_id=cause_id,
        )
    )
    outbox.post_rollout(session, incident, decision, rollout_id=rollout_id, cause_id=cause_id, now=now)
    snoozed = incident.snoozed_until is not None and incident.snoozed_until > now
    if decision.action == "escalate" and not snoozed:
        page = Page(decision.id, incident.state, _CALLED, incident.pages + 1, f"retraining: {decision.what}")
        deliveries.post(session, incident, page, now)
