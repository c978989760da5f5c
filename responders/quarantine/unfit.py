"""Which judged frames nobody may learn from: set aside, destroyed, or ordered into quarantine and not let go since.

It decides by what incidents ordered, not only by what is sealed already: an order that the keeper has not carried out yet, or could
not, holds as well. It refuses nothing to a frame that people released, or that only false alarms were about. No topic feeds it: a
retraining run asks, and who looks for a clean frame.

Source: paper 4.6 (automatic quarantine, cleaned datasets).
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import msgspec
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from infra.tables import IncidentRow, JudgedFrame, QuarantinedFrame
from responders.engine.incident import Resolution
from responders.quarantine.quarantine import Standing
from streams.events import Window

_BATCH = 10_000
"""Names in one question; SQLite takes 32,766."""


@dataclass(frozen=True)
class _Ordered:
    """Frames that an incident ordered into quarantine; it is over since `closed_at`."""

    first_sequence: int
    last_sequence: int
    closed_at: datetime | None


class _Body(msgspec.Struct, frozen=True):
    """What of an incident's body is read here."""

    covered: tuple[Window, ...] = ()


def unfit(session: Session, frame_ids: Iterable[str]) -> frozenset[str]:
    """Those of these judged frames that nobody may learn from now."""
    ids = list(dict.fromkeys(frame_ids))
    ordered = _ordered(session)
    found: set[str] = set()
    for start in range(0, len(ids), _BATCH):
        batch = ids[start : start + _BATCH]
        aside = {row.frame_id: row for row in session.scalars(select(QuarantinedFrame).where(QuarantinedFrame.frame_id.in_(batch)))}
        found |= {id_ for id_, row in aside.items() if row.state != Standing.RELEASED}
        columns = select(JudgedFrame.frame_id, JudgedFrame.camera_id, JudgedFrame.epoch, JudgedFrame.sequence)
        for id_, camera, epoch, sequence in session.execute(columns.where(JudgedFrame.frame_id.in_(batch))):
            # People let a frame go once the incidents about it are over; what came later speaks anew.
            released_at = aside[id_].reviewed_at if id_ in aside else None
            if any(
                window.first_sequence <= sequence <= window.last_sequence
                and (released_at is None or window.closed_at is None or window.closed_at > released_at)
                for window in ordered[camera, epoch]
            ):
                found.add(id_)
    return frozenset(found)


def _ordered(session: Session) -> defaultdict[tuple[str, int], list[_Ordered]]:
    """What incidents ordered into quarantine, by camera and epoch; without those that people called a false alarm."""
    found: defaultdict[tuple[str, int], list[_Ordered]] = defaultdict(list)
    counts = or_(IncidentRow.resolution.is_(None), IncidentRow.resolution != Resolution.FALSE_ALARM)
    for camera, closed_at, body in session.execute(
        select(IncidentRow.camera_id, IncidentRow.closed_at, IncidentRow.body).where(counts)
    ):
        for window in msgspec.json.decode(body, type=_Body).covered:
            found[camera, window.epoch].append(_Ordered(window.first_sequence, window.last_sequence, closed_at))
    return found
