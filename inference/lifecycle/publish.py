"""Turns a finished training run into a shipped model: measures it, clean and attacked, and writes weights and card.

It decides what a card says and on which pictures that was measured: Penn-Fudan's held-out photographs and synthetic streets whose
seeds no training saw, per context and weather. It refuses to choose between models and puts nothing into service. All pictures pass
through JPEG quality 92, as a camera's do, after the attack. No topic feeds it.

Source: paper 5.2 (figures per attack strength), evaluation with FGSM and PGD at 8/255 after Madry et al. 2018.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import cv2
import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from inference.attacks.gradient import fgsm, pgd
from inference.measure.miss_rate import IOU
from inference.measure.quality import measure
from inference.networks.csp_nano import CspNano, from_bytes
from inference.provenance.lineage import read_lineage, write_lineage
from inference.provenance.registry import Card, Figure, Registry, read_card, write_card
from inference.service.serving import Served, load
from inference.training.pools import HELD_OUT, SPLIT_SEED
from inference.training.record import CARD, LINEAGE, SERVED
from inference.training.samples import PHOTOGRAPHS, Sample, halved, penn_fudan, split, streets
from inference.training.train import CURVES
from infra.settings import read_settings
from streams.errors import BadInput, KerbwatchError, Tampered
from streams.events import Box, Context
from streams.sources.base import Picture
from streams.sources.scenery import Weather

FOLDER = Path(__file__).parents[1] / "weights"
"""Where shipped models live in the repository."""
DOCS = Path(__file__).parents[2] / "docs" / "results"
"""Where their curves lie."""

_SEEDS, _SHOTS = range(6), (15, 90)
_LOW = 0.02  # boxes below this are not even listed
_JPEG = 92
_EPS = 8 / 255
MEASURED_ON = (
    f"Figures: the held-out photographs at half size; streets of seeds {_SEEDS.start}-{_SEEDS.stop - 1}; a person's width is 0.41 "
    f"of the height; IoU {IOU}; all pictures sent as JPEG {_JPEG}; attacks are white-box unless named otherwise."
)
"""What every card says of its figures."""
Attack = Callable[[CspNano, Sample], Picture]


def held_out(shared_data: Path) -> list[Sample]:
    """Pictures that no training run saw: photographs at half size first, then streets by context and weather.

    At half size a photograph's people are 90 to 200 px tall, as near as a street camera sees them.
    """
    photographs = [halved(one) for one in split(penn_fudan(shared_data / "pennfudan"), HELD_OUT, SPLIT_SEED)[1]]
    return photographs + [one for context in Context for weather in Weather for one in streets(context, weather, _SEEDS, _SHOTS)]


def figures(served: Served, attacker: CspNano, samples: Sequence[Sample], name: str, attack: Attack | None) -> Iterator[Figure]:
    """One figure for each pool (`Sample.origin`) of the samples, and one for all weathers of a context together.

    `attack` changes each picture with the network `attacker`, which may be another one than the served (a transferred attack).
    """
    found: dict[str, list[tuple[Sequence[Box], Sample]]] = {}
    for sample in track(samples, f"{name:24}", console=Console(stderr=True)):
        picture = _as_sent(sample.picture if attack is None else attack(attacker, sample))
        boxes = served.look([picture], _LOW)[0].boxes
        together = sample.origin if sample.origin == PHOTOGRAPHS else sample.origin.split("-")[0]
        for pool in dict.fromkeys((sample.origin, together)):
            found.setdefault(pool, []).append((boxes, sample))
    for pool, pairs in found.items():
        quality = measure([boxes for boxes, _ in pairs], [sample.people for _, sample in pairs], served.threshold)
        yield Figure(
            data=pool,
            attack=name,
            pictures=quality.pictures,
            people=quality.people,
            recall=_short(quality.recall),
            precision=_short(quality.precision),
            average_precision=_short(quality.average_precision),
            miss_rate=_short(quality.miss_rate),
            false_per_picture=round(quality.false_per_picture, 3),
        )


def draft(run: Path, notes: str) -> Card:
    """The card that training left in a run's folder, with what is measured on, and how; without figures yet."""
    card = read_card(run / CARD)
    return msgspec.structs.replace(
        card,
        data=f"{card.data} {MEASURED_ON}",
        settings=msgspec.Raw(msgspec.json.format(bytes(card.settings), indent=0)),
        commands=(*card.commands, f"kerbwatch publish --model {card.name}"),
        notes=f"{notes} Loss curves: docs/results/curves-{card.name}.png.".strip(),
    )


