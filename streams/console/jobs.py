"""What each regular job does: one function a job, each ending with what it has to say.

It decides how a job's work is put together from the parts that do it, and what of it a person must hear of. It refuses to touch
what an open incident may need. Started by `kerbwatch schedule run`, which the elected keeper gives when a job is due.

Source: paper 4.7 (evidence preservation, drills), 4.6 (golden dataset), SC-10; NIST SP 800-61r3.
"""

import json
import os
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec.structs import replace
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from inference.lifecycle import held
from infra import certificates
from infra.backup import back_up
from infra.checkpoints import evidence_key
from infra.db import Sessions, reading, writing
from infra.files import write_whole
from infra.settings import Settings
from infra.tables import Assignment, IncidentRow, JudgedFrame, QuarantinedFrame, TimelineRow
from responders.engine import outbox
from responders.engine.incident import RESPONDER
from responders.engine.store import Store
from responders.notify.deliveries import remind
from responders.notify.notices import Notice, reminder
from responders.people.roles import Role
from responders.playbooks.chosen import in_force
from responders.playbooks.playbooks import State
from responders.proof import auditing, sealings
from responders.proof.evidence import verify
from responders.quarantine.quarantine import Standing, expire
from responders.regular import checks, coming
from responders.regular.schedule import Outcome
from responders.report.deadlines import deadlines as duties
from responders.rollouts.store import awaiting
from streams import commands
from streams.console.evidence import seal_incident
from streams.errors import KerbwatchError, Tampered, Unavailable
from streams.events import Digest, UtcTime, event_id

ACTOR = sealings.KEEPER
_SEALED_AT_ONCE = 20
_PATIENCE = timedelta(hours=12)
"""So long is evidence left unsealed while the broker is away or the audit trail is late; then it is sealed as it is."""
_REVIEW = timedelta(days=90)
_WAITING = timedelta(days=7)
_MOST_SAID = 4000
_ROWS = 10_000
_SAME = 0.005
"""The same weights on the same pictures answer the same, but for rounding on other hardware (performance, 0..1)."""
_PORTS = 60
_LIST_S, _DRILL_S, _DOWN_S = 120.0, 1500.0, 120.0
"""A drill's stack needs minutes to start on a busy machine; together they stay below the job's own limit."""


@dataclass(frozen=True)
class Run:
    """What a job may use. `now` is when it began."""

    settings: Settings
    sessions: Sessions
    now: datetime


@dataclass(frozen=True)
class Said:
    """How a job ended. `waits` is what a person must look at, "" if nothing."""

    text: str
    outcome: Outcome = Outcome.DONE
    waits: str = ""


def evidence(run: Run) -> Said:
    """Seal every closed incident that has no bundle yet, name each bundle in the audit log; what fails for one stops no other.

    Each incident that is doubted, not sealed or not named has a reminder of its own: what one run says the next does not repeat.
    """
    with reading(run.sessions) as session:
        closed = session.execute(
            select(IncidentRow.id, IncidentRow.closed_at).where(IncidentRow.state == State.CLOSED).order_by(IncidentRow.closed_at)
        ).all()
    there = {row.id for row in closed if sealings.standing(run.settings, row.id).is_file()}
    sealed, later, wrong = 0, list[str](), list[str]()
    for row in closed:
        if row.id in there:
            continue
        if sealed + len(later) >= _SEALED_AT_ONCE:
            break
        whole = row.closed_at is not None and run.now - row.closed_at < _PATIENCE
        try:
            bundle = seal_incident(run.sessions, run.settings, row.id, run.now, whole=whole)
            write_whole(sealings.standing(run.settings, row.id), bundle, 0o400)
            wrong += _name(run, row.id, bundle)  # after the file: a crash between the two is made good by `_name_others`
        except Unavailable as error:
            later.append(str(error))
        except KerbwatchError as error:
            wrong.append(_fails(run, row.id, f"incident {row.id[:8]} is not sealed: {error}"))
        else:
            sealed += 1
    wrong += _name_others(run, there)
    left = f", {len(later)} are tried again: {later[0]}" if later else ""
    text = f"{sealed} bundles sealed{left}"
    return Said("; ".join([text, *wrong]), Outcome.FAILED if wrong else Outcome.DONE)


