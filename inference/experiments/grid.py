"""Trains the models an experiment asks for and measures them under the attacks it asks for, each only once.

It decides where results lie (one folder a model, one file a measurement, named by what they depend on), so that a killed
experiment goes on where it was and two experiments share what they have in common. It refuses to reuse a result that another
setting made. No topic.

Source: paper 5.1 (attacks, defences, subsets), 5.2 (what is compared with what).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import torch

from inference.attacks.batch import unmoved
from inference.attacks.deepfool import RADIUS, deepfool
from inference.attacks.gradient import fgsm_batch
from inference.experiments.data import Data, poisoned
from inference.measure.miss_rate import SETUPS, Mode, Row, annotation, evaluate
from inference.networks.csp_nano import CspNano, from_bytes
from inference.networks.detect import detect
from inference.provenance.registry import digest_of
from inference.training.cli import miss_rate_on
from inference.training.curves import whole
from inference.training.defences import Defences
from inference.training.samples import Sample
from inference.training.train import WEIGHTS, Progress, TrainSettings, run
from streams.events import Box
from streams.sources.base import Picture

SUBSETS = {"reasonable": "Reasonable", "small": "Reasonable_small", "heavy": "Reasonable_occ=heavy", "all": "All"}
"""The paper's names (Table 5) and the official script's; the paper's heavy begins at a visibility of 0.25, the script's at 0.2."""
_LOW = 0.02  # boxes that score less are not listed
_Strength = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class Attack(msgspec.Struct, frozen=True, kw_only=True):
    """What is done to the test pictures: FGSM of strength eps, then DeepFool with overshoot xi; 0 leaves one out.

    radius: DeepFool's, root mean square levels; 255 is no bound.
    """

    eps: _Strength = 0.0
    xi: _Strength = 0.0
    radius: Annotated[float, msgspec.Meta(gt=0.0, le=255.0)] = RADIUS

    @property
    def name(self) -> str:
        """For file names."""
        bounded = "" if self.radius == RADIUS else f"-radius-{self.radius:g}"
        return f"fgsm-{self.eps:g}-deepfool-{self.xi:g}{bounded}"


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """How much an experiment may cost: `steps` of training, `epoch` steps count as one, `tests` streets, DeepFool's iterations."""

    name: str
    steps: int
    epoch: int
    height_px: int
    width_px: int
    tests: int
    iterations: int


BUDGETS = {
    "brief": Budget(name="brief", steps=60, epoch=10, height_px=192, width_px=256, tests=8, iterations=4),
    "quick": Budget(name="quick", steps=300, epoch=20, height_px=192, width_px=256, tests=24, iterations=8),
    "full": Budget(name="full", steps=6000, epoch=50, height_px=320, width_px=448, tests=0, iterations=30),
}


