"""Tables of scheduled work: what ran when and with which outcome, and who may start it.

It decides columns and keys, as `tables.py` does for everything else. Written by the keeper and by `kerbwatch schedule run`.
"""

from datetime import datetime

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from infra.tables import Table


class JobRow(Table):
    """A job's last run. `known_since` is when it was first looked at: nothing before that was missed."""

    __tablename__ = "jobs"

    name: Mapped[str] = mapped_column(primary_key=True)
    known_since: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str]
    said: Mapped[str] = mapped_column(Text)


class LeaseRow(Table):
    """Who holds a task that only one process may do, and until when."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    until: Mapped[datetime]
