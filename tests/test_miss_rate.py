"""The official miss rate: equal to the official script's numbers, and what must hold of any miss rate."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from inference.measure.files import read
from inference.measure.miss_rate import EVERYBODY, SETUPS, Annotation, Mode, Rolling, evaluate, match
from infra.settings import read_settings
from streams.command_line import app
from streams.errors import BadInput
from streams.events import Box

FIXTURE = read_settings().shared_data / "eval_fixture"
CASES = sorted(FIXTURE.glob("cases/*"))
needs_fixture = pytest.mark.skipif(not CASES, reason=f"{FIXTURE} is not there")


def files(case: str) -> tuple[Path, Path, Path]:
    if case == "val_dt_paper":
        return (
            FIXTURE / "annotations" / "val_gt.json",
            FIXTURE / "real_detections" / "val_dt_paper.json",
            FIXTURE / "expected" / "val_dt_paper.expected.json",
        )
    return tuple(FIXTURE / "cases" / case / name for name in ("gt.json", "dt.json", "expected.json"))  # type: ignore[return-value]


@needs_fixture
@pytest.mark.parametrize("case", [*(path.name for path in CASES), "val_dt_paper"])
def test_every_row_equals_the_official_script(case: str) -> None:
    truth, found, expected = files(case)
    rows = {row.setup: row for row in evaluate(*read(truth, found))}
    golden = json.loads(expected.read_text())
    assert golden
    for want in golden:
        row = rows[want["setup"]]
        assert (row.images, row.counted, row.ignored) == (want["images"], want["gt_counted"], want["gt_ignored"])
        assert (row.true_positives, row.false_positives) == (want["tp_total"], want["fp_total"])
        assert row.matched_to_ignored == want["dets_matched_to_ignored"]
        if want["log_average_miss_rate"] == -1:
            assert row.log_average_miss_rate is None
            assert row.recall_at is None
        else:
            assert row.log_average_miss_rate == pytest.approx(want["log_average_miss_rate"], abs=1e-9)
            assert row.recall_at == pytest.approx(want["recall_at_points"], abs=1e-9)


@needs_fixture
@pytest.mark.parametrize("case", [path.name for path in CASES])
def test_the_windowed_mode_equals_the_textbook_rule(case: str) -> None:
    expected = json.loads((FIXTURE / "expected" / "textbook_variant.json").read_text())
    assert case in expected
    for row in evaluate(*read(*files(case)[:2]), mode=Mode.WINDOWED):
        if row.setup not in expected[case]:
            continue
        want = expected[case][row.setup]
        if want in (None, -1):
            assert row.log_average_miss_rate is None
        else:
            assert row.log_average_miss_rate == pytest.approx(want, abs=1e-9)


def person(x: float, height: float = 100.0, visible: float = 1.0, *, ignore: bool = False) -> Annotation:
    return Annotation((x, 10.0, 0.41 * height, height), height, visible, ignore)


pictures = st.lists(
    st.tuples(
        st.lists(
            st.builds(person, st.integers(0, 400), st.integers(30, 150), st.sampled_from([0.3, 0.7, 1.0]), ignore=st.booleans())
        ),
        st.lists(
            st.builds(
                lambda x, height, score: Box(x, 10.0, 0.41 * height, height, score),
                st.integers(0, 400),
                st.integers(30, 150),
                st.floats(0, 1),
            )
        ),
    ),
    min_size=1,
    max_size=6,
)


@given(pictures, st.sampled_from(Mode))
def test_a_miss_rate_is_a_share_and_depends_on_the_order_of_scores_alone(
    some: list[tuple[list[Annotation], list[Box]]], mode: Mode
) -> None:
    truth, found = [people for people, _ in some], [boxes for _, boxes in some]
    rows = evaluate(truth, found, mode=mode)
    order = sorted({box.score for boxes in found for box in boxes})
    ranked = [
        [Box(b.x_px, b.y_px, b.w_px, b.h_px, (order.index(b.score) + 1) / (len(order) + 1)) for b in boxes] for boxes in found
    ]
    assert evaluate(truth, ranked, mode=mode) == rows
    for row in rows:
        assert row.log_average_miss_rate is None or 0 <= row.log_average_miss_rate <= 1
        assert (row.log_average_miss_rate is None) == (row.counted == 0)
        assert row.true_positives <= row.counted
        assert row.recall_at is None or all(0 <= value <= 1 for value in row.recall_at)


@given(pictures)
def test_ignoring_everybody_leaves_nothing_to_count_and_soaks_boxes_up(some: list[tuple[list[Annotation], list[Box]]]) -> None:
    for people, boxes in some:
        ignored = [Annotation(one.box_px, one.height_px, one.visible, ignore=True) for one in people]
        before, after = match(people, boxes, EVERYBODY), match(ignored, boxes, EVERYBODY)
        assert after.counted == 0
        assert not after.hits.any()
        assert len(after.scores) + after.soaked == len(before.scores) + before.soaked


@given(pictures)
def test_finding_everybody_perfectly_misses_nobody(some: list[tuple[list[Annotation], list[Box]]]) -> None:
    truth = [people for people, _ in some]
    perfect = [[Box(*one.box_px, 0.9) for one in people if not one.ignore] for people in truth]
    distinct = all(len({one.box_px for one in people}) == len(people) for people in truth)
    row = evaluate(truth, perfect, [EVERYBODY])[0]
    if distinct and row.counted and row.false_positives == 0:
        assert row.recall_at == (row.true_positives / row.counted,) * 9


def test_a_top_scored_false_box_cannot_flatter_a_short_window() -> None:
    truth = [[person(10)], [person(200)]]
    found = [[Box(300, 10, 41, 100, 0.99), Box(10, 10, 41, 100, 0.5)], [Box(200, 10, 41, 100, 0.6)]]
    assert evaluate(truth, found, [EVERYBODY], Mode.OFFICIAL)[0].log_average_miss_rate == 0.0
    windowed = evaluate(truth, found, [EVERYBODY], Mode.WINDOWED)[0].log_average_miss_rate
    assert windowed is not None
    assert windowed > 0.005


def test_a_rolling_window_forgets_what_is_older() -> None:
    rolling = Rolling(SETUPS["Reasonable"], pictures=2)
    assert rolling.row().log_average_miss_rate is None
    rolling.add([person(10)], [])
    assert rolling.row().log_average_miss_rate == 1.0
    for _ in range(2):
        rolling.add([person(10)], [Box(10, 10, 41, 100, 0.9)])
    assert rolling.row().images == 2
    assert rolling.row().log_average_miss_rate == pytest.approx(1e-10)


GOOD = {"image_id": 1, "category_id": 1, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("a string", "detection 1: Expected `object`"),
        (GOOD | {"score": math.nan}, "detection 1 holds a number that is not finite"),
        (GOOD | {"bbox": [1, 2, -3, 4]}, "detection 1: Expected `float` > 0.0"),
        ({"image_id": 1, "category_id": 1, "score": 0.5}, "detection 1: Object missing required field `bbox`"),
        ("\ud800", "detection 1: .*surrogates"),
        (GOOD | {"bbox": [1, 2, 1e200, 1e200]}, "detection 1: Expected `float` <= "),
        (GOOD | {"image_id": 7}, "detection 1: image_id 7 is not in"),
    ],
)
def test_a_record_that_does_not_hold_is_named(tmp_path: Path, record: object, message: str) -> None:
    truth, found = tmp_path / "gt.json", tmp_path / "dt.json"
    truth.write_text(json.dumps({"images": [{"id": 1}], "annotations": []}))
    found.write_text(json.dumps([GOOD, record]))
    with pytest.raises(BadInput, match=message):
        read(truth, found)


def test_a_picture_named_twice_is_refused(tmp_path: Path) -> None:
    truth = tmp_path / "gt.json"
    truth.write_text(json.dumps({"images": [{"id": 1}, {"id": 1}], "annotations": []}))
    with pytest.raises(BadInput, match="image 1 is there twice"):
        read(truth, truth)


def test_a_box_too_small_to_have_an_area_finds_nobody() -> None:
    row = evaluate([[person(10)]], [[Box(12, 12, 1e-200, 1e-200, 0.9)]], [EVERYBODY])[0]
    assert (row.true_positives, row.false_positives) == (0, 1)


def test_the_command_prints_rows_and_takes_no_detections_for_an_answer(tmp_path: Path) -> None:
    truth, found = tmp_path / "gt.json", tmp_path / "dt.json"
    people = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 41, 100], "height": 100, "vis_ratio": 1.0, "ignore": 0}]
    truth.write_text(json.dumps({"images": [{"id": 1}], "annotations": people}))
    found.write_text("[]")
    run = CliRunner().invoke(app, ["evaluate", str(truth), str(found), "--setup", "Reasonable", "--json"])
    assert run.exit_code == 0
    (row,) = json.loads(run.stdout)
    assert (row["setup"], row["log_average_miss_rate"], row["recall_at"]) == ("Reasonable", 1.0, [0.0] * 9)
    table = CliRunner().invoke(app, ["evaluate", str(truth), str(found)])
    assert "100.00 %" in table.stdout
    assert CliRunner().invoke(app, ["evaluate", str(truth), str(found), "--setup", "sensible"]).exit_code == 2
    found.write_text("{")
    assert CliRunner().invoke(app, ["evaluate", str(truth), str(found)]).exit_code == 2
