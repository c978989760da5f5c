"""DeepFool crosses its boundary with little change, holds after rounding, and agrees with ART on a classifier."""

import math

import numpy as np
import pytest
import torch
from art.attacks.evasion import DeepFool
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.nn import functional as nnf

from inference.attacks.batch import load
from inference.attacks.deepfool import centre_margins, class_margins, deepfool, walk
from inference.attacks.norms import norms
from inference.networks.csp_nano import Maps
from streams.errors import BadInput
from streams.sources.base import Person, Picture

SOMEBODY = Person((20.0, 16.0, 14.4, 36.0), (20.0, 16.0, 14.4, 36.0))
SECOND = Person((60.0, 16.0, 14.4, 36.0), (60.0, 16.0, 14.4, 36.0))
THRESHOLD = 0.3


class Bright(nn.Module):
    """Sees a person where the picture is bright; smooth, so that its linearisation errs."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.05))
        self.norm = nn.BatchNorm2d(1)

    def forward(self, pictures: torch.Tensor) -> Maps:
        light = nnf.avg_pool2d(nnf.avg_pool2d(pictures.mean(1, keepdim=True), 4), 3, 1, 1)
        centre = 6 * torch.tanh(self.norm(light - 127) * self.scale) - 1
        return Maps(centre, torch.full_like(centre, math.log(9)), centre.expand(-1, 2, -1, -1) * 0, centre)


def street() -> Picture:
    picture = np.random.default_rng(2).integers(90, 130, (64, 96, 3), np.uint8)
    for person in (SOMEBODY, SECOND):
        x, y, w, h = (round(side) for side in person.box_px)
        picture[y + 8 : y + h - 8, x : x + w] += 50
    return picture


def far(network: nn.Module, picture: Picture, people: list[Person]) -> float:
    """The largest margin that is left: at most 0 when all are lost."""
    padded = load([picture], torch.device("cpu"))
    with torch.no_grad():
        return float(centre_margins(network, [people], padded, THRESHOLD)(padded, torch.tensor([0])).max())


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return Bright().eval()


def test_people_are_lost_after_rounding_with_little_change(network: nn.Module) -> None:
    picture, people = street(), [SOMEBODY, SECOND]
    assert far(network, picture, people) > 1
    attacked = deepfool(network, [picture], 0.02, [people], threshold=THRESHOLD, radius=math.inf)[0]
    assert attacked.dtype == np.uint8
    assert far(network, attacked, people) <= 0
    less = np.rint(picture + 0.8 * (attacked.astype(float) - picture)).astype(np.uint8)
    assert far(network, less, people) > 0, "a smaller change would have done"


def test_a_greater_overshoot_goes_at_least_as_far(network: nn.Module) -> None:
    picture, people = street(), [SOMEBODY, SECOND]
    lengths, lefts = [], []
    for xi in (0.0, 0.01, 0.03, 0.05, 0.2):
        attacked = deepfool(network, [picture], xi, [people], threshold=THRESHOLD, radius=math.inf)[0]
        lengths.append(norms(picture, attacked).l2)
        lefts.append(far(network, attacked, people))
    assert lengths == sorted(lengths)
    assert lefts == sorted(lefts, reverse=True)
    assert lengths[0] < lengths[-1]


def test_a_boundary_nearer_than_rounding_is_crossed_all_the_same() -> None:
    # a flat picture just beyond the boundary: the exact minimal change is a fraction of a level, which rounding takes back
    picture = np.full((64, 96, 3), 127, np.uint8)
    padded = load([picture], torch.device("cpu"))

    def margins(pictures: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        return (pictures[:, :, :4, :4].mean((1, 2, 3)) - 127 + 0.01 * len(which))[:, None]

    walked = walk(margins, padded, xi=0.0, steps=200, whole=True)
    assert torch.equal(walked.moved, walked.moved.round())
    assert bool(walked.crossed.all())
    assert int(walked.steps.max()) > 1


def test_the_change_stays_within_its_radius(network: nn.Module) -> None:
    attacked = deepfool(network, [street()], 0.0, [[SOMEBODY, SECOND]], threshold=THRESHOLD, radius=1.0)[0]
    assert norms(street(), attacked).rms <= 1.0 + 0.29  # rounding adds a uniform error's at most


def test_a_batch_ends_where_its_pictures_do_and_empty_pictures_stay(network: nn.Module) -> None:
    empty = np.full((64, 96, 3), 100, np.uint8)
    together = deepfool(network, [street(), empty], 0.02, [[SOMEBODY], []], threshold=THRESHOLD, radius=math.inf)
    alone = deepfool(network, [street()], 0.02, [[SOMEBODY]], threshold=THRESHOLD, radius=math.inf)[0]
    assert np.mean(together[0] != alone) < 0.01
    assert np.array_equal(together[1], empty)


def test_without_people_those_that_the_network_sees_are_lost(network: nn.Module) -> None:
    attacked = deepfool(network, [street()], 0.02, threshold=THRESHOLD, radius=math.inf)[0]
    assert far(network, attacked, [SOMEBODY, SECOND]) < far(network, street(), [SOMEBODY, SECOND])


@pytest.mark.parametrize(("xi", "threshold"), [(-0.1, 0.3), (float("nan"), 0.3), (0.02, 1.0)])
def test_strengths_that_mean_nothing_are_refused(network: nn.Module, xi: float, threshold: float) -> None:
    with pytest.raises(BadInput, match="xi"):
        deepfool(network, [street()], xi, threshold=threshold)


@pytest.mark.parametrize("overshoot", [0.01, 0.05])
def test_on_a_classifier_it_agrees_with_art(overshoot: float) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 4)).eval()
    clean = torch.rand(12, 3, 4, 4)
    reference = PyTorchClassifier(model, nn.CrossEntropyLoss(), (3, 4, 4), 4, clip_values=(0.0, 1.0), device_type="cpu")
    theirs = DeepFool(reference, max_iter=50, epsilon=overshoot, nb_grads=4, batch_size=1, verbose=False).generate(clean.numpy())

    def logits(pictures: torch.Tensor) -> torch.Tensor:
        return model(pictures / 255.0)

    with torch.no_grad():
        labels = logits(clean * 255).argmax(1)
    ours = walk(class_margins(logits, labels), clean * 255, xi=overshoot, steps=50).moved / 255
    with torch.no_grad():
        assert torch.equal(model(ours).argmax(1), model(torch.from_numpy(theirs)).argmax(1))
        assert not torch.any(model(ours).argmax(1) == labels)
    lengths = (ours - clean).flatten(1).norm(dim=1), (torch.from_numpy(theirs) - clean).flatten(1).norm(dim=1)
    assert torch.allclose(*lengths, rtol=0.02)
