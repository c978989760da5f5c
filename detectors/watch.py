"""One camera's watch: a judged frame in, signals out, and the camera's whole memory beside it.

Decides which baselines a frame belongs to, runs the traffic rules and the catalogue's detectors on it and says when a finding
begins, goes on and ends; refuses to judge a frame twice, and to learn or judge drift from frames that are under attack, frozen,
replayed or flooding: that explains the drift, also what drift detectors made of its first frames (`explained.py`).
Topic: detections in, signals out.

Pure: `watch(state, event)` touches neither its arguments nor a clock. The agent sends the signals BEFORE it stores the state;
killed in between it meets the old state again and sends the same signals with the same ids, and a repeat after the storing changes
nothing. State is plain JSON of bounded size: baselines by context and weights, the most recent kept.

Source: README, promises 1 and 5.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NotRequired, TypedDict, cast

from msgspec.structs import replace as with_fields

from detectors.base import Json, Observation, Status, Verdict
from detectors.baselines import follow as taught_by
from detectors.catalogue import RUNNING, Baseline, Entry
from detectors.drift.explained import Cell, Explanation, Finding
from detectors.features import ATTACK, observations, sighting
from detectors.resting import Judged, keeps_from_learning, rest
from detectors.traffic.rules import CHAFF, GUARDS, Guard
from detectors.traffic.sighting import Sighting
from detectors.triage.causes import diagnose
from detectors.triage.lately import follow
from streams.errors import BrokenContract
from streams.events import Context, Detections, Diagnosis, Evidence, Kind, Phase, Signal, Window, event_id

Watching = Entry | Guard
Heard = Callable[[Watching, Verdict], None]

VERSION = 1
KEPT_BASELINES = 12  # (context, digest) pairs a camera remembers: two contexts, some normal and safe weights each
KEPT_EPOCHS = 4  # camera restarts whose late repeats are still recognised
SURE_AFTER = 6  # frames in a row with another diagnosis than was told, until it is told


class _Told(TypedDict):
    """Which diagnosis went out with the last signals."""

    cause: str
    other: int  # frames in a row that another one was right


class _Memory(TypedDict):
    """One camera's memory."""

    version: int
    epoch: int
    offset: int  # added to this epoch's sequences, so that detectors see them grow over restarts
    seen: dict[str, int]  # last sequence by epoch, oldest epoch first
    baselines: dict[str, dict[str, Cell]]  # by context and digest, then by detector
    recent: list[str]  # baselines, the longest unused first
    camera: NotRequired[dict[str, Cell]]  # by traffic rule: what belongs to the camera, whatever its context and weights
    lately: NotRequired[dict[str, Json]]  # `detectors.triage.lately`'s
    told: NotRequired[_Told | None]  # None while nothing is open
    resting: NotRequired[dict[str, int]]  # `detectors.resting`'s
    shown: NotRequired[str]  # digest of the last picture's fingerprint; "" where it had none


@dataclass(frozen=True)
class _Place:
    """Where a signal comes from and how its sequences are told: those of the frame's epoch, from 0."""

    event: Detections
    baseline: str
    epoch: int
    offset: int
    source: str
    again: bool = False
    """Whether what is open is to be told again, because its diagnosis is another."""

    def window(self, first: int, last: int) -> Window:
        first = max(0, first - self.offset)
        return Window(epoch=self.epoch, first_sequence=first, last_sequence=max(first, last - self.offset))


