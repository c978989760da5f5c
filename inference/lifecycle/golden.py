"""The golden dataset: at least a tenth of the training data, reviewed by two people, sealed, signed; all other data is held to it.

It decides which samples become golden (a share of every pool, by a seed), whether two different people in the right roles reviewed
them, and whether the set on disk is still what they saw. It refuses fewer than a tenth, a set whose statistics moved away from
its predecessor's unless the reviewers say why, and anything changed since. Pictures lie encrypted (AES-256-GCM), the folder is
signed as models are. No topic feeds it.

    home/golden/<digest>/golden.json            manifest, reviews, statistics (no pixels)
    home/golden/<digest>/<pool>_<name>.sealed   one sample: PNG and labels
    home/golden/<digest>/model.sig              over all of them

Source: paper 4.6 (golden dataset of at least 10 % of training data; review by R4 and R8), 4.5.4 (encryption at rest), SC-5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import cv2
import msgspec
import numpy as np

from inference.lifecycle.traits import Reference, drifted, reference, same
from inference.provenance.manifest import Manifest, differences
from inference.provenance.signing import verify, write_signed
from inference.training.samples import Sample
from infra.keys import golden_key, model_key, model_keys, open_sealed, seal
from infra.settings import Settings
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import Count, Digest, UtcTime
from streams.sources.base import Person

SHARE = 0.1
"""Least share of the training data."""
_FILE = "golden.json"
_LARGEST = 1 << 26
_SUFFIX = ".sealed"


class Reviewer(StrEnum):
    """Who must have looked at golden data: the paper's data engineer and its SecMLOps engineer."""

    R4 = "R4"
    R8 = "R8"


class Review(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What somebody says, having looked at every sample of the set."""

    role: Reviewer
    reviewer: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    comment: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
    time: UtcTime


class Golden(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a golden set without opening a picture. `drift` says why its statistics may differ from its parent's."""

    manifest: Manifest
    training_digest: Digest
    training_samples: Count
    reviews: tuple[Review, ...]
    statistics: Reference
    parent: Digest | None
    drift: str
    made_at: UtcTime

    @property
    def digest(self) -> str:
        """Its name: the digest of its manifest."""
        return self.manifest.digest


class _Sealed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    origin: str
    name: str
    png: bytes
    people: tuple[Person, ...]


@dataclass(frozen=True)
class Opened:
    """A golden set that was verified just now, with its pictures."""

    golden: Golden
    samples: tuple[Sample, ...]


def choose(samples: Sequence[Sample], share: float, seed: int) -> list[Sample]:
    """The samples to be reviewed: of every pool that share, rounded up. Raises BadInput if it is less than a tenth."""
    if not SHARE <= share <= 1:
        raise BadInput(f"a golden share of {share:g} is not within {SHARE:g}..1: the policy asks for a tenth at least")
    pools: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda one: (one.origin, one.name)):
        pools.setdefault(sample.origin, []).append(sample)
    rng = np.random.default_rng(seed)
    return [pool[at] for pool in pools.values() for at in sorted(rng.permutation(len(pool))[: math.ceil(share * len(pool))])]


def put_golden(settings: Settings, golden: Golden, samples: Sequence[Sample]) -> str:
    """Seal, sign and keep a golden set; the very same again changes nothing. Returns its digest.

    Raises:
        BadInput: if it is too small, not reviewed by two different people as R4 and R8, not what its manifest says, or its
            statistics drifted from those of the set before it and `drift` does not say why.
        Tampered: if the set before it was changed.
    """
    _require(golden, samples)
    before = current(settings)
    if before is not None and before.digest != golden.digest:
        moved = drifted(before.statistics, golden.statistics)
        if moved and not golden.drift:
            raise BadInput(
                f"the new golden set does not look like {before.digest[:12]} ({'; '.join(moved)}): find out why, say it by --drift"
            )
    model_key(settings)
    key = golden_key(settings)
    contents = {_FILE: msgspec.json.format(msgspec.json.encode(golden), indent=1)}
    for sample in samples:
        contents[_file(sample.origin, sample.name)] = seal(key, pack(sample), _about(golden.digest, sample.origin, sample.name))
    target = _root(settings) / golden.digest
    if not write_signed(target, contents, model_keys(settings)):
        known = open_golden(settings, golden.digest).golden
        if known.reviews != golden.reviews:
            raise BadInput(f"golden set {golden.digest[:12]} is kept already, with its reviews, and sets are written once; keep it")
    return golden.digest


def describe(
    manifest: Manifest,
    training: Manifest,
    samples: Sequence[Sample],
    *,
    reviews: tuple[Review, ...],
    parent: Golden | None,
    drift: str,
    made_at: UtcTime,
) -> Golden:
    """What will be kept of these samples beside their pictures."""
    return Golden(
        manifest=manifest,
        training_digest=training.digest,
        training_samples=len(training.records),
        reviews=reviews,
        statistics=reference(samples),
        parent=None if parent is None or parent.digest == manifest.digest else parent.digest,
        drift=drift,
        made_at=made_at,
    )