def _name(run: Run, incident_id: str, bundle: bytes) -> list[str]:
    """Name a bundle in the log, and at the same moment tell of the doubts that stand in it: once for each bundle."""
    doubts = verify(bundle, evidence_key(run.settings).public_key()).doubts
    said = [f"incident {incident_id[:8]} is sealed, with {len(doubts)} doubts in its bundle: {doubts[0]}"] if doubts else []
    with writing(run.sessions) as session:
        sealings.name(session, incident_id, bundle, ACTOR, run.now)
        for one in said:
            remind(session, _notice(f"{incident_id} {sha256(bundle).hexdigest()}", one, run.now), run.now)
    sealings.mark(run.settings, incident_id, run.now)
    return said


def _name_others(run: Run, there: Collection[str]) -> list[str]:
    """Name bundles that no entry tells of: sealed by an earlier version, or just before a crash. Returns what is wrong."""
    with reading(run.sessions) as session:
        bare = sealings.unnamed(session, run.settings, sorted(there))[:_SEALED_AT_ONCE]
        told = sealings.told(session, bare) if bare else {}
    wrong = []
    for id_ in bare:
        try:
            bundle = sealings.standing(run.settings, id_).read_bytes()
            found = verify(bundle, evidence_key(run.settings).public_key())
            if faults := sealings.replaced(told[id_], run.settings, id_, found):
                raise Tampered("; ".join(faults))
            wrong += _name(run, id_, bundle)
        except (KerbwatchError, OSError) as error:
            wrong.append(_fails(run, id_, f"the bundle of incident {id_[:8]} is not named in the log: {error}"))
    return wrong


def _fails(run: Run, incident_id: str, what: str) -> str:
    """Remind of an incident's evidence once a day for as long as it fails."""
    with writing(run.sessions) as session:
        remind(session, _notice(f"{incident_id} {run.now:%Y-%m-%d}", what, run.now), run.now)
    return what


def _notice(key: str, what: str, now: datetime) -> Notice:
    said = f"scheduled job evidence: {what[:_MOST_SAID]}; see docs/evidence.md"
    return reminder(f"evidence {key}", said, Role.SECMLOPS_ENGINEER, now)


def checkpoint(run: Run) -> Said:
    """Check the audit log and sign where it stands."""
    with reading(run.sessions) as session:
        found, path = auditing.checkpoint(session, run.settings)
    return Said(f"{found.size} entries hold, as do {found.checkpoints} checkpoints; signed in {path.name}")


def backup(run: Run) -> Said:
    """Copy the database, restore the copy, compare."""
    made = back_up(run.settings, run.now)
    rows = sum(made.census.rows.values())
    return Said(f"{made.path.name}: {made.size_bytes} bytes, {rows} rows in {len(made.census.rows)} tables, restored and equal")


def retention(run: Run) -> Said:
    """Destroy what is too old in quarantine, drop old records of frames; what an open incident is about is left alone."""
    with writing(run.sessions) as session:
        watched = set(session.scalars(select(IncidentRow.camera_id).where(IncidentRow.state != State.CLOSED)))
        limit = run.now - timedelta(days=run.settings.quarantine_days)
        old = expire(session, run.settings, limit, watched, by=ACTOR, now=run.now)
        for incident in sorted({row.incident_id for row in old}):
            states = [row.state for row in old if row.incident_id == incident]
            released = f"; {count} of them were released and stay so" if (count := states.count(Standing.RELEASED)) else ""
            why = f"{len(states)} frames destroyed, older than {run.settings.quarantine_days} days{released}"
            id_ = event_id("retention", incident, run.now.isoformat())
            outbox.post_audit(session, id_, ACTOR, "quarantine.expire", target=incident, why=why, now=run.now)
        samples = held.expire_held(run.settings, limit, set(_open_incidents(session)), ACTOR, run.now)
        if samples:
            why = f"{samples} training samples destroyed, older than {run.settings.quarantine_days} days"
            id_ = event_id("retention", "samples", run.now.isoformat())
            outbox.post_audit(session, id_, ACTOR, "quarantine.expire", target="training samples", why=why, now=run.now)
    what = f"{len(old)} quarantined frames and {samples} training samples destroyed"
    return Said(f"{what}, {_forget(run, watched)} records of frames dropped")


def _open_incidents(session: Session) -> Sequence[str]:
    return session.scalars(select(IncidentRow.id).where(IncidentRow.state != State.CLOSED)).all()


