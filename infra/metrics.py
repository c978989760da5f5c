"""Every Prometheus metric, named once, and how a process offers them.

It decides names, units, labels and buckets; dashboards are made from these definitions and alert rules checked against them. It
refuses labels whose values a stranger could choose (frame ids, error texts, cameras without a key), because each new value costs
memory in Prometheus for weeks. Events of all topics are counted here, by the process that handled them.

A process makes one `Metrics(service)`, passes it down, and wraps its work in `with serve_metrics(settings, metrics):`.

Source: paper section 4.7 (monitored quantities); Prometheus "Metric and label naming" (base units, `_total`, `_info`).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from importlib.metadata import version
from typing import Any, Generic, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from infra.settings import Settings
from streams import topics
from streams.errors import BrokenContract, Refusal, Unavailable
from streams.events import Comparison, DeadLetter, Detections, Health, IncidentChange, Kind, Phase, Serving, Signal, WorkerStatus

M = TypeVar("M", Counter, Gauge, Histogram)


class Service(StrEnum):
    """The processes that work for hours and offer metrics, in the order of their ports (`kerbwatch work infer` ...)."""

    INFER = "infer"
    WATCH = "watch"
    RESPOND = "respond"
    KEEP = "keep"


class Stage(StrEnum):
    """Where the worker's time goes, frame by frame."""

    DECODE = "decode"
    INFER = "infer"
    SCORES = "scores"


class Outcome(StrEnum):
    """How one attempt at an effect ended; a failed one is tried again."""

    DONE = "done"
    FAILED = "failed"


class Side(StrEnum):
    """Which of two models that looked at the same frame: the one on its way into service, or the one that it is to follow."""

    CANDIDATE = "candidate"
    SERVING = "serving"


class GateVerdict(StrEnum):
    """What the gate said of a rollout's candidate."""

    PASSED = "passed"
    REFUSED = "refused"


@dataclass(frozen=True)
class Definition(Generic[M]):
    """One metric: its exposed name (unit last), what it means in plain words, its labels and, for a histogram, upper bounds."""

    kind: type[M]
    name: str
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def make(self, registry: CollectorRegistry) -> M:
        """The live metric, registered."""
        options: dict[str, Any] = {"buckets": self.buckets} if self.buckets else {}
        return self.kind(self.name, self.meaning, self.labels, registry=registry, **options)


_LATENCY_S = (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 5.0, 15.0, 60.0)
_STAGE_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_RATIO = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

