"""The gate: whether a model may serve a context, by measurement, under attack too; what it says is signed, kept, and final.

It decides by fixed rules (`GateRules`, named by their digest) and refuses exceptions: one check that fails, fails the model,
whoever asks, and the same rules judge a model on the same pictures once. Attacks are white-box, on a copy of the network, at full
strength (no JPEG behind them); the model's digest is checked afterwards. A quantised model has no gradient: it is judged as it is
served, under attacks made on its parent, and one whose answers are not nearly its parent's is refused, since attacks on another
model say little of it. The gate promotes nothing (`kerbwatch models promote` and rollouts ask for its verdict). No topic feeds it.

    kept under an attack   performance under attack / clean performance of the same model on the same pictures, at least 0.8
    clean                  clean performance less that of the shipped normal model, at least minus a margin
    fairness               the mean of all groups' performance less the worst one's, at most a limit
    latency                time of a forward pass over that of the shipped normal model, in one paired run, at most a limit

Source: paper 4.6 (mandatory adversarial robustness testing: 80 % of the baseline at FGSM eps <= 0.03 and DeepFool xi <= 0.03, and
combined; fairness; staged deployment with validation), exam's notion of performance in `inference.lifecycle.exam`.
"""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from statistics import fmean, median

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import nn

from inference.attacks.deepfool import deepfool
from inference.attacks.gradient import fgsm
from inference.lifecycle.exam import Exam, by_group, performance
from inference.lifecycle.rules import GateRules
from inference.networks.csp_nano import CspNano, to_bytes
from inference.networks.detect import detect
from inference.provenance.registry import INT8, Registry, digest_of
from inference.provenance.verdicts import Check, Verdict, put_verdict, verdicts
from inference.service.serving import Served, load, white_box
from inference.training.samples import Sample
from streams.errors import BadInput, BrokenContract
from streams.events import Box, Mode
from streams.sources.base import Picture

