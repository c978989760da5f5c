"""`kerbwatch detect`: alarms by row, plain words for what does not hold, a picture on demand."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from detectors import catalogue
from infra.settings import read_settings
from streams.command_line import app
from streams.console.detect import choose, detect, read_column
from streams.errors import BadInput

Cells = list[float | str]


def file(folder: Path, cells: Cells, column: str = "speed") -> Path:
    path = folder / "stream.csv"
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([["time", column], *([f"t{row}", cell] for row, cell in enumerate(cells))])
    return path


def steps(*parts: tuple[int, float], seed: int = 0) -> Cells:
    """Noise around a level, for so many rows each."""
    rng = np.random.default_rng(seed)
    return [float(level + rng.standard_normal()) for count, level in parts for _ in range(count)]


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["detect", *map(str, words)])


def found(result: Result) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(result.stdout)
    return said


def test_a_change_is_told_by_its_row_and_the_baseline_stays_after_an_alarm(tmp_path: Path) -> None:
    path = file(tmp_path, steps((700, 50.0), (60, 54.0), (300, 50.0), (60, 46.0), (200, 50.0)))
    result = run(path, "--column", "speed", "--arl", 5000, "--train-rows", 400, "--json")
    assert result.exit_code == 1
    said = found(result)
    assert 700 <= said["alarms"][0] <= 705
    assert said["findings"][0]["leads"], "it says what kind of change"
    assert 400 <= said["findings"][0]["since"] <= said["alarms"][0]
    down = [row for row in said["alarms"] if row >= 1060]
    assert 1060 <= down[0] <= 1065, "the second change is judged by the same baseline"
    assert (said["train_rows"], said["rows"], said["arl"]) == (400, 1320, 5000)


def test_a_stable_file_ends_with_zero_and_says_so(tmp_path: Path) -> None:
    result = run(file(tmp_path, steps((800, 5.0))), "--column", "speed", "--arl", 20_000)
    assert result.exit_code == 0
    assert "no alarm" in result.stdout


def test_cells_that_are_no_number_are_counted_named_and_move_no_row(tmp_path: Path) -> None:
    cells = steps((600, 0.0), (50, 6.0))
    cells[5], cells[450], cells[451] = "", "fog", "nan"
    said = found(run(file(tmp_path, cells), "--column", "speed", "--train-rows", 300, "--json"))
    assert (said["refusals"], said["refused"]) == (3, [5, 450, 451])
    assert 600 <= said["alarms"][0] <= 604
    assert "3 rows refused, no usable number: 5, 450, 451" in run(file(tmp_path, cells), "--column", "speed").stdout


def test_an_alarm_in_the_baseline_does_not_count(tmp_path: Path) -> None:
    cells = [0.9 if 150 <= row < 170 or 296 <= row < 300 else 0.12 for row in range(420)]
    result = run(file(tmp_path, list(cells)), "--column", "speed", "--detector", "evasion", "--train-rows", 300, "--json")
    assert found(result)["alarms"] == []


@pytest.mark.parametrize("name", list(catalogue.ALL))
def test_every_entry_of_the_catalogue_runs_and_starts_again_after_an_alarm(name: str, tmp_path: Path) -> None:
    entry = catalogue.ALL[name]
    rng = np.random.default_rng(1)
    level, shift = entry.trial.level, min(3 * entry.trial.shift, 0.98 - entry.trial.level)
    learn = max(200, 2 * entry.learn)
    plan = [0.0] * (learn + 50) + [shift] * entry.trial.within
    cells: Cells = [min(1.0, max(0.0, level + far + entry.trial.spread * float(rng.standard_normal()))) for far in plan]
    said, _ = detect(file(tmp_path, cells), "speed", name, None, learn, quiet=True)
    assert said.alarms
    assert said.alarms[0] >= learn
    assert said.arl == entry.arl


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    path, picture = file(tmp_path, steps((400, 0.0), (20, 9.0))), tmp_path / "stream.png"
    assert run(path, "--column", "speed", "--train-rows", 200, "--plot", picture).exit_code == 1
    assert picture.read_bytes().startswith(b"\x89PNG")
    refused = run(path, "--column", "speed", "--train-rows", 200, "--plot", tmp_path / "stream.what")
    assert isinstance(refused.exception, BadInput)
    assert "cannot draw" in str(refused.exception)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--column", "sped"], "did you mean speed"),
        (["--column", "zzz"], "it has time, speed"),
        (["--column", "time"], "0 usable rows"),
        (["--column", "speed", "--train-rows", 99], "--train-rows 100 or more"),
        (["--column", "speed", "--train-rows", 900], "it takes 100 for that, and more to judge"),
        (["--column", "speed", "--detector", "drift-brightnes"], "did you mean drift-brightness"),
        (["--column", "speed", "--detector", "adwin-brightness", "--arl", 5000], "has no run length to choose"),
    ],
)
def test_what_does_not_hold_is_told_in_words_with_exit_code_two(words: list[object], told: str, tmp_path: Path) -> None:
    result = run(file(tmp_path, steps((300, 0.0))), *words)
    assert isinstance(result.exception, BadInput)
    assert result.exception.exit_code == 2
    assert told in str(result.exception)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "binary.csv").write_bytes(b"speed\n\xff\xfe\x00")
    for name, told in (("empty.csv", "is empty"), ("binary.csv", "no CSV file in UTF-8"), ("none.csv", "not readable")):
        with pytest.raises(BadInput, match=told):
            read_column(tmp_path / name, "speed")


def test_the_run_length_asked_for_is_the_detectors(tmp_path: Path) -> None:
    assert tmp_path.exists()
    detector, arl = choose("drift-brightness", 777, [0.1] * 200)
    assert arl == 777
    assert "arl=777" in detector.name
    assert "learn=200" in detector.name


def test_a_real_recording_is_judged_and_its_known_failure_found(tmp_path: Path) -> None:
    path = read_settings().shared_data / "drift/nab/data/realKnownCause/nyc_taxi.csv"
    if not path.exists():
        pytest.skip(f"no {path}")
    rows = path.read_text().splitlines()
    (tmp_path / "autumn.csv").write_text("\n".join([rows[0], *rows[3001:6301]]))
    said, _ = detect(tmp_path / "autumn.csv", "value", "default", 10_000, 1500, quiet=True)
    assert any(2930 <= row <= 3100 for row in said.alarms), "the marathon's night, rows 2,943 to 3,000 of this cut"
    assert len(said.alarms) <= 6
