"""Turns refused frames into signals: raised at the first, repeated at every so many, calm after enough good frames in a row.

Every refused message is dead-lettered and counted elsewhere; here one camera's trouble becomes one finding instead of a storm
(MITRE ATLAS AML.T0046, chaff). No clock inside. A camera that falls silent stays in trouble: silence is not calm.

A worker that was killed remembers nothing of what it told, nor does one that takes over another's cameras. So each camera's first
good frames in a row since then end in a calm too, whatever was told of it before: that many were seen, and nothing else proves it.
"""

from dataclasses import dataclass, field
from datetime import datetime

from streams.codec import Message
from streams.errors import BadInput, Refusal
from streams.events import Cause, Context, Diagnosis, Evidence, Frame, Kind, Phase, Severity, Signal, Window, event_id

DETECTOR = "intake"
STRANGER = "stranger"
_FLOOD = 5
"""Messages refused in a row, between two good frames, from which on it is a flood: a second sender or a reconnect repeats one."""
_CAUSES = {
    Refusal.TOO_LARGE: (Cause.ATTACK, 0.7), Refusal.BAD_SIGNATURE: (Cause.ATTACK, 0.9), Refusal.UNKNOWN_CAMERA: (Cause.ATTACK, 0.8),
    Refusal.REPEATED: (Cause.ATTACK, 0.6), Refusal.UNDECODABLE: (Cause.CAMERA, 0.7), Refusal.BAD_VALUE: (Cause.CAMERA, 0.6),
    Refusal.FUTURE_TIME: (Cause.CAMERA, 0.8), Refusal.STALE_TIME: (Cause.CAMERA, 0.7), Refusal.OVERLOAD: (Cause.LOAD, 0.9),
}  # fmt: skip
"""What a reason speaks for, and how sure that is, from one finding alone."""
_GRAVE = {Refusal.BAD_SIGNATURE, Refusal.UNKNOWN_CAMERA, Refusal.REPEATED}


@dataclass
class _Trouble:
    epoch: int
    first_sequence: int
    last_sequence: int  # that was told, in the same epoch: what ends the trouble must not look older than what began it
    refused: int = 0  # none: whether there was trouble before this worker's time is not known
    good: int = 0
    row: int = 0  # refused since the last good frame
    most: int = 0  # the longest such row


