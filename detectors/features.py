"""What of a judged frame the detectors read: a `Detections` event in, one observation per feature out.

Decides which numbers exist for a frame; refuses to invent one: a score that was not measured is absent, never zero.
Topic: detections.
"""

from detectors.base import Observation
from streams.events import Detections

PICTURE = frozenset({"brightness", "contrast", "sharpness"})
"""Features of the picture alone, whichever weights judged it."""
VIEW = frozenset({"people", "heat", "score_mean", "score_max", "height_mean_px"})
"""Features of the serving model's view: comparable only under the same weights."""
INPUT = frozenset({"inconsistency"})
"""Input scores, measured against the context's normal weights."""


def observations(event: Detections, offset: int = 0) -> dict[str, Observation]:
    """The frame's readings by feature name.

    `offset` is added to the frame's sequence, so that sequences keep growing over a camera's restarts. Scores and heights exist
    only where a person was found, the inconsistency only where the frame was sampled.
    """
    sequence, time_s, features = event.sequence + offset, event.camera_time.timestamp(), event.features
    values = {
        "brightness": features.brightness,
        "contrast": features.contrast,
        "sharpness": features.sharpness,
        "people": float(features.people),
        "heat": features.heat,
    }
    if features.people:
        values |= {"score_mean": features.score_mean, "score_max": features.score_max, "height_mean_px": features.height_mean_px}
    if event.scores.inconsistency is not None:
        values["inconsistency"] = event.scores.inconsistency
    return {name: Observation(sequence, time_s, value) for name, value in values.items()}
