"""What of a judged frame the detectors read: a `Detections` event in, one observation per feature out.

Decides which numbers exist for a frame; refuses to invent one: a score that was not measured is absent, never zero. Also what
the traffic rules see of it.
Topic: detections.
"""

import math
import struct

from detectors import calibration
from detectors.base import Observation
from detectors.traffic.sighting import Sighting
from detectors.triage.layout import CELLS
from streams.events import Context, Detections, InputScores

PICTURE = frozenset({"brightness", "contrast", "sharpness"})
"""Features of the picture alone, whichever weights judged it."""
VIEW = frozenset({"people", "heat", "score_mean", "score_max", "height_mean_px"})
"""Features of the serving model's view: comparable only under the same weights."""
_LITTLE_HEAT = 5e-4  # of the centre map: where nobody is seen, rounding decides
ATTACK = "attack_probability"
INPUT = frozenset({ATTACK})
"""What input scores, measured against the context's normal weights, come to."""
_GENERIC = "by the generic calibration: these weights have none of their own"


def observations(event: Detections, offset: int = 0) -> dict[str, Observation]:
    """The frame's readings by feature name.

    `offset` is added to the frame's sequence, so that sequences keep growing over a camera's restarts. Scores and heights exist
    only where a person was found, the probability of an attack only where the frame was sampled.
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
    readings = {name: Observation(sequence, time_s, value) for name, value in values.items()}
    if features.embedding:
        readings["embedding"] = Observation(sequence, time_s, math.hypot(*features.embedding), parts=features.embedding)
    looked = look(event.scores, event.context, sequence, time_s)
    if looked is not None:
        readings[ATTACK] = looked
    return readings


def look(scores: InputScores, context: Context, sequence: int, time_s: float) -> Observation | None:
    """What a second look at a frame says, as the detector `evasion` reads it; None where there was none."""
    judged = calibration.judge(scores, context)
    if judged is None:
        return None
    return Observation(sequence, time_s, judged.probability, beside(scores), _GENERIC if judged.generic else "")


def beside(scores: InputScores) -> tuple[float, ...]:
    """How far the view moved at the second look; the same for the heat that was there to move; what is half seen for that heat.

    The last two are logarithms: a street that fills with people moves more, and no further for each of them.
    """
    moved, heat, weak = scores.inconsistency, scores.heat, scores.weak
    if moved is None or heat is None or weak is None:
        return ()
    there = heat + _LITTLE_HEAT
    stirred = max(-math.log(max(1.0 - moved, _LITTLE_HEAT)), _LITTLE_HEAT)
    return moved, math.log(stirred / there), math.log((weak + _LITTLE_HEAT) / there)


def sighting(event: Detections, offset: int = 0, raised: tuple[str, ...] = ()) -> Sighting:
    """The frame as traffic rules see it.

    `offset` as above; `raised` names the detectors that raised on this frame. A fingerprint of another size than 8 x 8 is none.
    """
    features, camera_s = event.features, event.camera_time.timestamp()
    told = features.fingerprint
    return Sighting(
        sequence=event.sequence + offset,
        time_s=camera_s,
        waited_s=event.time.timestamp() - camera_s,
        epoch=event.epoch,
        number=event.sequence,
        context=event.context,
        digest=event.weights_digest,
        refused=event.refused,
        cells=struct.unpack(f">{CELLS}H", told) if len(told) == 2 * CELLS else (),
        embedding=features.embedding,
        raised=raised,
    )
