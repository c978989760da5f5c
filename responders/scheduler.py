"""The keeper's part of regular work: it starts what is due, one process at a time.

It decides nothing about when (`schedule.py`) or what (`streams.jobs`): it starts `kerbwatch schedule run NAME` as a process of its
own, of low priority, so that a job that fails, hangs or needs torch touches nothing else. It refuses to start anything without the
lease, or a second job while one runs. No topic feeds it: the clock does.

Source: paper 4.7; Gray and Cheriton 1989 (leases).
"""

import subprocess
import sys
from datetime import datetime

import structlog

from infra import supervise
from infra.db import Sessions, writing
from infra.settings import Settings
from responders import schedule

log = structlog.get_logger("schedule")


class Scheduler:
    """Starts what is due; one object a process, called every few seconds."""

    def __init__(self, settings: Settings, sessions: Sessions, holder: str) -> None:
        self._settings, self._sessions, self._holder = settings, sessions, holder
        self._running: tuple[schedule.Job, subprocess.Popen[bytes], datetime] | None = None

    def turn(self, now: datetime) -> str | None:
        """Look after the job that runs, or start the next one; its name. Raises Unavailable without the database."""
        with writing(self._sessions) as session:
            elected = schedule.elect(session, self._holder, now)
            waiting = schedule.due(session, now) if elected else ()
        if self._running is not None:
            job, process, since = self._running
            if process.poll() is None:
                if (now - since).total_seconds() > job.limit_s:
                    log.error("a job took too long and is ended", job=job.name, limit_s=job.limit_s)
                    process.kill()
                return None
            self._running = None
        if not waiting:
            return None
        self._running = (waiting[0], self._start(waiting[0]), now)
        log.info("a job begins", job=waiting[0].name)
        return waiting[0].name

    def _start(self, job: schedule.Job) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(  # noqa: S603 - our own command; ends with this process's group
            [sys.executable, "-m", "streams", "schedule", "run", job.name],
            env=supervise.environment(self._settings),
            stdin=subprocess.DEVNULL,
        )
