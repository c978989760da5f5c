"""The outbox's other end: what was decided is sent, at least once, in order, always under the same id.

It decides which waiting effects a runner may take, for how long, and when a failed one is tried again. It refuses to decide
anything about incidents. An effect is taken under a lease; a runner that dies loses it when the lease ends, and another sends
the same event under the same id, which every consumer recognises. Effects of one lane (topic and key) never overtake each
other, and orders to workers go before records. Fed by the database only.

Source: README, promises 1 and 3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy import ColumnElement, Select, and_, case, or_, select, update
from sqlalchemy.orm import Session, aliased

from infra.db import Sessions, alone_on, reading, writing
from infra.tables import EffectRow
from responders.engine.outbox import AT_ONCE, WAITING
from streams import codec
from streams.errors import BadInput, Unavailable
from streams.events import Event
from streams.topics import BY_NAME, MODEL_STATE, QUARANTINE, Topic

DONE = "done"
REFUSED = "refused"
"""An effect that can never be sent; it stays in the table, with the reason."""

LEASE = timedelta(seconds=10)
"""So long does a dead runner's effect wait for another runner. A port must give up on one send within half of it."""
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


@dataclass(frozen=True)
class _Result:
    task: _Task
    state: str
    tried: bool = False
    error: str = ""


def carry_out(sessions: Sessions, port: Port, clock: Callable[[], datetime], runner: str) -> Carried:
    """Send what is due, at most 64 effects; call again while `sent` is not 0.

    `runner` names this process (`runner.claim`): unique among those that live, and the same after a restart in the same home, so
    that it takes up at once what it held when it died. One call at a time per runner. Safe at any moment of a crash, and beside
    other runners. Raises Unavailable without the database; a broker that cannot be reached is no error here: effects wait, longer
    after each failure (0.25 s doubling to 30 s).
    """
    tasks = _take(sessions, runner, clock())
    ends = clock() + LEASE / 2
    stuck: set[str] = set()
    results: list[_Result] = []
    for task in tasks:
        if task.lane in stuck or clock() >= ends:  # what follows a failure, or a slow pass, is left to the next one
            results.append(_Result(task, WAITING))
            continue
        try:
            port.send(task.topic, task.key, codec.decode(task.payload, task.topic, task.topic.carries).event)
        except Unavailable as error:
            stuck.add(task.lane)
            results.append(_Result(task, WAITING, tried=True, error=str(error)))
        except BadInput as error:
            results.append(_Result(task, REFUSED, tried=True, error=str(error)))
        else:
            results.append(_Result(task, DONE, tried=True))
    if results:
        _settle(sessions, runner, results, clock())
    return Carried(
        sent=sum(result.state == DONE for result in results),
        delayed=sum(result.state == WAITING and result.tried for result in results),
        refused=sum(result.state == REFUSED for result in results),
    )


def _take(sessions: Sessions, runner: str, now: datetime) -> list[_Task]:
    with reading(sessions) as session:  # most passes find nothing, and then no lock is taken
        if not session.scalars(_due(runner, now).limit(1)).all():
            return []
    with writing(sessions) as session:
        return _lease(session, runner, now)


def _lease(session: Session, runner: str, now: datetime) -> list[_Task]:
    alone_on(session, EffectRow.__tablename__)
    rows = session.scalars(_due(runner, now).limit(_BATCH)).all()
    for row in rows:
        row.leased_by, row.leased_until = runner, now + LEASE
    return [_Task(row.number, row.lane, BY_NAME[row.topic], row.key, row.payload, row.attempts) for row in rows]


def _due(runner: str, now: datetime) -> Select[EffectRow]:
    earlier = aliased(EffectRow)
    barred = and_(
        earlier.lane == EffectRow.lane,
        earlier.number < EffectRow.number,
        earlier.state == WAITING,
        or_(_backs_off(earlier, now), and_(earlier.leased_until > now, earlier.leased_by != runner)),
    )
    # What this runner holds already is left from a life that ended before it could send.
    free = or_(EffectRow.leased_until.is_(None), EffectRow.leased_until <= now, EffectRow.leased_by == runner)
    first = case((EffectRow.topic == MODEL_STATE.name, 0), (EffectRow.topic == QUARANTINE.name, 1), else_=2)
    return (
        select(EffectRow)
        .where(EffectRow.state == WAITING, ~_backs_off(EffectRow, now), free, ~select(earlier.number).where(barred).exists())
        .order_by(first, EffectRow.number)
    )


def _backs_off(row: type[EffectRow], now: datetime) -> ColumnElement[bool]:
    """Whether it failed lately. Nothing backs off for longer than the limit: a later time is of a clock that was set back since."""
    return and_(row.not_before > now, row.not_before <= now + timedelta(seconds=_BACK_OFF_MAX_S))


def _settle(sessions: Sessions, runner: str, results: list[_Result], now: datetime) -> None:
    """Give the effects back with what became of them, but for those whose lease has ended and that another runner has."""
    with writing(sessions) as session:
        for result in results:
            pause_s = min(_BACK_OFF_MAX_S, _BACK_OFF_MIN_S * 2 ** min(result.task.attempts, 16))
            session.execute(
                update(EffectRow)
                .where(EffectRow.number == result.task.number, EffectRow.leased_by == runner, EffectRow.state == WAITING)
                .values(
                    state=result.state,
                    error=result.error,
                    attempts=result.task.attempts + result.tried,
                    not_before=now + timedelta(seconds=pause_s) if result.error else AT_ONCE,
                    done_at=None if result.state == WAITING else now,
                    leased_by="",
                    leased_until=None,
                )
            )
