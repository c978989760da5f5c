"""Training samples that vetting held back: each sealed with its findings, on a list that two people go through.

It decides where such a sample lies (once, however often it is found), whether a later run may take it, and hands it out to be
looked at; it refuses to open bytes that were touched. What waits or was discarded stays out of every training set; what was
released is taken whatever vetting says of it again. Who may decide stands in `responders.people.access`. No topic feeds it;
cameras' frames are kept by `responders.quarantine.quarantine`.

    home/held/<digest of picture and labels>.sealed

Source: paper 4.6 (automatic quarantine and manual review by R4 and R8), 4.5.4 (encryption at rest).
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from inference.lifecycle.findings import Finding
from inference.provenance.manifest import record
from infra.files import write_whole
from infra.keys import golden_key, open_sealed, seal
from infra.settings import Settings
from streams.errors import BadInput, KerbwatchError, Tampered, Unavailable

if TYPE_CHECKING:
    from inference.training.samples import Sample


class Standing(StrEnum):
    """What became of a sample that was held back; named as for frames in quarantine."""

    SEALED = "sealed"  # waits for people
    RELEASED = "released"  # people let it go: it is trained on
    DISCARDED = "discarded"  # people had it destroyed: the picture is gone, the entry keeps the sample out


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A sample on the list; `id` names its file, `incident` is the one that its run opened, "" for none.

    The digests are the manifest's (SHA-256), "" in files of before; they stay when the picture is gone.
    """

    id: str
    pool: str
    name: str
    findings: tuple[Finding, ...]
    held_at: datetime
    incident: str = ""
    standing: Standing = Standing.SEALED
    reviewed_at: datetime | None = None
    reviewed_by: str = ""
    picture_digest: str = ""
    labels_digest: str = ""

    @property
    def worst(self) -> Finding:
        """What speaks against it most."""
        return max(self.findings, key=lambda finding: finding.score)


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    held: Held
    sample: bytes


def hold(settings: Settings, samples: Sequence["Sample"], findings: Sequence[Finding], now: datetime, incident: str = "") -> int:
    """Seal the samples that the findings are about; how many are new to the list. Raises Unavailable if the disk refuses.

    One that is there and waits comes under `incident`, where one is given: its evidence must stay together.
    """
    by_name = _by_name(findings)
    new = 0
    for sample in samples:
        about = by_name.get((sample.origin, sample.name))
        if about is None:
            continue
        name = id_of(sample)
        path = _root(settings) / f"{name}.sealed"
        if path.is_file():
            body = _open(settings, path)
            if incident and body.held.standing is Standing.SEALED and body.held.incident != incident:
                _write(settings, path, msgspec.structs.replace(body, held=msgspec.structs.replace(body.held, incident=incident)))
            continue
        from inference.lifecycle.golden import pack  # noqa: PLC0415 - torch takes seconds; lists and reviews need none of it

        known = record(sample)
        one = Held(
            id=name,
            pool=sample.origin,
            name=sample.name,
            findings=tuple(about),
            held_at=now,
            incident=incident,
            picture_digest=known.picture_digest,
            labels_digest=known.labels_digest,
        )
        _write(settings, path, _Body(held=one, sample=pack(sample)))
        new += 1
    return new


