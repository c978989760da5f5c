"""`kerbwatch retrain`: answers an incident with a new model, in a process of its own that gives way to everything else.

It decides which live pictures a run may see (those of the context's cameras from before the incident, none that any incident
ordered into quarantine), asks that again before and after the gate, and reports how far the run is; what is trained and how it is
tested is decided in `inference.lifecycle.retrain`, what comes of it in `responders.rollouts.rollout`. A killed run goes on where it
stood when the command is given again, and a paused one ends between two steps. It refuses a second run beside the first.

Source: paper 4.6 (retraining with cleaned datasets; approval; staged deployment).
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from sqlalchemy import select
from sqlalchemy.orm import Session

from inference.lifecycle.collect import Budget, LivePicture, Plan, Vetting
from inference.lifecycle.retrain import TRAINING, candidate, gated
from inference.provenance.registry import registry_of
from inference.service.intake import decode_picture
from infra.db import Sessions, reading
from infra.files import write_whole
from infra.settings import Settings
from infra.tables import IncidentRow, JudgedFrame, QuarantinedFrame
from responders.console.tables import AsJson, print_json
from responders.engine import assignments, records
from responders.engine.store import Store
from responders.people.access import Deed
from responders.people.login import Actor, Login, logged_in
from responders.playbooks.chosen import in_force
from responders.quarantine.quarantine import Place, Standing, kept_out
from responders.quarantine.unfit import unfit
from responders.rollouts import rollout
from responders.rollouts.rollout import OVER, RUNNING, Failed, Gated, Rollout, Staged, State
from responders.rollouts.store import Rollouts
from streams import policy
from streams.console.poisoned import bring
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import Mode
from streams.frame_log import read_frames
from streams.runs import alone, folder_of

_LOWEST = 19
_THREADS = 1
_LIVE = {Budget.SHORT: 24, Budget.FULL: 400}
"""Live pictures that a run takes at most."""
_TELL_EVERY_S = 2.0
_PRINT_EVERY_S = 10.0


class _PausedError(Exception):
    """People want the run to rest."""


def retrain(
    reason: Annotated[str, typer.Option(help="The incident that it answers: its id, or the beginning of it.")],
    budget: Annotated[
        Budget, typer.Option(help="short: about a minute of training, for demonstrations; full: hours.")
    ] = Budget.FULL,
    go_on: Annotated[bool, typer.Option("--go-on", help="Only go on with a run that was stopped; ask for none.")] = False,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Retrain a context's model after an incident, or go on with a run that was stopped.

    Example: kerbwatch retrain --reason 3f2a --budget short. What passes the gate waits for two approvals.

    Asking for a run is signed with your key; going on with one is not: where the stack is up, the keeper does so by itself.
    """
    os.nice(_LOWEST)
    with logged_in(actor) as login:
        settings, sessions = login.settings, login.sessions
        with reading(sessions) as session:
            incident_id = records.find(session, reason)
        rollouts = Rollouts(Store(sessions, in_force(settings), settings.worker_lost_s, settings.clock_allowance_s))
        under_way = rollouts.under_way(incident_id)
        if under_way is None and go_on:
            raise BadInput(f"no run for incident {incident_id[:8]} was stopped; `kerbwatch retrain` without --go-on asks for one")
        after = asked = under_way or _asked(login, rollouts, incident_id, budget)
        if asked.state in RUNNING and not asked.paused:
            with alone(folder_of(settings, asked)), _shown() as show:
                after = _run_or_rest(settings, sessions, _Reporter(rollouts, asked.id, show), asked)
    if as_json:
        print_json(after)
    else:
        typer.echo(_said(after))
    if after.state in OVER and after.state is not State.DONE:
        raise typer.Exit(1)


def _asked(login: Login, rollouts: Rollouts, incident_id: str, budget: Budget) -> Rollout:
    act = login.does(Deed.RETRAIN, incident_id, "retrain after this incident", ("budget", budget))
    asked = rollouts.request(incident_id, login.name, short=budget is Budget.SHORT, now=datetime.now(UTC), act_id=act.id)
    login.settled()
    return asked


def _said(after: Rollout) -> str:
    head = f"rollout {after.id[:8]} is {after.state}"
    match after.state:
        case State.AWAITING_APPROVAL:
            next_ = f"kerbwatch incidents approve {after.incident_id[:8]} --actor NAME -m WHY"
            return f"{head}: gate passed ({after.gate}). Two people approve next: {next_}"
        case _ if after.paused:
            return f"{head} and paused; it goes on with: kerbwatch rollouts resume {after.id[:8]} -m WHY"
        case _ if after.why:
            return f"{head}: {after.why}"
        case _:
            return f"{head}; see it with: kerbwatch rollouts show {after.id[:8]}"


@dataclass
class _Reporter:
    """Tells database and terminal how far the run is; stops the run when its rollout is over."""

    rollouts: Rollouts
    rollout_id: str
    show: Callable[[str, int, int, float], None]
    _told_s: float = field(default=float("-inf"))

    def __call__(self, step: str, done: int, of: int, left_s: float) -> None:
        self.show(step, done, of, left_s)
        if time.monotonic() - self._told_s < _TELL_EVERY_S:
            return
        self._told_s = time.monotonic()
        with suppress(Unavailable):  # the run goes on without a database; its end does not
            self.tell(rollout.Progress(datetime.now(UTC), step, done, of, left_s))

    def tell(self, event: rollout.Progress | Staged | Gated | Failed) -> Rollout:
        """Raises BadInput where nobody wants the run any more, _PausedError where it is to rest."""
        after = self.rollouts.hear(self.rollout_id, event, event.time)
        if after.paused:
            raise _PausedError
        if after.state in OVER and not isinstance(event, Gated | Failed):
            raise BadInput(f"rollout {self.rollout_id[:8]} is {after.state}: {after.why or 'nobody waits for this run'}")
        return after


