"""What a round's records count: frames nobody judged or the wrong weights did, effects that came twice, signals, calls.

It decides how each is counted and how it is said; whether a round may have it is the referee's (`referee.py`). It refuses to take a
process's word: frames come from the cameras' ledgers, everything else from the database. No topic feeds it.

Source: README, promises 1 to 4.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import pairwise

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from infra.db import Sessions, reading
from infra.tables import EffectRow, IncidentRow, JudgedFrame, NotificationRow, QuarantinedFrame, TimelineRow
from responders.notify.deliveries import DONE
from responders.notify.notices import Sort
from streams import codec, topics
from streams.drill.filming import Filmed
from streams.events import QuarantineOrder
from streams.ledger import Entry

_ONCE = ("open", "serve", "contained", "restored", "closed")
_AGAIN = "asked again"
"""How the timeline says that an order was repeated because not everybody had reported it."""


def actions(sessions: Sessions, incident: str) -> set[str]:
    """What an incident's timeline shows."""
    with reading(sessions) as session:
        return set(session.scalars(select(TimelineRow.action).where(TimelineRow.incident_id == incident)))


def doubled(sessions: Sessions, rows: Sequence[IncidentRow]) -> list[str]:
    """What was done more than once to one of these incidents, in words: each step once for each time that the attack came back.

    No frame is ordered into quarantine twice.
    """
    found = []
    with reading(sessions) as session:
        for row in rows:
            lines = session.scalars(select(TimelineRow).where(TimelineRow.incident_id == row.id)).all()
            rounds = 1 + sum(line.action == "relapse" for line in lines)
            done = Counter((line.action, line.what) for line in lines if line.action in _ONCE and _AGAIN not in line.what)
            found += [f"{action} {times} times for {row.kind}" for (action, _), times in done.items() if times > rounds]
            orders = Counter(line.what for line in lines if line.action == "quarantine")
            twice = sum(times > 1 for times in orders.values()) + _overlaps(session, row.id)
            found += [f"{twice} quarantine orders for frames of another, for {row.kind}"] if twice else []
    return found


def _overlaps(session: Session, incident: str) -> int:
    query = select(EffectRow.payload).where(EffectRow.incident_id == incident, EffectRow.topic == topics.QUARANTINE.name)
    windows = [codec.decode(body, topics.QUARANTINE, QuarantineOrder).event.window for body in session.scalars(query)]
    windows.sort(key=lambda window: (window.epoch, window.first_sequence))
    return sum(one.epoch == next_.epoch and next_.first_sequence <= one.last_sequence for one, next_ in pairwise(windows))


def calls(sessions: Sessions, incidents: Collection[str]) -> int:
    """How many messages that call people went out about these incidents, on the channel that had most.

    One message may tell of many incidents: what was delivered at one moment to one role.
    """
    row = NotificationRow
    paged = (row.incident_id.in_(incidents), row.sort == Sort.PAGE, row.state == DONE)
    with reading(sessions) as session:
        sent = session.execute(select(row.channel, row.role, row.done_at).where(*paged).distinct())
        return max(Counter(channel for channel, _, _ in sent).values(), default=0)


def missed(sessions: Sessions, sent: Sequence[Entry]) -> int:
    """How many of these frames are not in quarantine."""
    with reading(sessions) as session:
        epochs = {entry.epoch for entry in sent}
        kept = set(session.scalars(select(QuarantinedFrame.frame_id).where(QuarantinedFrame.epoch.in_(epochs))))
    return sum(entry.frame_id not in kept for entry in sent)


def lost(sessions: Sessions, camera: Filmed, began: datetime, until: datetime) -> int:
    """How many frames a camera sent in that time that nobody judged."""
    sent = {one.frame_id for one in camera.entries() if one.offset is not None and began <= one.camera_time <= until}
    with reading(sessions) as session:
        query = select(JudgedFrame.frame_id).where(JudgedFrame.camera_id == camera.camera_id, JudgedFrame.camera_time >= began)
        return len(sent - set(session.scalars(query)))


def by_others(sessions: Sessions, camera: Filmed, weights: str, after: datetime, before: datetime | None = None) -> int:
    """How many frames of a camera were judged by other weights than these (SHA-256) in that time."""
    theirs = [JudgedFrame.camera_id == camera.camera_id, JudgedFrame.judged_time > after, JudgedFrame.weights_digest != weights]
    theirs += [] if before is None else [JudgedFrame.judged_time < before]
    with reading(sessions) as session:
        return session.scalar(select(func.count()).select_from(JudgedFrame).where(*theirs)) or 0


def given_back(sessions: Sessions, row: IncidentRow) -> datetime | None:
    """When an incident that was contained asked for other weights again."""
    if row.contained_at is None:
        return None
    asked = (TimelineRow.incident_id == row.id, TimelineRow.action == "serve", TimelineRow.time > row.contained_at)
    with reading(sessions) as session:
        return session.scalar(select(func.min(TimelineRow.time)).where(*asked))