def watch(
    state: dict[str, Json],
    event: Detections,
    *,
    entries: Sequence[Entry] = RUNNING,
    guards: Sequence[Guard] = GUARDS,
    source: str = "watcher/watch",
    heard: Heard = lambda _entry, _verdict: None,
) -> tuple[dict[str, Json], tuple[Signal, ...]]:
    """One frame further for one camera.

    Args:
        state: what the last call returned for this camera, or {} before its first frame; left untouched.
        event: the judged frame. A frame seen before returns the same state and no signals.
        entries: the detectors; those of kind evasion first.
        guards: the traffic rules; the one against chaff watches all of them and the detectors, last.
        source: who signs the signals, "role/name".
        heard: told every verdict, for metrics; it must not raise.

    Returns:
        The camera's new state and the signals, in the order in which to send them.

    Raises:
        BrokenContract: the state was written by another version of this code.
    """
    memory = _opened(state, event)
    last = memory["seen"].get(str(event.epoch), -1)
    if event.sequence <= last:
        return state, ()
    after: _Memory = {**memory, "baselines": dict(memory["baselines"])}
    signals: list[Signal] = []
    if event.epoch != memory["epoch"]:
        signals += _change_epoch(after, event, (*entries, *guards, CHAFF), source)
    after["seen"] = {**after["seen"], str(event.epoch): event.sequence}
    after["lately"], lately = follow(memory.get("lately", {}), event, learn=memory.get("told") is None)
    verdicts: dict[str, Verdict] = {}

    def hear(watching: Watching, verdict: Verdict) -> None:
        verdicts[watching.key] = verdict
        heard(watching, verdict)

    watched: list[tuple[Watching, Cell | None]] = []
    seen = replace(sighting(event, after["offset"]), lately=lately)
    explained = Explanation(seen.sequence)
    for guard in guards:
        signal = _guard(guard, after, seen, event, source, hear)
        signals += [signal] if signal is not None else []
        watched.append((guard, after["camera"][guard.key]))
        explained.add(after["camera"][guard.key] if guard.explains else None)
    readings, after["shown"] = _readings(event, after["offset"], memory.get("shown", ""))
    used = []
    lesson = not keeps_from_learning(after["baselines"], event)
    for entry in entries:
        key = _baseline(entry, event)
        cells = after["baselines"].get(key, {})
        place = _place(after, event, key, source)
        cell, signal = _step(entry, cells.get(entry.key), readings.get(entry.reads), explained, place, hear, lesson=lesson)
        if cell is not None:
            after["baselines"][key] = {**cells, entry.key: cell}
        signals += [signal] if signal is not None else []
        used.append(key)
        watched.append((entry, cell))
        if entry.kind is Kind.EVASION:
            explained.add(cell)
            explained.suspect(entry.detector, cell)
    signals += _rest(after, event, watched, verdicts, source)
    raised = tuple(signal.detector for signal in signals if signal.phase is Phase.RAISED)
    signal = _guard(CHAFF, after, replace(seen, raised=raised), event, source, hear)
    signals += [signal] if signal is not None else []
    watched.append((CHAFF, after["camera"][CHAFF.key]))
    open_now = [one for one, cell in watched if cell is not None and cell["finding"] is not None]
    found = {one.name: verdicts[one.key].leads if one.key in verdicts else "" for one in open_now}
    diagnosis = diagnose(found, lately) if found else None
    after["told"] = _told(memory.get("told"), diagnosis, signals) if found else None
    _forget(after, used)
    return cast("dict[str, Json]", after), tuple(
        signal if signal.phase is Phase.CALM else with_fields(signal, diagnosis=diagnosis) for signal in signals
    )


def _step(  # noqa: PLR0917 only `watch` calls it
    entry: Entry,
    cell: Cell | None,
    reading: Observation | None,
    explained: Explanation,
    place: _Place,
    heard: Heard,
    *,
    lesson: bool,
) -> tuple[Cell | None, Signal | None]:
    """One detector, one frame: its cell afterwards, and what is to be said. `lesson`: whether what it sees may become its usual."""
    if entry.kind is Kind.DRIFT and explained.since is not None:
        return _pardon(entry, cell, explained, place)
    learned = cell is not None and "digest" in cell.get("origin", {"digest": ""})  # an older state's has no origin
    if reading is None or not (lesson or learned or entry.baseline is not Baseline.SERVING):
        return cell, None
    return _look(entry, cell, reading, place, heard, hold=entry.kind is Kind.DRIFT and explained.suspected)


def _rest(
    after: _Memory, event: Detections, watched: Sequence[tuple[Watching, Cell | None]], verdicts: dict[str, Verdict], source: str
) -> list[Signal]:
    """Findings under weights that did not judge this frame: what is to be said of those that are over."""
    judged = [(one, Judged(verdicts.get(one.key), cell)) for one, cell in watched if isinstance(one, Entry)]
    counts, over = rest(after["baselines"], after.get("resting", {}), event, judged)
    if counts or "resting" in after:
        after["resting"] = counts
    signals = []
    for one in over:
        cells = {key: cell for key, cell in after["baselines"][one.baseline].items() if key != one.entry.key}
        after["baselines"][one.baseline] = cells if one.cell is None else {**cells, one.entry.key: one.cell}
        if one.told:
            place = _place(after, event, one.baseline, source)
            window = place.window(one.finding["since"], one.finding["told"])
            signals.append(with_fields(_signal(one.entry, Phase.CALM, window, None, place), message=one.words))
    return signals


