"""When regular work is due, and who starts it: one process at a time, elected through the database.

It decides which jobs there are, when each is due (cron expressions in UTC, read by APScheduler), and what a run that was missed or
lost is worth: one run, at once. It refuses to start a job that runs already, and to let two schedulers start anything: whoever
holds the lease does, and another takes over when it lapses. What failed, or waits for a person, is told R8 with the record of it.
APScheduler's own job stores are not used: they pickle. What a job does stands in `streams.console.jobs`. No topic feeds it.

Source: issue of scheduled work; Gray and Cheriton 1989 (leases); APScheduler 3 (`CronTrigger`).
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from apscheduler.triggers.cron import CronTrigger
from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.orm import Session

from infra.db import insert_into
from infra.job_tables import JobRow, LeaseRow
from responders.notify.deliveries import remind
from responders.notify.notices import reminder
from responders.people.roles import Role
from streams.errors import BadInput

LEASE = timedelta(seconds=60)
"""So long does a dead scheduler's work wait for another one."""
_SCHEDULER = "scheduler"
_MOST_SAID = 4000


class Outcome(StrEnum):
    """How a run ended."""

    NEVER = "never run"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"  # there was nothing to do it with, e.g. no golden set yet
    FAILED = "failed"
    LOST = "lost"  # its process died; it is due again


@dataclass(frozen=True)
class Job:
    """Regular work. `cron` is minute, hour, day, month, weekday in UTC; a run is given up after `limit_s`.

    nice: how far its process steps back for others (nice(1)).
    """

    name: str
    cron: str
    what: str
    limit_s: int = 600
    nice: int = 15

    def next_after(self, moment: datetime) -> datetime:
        """When it is due next, strictly after `moment`."""
        trigger = CronTrigger.from_crontab(self.cron, timezone=UTC)
        found = trigger.get_next_fire_time(None, moment + timedelta(microseconds=1))
        assert isinstance(found, datetime)  # every expression below comes round again
        return found.astimezone(UTC)


JOBS = (
    Job("evidence", "*/10 * * * *", "seal the evidence of incidents that have closed, before the log forgets it"),
    Job("checkpoint", "5 * * * *", "check the audit log against its checkpoints and sign where it stands"),
    Job("deadlines", "5 * * * *", "say which certificates and which reporting deadlines run out soon"),
    Job("backup", "15 2 * * *", "back the database up, and restore the copy to see that it can be", 3600),
    Job("retention", "15 3 * * *", "let go of old frames and records; never of what an open incident needs", 3600),
    Job("golden", "30 4 * * *", "prove the golden set and ask the serving models about it", 3600),
    Job("reminders", "0 7 * * mon-fri", "say which incidents, frames and training samples still wait for somebody's review"),
    Job("drill", "0 5 1 * *", "play one scored drill, another each month, on a stack of its own", 2400, nice=0),
)
"""Everything that is done regularly, most frequent first. A drill is timed: behind all others it would measure the queue."""


class Standing(Struct, frozen=True, kw_only=True):
    """A job as it stands: its last run, None where there was none, and when it is due next."""

    name: str
    what: str
    cron: str
    started_at: datetime | None
    ended_at: datetime | None
    outcome: Outcome
    said: str
    next_at: datetime


def job_of(name: str) -> Job:
    """The job called so. Raises BadInput if there is none."""
    for job in JOBS:
        if job.name == name:
            return job
    raise BadInput(f"no job is called {name!r}; there are {', '.join(job.name for job in JOBS)}")


def listed(session: Session, now: datetime) -> tuple[Standing, ...]:
    """Every job as it stands."""
    rows = {row.name: row for row in session.scalars(select(JobRow))}
    return tuple(_standing(job, rows.get(job.name), now) for job in JOBS)


def _standing(job: Job, row: JobRow | None, now: datetime) -> Standing:
    return Standing(
        name=job.name,
        what=job.what,
        cron=job.cron,
        started_at=row.started_at if row else None,
        ended_at=row.ended_at if row else None,
        outcome=_outcome(job, row, now),
        said=row.said if row else "",
        next_at=job.next_after(now) if row is None else _due_at(job, row, now),
    )