def measured(served: Served, network: CspNano, normal: CspNano | None, shared_data: Path) -> tuple[Figure, ...]:
    """All figures of a card. `normal`: the normal model, if the served is not it, for attacks that were made on that one."""
    samples = held_out(shared_data)
    fewer = [sample for number, sample in enumerate(samples) if number % 3 == 0 and sample.people]
    attacks: list[tuple[str, CspNano, Sequence[Sample], Attack | None]] = [
        ("none", network, samples, None),
        ("fgsm 8/255", network, samples, lambda white, one: fgsm(white, one.picture, one.people, _EPS)),
        ("fgsm 2/255, a third", network, fewer, lambda white, one: fgsm(white, one.picture, one.people, _EPS / 4)),
        ("pgd-5 8/255, a third", network, fewer, lambda white, one: pgd(white, [one.picture], [one.people], _EPS, 5)[0]),
    ]
    if normal is not None:
        attacks.append(("fgsm 8/255 on normal", normal, samples, lambda white, one: fgsm(white, one.picture, one.people, _EPS)))
    return tuple(figure for name, white, some, attack in attacks for figure in figures(served, white, some, name, attack))


def publish(
    model: Annotated[str, typer.Option(help="csp-nano or csp-nano-safe.")] = "csp-nano",
    folder: Annotated[Path | None, typer.Option(help="The run's folder; default: training/MODEL in the home.")] = None,
    notes: Annotated[str, typer.Option(help="What else the card should say.")] = "",
) -> None:
    """Measure a trained model and write its weights and card to inference/weights. Takes some minutes.

    Example: kerbwatch publish --model csp-nano-safe
    """
    console = Console(stderr=True)
    try:
        settings = read_settings()
        run = folder or settings.home / "training" / model
        if model not in SERVED:
            raise BadInput(f"no model {model!r}; there are {', '.join(SERVED)}")
        card = draft(run, notes)
        if card.name != model:
            raise BadInput(f"{run} holds a run of {card.name}, not of {model}: give --model {card.name}, or another --folder")
        with TemporaryDirectory() as scratch:
            registry = Registry(Path(scratch))
            digest = registry.put(run / "weights.safetensors", card)
            normal = None if model == "csp-nano" else from_bytes((FOLDER / "csp-nano.safetensors").read_bytes())
            card = msgspec.structs.replace(
                card, figures=measured(load(registry, digest), registry.network(digest), normal, settings.shared_data)
            )
        ship(card, run)
    except KerbwatchError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        raise typer.Exit(error.exit_code) from error
    for figure in card.figures:
        shares = f"recall {figure.recall} precision {figure.precision} miss rate {figure.miss_rate}"
        console.print(f"{figure.data:14} {figure.attack:22} {shares} false/picture {figure.false_per_picture}")
    console.print(f"{FOLDER / model}.safetensors, digest {card.digest}")


def clean(card: Card) -> dict[str, float]:
    """A card's figures without attack by name, for a lineage."""
    named = {
        f"{figure.data} {name}": value
        for figure in card.figures
        if figure.attack == "none"
        for name, value in (("miss_rate", figure.miss_rate), ("recall", figure.recall), ("false_boxes", figure.false_per_picture))
    }
    return {name: value for name, value in named.items() if value is not None}


def ship(card: Card, run: Path) -> None:
    """Put weights, card and lineage into inference/weights, in place of the model of that name, and its curves into docs/results.

    The lineage is told the card's clean figures. Raises Tampered if it is another model's.
    """
    lineage = read_lineage((run / LINEAGE).read_bytes())
    if lineage.digest != card.digest:
        raise Tampered(f"{run / LINEAGE} is not of {card.digest[:12]}: train again, or fetch the run's folder again")
    about = msgspec.structs.replace(lineage, figures=lineage.figures | clean(card))
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{card.name}.safetensors").write_bytes((run / "weights.safetensors").read_bytes())
    (FOLDER / f"{card.name}.json").write_bytes(write_card(card))
    (FOLDER / f"{card.name}.{LINEAGE}").write_bytes(write_lineage(about))
    (DOCS / f"curves-{card.name}.png").write_bytes((run / CURVES).with_suffix(".png").read_bytes())


def _as_sent(picture: Picture) -> Picture:
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, _JPEG])
    assert done
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1], np.uint8)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


if __name__ == "__main__":
    typer.run(publish)
