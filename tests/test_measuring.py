"""Measuring any detector: counting by hand, merging, and that what a detector is given and gives back keeps its place."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from inference.lifecycle.measuring import detector_of, line, measure_detector, merged
from inference.measure.miss_rate import Annotation
from infra.settings import read_settings
from streams.command_line import app
from streams.errors import BadInput, Unavailable
from streams.events import Box
from streams.sources.base import Picture

ONE = Annotation((10.0, 10.0, 41.0, 100.0), 100.0, 1.0, ignore=False)
OTHER = Annotation((200.0, 10.0, 41.0, 100.0), 100.0, 1.0, ignore=False)


def on(person: Annotation, score: float, right_px: float = 0.0) -> Box:
    x, y, w, h = person.box_px
    return Box(x + right_px, y, w, h, score)


def test_shares_are_those_counted_by_hand() -> None:
    # falling score: hit .9, false .6, hit .5, false .2, false .1 -> precision 1, 1/2, 2/3, 1/2, 2/5
    found = [[on(ONE, 0.9), on(ONE, 0.6, 90), on(OTHER, 0.5)], [on(ONE, 0.2), on(OTHER, 0.1)]]
    counted = line("x", "y", found, [(ONE, OTHER), ()], 0.4)
    assert (counted.pictures, counted.people, counted.found) == (2, 2, 1.5)
    assert (counted.recall, counted.precision) == (1.0, 0.667)
    assert counted.best_recall == 0.5  # both would cost a precision of 2/3, under 0.7


def test_where_nobody_counted_people_there_are_no_shares() -> None:
    unknown = line("x", "y", [[on(ONE, 0.9)], []], [None, None], 0.4)
    assert (unknown.found, unknown.people, unknown.recall, unknown.best_recall, unknown.miss_rate) == (0.5, None, None, None, None)
    empty = line("x", "y", [[on(ONE, 0.9)], []], [(), ()], 0.4)
    assert (empty.people, empty.recall, empty.precision, empty.miss_rate) == (0, None, 0.0, None)


def test_looks_are_merged_best_first_and_without_repetition() -> None:
    assert merged([[], []]) == ()
    assert merged([[on(ONE, 0.5)], [on(ONE, 0.8, 3), on(OTHER, 0.6)]]) == (on(ONE, 0.8, 3), on(OTHER, 0.6))


def test_a_detector_that_is_right_is_measured_so_at_every_size() -> None:
    shared = Path(read_settings().shared_data)
    truth = shared / "citypersons" / "val_gt.json"
    if not truth.is_file() or not (shared / "pennfudan").is_dir():
        pytest.skip(f"{truth} is not there: set KERBWATCH_SHARED_DATA")
    content = msgspec.json.decode(truth.read_bytes())
    names = [path.name for path in (shared / "citypersons_frames").iterdir()]
    ids = {one["id"] for one in content["images"] if one["im_name"] in names}
    reasonable = [one for one in content["annotations"] if one["image_id"] in ids and not one["ignore"]]
    expected = sum(one["height"] >= 50 and one["vis_ratio"] >= 0.65 for one in reasonable)
    marks = {}  # a frame is known again by its mean colour, at any size
    for image in content["images"]:
        if image["id"] in ids:
            frame = cv2.imread(str(shared / "citypersons_frames" / image["im_name"]))[:, :, ::-1]
            boxes = [one["bbox"] for one in reasonable if one["image_id"] == image["id"]]
            marks[image["id"]] = (frame.mean((0, 1)), boxes)

    def oracle(pictures: Sequence[Picture]) -> list[tuple[Box, ...]]:
        (picture,) = pictures
        if picture.shape[1] != 2 * picture.shape[0]:
            return [()]
        scale, mean = picture.shape[0] / 1024, picture.mean((0, 1))
        _, boxes = min(marks.values(), key=lambda mark: float(np.abs(mark[0] - mean).sum()))
        return [tuple(Box(x * scale, y * scale, w * scale, h * scale, 0.9) for x, y, w, h in boxes)]

    measured = measure_detector(oracle, "oracle", 0.5, shared)
    city = [one for one in measured.lines if one.data.startswith("citypersons")]
    assert [one.size for one in city] == ["0.5", "0.75", "1.0", "0.5 + 1.0"]
    assert all((one.pictures, one.people, one.recall, one.best_recall) == (4, expected, 1.0, 1.0) for one in city[:3])
    others = [one for one in measured.lines if one not in city]
    assert all(one.found == 0 for one in others)
    assert [(one.data, one.pictures) for one in others][:3] == [
        ("penn-fudan held-out", 30),
        ("penn-fudan held-out", 30),
        ("penn-fudan all (90 seen)", 120),
    ]


def test_a_model_that_is_not_there_is_refused_and_missing_pictures_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="give ssdlite"):
        detector_of("csp-giant", tmp_path)
    with pytest.raises(Unavailable, match=str(tmp_path)):
        measure_detector(lambda pictures: [() for _ in pictures], "nobody", 0.5, tmp_path)
    refused = CliRunner().invoke(app, ["models", "measure", "csp-giant"])
    assert refused.exit_code == BadInput.exit_code
    assert "csp-giant" in refused.output
