"""Small models for tests of registry, gate and promotion: real safetensors files with card and lineage, no torch."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import a_run
import msgspec
import numpy as np
from msgspec.structs import replace
from safetensors.numpy import save

from inference.lifecycle.rules import FULL, GateRules
from inference.provenance.lineage import Code, Lineage, Machine, Material, write_lineage
from inference.provenance.registry import Card, Registry, digest_of, registry_of, write_card
from inference.provenance.verdicts import Check, Verdict
from infra.keys import model_key
from infra.settings import Settings
from streams.events import Context, Detections, Mode, event_id

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def a_registry(home: Path) -> Registry:
    """Empty, with a key to sign with."""
    settings = Settings(home=home)
    model_key(settings)
    return registry_of(settings)


def weights(number: int) -> bytes:
    return save({"kernel": np.full((2, 3), number, np.float32)})


def a_card(digest: str, mode: Mode = Mode.NORMAL, name: str = "small") -> Card:
    return Card(
        name=name,
        digest=digest,
        mode=mode,
        contexts=tuple(Context),
        architecture="a kernel",
        parent=None,
        threshold=0.4,
        data="none",
        settings=msgspec.Raw(b'{"steps": 1}'),
        commands=(),
        figures=(),
        notes="",
        licence="",
    )


def a_lineage(digest: str) -> Lineage:
    return Lineage(
        digest=digest,
        started_at=NOON,
        finished_at=NOON + timedelta(minutes=3),
        materials=(Material(name="penn-fudan", manifest_digest="1" * 64, samples=90),),
        settings={"steps": 3200, "head_rate": 0.002, "shares": [0.5, 0.5], "defences": {"alpha": None, "half": True}},
        code=Code(version="0.1.0", commit="2" * 40, source_digest="3" * 64),
        machine=Machine(architecture="x86_64", cores=2, device="cpu", python="3.11.2", packages={"torch": "2.13.0"}),
        parent=None,
        figures={"validation": 0.125},
        incident=None,
    )


def run_folder(folder: Path, number: int, mode: Mode = Mode.NORMAL, name: str = "small") -> str:
    """What a training run leaves: weights, card, lineage. Returns the digest."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = digest_of(weights(number))
    (folder / "weights.safetensors").write_bytes(weights(number))
    (folder / "card.json").write_bytes(write_card(a_card(digest, mode, name)))
    (folder / "lineage.json").write_bytes(write_lineage(a_lineage(digest)))
    return digest


def add(registry: Registry, scratch: Path, number: int, mode: Mode = Mode.NORMAL, name: str = "small") -> str:
    """A model in the registry, with lineage. Returns its digest."""
    folder = scratch / f"run-{number}"
    digest = run_folder(folder, number, mode, name)
    return registry.put(folder / "weights.safetensors", a_card(digest, mode, name), (folder / "lineage.json").read_bytes())


def a_verdict(
    digest: str, context: Context = Context.URBAN, *, passed: bool = True, minutes: int = 0, rules: GateRules = FULL
) -> Verdict:
    return Verdict(
        digest=digest,
        context=context,
        passed=passed,
        checks=(
            Check(name="recall", value=0.91, limit=0.8, passed=True),
            Check(name="fgsm 0.03", value=0.85 if passed else 0.5, limit=0.8, passed=passed),
        ),
        attacks=("fgsm eps 0.03, seed 7",),
        baseline_digest=None,
        data_digest=f"{minutes:064x}",
        settings_digest=rules.digest,
        made_at=NOON + timedelta(minutes=minutes),
    )


def judged_frame(sequence: int, digest: str, *, mode: Mode = Mode.NORMAL, decision: str = "initial-urban") -> Detections:
    """A frame of cam1 in urban, judged `sequence` seconds after noon."""
    id_ = event_id("frame", "cam1", 1, sequence)
    seen = a_run.judged()
    return replace(
        seen,
        id=event_id("detections", id_),
        time=NOON + timedelta(seconds=sequence),
        camera_time=NOON + timedelta(seconds=sequence - 0.1),
        camera_id="cam1",
        frame_id=id_,
        sequence=sequence,
        weights_digest=digest,
        mode=mode,
        decision_id=decision,
    )
