"""What the attacks' norms come to on drawn pictures, after rounding to 8 bits and after JPEG: the table of docs/adversarial.md."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from inference.attacks.deepfool import RADIUS, deepfool
from inference.attacks.gradient import fgsm, pgd
from inference.attacks.norms import Norms, norms
from inference.attacks.objectives import Objective
from inference.attacks.patch import Place, patch
from inference.networks.csp_nano import CspNano, from_bytes
from inference.provenance.registry import SHIPPED
from inference.training.samples import Sample, streets
from streams.events import Context
from streams.sources.base import Picture
from streams.sources.scenery import Weather

EPS = 8
JPEGS = (None, 92, 75)
ROUNDING = 0.29  # root mean square of a uniform error of half a level
Attack = Callable[[CspNano, Sample], Picture]


def gradually(objective: Objective) -> Attack:
    return lambda network, one: pgd(network, [one.picture], [one.people], EPS / 255, 5, objective=objective)[0]


def pasted(place: Place, network: CspNano, one: Sample) -> Picture:
    return patch(network, one.picture, one.people, place, np.random.default_rng(7), steps=10).picture


ATTACKS: dict[str, Attack] = {
    "FGSM 8/255": lambda network, one: fgsm(network, one.picture, one.people, EPS / 255),
    "PGD 8/255, 5 steps": gradually(Objective.UNTARGETED),
    "hiding, PGD 8/255": gradually(Objective.HIDE),
    "appearing, PGD 8/255": gradually(Objective.APPEAR),
    "DeepFool 0.03": lambda network, one: deepfool(network, [one.picture], 0.03, [one.people], steps=10)[0],
    "patch on a person": partial(pasted, Place.PERSON),
    "patch beside people": partial(pasted, Place.BACKGROUND),
}


def measured(samples: Iterable[Sample]) -> dict[str, list[list[Norms]]]:
    """By attack: for each picture its norms as it is, after JPEG 92, after JPEG 75."""
    network, pictures = from_bytes((SHIPPED / "csp-nano.safetensors").read_bytes()), list(samples)
    assert all(any(not person.ignore for person in one.people) for one in pictures)
    return {
        name: [[norms(one.picture, hit, jpeg) for jpeg in JPEGS] for one in pictures for hit in (attack(network, one),)]
        for name, attack in ATTACKS.items()
    }


def row(name: str, found: list[list[Norms]]) -> str:
    """Largest L-inf and mean root mean square over the pictures, for each way of sending; then what JPEG left of the change."""
    by_way = list(zip(*found, strict=True))
    pairs = [f"{max(one.linf for one in some)} / {np.mean([one.rms for one in some]):.2f}" for some in by_way]
    kept = [f"{np.mean([one.kept for one in some]):.2f}" for some in by_way[1:]]
    return f"| {name} | {' | '.join(pairs)} | {' / '.join(kept)} |"


def test_no_attack_goes_further_than_it_says() -> None:
    for name, found in measured(streets(Context.URBAN, Weather.DAY, [2000], [40], size=(320, 160))).items():
        [[plain, good, bad]] = found
        assert plain.linf > 0, name
        assert 1.0 > good.kept >= bad.kept > 0, name
        if "8/255" in name:
            assert plain.linf == EPS, name
        elif "DeepFool" in name:
            assert plain.rms <= RADIUS + ROUNDING
        else:
            assert plain.changed < 0.06, name


@pytest.mark.slow
def test_the_documents_table_is_what_is_measured() -> None:
    """Another machine's arithmetic may move a number a little, no further."""
    document = (Path(__file__).parent.parent / "docs" / "adversarial.md").read_text()
    places = ((Weather.DAY, 2000), (Weather.FOG, 2001))
    for name, found in measured(one for weather, seed in places for one in streets(Context.URBAN, weather, [seed], [40])).items():
        fresh = row(name, found)
        told = next((line for line in document.splitlines() if line.startswith(f"| {name} |")), "")
        numbers = [[float(value) for cell in line.split("|")[2:-1] for value in cell.split("/")] for line in (told, fresh)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.1, abs=0.05), f"{told}\nis now\n{fresh}"
