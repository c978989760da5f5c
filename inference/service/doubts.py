"""Turns models that do not verify into signals: raised once per context, calm when what is asked for verifies again.

It decides what is said of weights whose bytes are not what they should be, whether they were to serve or to stand by. It refuses
to say anything of models that merely do not load: that is the worker's health. Fed by topic `model-state` through the worker.

Source: paper 4.5.3 (model provenance), SC-6; MITRE ATLAS AML.T0018, AML.M0014 (verify artefacts).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from streams.events import Context, Kind, Phase, Severity, Signal, Window, event_id

SERVES, STANDS_BY = "model-check", "standby-check"
"""Detectors: of normal models that were to serve, and of what is kept ready (safe models, candidates)."""


@dataclass
class Doubts:
    """What a worker has said of models that do not verify."""

    source: str
    worker_id: str
    _told: dict[tuple[Context, str], str] = field(default_factory=dict)

    def told(self, found: Mapping[tuple[Context, str], str], now: datetime) -> list[Signal]:
        """What does not verify now, by context and detector, with the reason; the signals to send, for what is news."""
        begun = [self._signal(*key, Phase.RAISED, why, now) for key, why in found.items() if key not in self._told]
        over = [key for key in self._told if key not in found]
        self._told = dict(found)
        return [*begun, *(self._signal(*key, Phase.CALM, "what is asked for verifies again", now) for key in over)]

    def _signal(self, context: Context, detector: str, phase: Phase, why: str, now: datetime) -> Signal:
        moment = int(now.timestamp())
        return Signal(
            id=event_id("signal", detector, self.worker_id, context, phase, now.isoformat()),
            source=self.source,
            time=now,
            subject=self.worker_id,
            kind=Kind.TAMPERING,
            phase=phase,
            severity=Severity.LOW if phase is Phase.CALM else Severity.HIGH,
            camera_id=self.worker_id,  # the finding is about a file that this worker read, not about a camera
            context=context,
            detector=detector,
            window=Window(epoch=0, first_sequence=moment, last_sequence=moment),
            weights_digest=None,
            message=why[:500],
        )
