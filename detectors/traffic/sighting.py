"""What the traffic rules see of a judged frame, and how a rule's findings gather into an alarm and end again.

Decides only when gathered evidence is an alarm and when calm is proven; refuses to know what the evidence is of. No clock: time is
the camera's own and the worker's, as the event carries them. Topic: detections (through `features.py`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypedDict

from detectors.base import State, Status, Verdict

if TYPE_CHECKING:
    from detectors.triage.lately import Lately


@dataclass(frozen=True)
class Sighting:
    """One judged frame of one camera.

    sequence grows over restarts, number is the camera's own within its epoch. time_s: the camera's time, waited_s: from then until
    it was judged. refused: messages under the camera's name that intake refused since the frame before. cells: 8 x 8 means of
    luminance in 1/256 grey level, row by row, empty where not measured. raised: detectors that raised an alarm on this frame.
    lately: the last frames beside what is usual, where that is kept.
    """

    sequence: int
    time_s: float
    waited_s: float
    epoch: int
    number: int
    context: str
    digest: str
    refused: int = 0
    cells: tuple[int, ...] = ()
    embedding: tuple[float, ...] = ()
    raised: tuple[str, ...] = ()
    lately: "Lately | None" = None


class Rule(Protocol):
    """One rule about a camera's traffic; what `detectors.base.Detector` is for readings. Implementations are frozen dataclasses.

    A verdict's `score` is the number that its words speak of, `leads` the words.
    """

    @property
    def name(self) -> str:
        """Spells out every parameter that can change a verdict."""
        ...

    def start(self) -> State:
        """The state before the first frame."""
        ...

    def step(self, state: State, seen: Sighting) -> tuple[State, Verdict]:
        """One frame further. `state` is left untouched; never raises on any frame."""
        ...


class Alarm(TypedDict):
    """How far a rule's evidence has gathered. 1 alarms."""

    level: float
    since: int | None  # where the suspicious stretch begins
    on: bool
    calm: int  # frames in a row that spoke for calm, while it is on


def silent() -> Alarm:
    """Before the first frame."""
    return {"level": 0.0, "since": None, "on": False, "calm": 0}


def weigh(alarm: Alarm, sequence: int, amount: float, *, dwell: int, score: float = 0.0, words: str = "") -> tuple[Alarm, Verdict]:
    """One frame's evidence added.

    Args:
        alarm: left untouched.
        sequence: the frame's.
        amount: share of an alarm that this frame speaks for; below 0 it speaks for calm, at 0 for neither.
        dwell: calm frames in a row that end an alarm.
        score: for the verdict, 0 or above.
        words: what is wrong, for the verdict.
    """
    level = min(1.0, max(0.0, alarm["level"] + amount))
    since = alarm["since"]
    if level <= 0.0 and not alarm["on"]:
        return silent(), Verdict(Status.NORMAL, score)
    since = sequence if since is None else since
    if not alarm["on"] and level < 1.0:
        verdict = Verdict(Status.SUSPICIOUS, score, level, since, leads=words)
        return {"level": level, "since": since, "on": False, "calm": 0}, verdict
    calm = 0 if amount > 0.0 else alarm["calm"] + (amount < 0.0)
    if calm >= dwell:
        return silent(), Verdict(Status.NORMAL, score)
    verdict = Verdict(Status.ALARM, score, 1.0, since, unusual=2 * calm < dwell, leads=words)
    return {"level": level, "since": since, "on": True, "calm": calm}, verdict
