"""Attacked pictures made ahead of time, for attacks that take longer than a camera has between two pictures.

It decides which stretch of a camera's future is attacked, far enough ahead to be ready. It refuses nothing: what an
attack cannot be made of comes from `streams.chaos`. No topic.

Source: paper 5.1.2, Table 6 (attacks and their combinations).
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from streams import chaos
from streams.attacks import Attack
from streams.drill.filming import FPS, Filmed, Prepared
from streams.errors import Unavailable
from streams.sources.base import Picture

PREPARED = chaos.WHITE_BOX - {"fgsm"}
"""Attacks of `kerbwatch chaos list` that are made ahead; FGSM is quick enough."""
_MARGIN_S = 3.0
_TRIES = 3


def prepare(
    camera: Filmed, parts: Sequence[str], pictures: int, means: chaos.Means, say: Callable[[str], None]
) -> tuple[int, int, list[Attack]]:
    """The first picture, how many, and the attack (one, for all parts in their order) that `camera` is to play.

    One picture is timed, and the stretch begins when the last will surely be ready; where it is not, all are made anew for later.
    Raises what `chaos.attack` raises, and Unavailable where the machine is too slow.
    """
    made = [chaos.attack(part, means) for part in parts]
    street = camera.street()
    rng = np.random.default_rng(0)
    name = "+".join(parts)

    def attacked(number: int) -> tuple[str, Picture]:
        shot = street.shot(number)
        picture = shot.picture
        for attack in made:
            picture = attack.on_picture(picture, shot, 0.0, rng)
        return shot.name, picture

    attacked(camera.shown)  # the first call loads what is loaded once
    began = time.monotonic()
    attacked(camera.shown + 1)
    each_s = time.monotonic() - began
    for _ in range(_TRIES):
        first = camera.shown + round((1.5 * each_s * pictures + _MARGIN_S) * FPS)
        found, began = {}, time.monotonic()
        for number in range(first, first + pictures):
            say(f"making {name} for {camera.camera_id}: picture {number - first + 1} of {pictures}")
            shot_name, picture = attacked(number)
            found[shot_name] = picture
        if camera.shown < first:
            return first, pictures, [Prepared(name, found, lossless=any(attack.lossless for attack in made))]
        each_s = (time.monotonic() - began) / pictures  # the machine is busier than it was
    raise Unavailable(
        f"{pictures} pictures of {name} took longer than foreseen {_TRIES} times: the machine is too busy for this drill"
    )
