"""`kerbwatch bench calibrate`: makes the pictures, measures their cues and writes the coefficients of the adversarial-input score.

It decides what is kept (encoded pictures in the home, so that a stopped run goes on and a changed cue costs no new attack) and
what is told of a calibration: on which frames, by which weights, how well it tells on places that it was not fitted to. It raises
no alarm and chooses no threshold. No topic.

Source: docs/adversarial.md, "How it is calibrated".
"""

import json
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from detectors import calibration
from detectors.calibration import GENERIC, Calibration
from inference.provenance.registry import Registry, registry_of, shipped
from inference.service import cues
from inference.service.serving import load, white_box
from infra.keys import model_key
from infra.settings import read_settings
from streams.bench.calibration import cases as drawn
from streams.bench.calibration.fit import Row, auroc, fit
from streams.bench.stream import progress
from streams.console.models import find
from streams.events import Context, InputScores, Mode
from streams.line import JPEG

_INDEX, _FOLDER = "index.jsonl", "calibration"
_WEAK = 2  # 1/255 up to which a bounded attack counts as a weak one
_SHIPPED = Path(str(files("detectors").joinpath("calibrations")))


class Kept(msgspec.Struct, frozen=True):
    """One line of the index: an encoded picture that lies beside it, and what it is."""

    base: str
    context: Context
    origin: str
    fitted: bool
    attack: bool
    kind: str
    strength: int
    sent: str
    file: str


class Seen(msgspec.Struct, frozen=True):
    """What was measured of an encoded picture."""

    file: str
    scores: InputScores


@dataclass(frozen=True)
class Told:
    """How well held-out pictures of one kind are told: AUROC against honest ones (an honest kind's: against clean ones).

    flagged: share above what 95 % of the context's clean pictures stay below.
    """

    context: str
    kind: str
    attack: bool
    pictures: int
    auroc: float
    flagged: float