def _readings(event: Detections, offset: int, shown: str) -> tuple[dict[str, Observation], str]:
    """The frame's readings, and its picture's digest; `shown`: the last one's. Twenty copies of a strange picture are one."""
    readings, told = observations(event, offset), event.features.fingerprint
    digest = hashlib.blake2b(told, digest_size=8).hexdigest() if told else ""
    if digest and digest == shown:
        readings.pop(ATTACK, None)
    return readings, digest


def _pardon(entry: Entry, cell: Cell | None, explained: Explanation, place: _Place) -> tuple[Cell | None, Signal | None]:
    """A drift detector in a frame that is explained: its cell afterwards, and the end of an alarm that is taken back."""
    if cell is None:
        return None, None
    after, finding = explained.pardon(entry.detector, cell), cell["finding"]
    if finding is None or after["finding"] is not None:
        return after, None
    return after, _signal(entry, Phase.CALM, place.window(finding["since"], finding["told"]), None, place)


def _told(before: _Told | None, diagnosis: Diagnosis | None, signals: Sequence[Signal]) -> _Told:
    """Which diagnosis is known outside, after this frame's signals."""
    cause = "" if diagnosis is None else str(diagnosis.cause)
    if before is None or any(signal.phase is not Phase.CALM for signal in signals):
        return {"cause": cause, "other": 0}
    return {**before, "other": 0 if cause == before["cause"] else before["other"] + 1}


def _place(after: _Memory, event: Detections, baseline: str, source: str) -> _Place:
    told = after.get("told")
    again = told is not None and told["other"] >= SURE_AFTER
    return _Place(event, baseline, event.epoch, after["offset"], source, again)


def _guard(  # noqa: PLR0917 only `watch` calls it
    guard: Guard, after: _Memory, seen: Sighting, event: Detections, source: str, heard: Heard
) -> Signal | None:
    """One traffic rule, one frame: its cell is put into `after`; what is to be said."""
    cells = after.get("camera", {})
    cell = cells.get(guard.key)
    finding = cell["finding"] if cell is not None else None
    context = finding.get("context", event.context) if finding is not None else event.context
    place = _place(after, event, f"{context}/{Baseline.PICTURE}", source)
    state, verdict = guard.rule.step(guard.rule.start() if cell is None else cell["state"], seen)
    heard(guard, verdict)
    finding, signal = _tell(guard, finding, seen.sequence, (None, verdict), place)
    if finding is not None:
        finding = {**finding, "context": context}
    after["camera"] = {**cells, guard.key: {"state": state, "finding": finding}}
    return signal


def _opened(state: dict[str, Json], event: Detections) -> _Memory:
    if not state:
        return {"version": VERSION, "epoch": event.epoch, "offset": 0, "seen": {}, "baselines": {}, "recent": []}
    if state.get("version") != VERSION:
        raise BrokenContract(
            f"watch state of camera {event.camera_id} has version {state.get('version')}, this code reads {VERSION}; "
            "clear the watcher's table, so that baselines are learned anew"
        )
    return cast("_Memory", state)


def _baseline(entry: Entry, event: Detections) -> str:
    match entry.baseline:
        case Baseline.PICTURE:
            return f"{event.context}/{Baseline.PICTURE}"
        case Baseline.SERVING:
            return f"{event.context}/{event.weights_digest}"
        case Baseline.REFERENCE:
            return f"{event.context}/{event.scores.reference_digest}"


def _change_epoch(after: _Memory, event: Detections, watching: Sequence[Watching], source: str) -> list[Signal]:
    """A camera started again: baselines stay, sequences go on from where they were, and what was not told yet is."""
    old = after["epoch"]
    newest = after["seen"].get(str(old), 0) + after["offset"]
    signals = []
    by_key = {one.key: one for one in watching}

    def told(cells: dict[str, Cell], baseline: str) -> dict[str, Cell]:
        changed = dict(cells)
        for key, cell in cells.items():
            finding = cell["finding"]
            if finding is None or newest <= finding["told"] or key not in by_key:
                continue
            where = f"{finding['context']}/{Baseline.PICTURE}" if "context" in finding else baseline
            place = _Place(event, where, old, after["offset"], source)
            changed[key] = {**cell, "finding": {**finding, "told": newest, "waiting": 0}}
            signals.append(_signal(by_key[key], Phase.ONGOING, place.window(finding["since"], newest), None, place))
        return changed

    after["baselines"] = {name: told(cells, name) for name, cells in after["baselines"].items()}
    after["camera"] = told(after.get("camera", {}), "")
    kept = list(after["seen"].items())[-(KEPT_EPOCHS - 1) :]
    after["seen"] = {epoch: last for epoch, last in kept if epoch != str(event.epoch)}
    after["epoch"], after["offset"] = event.epoch, newest + 1 - event.sequence
    return signals


