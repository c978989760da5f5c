"""`kerbwatch gate` and `kerbwatch data`: a model is judged; training data is listed, reviewed, vetted.

It decides how results are shown; limits stand in `rules.GateRules` and `vetting.Rules`. Who finds something wrong returns 1.

Source: paper 4.6 (data validation, golden dataset, adversarial robustness testing), SC-10.
"""

import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress, track

from inference.lifecycle import trial, trial_report
from inference.lifecycle.exam import make_exam
from inference.lifecycle.gate import judge_model
from inference.lifecycle.golden import open_golden
from inference.lifecycle.held import Standing, held, hold, reviewed
from inference.lifecycle.rules import FULL, QUICK, name_of
from inference.lifecycle.vetting import Rules, ask, known, vet
from inference.measure.artefacts import machine
from inference.provenance.manifest import differences, load_manifest, manifest_of, save_manifest
from inference.provenance.registry import Registry, registry_of, shipped
from inference.provenance.verdicts import Verdict
from inference.service.serving import load
from inference.training.pools import sources_of, training_pools
from inference.training.samples import Sample
from infra.keys import model_key
from infra.settings import Settings, read_settings
from streams.errors import BadInput
from streams.events import Context, Mode

data = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Training data: manifest, golden set, vetting."
)

_STAGE = "a run's folder is taken in first, by `kerbwatch models stage FOLDER -m WHY`, and then named by its digest"
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


class Budget(StrEnum):
    """How thoroughly the gate looks."""

    QUICK = "quick"
    FULL = "full"


def gate(
    model: Annotated[str, typer.Argument(help="Its name, its digest or the beginning of it.")],
    context: Annotated[list[Context] | None, typer.Option(help="Where it is to serve; default: all of its card's.")] = None,
    budget: Annotated[
        Budget, typer.Option(help="full: the policy; quick: fewer pictures, a first look that opens nothing.")
    ] = Budget.FULL,
    as_json: AsJson = False,
) -> None:
    """Judge a model for each context; the verdict is signed and kept. 1 if it fails.

    Example: kerbwatch gate 3f2a --context urban --budget quick
    """
    settings = read_settings()
    model_key(settings)
    registry = registry_of(settings)
    baseline = shipped(registry)[Mode.NORMAL]
    digest = find_model(registry, model)
    rules = QUICK if budget is Budget.QUICK else FULL
    found: list[Verdict] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("drawing pictures", total=None)
        exams = [
            make_exam(one, settings.shared_data, rules.places, rules.real) for one in context or registry.card(digest).contexts
        ]
        for exam in exams:

            def report(what: str, done: int, total: int, where: Context = exam.context) -> None:
                progress.update(task, description=f"{where}: {what}", completed=done, total=total)

            found.append(judge_model(registry, digest, baseline, exam, rules, now=_now, report=report))
    if as_json:
        _json(found)
    for verdict in () if as_json else found:
        _tell(verdict)
    sys.exit(0 if all(one.passed for one in found) else 1)


