"""What the gate said of a model in a context: signed, written once, and read back before anybody may promote it.

It decides which verdict counts (the newest that was made by the very rules asked for) and refuses one that contradicts its own
checks, one that was changed, and a second opinion on the same data by the same rules. It judges nothing itself
(`inference.lifecycle.gate` does). No topic feeds it.

    root/verdicts/<digest>/<context>-<rules and data>/verdict.json
    root/verdicts/<digest>/<context>-<rules and data>/model.sig

Source: paper 4.5.3 (validation before deployment), SC-6.
"""

from hashlib import sha256

import msgspec

from inference.provenance import signing
from inference.provenance.registry import Registry
from streams.errors import BadInput, Tampered
from streams.events import Context, Digest, UtcTime

_FILE = "verdict.json"
_LARGEST = 1024 * 1024


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was measured: its value, and the limit that it had to keep. `value` is None where it could not be measured."""

    name: str
    value: float | None
    limit: float
    passed: bool


class Verdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether a model may serve a context, and by what. Passed means: every check passed, and there was one.

    `attacks` are the attack settings in words, e.g. "fgsm eps 0.03, seed 7". `data_digest` is of the manifest of what was measured
    on, `settings_digest` of the gate's rules, `baseline_digest` the model that it was compared with (None: with none).
    """

    digest: Digest
    context: Context
    passed: bool
    checks: tuple[Check, ...]
    attacks: tuple[str, ...]
    baseline_digest: Digest | None
    data_digest: Digest
    settings_digest: Digest
    made_at: UtcTime


def put_verdict(registry: Registry, verdict: Verdict) -> None:
    """Sign a verdict and keep it; the very same again changes nothing.

    Raises:
        BadInput: if it contradicts its checks, or the same rules have judged the model on the same data before.
        Unavailable: if the model is not in the registry, or there is no signing key.
    """
    fault = _fault(verdict)
    if fault:
        raise BadInput(f"verdict on {verdict.digest[:12]} is not kept: {fault}")
    registry.card(verdict.digest)
    body = msgspec.json.format(msgspec.json.encode(verdict), indent=2) + b"\n"
    key = sha256(f"{verdict.settings_digest} {verdict.data_digest}".encode()).hexdigest()[:32]
    target = registry.root / "verdicts" / verdict.digest / f"{verdict.context}-{key}"
    if not signing.write_signed(target, {_FILE: body}, registry.keys) and (target / _FILE).read_bytes() != body:
        raise BadInput(
            f"model {verdict.digest[:12]} was judged for {verdict.context} before, by the same rules on the same data, "
            f"and verdicts are written once: see `kerbwatch models show {verdict.digest[:12]}`"
        )


def verdicts(registry: Registry, digest: str) -> tuple[Verdict, ...]:
    """All verdicts on a model, oldest first, each verified.

    Raises Tampered naming the file that was changed, Unavailable without trusted keys.
    """
    registry.card(digest)
    found = []
    for folder in sorted((registry.root / "verdicts" / digest).glob("[!.]*")):
        signing.verify(folder, registry.keys)
        path = folder / _FILE
        if path.stat().st_size > _LARGEST:
            raise Tampered(f"{path} has more than {_LARGEST} bytes: no verdict is so long; restore it from a trusted copy")
        try:
            read = msgspec.json.decode(path.read_bytes(), type=Verdict)
        except msgspec.DecodeError as error:
            raise Tampered(f"{path} is no verdict ({error}): restore it from a trusted copy") from error
        if read.digest != digest or not folder.name.startswith(f"{read.context}-") or _fault(read):
            raise Tampered(
                f"{path} is no verdict on {digest[:12]} ({_fault(read) or 'moved here'}): restore it from a trusted copy"
            )
        found.append(read)
    return tuple(sorted(found, key=lambda one: one.made_at))


def verdict(registry: Registry, digest: str, context: Context, settings_digest: str | None = None) -> Verdict | None:
    """The newest verdict on a model in a context; with `settings_digest`, by those rules only. None if there is none.

    Raises as `verdicts`.
    """
    fit = [one for one in verdicts(registry, digest) if one.context is context and settings_digest in {None, one.settings_digest}]
    return fit[-1] if fit else None


def require_passed(registry: Registry, digest: str, context: Context, settings_digest: str | None = None) -> Verdict:
    """The verdict that lets a model serve a context. Raises BadInput if there is none or it failed, and as `verdicts`."""
    found = verdict(registry, digest, context, settings_digest)
    if found is None:
        raise BadInput(f"model {digest[:12]} has no verdict of the gate for {context}: let it be judged before it is promoted")
    if not found.passed:
        failed = ", ".join(f"{one.name} {one.value} (limit {one.limit:g})" for one in found.checks if not one.passed)
        raise BadInput(f"the gate refused model {digest[:12]} for {context}: {failed}; nobody can promote it")
    return found


def _fault(verdict: Verdict) -> str:
    if not verdict.checks:
        return "it checked nothing"
    if verdict.passed != all(one.passed for one in verdict.checks):
        return "it says other than its checks"
    return "a check without a value cannot pass" if any(one.passed and one.value is None for one in verdict.checks) else ""
