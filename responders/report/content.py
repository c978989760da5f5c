"""What an incident's report says, worked out once for every form that it is written in.

It decides the words, the clocks and what is left to do; the first screen answers four questions: what happened, since when, what
was done, is it over. It refuses to call an incident over that is not. Pure; no topic feeds it (`streams.console.report` does).

Source: paper 4.7 (incident analysis), NIST SP 800-61r3 (reporting, improvement).
"""

import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from itertools import groupby
from typing import Any

import msgspec

from responders.engine.records import Change
from responders.proof.material import FrameFact, Logged, Material
from responders.report.deadlines import Deadline, Due, aware, dues
from responders.report.held_back import LISTED, HeldBack, held_back
from streams.events import Box, Detections, Diagnosis, Mode, Phase, Signal
from streams.topics import DETECTIONS, SIGNALS

_SHORT = 12


@dataclass(frozen=True)
class Clock:
    """A moment of the incident, None where it has not come; `after_s` counts from the impact's start."""

    name: str
    at: datetime | None
    after_s: float | None
    note: str = ""


@dataclass(frozen=True)
class Point:
    """One frame on the plot: seconds after the impact's start, score 0..1 (None unscored), people found."""

    after_s: float
    score: float | None
    people: int
    safe: bool
    suspicious: bool


@dataclass(frozen=True)
class Cause:
    """What one detector said first, in words and numbers."""

    detector: str
    words: str
    numbers: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Effect:
    """How many people were missed in one period, where the truth is known (Reasonable setup, at the serving threshold).

    `missed` is a share (0..1), None without people; `false_per_frame` counts boxes on nobody.
    """

    period: str
    frames: int
    people: int
    missed: float | None
    false_per_frame: float


@dataclass(frozen=True)
class Snapshot:
    """One frame with what the model found in it; `picture` (JPEG or PNG) only for who may open the quarantine."""

    label: str
    caption: str
    size_px: tuple[int, int]
    boxes: tuple[Box, ...]
    picture: bytes | None = None


@dataclass(frozen=True)
class Served:
    """Weights that judged frames of the context around the incident."""

    digest: str
    mode: str
    frames: int
    first_at: datetime
    last_at: datetime
    suspicious: int


@dataclass(frozen=True)
class Line:
    """The timeline, repeats of one act in a row taken together."""

    at: datetime
    actor: str
    action: str
    what: str
    times: int


@dataclass(frozen=True)
class Content:
    """The whole report. Times are UTC. `about` is its context and severity; `more_samples` are not listed."""

    incident_id: str
    title: str
    about: str
    severity: str
    status: str
    over: bool
    answers: tuple[tuple[str, str], ...]
    clocks: tuple[Clock, ...]
    dues: tuple[Due, ...]
    aware: str
    points: tuple[Point, ...]
    snapshots: tuple[Snapshot, ...]
    effects: tuple[Effect, ...]
    diagnosis: Diagnosis | None
    causes: tuple[Cause, ...]
    samples: tuple[HeldBack, ...]
    more_samples: int
    served: tuple[Served, ...]
    timeline: tuple[Line, ...]
    follow_ups: tuple[str, ...]
    provenance: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    written_at: datetime


class _Words(msgspec.Struct, frozen=True):
    title: str
    what: str = ""
    follow_ups: tuple[str, ...] = ()


def compose(
    material: Material,
    duties: Sequence[Deadline],
    now: datetime,
    *,
    snapshots: Sequence[Snapshot] = (),
    effects: Sequence[Effect] = (),
) -> Content:
    """The report's content; `snapshots` and `effects` come from whoever may open pictures and knows the truth."""
    short, incident = material.shown.incident, material.incident
    begin, words = short.impact_at or short.detected_at, _words(str(short.kind))
    return Content(
        incident_id=short.id,
        title=f"{words.title}: {_subject(material)}",
        about=f"{short.context}, severity {short.severity}",
        severity=short.severity,
        status=_status(material),
        over=incident.closed_at is not None,
        answers=_answers(material, words),
        clocks=_clocks(material),
        dues=dues(material.incident, duties, now),
        aware=aware(material.incident),
        points=tuple(_point(frame, begin) for frame in material.frames),
        snapshots=tuple(snapshots),
        effects=tuple(effects),
        diagnosis=_diagnosis(material.events),
        causes=_causes(material.events),
        samples=held_back(material.samples),
        more_samples=max(0, len(material.samples) - LISTED),
        served=_served(material),
        timeline=_timeline(material.shown.timeline),
        follow_ups=words.follow_ups,
        provenance=_provenance(material),
        missing=material.missing,
        written_at=now,
    )


