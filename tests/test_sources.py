"""Sources of pictures: real data where present, both CityPersons forms, files that are wrong, streams that are lost."""

import itertools
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io  # type: ignore[import-untyped] # ships no types
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from infra.settings import Settings, read_settings
from streams.errors import BadInput, KerbwatchError, Unavailable
from streams.sources.citypersons import CityPersons, read_json, read_mat
from streams.sources.images import ImageFolder, read_picture
from streams.sources.open import OPTIONS, Resized, open_source
from streams.sources.video import LiveVideo, VideoFile

SHARED = read_settings().shared_data


def shared(path: str) -> Path:
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"real data not here: {found} (set KERBWATCH_SHARED_DATA)")
    return found


def write_picture(path: Path, value: int, size: tuple[int, int] = (64, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((size[1], size[0], 3), (value, 0, 0), np.uint8))  # blue, as cv2 has it
    return path


def write_mat(path: Path, images: dict[str, NDArray[np.generic]]) -> Path:
    records = np.empty((1, len(images)), object)
    for index, (name, rows) in enumerate(images.items()):
        records[0, index] = {"cityname": name.split("_")[0], "im_name": name, "bbs": rows}
    scipy.io.savemat(path, {"anno_val_aligned": records})
    return path


# -- CityPersons ---------------------------------------------------------------------------------------------------------


def test_the_four_real_frames_come_with_their_people() -> None:
    shared("citypersons_frames")
    source = open_source("citypersons:?size=640x320", read_settings())
    shots = list(source)
    assert shots[0].name == "frankfurt_000000_000294"
    assert len(shots) == 4
    assert all(shot.picture.shape == (320, 640, 3) for shot in shots)
    full = next(iter(open_source("citypersons:", read_settings())))
    assert full.picture.shape == (1024, 2048, 3)
    assert full.people is not None
    assert shots[0].people is not None
    assert full.people[1].box_px == (1157, 375, 41, 99)
    assert not full.people[1].ignore
    assert full.people[0].ignore  # 40 px tall
    assert shots[0].people[1].box_px == pytest.approx((1157 / 3.2, 375 / 3.2, 41 / 3.2, 99 / 3.2))


def test_every_real_annotation_is_read_with_the_visible_part_inside() -> None:
    people = read_mat(shared("citypersons/anno_val.mat"))
    assert len(people) == 500
    assert sum(not one.ignore for some in people.values() for one in some) == 2548  # class 1, at least 50 px, some part visible
    for one in itertools.chain.from_iterable(people.values()):
        (x, y, w, h), (vx, vy, vw, vh) = one.box_px, one.visible_px
        assert vw > 0
        assert vh > 0
        assert x <= vx
        assert y <= vy
        assert vx + vw <= x + w
        assert vy + vh <= y + h


def test_small_integer_types_of_the_mat_files_do_not_wrap(tmp_path: Path) -> None:
    """uint8 rows, as the real files have them where an image holds few boxes: y + h is past 255."""
    rows = np.array([[1, 10, 200, 41, 100, 1, 12, 220, 30, 75]], np.uint8)
    name = "town_000000_000001_leftImg8bit.png"
    (person,) = read_mat(write_mat(tmp_path / "anno_val.mat", {name: rows}))[name]
    assert person.box_px == (10, 200, 41, 100)
    assert person.visible_px == (12, 220, 30, 75)


def test_both_annotation_forms_give_the_same_people(tmp_path: Path) -> None:
    labels = {0: "ignore", 1: "pedestrian", 2: "rider", 3: "sitting person", 4: "person (other)", 5: "person group"}
    rows = [[kind, 10 * kind - 5, 20, 41, 30 + 15 * kind, kind, 10 * kind, 25, 20, 20] for kind in labels] + [
        [1, 50, 60, 41, 100, 7, 0, 0, 0, 0]
    ]
    name = "town_000000_000001"
    write_picture(tmp_path / "a/leftImg8bit/val/town" / f"{name}_leftImg8bit.png", 9)
    write_picture(tmp_path / "b/leftImg8bit/val/town" / f"{name}_leftImg8bit.png", 9)
    write_mat(tmp_path / "a/anno_val.mat", {f"{name}_leftImg8bit.png": np.array(rows, np.int16)})
    objects = [{"label": labels[row[0]], "instanceId": row[5], "bbox": row[1:5], "bboxVis": row[6:10]} for row in rows]
    note = tmp_path / "b/gtBboxCityPersons/val/town" / f"{name}_gtBboxCityPersons.json"
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps({"imgHeight": 1024, "imgWidth": 2048, "objects": objects}))
    (first,), (second,) = CityPersons(tmp_path / "a"), CityPersons(tmp_path / "b")
    assert first.people == second.people
    assert first.people is not None
    assert [one.ignore for one in first.people] == [True, True, True, True, True, True, True]
    tall = np.array([[1, 5, 5, 41, 100, 1, 6, 6, 30, 90]], np.int16)
    write_mat(tmp_path / "a/anno_val.mat", {f"{name}_leftImg8bit.png": tall})
    assert [one.ignore for one in next(iter(CityPersons(tmp_path / "a"))).people or ()] == [False]


