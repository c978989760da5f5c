"""What every stream detector is: a fold over readings, with plain JSON state.

A detector decides whether readings have changed; it refuses to know where they come from. It has no clock, no chance, no I/O and
no torch inside, so the same readings give the same verdicts anywhere, and its state can rest in a Faust table across a restart.
Baselines, thresholds and budgets are fields of the detector, chosen in `catalogue.py`.

What each detector owes is written as code in `checks.py`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
State = dict[str, Json]
"""A detector's whole memory: plain JSON of bounded size."""


@dataclass(frozen=True)
class Observation:
    """One reading of one feature of one camera.

    `sequence` numbers the camera's frames and only grows within a stream; `time_s` is the camera's time in seconds since 1970.
    `value` is the reading, in the feature's own unit; it may be NaN or infinite, because attackers may choose it. `beside` are
    further readings of the same frame, for a detector that weighs all. `note` says what must be known of a reading, and is none.
    """

    sequence: int
    time_s: float
    value: float
    beside: tuple[float, ...] = ()
    note: str = ""
    parts: tuple[float, ...] = ()
    """The numbers of a reading that is more than one; `value` is then their length (Euclidean)."""


class Status(StrEnum):
    """What a detector says after one reading."""

    LEARNING = "learning"  # not enough readings yet for a verdict
    NORMAL = "normal"  # nothing to see
    SUSPICIOUS = "suspicious"  # this reading is unusual, or evidence is gathering; no alarm yet
    ALARM = "alarm"  # changed, within the declared budget of false alarms; stays until calm is proven
    REFUSED = "refused"  # the reading was no usable number; it did not enter the state


@dataclass(frozen=True)
class Verdict:
    """A detector's answer to one reading.

    `score` is this reading's own strangeness (0 usual, grows, finite); `evidence` is what has gathered, in units of the alarm
    threshold (1 or more while it alarms, finite). `since_sequence` is where the suspicious stretch begins: the frame after the last
    one that was found usual; None when nothing is suspected. `unusual` tells, during an alarm, whether this reading speaks for its
    going on. `reason` says in words why a reading was refused, else is empty. `leads` names the kind of change
    that the evidence speaks for most, where the detector tells kinds apart.
    """

    status: Status
    score: float = 0.0
    evidence: float = 0.0
    since_sequence: int | None = None
    unusual: bool = False
    reason: str = ""
    leads: str = ""


class Detector(Protocol):
    """A stream detector. Implementations are frozen dataclasses."""

    @property
    def name(self) -> str:
        """Spells out every parameter that can change a verdict, e.g. "cusum(drift=0.5,arl=10000,learn=60)"."""
        ...

    def start(self) -> State:
        """The state before the first reading."""
        ...

    def step(self, state: State, seen: Observation) -> tuple[State, Verdict]:
        """One reading further. `state` is left untouched; never raises on any reading."""
        ...
