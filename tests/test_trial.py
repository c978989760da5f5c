"""The trial of vetting says truly which pictures it harmed, does the same harm for the same seed, and leaves the rest alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from inference.lifecycle import trial
from inference.lifecycle.findings import Stage
from inference.lifecycle.trial import BOTH, Harm, Material, harmed
from inference.lifecycle.trial_report import write
from inference.lifecycle.vetting import Rules
from inference.networks.csp_nano import to_bytes
from inference.provenance.registry import digest_of
from inference.service.serving import Served, View
from inference.training.samples import Sample, shaped
from streams.errors import BrokenContract
from streams.events import Box
from streams.sources.base import Picture

SAMPLES = [
    Sample(
        "drawn", f"s{at}", np.random.default_rng(at).integers(0, 256, (120, 200, 3), np.uint8), (shaped((60.0, 20.0, 30.0, 70.0)),)
    )
    for at in range(20)
]


ATTACKED = [255 - one.picture for one in SAMPLES]


@pytest.mark.parametrize("harm", Harm)
def test_a_picture_counts_as_harmed_exactly_if_it_was_changed(harm: Harm) -> None:
    found = list(harmed(SAMPLES, harm, 0.5, np.random.default_rng(1), ATTACKED))
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
        [(one.name, one.people, bad) for _, one, bad in harmed(SAMPLES, harm, 0.5, np.random.default_rng(2), ATTACKED)]
        for _ in range(2)
    )
    assert once == twice
    assert not any(bad for *_, bad in harmed(SAMPLES, harm, 0.0, np.random.default_rng(2), ATTACKED))


class Knowing(Served):
    """A model that sees everybody who was there before any harm, and says so the same way whatever is done to the picture."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.digest = digest_of(to_bytes(nn.Identity()))
        self.truth = {_mark(one.picture): one.people for one in samples}

    def look(self, pictures: Sequence[Picture], threshold: float | None = None) -> list[View]:  # noqa: ARG002 - as served
        views = []
        for picture in pictures:
            people = self.truth[_mark(picture)]
            heat = np.zeros((picture.shape[0] // 4, picture.shape[1] // 4), np.float32)
            for x, y, w, h in (one.box_px for one in people):
                heat[int((y + h / 2) / 4), int((x + w / 2) / 4)] = 0.9
            views.append(View(tuple(Box(*one.box_px, 0.9) for one in people), heat, np.zeros(16, np.float32)))
        return views


def _mark(picture: Picture) -> int:
    return round(float(picture[:16, :16].mean()) / 5)


def marked(first: int, number: int) -> list[Sample]:
    out = []
    for at in range(first, first + number):
        rng = np.random.default_rng(at)
        picture = rng.integers(90, 160, (15, 25, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        picture[:16, :16] = 5 * at
        out.append(Sample("drawn", f"s{at}", picture, (shaped((40.0 + 40 * rng.random(), 20.0, 30.0, 70.0)),)))
    return out


def test_a_knowing_model_finds_what_can_be_known_and_the_counts_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = Material(marked(0, 20), marked(20, 16))
    monkeypatch.setattr(trial, "_attacked", lambda *_: [255 - one.picture // 2 for one in data.samples])
    served = Knowing([*data.samples, *data.golden])
    served.truth |= {_mark(255 - one.picture // 2): one.people for one in data.samples}
    with pytest.raises(BrokenContract, match="no figure counts"):  # a network that is no longer what the model's file holds
        trial.run(data, {"knowing": served}, nn.Linear(1, 1), Rules(), lambda *_: None, rates=(0.5,), seeds=(3,))
    found = trial.run(data, {"knowing": served}, nn.Identity(), Rules(), lambda *_: None, rates=(0.5,), seeds=(3,))
    assert found.clean_held == {"knowing": 0, BOTH: 0}
    rows = {one.harm: one for one in found.rows if one.judge == "knowing"}
    for harm in (Harm.FLIP, Harm.SHIFT, Harm.REMOVE, Harm.ADD, Harm.DUPLICATE):
        assert (rows[harm].precision, rows[harm].recall) == (1.0, 1.0), harm
        assert 0 < rows[harm].harmed == rows[harm].held < 20
    assert {rows[Harm.REMOVE].stages[stage] for stage in (Stage.AGREEMENT, Stage.CROSS_VALIDATION)} == {rows[Harm.REMOVE].harmed}
    assert [(one.held, one.found) for one in found.rows if one.judge == BOTH] == [(one.held, one.found) for one in rows.values()]
    report = write(found, tmp_path)
    assert [path.name for path in report] == ["poisoning.json", "poisoning.md", "poisoning.png"]
    assert f"| labels flipped | 50% | {rows[Harm.FLIP].harmed} | 1.00 / 1.00 | 1.00 / 1.00 |" in report[1].read_text()