def reviewed(settings: Settings, samples: Sequence["Sample"], findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings that count: none of what people released, and the former ones of what waits or was discarded."""
    known = {one.id: one for one in held(settings)}
    if not known:
        return tuple(findings)
    by_name, counted = _by_name(findings), []
    for sample in samples:
        entry = known.get(id_of(sample))
        about = by_name.get((sample.origin, sample.name), [])
        if entry is None:
            counted += about
        elif entry.standing is not Standing.RELEASED:
            counted += about or entry.findings
    return tuple(counted)


def held(settings: Settings) -> tuple[Held, ...]:
    """The list, newest first. Raises Tampered naming a file that was touched."""
    found = [_open(settings, path).held for path in sorted(_root(settings).glob("*.sealed"))]
    return tuple(sorted(found, key=lambda one: (one.held_at, one.id), reverse=True))


def files_of(settings: Settings, incident: str) -> tuple[tuple[tuple[Held, str], ...], tuple[str, ...]]:
    """An incident's samples by id, each with its sealed file's SHA-256; and why files do not open, whosever they are."""
    found, faults = [], []
    for path in sorted(_root(settings).glob("*.sealed")):
        try:
            data = path.read_bytes()
            one = _opened(settings, path, data).held
        except (KerbwatchError, OSError) as error:
            faults.append(str(error))
            continue
        if one.incident == incident:
            found.append((one, sha256(data).hexdigest()))
    return tuple(found), tuple(faults)


def find_held(settings: Settings, text: str) -> Held | None:
    """The sample whose id is `text` or begins so; None if there is none. Raises BadInput if there are several."""
    wanted = text.strip().lower()
    found = [path for path in sorted(_root(settings).glob("*.sealed")) if wanted and path.stem.startswith(wanted)]
    if len(found) > 1:
        raise BadInput(f"sample {text!r} could be {found[0].stem[:12]} or another: give more of the id")
    return _open(settings, found[0]).held if found else None


def open_held(settings: Settings, name: str) -> "Sample":
    """A sample on the list, to be looked at. Raises Unavailable if it is not there or was discarded, Tampered if it was touched."""
    from inference.lifecycle.golden import unpack  # noqa: PLC0415 - as in `hold`

    path = next((path for path in _root(settings).glob("*.sealed") if path.stem == name), None)
    if path is None:
        raise Unavailable(f"no sample {name[:12]} is held back in {_root(settings)}: see `kerbwatch quarantine list`")
    body = _open(settings, path)
    if not body.sample:
        raise Unavailable(f"held sample {name[:12]} was {body.held.standing} by {body.held.reviewed_by}: its picture is gone")
    return unpack(body.sample, f"held sample {name[:12]}")


def settle_held(settings: Settings, names: Sequence[str], standing: Standing, by: str, now: datetime) -> None:
    """Put on the list what people decided; the pictures of what they discarded are gone then. Harmless to repeat."""
    for name in names:
        path = _root(settings) / f"{name}.sealed"
        body = _open(settings, path)
        after = msgspec.structs.replace(body.held, standing=standing, reviewed_at=now, reviewed_by=by)
        _write(settings, path, _Body(held=after, sample=b"" if standing is Standing.DISCARDED else body.sample))


def expire_held(settings: Settings, before: datetime, needed: Collection[str], by: str, now: datetime) -> int:
    """Let pictures go that were held back before that moment, but for those of incidents that need them; how many.

    What still waited counts as discarded; what was released stays so.
    """
    gone = 0
    for one in held(settings):
        path = _root(settings) / f"{one.id}.sealed"
        body = _open(settings, path)
        if one.held_at >= before or not body.sample or one.incident in needed:
            continue
        after = one
        if one.standing is Standing.SEALED:
            after = msgspec.structs.replace(one, standing=Standing.DISCARDED, reviewed_at=now, reviewed_by=by)
        _write(settings, path, _Body(held=after, sample=b""))
        gone += 1
    return gone


def id_of(sample: "Sample") -> str:
    """What a sample is called on the list: a digest of its names, its picture and its labels, so that a mended one is another."""
    known = record(sample)
    return sha256(f"{known.pool}/{known.name} {known.picture_digest} {known.labels_digest}".encode()).hexdigest()


def _by_name(findings: Sequence[Finding]) -> Mapping[tuple[str, str], list[Finding]]:
    found: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        found.setdefault((finding.pool, finding.name), []).append(finding)
    return found


def _root(settings: Settings) -> Path:
    return settings.home.resolve() / "held"


def _write(settings: Settings, path: Path, body: _Body) -> None:
    try:
        write_whole(path, seal(golden_key(settings), msgspec.msgpack.encode(body), path.stem.encode()))
    except OSError as error:
        raise Unavailable(f"held sample {path} cannot be written: {error.strerror}; make room or mend the folder") from error


def _open(settings: Settings, path: Path) -> _Body:
    return _opened(settings, path, path.read_bytes())


def _opened(settings: Settings, path: Path, data: bytes) -> _Body:
    plain = open_sealed(golden_key(settings), data, path.stem.encode())
    try:
        body = msgspec.msgpack.decode(plain, type=_Body)
    except msgspec.DecodeError as error:
        raise Tampered(f"held sample {path} is none ({error}): keep it as evidence") from error
    if body.held.id != path.stem:
        raise Tampered(f"held sample {path} is another one, moved there: keep it as evidence")
    return body
