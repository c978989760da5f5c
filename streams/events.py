"""Every event that travels through Kafka: frozen, versioned, named as in CloudEvents 1.0.

This is the floor: it imports nothing of ours but the errors, and knows no topic, no clock and no I/O.
An event's id is a content address (`event_id`), never random, so that a repeat is recognised anywhere.
Times are UTC-aware; `time` is when the event happened by its source's clock. Units stand in the names.
Pixels never travel in an event: a `Frame` is the description of a picture whose bytes are the Kafka value.

Source: paper section 4.7 (what is monitored), CloudEvents 1.0 section 3.1 (id, source, type, time, subject).
"""

import hashlib
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

SCHEMA_VERSION = 1
"""The newest event layout that this code writes and reads."""

UtcTime = Annotated[datetime, Meta(tz=True)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
"""SHA-256, lower-case hex."""
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
"""A camera, worker or detector id: safe in file names, topic keys and metric labels."""
Count = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class Context(StrEnum):
    """Where a camera drives or stands; each has baselines and weights of its own (paper 4.6)."""

    URBAN = "urban"
    HIGHWAY = "highway"


class Mode(StrEnum):
    """Which of a context's two models serves: the normal one, or the pre-computed safe one (paper 4.6)."""

    NORMAL = "normal"
    SAFE = "safe"


class Kind(StrEnum):
    """What a signal is about; a playbook exists for each kind that opens an incident."""

    EVASION = "evasion"  # pixels altered so that people are missed
    POISONING = "poisoning"  # training data that was made to teach something wrong
    DRIFT = "drift"  # the input is not what it used to be, harmless or not
    TRAFFIC = "traffic"  # frames that come too often, not at all, twice, or from two senders
    TAMPERING = "tampering"  # bytes that are not what their digest or signature says: a model, a log, a frame
    COMPROMISE = "compromise"  # a model that answers as nobody trained it to
    CAMERA = "camera"  # a camera that is blind, stuck or moved
    BAD_INPUT = "bad_input"  # messages that were refused
    HEALTH = "health"  # a part of the system that is late, failing or gone


class Phase(StrEnum):
    """A finding begins, goes on, or is over. Silence is none of these: missing data never means calm."""

    RAISED = "raised"
    ONGOING = "ongoing"
    CALM = "calm"


class Severity(StrEnum):
    """How bad: from a note for the record to people at risk."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Cause(StrEnum):
    """What kind of trouble is behind a finding (`detectors.triage.causes`)."""

    ATTACK = "attack"
    CORRUPTION = "natural_corruption"
    CONTEXT = "change_of_context"
    CAMERA = "camera_fault"
    MODEL = "model_fault"
    POISON = "poisoned_data"
    LOAD = "load"


class RolloutPhase(StrEnum):
    """How far a new model has come on its way into service."""

    SHADOW = "shadow"
    CANARY = "canary"


class Health(StrEnum):
    """What a worker says of itself."""

    SERVING = "serving"
    FAILING = "failing"
    STOPPING = "stopping"


def event_id(*parts: str | int) -> str:
    """Content address of what makes an event itself, e.g. ("frame", camera_id, epoch, sequence).

    Parts are length-prefixed, so ("ab", "c") and ("a", "bc") differ. Returns 32 lower-case hex characters (128 bits).
    """
    joined = b"".join(len(text).to_bytes(4, "big") + text for text in (str(part).encode() for part in parts))
    return hashlib.sha256(joined).hexdigest()[:32]


def rollout_share(rollout_id: str, camera_id: str) -> float:
    """Where a camera stands in the order in which a rollout reaches cameras, 0..1; the same for everybody who asks."""
    return int(event_id("rollout", rollout_id, camera_id)[:8], 16) / 16**8


class Event(Struct, frozen=True, kw_only=True, tag_field="type"):
    """What all events carry. `source` is "role/name" of the writer, `subject` what it is about."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    source: Annotated[str, Meta(min_length=1, max_length=128)]
    time: UtcTime
    subject: Annotated[str, Meta(max_length=256)]
    version: Annotated[int, Meta(ge=1)] = SCHEMA_VERSION


class Window(Struct, frozen=True, kw_only=True):
    """A stretch of one camera's frames, both ends included."""

    epoch: Count
    first_sequence: Count
    last_sequence: Count


class Frame(Event, frozen=True, kw_only=True, tag="kerbwatch.frame"):
    """One camera picture; its encoded bytes are the message's value, this travels in the headers.

    `epoch` is the camera's start (milliseconds since 1970), `sequence` counts frames from 0 within it.
    `digest` is of the encoded bytes; `signature` (Ed25519, base64) covers everything else here (`codec.signed_bytes`).
    """

    camera_id: Name
    context: Context
    epoch: Count
    sequence: Count
    width_px: Annotated[int, Meta(ge=16, le=16384)]
    height_px: Annotated[int, Meta(ge=16, le=16384)]
    content_type: Annotated[str, Meta(pattern=r"^image/(jpeg|png)$")]
    digest: Digest
    signature: str


class Box(Struct, frozen=True, array_like=True):
    """A person: left, top, width, height in pixels of the frame, and the detector's score."""

    x_px: float
    y_px: float
    w_px: Annotated[float, Meta(gt=0.0)]
    h_px: Annotated[float, Meta(gt=0.0)]
    score: Share


class Features(Struct, frozen=True, kw_only=True):
    """What the worker measured of a picture and of the model's view of it; drift detectors read these.

    brightness, contrast: mean and standard deviation of luminance, 0..1. sharpness: mean absolute Laplacian, 0..1.
    people: boxes above the serving threshold. score_mean, score_max: of those boxes, 0 if none.
    height_mean_px: 0 if none. heat: mean of the centre map, 0..1. embedding: pooled backbone features, any length.
    fingerprint: 8 x 8 means of luminance in 1/256 grey level, row by row, 16 bits each (big-endian); empty where not measured.
    """

    brightness: Share
    contrast: Share
    sharpness: Share
    people: Count
    score_mean: Share
    score_max: Share
    height_mean_px: Annotated[float, Meta(ge=0.0)]
    heat: Share
    embedding: tuple[float, ...] = ()
    fingerprint: Annotated[bytes, Meta(max_length=128)] = b""


class InputScores(Struct, frozen=True, kw_only=True):
    """Cheap cues of adversarial input, measured by the worker against the weights `reference_digest`.

    inconsistency: how far the centre map moves in a second look at the picture, 0..1; None where this frame was not sampled.
    largest, signed, weak, heat, high_pass, blot: what the same second look tells (`inference.service.cues.Cues`); None where it
    was not taken, and in what older workers said. The reference is always the context's normal model, also while the safe one
    serves, so that calm means: the normal model would be safe again.
    """

    reference_digest: Digest
    inconsistency: Share | None = None
    largest: Share | None = None
    signed: Annotated[float, Meta(ge=-1.0, le=1.0)] | None = None
    weak: Share | None = None
    heat: Share | None = None
    high_pass: Share | None = None
    blot: Share | None = None


class Timings(Struct, frozen=True, kw_only=True):
    """Where one frame's time went in the worker, in milliseconds; batch times are shared out evenly."""

    infer_ms: Annotated[float, Meta(ge=0.0)]
    scores_ms: Annotated[float, Meta(ge=0.0)]
    decode_ms: Annotated[float, Meta(ge=0.0)] = 0.0


class Comparison(Struct, frozen=True, kw_only=True):
    """What a second model found in a frame beside the one that answered, which `Detections` names.

    In shadow the second is the candidate and the model in service answered; where a canary answered, the second is the model that
    it is to follow. All but the agreement is the second's. agreement: F1 of the two sets of boxes at IoU 0.5, 1 if both are empty.
    score_mean: 0 without boxes.
    """

    weights_digest: Digest
    people: Count
    score_mean: Share
    agreement: Share
    infer_ms: Annotated[float, Meta(ge=0.0)]


class Detections(Event, frozen=True, kw_only=True, tag="kerbwatch.detections"):
    """What the worker found in one frame, and which weights it asked. `time` is when it was judged."""

    camera_id: Name
    context: Context
    epoch: Count
    sequence: Count
    frame_id: str
    frame_partition: Count
    frame_offset: Count
    camera_time: UtcTime
    boxes: tuple[Box, ...]
    weights_digest: Digest
    mode: Mode
    decision_id: str
    features: Features
    scores: InputScores
    timings: Timings
    compared: Comparison | None = None
    refused: Count = 0
    """Messages under this camera's name that were refused since the frame before."""


class Offset(Struct, frozen=True, array_like=True):
    """A place in a topic: partition and the next offset to be read."""

    partition: Count
    offset: Count


class Serving(Struct, frozen=True, kw_only=True):
    """Which weights a worker serves a context with, since which decision, from which frame offsets on.

    `from_offsets`: no frame before was judged with these weights. Cameras take turns, so some frames from there on may have been
    judged before the change, with the former ones; each frame's detections name theirs.
    `candidate_digest`: the candidate that is loaded and judges or serves as asked; None without one, while it is being loaded, and
    for good once it failed.
    """

    context: Context
    weights_digest: Digest
    mode: Mode
    decision_id: str
    from_offsets: tuple[Offset, ...]
    candidate_digest: Digest | None = None


class WorkerStatus(Event, frozen=True, kw_only=True, tag="kerbwatch.worker-status"):
    """A worker's heartbeat, sent at every change and every few seconds; silence means a dead worker."""

    worker_id: Name
    health: Health
    serving: tuple[Serving, ...]


class Evidence(Struct, frozen=True, array_like=True):
    """One number behind a finding, by name."""

    name: str
    value: float


class Diagnosis(Struct, frozen=True, kw_only=True):
    """What kind of trouble a camera is in, how sure that is, and up to three sentences that say why, the strongest first."""

    cause: Cause
    confidence: Share
    evidence: Annotated[tuple[Annotated[str, Meta(max_length=300)], ...], Meta(max_length=3)]


class Signal(Event, frozen=True, kw_only=True, tag="kerbwatch.signal"):
    """One detector's finding on one camera. `window` runs from the first suspicious frame to the last one seen.

    A RAISED window starts right after the last frame that was scored clean, so that it holds every frame that may be bad.
    """

    kind: Kind
    phase: Phase
    severity: Severity
    camera_id: Name
    context: Context
    detector: str
    window: Window
    weights_digest: Digest | None
    evidence: tuple[Evidence, ...] = ()
    message: str = ""
    diagnosis: Diagnosis | None = None


class IncidentChange(Event, frozen=True, kw_only=True, tag="kerbwatch.incident-change"):
    """Every change of an incident, for consoles and notifiers; the database holds the truth."""

    incident_id: str
    kind: Kind
    camera_id: Name
    context: Context
    state: str
    severity: Severity
    actor: str
    what: str


class Candidate(Struct, frozen=True, kw_only=True):
    """A model on its way into service (paper 4.6, staged deployment).

    SHADOW: judges one frame in so many beside the serving model, and its answer is only compared. CANARY: serves the cameras whose
    `rollout_share(rollout_id, camera_id)` is below `share`; the others keep the serving model.
    """

    weights_digest: Digest
    phase: RolloutPhase
    share: Share
    rollout_id: str


class ModelState(Event, frozen=True, kw_only=True, tag="kerbwatch.model-state"):
    """The weights that every worker must serve a context with (compacted: the last one counts).

    `reference_digest` is the context's normal model, against which input is scored; `safe_digest` its safe-mode model, which
    workers keep loaded so that they can switch to it at once. `decision_id` asked for this.
    """

    context: Context
    weights_digest: Digest
    mode: Mode
    reference_digest: Digest
    decision_id: str
    reason: str
    candidate: Candidate | None = None
    safe_digest: Digest | None = None


class QuarantineOrder(Event, frozen=True, kw_only=True, tag="kerbwatch.quarantine-order"):
    """Set these frames aside, encrypted, and keep them out of every training set (paper 4.6)."""

    decision_id: str
    incident_id: str
    camera_id: Name
    context: Context
    window: Window
    reason: str


class AuditEntry(Event, frozen=True, kw_only=True, tag="kerbwatch.audit-entry"):
    """Who did what to what, why, and what caused it (SC-10, paper 4.5.6). Written once, never changed."""

    actor: str
    action: str
    target: str
    why: str
    cause_id: str
    signed: str = ""
    """What a person signed, word for word (`responders.people.acts.Statement`), and the signature (base64); "" without a person."""
    signature: str = ""


class DeadLetter(Event, frozen=True, kw_only=True, tag="kerbwatch.dead-letter"):
    """A message that could not be used: where it lay, why it was refused, and the bytes for a later replay.

    `body` is empty where it exceeded the limit that is kept; `body_bytes` always says how large it was.
    """

    topic: str
    partition: Count
    offset: Count
    reason: str
    cause: str
    body_bytes: Count
    key: bytes = b""
    headers: tuple[tuple[str, bytes], ...] = ()
    body: bytes = b""
