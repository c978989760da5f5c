"""Every learned baseline says which frames taught it, once, and is listed with its version."""

import json
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from test_detectors import NORMAL, SAFE, judged, story
from typer.testing import CliRunner

from detectors.baselines import Baseline, completed, versions
from detectors.catalogue import ALL
from detectors.watch import watch
from infra.db import migrate, open_database, writing
from infra.settings import Settings
from responders.proof.keeping import record_audit
from streams import codec
from streams.baselines import on_record
from streams.command_line import app
from streams.events import Context, Detections

LEARN = ALL["drift-brightness"].learn


def learned(events: list[Detections]) -> list[Baseline]:
    states: list[dict] = [{}]
    for event in events:
        states.append(watch(states[-1], event)[0])
    return [one for before, after in pairwise(states) for one in completed("cam", before, json.loads(json.dumps(after)))]


def test_a_baseline_says_which_frames_taught_it_and_says_it_once() -> None:
    found = {one.detector.split("/")[0]: one for one in learned([judged(n) for n in range(LEARN + 40)])}
    brightness, heat = found["drift-brightness"], found["drift-heat"]
    assert (brightness.first.sequence, brightness.last.sequence) == (0, LEARN - 2)
    assert (brightness.weights_digest, heat.weights_digest) == (None, NORMAL)
    assert len(found) == len(learned([judged(n) for n in range(LEARN + 40)]))


def test_each_context_and_all_weights_have_their_own_and_a_restart_is_told() -> None:
    town = [judged(n, epoch=1000 if n < 300 else 2000) for n in range(LEARN + 10)]
    road = [judged(n, epoch=3000, context=Context.HIGHWAY, digest=SAFE) for n in range(LEARN + 10)]
    found = [one for one in learned([*town, *road]) if one.detector.startswith("drift-heat")]
    assert [(one.context, one.weights_digest) for one in found] == [(Context.URBAN, NORMAL), (Context.HIGHWAY, SAFE)]
    assert (found[0].first.epoch, found[0].last.epoch) == (1000, 2000)
    assert len({one.digest for one in found}) == 2


def test_a_state_from_before_origins_were_kept_makes_none_up() -> None:
    state, _ = story([judged(n) for n in range(100)])
    for cells in state["baselines"].values():
        for cell in cells.values():
            cell.pop("origin", None)
    for n in range(100, LEARN + 40):
        state, _ = watch(state, judged(n))
    assert not any("origin" in cell for cells in state["baselines"].values() for cell in cells.values())


def test_a_baseline_that_was_learned_anew_is_the_next_version_and_the_command_lists_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(one for one in learned([judged(n) for n in range(LEARN + 10)]) if one.detector.startswith("drift-heat"))
    second = next(one for one in learned([judged(n, epoch=9000) for n in range(LEARN + 10)]) if one.detector == first.detector)
    now = judged(0).time
    assert [version for version, *_ in versions([(now + timedelta(hours=1), second), (now, first)])] == [1, 2]
    settings = Settings(home=tmp_path)
    migrate(settings)
    bodies = [codec.encode(on_record(one, "watcher/watch", now + timedelta(hours=n))) for n, one in enumerate((first, second))]
    with writing(open_database(settings)) as session:
        assert record_audit(session, [*bodies, bodies[0]]) == 2
    monkeypatch.setenv("KERBWATCH_HOME", str(tmp_path))
    out = CliRunner().invoke(app, ["baselines", "--json"])
    assert out.exit_code == 0, out.output
    lines = json.loads(out.output)
    assert [(line["version"], line["baseline"]["first"]["epoch"]) for line in lines] == [(1, 1000), (2, 9000)]
    assert "0 to 598" in CliRunner().invoke(app, ["baselines"]).output
    assert json.loads(CliRunner().invoke(app, ["baselines", "--camera", "other", "--json"]).output) == []