def detections_of(events: Sequence[Logged]) -> dict[str, Detections]:
    """What the worker found, by frame id."""
    found = (msgspec.json.decode(one.value, type=Detections) for one in events if one.topic == DETECTIONS.name)
    return {seen.frame_id: seen for seen in found}


def utc(moment: datetime | None) -> str:
    """To the second; a dash for none."""
    return "\N{EN DASH}" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def span(seconds: float) -> str:
    """A length of time as people say it."""
    size = abs(seconds)
    if size < 60:  # noqa: PLR2004 - seconds of a minute
        return f"{size:.1f} s"
    if size < 3600:  # noqa: PLR2004 - of an hour
        return f"{size // 60:.0f} min {size % 60:.0f} s"
    return f"{size // 3600:.0f} h {size % 3600 // 60:.0f} min"


def _status(material: Material) -> str:
    incident = material.incident
    if incident.closed_at is not None:
        return f"over: {str(incident.resolution).replace('_', ' ')}"
    if incident.contained_at is not None:
        return f"still open: {incident.state}"
    # Without a safe model asked for, nothing was contained, whatever state the step bears.
    return f"NOT CONTAINED: {incident.state}" if incident.needs_safe else f"still open: at step {incident.step.name}"


def _subject(material: Material) -> str:
    """What the incident is about, in words."""
    name = material.shown.incident.camera
    return f"camera {name}" if material.of_camera else str(_known()["sources"].get(name, name))


def _answers(material: Material, words: _Words) -> tuple[tuple[str, str], ...]:
    short, incident = material.shown.incident, material.incident
    first = material.shown.timeline[0].what if material.shown.timeline else str(short.kind)
    said = f"{words.what} First sign: {first.rstrip('.')}.".strip()
    since = f"Detected at {utc(short.detected_at)} UTC"
    if short.impact_at:
        since = f"First suspicious frame at {utc(short.impact_at)} UTC; d{since[1:]}"
    elif material.of_camera:
        since = f"The first suspicious frame is not on record; d{since[1:]}"
    since += f", {span(short.seconds_to_detect)} later." if short.seconds_to_detect is not None else "."
    done = []
    if material.shown.frames_quarantined:
        done.append(f"{material.shown.frames_quarantined} frames set aside")
    if material.samples:
        done.append(f"{len(material.samples)} training samples held back")
    if incident.contained_at is not None:
        done.append(f"safe model confirmed by every worker after {_after(short.seconds_to_contain)}")
    elif incident.needs_safe:
        done.append("safe model asked for, not yet confirmed by every worker")
    if incident.recovered_at is not None:
        done.append(f"normal model back after {_after(short.seconds_to_recover)}")
    done.append(f"acknowledged by {incident.acknowledged_by}" if incident.acknowledged_by else "nobody has acknowledged it")
    if incident.closed_at is not None:
        over = f"Yes: closed at {utc(incident.closed_at)} UTC as {str(incident.resolution).replace('_', ' ')}."
        over += f" It came back {incident.relapses} times on the way." if incident.relapses else ""
    else:
        over = f"No: it stands at step {incident.step.name}."
    if incident.escalated:
        over += f" Escalated: {incident.escalated}."
    return (
        ("What happened?", said),
        ("Since when?", since),
        ("What was done?", "; ".join(done)[:1].upper() + "; ".join(done)[1:] + "."),
        ("Is it over?", over),
    )


def _after(seconds: float | None) -> str:
    return "an unknown time" if seconds is None else span(seconds)


def _clocks(material: Material) -> tuple[Clock, ...]:
    short, incident = material.shown.incident, material.incident
    moments = (
        ("impact start", short.impact_at, ""),
        ("detected", short.detected_at, ""),
        ("acknowledged", incident.acknowledged_at, incident.acknowledged_by),
        ("contained", incident.contained_at, ""),
        ("recovered", incident.recovered_at, ""),
        ("closed", incident.closed_at, str(incident.resolution or "").replace("_", " ")),
    )

    def after(moment: datetime | None) -> float | None:
        return None if moment is None or short.impact_at is None else (moment - short.impact_at).total_seconds()

    def is_due(name: str) -> bool:
        """What is about no camera has no first frame, and is contained only where a safe model is asked for."""
        if material.of_camera:
            return True
        return incident.needs_safe if name in {"contained", "recovered"} else name != "impact start"

    return tuple(Clock(name, moment, after(moment), note) for name, moment, note in moments if moment is not None or is_due(name))