def _look(
    entry: Entry, cell: Cell | None, reading: Observation, place: _Place, heard: Heard, *, hold: bool
) -> tuple[Cell, Signal | None]:
    """One detector, one reading: its cell afterwards, and what is to be said; `hold`: nothing new for now."""
    before: Cell = {"state": entry.detector.start(), "finding": None} if cell is None else cell
    state, verdict = entry.detector.step(before["state"], reading)
    heard(entry, verdict)
    finding, signal = _tell(entry, before["finding"], reading.sequence, (reading, verdict), place)
    if hold and before["finding"] is None:
        finding, signal = None, None
    after: Cell = {"state": state, "finding": finding}
    origin = taught_by(before.get("origin"), place.event, state, verdict.status, new=cell is None)
    if origin is not None:
        after["origin"] = origin
    return after, signal


def _tell(
    entry: Watching, finding: Finding | None, now: int, seen: tuple[Observation | None, Verdict], place: _Place
) -> tuple[Finding | None, Signal | None]:
    """What a verdict makes of a finding, and what is to be said of it."""
    verdict = seen[1]
    if verdict.status is Status.REFUSED:
        return finding, None
    if finding is None:
        if verdict.status is not Status.ALARM:
            return None, None
        since = now if verdict.since_sequence is None else verdict.since_sequence
        return {"since": since, "told": now, "waiting": 0}, _signal(entry, Phase.RAISED, place.window(since, now), seen, place)
    if verdict.status is not Status.ALARM:
        return None, _signal(entry, Phase.CALM, place.window(finding["since"], finding["told"]), seen, place)
    waiting = finding["waiting"] + verdict.unusual
    # Told every so often, and once more at the first usual reading, so that the window ends right before it.
    until = now if verdict.unusual else now - 1
    due = waiting >= entry.remind or place.again if verdict.unusual else waiting > 0
    if not due:
        return {**finding, "waiting": waiting}, None
    signal = _signal(entry, Phase.ONGOING, place.window(finding["since"], until), seen, place)
    return {**finding, "told": until, "waiting": 0}, signal


def _forget(after: _Memory, used: Sequence[str]) -> None:
    """Keeps the baselines used last; one whose alarm is not over goes after all others."""
    recent = [key for key in after["recent"] if key not in used] + [key for key in dict.fromkeys(used) if key in after["baselines"]]
    while len(recent) > KEPT_BASELINES:
        idle = [key for key in recent if not any(cell["finding"] for cell in after["baselines"][key].values())]
        gone = (idle or recent)[0]
        recent.remove(gone)
        del after["baselines"][gone]
    after["recent"] = recent


def _signal(
    entry: Watching, phase: Phase, window: Window, seen: tuple[Observation | None, Verdict] | None, place: _Place
) -> Signal:
    event = place.event
    evidence: tuple[Evidence, ...] = ()
    if seen is not None:
        reading, verdict = seen
        measured = Evidence(entry.reads, verdict.score if reading is None else reading.value)
        score = () if reading is None else (Evidence("score", verdict.score),)
        evidence = (measured, *score, Evidence("evidence", verdict.evidence))
    context, digest = place.baseline.split("/")
    stretch = f"frames {window.first_sequence} to {window.last_sequence}"
    words = _words(entry, phase, stretch, "" if seen is None else seen[1].leads)
    return Signal(
        id=event_id("signal", entry.name, event.camera_id, window.epoch, window.first_sequence, phase, window.last_sequence),
        source=place.source,
        time=event.time,
        subject=event.camera_id,
        kind=entry.kind,
        phase=phase,
        severity=entry.severity,
        camera_id=event.camera_id,
        context=Context(context),
        detector=entry.name,
        window=window,
        weights_digest=None if digest == Baseline.PICTURE else digest,
        evidence=evidence,
        message=words,
    )


def _words(entry: Watching, phase: Phase, stretch: str, leads: str) -> str:
    if isinstance(entry, Guard):
        if phase is Phase.CALM:
            return f"{entry.calm}, after {stretch}"
        return f"{leads or entry.why}: {stretch}" if phase is Phase.RAISED else f"still: {leads or entry.why}: {stretch}"
    match phase:
        case Phase.RAISED:
            beside = f" ({leads})" if leads else ""
            return f"{entry.reads} is not what it used to be: {stretch}{beside}"
        case Phase.ONGOING:
            return f"{entry.reads} is still unusual: {stretch}"
        case Phase.CALM:
            return f"{entry.reads} is as it used to be again after {stretch}"
