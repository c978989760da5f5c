"""Notices to Prometheus's Alertmanager, which has routes, silences and groups of its own.

It decides how an incident is told as an alert: one per incident, called role and severity, firing until the incident is over; a
reminder is one of its own, for a day. It refuses nothing; an alert that comes again is the same alert. Fed by `deliveries.py`.

Source: Alertmanager API v2 (POST /api/v2/alerts; labels identify an alert, `endsAt` in the past resolves it).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain

import msgspec
from msgspec import Struct

from infra.settings import Settings
from responders.notify import http
from responders.notify.channels import ChannelName
from responders.notify.notices import Notice, Paged, Sort

_FIRING = timedelta(hours=24)
"""Without an end of ours Alertmanager would resolve it after some minutes of silence; an open incident outlives a night. As long
as a delivery is tried (`deliveries.GIVE_UP`): what comes late is no alert that has ended."""
_NAMES = {Sort.TEST: "KerbwatchTest", Sort.REMINDER: "KerbwatchReminder"}


class _Alert(Struct, frozen=True, rename="camel"):
    labels: dict[str, str]
    annotations: dict[str, str]
    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True)
class Alertmanager:
    """An Alertmanager by its root address."""

    url: str
    name: ChannelName = ChannelName.ALERTMANAGER

    def send(self, notices: Sequence[Notice]) -> None:
        """As `Channel.send`."""
        alerts = list(chain.from_iterable(_alerts(notice) for notice in notices))
        http.post_json(f"{self.url.rstrip('/')}/api/v2/alerts", msgspec.json.encode(alerts), {})


def _alerts(notice: Notice) -> list[_Alert]:
    """A page fires; what is over ends every page of its incident, each of which is an alert of its own."""
    if notice.sort is Sort.OVER:
        ends = notice.time
        paged: tuple[Paged, ...] = notice.paged
    else:
        ends = notice.time + (timedelta(minutes=1) if notice.sort is Sort.TEST else _FIRING)
        paged = (Paged(notice.role, notice.severity, notice.kind),)
    annotations = {"summary": notice.what}
    if notice.incident_id:
        annotations["description"] = f"{notice.signals} signals; kerbwatch incidents show {notice.incident_id[:8]}"
    starts = min(notice.detected_at or notice.time, ends)
    return [_Alert(_labels(notice, one), annotations, starts, ends) for one in paged]


def _labels(notice: Notice, paged: Paged) -> dict[str, str]:
    labels = {
        "alertname": _NAMES.get(notice.sort, "KerbwatchIncident"),
        "incident": notice.incident_id,
        "reminder": notice.key if notice.sort is Sort.REMINDER else "",
        "kind": paged.kind or notice.kind or "",
        "camera": notice.camera_id,
        "context": notice.context or "",
        "severity": paged.severity,
        "role": paged.role,
    }
    return {label: str(value) for label, value in labels.items() if value}  # to Alertmanager an empty label is none


def alertmanager_of(settings: Settings) -> Alertmanager | None:
    """The Alertmanager of the settings, None without an address. Raises BadInput if the address does not hold."""
    if settings.alertmanager_url is None:
        return None
    return Alertmanager(http.checked(settings.alertmanager_url, "KERBWATCH_ALERTMANAGER_URL"))
