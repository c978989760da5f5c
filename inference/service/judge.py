"""Judges accepted frames: which weights, which boxes, which features, and how strange the input looks.

It holds what each context is served with and turns frames into `Detections`. It knows no Kafka and no wall clock; what it obeys
(`ModelState`) and what it judges are passed in. Input is scored against the context's normal model also while the safe one serves:
calm must mean that the normal model would be safe again (paper 4.6, "safe mode" models).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from inference.service import cues
from inference.service.intake import Accepted
from inference.service.serving import View
from streams.errors import BrokenContract
from streams.events import Context, Detections, InputScores, ModelState, Timings, event_id
from streams.sources.base import Picture

# Clean town streets vary by 0.03 around their level and FGSM at 8/255 begins 0.05 above it; a leap too many costs one look.
_HOT_LEAP = 0.04
_HOT_RATIO = 1.2
_HOT_FRAMES = 12
_USUAL_SHARE = 0.1


@dataclass
class Sampler:
    """Which frames get the second look that an inconsistency score costs.

    One in `every`, and all of them for a while after a score that leaps above the camera's usual level. The level follows only
    scores that did not leap, so that an attack cannot become usual.
    """

    every: int
    _usual: dict[str, float] = field(default_factory=dict)
    _hot: dict[str, int] = field(default_factory=dict)

    def wants(self, camera_id: str, sequence: int) -> bool:
        """Whether this frame is to be scored."""
        return sequence % self.every == 0 or self._hot.get(camera_id, 0) > 0

    def saw(self, camera_id: str, score: float) -> None:
        """Take note of a score (0..1)."""
        usual = self._usual.get(camera_id, score)
        if score > max(usual + _HOT_LEAP, usual * _HOT_RATIO):
            self._hot[camera_id] = _HOT_FRAMES
        else:
            self._hot[camera_id] = max(0, self._hot.get(camera_id, 0) - 1)
            self._usual[camera_id] = usual + _USUAL_SHARE * (score - usual)


class Network(Protocol):
    """What judges: pictures of one size in, one view each out (`inference.service.serving.Served`)."""

    def look(self, pictures: Sequence[Picture]) -> list[View]:
        """Views in the order of the pictures (H x W x 3, RGB, 0..255)."""
        ...


@dataclass(frozen=True)
class _Assigned:
    state: ModelState
    served: Network
    reference: Network


@dataclass
class Judge:
    """`load` opens weights by digest (verified); `clock_s` is any steadily growing clock, for timings only."""

    load: Callable[[str], Network]
    source: str
    sampler: Sampler
    clock_s: Callable[[], float]
    _loaded: dict[str, Network] = field(default_factory=dict)
    _assigned: dict[Context, _Assigned] = field(default_factory=dict)

    def assign(self, state: ModelState) -> bool:
        """Serve `state.context` as it says from the next frame on. Returns False if it is served so already, or by a later order.

        A responder that was stalled may put an old order behind a newer one on the topic.

        Raises whatever loading raises (Tampered, Unavailable); the context then stays as it was.
        """
        now = self._assigned.get(state.context)
        if now is not None and (now.state.decision_id == state.decision_id or state.time < now.state.time):
            return False
        served, reference = self._open(state.weights_digest), self._open(state.reference_digest)
        self._assigned[state.context] = _Assigned(state, served, reference)
        self._forget_unused()
        return True

    def _open(self, digest: str) -> Network:
        if digest not in self._loaded:
            self._loaded[digest] = self.load(digest)
        return self._loaded[digest]

    def _forget_unused(self) -> None:
        used = {digest for each in self._assigned.values() for digest in (each.state.weights_digest, each.state.reference_digest)}
        self._loaded = {digest: served for digest, served in self._loaded.items() if digest in used}

    @property
    def states(self) -> tuple[ModelState, ...]:
        """What each context is served with now."""
        return tuple(each.state for each in self._assigned.values())

    def judge(self, frames: Sequence[Accepted], now: datetime) -> list[Detections]:
        """One batch, in the order given; frames of one context and size share a forward pass.

        Raises BrokenContract if a frame's context has no weights yet: the caller must wait for them before it reads frames.
        """
        found: dict[int, Detections] = {}
        groups: dict[tuple[Context, int, int], list[int]] = defaultdict(list)
        for number, accepted in enumerate(frames):
            height_px, width_px = accepted.picture.shape[:2]
            groups[accepted.frame.context, height_px, width_px].append(number)
        for (context, *_), members in groups.items():
            judged = self._judge_alike([frames[number] for number in members], context, now)
            found.update(zip(members, judged, strict=True))
        return [found[number] for number in range(len(frames))]

    def _judge_alike(self, frames: Sequence[Accepted], context: Context, now: datetime) -> list[Detections]:
        assigned = self._assigned.get(context)
        if assigned is None:
            raise BrokenContract(f"no weights are assigned to context {context}; run `kerbwatch setup`")
        started_s = self.clock_s()
        views = assigned.served.look([accepted.picture for accepted in frames])
        looked_s = self.clock_s()
        scores = self._score(frames, views, assigned)
        ended_s = self.clock_s()
        infer_ms = (looked_s - started_s) / len(frames) * 1e3
        scores_ms = (ended_s - looked_s) / len(frames) * 1e3
        return [
            _detections(
                accepted,
                view,
                assigned.state,
                inconsistency=score,
                timings=Timings(infer_ms=infer_ms, scores_ms=scores_ms, decode_ms=accepted.decode_ms),
                source=self.source,
                now=now,
            )
            for accepted, view, score in zip(frames, views, scores, strict=True)
        ]

    def _score(self, frames: Sequence[Accepted], views: Sequence[View], assigned: _Assigned) -> list[float | None]:
        """Inconsistency of the sampled frames under a squeeze, measured on the reference weights."""
        scores: list[float | None] = [None] * len(frames)
        sampled = [n for n, a in enumerate(frames) if self.sampler.wants(a.frame.camera_id, a.frame.sequence)]
        if not sampled:
            return scores
        pictures: list[Picture] = [frames[n].picture for n in sampled]
        same = assigned.reference is assigned.served
        plain: Iterable[View] = [views[n] for n in sampled] if same else assigned.reference.look(pictures)
        squeezed = assigned.reference.look([cues.squeeze(picture) for picture in pictures])
        for number, before, after in zip(sampled, plain, squeezed, strict=True):
            scores[number] = score = cues.inconsistency(before, after)
            self.sampler.saw(frames[number].frame.camera_id, score)
        return scores


def _detections(
    accepted: Accepted,
    view: View,
    state: ModelState,
    *,
    inconsistency: float | None,
    timings: Timings,
    source: str,
    now: datetime,
) -> Detections:
    frame = accepted.frame
    return Detections(
        id=event_id("detections", frame.camera_id, frame.epoch, frame.sequence),
        source=source,
        time=now,
        subject=frame.camera_id,
        camera_id=frame.camera_id,
        context=frame.context,
        epoch=frame.epoch,
        sequence=frame.sequence,
        frame_id=frame.id,
        frame_partition=accepted.partition,
        frame_offset=accepted.offset,
        camera_time=frame.time,
        boxes=view.boxes,
        weights_digest=state.weights_digest,
        mode=state.mode,
        decision_id=state.decision_id,
        features=cues.features(accepted.picture, view),
        scores=InputScores(reference_digest=state.reference_digest, inconsistency=inconsistency),
        timings=timings,
    )
