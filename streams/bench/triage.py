"""How well triage tells kinds of trouble apart: `kerbwatch bench triage`.

It decides how drills are scored: what the last finding of a drill says is its diagnosis; a drill without a finding was not noticed.
It refuses to play a drill twice: judged frames are kept in `home/triage`, so that a change of triage is measured in a minute. The
drills are in `streams.bench.drills`. No topic and no broker.

Source: issue of triage in docs/triage.md; paper 4.7.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import msgspec

from inference.provenance.registry import registry_of
from infra.keys import model_key
from infra.settings import Settings
from streams.bench.drill_site import Site, Stage
from streams.bench.drills import CLEAN, HEIGHT_PX, LEAD, WIDTH_PX, Drill, Scene, plan
from streams.events import Detections, Signal
from streams.sources.base import Shot

Said = Detections | Signal
_DECODER = msgspec.json.Decoder(Said)


@dataclass
class Library:
    """Judged drills in a folder, played where they are not there yet."""

    folder: Path
    stage: Stage
    _clean: dict[Scene, tuple[Site, list[Shot]]] = field(default_factory=dict)

    def before(self, scene: Scene) -> list[Said]:
        """What the worker says of the scene before any drill."""
        path = self._path(scene.name)
        if not path.exists():
            self._play_clean(scene)
        return _read(path)

    def drill(self, drill: Drill) -> list[Said]:
        """What the worker says of the drill."""
        path = self._path(f"{drill.scene.name}-{drill.seed}")
        if not path.exists():
            site, shots = self._play_clean(drill.scene)
            count = drill.begin + drill.after
            _write(path, site.copy().play(islice(shots, count), drill))
        return _read(path)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def _play_clean(self, scene: Scene) -> tuple[Site, list[Shot]]:
        """The worker after the scene's clean stretch, and the footage after that."""
        if scene not in self._clean:
            street, site = scene.street(), Site.fresh(self.stage, scene)
            calm = Drill(scene, "before", None, 0)
            said = list(site.play((street.shot(number) for number in range(CLEAN)), calm))
            if not self._path(scene.name).exists():
                _write(self._path(scene.name), iter(said))
            self._clean = {scene: (site, [street.shot(CLEAN + number) for number in range(LEAD + 80)])}
        return self._clean[scene]


def _write(path: Path, said: Iterator[Said]) -> None:
    """Whole or not at all."""
    beside = path.with_suffix(".part")
    beside.write_bytes(b"\n".join(msgspec.json.encode(one) for one in said))
    beside.replace(path)


def _read(path: Path) -> list[Said]:
    return [_DECODER.decode(line) for line in path.read_bytes().splitlines()]