def _forget(run: Run, watched: set[str]) -> int:
    limit, gone = run.now - timedelta(days=run.settings.records_days), 0
    while True:
        with writing(run.sessions) as session:
            ids = session.scalars(
                select(JudgedFrame.frame_id)
                .where(JudgedFrame.camera_time < limit, JudgedFrame.camera_id.not_in(watched))
                .limit(_ROWS)
            ).all()
            session.execute(delete(JudgedFrame).where(JudgedFrame.frame_id.in_(ids)))
        gone += len(ids)
        if len(ids) < _ROWS:
            return gone


class Audited(msgspec.Struct, frozen=True, kw_only=True):
    """How well weights did on a golden set: 1 - log-average miss rate, 0..1."""

    golden: Digest
    weights: Digest
    performance: float
    time: UtcTime


def golden(run: Run) -> Said:
    """Prove the golden set, ask the serving models about it, and hold the answer against the first one that each gave."""
    from inference.lifecycle.exam import performance  # noqa: PLC0415 - torch, for this job alone
    from inference.lifecycle.golden import open_golden  # noqa: PLC0415 - as above
    from inference.provenance.registry import registry_of  # noqa: PLC0415 - as above
    from inference.service.serving import load  # noqa: PLC0415 - as above
    from streams.events import Context  # noqa: PLC0415 - beside its user

    try:
        opened = open_golden(run.settings)
    except Unavailable as error:
        return Said(str(error), Outcome.SKIPPED)
    with reading(run.sessions) as session:
        rows = session.scalars(select(Assignment)).all()
    samples = [one for one in opened.samples if one.people]
    path = run.settings.home.resolve() / "golden-audits.jsonl"
    known = _audits(path)
    told, moved = [], []
    for digest in sorted({row.normal_digest for row in rows} | {row.safe_digest for row in rows}):
        served = load(registry_of(run.settings), digest, threads=1)
        boxes = [served.look([one.picture], 0.01)[0].boxes for one in samples]
        now = performance(Context.URBAN, samples, boxes, served.threshold)
        if now is None:
            return Said("nobody is in the golden set's pictures: there is nothing to measure", Outcome.SKIPPED)
        told.append(f"{digest[:12]} {now:.3f}")
        audit = Audited(golden=opened.golden.digest, weights=digest, performance=now, time=run.now)
        if fault := other_than_before(known, audit):
            moved.append(fault)
        known.append(audit)
    write_whole(path, b"".join(msgspec.json.encode(one) + b"\n" for one in known))
    if moved:
        raise Tampered(f"the same weights no longer answer the golden set the same: {'; '.join(moved)}; verify models and library")
    return Said(f"golden set {opened.golden.digest[:12]} proven, {len(samples)} pictures asked: {', '.join(told)}")


def other_than_before(known: Sequence[Audited], now: Audited) -> str:
    """How these weights differ from their first answer to this golden set; "" where they do not or this is the first."""
    first = next((one for one in known if (one.golden, one.weights) == (now.golden, now.weights)), now)
    if abs(first.performance - now.performance) <= _SAME:
        return ""
    return f"{now.weights[:12]} did {first.performance:.3f} on {first.time:%Y-%m-%d} and does {now.performance:.3f} now"


def _audits(path: Path) -> list[Audited]:
    return [msgspec.json.decode(line, type=Audited) for line in path.read_bytes().splitlines()] if path.is_file() else []


