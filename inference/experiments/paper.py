"""The paper's experiments as lists of what to train and what to measure: Table 6 and Figures 4 to 7.

It decides which model and which attack stand behind each number, with the paper's parameters; it trains and measures nothing
(`inference.experiments.grid`). Where the paper leaves a parameter open the choice is stated at its name. No topic.

Source: paper 5.2, captions of Table 6 and Figures 4 to 7.
"""

from collections.abc import Iterator

from msgspec import Struct

from inference.experiments.grid import Attack, Cell
from inference.training.defences import Defences

STRATEGIES = {
    "none": Defences(),
    "secmlops": Defences(cutmix=0.5, patience=15, eps_at=0.02, alpha=0.5),
    "cm": Defences(cutmix=0.5),
    "es_at": Defences(patience=15, eps_at=0.02),
    "md": Defences(alpha=0.5),
}
"""Table 6: P 0.5, p 15, eps_AT 0.02, alpha 0.5; the single defences are those of the ablation (5.2.2)."""
GAMMA, EPS, XI = 0.10, 0.03, 0.03
"""Table 6: strength of poisoning, FGSM and DeepFool."""
ATTACKS = {
    "clean": (0.0, Attack()),
    "DP": (GAMMA, Attack()),
    "FGSM": (0.0, Attack(eps=EPS)),
    "DF": (0.0, Attack(xi=XI)),
    "DP+FGSM": (GAMMA, Attack(eps=EPS)),
    "DP+DF": (GAMMA, Attack(xi=XI)),
    "FGSM+DF": (0.0, Attack(eps=EPS, xi=XI)),
    "DP+FGSM+DF": (GAMMA, Attack(eps=EPS, xi=XI)),
}
"""Table 6's rows: poisoning in training, then what is done to the test pictures."""
COLUMNS = ((0.5, 10, 0.01, 0.2), (0.2, 20, 0.02, 0.2), (0.2, 10, 0.01, 0.4), (0.5, 20, 0.02, 0.2))
"""Figures 4 and 5: P, p, eps_AT and alpha of the four columns."""
GAMMAS, STRENGTHS = (0.05, 0.10, 0.15), (0.01, 0.02, 0.03, 0.04, 0.05)
"""Figures 4 to 6: poisoned shares; strengths of FGSM and overshoots of DeepFool."""
HEAT_EPS_AT, HEAT_PATIENCE = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05), 10
"""Figure 6's defence levels (the paper's axis has no numbers in the text; its best values lie within these)."""
RADII = (0.25, 0.5, 1.0, 2.0, 255.0)
"""How far DeepFool may go, in root mean square levels; 255 is no bound. Beside Table 6: the paper does not say what bounds it."""
CONVERGENCE = {
    "no defence": Defences(),
    "eps_AT 0.02": Defences(patience=10, eps_at=0.02),
    "eps_AT 0.04": Defences(patience=10, eps_at=0.04),
}
"""Figure 7."""


class Point(Struct, frozen=True, kw_only=True):
    """One number of a figure: in which panel, on which line, over which x, from which model under which attack."""

    panel: str
    line: str
    x: float
    cell: Cell
    attack: Attack


def table6(seed: int) -> Iterator[tuple[str, str, Cell, Attack]]:
    """(attack, strategy, model, what is done to the pictures) for all of Table 6, model by model."""
    for strategy, defences in STRATEGIES.items():
        for gamma in (0.0, GAMMA):
            for name, (poisoned, attack) in ATTACKS.items():
                if poisoned == gamma:
                    yield name, strategy, Cell(defences=defences, gamma=gamma, seed=seed), attack


def figure4(seed: int) -> Iterator[Point]:
    """Each strategy against poisoning, FGSM and DeepFool of rising strength, for the four columns of parameters."""
    for number, column in enumerate(COLUMNS):
        for line, defences in _ablation(column).items():
            clean = Cell(defences=defences, gamma=0.0, seed=seed)
            for gamma in GAMMAS:
                cell = Cell(defences=defences, gamma=gamma, seed=seed)
                yield Point(panel=f"DP, column {number + 1}", line=line, x=gamma, cell=cell, attack=Attack())
            for x in STRENGTHS:
                yield Point(panel=f"FGSM, column {number + 1}", line=line, x=x, cell=clean, attack=Attack(eps=x))
                yield Point(panel=f"DF, column {number + 1}", line=line, x=x, cell=clean, attack=Attack(xi=x))


def figure5(seed: int) -> Iterator[Point]:
    """Combined attacks of rising strength; poisoning is 5 % (the paper's text), both perturbations rise together where both are."""
    for number, column in enumerate(COLUMNS):
        for line, defences in _ablation(column).items():
            clean = Cell(defences=defences, gamma=0.0, seed=seed)
            bad = Cell(defences=defences, gamma=GAMMAS[0], seed=seed)
            for x in STRENGTHS:
                yield Point(panel=f"DP+FGSM, column {number + 1}", line=line, x=x, cell=bad, attack=Attack(eps=x))
                yield Point(panel=f"DP+DF, column {number + 1}", line=line, x=x, cell=bad, attack=Attack(xi=x))
                yield Point(panel=f"FGSM+DF, column {number + 1}", line=line, x=x, cell=clean, attack=Attack(eps=x, xi=x))
                yield Point(panel=f"DP+FGSM+DF, column {number + 1}", line=line, x=x, cell=bad, attack=Attack(eps=x, xi=x))


def figure6(seed: int) -> Iterator[Point]:
    """In-training defence levels against strengths: three heat maps; each line is a level of eps_AT."""
    for eps_at in HEAT_EPS_AT:
        defences = Defences(patience=HEAT_PATIENCE, eps_at=eps_at)
        clean = Cell(defences=defences, gamma=0.0, seed=seed)
        for gamma in GAMMAS:
            cell = Cell(defences=defences, gamma=gamma, seed=seed)
            yield Point(panel="DP", line=f"{eps_at:g}", x=gamma, cell=cell, attack=Attack())
        for x in STRENGTHS:
            yield Point(panel="FGSM", line=f"{eps_at:g}", x=x, cell=clean, attack=Attack(eps=x))
            yield Point(panel="DF", line=f"{eps_at:g}", x=x, cell=clean, attack=Attack(xi=x))


def figure7(seed: int) -> Iterator[tuple[str, Cell]]:
    """(line, model) whose validation curves show how security slows convergence."""
    for line, defences in CONVERGENCE.items():
        yield line, Cell(defences=defences, gamma=0.0, seed=seed, judged=True)


def radii(seed: int) -> Iterator[Point]:
    """Table 6's DeepFool on clean training data, by how far it may go."""
    for line in ("none", "es_at", "secmlops"):
        cell = Cell(defences=STRATEGIES[line], gamma=0.0, seed=seed)
        for radius in RADII:
            yield Point(panel="DeepFool", line=line, x=radius, cell=cell, attack=Attack(xi=XI, radius=radius))


def _ablation(column: tuple[float, int, float, float]) -> dict[str, Defences]:
    mixed, patience, eps_at, alpha = column
    return {
        "SecMLOps": Defences(cutmix=mixed, patience=patience, eps_at=eps_at, alpha=alpha),
        "CM": Defences(cutmix=mixed),
        "ES+AT": Defences(patience=patience, eps_at=eps_at),
        "MD": Defences(alpha=alpha),
    }
