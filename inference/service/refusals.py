"""Turns refused frames into signals: raised at the first, repeated at every so many, calm after enough good frames in a row.

Every refused message is dead-lettered and counted elsewhere; here one camera's trouble becomes one finding instead of a storm
(MITRE ATLAS AML.T0046, chaff). No clock inside. A camera that falls silent stays in trouble: silence is not calm.
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
    first_offset: int
    last_sequence: int  # that was told, in the same epoch: what ends the trouble must not look older than what began it
    refused: int = 0
    good: int = 0
    row: int = 0  # refused since the last good frame
    most: int = 0  # the longest such row


@dataclass
class Refusals:
    """`every`: an ONGOING signal per so many refusals. `calm_after`: good frames in a row that end it."""

    source: str
    every: int = 20
    calm_after: int = 40
    _last_good: dict[str, Frame] = field(default_factory=dict)
    _trouble: dict[tuple[str, Context], _Trouble] = field(default_factory=dict)

    def refused(self, message: Message, error: BadInput, now: datetime) -> Signal | None:
        """A refused message; the signal to send, if one is due.

        Whom the message names cannot be trusted, so the finding is about "messages under this camera's name"; names that never
        sent a good frame share the name `STRANGER`, so that inventing names makes no storm. Without a known or validly claimed
        context there is no signal.
        """
        good = self._last_good.get((message.key or b"").decode(errors="replace"))
        context = good.context if good else claimed_context(message)
        if context is None:
            return None
        camera_id = good.camera_id if good else STRANGER
        epoch, sequence = (good.epoch, good.sequence) if good else (0, message.offset)
        trouble = self._trouble.setdefault((camera_id, context), _Trouble(epoch, sequence, message.offset, sequence))
        trouble.refused += 1
        trouble.row = trouble.row + 1 if trouble.good == 0 else 1
        trouble.most = max(trouble.most, trouble.row)
        trouble.good = 0
        if trouble.refused != 1 and trouble.refused % self.every:
            return None
        phase = Phase.RAISED if trouble.refused == 1 else Phase.ONGOING
        severity = Severity.HIGH if error.reason in _GRAVE else Severity.MEDIUM
        if epoch == trouble.epoch:
            trouble.last_sequence = max(trouble.last_sequence, sequence)
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
                continue
            trouble.good += 1
            if trouble.good >= self.calm_after:
                del self._trouble[key]
                text = f"{trouble.good} good frames in a row after {trouble.refused} refused messages"
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
        window = Window(epoch=trouble.epoch, first_sequence=trouble.first_sequence, last_sequence=trouble.last_sequence)
        return Signal(
            id=event_id("signal", DETECTOR, camera_id, context, trouble.epoch, trouble.first_offset, phase, trouble.refused),
            source=self.source,
            time=now,
            subject=camera_id,
            kind=Kind.BAD_INPUT,
            phase=phase,
            severity=severity,
            camera_id=camera_id,
            context=context,
            detector=DETECTOR,
            window=window,
            weights_digest=None,
            evidence=(Evidence("refused", float(trouble.refused)),),
            message=message[:500],
            diagnosis=diagnosis,
        )


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
