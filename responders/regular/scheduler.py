"""The keeper's part of regular work: it starts what is due, one process at a time.

It decides nothing about when (`schedule.py`) or what (`streams.console.jobs`): it starts `kerbwatch schedule run NAME` as a process
of its own, of low priority, so that a job that fails, hangs or needs torch touches nothing else. It refuses to start anything
without the lease, or a second job while one runs, and to let a record say "running" of a process that is gone. No topic feeds it:
the clock does.

Source: paper 4.7; Gray and Cheriton 1989 (leases).
"""

import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from infra import supervise
from infra.db import Sessions, writing
from infra.settings import Settings
from responders.regular import schedule
from streams.errors import BadInput

_GRACE = timedelta(seconds=180)
"""From being asked to end to being ended; a drill stops a whole stack meanwhile."""

log = structlog.get_logger("schedule")


@dataclass
class _Running:
    """A job's process, started at `since`."""

    job: schedule.Job
    process: "subprocess.Popen[bytes]"
    since: datetime
    before: datetime | None  # when the run before it began
    _told: bool = False

    def ended_as(self, now: datetime) -> str:
        """What to say of its end, if it has said nothing itself."""
        silent = f"its process ended without a word (exit status {self.process.returncode}): see the keeper's log"
        return schedule.too_long(self.job, now - self.since) or silent

    def hurry(self, now: datetime) -> None:
        """Ask it to end once its time is over, so that it can stop what it started; later, end it."""
        if not schedule.too_long(self.job, now - self.since):
            return
        if not self._told:
            log.error("a job took too long and is asked to end", job=self.job.name, limit_s=self.job.limit_s)
            self._told = True
            self.process.terminate()
        elif now - self.since > timedelta(seconds=self.job.limit_s) + _GRACE:
            self.process.kill()


class Scheduler:
    """Starts what is due; one object a process, called every few seconds."""

    def __init__(self, settings: Settings, sessions: Sessions, holder: str) -> None:
        self._settings, self._sessions, self._holder = settings, sessions, holder
        self._running: _Running | None = None

    def turn(self, now: datetime) -> str | None:
        """Look after the job that runs, or start the next one; its name. Raises Unavailable without the database."""
        ended = self._running if self._running is not None and self._running.process.poll() is not None else None
        with writing(self._sessions) as session:
            if ended is not None and ended.process.returncode != BadInput.exit_code:  # that one refused to begin
                schedule.settle(session, ended.job, ended.ended_as(now), now, since=ended.before)
            elected = schedule.elect(session, self._holder, now)
            waiting = schedule.due(session, now) if elected else ()
            before = schedule.last_begun(session, waiting[0]) if waiting else None
        if ended is not None:
            self._running = None
        if self._running is not None:
            self._running.hurry(now)
            return None
        if not waiting:
            return None
        self._running = _Running(waiting[0], self._start(waiting[0]), now, before)
        log.info("a job begins", job=waiting[0].name)
        return waiting[0].name

    def _start(self, job: schedule.Job) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(  # noqa: S603 - our own command; ends with this process's group
            [sys.executable, "-m", "streams", "schedule", "run", job.name],
            env=supervise.environment(self._settings),
            stdin=subprocess.DEVNULL,
        )
