"""What a camera of the demonstration sends passes vetting while it is clean, and is held back once it is attacked."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest

from inference.attacks.gradient import fgsm
from inference.lifecycle.collect import Budget, LivePicture, Plan, labelled
from inference.lifecycle.traits import reference
from inference.lifecycle.vetting import Rules, ask, fit, known, vet
from inference.networks.csp_nano import CspNano
from inference.provenance.registry import Registry, shipped
from inference.service.serving import Served, load
from infra.settings import Settings
from streams.demo.retraining import GOLDEN_PLACES, SIZE, as_sent, received
from streams.events import Context, Mode
from streams.sources.base import Picture, Shot
from streams.sources.open import open_source

EPS = 0.03
RULES = Rules()
ENOUGH = 0.9
TAKEN = slice(0, 40, 10)


class Site:
    """The shipped models, and what each knows of the golden pictures that the demonstration makes."""

    def __init__(self, root: Path) -> None:
        registry = Registry(root)
        digests = shipped(registry)
        self.safe: Served = load(registry, digests[Mode.SAFE], threads=1)
        self.normal: Served = load(registry, digests[Mode.NORMAL], threads=1)
        self.white: CspNano = registry.network(digests[Mode.NORMAL])
        golden = as_sent(GOLDEN_PLACES[:3])  # twelve pictures: as few as teach limits
        self.known = {
            served: known(reference(golden), golden, list(ask(served, golden)), RULES) for served in (self.safe, self.normal)
        }

    def passing(self, pictures: Sequence[Picture]) -> float:
        """The share of live pictures that a retraining run may use, labelled and vetted as it does."""
        live = tuple(LivePicture(f"{number:016x}", "gate", picture) for number, picture in enumerate(pictures))
        plan = Plan("ab" * 16, "cd" * 16, Context.URBAN, "", "", Budget.SHORT, live, frozenset(), "responder")
        samples = labelled(plan, self.safe, self.normal)
        findings = [one for served, golden in self.known.items() for one in vet(samples, list(ask(served, samples)), golden, RULES)]
        return len(fit(samples, findings)[0]) / len(samples)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def shots() -> list[Shot]:
    width, height = SIZE
    source = open_source(f"street:urban?size={width}x{height}", Settings())
    return list(islice(source, TAKEN.start, TAKEN.stop, TAKEN.step))


def test_clean_live_pictures_pass(site: Site, shots: list[Shot]) -> None:
    assert site.passing([received(shot.picture) for shot in shots]) >= ENOUGH


def test_attacked_live_pictures_are_held_back(site: Site, shots: list[Shot]) -> None:
    attacked = [received(fgsm(site.white, shot.picture, shot.people or (), EPS)) for shot in shots]
    assert 1 - site.passing(attacked) >= ENOUGH
