"""`kerbwatch bench triage`: how well triage tells kinds of trouble apart, measured on drills.

It decides how drills are scored: what the last finding of a drill says is its diagnosis; a drill of which no finding says anything
counts as not noticed. It refuses to judge a drill twice: judged frames are kept in a folder, so that a change of triage is measured
in a minute. What is drilled is in `drills.py`, how in `site.py`, how it is shown in `report.py`. No topic, no broker.

Source: paper 4.7 (incident analysis); docs/triage.md.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec.structs import replace
from rich.console import Console

from detectors.base import Json, Verdict
from detectors.features import observations
from detectors.watch import Watching, watch
from inference.provenance.registry import registry_of
from infra.keys import model_key
from infra.settings import read_settings
from streams.bench.stream import progress
from streams.bench.triage import report
from streams.bench.triage.drills import AFTER, CLEAN, LEAD, Drill, Scene, plan
from streams.bench.triage.report import Moment, Outcome, Said
from streams.bench.triage.site import Site, Stage
from streams.events import Cause, Detections, Phase, Signal
from streams.sources.base import Shot

Told = Detections | Signal
_DECODER: msgspec.json.Decoder[Told] = msgspec.json.Decoder(Told)
_ANNOTATED = "fgsm 8/255"


@dataclass
class Library:
    """Judged drills in a folder, played where they are not there yet."""

    folder: Path
    stage: Stage
    _clean: dict[Scene, tuple[Site, list[Shot]]] = field(default_factory=dict)

    def before(self, scene: Scene) -> list[Told]:
        """What the worker says of the scene before any drill."""
        path = self._path(scene.name)
        if not path.exists():
            self._play_clean(scene)
        return _read(path)

    def drill(self, drill: Drill) -> list[Told]:
        """What the worker says of the drill."""
        name = re.sub(r"[^a-z0-9]+", "-", drill.name.lower())  # a number alone is another drill where more are played
        path = self._path(f"{drill.scene.name}-{drill.seed}-{name}")
        if not path.exists():
            site, shots = self._play_clean(drill.scene)
            _write(path, site.copy().play(islice(shots, drill.begin + drill.after), drill))
        return _read(path)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def _play_clean(self, scene: Scene) -> tuple[Site, list[Shot]]:
        """The worker after the scene's clean stretch, and the footage after that; one scene is kept."""
        if scene not in self._clean:
            street, site = scene.street(), Site.fresh(self.stage, scene)
            said = list(site.play((street.shot(number) for number in range(CLEAN)), Drill(scene, "before", None, 0)))
            if not self._path(scene.name).exists():
                _write(self._path(scene.name), iter(said))
            self._clean = {scene: (site, [street.shot(CLEAN + number) for number in range(LEAD + AFTER)])}
        return self._clean[scene]


def triage(  # noqa: PLR0917 typer's way to declare options
    each: Annotated[int, typer.Option("--rounds", min=1, help="Drills of each kind in the round that is tested.")] = 20,
    tuning: Annotated[bool, typer.Option("--tuning", help="Play the round that triage was tuned on instead.")] = False,
    out: Annotated[Path, typer.Option(help="Where triage.json and the pictures go.")] = Path("docs/results"),
    kept: Annotated[Path | None, typer.Option(help="Where judged drills are kept; in home if not given.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Play every drill again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Drills of seven kinds of trouble: which does triage name? Example: `kerbwatch bench triage --rounds 20`.

    The first time takes half an hour of a core; judged drills are kept, and scored again in a minute.
    """
    import torch  # noqa: PLC0415 it takes seconds

    torch.set_num_threads(1)
    settings = read_settings()
    folder = kept or settings.home / "triage"
    folder.mkdir(parents=True, exist_ok=True)
    if fresh:
        for path in folder.glob("*.jsonl"):
            path.unlink()
    with tempfile.TemporaryDirectory(prefix="kwb") as scratch, progress() as say:
        here = replace(settings, home=Path(scratch))
        model_key(here)
        stage = Stage(here, registry_of(here))
        outcomes = list(scored("tuning" if tuning else "test", each, Library(folder, stage), say))
    command = f"kerbwatch bench triage --rounds {each}" + (" --tuning" if tuning else "")
    weights = {str(mode): digest for mode, digest in stage.digests.items()}
    figures = report.figures(outcomes, command, weights)
    out.mkdir(parents=True, exist_ok=True)
    if not tuning:
        (out / "triage.json").write_text(json.dumps(figures, indent=1) + "\n")
        report.draw_confusion(outcomes, out / "triage-confusion.png")
        annotated = [one for one in outcomes if one.drill.name == _ANNOTATED] or outcomes[:1]
        report.draw_drill(annotated[0], out / "triage-drill.png")
    if as_json:
        typer.echo(json.dumps(figures))
        return
    report.show(outcomes, Console())


def scored(round_: str, each: int, library: Library, say: Callable[[str], None]) -> Iterator[Outcome]:
    """Every drill of a round, run through the watch after its scene's clean stretch."""
    states: dict[Scene, dict[str, Json]] = {}
    for number, drill in enumerate(plan(round_, each, library.stage)):
        say(f"{number + 1}: {drill.scene.name}, {drill.name}")
        if drill.scene not in states:
            state: dict[str, Json] = {}
            for told in library.before(drill.scene):
                if isinstance(told, Detections):
                    state, _ = watch(state, told)
            states = {drill.scene: state}
        yield watched(drill, states[drill.scene], library.drill(drill))


def watched(drill: Drill, state: dict[str, Json], told: list[Told]) -> Outcome:
    """What is said of one drill from its begin on, by the watch and by the worker itself."""
    said: list[Said] = []
    moments: list[Moment] = []
    into = -drill.begin
    evidence: dict[str, float] = {}

    def heard(watching: Watching, verdict: Verdict) -> None:
        evidence[watching.name] = verdict.evidence

    for one in told:
        if isinstance(one, Signal):
            said += _said(into, (one,))
            continue
        state, signals = watch(state, one, heard=heard)
        reading = observations(one).get("attack_probability")
        moments.append(
            Moment(into, None if reading is None else reading.value, one.features.sharpness, one.features.heat, dict(evidence))
        )
        said += _said(into, signals)
        into = one.sequence + 1 - CLEAN - drill.begin if not _crowded(drill) else into + 1
    return Outcome(drill, tuple(one for one in said if one.into >= 0), tuple(moments))


def _crowded(drill: Drill) -> bool:
    """Whether more frames come than pictures are shown: then frames are counted, not pictures."""
    return drill.cause is Cause.LOAD


def _said(into: int, signals: tuple[Signal, ...]) -> list[Said]:
    return [Said(into, one.detector, one.phase is Phase.RAISED, one.diagnosis) for one in signals if one.phase is not Phase.CALM]


def _write(path: Path, told: Iterator[Told]) -> None:
    """Whole or not at all."""
    beside = path.with_suffix(".part")
    beside.write_bytes(b"\n".join(msgspec.json.encode(one) for one in told))
    beside.replace(path)


def _read(path: Path) -> list[Told]:
    return [_DECODER.decode(line) for line in path.read_bytes().splitlines()]
