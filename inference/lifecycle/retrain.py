"""A new model after an incident: trained with defences from the safe model's weights, put into the registry, judged by the gate.

It decides how a retraining run trains in two budgets and carries it out step by step, each of them resumable: given the same folder
again, it goes on where it was killed. What is in the registry stays as it was recorded then, whatever code, pictures or machine are
there now; what was learnt from a picture that was set aside since is learnt anew. It refuses to judge itself: the gate does. No
topic feeds it; `streams.console.retraining` does.

Source: paper 4.6 (secure retraining), 5.1.3 (defences).
"""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from inference.lifecycle.collect import Collected, Plan, Report, Tell, collect
from inference.lifecycle.exam import make_exam, real_pictures
from inference.lifecycle.gate import judge_model
from inference.lifecycle.rules import FULL, GateRules, name_of
from inference.networks.pretrained import NOTICE
from inference.provenance.lineage import Lineage, this_code, this_machine, write_lineage
from inference.provenance.registry import Card, Registry, digest_of, shipped
from inference.provenance.verdicts import Verdict
from inference.service.serving import white_box
from inference.training.cli import miss_rate_on
from inference.training.defences import Defences
from inference.training.record import started_at
from inference.training.train import PRESETS, WEIGHTS, Progress, TrainSettings, run
from infra.files import write_whole
from infra.settings import Settings
from streams.errors import Tampered, Unavailable
from streams.events import Mode

TRAINING = "run"
"""The folder in a run's folder from which training goes on; without it, it begins anew."""
_LEARNT = "learnt.json"


class _Learnt(msgspec.Struct, frozen=True):
    """What the training in a run's folder has seen since it began: digests of live pictures, and that of its settings."""

    pictures: frozenset[str]
    settings: str


def candidate(
    plan: Plan,
    settings: Settings,
    registry: Registry,
    folder: Path,
    *,
    rules: GateRules,
    threads: int,
    report: Report,
    tell: Tell,
) -> str:
    """Make a candidate, or go on making it, and put it into the registry with card and lineage. Returns its digest.

    One that the folder's run has put there already is that run's candidate still, with the card and lineage of then.

    Args:
        plan: what is wanted.
        settings: where golden data and shared data lie.
        registry: where the models are, and where the candidate goes.
        folder: where the run is kept; the same one to go on.
        rules: by which the gate will judge it; nothing is trained where their real pictures are not at hand.
        threads: CPU threads.
        report: called at every step; what it raises ends the run, which can go on later.
        tell: called with what vetting said, before anything is trained; again where the run goes on after a kill.

    Raises:
        Unavailable: without a golden set, or without the shared data of a full budget or of the rules' exam.
        BadInput: if there is too little golden data, or the training cannot go on.
        Tampered: if golden data or a model was changed.
    """
    real_pictures(plan.context, settings.shared_data, rules.real)
    learnt = _learnt(folder)
    if learnt is not None and learnt.pictures & plan.set_aside:
        _begin_anew(folder, report)
        learnt = None
    if known := _in_registry(registry, folder / TRAINING / WEIGHTS):
        return known
    started = started_at(folder, datetime.now(UTC))
    collected = collect(plan, settings, registry, threads=threads, report=report, tell=tell)
    write_whole(folder / "held.json", msgspec.json.format(msgspec.json.encode(collected.held)))
    training = training_settings(plan, collected.shares)
    how = digest_of(msgspec.json.encode(training))
    if learnt is not None and learnt.settings != how:  # no live picture is left in the log, or the code is another
        _begin_anew(folder, report)
        learnt = None
    seen = frozenset(one.digest for one in plan.live) - plan.set_aside
    known_now = _Learnt(seen if learnt is None else seen | learnt.pictures, how)
    write_whole(folder / _LEARNT, msgspec.json.format(msgspec.json.encode(known_now)))

    def told(at: Progress) -> None:
        report("training with defences", at.step, at.steps, at.left_s)

    weights = run(
        training,
        collected.pools,
        white_box(registry, plan.safe_digest),
        folder / TRAINING,
        threads=threads,
        report=told,
        validate=miss_rate_on(collected.pools.validation) if training.defences.patience else None,
    )
    report("putting the candidate into the registry", 0, 1, 0.0)
    if known := _in_registry(registry, weights):
        return known
    card = _card(plan, registry, training, collected, weights)
    lineage = Lineage(
        digest=card.digest,
        started_at=started,
        finished_at=datetime.fromtimestamp(weights.stat().st_mtime, UTC),
        materials=collected.materials,
        settings=msgspec.json.decode(msgspec.json.encode(training)),
        code=this_code(),
        machine=this_machine("cpu"),
        parent=plan.safe_digest,
        figures={"held_back": float(len({(one.pool, one.name) for one in collected.held}))},
        incident=plan.incident_id,
    )
    return registry.put(weights, card, write_lineage(lineage))


