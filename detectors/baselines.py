"""Where a baseline came from: which frames taught it, under which weights, and what it was when it was learned.

Decides what is written down about a baseline, and which ones a frame completed; refuses to touch what a detector learned. The
watch keeps an `Origin` beside each detector's state; the watcher puts what is complete into the audit log, and
`kerbwatch baselines` lists it. A baseline that was learned before this was kept has no origin: none is made up for it.
Topic: detections in (through `watch.py`), audit out.

Source: issue "Drift" (baselines saved with provenance); paper 4.5.6 (records, SC-10).
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any, NotRequired, TypedDict

import msgspec

from detectors.base import State, Status
from streams.events import Context, Count, Detections, Digest, UtcTime, event_id

LEARNED = "baseline.learned"
"""The audit log's word for it."""


class Mark(TypedDict):
    """One frame of the camera."""

    epoch: int
    sequence: int
    time: str  # ISO 8601, the camera's


class Origin(TypedDict):
    """Beside a detector's state."""

    first: Mark
    last: Mark
    digest: NotRequired[str]  # of the state, once the detector began to judge


class Taught(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frame that taught a baseline: the camera's start and count, and its time."""

    epoch: Count
    sequence: Count
    time: UtcTime


class Baseline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One detector's baseline at the moment when it began to judge.

    weights_digest: whose view it is; None for what belongs to the picture alone. detector: with all its parameters. first, last: of
    the frames that taught it until then (a baseline goes on learning a little while all is calm). digest: SHA-256 of its state.
    """

    camera_id: str
    context: Context
    weights_digest: Digest | None
    detector: str
    first: Taught
    last: Taught
    digest: Digest

    @property
    def id(self) -> str:
        """The same for the same baseline, however often it is told."""
        at = (self.first.epoch, self.first.sequence)
        return event_id("baseline", self.camera_id, self.context, self.weights_digest or "", self.detector, *at)


def follow(origin: Origin | None, event: Detections, state: State, status: Status, *, new: bool) -> Origin | None:
    """The origin after one more frame.

    Args:
        origin: before it; None if nothing is known.
        event: the frame.
        state: the detector's, after the frame.
        status: what it said of the frame.
        new: whether this was the first frame that it ever saw.
    """
    if status is Status.REFUSED or (origin is None and not new) or (origin is not None and "digest" in origin):
        return origin
    here: Mark = {"epoch": event.epoch, "sequence": event.sequence, "time": event.camera_time.isoformat()}
    before: Origin = {"first": here, "last": here} if origin is None else origin
    if status is Status.LEARNING:
        return {**before, "last": here}
    return {**before, "digest": sha256(msgspec.json.encode(state, order="deterministic")).hexdigest()}


def completed(camera_id: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Baseline]:
    """The baselines that are complete in the watch's state `after` and were not in `before`, the state one frame earlier."""
    known: Mapping[str, Any] = before.get("baselines", {})
    for key, cells in after["baselines"].items():
        old: Mapping[str, Any] = known.get(key, {})
        if cells is old:
            continue
        for detector, cell in cells.items():
            origin = cell.get("origin")
            if origin is None or "digest" not in origin or "digest" in old.get(detector, {}).get("origin", {}):
                continue
            context, weights = key.split("/")
            yield msgspec.convert(
                {
                    "camera_id": camera_id, "context": context, "weights_digest": weights if len(weights) == _DIGITS else None,
                    "detector": detector, **origin,
                },
                Baseline,
            )  # fmt: skip


def versions(found: list[tuple[datetime, Baseline]]) -> list[tuple[int, datetime, Baseline]]:
    """Each with its version, oldest first: how many of the same camera, context, weights and detector there are."""
    count: dict[tuple[str, str, str | None, str], int] = {}
    out = []
    for told, one in sorted(found, key=lambda pair: pair[0]):
        key = (one.camera_id, one.context, one.weights_digest, one.detector)
        count[key] = count.get(key, 0) + 1
        out.append((count[key], told, one))
    return out


_DIGITS = 64  # of a digest
