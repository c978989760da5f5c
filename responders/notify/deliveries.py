"""What people are to be told, kept until each channel has told it.

It decides when a notice goes out, with which others, when a failed delivery is tried again, and which pages are withdrawn because
somebody has taken over. It refuses to decide whom to call (`incident.py`), and to let one channel wait for another: each is a lane
of its own, called from a thread of its own, and none holds a transaction while it sends. Notices are written in the transaction of
the decision that they tell (`post`); a row per notice and channel records what became of it. Fed by the database only.

A receiver sees a notice once by its key; a runner that dies after sending leaves it to the next to send again under the same key.

Source: README, promise 3; paper 4.7 (notification).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, and_, exists, or_, select, update
from sqlalchemy.orm import Session, aliased

from infra.db import Sessions, alone_on, insert_into, reading, writing
from infra.tables import NoticeRow, NotificationRow
from responders.engine.incident import Decision, Incident
from responders.notify.channels import TIMEOUT_S, Channel, ChannelName
from responders.notify.notices import Notice, Paged, Sort, notice_of, reminder
from responders.people.roles import Role
from streams.errors import KerbwatchError

WAITING = "waiting"
DONE = "done"
WITHDRAWN = "withdrawn"
"""A page that nobody needs any more: somebody has acknowledged, or it is over."""
FAILED = "failed"
"""Not delivered for a day; it stays in the table, with the last error."""

WAIT = timedelta(seconds=2)
"""A page waits so long for others that belong into the same message: a storm opens its incidents within a breath."""
INTERVAL = timedelta(seconds=60)
"""Nobody is paged twice within it on one channel; what comes meanwhile goes into one message at its end."""
LEASE = timedelta(seconds=12 * TIMEOUT_S)
"""So long does a dead runner's delivery wait for another runner; a mail needs some exchanges, each with its own time limit."""
GIVE_UP = timedelta(hours=24)
_BACK_OFF_MIN_S = 1.0
_BACK_OFF_MAX_S = 300.0
_LONGEST_WAIT = timedelta(seconds=_BACK_OFF_MAX_S)
"""Nothing waits longer: a later time was written by a clock that was set back since, and is none."""
_BATCH = 200
_ERROR_CHARS = 300
_TAKES_OVER = frozenset({"acknowledge", "snooze", "closed"})


@dataclass(frozen=True)
class Delivered:
    """One pass of one channel: how many notices it told, how many must wait for another try."""

    sent: int = 0
    delayed: int = 0


class Notification(Struct, frozen=True, kw_only=True):
    """What became of one notice on one channel. Times are UTC."""

    key: str
    incident_id: str
    channel: ChannelName
    sort: Sort
    role: str
    what: str
    state: str
    attempts: int
    error: str
    created_at: datetime
    done_at: datetime | None


@dataclass(frozen=True)
class _Task:
    number: int
    notice: Notice
    attempts: int
    created_at: datetime


def post(session: Session, incident: Incident, decision: Decision, now: datetime) -> None:
    """Write what is to be told of a decision; withdraw waiting pages where somebody took over."""
    if decision.action in _TAKES_OVER:
        _withdraw(session, incident.id, now)
    for role in _informed(incident, decision):
        what = f"incident {incident.id[:8]} ({incident.kind} on {incident.camera_id}): {decision.what}"
        remind(session, reminder(f"{decision.id} {role}", what, role, now), now)
    paged = _pages_of(session, incident.id) if decision.action == "closed" else ()
    notice = notice_of(incident, decision, now, paged)
    if notice is not None:
        _write(session, notice, now)


def _informed(incident: Incident, decision: Decision) -> Sequence[Role]:
    """Who is told, once and without being called: whose approval a step asks for; of what goes wrong, who has acknowledged."""
    if decision.action == "ask":
        return incident.asks
    goes_wrong = decision.action == "escalate" and incident.quiet and incident.snoozed_until is None
    return incident.called[-1:] if goes_wrong else ()


def _pages_of(session: Session, incident_id: str) -> tuple[Paged, ...]:
    bodies = session.scalars(select(NoticeRow.body).where(NoticeRow.incident_id == incident_id).order_by(NoticeRow.created_at))
    told = (msgspec.json.decode(body, type=Notice) for body in bodies)
    return tuple(Paged(one.role, one.severity, one.kind) for one in told if one.sort is Sort.PAGE)


def remind(session: Session, notice: Notice, now: datetime) -> None:
    """Write a reminder, to be sent on every channel; the same one again changes nothing."""
    _write(session, notice, now)


