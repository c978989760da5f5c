"""Events for tests of incidents: short to write, valid, at times counted in seconds from noon."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from responders.engine.incident import Act, Asking, Incident, Resolution, Verb
from responders.people.roles import Role
from responders.playbooks import playbooks
from streams.events import (
    Context,
    Health,
    Kind,
    ModelState,
    Offset,
    Phase,
    Serving,
    Severity,
    Signal,
    Window,
    WorkerStatus,
    event_id,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
NORMAL = "a" * 64
SAFE = "b" * 64
OPEN_ASKING = Asking("to_be_filled_in", -1)
"""What approvals of `act` answer until `answering` says it."""


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def signal(
    phase: Phase,
    first: int,
    last: int,
    *,
    camera: str = "cam1",
    kind: Kind = Kind.EVASION,
    context: Context = Context.URBAN,
    detector: str = "squeeze",
    epoch: int = 1,
    severity: Severity = Severity.HIGH,
    time_s: float | None = None,
) -> Signal:
    return Signal(
        id=event_id("signal", camera, context, kind, detector, phase, epoch, first, last),
        source="watcher/watch",
        time=at(last / 5 if time_s is None else time_s),
        subject=camera,
        kind=kind,
        phase=phase,
        severity=severity,
        camera_id=camera,
        context=context,
        detector=detector,
        window=Window(epoch=epoch, first_sequence=first, last_sequence=last),
        weights_digest=NORMAL,
    )


def status(worker: str, time_s: float, asked: ModelState | None, *, health: Health = Health.SERVING) -> WorkerStatus:
    """What a worker says that serves what `asked` asks for."""
    serving: tuple[Serving, ...] = ()
    if asked is not None:
        serving = (
            Serving(
                context=asked.context,
                weights_digest=asked.weights_digest,
                mode=asked.mode,
                decision_id=asked.decision_id,
                from_offsets=(Offset(0, 17),),
            ),
        )
    return WorkerStatus(
        id=event_id("status", worker, str(time_s), asked.decision_id if asked else ""),
        source=f"inference/{worker}",
        time=at(time_s),
        subject=worker,
        worker_id=worker,
        health=health,
        serving=serving,
    )


def act(
    verb: Verb,
    incident_id: str,
    time_s: float,
    *,
    actor: str = "operator-1",
    resolution: Resolution = Resolution.HANDLED,
    roles: tuple[Role, ...] = (),
    kind: Kind = Kind.DRIFT,
    snooze_s: float = 600,
) -> Act:
    return Act(
        event_id("act", verb, incident_id, str(time_s), actor),
        at(time_s),
        incident_id,
        verb,
        actor,
        f"{verb} for a test",
        resolution=resolution,
        assignee="operator-2" if verb is Verb.ASSIGN else "",
        until=at(time_s + snooze_s) if verb is Verb.SNOOZE else None,
        kind=kind if verb is Verb.RECLASSIFY else None,
        plan=playbooks.load()[kind] if verb is Verb.RECLASSIFY else None,
        roles=roles,
        asking=OPEN_ASKING if verb in {Verb.APPROVE, Verb.REJECT} else None,
    )


def answering(said: Act, incident: Incident) -> Act:
    """The same act, as the answer to what the incident asks for now."""
    return replace(said, asking=incident.asking) if said.asking is OPEN_ASKING else said