@dataclass
class Refusals:
    """`every`: an ONGOING signal per so many refusals. `calm_after`: good frames in a row that end it."""

    source: str
    worker_id: str
    every: int = 20
    calm_after: int = 40
    _last_good: dict[str, Frame] = field(default_factory=dict)
    _trouble: dict[tuple[str, Context], _Trouble] = field(default_factory=dict)
    _proven: set[tuple[str, Context]] = field(default_factory=set)
    _said_ms: int = 0

    def begin_anew(self) -> None:
        """Forget all cameras: some of them were another worker's meanwhile, and what was told of them is over, or is not."""
        self._last_good.clear()
        self._trouble.clear()
        self._proven.clear()

    def refused(self, message: Message, error: BadInput, now: datetime) -> Signal | None:
        """A refused message; the signal to send, if one is due.

        Whom the message names cannot be trusted, so the finding is about "messages under this camera's name"; names that never
        sent a good frame share the name `STRANGER`, so that inventing names makes no storm. What one worker finds of strangers no
        other ends. Without a known or validly claimed context there is no signal.
        """
        good = self._last_good.get((message.key or b"").decode(errors="replace"))
        context = good.context if good else claimed_context(message)
        if context is None:
            return None
        camera_id = good.camera_id if good else STRANGER
        trouble = self._trouble.get((camera_id, context))
        if trouble is None or trouble.refused == 0:
            trouble = self._trouble[camera_id, context] = _begun(good, now)
        trouble.refused += 1
        trouble.row = trouble.row + 1 if trouble.good == 0 else 1
        trouble.most = max(trouble.most, trouble.row)
        trouble.good = 0
        if trouble.refused != 1 and trouble.refused % self.every:
            return None
        phase = Phase.RAISED if trouble.refused == 1 else Phase.ONGOING
        severity = Severity.HIGH if error.reason in _GRAVE else Severity.MEDIUM
        if good is not None and good.epoch == trouble.epoch:
            trouble.last_sequence = max(trouble.last_sequence, good.sequence)
        why = _diagnosis(error, trouble)
        return self._signal(camera_id, context, trouble, phase=phase, severity=severity, message=str(error), now=now, diagnosis=why)

    def accepted(self, frame: Frame, now: datetime) -> list[Signal]:
        """A good frame; the CALM signals for which it is the last one that was needed.

        It counts for its own camera, and for strangers in its context: they are calm when enough frames came without one of theirs.
        """
        self._last_good[frame.camera_id] = frame
        calm = []
        for key in ((frame.camera_id, frame.context), (STRANGER, frame.context)):
            trouble = self._trouble.get(key)
            if trouble is None:
                if key in self._proven:
                    continue
                trouble = self._trouble[key] = _begun(None if key[0] == STRANGER else frame, now)
            trouble.good += 1
            if trouble.good >= self.calm_after:
                del self._trouble[key]
                self._proven.add(key)
                after = f"after {trouble.refused} refused messages"
                if not trouble.refused:
                    after, trouble = "since this worker began to look", _begun(None if key[0] == STRANGER else frame, now)
                text = f"{self.calm_after} good frames in a row {after}"
                low = Severity.LOW
                calm.append(self._signal(*key, trouble, phase=Phase.CALM, severity=low, message=text, now=now))
        return calm

    def _signal(
        self,
        camera_id: str,
        context: Context,
        trouble: _Trouble,
        *,
        phase: Phase,
        severity: Severity,
        message: str,
        now: datetime,
        diagnosis: Diagnosis | None = None,
    ) -> Signal:
        detector, last = DETECTOR, trouble.last_sequence
        if camera_id == STRANGER:
            self._said_ms = max(self._said_ms + 1, trouble.last_sequence, _ms(now))
            detector, last = f"{DETECTOR}/{self.worker_id}", self._said_ms
        window = Window(epoch=trouble.epoch, first_sequence=trouble.first_sequence, last_sequence=last)
        return Signal(
            id=event_id("signal", detector, camera_id, context, window.epoch, window.first_sequence, phase, trouble.refused),
            source=self.source,
            time=now,
            subject=camera_id,
            kind=Kind.BAD_INPUT,
            phase=phase,
            severity=severity,
            camera_id=camera_id,
            context=context,
            detector=detector,
            window=window,
            weights_digest=None,
            evidence=(Evidence("refused", float(trouble.refused)),),
            message=message[:500],
            diagnosis=diagnosis,
        )


def _begun(good: Frame | None, now: datetime) -> _Trouble:
    """A camera's trouble after its last good frame. Strangers' messages lie in several partitions: there, milliseconds count."""
    epoch, sequence = (0, _ms(now)) if good is None else (good.epoch, good.sequence)
    return _Trouble(epoch, sequence, sequence)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1e3)


def _diagnosis(error: BadInput, trouble: _Trouble) -> Diagnosis | None:
    """What kind of trouble refusals speak for; None where the reason speaks for none."""
    known = _CAUSES.get(error.reason)
    if known is None:
        return None
    cause, sure = known
    if error.reason is Refusal.REPEATED and trouble.most >= _FLOOD:
        cause, sure = Cause.LOAD, 0.8
    why = (
        f"A message was refused as {error.reason}: {error}"[:300],
        f"{trouble.refused} messages under this name were refused since the trouble began.",
        f"At most {trouble.most} of them came between two good frames.",
    )
    return Diagnosis(cause=cause, confidence=sure, evidence=why)


def claimed_context(message: Message) -> Context | None:
    """The context that a frame message claims, unverified; None if it claims none that we know."""
    claim = next((value for name, value in message.headers if name == "ce_context"), b"")
    return next((context for context in Context if context.encode() == claim), None)
