"""Retraining runs that nobody works on any more: the keeper lets them go on, each once.

It decides which runs those are: asked for, not paused, not heard of for a moment, their files in this home and their lock free. It
refuses to ask for a run, to start one twice, and to start one again at once that keeps ending: it waits twice as long each time.
What a run does stands in `streams.console.retraining`. No topic feeds it: the clock does.

Source: paper 4.6 (secure retraining); flock(2): a lock goes with its process, however that ends.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import structlog
from sqlalchemy import select

from infra import files, supervise
from infra.db import Sessions, reading
from infra.settings import Settings
from infra.tables import RolloutRow
from responders.rollouts.rollout import RUNNING, Rollout
from responders.rollouts.store import rollout_of
from streams.errors import BadInput

QUIET = timedelta(seconds=10)
"""So long may a run that is asked for, or let go on, take to begin; then its lock tells whether anybody works on it."""
_LONG = timedelta(minutes=5)
"""A run that lived so long has not failed to start."""
_PAUSE = timedelta(seconds=10)
_LONGEST_PAUSE = timedelta(hours=1)

log = structlog.get_logger("runs")


def folder_of(settings: Settings, rollout: Rollout) -> Path:
    """Where a run keeps its files, to go on from."""
    return settings.home.resolve() / "training" / rollout.id


def alone(folder: Path) -> AbstractContextManager[None]:
    """Raises BadInput if another process works on this run; the lock goes with the process."""
    return files.alone(
        folder / ".lock", f"run {folder.name[:8]} is under way already: `kerbwatch rollouts show` says how far it is"
    )


class Process(Protocol):
    """A run's process, as `subprocess` knows it."""

    def poll(self) -> int | None:
        """How it ended, None while it lives."""
        ...


@dataclass
class _Life:
    """A run's process, how often in a row it ended soon, and when it may be started again once it has."""

    process: Process
    since: datetime
    failures: int
    again_at: datetime | None = None

    def over(self, now: datetime) -> bool:
        """Whether it has ended, and its pause as well."""
        if self.process.poll() is None:
            return False
        if self.again_at is None:
            self.failures = 0 if now - self.since >= _LONG else self.failures + 1
            self.again_at = now + min(_LONGEST_PAUSE, _PAUSE * 2 ** min(self.failures, 10))
        return now >= self.again_at


def begin(settings: Settings, rollout: Rollout) -> Process:
    """A process that goes on with a run; it ends with this process's group, as when the stack is stopped."""
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "streams", "retrain", "--reason", rollout.incident_id, "--go-on"],
        env=supervise.environment(settings),
        stdin=subprocess.DEVNULL,
    )


@dataclass
class Runs:
    """Looks after the runs of one home; one object a process, called every few seconds."""

    settings: Settings
    sessions: Sessions
    start: Callable[[Settings, Rollout], Process] = begin
    _lives: dict[str, _Life] = field(default_factory=dict)

    def turn(self, now: datetime) -> Sequence[str]:
        """Let what was stopped go on; the ids of those rollouts. Raises Unavailable without the database."""
        with reading(self.sessions) as session:
            rows = session.scalars(select(RolloutRow).where(~RolloutRow.over, RolloutRow.state.in_(RUNNING))).all()
        begun = []
        for rollout in (rollout_of(row) for row in rows):
            if self._is_due(rollout, now):
                known = self._lives.get(rollout.id)
                self._lives[rollout.id] = _Life(self.start(self.settings, rollout), now, known.failures if known else 0)
                log.info("a retraining run goes on", rollout=rollout.id[:8], step=rollout.step)
                begun.append(rollout.id)
        return begun

    def _is_due(self, rollout: Rollout, now: datetime) -> bool:
        life = self._lives.get(rollout.id)
        if life is not None and not life.over(now):
            return False
        return not rollout.paused and now - rollout.heard_at >= QUIET and _is_free(folder_of(self.settings, rollout))


def _is_free(folder: Path) -> bool:
    """Whether a run's files lie here and no process works on it."""
    if not folder.is_dir():
        return False
    try:
        with alone(folder):
            return True
    except BadInput:
        return False