def calibrate(
    model: Annotated[
        list[str] | None, typer.Argument(help="Digests or their beginnings; none: the shipped normal model, and the generic.")
    ] = None,
    pictures: Annotated[int, typer.Option(help="Clean pictures to begin with, for each model.", min=8)] = 48,
    out: Annotated[Path, typer.Option(help="Folder for the coefficients; agents read the package's own at start.")] = _SHIPPED,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Fit the adversarial-input score to a model. Example: `kerbwatch bench calibrate 954b --pictures 48`."""
    settings = read_settings()
    model_key(settings)
    registry = registry_of(settings)
    ours = shipped(registry)[Mode.NORMAL]
    digests = tuple(find(registry, text) for text in model or ()) or (ours,)
    rows: dict[str, list[Row]] = {}
    with progress() as say:
        say("drawing streets, opening pictures")
        chosen = drawn.bases(settings.shared_data)[:pictures]
        for digest in digests:
            folder = settings.home / _FOLDER / digest[:12]
            _make(registry, digest, chosen, folder, say)
            say(f"{digest[:12]}: measuring cues")
            rows[digest] = list(_measured(registry, digest, folder, {base.name for base in chosen}))
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Told]] = {}
    for digest, mine in rows.items():
        fitted = {context: fit([row for row in mine if row.fitted and row.context == context]) for context in Context}
        found[digest] = told(fitted, mine)
        _write(out / f"{digest[:12]}.json", digest, fitted, mine, found[digest])
    if not model:
        every = rows[ours]
        fitted = dict.fromkeys(Context, fit([row for row in every if row.fitted]))
        found[GENERIC] = told(fitted, every)
        _write(out / f"{GENERIC}.json", GENERIC, fitted, every, found[GENERIC])
    if as_json:
        typer.echo(json.dumps({digest: [asdict(each) for each in all_told] for digest, all_told in found.items()}))
        return
    for digest, all_told in found.items():
        _show(digest, all_told)


def told(fitted: dict[Context, Calibration], rows: Iterable[Row]) -> list[Told]:
    """What the held-out rows say of a calibration, kind by kind."""
    held = [row for row in rows if not row.fitted]
    answers = []
    for context in Context:
        here = [row for row in held if row.context == context]
        scores = np.array([calibration.logit(calibration.terms(row.scores) or (), fitted[context]) for row in here])
        honest = scores[[not row.attack for row in here]]
        clean = scores[[row.kind == "clean" for row in here]]
        if not len(clean):
            continue
        limit = float(np.quantile(clean, 0.95))
        labels = [_label(row) for row in here]
        for label in sorted(set(labels)):
            chosen = np.array([each == label for each in labels])
            attack = next(row.attack for row, each in zip(here, labels, strict=True) if each == label)
            area = auroc(scores[chosen], honest if attack else clean)
            flagged = float((scores[chosen] > limit).mean())
            answers.append(Told(context, label, attack, int(chosen.sum()), round(area, 3), round(flagged, 3)))
    return answers


def _label(row: Row) -> str:
    if not row.attack or row.strength == 0:
        return row.kind
    return f"{row.kind} {'1-2' if row.strength <= _WEAK else '4-8'}/255"


def _make(registry: Registry, digest: str, bases: Sequence[drawn.Base], folder: Path, say: Callable[[str], None]) -> None:
    """What is missing of the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    have = {one.base for one in _kept(folder)}
    network = white_box(registry, digest).eval()
    for number, base in enumerate(bases):
        if base.name in have:
            continue
        say(f"{digest[:12]}: attacking picture {number + 1} of {len(bases)}")
        lines = []
        for count, case in enumerate(drawn.cases(base, network)):
            name = f"{base.name}-{count}{'.jpg' if case.sent == JPEG else '.png'}"
            (folder / name).write_bytes(case.body)
            kept = Kept(
                base.name, base.context, base.sample.origin, base.fitted, case.attack, case.kind, case.strength, case.sent, name
            )
            lines.append(msgspec.json.encode(kept) + b"\n")
        with (folder / _INDEX).open("ab") as index:
            index.write(b"".join(lines))


def _kept(folder: Path) -> Iterator[Kept]:
    if (folder / _INDEX).exists():
        yield from (msgspec.json.decode(line, type=Kept) for line in (folder / _INDEX).read_bytes().splitlines())


def _measured(registry: Registry, digest: str, folder: Path, bases: Container[str]) -> Iterator[Row]:
    """Rows of these bases; cues are kept beside the pictures, by the code that reads them."""
    kept = folder / f"cues-{sha256(Path(cues.__file__).read_bytes()).hexdigest()[:12]}.jsonl"
    known = {}
    if kept.exists():
        known = {one.file: one.scores for one in (msgspec.json.decode(line, type=Seen) for line in kept.read_bytes().splitlines())}
    served = load(registry, digest, threads=1)
    for one in _kept(folder):
        if one.base not in bases:
            continue
        scores = known.get(one.file)
        if scores is None:
            picture = drawn.decoded((folder / one.file).read_bytes())
            plain, other = served.look([picture, cues.mirrored(picture)])
            scores = InputScores(reference_digest=digest, **asdict(cues.second_look(plain, other, picture)))
            with kept.open("ab") as file:
                file.write(msgspec.json.encode(Seen(one.file, scores)) + b"\n")
        yield Row(one.base, one.context, one.origin, one.fitted, one.attack, one.kind, one.strength, one.sent, scores)


def _write(path: Path, digest: str, fitted: dict[Context, Calibration], rows: Sequence[Row], all_told: Sequence[Told]) -> None:
    made: dict[str, Any] = {
        "command": "kerbwatch bench calibrate",
        "date": datetime.now(UTC).date().isoformat(),
        "weights": sorted({row.scores.reference_digest for row in rows}),
        "fitted_to": sorted({row.base for row in rows if row.fitted}),
        "held_out": sorted({row.base for row in rows if not row.fitted}),
        "pictures": len(rows),
        "attacked": sum(row.attack for row in rows),
    }
    contexts = {context: calibration.written(each) for context, each in fitted.items()}
    whole = {"digest": digest, "contexts": contexts, "made": made, "told": [asdict(each) for each in all_told]}
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def _show(digest: str, all_told: Sequence[Told]) -> None:
    table = Table("context", "pictures of", "", "held out", "AUROC", "above 95 % of clean", title=digest[:12], box=None)
    for each in all_told:
        kind = "attack" if each.attack else "honest"
        table.add_row(each.context, each.kind, kind, str(each.pictures), f"{each.auroc:.3f}", f"{each.flagged:.1%}")
    Console().print(table)
