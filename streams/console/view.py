"""What the database shows of a running stack, as a picture in the terminal: cameras, incidents, timeline.

It only reads. `kerbwatch watch` follows it live; the demo adds what its cameras know.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from sqlalchemy import func, select

from infra.db import Sessions, open_database, reading
from infra.settings import read_settings
from infra.tables import EffectRow, IncidentRow, JudgedFrame, QuarantinedFrame, TimelineRow
from responders.engine.outbox import WAITING
from responders.playbooks.playbooks import Action
from streams.events import Mode

_LAST_ROWS = 14
QUARANTINE = str(Action.QUARANTINE)


@dataclass(frozen=True)
class Camera:
    """One camera as the records show it: frames judged, and what judged the last one."""

    camera_id: str
    context: str
    judged: int
    mode: str
    digest: str


@dataclass(frozen=True)
class Sight:
    """The records at one moment. `waiting` counts effects that are decided and not yet carried out."""

    cameras: tuple[Camera, ...]
    quarantined: int
    waiting: int
    incidents: tuple[IncidentRow, ...]
    timeline: tuple[TimelineRow, ...]

    @property
    def judged(self) -> int:
        """Frames judged, over all cameras."""
        return sum(camera.judged for camera in self.cameras)


def look(sessions: Sessions) -> Sight:
    """What the database holds now. Raises Unavailable without it."""
    with reading(sessions) as session:
        newest = select(
            JudgedFrame.camera_id, func.count().label("judged"), func.max(JudgedFrame.judged_time).label("latest")
        ).group_by(JudgedFrame.camera_id)
        cameras = []
        for camera_id, judged, latest in session.execute(newest.order_by(JudgedFrame.camera_id)):
            row = session.scalars(
                select(JudgedFrame)
                .where(JudgedFrame.camera_id == camera_id, JudgedFrame.judged_time == latest)
                .order_by(JudgedFrame.sequence.desc())
                .limit(1)
            ).one()
            cameras.append(Camera(camera_id, row.context, judged, row.mode, row.weights_digest))
        return Sight(
            cameras=tuple(cameras),
            quarantined=session.scalar(select(func.count()).select_from(QuarantinedFrame)) or 0,
            waiting=session.scalar(select(func.count()).select_from(EffectRow).where(EffectRow.state == WAITING)) or 0,
            incidents=tuple(session.scalars(select(IncidentRow).order_by(IncidentRow.opened_at))),
            timeline=tuple(session.scalars(select(TimelineRow).order_by(TimelineRow.number))),
        )


def cameras_table(sight: Sight, title: str) -> Table:
    """A row a camera; safe mode stands out."""
    table = Table("camera", "context", "judged", "served by", "weights", title=title, title_justify="left")
    for camera in sight.cameras:
        mode = f"[yellow]{camera.mode}[/]" if camera.mode == Mode.SAFE else camera.mode
        table.add_row(camera.camera_id, camera.context, str(camera.judged), mode, camera.digest[:12])
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
        table.add_row(f"{row.time:%H:%M:%S.%f}"[:-3], row.incident_id[:8], row.state, what)
    return table


def watch_command(
    every_s: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option(help="Look once and end.")] = False,
) -> None:
    """Follow cameras and incidents live, until Ctrl-C. Example: `kerbwatch watch`."""
    sessions = open_database(read_settings())

    def picture() -> Group:
        sight = look(sessions)
        counts = f"{sight.judged} frames judged, {sight.quarantined} in quarantine, {sight.waiting} effects waiting"
        return Group(cameras_table(sight, "cameras"), timeline_table(sight.timeline), counts)

    if once:
        Console().print(picture())
        return
    with Live(picture(), refresh_per_second=4) as live, suppress(KeyboardInterrupt):
        while True:
            time.sleep(every_s)
            live.update(picture())
