"""Which weights serve a context in which mode, as named by setup, by people and by rollouts, and ever since when.

It decides what a new name changes: the model that workers are asked for, the reference that input is scored against, one more row
of the history that nobody alters. `setup` names models only where a context has none yet: it neither takes back what people or
rollouts named, nor lets a later version's weights in unjudged. It does not judge itself: whether a model may serve is for the gate,
asked by whoever calls this (`streams.console.models`, `streams.agents`). Fed by `setup`, by `kerbwatch models promote|rollback`,
and by rollouts.

Source: paper 4.6 (per-context models, roll-back), SC-10.
"""

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from infra.db import alone_on
from infra.tables import AssignedRow, Assignment
from responders.engine import outbox
from streams.errors import Unavailable
from streams.events import Context, Mode, event_id

SETUP = "setup"
"""The actor of what nobody named: the shipped models."""
_TICK = timedelta(microseconds=1)


def assigned(session: Session, context: Context, mode: Mode) -> str:
    """The digest that a context serves in a mode. Raises Unavailable if it has none yet."""
    return _digest(_row(session, context), mode)


def begin(session: Session, context: Context, normal_digest: str, safe_digest: str, now: datetime) -> bool:
    """Name the shipped models of a context that has none yet; workers are told. False where it has some: those stay.

    The decision's id is "initial-CONTEXT". Whatever comes later goes through the gate (`kerbwatch models promote`, rollouts).
    """
    if session.get(Assignment, context) is not None:
        return False
    alone_on(session, Assignment.__tablename__)  # there is nothing to lock yet, and another set-up may be making it
    if session.get(Assignment, context) is not None:
        return False
    row = Assignment(context=context, asked_mode=Mode.NORMAL, changes=0, normal_digest=normal_digest, safe_digest=safe_digest)
    session.add(row)
    row.decision_id, row.asked_at = f"initial-{context}", now
    for mode, digest in ((Mode.NORMAL, normal_digest), (Mode.SAFE, safe_digest)):
        _name(session, row, mode, digest, decision_id=row.decision_id, actor=SETUP, why="shipped with kerbwatch", now=now)
    outbox.post_assignment(session, row, now)
    return True


def never_named(session: Session, context: Context, mode: Mode, digest: str) -> bool:
    """Whether a model was never named for a role: a shipped one that came with a later version, for example."""
    of_role = (AssignedRow.context == context, AssignedRow.mode == mode, AssignedRow.weights_digest == digest)
    return session.scalar(select(AssignedRow.number).where(*of_role).limit(1)) is None


def name(
    session: Session, context: Context, mode: Mode, digest: str, *, decision_id: str, actor: str, why: str, now: datetime
) -> None:
    """Name a model without telling the workers yet: the caller posts the model state under its own decision (a rollout does).

    Raises Unavailable if the context has none yet.
    """
    _name(session, _row(session, context), mode, digest, decision_id=decision_id, actor=actor, why=why, now=now)


def assign(session: Session, context: Context, mode: Mode, digest: str, *, actor: str, why: str, now: datetime) -> str:
    """Name a model, tell the workers, write the audit entry; returns the decision's id, the former one where nothing is new.

    A model that serves only in the other mode is named as well, so that it is there when that mode is asked for. Raises Unavailable
    if the context has none yet.
    """
    row = _row(session, context)
    if _digest(row, mode) == digest:
        return row.decision_id
    _decide(row, now, mode, digest)
    _name(session, row, mode, digest, decision_id=row.decision_id, actor=actor, why=why, now=now)
    outbox.post_model_state(session, row, why, None)
    what = f"{mode} model {digest}: {why}"
    outbox.post_audit(session, row.decision_id, actor, "model.assign", target=context, why=what, now=now)
    return row.decision_id


def decided(row: Assignment, decision_id: str, now: datetime) -> None:
    """By which decision the context's workers serve from now on; the row is locked.

    Its time is later than any decision's before it, whatever the deciding host's clock says: workers obey the latest order, and a
    clock that is ahead once, or is set back, must not make them deaf to the next.
    """
    row.decision_id, row.asked_at = decision_id, max(now, row.asked_at + _TICK)


def former(session: Session, context: Context, mode: Mode, *, present: bool = False) -> tuple[AssignedRow, ...]:
    """What a role may go back to, newest first: the models before the present one, each once; with `present` that one as well.

    Whoever named an earlier model again left everything that came after it, so none of that is gone back to.
    """
    of_role = (AssignedRow.context == context, AssignedRow.mode == mode)
    line: dict[str, AssignedRow] = {}
    for row in session.scalars(select(AssignedRow).where(*of_role).order_by(AssignedRow.number)):
        if row.weights_digest in line:
            known = list(line)
            line = {digest: line[digest] for digest in known[: known.index(row.weights_digest) + 1]}
        else:
            line[row.weights_digest] = row
    return tuple(line.values())[(-1 if present else -2) :: -1]


def _row(session: Session, context: Context) -> Assignment:
    row = session.get(Assignment, context, with_for_update=True)
    if row is None:
        raise Unavailable(f"no weights are assigned to context {context}: run `kerbwatch up` first")
    return row


def _digest(row: Assignment, mode: Mode) -> str:
    return row.safe_digest if mode is Mode.SAFE else row.normal_digest


def _decide(row: Assignment, now: datetime, *what: str) -> None:
    row.changes += 1
    decided(row, event_id("assign", row.context, row.normal_digest, row.safe_digest, *what, row.changes), now)


def _name(
    session: Session, row: Assignment, mode: Mode, digest: str, *, decision_id: str, actor: str, why: str, now: datetime
) -> None:
    if mode is Mode.SAFE:
        row.safe_digest = digest
    else:
        row.normal_digest = digest
    session.add(
        AssignedRow(context=row.context, mode=mode, weights_digest=digest, since=now, actor=actor, why=why, decision_id=decision_id)
    )
    session.flush()