def _run_or_rest(settings: Settings, sessions: Sessions, report: _Reporter, asked: Rollout) -> Rollout:
    try:
        return _run(settings, sessions, report, asked)
    except _PausedError:
        return report.rollouts.under_way(asked.incident_id) or asked
    except KeyboardInterrupt:
        id_ = asked.id[:8]
        next_ = f"kerbwatch rollouts pause|cancel {id_}"
        typer.echo(f"\nleft; where the stack is up the keeper goes on with it. To stop it: {next_}", err=True)
        raise typer.Exit(130) from None


def _run(settings: Settings, sessions: Sessions, report: _Reporter, asked: Rollout) -> Rollout:
    registry = registry_of(settings)
    folder = folder_of(settings, asked)
    report("collecting pictures", 0, 1, 0.0)
    with reading(sessions) as session:
        safe_digest = assignments.assigned(session, asked.context, Mode.SAFE)
        places = _places(session, asked, folder)
        set_aside = kept_out(settings, session)
    live = tuple(
        LivePicture(frame.digest, frame.camera_id, decode_picture(body, frame)) for frame, body in read_frames(settings, places)
    )
    plan = Plan(
        rollout_id=asked.id,
        incident_id=asked.incident_id,
        context=asked.context,
        normal_digest=asked.normal_digest,
        safe_digest=safe_digest,
        budget=Budget.SHORT if asked.short else Budget.FULL,
        live=live,
        set_aside=set_aside,
        requested_by=asked.requested_by,
    )

    def tell(vetting: Vetting) -> None:
        incident = bring(settings, report.rollouts.store, asked.id, asked.context, vetting, now=datetime.now(UTC))
        what = f"{len(vetting.refused)} of {vetting.offered} pictures held back by vetting: `kerbwatch quarantine list`"
        opened_ = f"; that is more than usual: incident {incident[:8]}" if incident else ""
        typer.echo(what + opened_, err=True)

    rules = policy.accepted(settings)[-1 if asked.short else 0]
    try:
        digest = candidate(plan, settings, registry, folder, rules=rules, threads=_THREADS, report=report, tell=tell)
        _require_fit(settings, sessions, plan, places)
        report.tell(Staged(datetime.now(UTC), digest))
        passed, why = gated(plan, settings, registry, digest, report, rules)
        _require_fit(settings, sessions, plan, places)  # the gate takes minutes
        return report.tell(Gated(datetime.now(UTC), digest, passed, why))
    except (BadInput, Tampered) as error:
        report.tell(Failed(datetime.now(UTC), str(error)))
        raise


def _require_fit(settings: Settings, sessions: Sessions, plan: Plan, places: Sequence[Place]) -> None:
    """Raises BadInput where a picture was set aside, or ordered to be, while the run learnt from it."""
    with reading(sessions) as session:
        late = len(unfit(session, (place.frame_id for place in places)))
        late = late or len({one.digest for one in plan.live} & (kept_out(settings, session) - plan.set_aside))
    if late:
        raise BadInput(f"{late} pictures that it learnt from were set aside meanwhile: `kerbwatch retrain` makes one without them")


def _places(session: Session, asked: Rollout, folder: Path) -> list[Place]:
    """Where the live pictures lie that the run may see; the same when it goes on after a kill.

    What was set aside since then has been learnt from already, so the training begins anew without it.
    """
    kept = folder / "live.json"
    if kept.is_file():
        places = msgspec.json.decode(kept.read_bytes(), type=list[Place])
        if barred := unfit(session, (place.frame_id for place in places)):
            places = [place for place in places if place.frame_id not in barred]
            shutil.rmtree(folder / TRAINING, ignore_errors=True)  # before the list forgets why
            write_whole(kept, msgspec.json.encode(places))
        return places
    incident = session.get_one(IncidentRow, asked.incident_id)
    rows = session.execute(
        select(JudgedFrame.frame_id, JudgedFrame.sequence, JudgedFrame.frame_partition, JudgedFrame.frame_offset)
        .where(
            JudgedFrame.context == asked.context,
            JudgedFrame.camera_time < (incident.impact_at or incident.detected_at),
            JudgedFrame.frame_id.not_in(select(QuarantinedFrame.frame_id).where(QuarantinedFrame.state != Standing.RELEASED)),
        )
        .order_by(JudgedFrame.camera_time.desc())
        .limit(100 * _LIVE[Budget.FULL])
    ).all()
    barred = unfit(session, (row.frame_id for row in rows))
    rows = [row for row in rows if row.frame_id not in barred]
    wanted = _LIVE[Budget.SHORT if asked.short else Budget.FULL]
    places = [Place(*row) for row in rows[:: max(1, len(rows) // wanted)][:wanted]]
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(kept, msgspec.json.encode(places))
    return places


@contextmanager
def _shown() -> Iterator[Callable[[str, int, int, float], None]]:
    """A bar on a terminal, a line every ten seconds elsewhere."""
    console = Console(stderr=True)
    last_s = [float("-inf")]
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task("retraining", total=None, left="")

        def show(step: str, done: int, of: int, left_s: float) -> None:
            left = f"{left_s:.0f} s left" if left_s else ""
            bars.update(task, description=step, completed=done, total=of or None, left=left)
            if not console.is_terminal and time.monotonic() - last_s[0] >= _PRINT_EVERY_S:
                last_s[0] = time.monotonic()
                console.print(f"{step}: {done} of {of}{', ' if left else ''}{left}", highlight=False)

        yield show
