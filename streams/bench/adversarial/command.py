"""`kerbwatch bench adversarial`: how well attacked pictures are told from honest ones, how soon, at what cost, and to what avail.

It decides how cases become readings: the picture is decoded as the worker decodes it, the normal model looks at it and at its
squeezed copy, the safe model at its cleaned copy. Readings are kept in the home's `bench/adversarial`, so that a run that was
stopped goes on, and a new calibration is measured in seconds. Pictures are in `scenes.py` and
`cases.py`, figures in `figures.py`. No topic.

Source: `docs/adversarial.md` says what each figure means.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import cv2
import msgspec
import numpy as np
import torch
import typer
from rich.console import Console

from detectors.calibration import calibrations
from inference.measure.artefacts import machine
from inference.provenance.registry import registry_of, shipped
from inference.service import cues, sanitise
from inference.service.serving import Served, load, white_box
from infra.keys import model_key
from infra.settings import Settings, read_settings
from streams.bench.adversarial import report
from streams.bench.adversarial.cases import BUDGETS, Bench, Made
from streams.bench.adversarial.figures import Reading
from streams.bench.adversarial.scenes import cameras
from streams.bench.adversarial.usual import SCORES
from streams.bench.stream import progress
from streams.errors import BadInput
from streams.events import InputScores, Mode
from streams.sources.base import Picture

_LOW = 0.05
"""Boxes that score less are not asked for: the miss rate reads the whole curve."""


class Budget(StrEnum):
    """How much is looked at."""

    QUICK = "quick"
    FULL = "full"


@dataclass(frozen=True)
class _Eyes:
    """The two models in service and how the safe one's pictures are cleaned."""

    normal: Served
    safe: Served
    clean: sanitise.Chain

    def read(self, made: Made, body: bytes) -> Reading:
        """What the worker would measure of a picture, and what both models see in it."""
        picture = _decoded(body)
        begun = time.process_time()
        plain = self.normal.look([picture], _LOW)[0]
        looked = time.process_time()
        glance = cues.glance(picture, plain, self.normal.digest)
        glanced = time.process_time()
        seen = cues.second_look(plain, self.normal.look([cues.mirrored(picture)])[0], picture)
        done = time.process_time()
        return Reading(
            case=made.case,
            scores=InputScores(reference_digest=self.normal.digest, **asdict(seen)),
            detail=glance.detail,
            heat=glance.heat,
            people=made.people,
            normal=plain.boxes,
            safe=() if made.case.kind in {"corruption", "usual"} else self.safe.look([self.clean(picture)], _LOW)[0].boxes,
            took_ms=((looked - begun) * 1e3, (glanced - looked) * 1e3, (done - glanced) * 1e3),
        )


def adversarial(
    budget: Annotated[Budget, typer.Option(help="How much is looked at.")] = Budget.QUICK,
    out: Annotated[Path | None, typer.Option(help="Write adversarial.json and the plots into this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Attacked pictures told from honest ones, per attack. Example: `kerbwatch bench adversarial --budget quick --out results`."""
    torch.set_num_threads(1)
    settings = read_settings()
    with progress() as say:
        readings, weights = measure(settings, budget, say)
        say("figures")
        command = f"kerbwatch bench adversarial --budget {budget}"
        own = weights[Mode.NORMAL] in calibrations()
        found = report.figures(readings, settings.score_every, own_calibration=own)
        told = {
            "command": command,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "weights": weights,
            "settings": {"budget": budget.value, **asdict(BUDGETS[budget]), "score_every": settings.score_every, **SCORES},
            **msgspec.to_builtins(found),
        }
    text = json.dumps(told, indent=1)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "adversarial.json").write_text(text + "\n", "utf-8")
        report.draw(readings, found, out)
    if as_json:
        typer.echo(text)
        return
    report.show(found, Console())


def measure(settings: Settings, budget: Budget, say: Callable[[str], None]) -> tuple[list[Reading], dict[str, str]]:
    """All readings of a budget, those kept from before included, and the digests of the models by mode."""
    model_key(settings)
    registry = registry_of(settings)
    digests = shipped(registry)
    eyes = _Eyes(
        load(registry, digests[Mode.NORMAL], threads=1),
        load(registry, digests[Mode.SAFE], threads=1),
        sanitise.chain(settings.sanitise_safe),
    )
    weights = {str(mode): digest for mode, digest in digests.items()}
    bench = Bench(white_box(registry, digests[Mode.NORMAL]).eval(), digests[Mode.NORMAL], BUDGETS[budget], settings.shared_data)
    folder = settings.home.resolve() / "bench" / "adversarial"
    readings: list[Reading] = []
    with _kept(folder, sorted(digests.values())) as (known, keep):
        for camera in cameras(settings.shared_data, bench.budget.stretch):
            scenes = camera()
            for made in bench.cases(scenes):
                reading = known.get(made.case.key)
                if reading is None:
                    say(f"{made.case.camera}, frame {made.case.frame}: {made.case.kind} {made.case.name} {made.case.strength}")
                    try:
                        body = _body(made, folder / "pictures")
                    except BadInput:  # people everywhere: there is no room for a patch beside them
                        continue
                    reading = eyes.read(made, body)
                    keep(reading)
                readings.append(reading)
    return readings, weights


@contextmanager
def _kept(folder: Path, digests: list[str]) -> Iterator[tuple[dict[str, Reading], Callable[[Reading], None]]]:
    """Readings of earlier runs by the key of their case, and how to add one; other models or other cues are another file."""
    read_by = Path(cues.__file__).read_bytes() + Path(sanitise.__file__).read_bytes()
    path = folder / f"readings-{sha256(read_by + ''.join(digests).encode()).hexdigest()[:12]}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    known = {}
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                reading = msgspec.json.decode(line, type=Reading)
            except msgspec.DecodeError:  # the last line of a run that was killed
                continue
            known[reading.case.key] = reading
    with ExitStack() as stack:
        file = stack.enter_context(path.open("ab"))

        def keep(reading: Reading) -> None:
            file.write(b"\n" + msgspec.json.encode(reading))
            file.flush()

        yield known, keep


def _body(made: Made, folder: Path) -> bytes:
    """The picture as sent; a dear one is read where it was kept."""
    if not made.dear:
        return made.body()
    path = folder / f"{made.case.key}.bin"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".half")
        half.write_bytes(made.body())
        half.rename(path)
    return path.read_bytes()


def _decoded(body: bytes) -> Picture:
    picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    return np.ascontiguousarray(picture[:, :, ::-1], np.uint8)
