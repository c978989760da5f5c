"""What one detector remembers of a camera beside its own state, and whether drift has an explanation.

Decides what explains drift in a frame: an attack that alarms, a picture that is frozen, replayed or flooded; and whether one is
suspected, so that drift had better wait. Refuses to forgive an alarm of drift that was told before. Topic: detections.

Source: README, promise 1; an attack's first frames reach the drift detectors before anybody knows what they are.
"""

from dataclasses import dataclass
from typing import NotRequired, TypedDict

from detectors.adversarial import Evasion
from detectors.base import Detector, State
from detectors.baselines import Origin
from detectors.drift.embedding import EmbeddingDrift
from detectors.drift.feature import Drift

HELD = 96
"""Frames that a suspicion holds drift's word back: three calm looks lie in them, or all looks that an alarm needs."""


class Finding(TypedDict):
    """What has been told of an alarm. Numbers are sequences that grow over a camera's restarts."""

    since: int
    told: int  # up to where the suspicious stretch has been told
    waiting: int  # unusual readings not told yet
    context: NotRequired[str]  # where it was raised, for what belongs to the camera and not to a context


class Cell(TypedDict):
    """One detector's memory under one baseline."""

    state: State
    finding: Finding | None
    origin: NotRequired[Origin]  # which frames taught it; absent for traffic rules, and where it is not known


@dataclass
class Explanation:
    """Of drift in the frame `now`: since when something else explains it, if anything does, and whether an attack is suspected."""

    now: int
    since: int | None = None
    suspected: bool = False

    def add(self, cell: Cell | None) -> None:
        """Take in a detector or rule whose finding explains drift."""
        if cell is None or cell["finding"] is None:
            return
        begin = cell["finding"]["since"]
        self.since = begin if self.since is None else min(begin, self.since)

    def suspect(self, detector: Detector, cell: Cell | None) -> None:
        """Take in what a detector of attacks suspects; an old suspicion counts no more."""
        if isinstance(detector, Evasion) and cell is not None:
            since = detector.suspects(cell["state"])
            self.suspected = since is not None and self.now - since < HELD

    def pardon(self, detector: Detector, cell: Cell) -> Cell:
        """Take back what a drift detector made of frames before they were explained: its evidence, and its alarm if it has one."""
        finding = cell["finding"]
        told_before = finding is not None and self.since is not None and finding["told"] < self.since
        if told_before or not isinstance(detector, Drift | EmbeddingDrift):
            return cell
        return {**cell, "state": detector.pardon(cell["state"]), "finding": None}