def _point(frame: FrameFact, begin: datetime) -> Point:
    return Point(
        after_s=(frame.camera_time - begin).total_seconds(),
        score=frame.inconsistency,
        people=frame.people,
        safe=frame.mode == Mode.SAFE,
        suspicious=frame.suspicious,
    )


def _signals(events: Sequence[Logged]) -> list[Signal]:
    signals = (msgspec.json.decode(one.value, type=Signal) for one in events if one.topic == SIGNALS.name)
    return sorted(signals, key=lambda signal: signal.time)


def _diagnosis(events: Sequence[Logged]) -> Diagnosis | None:
    """What triage was surest of, of all that it said; None where it said nothing."""
    said = [signal.diagnosis for signal in _signals(events) if signal.diagnosis is not None and signal.phase is not Phase.CALM]
    return max(said, key=lambda one: one.confidence, default=None)


def _causes(events: Sequence[Logged]) -> tuple[Cause, ...]:
    first: dict[str, Signal] = {}
    for signal in _signals(events):
        first.setdefault(signal.detector, signal)
    return tuple(
        Cause(
            name, signal.message or f"{signal.kind}, severity {signal.severity}", tuple((e.name, e.value) for e in signal.evidence)
        )
        for name, signal in first.items()
    )


def _served(material: Material) -> tuple[Served, ...]:
    suspicious: Counter[tuple[str, str]] = Counter()
    for frame in material.frames:
        suspicious[frame.decision_id, frame.weights_digest] += frame.suspicious
    return tuple(
        Served(
            one.weights_digest[:_SHORT],
            one.mode,
            one.frames,
            one.first_at,
            one.last_at,
            suspicious[one.decision_id, one.weights_digest],
        )
        for one in material.judged
    )


def _timeline(changes: Sequence[Change]) -> tuple[Line, ...]:
    lines = []
    for (actor, action), run in groupby(changes, key=lambda change: (change.actor, change.action)):
        same = list(run)
        what = same[0].what if len(same) == 1 else f"{same[0].what} \N{HORIZONTAL ELLIPSIS} {same[-1].what}"
        lines.append(Line(same[0].time, actor, action, what, len(same)))
    return tuple(lines)


def _known() -> dict[str, Any]:
    return tomllib.loads(files("responders.report").joinpath("kinds.toml").read_text(encoding="utf-8"))


def _words(kind: str) -> _Words:
    known = _known()
    found = msgspec.convert(known.get(kind, {"title": kind.replace("_", " ").capitalize()}), _Words)
    return msgspec.structs.replace(found, follow_ups=(*found.follow_ups, *known["always"]))


def _provenance(material: Material) -> tuple[tuple[str, str], ...]:
    frames = material.frames
    with_digest = sum(frame.digest is not None for frame in frames)
    sealed = sum(frame.sealed_sha256 is not None for frame in frames)
    places = sorted({(one.topic, one.partition) for one in material.events})
    by_place = {place: [one.offset for one in material.events if (one.topic, one.partition) == place] for place in places}
    lying = ", ".join(f"{topic}/{number} {min(found)}\N{EN DASH}{max(found)}" for (topic, number), found in by_place.items())
    seen = (
        (
            "frames",
            f"{len(frames)} looked at, {sum(frame.suspicious for frame in frames)} suspicious, {sealed} sealed in quarantine",
        ),
        ("pictures", f"{with_digest} known by SHA-256, signed by the camera when they were taken in"),
    )
    known = sum(bool(one.picture_sha256) for one in material.samples)
    held = (("samples", f"{len(material.samples)} held back by vetting, {known} pictures of them known by SHA-256"),)
    return (
        ("camera" if material.of_camera else "source", f"{material.incident.camera_id}, context {material.incident.context}"),
        *(seen if material.of_camera else held if material.samples else ()),
        ("events", f"{len(material.events)} by offset: {lying}" if lying else "none: the log was not at hand"),
        ("playbook", f"{material.shown.playbook} ({', '.join(material.shown.techniques) or 'no technique named'})"),
    )
