"""Section 6's figures: what they are made from, what stands beside the paper's, and the command that measures them."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from a_model import NOON
from typer.testing import CliRunner

from inference.experiments import overheads as module
from inference.experiments.cli import app
from inference.experiments.footprint import CAMERA, Footprint, _resident_mib, calm_frames, resident_mib
from inference.experiments.overheads import CHAINS, EFFORTS, Effort, Overheads, measure, unseen
from inference.experiments.overheads_report import markdown, write
from inference.experiments.quantisation import Inference, Kept
from inference.provenance.registry import registry_of, shipped
from inference.service.bench import Cleaning, Protection
from inference.service.intake import Intake
from inference.training.samples import PHOTOGRAPHS, streets
from infra.keys import model_key, verify_frame
from infra.settings import Settings
from streams.errors import BadInput
from streams.events import Context, Mode
from streams.sources.scenery import Weather

TINY = Effort(name="tiny", frames=64, rounds=4, photographs=0, streets=1)


def found() -> Overheads:
    def protection(ratio: float) -> Protection:
        return Protection(512, np.float64(40.0), 42.0, ratio, ratio - 0.01, ratio + 0.01, 1.05, 0.037)

    kept = [
        Kept(data=PHOTOGRAPHS, attack=attack, pictures=30, full=0.8, quantised=value, kept=share, low=share, high=share)
        for attack, value, share in (("none", 0.6, 0.75), ("fgsm 8/255", 0.784, 0.98), ("pgd-5 8/255", None, None))
    ]
    model = Inference(
        model="csp-nano-safe-int8", full="1" * 64, quantised="2" * 64, rounds=80, full_ms=40.0, quantised_ms=22.0, ratio=0.55,
        ratio_low=0.54, ratio_high=0.56, cpu_ratio=0.55, size_ratio=0.58, robustness=tuple(kept),
    )  # fmt: skip
    memory = [("unprotected", 1024.0), ("protected", 1100.0), ("both", 1536.0), ("quantised", 1100.0)]
    return Overheads(
        cleaning=tuple(Cleaning(chain, 1.25, 0.033) for chain in CHAINS),
        protection=protection(1.06),
        cleaned=protection(1.1),
        safe_over_normal=1.01,
        memory=tuple(Footprint(what=what, models=(), resident_mib=mib) for what, mib in memory),
        quantised=(model,),
        effort=EFFORTS["full"],
        photographs=30,
        command="kerbwatch experiments overheads --budget full",
        machine="a machine",
    )


def test_our_figures_stand_beside_the_papers_and_attacks_alone_say_what_robustness_is_kept(tmp_path: Path) -> None:
    text = markdown(found())
    for line in (
        "| cleaning a picture | 5 to 8 ms | 1.2 ms (jpeg-75) |",
        "| latency of the adversarially trained model over the normal one | 1.21 | 1.01 |",
        "| memory that protection adds | 2.3 GB | 0.50 GiB (of 1.50) |",
        "| latency of the quantised safe model | 1.08 of unprotected | 0.55 (0.54 to 0.56) of the full safe model |",
        "| robustness that quantising keeps | 94% | 98% to 98% |",
        "| penn-fudan, 30 | pgd-5 8/255 | 0.800 | - | - (- to -) |",
    ):
        assert line in text, text
    paths = write(found(), tmp_path)
    assert [path.name for path in paths] == ["overheads.json", "overheads.md", "overheads.png"]
    told = json.loads(paths[0].read_bytes())
    assert told["protection"]["unprotected_ms"] == 40.0
    assert told["quantised"][0]["robustness"][2]["kept"] is None
    assert paths[2].stat().st_size > 10_000


def test_the_cameras_frames_pass_the_workers_checks(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    frames = list(calm_frames(settings, 5, NOON))
    intake = Intake(verify=partial(verify_frame, settings), allowance_s=60.0)
    for offset, one in enumerate(frames):
        accepted = intake.admit(one.headers, one.body, key=CAMERA.encode(), partition=0, offset=offset, now=one.frame.time)
        assert accepted.picture.shape == (320, 640, 3)
    with pytest.raises(BadInput):
        intake.admit(frames[0].headers, frames[1].body, key=CAMERA.encode(), partition=0, offset=9, now=NOON)


def test_pictures_that_are_attacked_are_of_town_and_of_the_number_asked_for(tmp_path: Path) -> None:
    drawn = unseen(tmp_path, Effort(name="some", frames=64, rounds=1, photographs=9, streets=3))  # no photographs at hand
    assert [one.origin for one in drawn] == ["urban-day", "urban-day", "urban-dusk"]
    assert all(one.people for one in drawn)


def test_a_judge_with_two_models_holds_memory_that_the_system_tells(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    model_key(settings)
    models = shipped(registry_of(settings))
    before = resident_mib()
    assert _resident_mib(settings, (models[Mode.NORMAL], models[Mode.SAFE]), NOON, protected=True) > 0.5 * before > 50


def test_another_budget_is_refused_in_plain_words() -> None:
    result = CliRunner().invoke(app, ["overheads", "--budget", "endless"])
    assert result.exit_code == 2
    assert "no budget 'endless'; there are full, quick" in result.output


@pytest.mark.slow
def test_everything_is_measured_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "calibration", lambda _: streets(Context.URBAN, Weather.DAY, (1000,), (0, 70)))
    said: list[str] = []
    result = measure(
        Settings(home=tmp_path), TINY, now=lambda: NOON, say=lambda what, *_: said.append(what), command="none", machine="none"
    )
    assert {one.chain for one in result.cleaning} == set(CHAINS)
    assert result.cleaned.frames == result.protection.frames == TINY.frames
    assert [one.model for one in result.quantised] == ["csp-nano-safe-int8", "csp-nano-int8"]
    assert all(0.2 < one.ratio < 1.5 for one in result.quantised)
    assert result.memory[0].resident_mib < result.memory[2].resident_mib
    assert {"drawing frames", "quantising", "csp-nano-safe-int8: fgsm 8/255"} <= set(said)
    write(result, tmp_path)