class Starts(msgspec.Struct, frozen=True):
    """The weights (safetensors) that models begin with: `hardened` those that are trained adversarially, `plain` all others.

    300 adversarial steps from plain weights leave a worse model than none (docs/experiments.md), and nobody who hardens a model
    begins anew each time; so the two lines begin where the shipped normal and safe models stand.
    """

    plain: bytes
    hardened: bytes

    def of(self, defences: Defences) -> bytes:
        """Which of them a model with these defences begins with."""
        return self.hardened if defences.eps_at else self.plain

    @property
    def name(self) -> str:
        """Both digests, short: experiments from other weights are kept apart."""
        return f"{digest_of(self.plain)[:12]}-{digest_of(self.hardened)[:12]}"


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One model: with which defences, on data poisoned how much, from which seed; `judged` keeps a curve of its validation."""

    defences: Defences
    gamma: _Strength
    seed: int
    judged: bool = False


class Grid:
    """The models and measurements below one folder.

    Args:
        folder: where results are kept; may hold those of earlier runs.
        data: trained and measured on.
        starts: what models begin with.
        budget: see `Budget`.
        threads: CPU threads.
        say: told in one line what is going on.
        device: "cpu" or "cuda".
    """

    def __init__(
        self, folder: Path, data: Data, starts: Starts, budget: Budget, *, threads: int, say: Callable[[str], None], device: str
    ) -> None:
        self._folder, self._data, self._budget, self._say = folder / starts.name, data, budget, say
        self._starts = starts
        self._threads, self._device = threads, device
        self._networks: dict[Path, CspNano] = {}

    def settings(self, cell: Cell) -> TrainSettings:
        """The training settings of a cell's model."""
        budget = self._budget
        return TrainSettings(
            model=self._name(cell),
            seed=cell.seed,
            steps=budget.steps,
            epoch=budget.epoch,
            height_px=budget.height_px,
            width_px=budget.width_px,
            backbone_rate=2e-4,
            head_rate=8e-4,
            frozen_blocks=0,
            averaging=0.98,
            shares=self._data.shares,
            defences=cell.defences,
        )

    def trained(self, cell: Cell) -> Path:
        """The folder of a cell's finished run; trains, or goes on training, if it is not there."""
        folder = self._folder / self._name(cell)
        done = folder / "done"
        if done.exists():
            return folder
        torch.manual_seed(cell.seed)
        name = f"{self._name(cell)} ({_told(cell)})"

        def show(at: Progress) -> None:
            self._say(f"{name}: step {at.step}/{at.steps}, loss {at.loss:.3f}, {at.left_s / 60:.1f} minutes left")

        run(
            self.settings(cell),
            poisoned(self._data.pools, cell.gamma, cell.seed),
            from_bytes(self._starts.of(cell.defences)),
            folder,
            threads=self._threads,
            report=show,
            validate=miss_rate_on(self._data.pools.validation) if cell.defences.patience or cell.judged else None,
            device=self._device,
        )
        done.touch()
        return folder

    def measured(self, cell: Cell, attack: Attack) -> dict[str, Row]:
        """A cell's rows by subset, its test pictures attacked in the white box; from its file if it was measured before.

        Raises BrokenContract, and keeps nothing, if the network is no longer that of its file afterwards.
        """
        folder = self.trained(cell)
        path = folder / f"{attack.name}-{self._budget.tests}-{self._budget.iterations}.json"
        if path.exists():
            return msgspec.json.decode(path.read_bytes(), type=dict[str, Row])
        found = []
        for number, sample in enumerate(self._data.test):
            self._say(f"{_told(cell)}, FGSM {attack.eps:g}, DeepFool {attack.xi:g}: picture {number + 1}/{len(self._data.test)}")
            found += self._seen(folder, sample, attack)
        unmoved(self._network(folder), (digest_of((folder / WEIGHTS).read_bytes()),))
        truth = [[annotation(person) for person in sample.people] for sample in self._data.test]
        rows = evaluate(truth, found, [SETUPS[setup] for setup in SUBSETS.values()], Mode.WINDOWED)
        named = dict(zip(SUBSETS, rows, strict=True))
        whole(path, lambda part: part.write_bytes(msgspec.json.encode(named)))
        return named

    def _seen(self, folder: Path, sample: Sample, attack: Attack) -> list[tuple[Box, ...]]:
        network = self._network(folder)
        pictures: Sequence[Picture] = [sample.picture]
        if attack.eps:
            pictures = fgsm_batch(network, pictures, [sample.people], attack.eps)
        if attack.xi:
            steps, radius = self._budget.iterations, attack.radius
            pictures = deepfool(network, pictures, attack.xi, people=[sample.people], steps=steps, radius=radius)
        return detect(network, pictures, _LOW)

    def _network(self, folder: Path) -> CspNano:
        if folder not in self._networks:
            self._networks = {folder: from_bytes((folder / WEIGHTS).read_bytes()).to(self._device)}
        return self._networks[folder]

    def _name(self, cell: Cell) -> str:
        """A folder name that says what the model depends on."""
        d, b = cell.defences, self._budget
        parts = [b.name, f"seed-{cell.seed}", f"gamma-{cell.gamma:g}"]
        parts += [f"cutmix-{d.cutmix:g}"] if d.cutmix else []
        parts += [f"patience-{d.patience}"] if d.patience else []
        parts += [f"eps-{d.eps_at:g}"] if d.eps_at else []
        parts += [f"alpha-{d.alpha:g}"] if d.alpha else []
        parts += ["judged"] if cell.judged else []
        return "_".join(parts)


def _told(cell: Cell) -> str:
    d = cell.defences
    named = {"CutMix": d.cutmix, "patience": d.patience, "eps_AT": d.eps_at, "alpha": d.alpha}
    told = ", ".join(f"{name} {value:g}" for name, value in named.items() if value) or "no defence"
    return f"seed {cell.seed}, {cell.gamma:.0%} poisoned, {told}"
