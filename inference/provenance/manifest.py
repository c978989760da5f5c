"""What a set of training data is, to the bit: a digest of each picture and of its labels, and where each pool came from.

It decides how a sample becomes bytes to be digested, and names what changed since; it refuses a manifest that is not what its own
digest says, one with a name twice, and one with a pool whose source nobody stated. It reads no picture and keeps none. No topic.

    {"digest": SHA-256 of the canonical JSON of `manifest`, "manifest": {name, sources, records}}

Source: paper 4.6 (dataset versions in the training lineage), SC-5 (checksums), data cards (Pushkarna et al. 2022) for the notes.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Protocol

import msgspec

from inference.provenance.lineage import Material
from infra.files import write_whole
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import Count, Digest
from streams.sources.base import Person, Picture

_LARGEST = 1 << 26

Named = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Note = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]


class Labelled(Protocol):
    """An annotated picture, e.g. `inference.training.samples.Sample`; `origin` is its pool, and with `name` tells it apart."""

    @property
    def origin(self) -> str: ...  # noqa: D102 - said above
    @property
    def name(self) -> str: ...  # noqa: D102 - same
    @property
    def picture(self) -> Picture: ...  # noqa: D102 - same
    @property
    def people(self) -> tuple[Person, ...]: ...  # noqa: D102 - same


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sample: who it is, how large, how many labels (ignored ones too), and the two digests."""

    pool: Named
    name: Named
    width_px: Count
    height_px: Count
    people: Count
    picture_digest: Digest
    labels_digest: Digest


class PoolSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the pictures and labels of a pool came from, and what may be done with them."""

    pool: Named
    source: Note
    licence: Note


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data set; records are in the order of pool and name, so the order of the samples makes no difference."""

    name: Named
    sources: tuple[PoolSource, ...]
    records: tuple[Record, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest's canonical JSON: the name of exactly this data."""
        return sha256(_canonical(self)).hexdigest()

    def material(self) -> Material:
        """The line of a model's lineage that names this data."""
        return Material(name=self.name, manifest_digest=self.digest, samples=len(self.records))


class Fault(StrEnum):
    """How a sample differs from its record."""

    PICTURE = "picture changed"
    LABELS = "labels changed"
    MISSING = "missing"
    ADDED = "not in the manifest"


class Difference(msgspec.Struct, frozen=True):
    """One sample that is not as recorded."""

    pool: str
    name: str
    fault: Fault


class _Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    digest: Digest
    manifest: Manifest


def picture_digest(picture: Picture) -> str:
    """SHA-256 of "height width channels", a new line, and the pixels row by row (RGB, 8 bits)."""
    head = " ".join(str(side) for side in picture.shape) + "\n"
    return sha256(head.encode() + picture.tobytes()).hexdigest()


def labels_digest(people: Sequence[Person]) -> str:
    """SHA-256 of the labels in their order as JSON: [[box], [visible part], ignore] each, numbers as floats in shortest form.

    Who has attributes adds the list of them to theirs.
    """
    plain = [[[*map(float, one.box_px)], [*map(float, one.visible_px)], bool(one.ignore)] for one in people]
    for label, one in zip(plain, people, strict=True):
        if one.attributes:
            label.append([*one.attributes])
    return sha256(msgspec.json.encode(plain)).hexdigest()


def record(sample: Labelled) -> Record:
    """The record of one sample."""
    height, width = sample.picture.shape[:2]
    return Record(
        pool=sample.origin,
        name=sample.name,
        width_px=width,
        height_px=height,
        people=len(sample.people),
        picture_digest=picture_digest(sample.picture),
        labels_digest=labels_digest(sample.people),
    )


def manifest_of(name: str, samples: Iterable[Labelled], sources: Iterable[PoolSource]) -> Manifest:
    """The manifest of a data set. Raises BadInput if two samples have one name, or a pool no stated source."""
    records = tuple(sorted((record(one) for one in samples), key=lambda one: (one.pool, one.name)))
    used = {one.pool for one in records}
    made = Manifest(name=name, sources=tuple(sorted((one for one in sources if one.pool in used), key=_pool)), records=records)
    if fault := _fault(made):
        raise BadInput(f"data set {name}: {fault}")
    return made


def differences(manifest: Manifest, samples: Iterable[Labelled]) -> tuple[Difference, ...]:
    """What of the samples is not as recorded, in the order of pool and name; empty where all is."""
    wanted = {(one.pool, one.name): one for one in manifest.records}
    found: list[Difference] = []
    seen: set[tuple[str, str]] = set()
    for sample in samples:
        key = (sample.origin, sample.name)
        known, now = wanted.get(key), record(sample)
        if known is None or key in seen:
            found.append(Difference(*key, Fault.ADDED))
            continue
        seen.add(key)
        if now.picture_digest != known.picture_digest:
            found.append(Difference(*key, Fault.PICTURE))
        if now.labels_digest != known.labels_digest:
            found.append(Difference(*key, Fault.LABELS))
    found += [Difference(*key, Fault.MISSING) for key in wanted if key not in seen]
    return tuple(sorted(found, key=lambda one: (one.pool, one.name, one.fault)))


def write_manifest(manifest: Manifest) -> bytes:
    """A manifest and its digest as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(_Envelope(digest=manifest.digest, manifest=manifest)), indent=1) + b"\n"


def parse_manifest(data: bytes, where: str) -> Manifest:
    """A manifest out of its bytes; `where` they are from, for the message.

    Raises BadInput if they are no manifest, Tampered if it is not what its digest says.
    """
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
    except msgspec.DecodeError as error:
        raise BadInput(f"{where} is no data manifest: {error}; make one with `kerbwatch data manifest`") from error
    if envelope.manifest.digest != envelope.digest:
        raise Tampered(f"{where} was changed after it was written (its digest does not hold): restore it from a trusted copy")
    if fault := _fault(envelope.manifest):
        raise BadInput(f"{where}: {fault}")
    return envelope.manifest


def load_manifest(path: Path) -> Manifest:
    """A manifest file. Raises as `parse_manifest`, and Unavailable if it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise Unavailable(f"data manifest {path} cannot be read: {error.strerror}; check the path") from error
    if len(data) > _LARGEST:
        raise BadInput(f"data manifest {path} has more than {_LARGEST} bytes; nothing of it was taken")
    return parse_manifest(data, str(path))


def save_manifest(manifest: Manifest, path: Path) -> None:
    """Put a manifest into a file, whole. Raises Unavailable if that cannot be done."""
    try:
        write_whole(path, write_manifest(manifest), 0o644)
    except OSError as error:
        raise Unavailable(f"data manifest {path} cannot be written: {error.strerror}; check folder and rights") from error


def _canonical(manifest: Manifest) -> bytes:
    return msgspec.json.encode(manifest, order="sorted")


def _pool(source: PoolSource) -> str:
    return source.pool


def _fault(manifest: Manifest) -> str:
    names = Counter((one.pool, one.name) for one in manifest.records)
    twice = [f"{pool}/{name}" for (pool, name), number in names.items() if number > 1]
    if twice:
        return f"{twice[0]} is in it more than once; names must tell samples apart"
    pools = {one.pool for one in manifest.records}
    stated = [one.pool for one in manifest.sources]
    if missing := sorted(pools - set(stated)):
        return f"nobody states where pool {missing[0]} is from and under which licence"
    if len(set(stated)) != len(stated) or set(stated) != pools:
        return "a pool's source is stated twice, or for no sample"
    in_order = sorted(manifest.records, key=lambda one: (one.pool, one.name))
    return "" if list(manifest.records) == in_order else "its records are not in order"