def _outcome(job: Job, row: JobRow | None, now: datetime) -> Outcome:
    if row is None or row.started_at is None:
        return Outcome.NEVER
    if row.outcome != Outcome.RUNNING:
        return Outcome(row.outcome)
    return Outcome.RUNNING if now - row.started_at <= timedelta(seconds=job.limit_s) else Outcome.LOST


def _due_at(job: Job, row: JobRow, now: datetime) -> datetime:
    """A lost run is due since it was lost; else the first time after the last run, however many were missed since."""
    if row.started_at is not None and _outcome(job, row, now) is Outcome.LOST:
        return row.started_at + timedelta(seconds=job.limit_s)
    return job.next_after(row.started_at or row.known_since)


def elect(session: Session, holder: str, now: datetime) -> bool:
    """Whether `holder` is the one scheduler for the next minute; call it more often than that. Takes a lapsed lease over."""
    insert = insert_into(session, LeaseRow).values(name=_SCHEDULER, holder=holder, until=now + LEASE)
    mine_or_lapsed = (LeaseRow.holder == holder) | (LeaseRow.until <= now)
    taken = insert.on_conflict_do_update(
        index_elements=[LeaseRow.name],
        set_={"holder": insert.excluded.holder, "until": insert.excluded.until},
        where=mine_or_lapsed,
    ).returning(LeaseRow.holder)
    return session.scalar(taken) is not None


def due(session: Session, now: datetime) -> tuple[Job, ...]:
    """Jobs whose time has come, longest overdue first; none while one runs. One seen for the first time counts from now."""
    for job in JOBS:
        row = {"name": job.name, "known_since": now, "outcome": Outcome.NEVER, "said": ""}
        session.execute(insert_into(session, JobRow).values(row).on_conflict_do_nothing())
    rows = {row.name: row for row in session.scalars(select(JobRow))}
    if any(_outcome(job, rows[job.name], now) is Outcome.RUNNING for job in JOBS):
        return ()
    waiting = [(_due_at(job, rows[job.name], now), job) for job in JOBS]
    return tuple(job for at, job in sorted(waiting, key=lambda pair: pair[0]) if at <= now)


def begin(session: Session, job: Job, now: datetime) -> None:
    """Put on record that a run begins. Raises BadInput if one is under way."""
    row = session.get(JobRow, job.name, with_for_update=True)
    if row is None:
        row = JobRow(name=job.name, known_since=now, started_at=None, outcome=Outcome.NEVER, said="")
        session.add(row)
    if _outcome(job, row, now) is Outcome.RUNNING:
        raise BadInput(f"{job.name} has been running since {row.started_at:%H:%M:%S} UTC: wait for it, or look at the keeper's log")
    row.started_at, row.ended_at, row.outcome, row.said = now, None, Outcome.RUNNING, ""


def last_begun(session: Session, job: Job) -> datetime | None:
    """When its last run began, None where there was none."""
    row = session.get(JobRow, job.name)
    return None if row is None else row.started_at


def too_long(job: Job, took: timedelta) -> str:
    """What to say of a run that was ended after its limit; "" within it."""
    return f"took longer than {job.limit_s} s and was ended" if took > timedelta(seconds=job.limit_s) else ""


def settle(session: Session, job: Job, why: str, now: datetime, *, since: datetime | None) -> None:
    """Put on record, and tell R8, that a run ended without saying how; it is due at its next time, not at once.

    `since`: what `last_begun` was before the run. Nothing changes where the run has said itself how it ended.
    """
    row = session.get_one(JobRow, job.name, with_for_update=True)
    if row.started_at == since:  # it ended before it was on record that it began
        row.started_at, row.outcome = now, Outcome.RUNNING
    if row.outcome == Outcome.RUNNING:
        end(session, job, Outcome.FAILED, why, now, waits=f"scheduled job {job.name} failed: {why}")


def end(session: Session, job: Job, outcome: Outcome, said: str, now: datetime, *, waits: str = "") -> None:
    """Put on record how a run ended; what `waits` for a person goes out as a reminder, once a day and job."""
    row = session.get_one(JobRow, job.name, with_for_update=True)
    row.ended_at, row.outcome, row.said = now, outcome, said[:_MOST_SAID]
    if waits:
        remind(session, reminder(f"{job.name} {now:%Y-%m-%d}", waits[:_MOST_SAID], Role.SECMLOPS_ENGINEER, now), now)
