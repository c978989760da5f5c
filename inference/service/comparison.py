"""How far two models agree about one frame: what a candidate's life in shadow and canary is watched by.

It only counts; whether a candidate agrees enough is the responder's to judge (`responders.rollouts.comparison`). Pure. It ends in
`Detections.compared`.

Source: paper 4.6 (staged deployment with performance validation); greedy matching at IoU 0.5 as in PASCAL VOC.
"""

from collections.abc import Sequence

from streams.events import Box, Comparison

_IOU = 0.5


def compare(answered: Sequence[Box], second: Sequence[Box], digest: str, infer_ms: float) -> Comparison:
    """The event's record of a second model's boxes beside those that were answered with. `digest`: the second model's."""
    return Comparison(
        weights_digest=digest,
        people=len(second),
        score_mean=sum(box.score for box in second) / len(second) if second else 0.0,
        agreement=agreement(answered, second),
        infer_ms=infer_ms,
    )


def agreement(one: Sequence[Box], other: Sequence[Box]) -> float:
    """F1 of two sets of boxes matched one to one at IoU 0.5, best overlap first; 1 if both are empty. Symmetric."""
    if not one and not other:
        return 1.0
    overlaps = sorted(((iou(a, b), m, n) for m, a in enumerate(one) for n, b in enumerate(other)), reverse=True)
    taken_one: set[int] = set()
    taken_other: set[int] = set()
    for overlap, m, n in overlaps:
        if overlap < _IOU:
            break
        if m not in taken_one and n not in taken_other:
            taken_one.add(m)
            taken_other.add(n)
    return 2 * len(taken_one) / (len(one) + len(other))


def iou(one: Box, other: Box) -> float:
    """Shared area over the area of both together, 0..1."""
    wide = min(one.x_px + one.w_px, other.x_px + other.w_px) - max(one.x_px, other.x_px)
    tall = min(one.y_px + one.h_px, other.y_px + other.h_px) - max(one.y_px, other.y_px)
    shared = max(0.0, wide) * max(0.0, tall)
    return shared / (one.w_px * one.h_px + other.w_px * other.h_px - shared)
