"""The training samples that vetting held back, as a report lists them.

It decides which ones are listed, the worst first, and in which words; it refuses to list thousands: the bundle has all. Pure; no
topic feeds it.

Source: paper 4.5.2 (data poisoning), 4.7 (incident analysis).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from responders.proof.samples import SampleFact

LISTED = 50
_SHORT = 12


@dataclass(frozen=True)
class HeldBack:
    """One sample: the beginning of its id, its name, what became of it, all that was found."""

    id: str
    name: str
    state: str
    said: str


def held_back(samples: Sequence[SampleFact]) -> tuple[HeldBack, ...]:
    """The worst `LISTED` of them."""
    worst = sorted(samples, key=lambda one: (-one.worst.score, one.id))[:LISTED]
    return tuple(
        HeldBack(
            one.id[:_SHORT],
            f"{one.pool}/{one.name}",
            f"{one.standing} by {one.reviewed_by}" if one.reviewed_by else one.standing,
            "; ".join(
                f"{said.stage} {said.score:.2f}: {said.reason}" for said in sorted(one.findings, key=lambda said: -said.score)
            ),
        )
        for one in worst
    )
