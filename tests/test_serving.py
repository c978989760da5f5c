"""The served models: same answers as the network, any size, batches, and people found where people are."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from inference.attacks.gradient import fgsm
from inference.measure.quality import measure
from inference.provenance.registry import Registry, shipped
from inference.service.serving import EMBEDDING, Served, View, load
from infra.settings import read_settings
from streams.errors import BadInput, BrokenContract, Unavailable
from streams.events import Context, Mode
from streams.sources.street import Street


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def digests(registry: Registry) -> dict[Mode, str]:
    return shipped(registry)


@pytest.fixture(scope="module")
def normal(registry: Registry, digests: dict[Mode, str]) -> Served:
    return load(registry, digests[Mode.NORMAL])


def near(view: View, x: float, y: float) -> bool:
    return any(abs(box.x_px + box.w_px / 2 - x) < 10 and abs(box.y_px + box.h_px / 2 - y) < 15 for box in view.boxes)


def test_a_street_shows_its_people_and_a_highway_none(normal: Served) -> None:
    shot = Street(Context.URBAN, seed=3).shot(20)
    view = normal.look([shot.picture])[0]
    tall = [person.box_px for person in shot.people or () if person.box_px[3] > 60 and not person.ignore]
    found = sum(near(view, x + w / 2, y + h / 2) for x, y, w, h in tall)
    assert found >= 0.6 * len(tall) > 0
    assert len(normal.look([Street(Context.HIGHWAY, seed=3).shot(20).picture])[0].boxes) <= 1


def test_views_have_the_shapes_that_are_promised_at_any_size(normal: Served) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (90, 131, 3), np.uint8)
    view = normal.look([picture])[0]
    assert view.heat.shape == (23, 33)
    assert view.heat.dtype == np.float32
    assert 0 <= view.heat.min() <= view.heat.max() <= 1
    assert view.embedding.shape == (EMBEDDING,)


def test_a_batch_says_what_its_pictures_say_alone(normal: Served) -> None:
    pictures = [Street(Context.URBAN, seed=4).shot(number).picture for number in (0, 9)]
    together, alone = normal.look(pictures), [normal.look([one])[0] for one in pictures]
    for one, other in zip(together, alone, strict=True):
        assert np.allclose(one.heat, other.heat, atol=1e-4)
        assert len(one.boxes) == len(other.boxes)
    assert normal.look([]) == []


def test_what_is_served_is_the_network(normal: Served, registry: Registry, digests: dict[Mode, str]) -> None:
    picture = Street(Context.URBAN, seed=5).shot(3).picture
    with torch.inference_mode():
        maps = registry.network(digests[Mode.NORMAL])(torch.from_numpy(picture).permute(2, 0, 1)[None].float())
    assert np.abs(torch.sigmoid(maps.centre)[0, 0].numpy() - normal.look([picture])[0].heat).max() < 1e-3


def test_mixed_sizes_and_grey_pictures_are_refused(normal: Served) -> None:
    with pytest.raises(BadInput, match="same-sized"):
        normal.look([np.zeros((64, 64, 3), np.uint8), np.zeros((64, 96, 3), np.uint8)])
    with pytest.raises(BadInput):
        normal.look([np.zeros((64, 64), np.uint8)])


def test_an_answer_that_is_not_finite_is_no_answer() -> None:
    def broken(batch: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(np.full((len(batch), 1, 8, 8), np.nan, np.float32) for _ in range(4))

    with pytest.raises(BrokenContract, match="not finite"):
        Served("0" * 64, 0.4, broken).look([np.zeros((32, 32, 3), np.uint8)])


def test_a_device_that_is_not_there_is_said_so(registry: Registry, digests: dict[Mode, str]) -> None:
    with pytest.raises(Unavailable, match="KERBWATCH_DEVICE"):
        load(registry, digests[Mode.NORMAL], device="abacus")


def test_an_attack_on_the_normal_model_deceives_the_safe_one_less(
    registry: Registry, digests: dict[Mode, str], normal: Served
) -> None:
    safe, white = load(registry, digests[Mode.SAFE]), registry.network(digests[Mode.NORMAL])
    shots = [Street(Context.URBAN, seed=seed).shot(20) for seed in (3, 4, 5)]
    attacked = [fgsm(white, shot.picture, shot.people, 0.03) for shot in shots]
    people = [shot.people or () for shot in shots]
    deceived, steady = (
        measure([served.look([picture], 0.02)[0].boxes for picture in attacked], people, served.threshold)
        for served in (normal, safe)
    )
    assert steady.miss_rate is not None
    assert deceived.miss_rate is not None
    assert steady.miss_rate < deceived.miss_rate - 0.1
    assert steady.false_per_picture < 0.5 * deceived.false_per_picture


def test_real_footage_shows_people_in_town_and_nearly_none_on_the_highway(normal: Served) -> None:
    folder = Path(read_settings().shared_data) / "contexts"
    counts = {}
    for name, path in (("town", "urban_vtest_480x360.avi"), ("highway", "highway_solidWhiteRight_960x540.mp4")):
        if not (folder / path).is_file():
            pytest.skip(f"{folder / path} is not there: set KERBWATCH_SHARED_DATA")
        video = cv2.VideoCapture(str(folder / path))
        frames = []
        for number in range(121):
            done, frame = video.read()
            assert done
            if number % 40 == 0:
                frames.append(np.ascontiguousarray(frame[:, :, ::-1]))
        counts[name] = np.mean([len(normal.look([one])[0].boxes) for one in frames])
    assert counts["town"] >= 2
    assert counts["highway"] <= 2
