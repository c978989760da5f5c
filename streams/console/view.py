"""What the database shows of a running stack, as a picture in the terminal: cameras, incidents, timeline.

It only reads, and it refuses to read more than a screen needs: a look costs the same on a stack's first day and after a year.
`kerbwatch watch` follows it live; the demo adds what its cameras know.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session, defer

from infra.db import Sessions, reading
from infra.settings import read_settings
from infra.tables import EffectRow, IncidentRow, JudgedFrame, QuarantinedFrame, ServedRow, TimelineRow
from responders.console.tables import opened, plain
from responders.engine.outbox import WAITING
from responders.playbooks.playbooks import Action, State
from streams.events import Mode

_LAST_ROWS = 14
_READ_ROWS = 200
"""So many changes are read for those: orders of one quarantine are shown as one."""
_COUNTED = 10_000
"""What grows without an end is counted up to here."""
QUARANTINE = str(Action.QUARANTINE)


@dataclass(frozen=True)
class Camera:
    """One camera as the records show it: its newest frame, and what judged that."""

    camera_id: str
    context: str
    sequence: int
    judged_at: datetime
    mode: str
    digest: str


@dataclass(frozen=True)
class Sight:
    """The records at one moment. `judged` is how many frames were, ever; `waiting` counts effects that are not yet carried out.

    quarantined, waiting: counted up to `_COUNTED`. incidents: the open ones, and those of the timeline. timeline: the newest
    changes, in order.
    """

    cameras: tuple[Camera, ...]
    judged: int
    quarantined: int
    waiting: int
    incidents: tuple[IncidentRow, ...]
    timeline: tuple[TimelineRow, ...]


def look(sessions: Sessions) -> Sight:
    """What the database holds now. Raises Unavailable without it."""
    with reading(sessions) as session:
        timeline = session.scalars(select(TimelineRow).order_by(TimelineRow.number.desc()).limit(_READ_ROWS)).all()
        still_open = IncidentRow.state.in_([state for state in State if state is not State.CLOSED])
        incidents = (
            select(IncidentRow)
            .where(or_(still_open, IncidentRow.id.in_({row.incident_id for row in timeline})))
            .options(defer(IncidentRow.body, raiseload=True))
        )
        return Sight(
            cameras=tuple(_cameras(session))[::-1],
            judged=int(session.scalar(select(func.sum(ServedRow.frames))) or 0),
            quarantined=_counted(session, select(QuarantinedFrame.frame_id)),
            waiting=_counted(session, select(EffectRow.number).where(EffectRow.state == WAITING)),
            incidents=tuple(sorted(session.scalars(incidents), key=lambda row: row.opened_at)),
            timeline=tuple(timeline)[::-1],
        )


def _cameras(session: Session) -> Iterator[Camera]:
    """From the last name to the first: each camera's newest frame ends its stretch of the index over camera, epoch and sequence."""
    place = (JudgedFrame.camera_id.desc(), JudgedFrame.epoch.desc(), JudgedFrame.sequence.desc())
    newest = select(JudgedFrame).order_by(*place).limit(1)
    row = session.scalar(newest)
    while row is not None:
        yield Camera(row.camera_id, row.context, row.sequence, row.judged_time, row.mode, row.weights_digest)
        row = session.scalar(newest.where(JudgedFrame.camera_id < row.camera_id))


def _counted(session: Session, rows: Select[Any]) -> int:
    return session.scalar(select(func.count()).select_from(rows.limit(_COUNTED).subquery())) or 0


def at_least(count: int) -> str:
    """A number out of `Sight` in words: one that was counted no further says so."""
    return f"{count} or more" if count >= _COUNTED else str(count)


def cameras_table(sight: Sight, title: str) -> Table:
    """A row a camera; safe mode stands out. `title` may hold markup of ours."""
    table = Table("camera", "context", "frame", "judged (UTC)", "served by", "weights", title=title, title_justify="left")
    for camera in sight.cameras:
        mode = f"[yellow]{camera.mode}[/]" if camera.mode == Mode.SAFE else plain(camera.mode)
        which = (plain(camera.camera_id), plain(camera.context), str(camera.sequence), f"{camera.judged_at:%H:%M:%S}")
        table.add_row(*which, mode, plain(camera.digest[:12]))
    return table


def timeline_table(rows: Sequence[TimelineRow]) -> Table:
    """The latest changes of all incidents; a quarantine that grows step by step is one line."""
    table = Table("time (UTC)", "incident", "state", "what", title="incidents", title_justify="left")
    lines: list[tuple[TimelineRow, str]] = []
    for row in rows:
        if lines and row.action == QUARANTINE == lines[-1][0].action and row.incident_id == lines[-1][0].incident_id:
            lines[-1] = (row, f"{row.what} (the last of several orders)")
        else:
            lines.append((row, row.what))
    for row, what in lines[-_LAST_ROWS:]:
        table.add_row(f"{row.time:%H:%M:%S.%f}"[:-3], row.incident_id[:8], row.state, plain(what))
    return table


def watch_command(
    every_s: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option(help="Look once and end.")] = False,
) -> None:
    """Follow cameras and incidents live, until Ctrl-C. Example: `kerbwatch watch`."""
    with opened(read_settings()) as sessions:

        def picture() -> Group:
            sight = look(sessions)
            held, waiting = at_least(sight.quarantined), at_least(sight.waiting)
            counts = f"{sight.judged} frames judged, {held} in quarantine, {waiting} effects waiting"
            return Group(cameras_table(sight, "cameras"), timeline_table(sight.timeline), counts)

        if once:
            Console().print(picture())
            return
        with Live(picture(), refresh_per_second=4) as live, suppress(KeyboardInterrupt):
            while True:
                time.sleep(every_s)
                live.update(picture())
