"""What kind of trouble a camera is in: attack, weather, another place, a broken camera, a broken model, poisoned data, or load.

Decides by adding up clues: each speaks for or against one kind with a weight, in natural logarithms of odds, and says in a sentence
what it saw. What is known are the findings that are open on the camera and what it shows lately (`lately.py`). It refuses to call
anything weather while there is a sign of an attack: an error to that side would leave people at risk. It opens and closes nothing;
the watch puts its word on every signal. No topic feeds it; pure, without a clock.

Weights were set on drills of the round "tuning" of `kerbwatch bench triage` and tried on others (docs/triage.md).

Source: paper 4.7 (incident analysis); additive log odds after Good 1950 (weight of evidence).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from detectors.triage.lately import Lately
from streams.events import Cause, Diagnosis

ATTACK_SIGN = 0.8
"""Probability of adversarial input from which on nothing is called weather."""
_TEMPER = 0.8
"""How much of the summed weights the confidence believes: clues depend on one another."""
_PICTURES = ("drift-brightness", "drift-contrast", "drift-sharpness")
_SETTLED = 10  # frames after which a change is called anything but an attack
_UNLIKELY = 0.3  # probability of adversarial input below which a frame does not look attacked, whatever is usual here
_ENOUGH = 8  # samples since a change that say what it is not
_OTHER_LAYOUT = 0.75  # agreement of layouts below which it is another place
_FRESH = 600  # frames for which weights are new: two minutes at 5 frames/s
_LEAST = 0.5  # weight of the winning kind below which nothing is said


@dataclass(frozen=True)
class Clue:
    """One thing seen, and how much it speaks for a kind (against it if negative)."""

    cause: Cause
    weight: float
    words: str


Open = Mapping[str, str]
"""Detectors whose finding is open on the camera, with their words ("" where a detector has none)."""


def diagnose(found: Open, lately: Lately) -> Diagnosis | None:
    """The kind of trouble that the clues speak for most.

    Args:
        found: the camera's open findings.
        lately: what it shows beside what is usual.

    Returns:
        The diagnosis, with its three strongest clues in words; None where nothing speaks for any kind, and while a change has just
        begun: what it is shows in its first two seconds.
    """
    clues = list(chain(*(look(found, lately) for look in _LOOKS)))
    totals = {cause: sum(clue.weight for clue in clues if clue.cause is cause) for cause in Cause}
    if attacked(found, lately):
        totals[Cause.CORRUPTION] = min(totals[Cause.CORRUPTION], totals[Cause.ATTACK] - 1.0)
    best = max(totals, key=lambda cause: totals[cause])
    hasty = 0 < lately.off < _SETTLED and not (best is Cause.ATTACK and attacked(found, lately))
    if totals[best] < _LEAST or hasty:
        return None
    odds = [math.exp(_TEMPER * (total - totals[best])) for total in totals.values()]
    return Diagnosis(cause=best, confidence=round(1.0 / sum(odds), 3), evidence=_words(clues, totals, best, lately))


def attacked(found: Open, lately: Lately) -> bool:
    """Whether there is a sign of adversarial input: the detector alarms, or samples look like it, or do so more than usual."""
    if lately.attack is not None and lately.attack >= ATTACK_SIGN:
        return True
    if "evasion" in found:
        return not _weather_moved_it(lately)
    if _only_detail(lately) and lately.samples < _ENOUGH:
        return True
    least = 0.8 if lately.samples > 3 else 1.5  # noqa: PLR2004 a logit that calm samples hardly reach so often
    return lately.samples > 1 and lately.peak >= _UNLIKELY and lately.rise >= (least / 2 if _only_detail(lately) else least)


def _weather_moved_it(lately: Lately) -> bool:
    """Whether weather explains an evasion alarm: the picture changed, and no frame sampled since looks attacked.

    None, not only most of them: an attack on one frame in ten cannot hide among the calm ones between. And more than fine detail
    must have changed, or have come gradually: that alone is what a perturbation does.
    """
    if _only_detail(lately):
        return False
    unlikely = lately.peak < (0.5 if lately.rise < 0.0 else _UNLIKELY)
    return lately.samples >= _ENOUGH and unlikely and lately.picture > 3  # noqa: PLR2004 spreads


def _only_detail(lately: Lately) -> bool:
    """Fine detail rose at once and nothing else changed: what a perturbation does, and faint noise that begins on one frame."""
    others = max(abs(lately.brightness), abs(lately.contrast))
    return lately.sharpness > 3 and lately.sudden > 0.8 and others < 3 and lately.sharpness_share < 2.5  # noqa: PLR2004 as drills show


def _words(clues: list[Clue], totals: Mapping[Cause, float], best: Cause, lately: Lately) -> tuple[str, ...]:
    """What speaks for the kind, the strongest first; then what speaks against the next ones; then what is as usual."""
    own = [clue.words for clue in sorted(clues, key=lambda clue: -clue.weight) if clue.cause is best and clue.weight > 0]
    others = sorted((clue for clue in clues if clue.cause is not best and clue.weight < 0), key=lambda clue: -totals[clue.cause])
    against = [f"Not {_NAMES[clue.cause]}: {clue.words}" for clue in others]
    return tuple(text[:300] for text in dict.fromkeys([*own, *against, *_usual(lately)]))[:3]


_NAMES = {
    Cause.ATTACK: "an attack", Cause.CORRUPTION: "weather or light", Cause.CONTEXT: "another place", Cause.CAMERA: "the camera",
    Cause.MODEL: "the model", Cause.POISON: "poisoned data", Cause.LOAD: "load",
}  # fmt: skip


def _usual(lately: Lately) -> tuple[str, ...]:
    """What can be said when little else can."""
    return (
        f"Frames are judged {lately.waited_s:.1f} s later than usual.",
        f"The picture's light, contrast and detail lie within {lately.picture:.1f} spreads of usual.",
        f"The layout of the picture agrees with the usual one to {max(0.0, lately.layout):.0%}.",
    )


def _attack(found: Open, lately: Lately) -> Iterator[Clue]:
    # what is usual was learned at another place, unless an attack is plain whatever is usual
    strange_here = _elsewhere(lately) and (lately.attack is None or lately.attack < ATTACK_SIGN)
    if "evasion" in found:
        weight = 1.5 if strange_here or lately.newcomer < _FRESH or _weather_moved_it(lately) else 3.0
        words = "The model sees otherwise at a second look, as it does under attack: the evasion detector alarms."
        yield Clue(Cause.ATTACK, weight, words)
    if lately.samples > 3 and lately.rise and not strange_here:  # noqa: PLR2004 fewer may be chance
        times = math.exp(max(-9.0, min(9.0, lately.rise)))
        words = (
            f"Since the change, sampled frames look adversarial with {times:.1f} times the odds that this camera's usually have."
        )
        yield Clue(Cause.ATTACK, max(-2.0, min(3.0, 2.0 * lately.rise - 0.8)), words)
    elif lately.attack is not None:
        sign = lately.attack
        words = f"Frames lately sampled look adversarial with probability {sign:.2f}."
        yield Clue(Cause.ATTACK, 3.0 * (sign - 0.5) if sign > 0.5 else 2.0 * (sign - 0.5), words)  # noqa: PLR2004 even odds
    same_light = lately.known and abs(lately.brightness) < 4 and lately.layout > 0.9  # noqa: PLR2004 as drills show
    if attacked(found, lately) and same_light and lately.newcomer >= _FRESH:
        yield Clue(Cause.ATTACK, 1.0, "Light and layout of the picture are as usual: the change is in its fine detail.")
    if _only_detail(lately):
        words = f"Fine detail rose at once to {lately.sharpness_share:.1f} times its usual amount; nothing else changed."
        yield Clue(Cause.ATTACK, 1.5, words)
    if "senders" in found:
        yield Clue(Cause.ATTACK, 4.0, f"Two senders use the camera's name: {found['senders']}.")
    if "replayed" in found:
        yield Clue(Cause.ATTACK, 4.0, f"Old pictures are sent as new ones: {found['replayed']}.")
    if "holes" in found:
        yield Clue(Cause.ATTACK, 1.5, f"Frames are taken out on the way: {found['holes']}.")
    if "chaff" in found:
        yield Clue(Cause.ATTACK, 1.5, f"Alarms are set off over and over: {found['chaff']}.")


def _corruption(found: Open, lately: Lately) -> Iterator[Clue]:
    if not lately.known:
        return
    if lately.picture > 3:  # noqa: PLR2004 spreads
        weight = 1.5 if lately.picture > 6 else 1.0  # noqa: PLR2004 spreads
        yield Clue(Cause.CORRUPTION, weight, f"{_most(lately)} {lately.picture:.0f} spreads from usual.")
        if lately.layout >= _OTHER_LAYOUT:
            yield Clue(Cause.CORRUPTION, 1.5, f"The camera looks at the same place: the layout agrees to {lately.layout:.0%}.")
        if 0 < lately.sudden < 0.6:  # noqa: PLR2004 as drills show
            yield Clue(Cause.CORRUPTION, 1.5, "The change came gradually, as weather and light do.")
    else:
        yield Clue(Cause.CORRUPTION, -2.0, f"light, contrast and detail lie within {lately.picture:.1f} spreads of usual.")
    if lately.attack is not None and lately.attack < 0.3 and lately.picture > 3:  # noqa: PLR2004 as drills show
        yield Clue(Cause.CORRUPTION, 0.7, f"Sampled frames do not look adversarial (probability {lately.attack:.2f}).")
    del found


def _place(found: Open, lately: Lately) -> Iterator[Clue]:
    if "claim" in found:
        yield Clue(Cause.CONTEXT, 6.0, f"The claimed context does not fit: {found['claim']}.")
    if not lately.known:
        return
    if _elsewhere(lately):
        words = f"The camera looks elsewhere: the layout agrees with the usual one to only {max(0.0, lately.layout):.0%}."
        yield Clue(Cause.CONTEXT, 2.5 + 4.0 * (_OTHER_LAYOUT - max(0.0, lately.layout)), words)
        if lately.sudden > 0.8:  # noqa: PLR2004 as drills show
            yield Clue(Cause.CONTEXT, 1.0, "The picture changed from one frame to the next, and is a picture still.")
    if "drift-embedding" in found and lately.picture < 3:  # noqa: PLR2004 spreads
        words = "Light and detail are as usual, and yet the model makes something else of the picture: it shows other things."
        yield Clue(Cause.CONTEXT, 1.5 if lately.layout < 0.9 else 0.8, words)  # noqa: PLR2004 as drills show
    elif lately.layout > 0.9:  # noqa: PLR2004 as drills show
        yield Clue(Cause.CONTEXT, -2.0, f"the layout agrees with the usual one to {lately.layout:.0%}.")
    if lately.moved < 300 and "claim" in found:  # noqa: PLR2004 a minute at 5 frames/s
        yield Clue(Cause.CONTEXT, 1.0, f"The camera began to claim another context {lately.moved} frames ago.")


def _elsewhere(lately: Lately) -> bool:
    """Whether the camera looks at another place than usual."""
    return lately.known and lately.layout < _OTHER_LAYOUT and _is_picture(lately)


def _is_picture(lately: Lately) -> bool:
    """Whether it may be a view of something: neither flat, nor partly still, nor full of specks."""
    flat = lately.contrast_share < 0.3 or lately.level < 0.06 or lately.level > 0.95  # noqa: PLR2004 as drills show
    return not (flat or _torn(lately) or lately.dead > 0.2 or lately.sharpness_share > 4)  # noqa: PLR2004 as drills show


def _torn(lately: Lately) -> bool:
    """Whether rows or columns are shifted against one another: on average they are all alike, and yet full of edges."""
    return lately.striped > 0.5 and lately.sharpness_share > 1.5  # noqa: PLR2004 as drills show


def _camera(found: Open, lately: Lately) -> Iterator[Clue]:
    if "frozen" in found:
        yield Clue(Cause.CAMERA, 6.0, f"The picture stands still: {found['frozen']}.")
    if "lag" in found:
        yield Clue(Cause.CAMERA, 3.0, f"The camera's clock is off: {found['lag']}.")
    if not lately.known:
        return
    if lately.dead > 0.2 and lately.moves > 0.02 and "rate" not in found:  # noqa: PLR2004 as drills show
        yield Clue(Cause.CAMERA, 4.0, f"{lately.dead:.0%} of the picture's cells do not move at all any more.")
    if lately.level < 0.06 or lately.level > 0.95:  # noqa: PLR2004 black, white
        colour = "black" if lately.brightness < 0 else "white"
        yield Clue(Cause.CAMERA, 3.0, f"The picture is all but {colour} (brightness {lately.level:.2f}).")
    if lately.contrast_share < 0.25 and lately.sudden > 0.8:  # noqa: PLR2004 as drills show
        yield Clue(Cause.CAMERA, 2.0, f"Contrast fell at once to {lately.contrast_share:.0%} of usual.")
    yield from _specks(lately)


def _specks(lately: Lately) -> Iterator[Clue]:
    """Pictures of which a part is no view of anything."""
    if _torn(lately):
        yield Clue(Cause.CAMERA, 5.0, "Rows or columns of the picture are all alike, and full of edges: it is torn.")
    if lately.moves > 4 and lately.layout < 0.8:  # noqa: PLR2004 as drills show
        yield Clue(Cause.CAMERA, 1.5, f"Cells change {lately.moves:.0f} times as much from frame to frame as usual.")
    if lately.sharpness_share > 4 and lately.sudden > 0.8:  # noqa: PLR2004 as drills show
        words = f"Fine detail rose at once to {lately.sharpness_share:.0f} times its usual amount: specks, not a scene."
        yield Clue(Cause.CAMERA, 2.0 * math.log2(lately.sharpness_share / 4.0), words)
        if lately.contrast_share > 1.5 and lately.moves > 1.6:  # noqa: PLR2004 as drills show
            yield Clue(Cause.CAMERA, 2.0, f"Contrast rose to {lately.contrast_share:.1f} times with it, and every cell flickers.")


def _model(found: Open, lately: Lately) -> Iterator[Clue]:
    if lately.stranger:
        yield Clue(Cause.MODEL, 6.0, "The weights that answer are not those that the context's order names.")
    if "answers" in found:
        yield Clue(Cause.MODEL, 2.5, f"The model's answers do not fit: {found['answers']}.")
    steady = lately.known and lately.picture < 3  # noqa: PLR2004 spreads
    if steady and lately.inner > 100:  # noqa: PLR2004 attacks reach 25
        yield Clue(
            Cause.MODEL, 6.0, f"In usual pictures the model's inner features lie {math.sqrt(lately.inner):.0f} spreads from usual."
        )
    if not lately.seen:
        return
    if steady and lately.blank:
        yield Clue(Cause.MODEL, 4.0, f"The model sees as good as nothing ({lately.heat:.0%} of its usual heat).")
    if steady and lately.heat > 4:  # noqa: PLR2004 as drills show
        yield Clue(Cause.MODEL, 4.0, f"The model sees {lately.heat:.0f} times as much as usual.")
    if steady and (lately.blank or lately.heat > 4):  # noqa: PLR2004 same
        # an attack that moves answers so far leaves traces in fine detail
        weight = 2.5 if lately.picture < 1.5 else 1.5  # noqa: PLR2004 spreads
        words = f"The pictures are as usual (within {lately.picture:.1f} spreads): only the answers changed."
        yield Clue(Cause.MODEL, weight, words)
        if lately.newcomer < _FRESH:
            yield Clue(Cause.MODEL, 1.0, f"The weights that answer are new here: {lately.newcomer} frames by them so far.")


def _poison(found: Open, lately: Lately) -> Iterator[Clue]:
    if "newcomer" in found:
        yield Clue(Cause.POISON, 2.5, f"A new model misses people: {found['newcomer']}.")
    if lately.agreement < 0.85:  # noqa: PLR2004 as drills show
        yield Clue(Cause.POISON, 1.5, f"Two models agree on the same frames only to {lately.agreement:.2f} (F1).")
        if lately.missed > 0.25:  # noqa: PLR2004 as drills show
            yield Clue(Cause.POISON, 2.0, f"The new model does not see {lately.missed:.0%} of the people that the other sees.")
    if lately.newcomer < _FRESH and lately.seen and not lately.blank and lately.heat < 0.8 and _nearly_usual(lately):  # noqa: PLR2004 as drills show
        words = f"Since another model answers, it sees {lately.heat:.0%} of the usual heat in pictures that are nearly as usual."
        yield Clue(Cause.POISON, 1.5 + 2.0 * (0.8 - lately.heat), words)
        if lately.people < 0.5:  # noqa: PLR2004 as drills show
            yield Clue(Cause.POISON, 1.0, f"Of the usual number of people the new model sees {lately.people:.0%}.")


def _nearly_usual(lately: Lately) -> bool:
    """Whether a picture is as usual, but for a little detail more at most: what people wear to be missed shows there."""
    worn = lately.sharpness > 0 and lately.sharpness_share < 1.3 and max(abs(lately.brightness), abs(lately.contrast)) < 3  # noqa: PLR2004 as drills show
    return lately.known and (lately.picture < 3 or worn)  # noqa: PLR2004 spreads


def _load(found: Open, lately: Lately) -> Iterator[Clue]:
    if "rate" in found:
        yield Clue(Cause.LOAD, 4.0, f"Frames come at another rate: {found['rate']}.")
    if lately.refused > 2:  # noqa: PLR2004 one may be a second sender's
        yield Clue(Cause.LOAD, 3.0, f"{lately.refused:.0f} messages are refused for each that passes.")
    if lately.waited_s > 15:  # noqa: PLR2004 a batch takes a second
        weight = 3.0 + min(2.0, math.log2(lately.waited_s / 15.0))
        yield Clue(Cause.LOAD, weight, f"Frames wait {lately.waited_s:.0f} s longer than usual to be judged.")


_LOOKS = (_attack, _corruption, _place, _camera, _model, _poison, _load)


def _most(lately: Lately) -> str:
    """Which of the picture's numbers is farthest from usual, as the beginning of a sentence."""
    parts = {
        "Brightness": lately.brightness,
        "Contrast": lately.contrast,
        "Fine detail": lately.sharpness,
    }
    name = max(parts, key=lambda part: abs(parts[part]))
    return f"{name} is {'higher' if parts[name] > 0 else 'lower'}:"
