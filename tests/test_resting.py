"""A finding about what weights see is over when others judge in their place and enough of that is usual; never by silence."""

import json
import random
from typing import Any

import msgspec
import pytest
from looks import look
from test_detectors import NORMAL, SAFE, judged, story

from detectors.resting import FRAMES, LOOKS, rest
from streams.events import Detections, InputScores, Kind, Mode, Phase, Signal

NEXT = "d" * 64
FOG = 700
"""Where it begins: all have learned."""


def clear(number: int, *, digest: str = NORMAL, contrast: float = 0.2, heat: float = 0.02) -> Detections:
    """As usual."""
    draw = random.Random(number)
    return judged(number, digest=digest, contrast=contrast + 0.01 * draw.random(), heat=heat + 0.004 * draw.random())


def foggy(number: int, *, digest: str = NORMAL, picture: bool = True) -> Detections:
    """The model sees something else, and the picture is flatter where it shows there too."""
    return clear(number, digest=digest, contrast=0.12 if picture else 0.2, heat=0.06)


@pytest.fixture(scope="module")
def drifted() -> tuple[dict[str, Any], list[Signal]]:
    """A camera's state three hundred frames into the fog."""
    return story([clear(n) if n < FOG else foggy(n) for n in range(FOG + 300)])


def said(signals: list[Signal], detector: str = "drift-heat") -> list[Phase]:
    return [one.phase for one in signals if one.detector == detector and one.phase is not Phase.ONGOING]


def promoted(event: Detections) -> Detections:
    """The same frame where `NEXT` is the normal model."""
    scores = event.scores
    if scores.inconsistency is not None:
        scores = msgspec.structs.replace(scores, reference_digest=NEXT)
    else:
        scores = InputScores(reference_digest=NEXT)
    return msgspec.structs.replace(event, weights_digest=NEXT, mode=Mode.NORMAL, scores=scores)


def test_drift_found_by_the_normal_model_is_over_in_safe_mode_once_the_pictures_are_usual_for_long(
    drifted: tuple[dict[str, Any], list[Signal]],
) -> None:
    state, before = drifted
    assert {one.detector for one in before if one.phase is Phase.RAISED} >= {"drift-heat", "drift-contrast"}
    state, fog = story([foggy(n, digest=SAFE) for n in range(1000, 1900)], state)
    assert said(fog) == []
    assert {one.phase for one in fog} == {Phase.ONGOING}
    state, cleared = story([clear(n, digest=SAFE) for n in range(1900, 3200)], json.loads(json.dumps(state)))
    (picture,) = [one for one in cleared if one.phase is Phase.CALM and one.detector == "drift-contrast"]
    (view,) = [one for one in cleared if one.phase is Phase.CALM and one.detector == "drift-heat"]
    assert (view.time - picture.time).total_seconds() == pytest.approx(FRAMES / 4, abs=1.0)
    assert view.weights_digest == NORMAL
    assert "judge no more" in view.message
    assert view.window.last_sequence == max(one.window.last_sequence for one in before if one.detector == "drift-heat")
    _, after = story([clear(n) for n in range(3200, 3700)], state)
    assert [*said(cleared), *said(after)] == [Phase.CALM], (
        "the safe model learned nothing of the fog, the normal one forgot nothing"
    )


def test_weights_that_serve_again_and_still_find_the_change_raise_it_anew(drifted: tuple[dict[str, Any], list[Signal]]) -> None:
    state, _ = drifted
    state, usual = story([clear(n, digest=SAFE) for n in range(1000, 1200 + 2 * FRAMES)], state)
    assert said(usual) == [Phase.CALM]
    _, again = story([foggy(n, picture=False) for n in range(1200 + 2 * FRAMES, 1500 + 2 * FRAMES)], state)
    assert said(again) == [Phase.RAISED]


def test_drift_that_only_a_promoted_model_leaves_behind_is_over_by_the_pictures_and_not_before() -> None:
    learned, before = story([clear(n) if n < FOG else foggy(n, picture=False) for n in range(FOG + 200)])
    assert said(before) == [Phase.RAISED]
    state, signals = story([promoted(clear(n)) for n in range(900, 900 + FRAMES - 1)], learned)
    assert said(signals) == []
    _, signals = story([promoted(clear(900 + FRAMES - 1))], state)
    assert said(signals) == [Phase.CALM]


def attacked(number: int) -> Detections:
    return msgspec.structs.replace(judged(number), scores=look(NORMAL, attacked=True, wobble=0.0))


def test_an_attack_on_a_model_that_was_replaced_is_over_by_usual_looks_of_the_new_one_and_by_no_silence() -> None:
    under_attack, before = story([judged(n) if n < 200 else attacked(n) for n in range(260)])
    assert said(before, "evasion") == [Phase.RAISED]
    unlooked = [msgspec.structs.replace(promoted(judged(n)), scores=InputScores(reference_digest=NEXT)) for n in range(260, 500)]
    state, signals = story(unlooked, under_attack)
    assert said(signals, "evasion") == []
    looked = [promoted(judged(n)) for n in range(500, 500 + 4 * (LOOKS + 20), 4)]
    _, signals = story(looked, state)
    assert said(signals, "evasion") == [Phase.CALM]
    (calm,) = [one for one in signals if one.kind is Kind.EVASION]
    assert calm.weights_digest == NORMAL
    _, both = story([promoted(attacked(n)) for n in range(260, 300)], under_attack)
    assert said(both, "evasion") == [Phase.RAISED], "one finding goes over into the other"


def test_a_safe_model_that_stands_in_for_the_reference_proves_nothing_of_the_normal_one() -> None:
    state, _ = story([judged(n) if n < 200 else attacked(n) for n in range(260)])
    stands_in = [
        msgspec.structs.replace(judged(n, digest=SAFE), scores=look(SAFE, attacked=False, wobble=0.1)) for n in range(260, 400)
    ]
    _, signals = story(stands_in, state)
    assert said(signals, "evasion") == []


def test_what_is_counted_for_one_context_waits_while_the_camera_films_the_other() -> None:
    counts = {f"highway/{NORMAL}/evasion": 7, f"highway/{NEXT}/evasion": 3}
    left, over = rest({f"highway/{NORMAL}": {}}, counts, clear(1), [])
    assert (left, over) == ({f"highway/{NORMAL}/evasion": 7}, []), "what has no baseline any more is forgotten"
