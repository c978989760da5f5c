"""What runs out soon: certificates, and the time within which an incident may have to be reported; as reminders to R6 and R8.

It decides when a reminder is due and when it is a new one; it refuses to take a written report for one that was sent: that somebody
was told is what a person's note says. No topic feeds it: a scheduled job does.

Source: paper 4.7 (incident reporting); `responders.report.deadlines` for whom and within how many hours.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from infra.certificates import RENEW_DAYS
from infra.tables import IncidentRow, TimelineRow
from responders.engine.incident import RESPONDER, Incident, Resolution, Verb
from responders.engine.past import readable
from responders.notify.notices import Notice, reminder
from responders.people.roles import Role
from responders.playbooks.playbooks import State
from responders.report.deadlines import Deadline, Due, dues

_TOLD = (Role.DEVOPS_ENGINEER, Role.SECMLOPS_ENGINEER)
_DAILY = timedelta(days=7)
"""In the last week a reminder of certificates comes every day, before that every week."""
_LEFT = 0.25
"""A deadline is reminded of once no more than this share of its time is left."""
_AFTERWARDS = timedelta(days=2)
"""So long after a deadline it is still reminded of, if nobody could be before: the stack was down."""
_IN_DAYS = timedelta(days=2)
REPORTED = "reported: "
"""How a note begins that says a deadline was kept, or need not be; its name follows."""


def certificates(ends: Mapping[str, datetime | None], now: datetime) -> tuple[Notice, ...]:
    """From 30 days before the first of the certificates (by name, None for one that was never made) ends."""
    known = {name: end for name, end in ends.items() if end is not None}
    if not known:
        return ()
    name = min(known, key=lambda one: known[one])
    left = known[name] - now
    if left >= timedelta(days=RENEW_DAYS):
        return ()
    year, week, _ = now.isocalendar()
    spell = f"{now:%Y-%m-%d}" if left < _DAILY else f"{year}-W{week}"
    what = (
        f"the certificate of {name} {_when(left)}, and then the broker knows it no more: `kerbwatch keys init` makes anew what "
        "ends soon, `kerbwatch down` and `kerbwatch up` put it to use"
    )
    return tuple(_for(f"certificates {spell}", what, now))


def reports(session: Session, duties: Sequence[Deadline], now: datetime) -> tuple[Notice, ...]:
    """One for each deadline of an incident, open or closed, of which at most a quarter is left and nobody has noted anything.

    What was a false alarm, and what nobody has been called for, has none.
    """
    longest = timedelta(hours=max((one.hours for one in duties), default=0.0)) + _AFTERWARDS
    rows = session.scalars(
        select(IncidentRow)
        .where(func.coalesce(IncidentRow.acknowledged_at, IncidentRow.detected_at) >= now - longest)
        .where(IncidentRow.state != State.SUSPECTED, func.coalesce(IncidentRow.resolution, "") != Resolution.FALSE_ALARM)
        .order_by(IncidentRow.opened_at)
    )
    found: list[Notice] = []
    for incident in readable(rows):
        near = [due for due in dues(incident, duties, now) if _is_near(due)]
        noted = _noted(session, incident) if near else set()
        for due in near:
            if due.deadline.name.casefold() not in noted:
                found += _for(f"report {incident.id} {due.deadline.name} {due.at.isoformat()}", _words(incident, due), now)
    return tuple(found)


def _is_near(due: Due) -> bool:
    return -_AFTERWARDS <= due.left <= _LEFT * timedelta(hours=due.deadline.hours)


def _noted(session: Session, incident: Incident) -> set[str]:
    notes = select(TimelineRow.what).where(
        TimelineRow.incident_id == incident.id, TimelineRow.action == Verb.NOTE, TimelineRow.actor != RESPONDER
    )
    told = (what.strip().casefold() for what in session.scalars(notes))
    return {what.removeprefix(REPORTED).strip() for what in told if what.startswith(REPORTED)}


def _words(incident: Incident, due: Due) -> str:
    id_ = incident.id[:8]
    note = shlex.quote(REPORTED + due.deadline.name)
    whose = f"incident {id_} ({incident.kind} on {incident.camera_id})"
    return (
        f"{due.deadline.name}: the time to report {whose} {_when(due.left)}, {due.at:%Y-%m-%d %H:%M} UTC; for legal review: "
        f"{due.deadline.review} `kerbwatch incidents report {id_}` writes what is known. Once it is sent, or need not be: "
        f"`kerbwatch incidents note {id_} -m {note}`"
    )


def _when(left: timedelta) -> str:
    hours = abs(left) / timedelta(hours=1)
    span = f"{hours / 24:.0f} days" if abs(left) >= _IN_DAYS else f"{hours:.1f} hours"
    return f"ends in {span}" if left > timedelta(0) else f"ended {span} ago"


def _for(key: str, what: str, now: datetime) -> Iterator[Notice]:
    for role in _TOLD:
        yield reminder(f"{key} {role}", what, role, now)
