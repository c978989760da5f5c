"""Notices as lines of the responder's own log, where somebody who watches it sees them; always there, never down.

It decides the line; it refuses nothing. Fed by `deliveries.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from responders.notify.channels import ChannelName
from responders.notify.notices import Notice, subject

log = structlog.get_logger("notify")


@dataclass(frozen=True)
class Console:
    """The log of the process that sends."""

    name: ChannelName = ChannelName.CONSOLE

    def send(self, notices: Sequence[Notice]) -> None:
        """As `Channel.send`: a headline, then a line for each notice."""
        log.warning(subject(notices), sort=notices[0].sort, role=notices[0].role or "on call", notices=len(notices))
        for notice in notices:
            about = {
                "incident": notice.incident_id[:8],
                "camera": notice.camera_id,
                "severity": notice.severity,
                "state": notice.state,
            }
            log.warning(notice.what, **(about if notice.incident_id else {}))
