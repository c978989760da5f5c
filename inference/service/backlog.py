"""What is done when frames come faster than they can be judged: larger batches first, then the oldest frames are left out, counted.

It decides how many frames are read at once, which frames are too old to be judged, and when people are told. It refuses to drop
evidence: frames of a camera whose last input scores leapt, and of every camera of a context that serves in safe mode, are judged
however late they are. A dropped frame is never lost without a trace: it gets a dead letter that names its place in topic `frames`,
where its bytes stay. No clock inside. Fed by the topic `frames` through the worker.

Source: paper 4.7 (performance monitoring), SC-9 (availability); MITRE ATLAS AML.T0029 (denial of service).
"""

from dataclasses import dataclass, field
from datetime import datetime

from streams.events import Cause, Context, Diagnosis, Evidence, Kind, Phase, Severity, Signal, Window, event_id

DETECTOR = "backlog"
_FRESH = 0.25
"""Newest first: once too far behind, frames are left out until one is younger than this share of the limit."""
_CAMERAS = 4_096
"""Most names that are remembered as too far behind."""


@dataclass
class Batches:
    """How many frames are read at once: one while they come slowly, twice as many after each full batch, at most `most`."""

    most: int
    size: int = 1

    def read(self, count: int) -> None:
        """So many came of the `size` that were asked for."""
        self.size = min(self.most, self.size * 2) if count >= self.size else max(1, count)


@dataclass
class _Behind:
    since_ms: int
    dropped: int = 0  # none: nothing is known of what an earlier life of this worker told
    good: int = 0


@dataclass
class Backlog:
    """`limit_s`: a frame that waited longer is dropped. `newest_first`: then go on with fresh ones rather than the next oldest.

    A finding is raised with the first drop in a context, repeated at every `every` drops, and over after `calm_after` frames in a
    row that were judged in time. So many also end what this worker may have told before it was killed: it remembers nothing of it.

    Frames of several partitions have no order among them, so a finding's window counts milliseconds of the worker's time, each
    signal's past the one's before: what is told later is never taken for older.
    """

    source: str
    worker_id: str
    limit_s: float
    newest_first: bool = False
    every: int = 500
    calm_after: int = 100
    _catching_up: set[str] = field(default_factory=set)
    _behind: dict[Context, _Behind] = field(default_factory=dict)
    _proven: set[Context] = field(default_factory=set)
    _said_ms: int = 0

    def drops(self, camera: str, age_s: float, *, evidence: bool) -> bool:
        """Whether a frame under a camera's name that waited `age_s` seconds is left out."""
        late = age_s > self.limit_s
        if self.newest_first and late:
            if len(self._catching_up) >= _CAMERAS:  # names are not verified yet; the next late frame names a real one again
                self._catching_up.clear()
            self._catching_up.add(camera)
        elif age_s <= self.limit_s * _FRESH:
            self._catching_up.discard(camera)
        return not evidence and (late or camera in self._catching_up)

    def noted(self, context: Context, age_s: float, now: datetime, *, dropped: bool) -> Signal | None:
        """A frame was dropped, or is judged; the finding to send, if one is due. A late one that is judged proves nothing."""
        behind = self._behind.get(context)
        if behind is None:
            if context in self._proven and not dropped:
                return None
            behind = self._behind[context] = _Behind(_ms(now))
        if dropped:
            behind.since_ms = behind.since_ms if behind.dropped else _ms(now)
            behind.dropped, behind.good = behind.dropped + 1, 0
            if behind.dropped != 1 and behind.dropped % self.every:
                return None
            text = f"frames wait {age_s:.0f} s, the limit is {self.limit_s:.0f} s: {behind.dropped} dropped; add a worker"
            phase = Phase.RAISED if behind.dropped == 1 else Phase.ONGOING
            why = (
                f"Frames waited {age_s:.0f} s to be judged; the limit is {self.limit_s:.0f} s.",
                f"{behind.dropped} frames of context {context} were left out unjudged.",
                "The worker finds this of itself: it is about no camera's pictures.",
            )
            load = Diagnosis(cause=Cause.LOAD, confidence=0.95, evidence=why)
            return self._signal(context, behind, now, phase=phase, text=text, diagnosis=load)
        behind.good += age_s <= self.limit_s
        if behind.good < self.calm_after:
            return None
        del self._behind[context]
        self._proven.add(context)
        since = f"the last of {behind.dropped} was dropped" if behind.dropped else "this worker started"
        return self._signal(context, behind, now, phase=Phase.CALM, text=f"{behind.good} frames in time since {since}")

    def _signal(
        self,
        context: Context,
        behind: _Behind,
        now: datetime,
        *,
        phase: Phase,
        text: str,
        diagnosis: Diagnosis | None = None,
    ) -> Signal:
        self._said_ms = max(self._said_ms + 1, _ms(now))
        return Signal(
            id=event_id("signal", DETECTOR, self.worker_id, context, phase, self._said_ms),
            source=self.source,
            time=now,
            subject=self.worker_id,
            kind=Kind.HEALTH,
            phase=phase,
            severity=Severity.LOW if phase is Phase.CALM else Severity.HIGH,
            camera_id=self.worker_id,  # the finding is about the worker, not about one of the cameras
            context=context,
            detector=DETECTOR,
            window=Window(epoch=0, first_sequence=min(behind.since_ms, self._said_ms), last_sequence=self._said_ms),
            weights_digest=None,
            evidence=(Evidence("dropped", float(behind.dropped)),),
            message=text,
            diagnosis=diagnosis,
        )


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1e3)