def reminders(run: Run) -> Said:
    """Which rollouts wait for approval, which closed incidents for a word, which frames and training samples for a review."""
    waiting = [one for one in held.held(run.settings) if one.standing is held.Standing.SEALED and one.held_at < run.now - _WAITING]
    with reading(run.sessions) as session:
        words = select(TimelineRow.incident_id).where(TimelineRow.action == "note", TimelineRow.actor != RESPONDER)
        since = words.where(TimelineRow.incident_id == IncidentRow.id, TimelineRow.time >= IncidentRow.closed_at)
        unreviewed = session.scalars(
            select(IncidentRow.id)
            .where(IncidentRow.state == State.CLOSED, IncidentRow.closed_at >= run.now - _REVIEW, ~since.exists())
            .order_by(IncidentRow.closed_at)
        ).all()
        frames = session.scalar(
            select(func.count())
            .select_from(QuarantinedFrame)
            .where(QuarantinedFrame.state == Standing.SEALED, QuarantinedFrame.sealed_at < run.now - _WAITING)
        )
        approvals = awaiting(session, run.now)
    parts = [approvals] if approvals else []
    if unreviewed:
        few, first = ", ".join(id_[:8] for id_ in unreviewed[:5]), unreviewed[0][:8]
        parts.append(
            f"{len(unreviewed)} closed incidents have no review ({few}): `kerbwatch incidents report {first}`, "
            f'then `kerbwatch incidents note {first} -m "what we learned"`'
        )
    if frames:
        parts.append(f"{frames} frames have waited in quarantine for {_WAITING.days} days: `kerbwatch quarantine list`")
    if waiting:
        parts.append(f"{len(waiting)} training samples have waited for {_WAITING.days} days: `kerbwatch quarantine list`")
    return Said("; ".join(parts) or "nothing waits", waits="; ".join(parts))


def deadlines(run: Run) -> Said:
    """Remind of certificates and of reporting deadlines that run out, each time once."""
    with writing(run.sessions) as session:
        told = coming.certificates(certificates.expiry(run.settings), run.now)
        told += coming.reports(session, duties(run.settings.deadlines), run.now)
        for notice in told:
            remind(session, notice, run.now)
    return Said("; ".join(dict.fromkeys(notice.what for notice in told)) or "nothing runs out soon")


def drill(run: Run) -> Said:
    """One scenario, another each month, on a stack of its own; it is stopped whatever comes of it."""
    apart = _apart(run.settings)
    known = json.loads(commands.command(["drill", "--list", "--json"], apart, limit_s=_LIST_S))
    # One that times a command says as much about what else the machine does as about the system.
    chosen: Sequence[str] = [one["name"] for one in known if not one["long"] and not one["timed"]]
    name = chosen[(run.now.year * 12 + run.now.month) % len(chosen)]
    board = apart.home / "scoreboard.json"
    board.unlink(missing_ok=True)
    began_s = time.monotonic()
    try:
        commands.command(["drill", "--scenario", name, "--json", "--out", str(board)], apart, limit_s=_DRILL_S)
    except Unavailable as error:
        said = f"{name} failed: {_faults(board) or error} ({_load()})"
        return Said(said, Outcome.FAILED, waits=f"the drill of the month: {said}")
    finally:
        commands.command(["down"], apart, limit_s=_DOWN_S)
    return Said(f"{name} passed in {time.monotonic() - began_s:.0f} s ({_load()})")


def _apart(settings: Settings) -> Settings:
    """Settings that share nothing with the deployment but its models' code: another home, broker and ports, and nobody is told."""
    ports = {name: getattr(settings, name) + _PORTS for name in ("kafka_port", "kafka_controller_port", "metrics_port")}
    return replace(settings.on_its_own(settings.home.resolve() / "drill"), **ports)


def _faults(board: Path) -> str:
    """What a drill's scoreboard says went wrong; "" where it wrote none."""
    if not board.is_file():
        return ""
    return "; ".join(fault for one in json.loads(board.read_bytes())["scenarios"] for fault in one["faults"])


def _load() -> str:
    """How busy the machine is: a drill is timed, so what it says holds for a machine under that load."""
    return f"load {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores"


BY_NAME: dict[str, Callable[[Run], Said]] = {
    job.__name__: job for job in (evidence, checkpoint, backup, retention, golden, reminders, deadlines, drill)
}


def carry_out(name: str, run: Run) -> Said:
    """Do the job; what goes wrong is said, not raised. What was tampered with opens an incident."""
    try:
        said = BY_NAME[name](run)
    except KerbwatchError as error:
        if isinstance(error, Tampered):
            _tell(name, str(error), run)
        return Said(str(error), Outcome.FAILED, waits=f"scheduled job {name} failed: {error}")
    if said.outcome is Outcome.DONE:
        _tell(name, "", run)
    return said


def _tell(name: str, fault: str, run: Run) -> None:
    signal = checks.found(name, fault, run.now)
    if signal is None:
        return
    store = Store(run.sessions, in_force(run.settings), run.settings.worker_lost_s, run.settings.clock_allowance_s)
    with suppress(Unavailable):  # nothing was ever set up here, so there is nothing to respond with
        store.accept(signal, run.now)
