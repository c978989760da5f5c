"""`kerbwatch incidents watch`: what happens to incidents, line by line, as it comes.

It decides what is new; it refuses to show a line twice. Nothing is asked of the broker: the timeline in the database is the truth.

Source: paper 4.7 (monitoring), NIST SP 800-61r3.
"""

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated

import msgspec
import typer
from sqlalchemy import func, select

from infra.db import Sessions, reading
from infra.settings import read_settings
from infra.tables import IncidentRow, TimelineRow
from responders.console.tables import AsJson, complete_incident, opened, plain
from responders.engine import records
from streams.errors import Unavailable

_LOOK_EVERY_S = 0.5
_LATE = 500
"""Rows of transactions side by side may appear out of their numbers' order, by so many at most."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One change of an incident. Times are UTC."""

    time: datetime
    incident_id: str
    kind: str
    camera: str
    state: str
    severity: str
    actor: str
    action: str
    what: str


def follow(sessions: Sessions, incident_id: str | None, pause: Callable[[], bool]) -> Iterator[Line]:
    """Every change from now on, of one incident or of all, as long as `pause` (called between two looks) says True.

    An outage of the database is borne: what was missed comes afterwards. Raises Unavailable only if the first look fails.
    """
    with reading(sessions) as session:
        last = session.scalar(select(func.max(TimelineRow.number))) or 0
        seen = set(session.scalars(select(TimelineRow.number).where(TimelineRow.number > last - _LATE)))
    while pause():
        try:
            with reading(sessions) as session:
                query = (
                    select(TimelineRow, IncidentRow)
                    .join(IncidentRow, IncidentRow.id == TimelineRow.incident_id)
                    .where(TimelineRow.number > last - _LATE)
                    .order_by(TimelineRow.number)
                )
                rows = session.execute(query if incident_id is None else query.where(IncidentRow.id == incident_id)).all()
        except Unavailable:
            continue
        for change, incident in rows:
            if change.number not in seen:
                yield _line(change, incident)
        seen |= {change.number for change, _ in rows}
        last = max([last, *(change.number for change, _ in rows)])
        seen = {number for number in seen if number > last - _LATE}


def _line(change: TimelineRow, incident: IncidentRow) -> Line:
    return Line(
        time=change.time,
        incident_id=incident.id,
        kind=incident.kind,
        camera=incident.camera_id,
        state=change.state,
        severity=incident.severity,
        actor=change.actor,
        action=change.action,
        what=change.what,
    )


def watch(
    incident: Annotated[str | None, typer.Argument(help="Only this one.", autocompletion=complete_incident)] = None,
    as_json: AsJson = False,
) -> None:
    """Follow incidents live, a line for each change, until Ctrl-C; with --json a JSON line. Example: kerbwatch incidents watch."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    with opened(read_settings()) as sessions:
        with reading(sessions) as session:
            id_ = None if incident is None else records.find(session, incident)
        try:
            for line in follow(sessions, id_, _waited):
                if as_json:
                    typer.echo(msgspec.json.encode(line).decode())
                else:
                    where = f"{line.incident_id[:8]} {line.kind} {plain(line.camera)}"
                    console.print(f"{line.time:%H:%M:%S} [bold]{where}[/] {line.state}  {plain(line.actor)}: {plain(line.what)}")
        except KeyboardInterrupt:
            return


def _waited() -> bool:
    time.sleep(_LOOK_EVERY_S)
    return True