def _write(session: Session, notice: Notice, now: datetime, *, dispatched: bool = False) -> None:
    row = {
        "id": notice.key,
        "incident_id": notice.incident_id or None,
        "body": msgspec.json.encode(notice),
        "dispatched": dispatched,
        "created_at": now,
    }
    session.execute(insert_into(session, NoticeRow).values(row).on_conflict_do_nothing())


def _withdraw(session: Session, incident_id: str, now: datetime) -> None:
    undispatched = (NoticeRow.incident_id == incident_id, ~NoticeRow.dispatched)
    session.execute(update(NoticeRow).where(*undispatched).values(dispatched=True))  # first: waits for a dispatch under way
    of_incident = (NotificationRow.incident_id == incident_id, NotificationRow.sort == Sort.PAGE, NotificationRow.state == WAITING)
    session.execute(update(NotificationRow).where(*of_incident).values(state=WITHDRAWN, done_at=now))


def dispatch(sessions: Sessions, channels: Sequence[ChannelName], now: datetime) -> int:
    """Give every new notice to every channel, as rows; returns how many were new.

    That an incident is over is told where it was paged. Raises Unavailable without the database; the next call makes up for it.
    """
    with reading(sessions) as session:
        if not session.scalar(select(exists().where(~NoticeRow.dispatched))):
            return 0
    with writing(sessions) as session:
        alone_on(session, NoticeRow.__tablename__)
        rows = session.scalars(select(NoticeRow).where(~NoticeRow.dispatched).order_by(NoticeRow.created_at, NoticeRow.id)).all()
        for row in rows:
            notice = msgspec.json.decode(row.body, type=Notice)
            told = _paged_on(session, notice.incident_id) if notice.sort is Sort.OVER else channels
            for channel in channels:
                if channel in told:
                    _add(session, notice, channel, now, not_before=row.created_at + WAIT)
            row.dispatched = True
        return len(rows)


def _paged_on(session: Session, incident_id: str) -> Sequence[str]:
    told = (NotificationRow.incident_id == incident_id, NotificationRow.sort == Sort.PAGE, NotificationRow.state == DONE)
    return session.scalars(select(NotificationRow.channel).where(*told).distinct()).all()


def _add(session: Session, notice: Notice, channel: ChannelName, now: datetime, *, not_before: datetime, runner: str = "") -> bool:
    row = {
        "key": notice.key,
        "incident_id": notice.incident_id or None,
        "channel": channel,
        "sort": notice.sort,
        "role": notice.role,
        "state": WAITING,
        "attempts": 0,
        "error": "",
        "not_before": not_before,
        "leased_by": runner,
        "leased_until": now + LEASE if runner else None,
        "created_at": now,
    }
    new = insert_into(session, NotificationRow).values(row).on_conflict_do_nothing().returning(NotificationRow.number)
    return session.scalar(new) is not None


def deliver(sessions: Sessions, channel: Channel, clock: Callable[[], datetime], runner: str) -> Delivered:
    """Send one message of what is due on a channel; call again while `sent` is not 0.

    `runner` as in `effects.carry_out`; one call at a time per runner and channel. What fails waits, longer each time (1 s doubling
    to 5 minutes), for a day. Raises Unavailable without the database.
    """
    tasks = _take(sessions, channel.name, runner, clock())
    if not tasks:
        return Delivered()
    error, remark = _send(channel, [task.notice for task in tasks])
    _settle(sessions, runner, tasks, error, clock(), remark)
    return Delivered(sent=0 if error else len(tasks), delayed=len(tasks) if error else 0)


def attempt(sessions: Sessions, channel: Channel, notice: Notice, clock: Callable[[], datetime], runner: str) -> str:
    """Send one notice now, without another try, and record how that went; returns the error, "" for none.

    One that is on record already is left to whoever sends it.
    """
    now = clock()
    with writing(sessions) as session:
        _write(session, notice, now, dispatched=True)
        session.flush()
        if not _add(session, notice, channel.name, now, not_before=now, runner=runner):
            return ""
    error, remark = _send(channel, [notice])
    with writing(sessions) as session:
        row = and_(NotificationRow.key == notice.key, NotificationRow.channel == channel.name)
        outcome = {"state": FAILED if error else DONE, "error": error or remark, "attempts": 1, "done_at": clock(), "leased_by": ""}
        session.execute(update(NotificationRow).where(row).values(outcome))
    return error


