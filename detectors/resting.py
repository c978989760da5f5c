"""Findings about the view of weights that judge a camera no more: when they are over.

Decides that after a switch to other weights (safe mode, promotion, roll-back), which leaves a finding with nobody to step it.
Refuses to take those weights' silence for calm: what still judges the camera must have found enough frames usual. Nobody else sees
with the eyes of weights that rest, so this is calm by the next best witness; should they serve again and still find the change,
they raise it anew. Topic: detections (through `watch.py`).

Source: README, promise 1; paper 4.6 (the way back from safe mode).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detectors.base import Status, Verdict
from detectors.catalogue import Baseline, Entry
from detectors.drift.embedding import EmbeddingDrift
from detectors.drift.explained import Cell, Finding
from detectors.drift.feature import Drift
from streams.events import Detections, Kind, Mode

FRAMES = 600
"""Frames that end a finding about a view: as many as a baseline is learned from, twice what ends an alarm."""
LOOKS = 24
"""Usual looks under the new reference that end an attack on the old one: more than end an alarm under the same weights."""

Baselines = Mapping[str, Mapping[str, Cell]]


@dataclass(frozen=True)
class Judged:
    """What one detector made of the frame: its verdict, None where it was not asked, and its cell afterwards."""

    verdict: Verdict | None
    cell: Cell | None

    @property
    def status(self) -> Status | None:
        """What it said."""
        return None if self.verdict is None else self.verdict.status

    @property
    def open(self) -> bool:
        """Whether it has a finding now."""
        return self.cell is not None and self.cell["finding"] is not None


@dataclass(frozen=True)
class Over:
    """A finding that is over: under which baseline, whose, and its cell from now on, None where nothing of it is kept.

    told: whether that is to be said; else the same detector's finding under other weights has taken its place.
    """

    baseline: str
    entry: Entry
    finding: Finding
    cell: Cell | None
    told: bool

    @property
    def words(self) -> str:
        """What proves it."""
        proof = (
            f"{LOOKS} looks under the new reference" if self.entry.baseline is Baseline.REFERENCE else f"{FRAMES} frames' pictures"
        )
        return f"{self.entry.reads}: the weights of this finding judge no more; {proof} were usual since"


def keeps_from_learning(baselines: Baselines, event: Detections) -> bool:
    """Whether what is seen now must not become the usual of the safe model: a change is open that was found before it served."""
    if event.mode is not Mode.SAFE:
        return False
    mine = [cells for key, cells in baselines.items() if key.startswith(f"{event.context}/")]
    return any(cell["finding"] is not None for cells in mine for cell in cells.values())


def rest(
    baselines: Baselines, counts: Mapping[str, int], event: Detections, judged: Sequence[tuple[Entry, Judged]]
) -> tuple[dict[str, int], list[Over]]:
    """One frame further for all findings of the event's context whose weights did not judge it.

    Args:
        baselines: cells by baseline ("context/digest") and detector.
        counts: what this returned for the frame before.
        event: the frame.
        judged: what each detector made of it.

    Returns:
        By baseline and detector, how much calm has been counted; and the findings that are over.
    """
    pictures = [one.status for entry, one in judged if entry.baseline is Baseline.PICTURE and entry.kind is Kind.DRIFT]
    usual = bool(pictures) and all(status is Status.NORMAL for status in pictures)
    troubled = any(one.open for _, one in judged)
    elsewhere = (place for place in counts if not place.startswith(f"{event.context}/"))  # a camera may go to and fro
    left = {place: counts[place] for place in elsewhere if place.rpartition("/")[0] in baselines}
    over = []
    for key, cells in baselines.items():
        context, digest = key.split("/")
        for entry, here in judged if context == event.context else ():
            cell = cells.get(entry.key)
            if cell is None or cell["finding"] is None or not _rests(entry, digest, event):
                continue
            place = f"{key}/{entry.key}"
            count = counts.get(place, 0)
            if entry.baseline is Baseline.REFERENCE:
                limit = LOOKS
                if here.open:
                    over.append(Over(key, entry, cell["finding"], None, told=False))
                    continue
                count = _looked(count, here.status, event)
            else:
                limit = FRAMES
                count = 0 if troubled else count + usual
            if count >= limit:
                over.append(Over(key, entry, cell["finding"], _pardoned(entry, cell), told=True))
            else:
                left[place] = count
    return left, over


def _rests(entry: Entry, digest: str, event: Detections) -> bool:
    match entry.baseline:
        case Baseline.PICTURE:
            return False
        case Baseline.SERVING:
            return digest not in {Baseline.PICTURE, event.weights_digest}
        case Baseline.REFERENCE:
            return digest not in {Baseline.PICTURE, event.scores.reference_digest}


def _looked(count: int, status: Status | None, event: Detections) -> int:
    """A safe model that stands in for a reference that does not load proves nothing of any normal model."""
    stands_in = event.mode is Mode.SAFE and event.weights_digest == event.scores.reference_digest
    if status in {None, Status.LEARNING, Status.REFUSED} or stands_in:
        return count
    return count + 1 if status is Status.NORMAL else 0


def _pardoned(entry: Entry, cell: Cell) -> Cell | None:
    detector = entry.detector
    if isinstance(detector, Drift | EmbeddingDrift):
        return {**cell, "state": detector.pardon(cell["state"]), "finding": None}
    return None  # it starts anew from its prior
