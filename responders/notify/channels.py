"""The ways to reach people, and what each must do.

It decides which channels there are. It sends nothing itself: each channel is a module of its own. No topic feeds it.

Source: paper 4.7 (incident response: notification).
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from responders.notify.notices import Notice

TIMEOUT_S = 10.0
"""So long may one step of a delivery (connecting, an answer) take."""


class ChannelName(StrEnum):
    """Every channel that there is."""

    CONSOLE = "console"
    WEBHOOK = "webhook"
    EMAIL = "email"
    ALERTMANAGER = "alertmanager"


class Channel(Protocol):
    """One way to reach people."""

    @property
    def name(self) -> ChannelName:
        """Which one."""
        ...

    def send(self, notices: Sequence[Notice]) -> str | None:
        """Deliver notices of one sort and role as one message; return once the other side has taken it.

        Returns what is to be put on record beside that: who was not reached, where others were. Raises Unavailable.
        """
        ...