def _send(channel: Channel, notices: Sequence[Notice]) -> tuple[str, str]:
    """Why it was not told, and what is to be remarked where it was; "" for none."""
    try:
        return "", (channel.send(notices) or "")[:_ERROR_CHARS]
    except KerbwatchError as error:
        return str(error)[:_ERROR_CHARS] or type(error).__name__, ""
    except Exception as error:  # noqa: BLE001 - whatever a channel does, its notices are kept and the others go on
        return f"{channel.name} failed by its own fault ({type(error).__name__}): report it", ""


def _take(sessions: Sessions, channel: ChannelName, runner: str, now: datetime) -> list[_Task]:
    with reading(sessions) as session:  # most passes find nothing, and then no lock is taken
        if session.scalar(select(NotificationRow.number).where(_due(channel, runner, now)).limit(1)) is None:
            return []
    with writing(sessions) as session:
        alone_on(session, NotificationRow.__tablename__)
        first = session.scalar(select(NotificationRow).where(_due(channel, runner, now)).order_by(NotificationRow.number).limit(1))
        if first is None:
            return []
        alike = and_(_due(channel, runner, now), NotificationRow.sort == first.sort, NotificationRow.role == first.role)
        rows = session.scalars(select(NotificationRow).where(alike).order_by(NotificationRow.number).limit(_BATCH)).all()
        keys = select(NoticeRow.id, NoticeRow.body).where(NoticeRow.id.in_([row.key for row in rows]))
        bodies = {row.id: row.body for row in session.execute(keys)}
        for row in rows:
            row.leased_by, row.leased_until = runner, now + LEASE
        return [_Task(row.number, msgspec.json.decode(bodies[row.key], type=Notice), row.attempts, row.created_at) for row in rows]


def _due(channel: ChannelName, runner: str, now: datetime) -> ColumnElement[bool]:
    lately = aliased(NotificationRow)
    held = (
        select(lately.number)
        .where(
            lately.channel == NotificationRow.channel,
            lately.sort == Sort.PAGE,
            lately.role == NotificationRow.role,
            lately.state == DONE,
            lately.done_at.between(now - INTERVAL, now),  # not what was told by a clock that was set back since
        )
        .exists()
    )
    free = or_(NotificationRow.leased_until.is_(None), NotificationRow.leased_until <= now, NotificationRow.leased_by == runner)
    return and_(
        NotificationRow.channel == channel,
        NotificationRow.state == WAITING,
        or_(NotificationRow.not_before <= now, NotificationRow.not_before > now + _LONGEST_WAIT),
        free,
        or_(NotificationRow.sort != Sort.PAGE, ~held),
    )


def _settle(sessions: Sessions, runner: str, tasks: Sequence[_Task], error: str, now: datetime, remark: str) -> None:  # noqa: PLR0917 - only `deliver` calls it
    with writing(sessions) as session:
        for task in tasks:
            mine = and_(NotificationRow.number == task.number, NotificationRow.leased_by == runner)
            free = {"attempts": task.attempts + 1, "error": error or remark, "leased_by": "", "leased_until": None}
            if not error:  # also where it was withdrawn meanwhile: it was told
                session.execute(update(NotificationRow).where(mine).values(free | {"state": DONE, "done_at": now}))
                continue
            late = now - task.created_at >= GIVE_UP
            again = {"not_before": now + timedelta(seconds=min(_BACK_OFF_MAX_S, _BACK_OFF_MIN_S * 2 ** min(task.attempts, 16)))}
            outcome = free | ({"state": FAILED, "done_at": now} if late else again)
            session.execute(update(NotificationRow).where(mine, NotificationRow.state == WAITING).values(outcome))


def listed(session: Session, *, incident_id: str | None = None, limit: int = 50) -> tuple[Notification, ...]:
    """Deliveries, newest first."""
    query = select(NotificationRow, NoticeRow.body).join(NoticeRow, NoticeRow.id == NotificationRow.key)
    if incident_id is not None:
        query = query.where(NotificationRow.incident_id == incident_id)
    return tuple(
        Notification(
            key=row.key,
            incident_id=row.incident_id or "",
            channel=ChannelName(row.channel),
            sort=Sort(row.sort),
            role=row.role,
            what=msgspec.json.decode(body, type=Notice).what,
            state=row.state,
            attempts=row.attempts,
            error=row.error,
            created_at=row.created_at,
            done_at=row.done_at,
        )
        for row, body in session.execute(query.order_by(NotificationRow.number.desc()).limit(limit))
    )