def test_annotations_that_are_missing_or_damaged_are_refused_by_name(tmp_path: Path) -> None:
    write_picture(tmp_path / "x_leftImg8bit.png", 1)
    with pytest.raises(BadInput, match="use images:"):
        CityPersons(tmp_path)
    write_mat(tmp_path / "anno_val.mat", {"y_leftImg8bit.png": np.zeros((0, 10), np.uint8)})
    with pytest.raises(BadInput, match=r"x_leftImg8bit\.png is annotated nowhere"):
        CityPersons(tmp_path)
    (tmp_path / "anno_val.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(300))
    with pytest.raises(BadInput, match=r"anno_val\.mat"):
        CityPersons(tmp_path)
    note = tmp_path / "x_gtBboxCityPersons.json"
    note.write_text('{"objects": [{"label": "pedestrian"}]}')
    with pytest.raises(BadInput, match="do not hold"):
        read_json(note)


@hypothesis_settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=400))
def test_no_bytes_as_annotations_raise_anything_but_our_own_errors(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("notes") / "anno_val.mat"
    path.write_bytes(data)
    for read in (read_mat, read_json):
        with pytest.raises(BadInput):
            read(path)


# -- images and video ----------------------------------------------------------------------------------------------------


def test_images_come_in_natural_order_as_rgb(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        write_picture(tmp_path / f"frame{number}.png", number)
    (tmp_path / "notes.txt").write_text("no picture")
    source = ImageFolder(tmp_path)
    shots = list(source)
    assert [shot.name for shot in shots] == ["frame1", "frame2", "frame10"]
    assert [tuple(shot.picture[0, 0]) for shot in shots] == [(0, 0, 1), (0, 0, 2), (0, 0, 10)]
    assert all(shot.people is None for shot in shots)
    assert [shot.time_s for shot in shots] == pytest.approx([0, 1 / source.fps, 2 / source.fps])


def test_a_damaged_picture_is_refused_by_name(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "bad.png", 5)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadInput, match=r"bad\.png"):
        list(ImageFolder(tmp_path))
    path.write_bytes(b"")
    with pytest.raises(BadInput, match=r"bad\.png"):
        read_picture(path)


@pytest.mark.parametrize(
    ("path", "fps", "size"),
    [("contexts/urban_vtest_480x360.avi", 10.0, (480, 360)), ("contexts/highway_solidWhiteRight_960x540.mp4", 25.0, (960, 540))],
)
def test_real_videos_keep_their_timing_and_repeat(path: str, fps: float, size: tuple[int, int]) -> None:
    source = VideoFile(shared(path))
    assert source.fps == fps
    first, second = (list(itertools.islice(source, 3)) for _ in range(2))
    assert first[0].picture.shape == (size[1], size[0], 3)
    assert [shot.time_s for shot in first] == pytest.approx([0, 1 / fps, 2 / fps])
    assert all(np.array_equal(one.picture, two.picture) for one, two in zip(first, second, strict=True))
    assert not np.array_equal(first[0].picture, first[2].picture)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with pytest.raises(BadInput, match="not a file"):
        VideoFile(path)
    path.write_bytes(b"no film at all" * 50)
    with pytest.raises(BadInput, match="does not open"):
        VideoFile(path)


class LosesConnection:
    """A capture that gives so many pictures and is then lost; `None` does not open at all."""

    def __init__(self, pictures: int | None) -> None:
        self.left = pictures

    def isOpened(self) -> bool:  # noqa: N802 as cv2 spells it
        return self.left is not None

    def read(self) -> tuple[bool, NDArray[np.uint8]]:
        assert self.left is not None
        self.left -= 1
        return self.left >= 0, np.zeros((8, 8, 3), np.uint8)

    def get(self, prop: int, /) -> float:
        return 0.0 * prop

    def release(self) -> None:
        self.left = None


def test_a_lost_stream_is_opened_again_and_the_outage_shows_as_a_gap() -> None:
    now, addresses = [100.0], []
    captures: Iterator[LosesConnection] = iter(
        [LosesConnection(2), LosesConnection(None), LosesConnection(None), LosesConnection(3)]
    )

    def connect(address: str) -> LosesConnection:
        addresses.append(address)
        return next(captures)

    def clock() -> float:
        now[0] += 0.1
        return now[0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    source = LiveVideo("rtsp://user:secret@gate-7/stream", clock=clock, sleep=sleep, connect=connect)
    times = [shot.time_s for shot in itertools.islice(source, 5)]
    gaps = np.diff(times)
    assert gaps[1] > 3.5  # 0.5 + 1 + 2 s of waiting
    assert max(gaps[0], gaps[2], gaps[3]) < 0.5
    assert addresses == ["rtsp://user:secret@gate-7/stream"] * 4
    assert source.name == "live-gate-7"


def test_a_stream_that_stays_away_is_given_up_without_naming_its_password() -> None:
    now = [0.0]
    source = LiveVideo(
        "rtsp://user:secret@gate-7/stream",
        patience_s=30,
        clock=lambda: now[0],
        sleep=lambda seconds: now.__setitem__(0, now[0] + seconds),
        connect=lambda _: LosesConnection(None),
    )
    with pytest.raises(Unavailable, match="gate-7") as caught:
        list(source)
    assert "secret" not in str(caught.value)


# -- what a person types -------------------------------------------------------------------------------------------------


def test_a_street_takes_all_its_options() -> None:
    source = open_source("street:highway?weather=rain&seed=3&size=128x64&frames=2&fps=4", Settings())
    shots = list(source)
    assert source.name == "street-highway-rain-3"
    assert source.fps == 4
    assert len(shots) == 2
    assert shots[0].picture.shape == (64, 128, 3)


def test_resizing_scales_picture_and_boxes_alike() -> None:
    street = open_source("street:urban?size=256x128&frames=1&seed=4", Settings())
    (before,), (after,) = street, Resized(street, 128, 128)
    assert after.picture.shape == (128, 128, 3)
    assert before.people
    for old, new in zip(before.people, after.people or (), strict=True):
        assert new.box_px == pytest.approx((old.box_px[0] / 2, old.box_px[1], old.box_px[2] / 2, old.box_px[3]))
        assert new.ignore == old.ignore


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("stret:urban", "did you mean street"),
        ("film.mp4", "video:film.mp4"),
        ("rtsp://me:secret@gate/x", "video:rtsp://gate/x"),
        ("street:urbn", "did you mean street:urban"),
        ("street:urban?wether=fog", "did you mean weather"),
        ("street:urban?weather=hail", "day, dusk, rain, fog"),
        ("street:urban?seed=three", "seed=3"),
        ("street:urban?size=640", "size=640x320"),
        ("street:urban?size=4x4", "16 to 4096"),
        ("images:no/such/folder", "not a folder"),
        ("video:no/such/film.mp4", "not a file"),
        ("video:rtsp://", "names no host"),
        ("citypersons:no/such/folder", "leftImg8bit"),
        ("", "KIND:WHERE"),
    ],
)
def test_what_is_not_understood_is_refused_with_what_comes_nearest(spec: str, hint: str) -> None:
    with pytest.raises(BadInput) as caught:
        open_source(spec, Settings())
    assert hint in str(caught.value)
    assert "secret" not in str(caught.value)


texts = st.text(st.characters(exclude_characters="/.~"), max_size=30)  # no way out of this folder


@given(st.one_of(texts, st.builds("{}:{}".format, st.sampled_from(sorted(OPTIONS)), texts)))
@hypothesis_settings(max_examples=150, deadline=None)
def test_no_text_raises_anything_but_our_own_errors(spec: str) -> None:
    with suppress(KerbwatchError):
        open_source(spec, Settings(shared_data=Path("/nonexistent")))


def test_a_streams_own_query_stays_in_its_address() -> None:
    source = open_source("video:rtsp://gate/live?channel=2&size=64x32", Settings())
    assert source._source._address == "rtsp://gate/live?channel=2"  # type: ignore[attr-defined]
