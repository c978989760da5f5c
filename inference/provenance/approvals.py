"""Who let a model into service: approvals that came after its making, signed and kept beside its entry, as in-toto statements.

It decides nothing; it refuses an approval of a model that does not verify, and one that was changed. Whether approvals suffice is
decided where they are asked for (`responders.rollouts.rollout`, `streams.promotion`). No topic feeds it.

    root/approvals/<digest>/<hash of the statement>/approvals.json     predicateType urn:kerbwatch:approvals:v1
    root/approvals/<digest>/<hash of the statement>/model.sig

Source: paper 4.6 (approval by R3 and R8), SC-10; in-toto Attestation Framework v1.
"""

import msgspec

from inference.provenance import signing
from inference.provenance.lineage import Approval
from inference.provenance.registry import Registry, digest_of
from inference.provenance.statements import read_statement, write_statement
from streams.errors import BadInput, Tampered
from streams.events import Context, Digest

PREDICATE_TYPE = "urn:kerbwatch:approvals:v1"
_FILE = "approvals.json"
_LARGEST = 1 << 20


class Approvals(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What let a model serve a context: each approval with who, in which role, why and when."""

    digest: Digest
    context: Context
    approvals: tuple[Approval, ...]


def put_approvals(registry: Registry, said: Approvals) -> None:
    """Sign and keep; the very same again changes nothing.

    Raises BadInput if nobody approved, Unavailable if the model is not there or there is no signing key, Tampered if it does not
    verify.
    """
    if not said.approvals:
        raise BadInput(f"nobody approved model {said.digest[:12]} for {said.context}: there is nothing to keep")
    registry.verify(said.digest)
    body = write_statement(said, PREDICATE_TYPE)
    signing.write_signed(registry.root / "approvals" / said.digest / digest_of(body)[:32], {_FILE: body}, registry.keys)


def approvals(registry: Registry, digest: str) -> tuple[Approvals, ...]:
    """All that was approved of a model, oldest first, each statement verified. Raises Tampered naming the file that was changed."""
    found = []
    for folder in sorted((registry.root / "approvals" / digest).glob("[!.]*")):
        signing.verify(folder, registry.keys)
        path = folder / _FILE
        if path.stat().st_size > _LARGEST:
            raise Tampered(f"{path} has more than {_LARGEST} bytes: no approval is so long; restore it from a trusted copy")
        try:
            said = read_statement(path.read_bytes(), PREDICATE_TYPE, Approvals)
        except BadInput as error:
            raise Tampered(f"{path} does not hold ({error}): restore it from a trusted copy") from error
        if said.digest != digest or not said.approvals:
            raise Tampered(f"{path} approves nothing of {digest[:12]}: restore it from a trusted copy")
        found.append(said)
    return tuple(sorted(found, key=lambda said: max(one.time for one in said.approvals)))
