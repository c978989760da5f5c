"""The outbox's other end: what was decided is sent, at least once, in order, always under the same id.

It decides which waiting effects a runner may take, for how long, and when a failed one is tried again. It refuses to decide
anything about incidents. An effect is taken under a lease; a runner that dies loses it when the lease ends, and another sends
the same event under the same id, which every consumer recognises. Effects of one lane (topic and key) never overtake each
other, and orders to workers go before records. Fed by the database only.

Source: design promises 1 and 3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy import Select, and_, case, or_, select, update
from sqlalchemy.orm import Session, aliased

from infra.db import Sessions, alone_on, reading, writing
from infra.tables import EffectRow
from responders.outbox import WAITING
from streams import codec
from streams.errors import BadInput, Unavailable
from streams.events import Event
from streams.topics import BY_NAME, MODEL_STATE, QUARANTINE, Topic

DONE = "done"
REFUSED = "refused"
"""An effect that can never be sent; it stays in the table, with the reason."""

LEASE = timedelta(seconds=30)
"""Longer than any single send takes (the port has its own deadline); so long does a dead runner's effect wait."""
_BATCH = 64
_BACK_OFF_MAX_S = 30.0
_BACK_OFF_MIN_S = 0.25


class Port(Protocol):
    """Where effects go."""

    def send(self, topic: Topic, key: str, event: Event) -> None:
        """Return only once the broker has the event for good. Raises Unavailable if it may not have it."""
        ...


@dataclass(frozen=True)
class Carried:
    """One pass: how many effects were sent, how many must wait for another try, how many can never be sent."""

    sent: int = 0
    delayed: int = 0
    refused: int = 0


@dataclass(frozen=True)
class _Task:
    number: int
    lane: str
    topic: Topic
    key: str
    payload: bytes
    attempts: int


def carry_out(sessions: Sessions, port: Port, clock: Callable[[], datetime], runner: str) -> Carried:
    """Send what is due, at most 64 effects; call again while `sent` is not 0. `runner` names this process, uniquely.

    Safe at any moment of a crash, and beside other runners. Raises Unavailable without the database; a broker that cannot be
    reached is no error here: the effects wait, longer after each failure (0.25 s doubling to 30 s).
    """
    tasks = _take(sessions, runner, clock())
    ends = clock() + LEASE / 2
    sent = delayed = refused = 0
    stuck: set[str] = set()
    for task in tasks:
        if task.lane in stuck or clock() >= ends:  # what follows a failure, or a slow pass, is left to the next one
            _settle(sessions, runner, task, {})
            continue
        try:
            port.send(task.topic, task.key, codec.decode(task.payload, task.topic, task.topic.carries).event)
        except Unavailable as error:
            pause_s = min(_BACK_OFF_MAX_S, _BACK_OFF_MIN_S * 2 ** min(task.attempts, 16))
            _settle(sessions, runner, task, {"error": str(error), "not_before": clock() + timedelta(seconds=pause_s)}, tried=True)
            stuck.add(task.lane)
            delayed += 1
        except BadInput as error:
            _settle(sessions, runner, task, {"state": REFUSED, "error": str(error), "done_at": clock()}, tried=True)
            refused += 1
        else:
            _settle(sessions, runner, task, {"state": DONE, "error": "", "done_at": clock()}, tried=True)
            sent += 1
    return Carried(sent, delayed, refused)


def _take(sessions: Sessions, runner: str, now: datetime) -> list[_Task]:
    with reading(sessions) as session:  # most passes find nothing, and then no lock is taken
        if not session.scalars(_due(now).limit(1)).all():
            return []
    with writing(sessions) as session:
        return _lease(session, runner, now)


def _lease(session: Session, runner: str, now: datetime) -> list[_Task]:
    alone_on(session, EffectRow.__tablename__)
    rows = session.scalars(_due(now).limit(_BATCH)).all()
    for row in rows:
        row.leased_by, row.leased_until = runner, now + LEASE
    return [_Task(row.number, row.lane, BY_NAME[row.topic], row.key, row.payload, row.attempts) for row in rows]


def _due(now: datetime) -> Select[EffectRow]:
    free = or_(EffectRow.leased_until.is_(None), EffectRow.leased_until <= now)
    earlier = aliased(EffectRow)
    barred = and_(
        earlier.lane == EffectRow.lane,
        earlier.number < EffectRow.number,
        earlier.state == WAITING,
        or_(earlier.not_before > now, earlier.leased_until > now),
    )
    first = case((EffectRow.topic == MODEL_STATE.name, 0), (EffectRow.topic == QUARANTINE.name, 1), else_=2)
    return (
        select(EffectRow)
        .where(EffectRow.state == WAITING, EffectRow.not_before <= now, free, ~select(earlier.number).where(barred).exists())
        .order_by(first, EffectRow.number)
    )


def _settle(sessions: Sessions, runner: str, task: _Task, changes: dict[str, object], *, tried: bool = False) -> None:
    """Give the effect back with what became of it, unless the lease has ended and another runner has it."""
    with writing(sessions) as session:
        session.execute(
            update(EffectRow)
            .where(EffectRow.number == task.number, EffectRow.leased_by == runner, EffectRow.state == WAITING)
            .values(leased_by="", leased_until=None, attempts=task.attempts + tried, **changes)
        )
