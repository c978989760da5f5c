"""Which of the gate's rules open promotion in this home, and whether a model's verdicts do.

It decides that a verdict counts only if it was made by the policy's rules (`inference.lifecycle.rules.FULL`), whatever it says. A
demonstration's home accepts a demonstration's weaker rules as well: that home says so in a file that `kerbwatch demo` wrote and
signed with the home's own key; neither a setting nor the bare mark `.demo` does, and `kerbwatch setup` and `up` end it. It refuses
a model that such rules failed once, on whatever pictures. No topic feeds it.

    home/.demo                       the demo may clear this home
    home/demonstration/rules.json    the weaker rules, with
    home/demonstration/model.sig     the signature of a key that is trusted here

Source: paper 4.5.3 (validation before deployment), 4.6.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from inference.lifecycle.rules import DEMONSTRATION, FULL, NAMED, GateRules, name_of, weaker
from inference.provenance import signing
from inference.provenance.registry import Registry
from inference.provenance.verdicts import Verdict, verdicts
from infra.keys import model_key, model_keys
from infra.settings import Settings
from streams.errors import BadInput, Tampered
from streams.events import Context

DEMO_MARK = ".demo"
"""A file in a home that a demo made and may clear; `setup` and `up` take it away: from then on somebody relies on what is there."""
_FILE = "rules.json"
_SHORT = 12


def demonstrate(settings: Settings) -> None:
    """Let a home that carries the demo's mark accept the demonstration's rules, by a file signed with its key."""
    model_key(settings)
    target = _permit(settings)
    shutil.rmtree(target, ignore_errors=True)  # an older version's, or of a key that is gone
    signing.write_signed(target, {_FILE: msgspec.json.encode(DEMONSTRATION, order="sorted")}, model_keys(settings))


def accepted(settings: Settings) -> tuple[GateRules, ...]:
    """The rules whose verdicts open promotion here, the strictest first; the last are those that its own candidates are judged by.

    Raises Tampered if the demonstration's file is not as it was signed, or names rules that are not this version's.
    """
    permit = _permit(settings)
    if settings.database_url is not None or not (settings.home / DEMO_MARK).is_file() or not permit.is_dir():
        return (FULL,)
    signing.verify(permit, model_keys(settings))
    if (permit / _FILE).read_bytes() != msgspec.json.encode(DEMONSTRATION, order="sorted"):
        raise Tampered(f"{permit / _FILE} names other rules than the demonstration's: run `kerbwatch demo` anew")
    return FULL, DEMONSTRATION


def opening(made: Sequence[Verdict], context: Context, rules: Sequence[GateRules]) -> Verdict | None:
    """The verdict that opens promotion: the newest by the first of these rules that judged the model here and never failed it."""
    for one in rules:
        counts = [each for each in made if each.context is context and each.settings_digest == one.digest]
        if counts and all(each.passed for each in counts):
            return counts[-1]
    return None


def require_passed(registry: Registry, digest: str, context: Context, settings: Settings) -> Verdict:
    """The verdict that lets a model serve a context here.

    Raises BadInput saying what failed, which rule was weaker, or that there is no verdict; and as `verdicts` and `accepted`.
    """
    rules, made = accepted(settings), [one for one in verdicts(registry, digest) if one.context is context]
    if found := opening(made, context, rules):
        return found
    digests, model = {one.digest for one in rules}, f"model {digest[:_SHORT]}"
    counted = [one for one in made if one.settings_digest in digests and not one.passed]
    again = f"judge it by the policy: `kerbwatch gate {digest[:_SHORT]} --context {context}`"
    if counted:
        failed = ", ".join(f"{one.name} {one.value} (limit {one.limit:g})" for one in counted[-1].checks if not one.passed)
        raise BadInput(f"the gate refused {model} for {context}: {failed}; nobody can promote it")
    if not made:
        raise BadInput(f"{model} has no verdict of the gate for {context}: {again}")
    name = name_of(made[-1].settings_digest)
    known = NAMED.get(name)
    less = "rules that this version does not know" if known is None else f"{name} rules, weaker in {', '.join(weaker(known, FULL))}"
    raise BadInput(f"{model} was judged for {context} by {less}: such a verdict opens nothing here; {again}")


def _permit(settings: Settings) -> Path:
    return settings.home.resolve() / "demonstration"
