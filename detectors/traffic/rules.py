"""The one list of traffic rules: what each watches of a camera's stream, how bad a finding is, and what it explains.

Decides parameters and severities; refuses nothing. Rules see whole frames (`sighting.py`), not readings of one feature, and belong
to the camera, whatever context it claims and whichever weights judge it. Topic: detections.

Not here, because it is told elsewhere and once: repeats, frames out of order, times that go back or lie ahead, bad signatures
(`inference.service.refusals`, as bad input), a worker that is behind (`inference.service.backlog`, as health).

Source: paper 4.7 (traffic surveillance); MITRE ATLAS AML.T0029, AML.T0046.
"""

from dataclasses import dataclass
from functools import cached_property

from detectors.answers import Answers, Newcomer
from detectors.traffic.arrivals import Holes, Lag, Rate, Senders
from detectors.traffic.claims import Chaff, Claim
from detectors.traffic.pictures import Frozen, Replayed
from detectors.traffic.sighting import Rule
from streams.events import Kind, Severity


@dataclass(frozen=True)
class Guard:
    """One traffic rule at work.

    reads: what the verdict's score is a number of. calm: in words, that it is over. explains: whether what the pictures show
    while it lasts is no drift. remind: suspicious frames between two ONGOING signals. kind: what its signals are about.
    """

    name: str
    rule: Rule
    severity: Severity
    reads: str
    calm: str
    why: str
    explains: bool = False
    remind: int = 300
    kind: Kind = Kind.TRAFFIC

    @cached_property
    def key(self) -> str:
        """Under which its state is kept: with changed parameters it starts anew rather than misread an old state."""
        return f"{self.name}/{self.rule.name}"


GUARDS: tuple[Guard, ...] = (
    Guard(
        "rate", Rate(), Severity.MEDIUM, "times_usual", "frames come at the usual rate again",
        "a flood with valid signatures; a camera that is starved", explains=True,
    ),
    Guard("holes", Holes(), Severity.MEDIUM, "holes", "no frames are missing any more", "frames that are taken out on the way"),
    Guard("lag", Lag(), Severity.LOW, "seconds_behind", "frames are dated as usual again", "the camera's clock is wrong"),
    Guard(
        "senders", Senders(), Severity.HIGH, "senders", "one sender uses this camera's name again",
        "a stolen key at work beside the camera",
    ),
    Guard(
        "frozen", Frozen(), Severity.HIGH, "still_frames", "the picture moves again",
        "a camera that is blind and does not know it", explains=True, kind=Kind.CAMERA,
    ),
    Guard(
        "replayed", Replayed(), Severity.HIGH, "agreement", "frames are new ones again",
        "the past shown in place of the present", explains=True,
    ),
    Guard(
        "claim", Claim(), Severity.MEDIUM, "distance", "the claimed context fits the picture again",
        "a context claimed to get its model and its baselines",
    ),
    Guard(
        "answers", Answers(), Severity.HIGH, "heat_times", "the model answers as usual again",
        "weights that answer with nothing, with nonsense, or without an order", kind=Kind.COMPROMISE,
    ),
    Guard(
        "newcomer", Newcomer(), Severity.HIGH, "missed", "the model that is new here sees people as the others do",
        "a model that was taught not to see some people", kind=Kind.POISONING,
    ),
)  # fmt: skip
"""What watches every camera."""

CHAFF = Guard(
    "chaff", Chaff(), Severity.MEDIUM, "repeats", "alarms no longer begin anew again and again",
    "alarms provoked until nobody looks any more", remind=3000,
)  # fmt: skip
"""What watches the other detectors; after all of them."""
