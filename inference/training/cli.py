"""The command `kerbwatch train`: reads the settings, says how far a run has come, and turns errors into plain words.

It decides nothing about training (`inference.training.train`).
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import torch
import typer
from rich.console import Console
from torch import nn

from inference.measure.quality import measure
from inference.networks.csp_nano import CspNano, from_bytes
from inference.networks.detect import detect
from inference.networks.pretrained import fill, graph_file, read_constants
from inference.training.defences import Defences
from inference.training.pools import training_pools
from inference.training.record import record_run, started_at
from inference.training.samples import Sample
from inference.training.train import CHECKPOINT, PRESETS, Progress, run
from infra.settings import read_settings
from streams.errors import BadInput, KerbwatchError

_LOW = 0.02


def miss_rate_on(samples: Sequence[Sample]) -> Callable[[nn.Module], float]:
    """Judges a network by its log-average miss rate on the samples, 1.0 where nobody is to be found."""

    def judge(network: nn.Module) -> float:
        found = detect(network, [one.picture for one in samples], _LOW)
        quality = measure(found, [one.people for one in samples], _LOW)
        return 1.0 if quality.miss_rate is None else quality.miss_rate

    return judge


def pretrained() -> CspNano:
    """CSP-nano as every first training starts: the real pedestrian weights in the backbone, a fresh head."""
    network = CspNano()
    fill(network.backbone, read_constants(graph_file()))
    return network


def train(
    model: Annotated[str, typer.Option(help=f"Whose settings: {', '.join(PRESETS)}.")] = "csp-nano",
    folder: Annotated[
        Path | None, typer.Option(help="Where the run is kept and resumed; default: training/MODEL in the home.")
    ] = None,
    parent: Annotated[
        Path | None, typer.Option(help="Weights to start from (safetensors); default: the pretrained backbone.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps, instead of the model's own number.")] = None,
    cutmix: Annotated[float | None, typer.Option(help="CutMix: the chance P that a batch is mixed, 0..1.")] = None,
    patience: Annotated[int | None, typer.Option(help="Early stopping: so many epochs without a better validation.")] = None,
    eps_at: Annotated[float | None, typer.Option(help="Adversarial training: strength, a share of 255, e.g. 0.02.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Distillation: the student's influence on its teacher, 0..1.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
) -> None:
    """Train CSP-nano, with the paper's defences as asked for, or go on with a run that was stopped.

    Example: kerbwatch train --model csp-nano-safe --parent inference/weights/csp-nano.safetensors
    """
    console = Console(stderr=True)
    try:
        if model not in PRESETS:
            raise BadInput(f"no model {model!r}; there are {', '.join(PRESETS)}")
        deployment = read_settings()
        preset = PRESETS[model]
        asked = {"cutmix": cutmix, "patience": patience, "eps_at": eps_at, "alpha": alpha}
        changed = msgspec.structs.asdict(preset.defences) | {name: value for name, value in asked.items() if value is not None}
        defences = _checked(changed)
        settings = msgspec.structs.replace(preset, steps=steps or preset.steps, defences=defences)
        torch.manual_seed(settings.seed)
        start = None if parent is None else parent.read_bytes()
        network = pretrained() if start is None else from_bytes(start)
        where = folder or deployment.home / "training" / model
        began = started_at(where, datetime.now(UTC))
        with console.status("drawing streets, reading photographs"):
            pools = training_pools(deployment.shared_data, validated=defences.patience is not None)
        with console.status(model) as status:

            def show(at: Progress) -> None:
                line = f"{model}: step {at.step}/{at.steps}, loss {at.loss:.3f}, {at.left_s / 60:.1f} minutes left"
                if console.is_terminal:
                    status.update(line)
                elif at.step % 25 == 0:
                    console.print(line)

            weights = run(
                settings,
                pools,
                network,
                where,
                threads=threads,
                report=show,
                validate=miss_rate_on(pools.validation) if defences.patience else None,
                device=device,
            )
        record_run(
            weights,
            settings,
            pools,
            start,
            started_at=began,
            finished_at=datetime.fromtimestamp((where / CHECKPOINT).stat().st_mtime, UTC),
            device=device,
            command=_command(model, {"parent": parent, "steps": steps, **asked}),
        )
    except KerbwatchError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        raise typer.Exit(error.exit_code) from error
    console.print(f"weights: {weights}; curves: {where / 'curves.png'}; next: `kerbwatch models stage {where} -m WHY`")


def _command(model: str, asked: dict[str, object]) -> str:
    """The command as it was given, without what changes no weights."""
    options = [f"--{name.replace('_', '-')} {value}" for name, value in asked.items() if value is not None]
    return " ".join(["kerbwatch train --model", model, *options])


def _checked(values: dict[str, object]) -> Defences:
    try:
        return msgspec.convert(values, Defences)
    except msgspec.ValidationError as error:
        raise BadInput(f"defences: {error}; see `kerbwatch train --help`") from error
