"""The rules by which the gate judges: the policy's, a first look's, a demonstration's; and in what some ask less than others.

It decides what the limits are and what each set of rules is called; a verdict names its rules by their digest. It refuses nothing
and measures nothing (`inference.lifecycle.gate` does), and which rules open promotion in a home is said by `streams.policy`. No
topic feeds it.

Source: paper 4.6 (mandatory adversarial robustness testing: 80 % of the baseline at FGSM eps <= 0.03 and DeepFool xi <= 0.03, and
combined; fairness).
"""

from hashlib import sha256
from typing import Annotated

import msgspec

from streams.events import Share


class GateRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model must keep, and how thoroughly it is tried.

    fgsm_eps, deepfool_xi: strengths, each a check of its own; `combined`: FGSM at its strongest on top of DeepFool at its.
    kept: share of its own clean performance that a model keeps under each.
    clean_margin, safe_margin: by how much a normal, or a safe, model may be worse than the shipped normal one without attack.
    fairness: largest distance of the worst group from the mean of all; groups of fewer than `group_people` are not judged.
    latency: largest ratio.
    places, real: drawn places a weather, and real pictures. `deepfool_every`: DeepFool is run on one picture in so many.
    deepfool_radius, deepfool_steps: how far DeepFool may go (root mean square change of a picture's channels, levels), and in how
    many iterations. Without a radius it takes everybody from every model, so this decides what its check asks.
    """

    fgsm_eps: tuple[Share, ...] = (0.01, 0.02, 0.03)
    deepfool_xi: tuple[Share, ...] = (0.03,)
    combined: bool = True
    kept: Share = 0.8
    clean_margin: Share = 0.05
    safe_margin: Share = 0.3
    fairness: Share = 0.3
    group_people: Annotated[int, msgspec.Meta(ge=1)] = 10
    latency: Annotated[float, msgspec.Meta(gt=0)] = 1.25
    places: Annotated[int, msgspec.Meta(ge=0)] = 5
    real: Annotated[int, msgspec.Meta(ge=0)] = 30
    deepfool_every: Annotated[int, msgspec.Meta(ge=1)] = 3
    deepfool_radius: Annotated[float, msgspec.Meta(gt=0, le=255)] = 0.5
    deepfool_steps: Annotated[int, msgspec.Meta(ge=1)] = 15

    @property
    def digest(self) -> str:
        """SHA-256 of the rules as JSON: their name in a verdict."""
        return sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


FULL = GateRules()
"""The policy."""
QUICK = GateRules(places=2, real=0, deepfool_every=4, combined=False)
"""Same limits, fewer pictures, all of them drawn: for a first look, on any machine; it opens nothing."""
DEMONSTRATION = GateRules(
    fgsm_eps=(0.01, 0.03), combined=False, kept=0.2, clean_margin=0.3, latency=1.5, places=1, real=0, deepfool_every=4
)
"""What a minute of training can keep; for a demonstration's home only, and said so in every verdict's limits. On clean
pictures such a hardened model may lose what the policy lets a safe-mode model lose."""
NAMED = {"policy": FULL, "quick": QUICK, "demonstration": DEMONSTRATION}

_AT_LEAST = ("kept", "places", "real", "deepfool_radius", "deepfool_steps")
_AT_MOST = ("clean_margin", "safe_margin", "fairness", "group_people", "latency", "deepfool_every")


def name_of(digest: str) -> str:
    """What the rules with this digest are called; "unknown" where this version has none such."""
    return next((name for name, rules in NAMED.items() if rules.digest == digest), "unknown")


def weaker(rules: GateRules, than: GateRules) -> tuple[str, ...]:
    """The rules that ask less than the others do, each by name with both values; empty where none does."""
    less = [name for name in ("fgsm_eps", "deepfool_xi") if not set(getattr(than, name)) <= set(getattr(rules, name))]
    less += ["combined"] if than.combined and not rules.combined else []
    less += [name for name in _AT_LEAST if getattr(rules, name) < getattr(than, name)]
    less += [name for name in _AT_MOST if getattr(rules, name) > getattr(than, name)]
    return tuple(f"{name} {_said(getattr(rules, name))} (not {_said(getattr(than, name))})" for name in less)


def _said(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case tuple():
            return ", ".join(f"{one:g}" for one in value)
        case _:
            return f"{value:g}"
