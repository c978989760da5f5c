"""Judges accepted frames: which weights, which boxes, which features, how strange the input looks, how a candidate compares.

It turns frames into `Detections` and knows no Kafka and no wall clock; `models.py` says who looks at what, `sampling.py` which
frames get a second look. Input is scored against the context's normal model also while the safe one serves: calm must mean that the
normal model would be safe again (paper 4.6, "safe mode" models). A candidate that fails is left out; the model in service answers.
One picture never stops the stream: what is not answered comes back as `Unjudged`, what the reference does not answer has no scores.
A model that fails on any picture is another matter: that ends the worker, for a device may be lost and the frames are not.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime

from inference.service import cues
from inference.service.comparison import compare
from inference.service.forward import Forward
from inference.service.intake import Accepted
from inference.service.models import Lineup, Model, Models
from inference.service.sampling import Sampler
from inference.service.sanitise import Chain
from inference.service.serving import View
from streams.errors import Refusal
from streams.events import Comparison, Context, Detections, InputScores, Mode, Timings, event_id
from streams.sources.base import Picture


@dataclass(frozen=True)
class Unjudged:
    """Why a frame has no detections."""

    reason: Refusal
    why: str


@dataclass
class Judge:
    """`clock_s` is any steadily growing clock, for timings only.

    clean: how pictures are cleaned before the model in service sees them, by mode; not at all where a mode is missing.
    compare_every: one frame in so many is judged by the second model too while a candidate is there.
    """

    models: Models
    source: str
    sampler: Sampler
    clock_s: Callable[[], float]
    clean: Mapping[Mode, Chain] = field(default_factory=dict)
    compare_every: int = 4
    forward: Forward = field(default_factory=Forward)

    def evidence(self, camera_id: str, context: Context | None) -> bool:
        """Whether a camera's frames may be evidence: its last input scores leapt, or its context serves in safe mode."""
        return self.sampler.hot(camera_id) or (context is not None and self.models.mode(context) is Mode.SAFE)

    def judge(self, frames: Sequence[Accepted], now: datetime) -> list[Detections | Unjudged]:
        """One batch, in the order given; frames of one size that the same models look at share a forward pass.

        Raises BrokenContract if a frame's context has no weights yet: the caller must wait for them before it reads frames. Raises
        what the model in service raises if it answers nothing at all any more.
        """
        found: dict[int, Detections | Unjudged] = {}
        groups: dict[tuple[Context, bool, int, int], list[int]] = defaultdict(list)
        for number, accepted in enumerate(frames):
            context, (height_px, width_px) = accepted.frame.context, accepted.picture.shape[:2]
            lineup = self.models.lineup(context, accepted.frame.camera_id)
            groups[context, lineup.serving.digest == lineup.state.weights_digest, height_px, width_px].append(number)
        for members in groups.values():
            judged = self._judge_each([frames[number] for number in members], now)
            found.update(zip(members, judged, strict=True))
        return [found[number] for number in range(len(frames))]

    def _judge_each(self, frames: Sequence[Accepted], now: datetime) -> list[Detections | Unjudged]:
        """Frames of one size together; each alone where that fails, so that one picture costs no other its answer."""
        try:
            return self._judge_alike(frames, now)
        except Exception as error:  # noqa: BLE001 - one frame answers for whatever it makes a network or a library raise
            if len(frames) > 1:
                return [one for frame in frames for one in self._judge_each([frame], now)]
            frame = frames[0].frame
            serving = self.models.lineup(frame.context, frame.camera_id).serving
            serving.prove()
            self._stumbled(serving, error)
            why = f"model {serving.digest[:12]} does not answer this frame, and does answer others: {error}"
            return [Unjudged(Refusal.AGENT_FAULT, why)]

    def _judge_alike(self, frames: Sequence[Accepted], now: datetime) -> list[Detections | Unjudged]:
        first = frames[0].frame
        lineup = self.models.lineup(first.context, first.camera_id)
        started_s = self.clock_s()
        clean = self.clean.get(lineup.state.mode)
        pictures = [accepted.picture if clean is None else clean(accepted.picture) for accepted in frames]
        try:
            views = self.forward.look(lineup.serving.network, pictures)
        except Exception as error:
            if lineup.serving.digest == lineup.state.weights_digest:
                raise
            self._left_out(lineup.serving, error)
            return self._judge_alike(frames, now)
        self.models.answered(lineup.serving.digest, len(frames))
        infer_ms = self._each_ms(started_s, len(frames))
        started_s = self.clock_s()
        scores = self._score(frames, views, lineup, cleaned=clean is not None)
        scores_ms = self._each_ms(started_s, len(frames))
        compared = self._compare(frames, pictures, views, lineup)
        return [
            Unjudged(Refusal.OVERLOAD, f"a frame of {_size_px(accepted)} does not fit into this worker's memory; send it smaller")
            if view is None
            else _detections(
                accepted,
                view,
                lineup,
                looked=scores.get(number),
                compared=compared.get(number),
                timings=Timings(infer_ms=infer_ms, scores_ms=scores_ms, decode_ms=accepted.decode_ms),
                source=self.source,
                now=now,
            )
            for number, (accepted, view) in enumerate(zip(frames, views, strict=True))
        ]

    def _score(
        self, frames: Sequence[Accepted], views: Sequence[View | None], lineup: Lineup, *, cleaned: bool
    ) -> dict[int, InputScores]:
        """Cues of the sampled frames, by place in the batch, measured on the reference weights."""
        glances: dict[int, cues.Glance] = {}
        safe = lineup.state.mode is Mode.SAFE
        for number, (accepted, view) in enumerate(zip(frames, views, strict=True)):
            if view is None:
                continue
            glance = cues.glance(accepted.picture, view, lineup.serving.digest)
            if self.sampler.wants(accepted.frame.camera_id, accepted.frame.sequence, glance, safe=safe):
                glances[number] = glance
        if not glances:
            return {}
        pictures: list[Picture] = [frames[number].picture for number in glances]
        scores = dict[int, InputScores]()
        same = lineup.reference == lineup.serving and not cleaned
        plain = [views[number] for number in glances] if same else self._second_views(lineup.reference, pictures)
        others = self._second_views(lineup.reference, [cues.mirrored(picture) for picture in pictures])
        for (number, glance), before, after in zip(glances.items(), plain, others, strict=True):
            if before is not None and after is not None:
                frame = frames[number].frame
                seen = InputScores(
                    reference_digest=lineup.state.reference_digest,
                    **asdict(cues.second_look(before, after, frames[number].picture)),
                )
                scores[number] = seen
                self.sampler.saw(frame.camera_id, frame.sequence, frame.context, seen, glance)
        return scores

    def _second_views(self, reference: Model, pictures: Sequence[Picture]) -> list[View | None]:
        """None where the reference does not answer: no score, and so no calm either."""
        try:
            views = self.forward.look(reference.network, pictures)
        except Exception as error:  # noqa: BLE001 - told as a fault; the model in service has answered
            if len(pictures) > 1:
                return [view for picture in pictures for view in self._second_views(reference, [picture])]
            self._stumbled(reference, error)
            return [None]
        self.models.answered(reference.digest, len(pictures))
        return views

    def _compare(
        self, frames: Sequence[Accepted], pictures: Sequence[Picture], views: Sequence[View | None], lineup: Lineup
    ) -> dict[int, Comparison]:
        """What the second model says of one frame in so many, by place in the batch; nothing without a second model."""
        chosen = [number for number, one in enumerate(frames) if one.frame.sequence % self.compare_every == 0]
        if lineup.beside is None or not chosen:
            return {}
        started_s = self.clock_s()
        try:
            others = self.forward.look(lineup.beside.network, [pictures[number] for number in chosen])
        except Exception as error:  # noqa: BLE001 - told as a fault; the model in service has answered
            known = lineup.beside.digest == lineup.state.weights_digest
            (self._stumbled if known else self._left_out)(lineup.beside, error)
            return {}
        infer_ms = self._each_ms(started_s, len(chosen))
        pairs = ((number, views[number], other) for number, other in zip(chosen, others, strict=True))
        return {
            number: compare(view.boxes, other.boxes, lineup.beside.digest, infer_ms)
            for number, view, other in pairs
            if view is not None and other is not None
        }

    def _left_out(self, candidate: Model, error: Exception) -> None:
        self.models.failed(candidate.digest, f"model {candidate.digest[:12]} failed at work and is left out: {error}")

    def _stumbled(self, model: Model, error: Exception) -> None:
        self.models.stumbled(model.digest, f"model {model.digest[:12]} did not answer a frame: {error}")

    def _each_ms(self, started_s: float, frames: int) -> float:
        return (self.clock_s() - started_s) / frames * 1e3


def _size_px(accepted: Accepted) -> str:
    return f"{accepted.frame.width_px} x {accepted.frame.height_px} pixels"


def _detections(
    accepted: Accepted,
    view: View,
    lineup: Lineup,
    *,
    looked: InputScores | None,
    compared: Comparison | None,
    timings: Timings,
    source: str,
    now: datetime,
) -> Detections:
    frame, state = accepted.frame, lineup.state
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
        weights_digest=lineup.serving.digest,
        mode=state.mode,
        decision_id=state.decision_id,
        features=cues.features(accepted.picture, view),
        scores=InputScores(reference_digest=state.reference_digest) if looked is None else looked,
        timings=timings,
        compared=compared,
        refused=accepted.refused,
    )
