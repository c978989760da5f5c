"""What people are told of an incident, and in which words.

It decides what is told - a page, and that an incident is over - and how several notices read as one message. It refuses
to pass on control characters: messages of detectors are somebody else's words. Pure; `deliveries.py` keeps and sends.

Source: paper 4.7 (incident response: notification), NIST SP 800-61r3 (RS.CO).
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import msgspec
from msgspec import Struct

from responders.engine.incident import Decision, Incident, Page
from responders.playbooks.playbooks import State
from streams.events import Context, Kind, Severity, event_id

_SHOWN = 20
"""A message names so many incidents one by one; the rest is a number."""


class Sort(StrEnum):
    """What a notice is for."""

    PAGE = "page"  # somebody must look
    OVER = "over"  # nobody must look any more
    TEST = "test"
    REMINDER = "reminder"  # regular work found something that waits for a person


class Paged(Struct, frozen=True):
    """Who was called, how bad it was then, and what it was held for (None: what it is held for now)."""

    role: str
    severity: Severity
    kind: Kind | None = None


class Notice(Struct, frozen=True, kw_only=True):
    """One thing to be told. `key` is the same at every repeat; `role` (R1 to R8) says who is called, "" where nobody is.

    `paged` names, once it is over, every page that was sent before.
    """

    key: str
    sort: Sort
    time: datetime
    what: str
    role: str = ""
    incident_id: str = ""
    kind: Kind | None = None
    severity: Severity = Severity.LOW
    camera_id: str = ""
    context: Context | None = None
    state: State | None = None
    signals: int = 0
    detected_at: datetime | None = None
    paged: tuple[Paged, ...] = ()


def notice_of(incident: Incident, decision: Decision, time: datetime, paged: Sequence[Paged]) -> Notice | None:
    """What is to be told of a decision, None where that is nothing; `paged` are the incident's pages so far."""
    role = ""
    if isinstance(decision, Page):
        sort, role = Sort.PAGE, decision.role
    elif decision.action == "closed" and paged:
        sort = Sort.OVER
    else:
        return None
    return Notice(
        key=event_id("notice", decision.id),
        sort=sort,
        time=time,
        what=_printable(decision.what),
        role=role,
        incident_id=incident.id,
        kind=incident.kind,
        severity=incident.severity,
        camera_id=incident.camera_id,
        context=incident.context,
        state=incident.state,
        signals=incident.signals,
        detected_at=incident.detected_at,
        paged=tuple(dict.fromkeys(paged)) if sort is Sort.OVER else (),
    )


def trial(channel: str, sender: str, time: datetime) -> Notice:
    """What `kerbwatch notify test` sends."""
    what = f"test of {channel}, sent by {_printable(sender)}: nothing is wrong, nobody need do anything"
    return Notice(key=event_id("notice-test", channel, sender, time.isoformat()), sort=Sort.TEST, time=time, what=what)


def reminder(key: str, what: str, role: str, time: datetime) -> Notice:
    """What scheduled work found that waits for somebody in `role`; `key` is the same at every repeat."""
    return Notice(key=event_id("reminder", key), sort=Sort.REMINDER, time=time, what=_printable(what), role=role)


def bundle_id(notices: Sequence[Notice]) -> str:
    """The id of one message about these notices; the same for the same notices."""
    return event_id("message", *(notice.key for notice in notices))


def subject(notices: Sequence[Notice]) -> str:
    """One line that says it all, at most about 120 characters."""
    notices = [notice for notice in notices if notice.sort is not Sort.REMINDER]
    if not notices:
        return "[kerbwatch] reminder"
    first = notices[0]
    if first.sort is Sort.TEST:
        return "[kerbwatch] test"
    over = "over: " if first.sort is Sort.OVER else ""
    if len(notices) == 1:
        return f"[kerbwatch] {over}{first.severity} {first.kind} on {first.camera_id} ({first.context})"
    worst = max((notice.severity for notice in notices), key=list(Severity).index)
    return f"[kerbwatch] {over}{len({notice.incident_id for notice in notices})} incidents, the worst {worst}"


def text(notices: Sequence[Notice]) -> str:
    """The whole message in plain words, a next step with each incident."""
    lines = [_told(notice) for notice in notices[:_SHOWN]]
    if len(notices) > _SHOWN:
        lines.append(f"... and {len(notices) - _SHOWN} more: kerbwatch incidents list --open")
    return "\n\n".join(lines) + "\n"


def _told(notice: Notice) -> str:
    if notice.sort in {Sort.TEST, Sort.REMINDER}:
        return notice.what
    head = f"{notice.severity} {notice.kind} on {notice.camera_id} ({notice.context}), {notice.state}, {notice.signals} signals"
    since = "" if notice.detected_at is None else f"\n  detected {notice.detected_at:%Y-%m-%d %H:%M:%S} UTC"
    called = f"\n  called: {notice.role}" if notice.role else ""
    step = f"kerbwatch incidents show {notice.incident_id[:8]}"
    if notice.sort is Sort.PAGE:
        step += f'\n  to stop the calls:\n  kerbwatch incidents ack {notice.incident_id[:8]} -m "looking into it"'
    return f"{head}\n  {notice.what}{since}{called}\n  {step}"


def as_json(notices: Sequence[Notice]) -> bytes:
    """The message for programs: type, time and the notices, as Standard Webhooks lays them out."""
    first = notices[0]
    message = {"type": f"kerbwatch.{first.sort}", "timestamp": first.time, "data": {"notices": notices}}
    return msgspec.json.encode(message)


def _printable(words: str) -> str:
    return "".join(c if c.isprintable() else " " for c in words)
