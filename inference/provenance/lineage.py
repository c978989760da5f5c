"""Where a model came from, as an in-toto statement: data, settings, code, machine, parent, figures, approvals.

It decides nothing; it refuses a statement of another type, one about more than one model, and one with a field that does not hold.
A run writes its statement beside its weights (`lineage.json`); it is proven by the signature over the registry's entry. What people
say of the model later (`approvals.py`) and what the gate says (`verdicts.py`) is kept and signed beside it. No topic feeds it.

    _type          https://in-toto.io/Statement/v1
    subject        weights.safetensors, SHA-256 of the weights
    predicateType  urn:kerbwatch:lineage:v1
    predicate      the fields of `Lineage` but its digest

Source: in-toto Attestation Framework v1 (statement), paper 4.5.2 and 4.5.3 (provenance of data and models).
"""

import os
import platform
import subprocess
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import msgspec

from inference.provenance.statements import read_statement, write_statement
from streams.events import Digest, UtcTime

PREDICATE_TYPE = "urn:kerbwatch:lineage:v1"
_PACKAGES = ("torch", "torchvision", "numpy", "onnxruntime", "opencv-python-headless")
_SOURCES = ("streams", "detectors", "inference", "responders", "infra", "dashboards")

Named = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]


class Material(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A set of data that the model was made from: its name, the SHA-256 of its manifest, how many samples."""

    name: Named
    manifest_digest: Digest
    samples: Annotated[int, msgspec.Meta(ge=0)]


class Code(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What made it: package version, git commit where there was one, and the SHA-256 over all our source files."""

    version: str
    commit: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{40})?$")]
    source_digest: Digest


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where: processor architecture, cores, device, Python, and the versions of what the numbers depend on."""

    architecture: str
    cores: Annotated[int, msgspec.Meta(ge=1)]
    device: str
    python: str
    packages: dict[str, str]


class Approval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who approved what went into the run (its data, the run itself), in which role, why, when."""

    actor: Named
    role: str
    what: str
    comment: str
    time: UtcTime


class Lineage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that is recorded of a model's making. `figures` are measured names and values, e.g. "validation": 0.12.

    `parent` is the digest of the model it was trained from, `incident` the id of the incident that asked for it; None without.
    `note` says what of this was not recorded as it happened, and is empty where all was.
    """

    digest: Digest
    started_at: UtcTime
    finished_at: UtcTime
    materials: tuple[Material, ...]
    settings: dict[str, Any]
    code: Code
    machine: Machine
    parent: Digest | None
    figures: dict[str, float]
    approvals: tuple[Approval, ...] = ()
    incident: str | None = None
    note: Annotated[str, msgspec.Meta(max_length=2000)] = ""


def write_lineage(lineage: Lineage) -> bytes:
    """The statement as JSON. Raises BadInput if a field does not hold."""
    return write_statement(lineage, PREDICATE_TYPE)


def read_lineage(data: bytes) -> Lineage:
    """The lineage out of its statement, every field checked.

    Raises BadInput if it is no in-toto statement of ours, Tampered if it is about more than one file or about another.
    """
    return read_statement(data, PREDICATE_TYPE, Lineage)


def this_code(root: Path = Path(__file__).parents[2]) -> Code:
    """The code that runs now. A tree with changes that are not committed has another `source_digest` than its commit."""
    content = sha256()
    for path in sorted(path for part in _SOURCES for path in (root / part).rglob("*.py")):
        data = path.read_bytes()
        content.update(f"{path.relative_to(root).as_posix()} {len(data)}\n".encode() + data)
    try:
        package = version("kerbwatch")
    except PackageNotFoundError:
        package = ""
    return Code(version=package, commit=_commit(root), source_digest=content.hexdigest())


def _commit(root: Path) -> str:
    try:
        said = subprocess.run(  # noqa: S603 - fixed words, no shell
            ["git", "-C", str(root), "rev-parse", "HEAD"],  # noqa: S607 - wherever git is
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.strip()


def this_machine(device: str) -> Machine:
    """The machine that this runs on; `device` is what computes ("cpu", or a GPU's name)."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return Machine(
        architecture=platform.machine(),
        cores=os.cpu_count() or 1,
        device=device,
        python=platform.python_version(),
        packages=packages,
    )