FRAMES_JUDGED = Definition(
    Counter, "kerbwatch_frames_judged_total", "Frames that the worker judged.", ("camera", "context", "mode")
)
REFUSED = Definition(Counter, "kerbwatch_refused_total", "Messages that were refused, by reason.", ("reason",))
FRAME_LATENCY = Definition(
    Histogram, "kerbwatch_frame_latency_seconds", "From a frame's camera time to its judgement.", ("camera", "context"), _LATENCY_S
)
WATCH_LATENCY = Definition(
    Histogram,
    "kerbwatch_watch_latency_seconds",
    "From a frame's camera time until every detector has looked at it.",
    ("camera", "context"),
    _LATENCY_S,
)
STAGE = Definition(Histogram, "kerbwatch_stage_seconds", "The worker's time per frame and stage.", ("stage",), _STAGE_S)
BATCH = Definition(Histogram, "kerbwatch_batch_frames", "Frames judged in one forward pass.", (), (1, 2, 4, 8, 16, 32))
LAG = Definition(
    Gauge, "kerbwatch_consumer_lag_messages", "Messages that wait to be read or judged, by topic and reader.", ("service", "topic")
)
PEOPLE = Definition(Counter, "kerbwatch_people_total", "People found in judged frames.", ("camera", "context", "mode"))
SCORED = Definition(
    Counter, "kerbwatch_frames_scored_total", "Frames that got a second look, for an input score.", ("camera", "context")
)
CLEANED = Definition(Counter, "kerbwatch_frames_cleaned_total", "Frames cleaned before the model saw them.", ("camera", "context"))
MODEL_FAULTS = Definition(
    Gauge, "kerbwatch_model_faults", "Models that do not load or failed at work, and orders not obeyed.", ("worker",)
)
AGREEMENT = Definition(
    Histogram,
    "kerbwatch_compared_agreement_ratio",
    "F1 of the boxes of candidate and serving model on one frame that both judged; 1 is the same people.",
    ("context",),
    _RATIO,
)
COMPARED_PEOPLE = Definition(
    Counter, "kerbwatch_compared_people_total", "People found in frames that both models judged.", ("context", "model")
)
COMPARED_SCORE = Definition(
    Histogram,
    "kerbwatch_compared_score_ratio",
    "Mean score of the people found, per frame that both models judged and somebody was found in.",
    ("context", "model"),
    _RATIO,
)
COMPARED_TIME = Definition(
    Histogram, "kerbwatch_compared_infer_seconds", "Time per frame that both models judged.", ("context", "model"), _STAGE_S
)
ROLLOUT = Definition(
    Gauge, "kerbwatch_rollout_info", "Where a context's newest rollout is; always 1.", ("context", "state", "digest")
)
ROLLOUT_SHARE = Definition(
    Gauge, "kerbwatch_rollout_share_ratio", "Share of cameras that a rollout's candidate serves.", ("context",)
)
ROLLOUT_FRAMES = Definition(
    Gauge, "kerbwatch_rollout_proof_frames", "Live frames that speak of a candidate in this step of its rollout.", ("context",)
)
ROLLOUT_WANTED = Definition(
    Gauge, "kerbwatch_rollout_wanted_frames", "Live frames that this step of a rollout asks for.", ("context",)
)
ROLLOUT_LIMIT = Definition(
    Gauge,
    "kerbwatch_rollout_limit_ratio",
    "What a candidate is held to: least agreement; most times the people and the time of the serving model.",
    ("context", "figure"),
)
RETRAINING_LEFT = Definition(
    Gauge, "kerbwatch_retraining_left_seconds", "How long a retraining run still takes, by its own estimate.", ("context",)
)
GATE_VERDICTS = Definition(Counter, "kerbwatch_gate_verdicts_total", "The gate's verdicts on candidates of rollouts.", ("verdict",))
SCORE = Definition(
    Gauge,
    "kerbwatch_detector_score",
    "Strangeness of the last reading, in the detector's own unit; 0 is usual.",
    ("kind", "camera", "context", "detector"),
)
EVIDENCE = Definition(
    Gauge,
    "kerbwatch_detector_evidence_ratio",
    "Evidence gathered by a detector, in units of its alarm threshold: 1 or more is an alarm.",
    ("kind", "camera", "context", "detector"),
)
SIGNALS = Definition(Counter, "kerbwatch_signals_total", "Findings sent to the responder.", ("kind", "phase"))
INCIDENTS_OPEN = Definition(Gauge, "kerbwatch_incidents_open", "Incidents that are not closed.", ("kind", "state"))
INCIDENTS_UNACKNOWLEDGED = Definition(
    Gauge, "kerbwatch_incidents_unacknowledged", "Open incidents that nobody has acknowledged.", ("kind",)
)
INCIDENT_CHANGES = Definition(
    Counter, "kerbwatch_incident_changes_total", "Changes of incidents, by the state they led to.", ("kind", "state")
)
EFFECTS_PENDING = Definition(Gauge, "kerbwatch_effects_pending", "Decided effects that are not carried out yet.")
EFFECT_ATTEMPTS = Definition(Counter, "kerbwatch_effect_attempts_total", "Attempts to carry out an effect.", ("outcome",))
NOTIFICATIONS = Definition(
    Counter, "kerbwatch_notifications_total", "Attempts to tell people of an incident.", ("channel", "outcome")
)
CHANNEL_FAULTS = Definition(
    Gauge,
    "kerbwatch_channel_faulty",
    "Whether a channel's settings do not hold, so that nobody is told by it; 0 or 1.",
    ("channel",),
)
QUARANTINED = Definition(Counter, "kerbwatch_frames_quarantined_total", "Frames set aside, encrypted.")
AUDITED = Definition(Counter, "kerbwatch_audit_entries_total", "Entries written to the audit trail.")
DEAD_LETTERS = Definition(
    Counter, "kerbwatch_dead_letters_total", "Messages put aside on the dead-letter topic.", ("topic", "reason")
)
SERVING = Definition(
    Gauge, "kerbwatch_serving_info", "Which weights this worker serves a context with; always 1.", ("context", "mode", "digest")
)
WORKER_HEALTH = Definition(
    Gauge, "kerbwatch_worker_health", "1 for what a worker last said of itself, 0 for the rest.", ("worker", "health")
)
WORKER_REPORTED = Definition(
    Gauge, "kerbwatch_worker_reported_timestamp_seconds", "When a worker was last heard of, since 1970.", ("worker",)
)
AGENT_EVENTS = Definition(Counter, "kerbwatch_agent_events_total", "Events that an agent handled.", ("agent",))
AGENT_FAULTS = Definition(Counter, "kerbwatch_agent_faults_total", "Events at which an agent failed, by its own fault.", ("agent",))
PROCESS = Definition(Gauge, "kerbwatch_process_info", "A running process; always 1.", ("service", "version"))

