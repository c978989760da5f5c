"""Training samples that vetting held back: each sealed with its findings, on a list that two people go through.

It decides where such a sample lies (once, however often it is found) and hands it out to be looked at; it refuses to open bytes
that were touched. Nothing here goes back into training by itself. No topic feeds it (`responders.quarantine` keeps live frames).

    home/held/<digest of picture and labels>.sealed

Source: paper 4.6 (automatic quarantine and manual review by R4 and R8), 4.5.4 (encryption at rest).
"""

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import msgspec

from inference.lifecycle.golden import pack, unpack
from inference.lifecycle.vetting import Finding
from inference.provenance.manifest import record
from inference.training.samples import Sample
from infra.files import write_whole
from infra.keys import golden_key, open_sealed, seal
from infra.settings import Settings
from streams.errors import Tampered, Unavailable


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A sample on the list; `id` names its file."""

    id: str
    pool: str
    name: str
    findings: tuple[Finding, ...]
    held_at: datetime


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    held: Held
    sample: bytes


def hold(settings: Settings, samples: Sequence[Sample], findings: Sequence[Finding], now: datetime) -> int:
    """Seal the samples that the findings are about; how many are new to the list. Raises Unavailable if the disk refuses."""
    by_name: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        by_name.setdefault((finding.pool, finding.name), []).append(finding)
    key, new = golden_key(settings), 0
    for sample in samples:
        about = by_name.get((sample.origin, sample.name))
        if about is None:
            continue
        known = record(sample)
        name = sha256(f"{known.pool}/{known.name} {known.picture_digest} {known.labels_digest}".encode()).hexdigest()
        path = _root(settings) / f"{name}.sealed"
        if path.is_file():
            continue
        held = Held(id=name, pool=sample.origin, name=sample.name, findings=tuple(about), held_at=now)
        try:
            write_whole(path, seal(key, msgspec.msgpack.encode(_Body(held=held, sample=pack(sample))), name.encode()))
        except OSError as error:
            raise Unavailable(f"held sample {path} cannot be written: {error.strerror}; make room or mend the folder") from error
        new += 1
    return new


def held(settings: Settings) -> tuple[Held, ...]:
    """The list, newest first. Raises Tampered naming a file that was touched."""
    found = [_open(settings, path).held for path in sorted(_root(settings).glob("*.sealed"))]
    return tuple(sorted(found, key=lambda one: one.held_at, reverse=True))


def open_held(settings: Settings, name: str) -> Sample:
    """A sample on the list, to be looked at. Raises Unavailable if it is not there, Tampered if it was touched."""
    path = next((path for path in _root(settings).glob("*.sealed") if path.stem == name), None)
    if path is None:
        raise Unavailable(f"no sample {name[:12]} is held back in {_root(settings)}: see `kerbwatch data held`")
    return unpack(_open(settings, path).sample, f"held sample {name[:12]}")


def _root(settings: Settings) -> Path:
    return settings.home.resolve() / "held"


def _open(settings: Settings, path: Path) -> _Body:
    plain = open_sealed(golden_key(settings), path.read_bytes(), path.stem.encode())
    try:
        body = msgspec.msgpack.decode(plain, type=_Body)
    except msgspec.DecodeError as error:
        raise Tampered(f"held sample {path} is none ({error}): keep it as evidence") from error
    if body.held.id != path.stem:
        raise Tampered(f"held sample {path} is another one, moved there: keep it as evidence")
    return body
