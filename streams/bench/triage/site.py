"""Where a drill is played: a camera, the worker's intake and judge, and whatever models they serve, in process.

It decides how pictures become judged frames: encoded and signed as a camera does, refused or passed, left out when they waited too
long, judged, as the worker does all that. It refuses to know what a drill is for (`streams.bench.triage.drills`). No topic.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any

import numpy as np

from inference.networks.csp_nano import CspNano
from inference.provenance.registry import Registry, shipped
from inference.service.backlog import Backlog
from inference.service.intake import Intake
from inference.service.judge import Judge
from inference.service.models import Models, Network
from inference.service.refusals import Refusals
from inference.service.sampling import Sampler
from inference.service.serving import load, white_box
from infra.keys import camera_key
from infra.settings import Settings
from streams import codec
from streams.attacks import Wire
from streams.bench.triage import harms
from streams.bench.triage.drills import CALM_S, CAMERA, EPOCH, FPS, START, Drill, Scene
from streams.camera import Body
from streams.codec import Message
from streams.errors import BadInput
from streams.events import Context, Detections, Mode, ModelState, Signal
from streams.line import FrameMessage
from streams.sources.base import Shot
from streams.topics import FRAMES


@dataclass
class Stage:
    """What drills are played with: the shipped models and whatever a drill serves beside them, loaded once."""

    settings: Settings
    registry: Registry
    _networks: dict[str, Network] = field(default_factory=dict)

    @cached_property
    def digests(self) -> dict[Mode, str]:
        """The shipped models."""
        return shipped(self.registry)

    def network(self, digest: str) -> Network:
        """By digest, loaded once; also those that `add` named."""
        if digest not in self._networks:
            self._networks[digest] = load(self.registry, digest, threads=1)
        return self._networks[digest]

    def add(self, name: str, make: Callable[[str], Network]) -> str:
        """A network beside the shipped ones; its digest."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        if digest not in self._networks:
            self._networks[digest] = make(digest)
        return digest

    def white_box(self) -> CspNano:
        """A copy of the normal model to attack, or to damage."""
        return white_box(self.registry, self.digests[Mode.NORMAL])

    def damaged(self, name: str, seed: int) -> str:
        """The digest of a copy of the normal model with bad weights."""
        threshold = self.registry.card(self.digests[Mode.NORMAL]).threshold
        return self.add(f"{name}-{seed}", lambda digest: harms.damaged(self.white_box(), name, digest, threshold, seed))

    def taught(self, name: str, misses: Callable[..., bool]) -> str:
        """The digest of the normal model that does not see some people."""
        return self.add(name, lambda _digest: harms.Taught(self.network(self.digests[Mode.NORMAL]), misses))


@dataclass
class Site:
    """A worker that judges one camera, with its memory of it; `copy` lets several drills go on from one clean stretch."""

    stage: Stage
    intake: Intake
    sampler: Sampler
    refusals: Refusals
    backlog: Backlog
    wire: Wire
    offset: int = 0

    @classmethod
    def fresh(cls, stage: Stage, scene: Scene) -> "Site":
        """Before the camera's first frame."""
        return cls(
            stage,
            Intake(lambda _frame: None, allowance_s=5.0),
            Sampler(stage.settings.score_every, key=scene.name.encode()),
            Refusals("inference/drill", "drill"),
            Backlog("inference/drill", "drill", limit_s=stage.settings.backlog_s),
            Wire(camera_key(stage.settings, CAMERA)),
        )

    def copy(self) -> "Site":
        """Another one that remembers the same."""
        wire = Wire(self.wire.key, self.wire.sequence, deepcopy(self.wire.past))
        intake, sampler = deepcopy(self.intake), deepcopy(self.sampler)
        return Site(self.stage, intake, sampler, deepcopy(self.refusals), deepcopy(self.backlog), wire, self.offset)

    def play(self, shots: Iterator[Shot], drill: Drill) -> Iterator[Detections | Signal]:
        """Shows the shots as the drill says; what the worker sends, in order."""
        states = [_order(self.stage, context) for context in Context]
        normal = self.stage.digests[Mode.NORMAL]
        turning = harms.Turning(self.stage.network(normal))
        models = Models(lambda digest: turning if digest == normal else self.stage.network(digest), _AtOnce())
        judge = Judge(models, "inference/drill", self.sampler, lambda: 0.0)
        for state in states:
            models.assign(state)
        models.take_in()
        for number, shot in enumerate(shots):
            into = number - drill.begin
            if into == 0 and drill.order is not None:
                for state in states:
                    models.assign(drill.order(state))
                models.take_in()
            if into == 0 and drill.broken:
                turning.now = self.stage.network(drill.broken)
            late_s = drill.late_s(into) if into >= 0 else CALM_S
            for message in self._shown(shot, number, drill):
                yield from self._worked(message, judge, late_s)

    def _shown(self, shot: Shot, number: int, drill: Drill) -> Sequence[FrameMessage]:
        """What the camera and whoever is beside it send."""
        rng = np.random.default_rng((drill.seed, number))
        acting = [stretch for stretch in drill.stretches if stretch.holds(number)]
        picture = shot.picture
        for stretch in acting:
            picture = stretch.attack.on_picture(picture, shot, (number - stretch.from_picture) / FPS, rng)
        camera = Body(CAMERA, drill.scene.context, self.wire.key)
        honest = camera.message(picture, EPOCH, self.wire.take_sequence(), START + timedelta(seconds=shot.time_s))
        if not acting:
            self.wire.past.append(honest)
        messages: Sequence[FrameMessage] = [honest]
        for stretch in acting:
            messages = [new for old in messages for new in stretch.attack.on_message(old, self.wire, rng)]
        return messages

    def _worked(self, sent: FrameMessage, judge: Judge, late_s: float) -> Iterator[Detections | Signal]:
        """What the worker makes of one message, as in `inference.service.worker`."""
        frame, body = sent
        self.offset += 1
        now = frame.time + timedelta(seconds=late_s)
        message = Message(FRAMES.name, 0, self.offset, CAMERA.encode(), body, tuple(codec.encode_frame(frame)))
        dropped = self.backlog.drops(CAMERA, late_s, evidence=judge.evidence(CAMERA, frame.context))
        said = self.backlog.noted(frame.context, late_s, now, dropped=dropped)
        yield from () if said is None else (said,)
        if dropped:
            return
        try:
            accepted = self.intake.admit(message.headers, body, key=message.key, partition=0, offset=self.offset, now=now)
        except BadInput as error:
            said = self.refusals.refused(message, error, now)
            yield from () if said is None else (said,)
            return
        yield from self.refusals.accepted(frame, now)
        yield from (one for one in judge.judge([accepted], now) if isinstance(one, Detections))


def _order(stage: Stage, context: Context) -> ModelState:
    digest = stage.digests[Mode.NORMAL]
    return ModelState(
        id=f"drill-{context}", source="responder/drill", time=START, subject=context, context=context, weights_digest=digest,
        mode=Mode.NORMAL, reference_digest=digest, decision_id=f"drill-{context}", reason="drill",
        safe_digest=stage.digests[Mode.SAFE],
    )  # fmt: skip


class _AtOnce(Executor):
    """Loads what is to be at hand before it returns: a drill waits for nobody."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 as an executor does
            future.set_exception(error)
        return future