ALL: tuple[Definition[Counter] | Definition[Gauge] | Definition[Histogram], ...] = tuple(
    each for each in tuple(globals().values()) if isinstance(each, Definition)
)
"""Every definition above."""
BY_NAME = {metric.name: metric for metric in ALL}
DIGEST_CHARS = 12
"""How much of a weights digest a label shows; enough to tell any two models of one registry apart."""


class Metrics:
    """One process's live metrics on a registry of its own. Thread-safe; a call costs some microseconds.

    Its methods take the events that a process has at hand; what they do not cover is reached by definition:
    `metrics[BATCH].observe(4)`.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.registry = CollectorRegistry()
        self._made = {metric.name: metric.make(self.registry) for metric in ALL}
        ProcessCollector(registry=self.registry)
        self[PROCESS].labels(service=service, version=version("kerbwatch")).set(1)
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        # A counter that first appears at 1 shows no increase in Prometheus: the first alarm would be missed.
        for reason in Refusal:
            self[REFUSED].labels(reason=reason)
        for kind in Kind:
            for phase in Phase:
                self[SIGNALS].labels(kind=kind, phase=phase)
        for outcome in Outcome:
            self[EFFECT_ATTEMPTS].labels(outcome=outcome)
        for verdict in GateVerdict:
            self[GATE_VERDICTS].labels(verdict=verdict)
        for topic in topics.ALL:
            self[DEAD_LETTERS].labels(topic=topic.name, reason=Refusal.AGENT_FAULT)
        for reason in Refusal:  # strangers write only there
            self[DEAD_LETTERS].labels(topic=topics.FRAMES.name, reason=reason)

    def __getitem__(self, wanted: Definition[M]) -> M:
        """The live metric of a definition. Raises BrokenContract if it is none of `ALL`."""
        if wanted.name not in self._made:
            raise BrokenContract(f"{wanted.name} is not defined in infra/metrics.py; name it there, above `ALL`")
        return cast("M", self._made[wanted.name])

    def judged(self, event: Detections, *, cleaned: bool = False, candidate: str | None = None) -> None:
        """The worker judged a frame; `candidate` is the digest of the model on its way into service there."""
        whose = {"camera": event.camera_id, "context": event.context}
        self[FRAMES_JUDGED].labels(**whose, mode=event.mode).inc()
        self[SCORED].labels(**whose).inc(event.scores.inconsistency is not None)
        self[CLEANED].labels(**whose).inc(cleaned)
        if event.compared is not None and candidate is not None:
            self._compared(event, event.compared, candidate)
        self[PEOPLE].labels(**whose, mode=event.mode).inc(len(event.boxes))
        self[FRAME_LATENCY].labels(**whose).observe(_seconds_between(event.camera_time, event.time))
        for stage, spent_ms in (
            (Stage.DECODE, event.timings.decode_ms),
            (Stage.INFER, event.timings.infer_ms),
            (Stage.SCORES, event.timings.scores_ms),
        ):
            self[STAGE].labels(stage=stage).observe(spent_ms / 1000)

    def _compared(self, event: Detections, second: Comparison, candidate: str) -> None:
        self[AGREEMENT].labels(context=event.context).observe(second.agreement)
        sides = (Side.CANDIDATE, Side.SERVING) if event.weights_digest == candidate else (Side.SERVING, Side.CANDIDATE)
        answered = (event.features.people, event.features.score_mean, event.timings.infer_ms)
        for side, (people, score, spent_ms) in zip(
            sides, (answered, (second.people, second.score_mean, second.infer_ms)), strict=True
        ):
            whose = {"context": event.context, "model": side}
            self[COMPARED_PEOPLE].labels(**whose).inc(people)
            self[COMPARED_TIME].labels(**whose).observe(spent_ms / 1000)
            if people:
                self[COMPARED_SCORE].labels(**whose).observe(score)

    def watched(self, event: Detections, now: datetime) -> None:
        """All detectors have looked at a frame."""
        latency_s = _seconds_between(event.camera_time, now)
        self[WATCH_LATENCY].labels(camera=event.camera_id, context=event.context).observe(latency_s)

    def verdict(self, kind: Kind, event: Detections, detector: str, score: float, evidence: float) -> None:
        """A detector answered: this reading's own strangeness, and what has gathered in units of the alarm threshold."""
        whose = {"kind": kind, "camera": event.camera_id, "context": event.context, "detector": detector}
        self[SCORE].labels(**whose).set(score)
        self[EVIDENCE].labels(**whose).set(evidence)

    def waiting(self, topic: str, messages: int) -> None:
        """So many messages of a topic are still to be read by this process."""
        self[LAG].labels(service=self.service, topic=topic).set(messages)

    def refused(self, reason: Refusal) -> None:
        """A message was refused."""
        self[REFUSED].labels(reason=reason).inc()

    def dead_lettered(self, letter: DeadLetter) -> None:
        """A message was put on the dead-letter topic."""
        self[DEAD_LETTERS].labels(topic=letter.topic, reason=letter.reason).inc()

    def signalled(self, signal: Signal) -> None:
        """A finding was sent."""
        self[SIGNALS].labels(kind=signal.kind, phase=signal.phase).inc()

    def serving(self, now: Iterable[Serving]) -> None:
        """What this worker serves from now on, for all contexts; what it served before disappears."""
        self.only(SERVING, {(one.context, one.mode, one.weights_digest[:DIGEST_CHARS]): 1 for one in now})

    def only(self, wanted: Definition[Gauge], now: Mapping[tuple[str, ...], float]) -> None:
        """All series of a gauge from now on, by their labels' values; others disappear."""
        for labels, number in now.items():
            self[wanted].labels(*labels).set(number)
        for labels in self._label_values(wanted) - now.keys():
            self[wanted].remove(*labels)

    def reported(self, status: WorkerStatus, now: datetime) -> None:
        """A worker was heard of at `now` (the listener's clock)."""
        self[WORKER_REPORTED].labels(worker=status.worker_id).set(now.timestamp())
        for health in Health:
            self[WORKER_HEALTH].labels(worker=status.worker_id, health=health).set(health is status.health)

    def handled(self, agent: str) -> None:
        """An agent handled an event."""
        self[AGENT_EVENTS].labels(agent=agent).inc()
        self[AGENT_FAULTS].labels(agent=agent)  # at zero from the first event on, so that the first fault shows as an increase

    def incident_changed(self, change: IncidentChange) -> None:
        """An incident changed."""
        self[INCIDENT_CHANGES].labels(kind=change.kind, state=change.state).inc()

    def incidents(self, open_now: Mapping[tuple[Kind, str], int], unacknowledged: Mapping[Kind, int]) -> None:
        """All open incidents, counted by kind and state, and those nobody acknowledged; what is not named counts as 0.

        Name at least one state even when nothing is open: calm then shows as 0, and a dead responder as no data.
        """
        for kind, state in self._label_values(INCIDENTS_OPEN):
            if (Kind(kind), state) not in open_now:
                self[INCIDENTS_OPEN].labels(kind=kind, state=state).set(0)
        for (kind_now, state), count in open_now.items():
            self[INCIDENTS_OPEN].labels(kind=kind_now, state=state).set(count)
        for each in Kind:
            self[INCIDENTS_UNACKNOWLEDGED].labels(kind=each).set(unacknowledged.get(each, 0))

    def _label_values(self, wanted: Definition[Gauge]) -> set[tuple[str, ...]]:
        (family,) = self[wanted].collect()
        return {tuple(sample.labels[name] for name in wanted.labels) for sample in family.samples}


def _seconds_between(earlier: datetime, later: datetime) -> float:
    # A camera's clock may run ahead of ours by the allowance; a negative time would spoil the histogram's sum.
    return max(0.0, (later - earlier).total_seconds())


def port(settings: Settings, service: Service) -> int:
    """The port at which a service offers its metrics: `settings.metrics_port` and upwards."""
    return settings.metrics_port + tuple(Service).index(service)


@contextmanager
def serve_metrics(settings: Settings, metrics: Metrics) -> Iterator[str]:
    """Offer the metrics over HTTP (`/metrics`) while the block runs; yields the address.

    Bound to `settings.metrics_host`, loopback unless a deployment says otherwise: there is no authentication.
    Raises Unavailable if the port is taken.
    """
    host, number = settings.metrics_host, port(settings, metrics.service)
    try:
        server, thread = start_http_server(number, host, metrics.registry)
    except OSError as error:
        raise Unavailable(
            f"metrics of {metrics.service} cannot be offered at {host}:{number} ({error.strerror}): "
            "stop what uses the port, or set KERBWATCH_METRICS_PORT"
        ) from error
    try:
        yield f"http://{host}:{number}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