def current(settings: Settings) -> Golden | None:
    """The newest golden set without its pictures, its signature verified; None before the first. Raises Tampered."""
    found = [_read(settings, path) for path in sorted(_root(settings).glob("[0-9a-f]*")) if path.is_dir()]
    return max(found, key=lambda one: one.made_at, default=None)


def open_golden(settings: Settings, digest: str | None = None) -> Opened:
    """A golden set (default: the newest) with its pictures, held against its signature, its manifest and its stored statistics.

    Raises:
        Tampered: naming the sample that was changed, or the statistics that are not what was stored.
        Unavailable: if there is no such set.
    """
    if digest is None:
        newest = current(settings)
        if newest is None:
            raise Unavailable(f"no golden set in {_root(settings)}: make one with `kerbwatch data golden`")
        golden = newest
    else:
        golden = _read(settings, _root(settings) / digest)
    folder, key = _root(settings) / golden.digest, golden_key(settings)
    samples = []
    for record in golden.manifest.records:
        path = folder / _file(record.pool, record.name)
        plain = open_sealed(key, path.read_bytes(), _about(golden.digest, record.pool, record.name))
        samples.append(unpack(plain, f"golden sample {record.pool}/{record.name}"))
    if wrong := differences(golden.manifest, samples):
        raise Tampered(f"golden sample {wrong[0].pool}/{wrong[0].name}: {wrong[0].fault}; restore {folder} from a backup")
    if moved := same(golden.statistics, reference(samples)):
        raise Tampered(f"golden set {golden.digest[:12]}: {moved[0]} is not what was stored; restore {folder} from a backup")
    return Opened(golden, tuple(samples))


def _require(golden: Golden, samples: Sequence[Sample]) -> None:
    if not samples or len(samples) < SHARE * golden.training_samples:
        raise BadInput(
            f"a golden set of {len(samples)} is less than {SHARE:.0%} of {golden.training_samples} training samples: choose more"
        )
    people = {review.role: review.reviewer for review in golden.reviews}
    if set(people) != set(Reviewer) or len(set(people.values())) != len(Reviewer):
        raise BadInput(
            "golden data is reviewed by two different people, one as R4 (data engineer) and one as R8 (SecMLOps engineer)"
        )
    if wrong := differences(golden.manifest, samples):
        raise BadInput(f"golden sample {wrong[0].pool}/{wrong[0].name}: {wrong[0].fault}; make the manifest anew")


def _root(settings: Settings) -> Path:
    return settings.home.resolve() / "golden"


def _read(settings: Settings, folder: Path) -> Golden:
    path = folder / _FILE
    if not path.is_file():
        raise Unavailable(f"no golden set at {folder}: make one with `kerbwatch data golden`, or restore it from a backup")
    verify(folder, model_keys(settings))
    if path.stat().st_size > _LARGEST:
        raise Tampered(f"{path} has more than {_LARGEST} bytes: restore it from a backup")
    try:
        golden = msgspec.json.decode(path.read_bytes(), type=Golden)
    except msgspec.DecodeError as error:
        raise Tampered(f"{path} describes no golden set ({error}): restore it from a backup") from error
    if golden.digest != folder.name:
        raise Tampered(f"{path} describes golden set {golden.digest[:12]}, moved here: restore it from a backup")
    return golden


def _file(pool: str, name: str) -> str:
    return quote(f"{pool}_{name}", safe="") + _SUFFIX


def _about(digest: str, pool: str, name: str) -> bytes:
    return f"golden/{digest}/{pool}/{name}".encode()


def pack(sample: Sample) -> bytes:
    """A sample as bytes to be sealed: PNG (nothing is lost) and labels, as msgpack."""
    done, png = cv2.imencode(".png", np.ascontiguousarray(sample.picture[:, :, ::-1]))
    assert done
    return msgspec.msgpack.encode(_Sealed(origin=sample.origin, name=sample.name, png=png.tobytes(), people=sample.people))


def unpack(data: bytes, what: str) -> Sample:
    """The sample out of `pack`'s bytes. Raises Tampered naming `what` if they are none."""
    try:
        sealed = msgspec.msgpack.decode(data, type=_Sealed)
    except msgspec.DecodeError as error:
        raise Tampered(f"{what} holds no sample ({error}): restore it from a backup") from error
    picture = cv2.imdecode(np.frombuffer(sealed.png, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise Tampered(f"{what} holds no picture: restore it from a backup")
    return Sample(sealed.origin, sealed.name, np.ascontiguousarray(picture[:, :, ::-1], np.uint8), sealed.people)
