"""The trial of vetting says truly which pictures it harmed, does the same harm for the same seed, and leaves the rest alone."""

import numpy as np
import pytest

from inference.lifecycle.trial import Harm, harmed
from inference.training.samples import Sample, shaped

SAMPLES = [
    Sample(
        "drawn", f"s{at}", np.random.default_rng(at).integers(0, 256, (120, 200, 3), np.uint8), (shaped((60.0, 20.0, 30.0, 70.0)),)
    )
    for at in range(20)
]


@pytest.mark.parametrize("harm", Harm)
def test_a_picture_counts_as_harmed_exactly_if_it_was_changed(harm: Harm) -> None:
    found = list(harmed(SAMPLES, harm, 0.5, np.random.default_rng(1)))
    names = [one.name for _, one, _ in found]
    assert len(names) == len(set(names))
    assert 0 < sum(bad for *_, bad in found) < len(SAMPLES)
    for place, one, bad in found:
        source = SAMPLES[place]
        same = one.picture is source.picture and one.people == source.people
        assert bad == (one.name != source.name if harm is Harm.DUPLICATE else not same)


@pytest.mark.parametrize("harm", Harm)
def test_the_same_seed_does_the_same_harm_and_no_share_does_none(harm: Harm) -> None:
    once, twice = (
        [(one.name, one.people, bad) for _, one, bad in harmed(SAMPLES, harm, 0.5, np.random.default_rng(2))] for _ in range(2)
    )
    assert once == twice
    assert not any(bad for *_, bad in harmed(SAMPLES, harm, 0.0, np.random.default_rng(2)))
