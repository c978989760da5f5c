"""Events of an imagined run, told to the metrics of all four processes as the processes themselves tell them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from infra.metrics import (
    AUDITED,
    BATCH,
    CHANNEL_FAULTS,
    EFFECT_ATTEMPTS,
    EFFECTS_PENDING,
    GATE_VERDICTS,
    MODEL_FAULTS,
    NOTIFICATIONS,
    QUARANTINED,
    GateVerdict,
    Metrics,
    Outcome,
    Service,
)
from responders.rollouts import metrics as rollout_metrics
from responders.rollouts.comparison import Limits, Tally
from responders.rollouts.metrics import Newest
from responders.rollouts.rollout import Rollout, State
from streams import events
from streams.errors import Refusal
from streams.events import Context, Health, Kind, Mode, Phase, Serving, Severity

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
NORMAL, SAFE, CANDIDATE = "a" * 64, "b" * 64, "c" * 64
CAMERAS = {"cam-1": Context.URBAN, "cam-2": Context.HIGHWAY}


def judged(
    camera: str = "cam-1",
    *,
    people: int = 2,
    mode: Mode = Mode.NORMAL,
    took_s: float = 0.12,
    digest: str = NORMAL,
    compared: events.Comparison | None = None,
) -> events.Detections:
    return events.Detections(
        id="x",
        source="inference/worker-1",
        time=NOON + timedelta(seconds=took_s),
        subject=camera,
        camera_id=camera,
        context=CAMERAS[camera],
        epoch=1,
        sequence=1,
        frame_id="f",
        frame_partition=0,
        frame_offset=1,
        camera_time=NOON,
        boxes=(events.Box(1.0, 1.0, 5.0, 9.0, 0.9),) * people,
        weights_digest=digest,
        mode=mode,
        decision_id="d",
        features=events.Features(
            brightness=0.5, contrast=0.2, sharpness=0.1, people=people, score_mean=0.9, score_max=0.9, height_mean_px=9.0, heat=0.1
        ),
        scores=events.InputScores(reference_digest=NORMAL, inconsistency=0.02),
        timings=events.Timings(decode_ms=2.0, infer_ms=40.0, scores_ms=6.0),
        compared=compared,
    )


def second(digest: str, people: int = 3) -> events.Comparison:
    return events.Comparison(weights_digest=digest, people=people, score_mean=0.7, agreement=0.8, infer_ms=50.0)


def rollout(state: State, context: Context = Context.URBAN) -> Newest:
    """A context's newest rollout in a state, obeyed by its workers, with 30 frames compared and 20 served in this step."""
    asked = Rollout(
        id="r",
        context=context,
        incident_id="i",
        requested_by="trainer-1",
        requested_at=NOON,
        normal_digest=NORMAL,
        limits=Limits(),
        state=state,
        since=NOON,
        heard_at=NOON,
        left_s=90.0,
        candidate_digest=CANDIDATE,
        share=0.2 if state is State.CANARY else 0.0,
        reported=True,
        base=Tally(compared=5),
    )
    return Newest(asked, Tally(compared=35, served=20))


def serving(digest: str, mode: Mode, context: Context = Context.URBAN) -> Serving:
    return Serving(context=context, weights_digest=digest, mode=mode, decision_id="d", from_offsets=())


def status(health: Health = Health.SERVING) -> events.WorkerStatus:
    return events.WorkerStatus(
        id="x", source="inference/worker-1", time=NOON, subject="worker-1", worker_id="worker-1", health=health, serving=()
    )


def signal(kind: Kind, phase: Phase) -> events.Signal:
    return events.Signal(
        id="x",
        source="watcher/watch",
        time=NOON,
        subject="cam-1",
        kind=kind,
        phase=phase,
        severity=Severity.HIGH,
        camera_id="cam-1",
        context=Context.URBAN,
        detector="inconsistency",
        window=events.Window(epoch=1, first_sequence=1, last_sequence=9),
        weights_digest=NORMAL,
    )


def change(state: str) -> events.IncidentChange:
    return events.IncidentChange(
        id="x",
        source="responder/respond",
        time=NOON,
        subject="i",
        incident_id="i",
        kind=Kind.EVASION,
        camera_id="cam-1",
        context=Context.URBAN,
        state=state,
        severity=Severity.HIGH,
        actor="kerbwatch",
        what="opened",
    )


def letter() -> events.DeadLetter:
    return events.DeadLetter(
        id="x",
        source="inference/worker-1",
        time=NOON,
        subject="frames/0/1",
        topic="frames",
        partition=0,
        offset=1,
        reason=Refusal.UNDECODABLE,
        cause="truncated",
        body_bytes=10,
    )


def drive(of: Mapping[Service, Metrics], *, safe: bool, now: datetime) -> None:
    """One more round of a run: frames of two cameras, an attack on one of them, and (if `safe`) the safe model put in."""
    infer, watch, respond, keep = (of[service] for service in Service)
    mode, digest = (Mode.SAFE, SAFE) if safe else (Mode.NORMAL, NORMAL)
    infer.serving([serving(digest, mode), serving(NORMAL, Mode.NORMAL, Context.HIGHWAY)])
    infer.waiting("frames", 3)
    infer[BATCH].observe(2)
    infer.refused(Refusal.UNDECODABLE)
    infer.dead_lettered(letter())
    infer[MODEL_FAULTS].labels(worker="worker-1").set(int(safe))
    for camera in CAMERAS:
        frame = judged(camera, mode=mode, compared=second(CANDIDATE))
        infer.judged(frame, cleaned=safe, candidate=CANDIDATE)
        watch.watched(frame, NOON + timedelta(seconds=0.2))
        watch.verdict(Kind.DRIFT, frame, "cusum(brightness)", 0.3, 0.2)
        watch.verdict(Kind.EVASION, frame, "inconsistency", 2.0, 1.1)
    for phase in Phase:
        watch.signalled(signal(Kind.EVASION, phase))
    for agent, metrics in (("watch", watch), ("respond", respond), ("keep", keep)):
        metrics.handled(agent)
        metrics.waiting("detections", 1)
    respond.reported(status(), now)
    respond.incident_changed(change("open"))
    respond.incidents({(Kind.EVASION, "open"): 1}, {Kind.EVASION: 1})
    respond[EFFECTS_PENDING].set(1)
    rollout_metrics.show(respond, [rollout(State.CANARY if safe else State.SHADOW), rollout(State.TRAINING, Context.HIGHWAY)])
    for verdict in GateVerdict:
        respond[GATE_VERDICTS].labels(verdict=verdict).inc()
    for outcome in Outcome:
        respond[EFFECT_ATTEMPTS].labels(outcome=outcome).inc()
        respond[NOTIFICATIONS].labels(channel="webhook", outcome=outcome).inc()
    respond[CHANNEL_FAULTS].labels(channel="email").set(1)
    keep[QUARANTINED].inc(4)
    keep[AUDITED].inc(3)