def _in_registry(registry: Registry, weights: Path) -> str:
    """The digest of trained weights that the registry holds and vouches for; "" for all others."""
    if not weights.is_file():
        return ""
    digest = digest_of(weights.read_bytes())
    try:
        registry.verify(digest)
    except (Tampered, Unavailable):  # not there, or damaged: putting it there again says which
        return ""
    return digest


def _learnt(folder: Path) -> _Learnt | None:
    """What the training in the folder has seen; None where it is to begin."""
    path = folder / _LEARNT
    if not path.is_file() or not (folder / TRAINING).is_dir():
        return None
    return msgspec.json.decode(path.read_bytes(), type=_Learnt)


def _begin_anew(folder: Path, report: Report) -> None:
    report("training begins anew, for what it learns from has changed", 0, 1, 0.0)
    shutil.rmtree(folder / TRAINING)


def gated(  # noqa: PLR0917 - what, with what, and by which rules
    plan: Plan, settings: Settings, registry: Registry, digest: str, report: Report, rules: GateRules
) -> tuple[bool, str]:
    """Let the gate judge the candidate for the plan's context: whether it passed, and the figures behind that, in words.

    `rules` are those that open promotion in this home (`streams.policy`). Raises as `gate.judge_model`.
    """
    report("gate: drawing pictures", 0, 1, 0.0)
    exam = make_exam(plan.context, settings.shared_data, rules.places, rules.real)
    verdict = judge_model(
        registry,
        digest,
        shipped(registry)[Mode.NORMAL],
        exam,
        rules,
        now=lambda: datetime.now(UTC),
        report=lambda what, done, of: report(f"gate: {what}", done, of, 0.0),
    )
    return verdict.passed, f"{name_of(rules.digest)} rules, {len(exam.samples)} pictures: {said(verdict, rules)}"


def said(verdict: Verdict, rules: GateRules) -> str:
    """A verdict in one line: what failed, or what was kept at worst; and where the limit is not the policy's, that one."""
    if not verdict.passed:
        return "; ".join(f"{check.name} {check.limit:g}: {check.value}" for check in verdict.checks if not check.passed)
    kept = {check.name.removesuffix(", at least"): check.value for check in verdict.checks if check.limit == rules.kept}
    worst = min(kept, key=lambda name: kept[name] or 0.0, default="")
    policy = f"; the policy asks for {FULL.kept:g}" if rules.kept < FULL.kept else ""
    return f"{worst} {kept[worst]} (limit {rules.kept:g}{policy}), all {len(verdict.checks)} checks passed"


def training_settings(plan: Plan, shares: tuple[float, ...]) -> TrainSettings:
    """How the candidate is trained: from the safe model's weights, with the paper's defences; `shares` of crops by group."""
    name = f"csp-nano-{plan.context}-{plan.rollout_id[:8]}"
    if not plan.short:
        defences = Defences(cutmix=0.5, patience=15, eps_at=9 / 255)
        return msgspec.structs.replace(PRESETS["csp-nano-safe"], model=name, seed=plan.seed, shares=shares, defences=defences)
    return TrainSettings(
        model=name,
        seed=plan.seed,
        steps=40,
        epoch=10,
        batch=4,
        height_px=192,
        width_px=256,
        backbone_rate=1e-4,  # gently: so few steps can spoil more than they teach
        head_rate=3e-4,
        frozen_blocks=0,
        averaging=0.95,
        shares=shares,
        defences=Defences(cutmix=0.5, eps_at=9 / 255),
    )


def _card(plan: Plan, registry: Registry, training: TrainSettings, collected: Collected, weights: Path) -> Card:
    parent = registry.card(plan.safe_digest)
    pools = ", ".join(f"{one.name} ({one.samples} pictures, manifest {one.manifest_digest[:12]})" for one in collected.materials)
    return Card(
        name=training.model,
        digest=digest_of(weights.read_bytes()),
        mode=Mode.NORMAL,
        contexts=(plan.context,),
        architecture=parent.architecture,
        parent=plan.safe_digest,
        threshold=parent.threshold,
        data=f"{pools}; {len(collected.held)} findings of vetting held pictures back.",
        settings=msgspec.Raw(msgspec.json.encode(training)),
        commands=(f"kerbwatch retrain --reason {plan.incident_id[:8]} --budget {plan.budget}",),
        figures=(),
        notes=f"Retrained for {plan.context} after incident {plan.incident_id}; figures: see the gate's verdict.",
        licence=NOTICE,
    )