_LOW = 0.02  # boxes below this are not even listed
_ROUNDS = 12
_COMPARED = 8  # pictures on which a quantised model is held against its parent
_COPY = (
    0.05  # how far a quantised model's scores may be from its parent's, root mean square over cells that either takes for people
)
Report = Callable[[str, int, int], None]
"""Told what is measured: words, pictures done, pictures in all."""
Attack = Callable[[CspNano, Sample], Picture]
Judged = nn.Module | Served


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Performance on the same pictures, clean and under an attack; None where it cannot be said."""

    attack: str
    clean: float | None
    under: float | None


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """All that the rules look at. `groups`: name to performance, of those with people enough."""

    mode: Mode
    clean: float | None
    baseline_clean: float | None
    kept: tuple[Kept, ...]
    groups: dict[str, float]
    latency: float


def decide(measured: Measured, rules: GateRules) -> tuple[Check, ...]:
    """What the rules say of the numbers. What could not be measured does not pass."""
    margin = rules.safe_margin if measured.mode is Mode.SAFE else rules.clean_margin
    clean, normal = measured.clean, measured.baseline_clean
    less = None if clean is None or normal is None else clean - normal
    checks = [_least("clean performance less the shipped normal model's", less, -margin)]
    for one in measured.kept:
        share = one.under / one.clean if one.clean and one.under is not None else None
        checks.append(_least(f"performance kept under {one.attack}", share, rules.kept))
    if len(measured.groups) > 1:
        worst = min(measured.groups, key=lambda name: measured.groups[name])
        gap = fmean(measured.groups.values()) - measured.groups[worst]
        checks.append(_most(f"fairness: mean of {len(measured.groups)} groups less the worst ({worst})", gap, rules.fairness))
    checks.append(_most("latency over the shipped normal model's", measured.latency, rules.latency))
    return tuple(checks)


def attacks(rules: GateRules, threshold: float) -> dict[str, Attack]:
    """The attacks of the rules by name, each from a network and a sample to a picture."""
    made: dict[str, Attack] = {}
    for eps in rules.fgsm_eps:
        made[f"fgsm eps {eps:g}"] = lambda white, one, eps=eps: fgsm(white, one.picture, one.people, eps)  # type: ignore[misc]
    reach = f"(radius {rules.deepfool_radius:g} levels, {rules.deepfool_steps} steps)"

    def fooled(white: CspNano, picture: Picture, one: Sample, xi: float) -> Picture:
        steps, radius = rules.deepfool_steps, rules.deepfool_radius
        return deepfool(white, [picture], xi, [one.people], threshold=threshold, steps=steps, radius=radius)[0]

    for xi in rules.deepfool_xi:
        made[f"deepfool xi {xi:g} {reach}"] = lambda white, one, xi=xi: fooled(white, one.picture, one, xi)  # type: ignore[misc]
    if rules.combined and rules.fgsm_eps and rules.deepfool_xi:
        eps, xi = max(rules.fgsm_eps), max(rules.deepfool_xi)

        def both(white: CspNano, one: Sample) -> Picture:
            return fooled(white, fgsm(white, one.picture, one.people, eps), one, xi)

        made[f"fgsm eps {eps:g}, then deepfool xi {xi:g} {reach}"] = both
    return made


def measure_model(registry: Registry, digest: str, baseline: str, exam: Exam, rules: GateRules, report: Report) -> Measured:  # noqa: PLR0917 - what, against what, on what, how
    """Run the exam. Raises as `Registry.read`, and BrokenContract if the model was changed by it."""
    card, white = registry.card(digest), white_box(registry, digest)
    threshold = card.threshold
    quantised = card.architecture.startswith(INT8)
    judged: Judged = load(registry, digest) if quantised else registry.network(digest)
    if isinstance(judged, Served):
        _nearly(judged, load(registry, str(card.parent)), exam.samples)
    plain = _look(judged, exam.samples, None, report, "clean")
    clean = performance(exam.context, exam.samples, plain, threshold)
    normal = clean
    if baseline != digest:
        seen = _look(registry.network(baseline), exam.samples, None, report, "clean, shipped model")
        normal = performance(exam.context, exam.samples, seen, registry.card(baseline).threshold)
    kept = []
    for name, attack in attacks(rules, threshold).items():
        places = range(0, len(exam.samples), rules.deepfool_every if "deepfool" in name else 1)
        some, before = [exam.samples[at] for at in places], [plain[at] for at in places]
        under = _look(judged, some, lambda one, attack=attack: attack(white, one), report, name)  # type: ignore[misc]
        kept.append(
            Kept(
                attack=name,
                clean=performance(exam.context, some, before, threshold),
                under=performance(exam.context, some, under, threshold),
            )
        )
    groups = by_group(exam.samples, plain, rules.group_people)
    of = card.parent if quantised else digest
    if any(isinstance(one, nn.Module) and digest_of(to_bytes(one)) != of for one in (judged, white)):
        raise BrokenContract(f"model {digest[:12]} was changed by its examination: report this")
    latency = 1.0 if baseline == digest else latency_ratio(registry, digest, baseline, exam.samples[-1].picture)
    return Measured(mode=card.mode, clean=clean, baseline_clean=normal, kept=tuple(kept), groups=groups, latency=latency)


def judge_model(
    registry: Registry,
    digest: str,
    baseline: str,
    exam: Exam,
    rules: GateRules,
    *,
    now: Callable[[], datetime],
    report: Report = lambda *_: None,
) -> Verdict:
    """The verdict on a model: the one that these rules made of it on these pictures before, or a new one, signed and kept.

    Args:
        registry: where model and baseline are.
        digest: who is judged.
        baseline: the shipped normal model, which clean performance and latency are compared with.
        exam: the context's pictures.
        rules: limits.
        now: the time of the verdict, UTC.
        report: told of progress.

    Raises:
        Tampered, Unavailable, BadInput: as `Registry.read` and `verdicts.put_verdict`.
    """
    data = exam.manifest.digest
    for known in verdicts(registry, digest):
        if (known.context, known.settings_digest, known.data_digest) == (exam.context, rules.digest, data):
            return known
    measured = measure_model(registry, digest, baseline, exam, rules, report)
    checks, card = decide(measured, rules), registry.card(digest)
    how = f"white-box on its parent {str(card.parent)[:12]}" if card.architecture.startswith(INT8) else "white-box"
    verdict = Verdict(
        digest=digest,
        context=exam.context,
        passed=all(one.passed for one in checks),
        checks=checks,
        attacks=tuple(f"{one.attack}, {how}" for one in measured.kept),
        baseline_digest=baseline,
        data_digest=data,
        settings_digest=rules.digest,
        made_at=now(),
    )
    put_verdict(registry, verdict)
    return verdict


def latency_ratio(registry: Registry, digest: str, baseline: str, picture: Picture) -> float:
    """The median ratio of two models' times for one picture, as served, one after the other in turns."""
    models = [load(registry, one, threads=1) for one in (digest, baseline)]
    for model in models:
        model.look([picture])
    ratios = []
    for _ in range(_ROUNDS):
        spent = []
        for model in models:
            start = time.perf_counter()
            model.look([picture])
            spent.append(time.perf_counter() - start)
        ratios.append(spent[0] / spent[1])
    return median(ratios)


def _nearly(copy: Served, parent: Served, samples: Sequence[Sample]) -> None:
    """Raises BadInput if a quantised model's scores are far from its parent's where either sees people."""
    apart: list[NDArray[np.float32]] = []
    for sample in samples[:: max(1, len(samples) // _COMPARED)]:
        mine, theirs = (one.look([sample.picture])[0].heat for one in (copy, parent))
        apart.append((mine - theirs)[np.maximum(mine, theirs) > _LOW])
    far = float(np.sqrt(np.mean(np.concatenate(apart) ** 2))) if any(part.size for part in apart) else 0.0
    if far > _COPY:
        raise BadInput(
            f"model {copy.digest[:12]} scores {far:.2f} away from its parent {parent.digest[:12]} (limit {_COPY}), so attacks made "
            "on that say little of it: quantise it anew with `kerbwatch models quantise`"
        )


def _look(
    judged: Judged, samples: Sequence[Sample], change: Callable[[Sample], Picture] | None, report: Report, what: str
) -> list[tuple[Box, ...]]:  # fmt: skip
    found = []
    for number, sample in enumerate(samples):
        report(what, number, len(samples))
        pictures = [sample.picture if change is None else change(sample)]
        if isinstance(judged, Served):
            found.append(judged.look(pictures, _LOW)[0].boxes)
        else:
            found += detect(judged, pictures, _LOW)
    report(what, len(samples), len(samples))
    return found


def _least(name: str, value: float | None, limit: float) -> Check:
    return Check(name=f"{name}, at least", value=_short(value), limit=limit, passed=value is not None and value >= limit)


def _most(name: str, value: float, limit: float) -> Check:
    return Check(name=f"{name}, at most", value=_short(value), limit=limit, passed=value <= limit)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
