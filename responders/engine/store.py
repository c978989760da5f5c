"""Where incidents live: each event, what was decided about it and what follows from it, in one SQL transaction.

It decides which incident an event belongs to, whether it was accepted before, and which weights a context is asked to serve
while several incidents want different ones (safe wins). It refuses to send anything: effects are written to the outbox here and
carried out by `effects.py`. Fed by topics `signals` and `worker-status`, by human acts and by the clock.

Transactions that touch a context hold its `model_assignments` row, so two responders side by side take turns; all contexts are
locked in one order.

Source: README, promises 1, 3 and 4; paper 4.6, 4.7.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import ColumnElement, exists, or_, select, update
from sqlalchemy.orm import Session

from infra.db import Sessions, insert_into, reading, writing
from infra.tables import Assignment, InboxRow, IncidentRow, TimelineRow, WorkerRow
from responders.engine import assignments, outbox, past
from responders.engine.deciding import advance
from responders.engine.incident import Act, Decision, Happening, Incident, Serve, Tick, Verb, opened
from responders.engine.past import impact_of, incident_of
from responders.notify import deliveries
from responders.notify.notices import reminder
from responders.people.access import Deed
from responders.people.desk import roles_behind
from responders.people.roles import Role
from responders.playbooks.playbooks import Playbook, State
from streams import codec
from streams.errors import BadInput, BrokenContract, Unavailable
from streams.events import Context, Health, Kind, Mode, Phase, Signal, WorkerStatus


@dataclass(frozen=True)
class Accepted:
    """What an event led to; `new` is False where it had been accepted before and so changed nothing."""

    new: bool
    incident_ids: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class Store:
    """The incidents of one database. Durations in seconds, from `Settings`.

    A worker counts as alive for `worker_lost_s` after we heard it. Its word counts only while it is also young by its own clock
    (`clock_allowance_s` more), so that a backlog read after an outage cannot speak for workers that have died since.
    """

    sessions: Sessions
    playbooks: Mapping[Kind, Playbook]
    worker_lost_s: float
    clock_allowance_s: float

    def assign(self, context: Context, normal_digest: str, safe_digest: str, now: datetime) -> bool:
        """Name a context's first two models (SHA-256 of the weights), as `assignments.begin` does; False where it has some.

        Raises Unavailable without the database.
        """
        with writing(self.sessions) as session:
            return assignments.begin(session, context, normal_digest, safe_digest, now)

    def accept(self, event: Signal | WorkerStatus | Act, now: datetime) -> Accepted:
        """Take in one event, wholly or not at all; the same event again changes nothing.

        Raises BadInput for an act on an unknown incident, Unavailable without the database or before the context has weights:
        then nothing was accepted and the event is to be given again.
        """
        if isinstance(event, Signal):
            return self.accept_all((event,), now)[0]
        if isinstance(event, WorkerStatus):
            return self._hear(event, now)
        with writing(self.sessions) as session:
            row = session.get(IncidentRow, event.incident_id)
            if row is None:
                raise BadInput(f"no incident {event.incident_id}; see `kerbwatch incidents list`")
            context = Context(row.context)
            model = locked(session, (context,))[context]
            session.expire_all()
            if not first_times(session, (event.id,), now):
                return Accepted(new=False)
            before = incident_of(session.get_one(IncidentRow, event.incident_id))
            if event.verb is Verb.RECLASSIFY:
                event = self._planned(session, before, event)
            elif event.verb is Verb.APPROVE:
                event = replace(event, still=_still(session, before))
                if before.step.renews:
                    event = replace(event, doubted=past.doubted(session, before.camera_id, before.seen, model))
            decisions = _step(session, before, event, cause_id=event.id, model=model, now=now)
            return Accepted(new=True, incident_ids=(before.id,), decisions=decisions)

    def accept_all(self, signals: Sequence[Signal], now: datetime) -> tuple[Accepted, ...]:
        """Take in signals in the order given, all or none of them, in one transaction; what each led to, as `accept` says it.

        A storm costs one commit a batch, and one write an incident where nothing is decided. Batches of some hundred keep the
        transaction short for everybody else. Raises as `accept`.
        """
        if not signals:
            return ()
        with writing(self.sessions) as session:
            models = locked(session, tuple(sorted({signal.context for signal in signals})))
            session.expire_all()
            new = first_times(session, [signal.id for signal in signals], now)
            known: dict[tuple[str, Context], dict[str, Incident]] = {}
            closed: dict[tuple[str, Context, Kind], Incident | None] = {}
            unsaved: dict[str, Incident] = {}
            outcomes: list[Accepted] = []
            taken = {signal.id: n for n, signal in reversed(list(enumerate(signals))) if signal.id in new}
            last = {(signals[n].camera_id, signals[n].context, signals[n].kind): n for n in sorted(taken.values())}
            for n, signal in enumerate(signals):
                if taken.get(signal.id) != n:
                    outcomes.append(Accepted(new=False))
                    continue
                place = (signal.camera_id, signal.context)
                if place not in known:
                    known[place] = {one.id: one for one in _open_at(session, *place)}
                before = self._concerned(session, known[place].values(), signal, closed)
                if before is None:
                    outcomes.append(Accepted(new=True))
                    continue
                decisions, after = advance(before, signal, more=n < last[*place, signal.kind])
                known[place][after.id] = after
                outcomes.append(Accepted(new=True, incident_ids=(after.id,), decisions=decisions))
                if not decisions:
                    unsaved[after.id] = after
                    continue
                unsaved.pop(after.id, None)
                if after.state is State.CLOSED:
                    closed.clear()
                model = models[signal.context]
                _follow(session, before, after, decisions, cause_id=signal.id, time=signal.time, model=model, now=now)
            for incident in unsaved.values():
                _save(session, incident, now)
            return tuple(outcomes)

    def _concerned(
        self, session: Session, known: Iterable[Incident], signal: Signal, closed: dict[tuple[str, Context, Kind], Incident | None]
    ) -> Incident | None:
        """The open incident that a signal belongs to, or a new one; None where there is none and the signal opens none.

        An alarm that goes on opens one too: its first word may be lost, or its incident have been closed while it went on. `closed`
        is what this batch has looked up of those.
        """
        here = [one for one in known if one.state is not State.CLOSED and one.takes(signal.kind)]
        if here:
            return next((one for one in here if one.kind is signal.kind), here[0])
        if signal.phase is Phase.CALM:
            return None
        place = (signal.camera_id, signal.context, signal.kind)
        if signal.phase is Phase.ONGOING:
            if place not in closed:
                closed[place] = past.last_closed(session, signal)
            if past.is_settled(closed[place], signal):
                return None
        mine = (IncidentRow.kind == signal.kind, *_is_open_at(signal.camera_id, signal.context))
        if (hidden := session.scalar(select(IncidentRow).where(*mine))) is not None:
            incident_of(hidden)  # it is among the known ones if it can be read: the signal waits as a dead letter
        playbook = self.playbooks[signal.kind]
        return opened(signal, playbook, past.former(session, signal, playbook.relapse_within_s))

    def _planned(self, session: Session, incident: Incident, act: Act) -> Act:
        """What it really is, with that kind's playbook. Raises BadInput where the camera has an open incident of that kind."""
        assert act.kind is not None  # the act was checked
        others = [one.id for one in _open_at(session, incident.camera_id, incident.context) if one.kind is act.kind]
        if others and others != [incident.id]:
            raise BadInput(f"incident {others[0]} is about {act.kind} on {incident.camera_id} already: close this one instead")
        return replace(act, plan=self.playbooks[act.kind])

    def _hear(self, status: WorkerStatus, now: datetime) -> Accepted:
        with writing(self.sessions) as session:
            insert = insert_into(session, WorkerRow).values(
                worker_id=status.worker_id, said_at=status.time, heard_at=now, body=codec.encode(status)
            )
            new = insert.excluded
            # What is on record from a clock that was ahead is no ground to refuse what is said now that it was set back.
            ahead = WorkerRow.said_at > now + timedelta(seconds=self.clock_allowance_s)
            newer = insert.on_conflict_do_update(
                index_elements=[WorkerRow.worker_id],
                set_={"said_at": new.said_at, "heard_at": new.heard_at, "body": new.body},
                where=or_(WorkerRow.said_at < new.said_at, ahead),
            ).returning(WorkerRow.worker_id)
            if session.scalar(newer) is None:  # it says nothing new, or its clock was set back; but it lives, so it is waited for
                session.execute(update(WorkerRow).where(WorkerRow.worker_id == status.worker_id).values(heard_at=now))
                return Accepted(new=False)
            return self._tick(session, status.id, now)

    def tick(self, now: datetime) -> Accepted:
        """Let time pass: limits, lost workers, late facts. To be called every second or so; cheap while nothing is open.

        Raises Unavailable without the database; the next tick makes up for it.
        """
        with reading(self.sessions) as session:
            if not session.scalar(select(exists().where(IncidentRow.state != State.CLOSED))):
                return Accepted(new=True)
        with writing(self.sessions) as session:
            return self._tick(session, "clock", now)

    def _tick(self, session: Session, cause_id: str, now: datetime) -> Accepted:
        contexts = session.scalars(select(IncidentRow.context).where(IncidentRow.state != State.CLOSED).distinct()).all()
        if not contexts:
            return Accepted(new=True)
        models = locked(session, tuple(Context(context) for context in sorted(contexts)))
        workers = session.scalars(select(WorkerRow).order_by(WorkerRow.worker_id)).all()
        touched: list[str] = []
        decisions: list[Decision] = []
        rows = session.scalars(select(IncidentRow).where(IncidentRow.state != State.CLOSED).order_by(IncidentRow.opened_at)).all()
        cameras = Counter((row.context, row.kind) for row in rows)  # one open incident a camera, context and kind
        for row in rows:
            model = models.get(Context(row.context))
            if model is None:  # opened while we waited for the locks; the next tick sees it
                continue
            try:
                incident = incident_of(row)
                moment = Tick(
                    now,
                    Mode(model.asked_mode),
                    *self.obedience(model, workers, now),
                    cameras=cameras[row.context, row.kind],
                    judged_at=past.judged_at(session, incident) if incident.counts_calm else None,
                )
                made, after = advance(incident, moment)
            except (BrokenContract, ValueError, LookupError, TypeError, AssertionError) as error:  # the others' time goes on
                what = f"time stands still for incident {row.id[:8]}: {error}. Update this responder, or take it over by hand"
                deliveries.remind(session, reminder(f"unreadable {row.id}", what, Role.SECMLOPS_ENGINEER, now), now)
                continue
            if row.impact_at is None:
                row.impact_at = impact_of(session, incident, final=False)
            if after is not incident:
                _follow(session, incident, after, made, cause_id=cause_id, time=now, model=model, now=now)
            decisions += made
            if made:
                touched.append(row.id)
        return Accepted(new=True, incident_ids=tuple(touched), decisions=tuple(decisions))

    def obedience(
        self, model: Assignment, workers: Sequence[WorkerRow], now: datetime, candidate_digest: str | None = None
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The workers heard of lately, and those of them that report the very decision and weights asked of a context.

        With `candidate_digest` they must have that candidate at work as well.
        """
        lost = timedelta(seconds=self.worker_lost_s)
        young = lost + timedelta(seconds=self.clock_allowance_s)
        live: list[str] = []
        agreeing: list[str] = []
        for worker in workers:
            status = msgspec.json.decode(worker.body, type=WorkerStatus)
            if status.health is Health.STOPPING or now - worker.heard_at > lost:
                continue
            live.append(worker.worker_id)
            serves = any(
                serving.context == model.context
                and serving.weights_digest == outbox.asked_digest(model)
                and serving.decision_id == model.decision_id
                and candidate_digest in {None, serving.candidate_digest}
                for serving in status.serving
            )
            if serves and now - worker.said_at <= young:
                agreeing.append(worker.worker_id)
        return tuple(live), tuple(agreeing)


def first_times(session: Session, event_ids: Sequence[str], now: datetime) -> set[str]:
    """Which of these events were not accepted before; they are now."""
    rows = [{"event_id": id_, "accepted_at": now} for id_ in sorted(set(event_ids))]
    insert = insert_into(session, InboxRow).on_conflict_do_nothing().returning(InboxRow.event_id)
    return set(session.scalars(insert, rows))


def locked(session: Session, contexts: tuple[Context, ...]) -> dict[Context, Assignment]:
    """The contexts' assignments, held until the transaction ends. Raises Unavailable if one has no weights yet."""
    rows = session.scalars(
        select(Assignment).where(Assignment.context.in_(contexts)).order_by(Assignment.context).with_for_update()
    ).all()
    found = {Context(row.context): row for row in rows}
    missing = [context for context in contexts if context not in found]
    if missing:
        raise Unavailable(f"no weights are assigned to context {', '.join(missing)}: run `kerbwatch up` first")
    return found


def _still(session: Session, incident: Incident) -> dict[str, tuple[Role, ...]]:
    """In which roles those who approved so far may speak yet, with the key that they signed it with."""
    given = [(voice.actor, voice.at) for voice in incident.voices if voice.at is not None]
    return {actor: roles_behind(session, Deed.APPROVE_STEP, incident.id, actor, at) for actor, at in given}


def _open_at(session: Session, camera_id: str, context: Context) -> list[Incident]:
    rows = select(IncidentRow).where(*_is_open_at(camera_id, context)).order_by(IncidentRow.opened_at)
    return past.readable(session.scalars(rows))


def _is_open_at(camera_id: str, context: Context) -> tuple[ColumnElement[bool], ...]:
    return (IncidentRow.camera_id == camera_id, IncidentRow.context == context, IncidentRow.state != State.CLOSED)


def _step(
    session: Session, before: Incident, event: Happening, *, cause_id: str, model: Assignment, now: datetime
) -> tuple[Decision, ...]:
    """One incident one event further, with everything that follows from it."""
    decisions, after = advance(before, event)
    if after is not before:
        _follow(session, before, after, decisions, cause_id=cause_id, time=event.time, model=model, now=now)
    return decisions


def _follow(
    session: Session,
    before: Incident,
    after: Incident,
    decisions: tuple[Decision, ...],
    *,
    cause_id: str,
    time: datetime,
    model: Assignment,
    now: datetime,
) -> None:
    """What follows from an incident's change: its row, its timeline, its context's mode, effects and notices to be sent."""
    _save(session, after, now)
    held = _arbitrate(session, before, after, decisions, model=model, now=now)
    for decision in decisions:
        note = " (held: another incident of this context needs the safe model)" if held and isinstance(decision, Serve) else ""
        session.add(
            TimelineRow(
                incident_id=after.id,
                decision_id=decision.id,
                time=time,
                state=decision.state,
                actor=decision.actor,
                action=decision.action,
                what=decision.what + note,
                cause_id=cause_id,
            )
        )
        outbox.post_decision(session, after, decision, cause_id, now)
        deliveries.post(session, after, decision, now)


def _save(session: Session, incident: Incident, now: datetime) -> None:
    row = session.get(IncidentRow, incident.id)
    if row is None:
        row = IncidentRow(
            id=incident.id,
            kind=incident.kind,
            camera_id=incident.camera_id,
            context=incident.context,
            detected_at=incident.detected_at,
            opened_at=now,
        )
        session.add(row)
    row.kind, row.state, row.severity, row.resolution = incident.kind, incident.state, incident.severity, incident.resolution
    row.needs_safe, row.escalated, row.signals = incident.needs_safe, incident.escalated, incident.signals
    row.acknowledged_at, row.contained_at = incident.acknowledged_at, incident.contained_at
    row.recovered_at, row.closed_at = incident.recovered_at, incident.closed_at
    row.body = msgspec.json.encode(incident)
    if row.impact_at is None:
        row.impact_at = impact_of(session, incident, final=incident.state is State.CLOSED)
    session.flush()


def _arbitrate(
    session: Session, before: Incident, after: Incident, decisions: tuple[Decision, ...], *, model: Assignment, now: datetime
) -> bool:
    """Ask for the mode that the context's incidents need together; True where normal service must wait for another incident."""
    again = any(isinstance(decision, Serve) and decision.again for decision in decisions)
    if before.needs_safe is after.needs_safe and not again:
        return False
    needed = session.scalar(
        select(exists().where(IncidentRow.context == after.context, IncidentRow.needs_safe, IncidentRow.state != State.CLOSED))
    )
    mode = Mode.SAFE if needed else Mode.NORMAL
    if model.asked_mode != mode or again:
        asking = next((decision for decision in reversed(decisions) if isinstance(decision, Serve)), decisions[-1])
        model.asked_mode = mode
        assignments.decided(model, asking.id, now)
        outbox.post_model_state(session, model, asking.what, after.id)
    return bool(needed) and not after.needs_safe