@data.command("manifest")
def manifest(
    out: Annotated[Path | None, typer.Option(help="Where to write it; default: data-manifest.json in the home.")] = None,
    check: Annotated[Path | None, typer.Option(help="Compare the data with this manifest instead; 1 if it differs.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the training data with a digest per picture and label. Example: kerbwatch data manifest --check data-manifest.json."""
    settings = read_settings()
    known = load_manifest(check) if check else None
    samples = _training(settings)
    if known is not None:
        wrong = differences(known, samples)
        if as_json:
            _json(wrong)
        else:
            for one in wrong:
                typer.echo(f"{one.pool}/{one.name}: {one.fault}")
            typer.echo(f"{len(samples)} samples against {check}: {len(wrong)} differ")
        sys.exit(1 if wrong else 0)
    made = manifest_of("training", samples, sources_of(samples))
    path = out or settings.home / "data-manifest.json"
    save_manifest(made, path)
    if as_json:
        _json({"path": str(path), "digest": made.digest, "samples": len(made.records)})
    else:
        typer.echo(f"{path}: {len(made.records)} samples, digest {made.digest}")


@data.command("vet")
def vet_command(as_json: AsJson = False) -> None:
    """Vet the training data against the golden set and the shipped model; what fails is held back, sealed. 1 if something is.

    Example: kerbwatch data vet --json
    """
    settings = read_settings()
    golden_set = open_golden(settings)
    samples = _training(settings)
    registry = registry_of(settings)
    model_key(settings)
    served = load(registry, shipped(registry)[Mode.NORMAL], threads=settings.worker_threads)
    every = [*golden_set.samples, *samples]
    answers = list(track(ask(served, every), "asking the verified model", len(every), console=Console(stderr=True)))
    trusted = known(golden_set.golden.statistics, golden_set.samples, answers[: len(golden_set.samples)], Rules())
    findings = reviewed(settings, samples, vet(samples, answers[len(golden_set.samples) :], trusted, Rules()))
    new = hold(settings, samples, findings, _now())
    if as_json:
        _json(findings)
    else:
        for one in findings:
            typer.echo(f"{one.pool}/{one.name} {one.stage} {one.score:.2f}: {one.reason}")
        number = len({(one.pool, one.name) for one in findings})
        typer.echo(
            f"{number} of {len(samples)} samples are held back ({new} new): R4 and R8 decide, see `kerbwatch quarantine list`"
        )
    sys.exit(1 if findings else 0)


@data.command("held")
def held_command(as_json: AsJson = False) -> None:
    """List the training samples that wait for review, as `kerbwatch quarantine list` does. Example: kerbwatch data held --json."""
    listed = [one for one in held(read_settings()) if one.standing is Standing.SEALED]
    if as_json:
        _json(listed)
        return
    for one in listed:
        why = f"{one.worst.stage} {one.worst.score:.2f}: {one.worst.reason}"
        typer.echo(f"{one.id[:12]} {one.pool}/{one.name} {one.held_at:%Y-%m-%d %H:%M} {why}")
    typer.echo(f"{len(listed)} samples held back")


@data.command("trial")
def trial_command(
    rates: Annotated[str, typer.Option(help="Shares of labels or pictures that are harmed, 0..1, with commas.")] = "0.1",
    out: Annotated[Path | None, typer.Option(help="Write poisoning.json, .md and .png into this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Poison known pictures in known ways and say how much of it vetting finds; minutes for each rate.

    Example: kerbwatch data trial --rates 0.01,0.05,0.1,0.2,0.5 --out docs/results
    """
    settings = read_settings()
    shares = _rates(rates)
    model_key(settings)
    registry = registry_of(settings)
    digests = shipped(registry)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("drawing pictures", total=None)
        found = trial.run(
            trial.material(settings.shared_data),
            {mode.value: load(registry, digests[mode], threads=1) for mode in (Mode.NORMAL, Mode.SAFE)},
            registry.network(digests[Mode.NORMAL]),
            Rules(),
            lambda what, done, of: progress.update(task, description=what, completed=done, total=of),
            shares,
        )
    found = msgspec.structs.replace(found, command=f"kerbwatch data trial --rates {rates}", machine=machine())
    written = trial_report.write(found, out) if out else []
    if as_json:
        _json(found)
        return
    typer.echo(trial_report.markdown(found))
    for path in written:
        typer.echo(f"written: {path}")


def find_model(registry: Registry, model: str) -> str:
    """The digest of a model of the registry given by name or by the beginning of its digest.

    Raises BadInput if there is not exactly one, and for a file: `models stage` takes files in, with lineage and a signed act.
    """
    named = [card.digest for card in registry.cards().values() if card.name == model]
    fit = named or [digest for digest in registry.digests() if digest.startswith(model)]
    if len(fit) != 1:
        what = "no model" if not fit else f"{len(fit)} models"
        file = Path(model).exists()
        raise BadInput(f"{what} in {registry.root} by {model!r}: {_STAGE if file else 'see `kerbwatch models list`'}")
    return fit[0]


def _rates(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise BadInput(f"--rates {text!r} are no numbers with commas, e.g. 0.01,0.1") from error
    if not all(0 < one <= 1 for one in found):
        raise BadInput(f"--rates {text!r}: each is a share above 0 and up to 1, e.g. 0.01,0.1")
    return found


def _training(settings: Settings) -> list[Sample]:
    with Console(stderr=True).status("drawing streets, reading photographs"):
        return [one for group in training_pools(settings.shared_data).groups for one in group]


def _tell(verdict: Verdict) -> None:
    said = "passed" if verdict.passed else "FAILED"
    typer.echo(f"model {verdict.digest[:12]} for {verdict.context}: {said}, by the {name_of(verdict.settings_digest)} rules")
    for one in verdict.checks:
        value = "not measurable" if one.value is None else f"{one.value:.3f}"
        typer.echo(f"  {'ok  ' if one.passed else 'FAIL'} {one.name} {one.limit:g}: {value}")


def _json(value: object) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _now() -> datetime:
    return datetime.now(UTC)
