"""Forward passes that fit into memory: as many pictures at once as there is room for, fewer where there was not.

It decides how a batch is cut; refuses to give up a batch because one pass did not fit: it halves the pass and goes on, and grows
again after many that did. Only a picture that does not fit alone comes back without a view. Used by the judge for all networks.

Source: issue 4, "Worker" (survives out-of-memory); the texts are those of CPython, PyTorch 2.12 and onnxruntime 1.22.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from inference.service.models import Network
from inference.service.serving import View
from streams.sources.base import Picture

ROOM_PX = 4 * 1024 * 1024
"""Pixels in one forward pass at most, for which CSP-nano takes about 1 GB; a picture that is larger goes alone."""
_GROW_AFTER = 256
_SIGNS = ("out of memory", "bad_alloc", "bad allocation", "failed to allocate", "can't allocate", "unable to allocate")


@dataclass
class Forward:
    """Looks at pictures within `most_px` pixels a pass. `shortages` counts the passes that did not fit."""

    most_px: int = ROOM_PX
    shortages: int = 0
    _room_px: int = field(init=False)
    _fitted: int = 0

    def __post_init__(self) -> None:
        self._room_px = self.most_px

    def look(self, network: Network, pictures: Sequence[Picture]) -> list[View | None]:
        """Views of same-sized pictures in order; None where a picture did not fit into memory even alone.

        Raises what the network raises, unless it is short of memory.
        """
        views: list[View | None] = []
        while len(views) < len(pictures):
            size_px = pictures[0].shape[0] * pictures[0].shape[1]
            part = pictures[len(views) : len(views) + max(1, self._room_px // size_px)]
            try:
                views += network.look(part)
                self._fits()
            except Exception as error:
                if not out_of_memory(error):
                    raise
                self.shortages += 1
                self._fitted = 0
                self._room_px = size_px * max(1, len(part) // 2)
                if len(part) == 1:
                    views.append(None)
        return views

    def _fits(self) -> None:
        self._fitted += 1
        if self._fitted >= _GROW_AFTER and self._room_px < self.most_px:
            self._room_px, self._fitted = min(self.most_px, self._room_px * 2), 0


def out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: Python's own error, or what torch and onnxruntime raise as a runtime error with a text."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _SIGNS)
