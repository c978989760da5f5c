"""One file that holds an incident's evidence, sealed so that anybody with the public key can check it, years later and offline.

It decides how a bundle looks and whether one holds. It refuses a bundle in which a single byte differs from what was sealed, and
names the member. What was wrong with log or tables when it was sealed is no such difference: it stands in the bundle, signed, and
is told as doubts. A bundle is a plain tar (POSIX ustar) that any tool unpacks:

    envelope.json    DSSE envelope, signed with Ed25519, around an in-toto Statement v1 (predicate urn:kerbwatch:evidence:v2) whose
                     subjects are all other members by SHA-256, in their order
    ...              the members (`responders.proof.material` says what they are), among them
    timeline.jsonl   who did what
    acts.jsonl       what people did, each act with its person's signature and public key
    audit.jsonl      entries of the audit log, each with its proof of inclusion
    waiting.jsonl    entries that were sent and were not in the log yet
    checkpoint.note  the log's root over at least those entries, signed by the same key; empty over a log that does not hold
    growth.jsonl     by size of older logs, what proves that they were the beginning of this one
    doubts.json      what was found wrong when it was sealed

Bundles of predicate urn:kerbwatch:evidence:v1 have neither of waiting, growth and doubts, and hold as before: nothing in them was
compared.

The same members under the same key give the same bytes but for the time of sealing. No topic feeds it.

Source: paper 4.7 (evidence preservation), SC-10; DSSE 1.0, in-toto Attestation Framework v1, RFC 6962, POSIX.1-1988 (ustar).
"""

import binascii
import dataclasses
import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct, field

from infra.checkpoints import Checkpoint, key_id, read_note
from infra.merkle import leaf_hash, root_of
from responders.engine.records import Change
from responders.people.acts import Signed
from responders.proof.comparing import Kept, Log, differences
from streams import codec
from streams.errors import BadInput, Tampered
from streams.events import AuditEntry, UtcTime
from streams.topics import AUDIT

ENVELOPE, TIMELINE, ACTS, AUDITED, CHECKPOINT = "envelope.json", "timeline.jsonl", "acts.jsonl", "audit.jsonl", "checkpoint.note"
WAITING, GROWTH, DOUBTS = "waiting.jsonl", "growth.jsonl", "doubts.json"
LARGEST_BYTES = 1 << 30
"""A bundle larger than this is refused unread."""

_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "urn:kerbwatch:evidence:v2"
_FIRST = "urn:kerbwatch:evidence:v1"
_BLOCK = tarfile.BLOCKSIZE


T = TypeVar("T")


class Proven(Struct, frozen=True, kw_only=True):
    """An audit entry byte for byte, its number in the log (from 0), and the hashes that lead to the checkpoint's root."""

    number: int
    body: bytes
    proof: tuple[bytes, ...]


class Growth(Struct, frozen=True, kw_only=True):
    """What proves that the log of `size` entries was the beginning of the one that the checkpoint signs (hashes of 32 bytes)."""

    size: int
    proof: tuple[bytes, ...]


class SignedAct(Struct, frozen=True, kw_only=True):
    """A person's act byte for byte, the person's signature and public key (32 bytes), and whether a second factor was shown."""

    body: bytes
    signature: bytes
    public_key: bytes
    with_code: bool


class About(Struct, frozen=True, kw_only=True):
    """What a bundle is about, signed with it."""

    incident_id: str
    sealed_at: UtcTime
    kerbwatch: str


class _Subject(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    digest: dict[str, str]


class _Statement(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"type_": "_type"}):
    type_: str
    subject: tuple[_Subject, ...]
    predicateType: str  # noqa: N815 - in-toto's name
    predicate: About


class _Signature(Struct, frozen=True, forbid_unknown_fields=True):
    keyid: str
    sig: bytes


class _Envelope(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    payload: bytes
    payloadType: str = field(default=_PAYLOAD)  # noqa: N815 - DSSE's name
    signatures: tuple[_Signature, ...]


@dataclass(frozen=True)
class Verified:
    """A bundle that holds: what it is about, whose key sealed it (`key_id`), its members.

    `audited` audit entries are proven by the checkpoint, `acts` acts bear their person's signature, `waiting` entries were not in
    the log yet. `doubts`: why not to rely on what it holds. `compared`: whether anything was held against the log at all.
    """

    about: About
    signer: str
    members: Mapping[str, bytes]
    audited: int
    acts: int
    waiting: int = 0
    doubts: tuple[str, ...] = ()
    compared: bool = True
    checkpoint: Checkpoint | None = None
    growth: Mapping[int, tuple[bytes, ...]] = dataclasses.field(default_factory=dict)


def seal(members: Mapping[str, bytes], about: About, key: Ed25519PrivateKey) -> bytes:
    """The bundle of these members, in their order; those that the module names must be among them, and proofs must hold.

    Raises Tampered if they do not, BadInput if a name cannot stand in a tar.
    """
    _read(members, key.public_key(), about)
    subjects = tuple(_Subject(name, {"sha256": hashlib.sha256(body).hexdigest()}) for name, body in members.items())
    statement = _Statement(type_=_STATEMENT, subject=subjects, predicateType=_PREDICATE, predicate=about)
    payload = msgspec.json.encode(statement)
    signature = _Signature(key_id(key.public_key()), key.sign(_signed(payload)))
    envelope = msgspec.json.encode(_Envelope(payload=payload, signatures=(signature,)))
    bundle = io.BytesIO()
    for name, body in {ENVELOPE: envelope, **members}.items():
        bundle.write(_header(name, len(body)) + body + bytes(-len(body) % _BLOCK))
    bundle.write(_end(bundle.tell()))
    return bundle.getvalue()


def verify(bundle: bytes, key: Ed25519PublicKey) -> Verified:
    """The bundle's contents, if every byte is as the holder of `key` sealed it.

    Raises Tampered naming the member that differs, is missing or was added; BadInput for a file that is too large.
    """
    if len(bundle) > LARGEST_BYTES:
        raise BadInput(f"a bundle of {len(bundle)} bytes; {LARGEST_BYTES} are read at most")
    envelope, at = _member(bundle, 0, ENVELOPE)
    statement = _opened(envelope, key)
    members = {}
    for subject in statement.subject:
        body, at = _member(bundle, at, subject.name)
        if subject.digest != {"sha256": hashlib.sha256(body).hexdigest()}:
            raise _wrong(subject.name, "was changed")
        members[subject.name] = body
    if bundle[at:] != _end(at):
        raise _wrong("the end of the archive", "was changed, or something was added behind the last member")
    if statement.predicateType == _FIRST:
        checkpoint, entries = _log(members, key)
        acts = _lines(members, ACTS, SignedAct)
        for number, act in enumerate(acts, 1):
            if not _kept(act).act.holds(act.public_key):
                raise _wrong(ACTS, f"has an act in line {number} that its person's key did not sign")
        return Verified(statement.predicate, key_id(key), members, len(entries), len(acts), compared=False, checkpoint=checkpoint)
    return _read(members, key, statement.predicate)


def _opened(data: bytes, key: Ed25519PublicKey) -> _Statement:
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        statement = msgspec.json.decode(envelope.payload, type=_Statement)
        (signature,) = envelope.signatures
        if signature.keyid != key_id(key):
            raise _wrong(ENVELOPE, f"is by key {signature.keyid[:12]!r}, not by the one given ({key_id(key)[:12]})")
        key.verify(signature.sig, _signed(envelope.payload))
        if msgspec.json.encode(envelope) != data or msgspec.json.encode(statement) != envelope.payload:
            raise ValueError  # noqa: TRY301 - the same said in other bytes is a change as well
        if envelope.payloadType != _PAYLOAD or statement.type_ != _STATEMENT or statement.predicateType not in {_PREDICATE, _FIRST}:
            raise _wrong(ENVELOPE, f"is a {statement.predicateType!r}, no evidence")
    except (ValueError, InvalidSignature, binascii.Error) as error:  # msgspec's errors are ValueErrors
        raise _wrong(ENVELOPE, "is not what was signed") from error
    return statement


def _signed(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return f"DSSEv1 {len(_PAYLOAD)} {_PAYLOAD} {len(payload)} ".encode() + payload


def _read(members: Mapping[str, bytes], key: Ed25519PublicKey, about: About) -> Verified:
    """What the members say, and how log, acts and timeline differ."""
    try:
        doubts = msgspec.json.decode(members.get(DOUBTS, b""), type=tuple[str, ...])
    except msgspec.DecodeError as error:
        raise _wrong(DOUBTS, "is missing, or no list of doubts") from error
    checkpoint, entries = _log(members, key, doubted=bool(doubts))
    waiting = _lines(members, WAITING, msgspec.Raw)
    acts = [_kept(act) for act in _lines(members, ACTS, SignedAct)]
    log = Log({one.number: one.body for one in entries}, tuple(bytes(one) for one in waiting))
    found = differences(log, acts, _lines(members, TIMELINE, Change))
    return Verified(
        about,
        key_id(key),
        members,
        audited=0 if checkpoint is None else len(entries),
        acts=sum(one.act.holds(one.public) for one in acts),
        waiting=len(waiting),
        doubts=tuple(dict.fromkeys((*doubts, *found))),
        checkpoint=checkpoint,
        growth={one.size: one.proof for one in _lines(members, GROWTH, Growth)},
    )


def _lines(members: Mapping[str, bytes], name: str, type_: type[T]) -> list[T]:
    if name not in members:
        raise _wrong(name, "is missing")
    try:
        return [msgspec.json.decode(line, type=type_) for line in members[name].splitlines()]
    except msgspec.DecodeError as error:
        raise _wrong(name, "holds a line that is none of its kind") from error


def _kept(act: SignedAct) -> Kept:
    return Kept(Signed(act.body, act.signature), act.public_key)


def _log(members: Mapping[str, bytes], key: Ed25519PublicKey, *, doubted: bool = False) -> tuple[Checkpoint | None, list[Proven]]:
    entries = _lines(members, AUDITED, Proven)
    if CHECKPOINT not in members:
        raise _wrong(CHECKPOINT, "is missing")
    if doubted and not members[CHECKPOINT]:
        return None, entries
    try:
        checkpoint = read_note(members[CHECKPOINT], key)
    except Tampered as error:
        raise _wrong(CHECKPOINT, "is not what the key signed") from error
    for one in entries:
        try:
            entry = codec.decode(one.body, AUDIT, AuditEntry).event
        except BadInput as error:
            raise _wrong(AUDITED, "holds a line that is no audit entry") from error
        if root_of(leaf_hash(one.body), one.number, checkpoint.size, one.proof) != checkpoint.root:
            raise _wrong(AUDITED, f"has entry {one.number} ({entry.action}), which is not in the log that the checkpoint signs")
    return checkpoint, entries


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)  # owner, times and rights are fixed, so that the same members give the same bytes
    member.size, member.mode = size, 0o444
    try:
        return member.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    except ValueError as error:
        raise BadInput(f"{name!r} cannot be a bundle's member: at most 100 ASCII characters") from error


def _member(bundle: bytes, at: int, name: str) -> tuple[bytes, int]:
    """The bytes of the member `name`, which must stand at `at`, and where the next one begins."""
    header = bundle[at : at + _BLOCK]
    try:
        found = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise _wrong(name, "is missing, or its header was changed") from error
    if found.name != name or header != _header(name, found.size):
        raise _wrong(name, f"is missing, moved or its header was changed: there is {found.name!r}")
    start = at + _BLOCK
    end = start + found.size
    after = end + -found.size % _BLOCK
    if after > len(bundle):
        raise _wrong(name, "is cut off")
    if bundle[end:after].strip(b"\0"):
        raise _wrong(name, "has bytes behind its end")
    return bundle[start:end], after


def _end(at: int) -> bytes:
    """Two empty blocks, and zeros up to a whole record."""
    return bytes(2 * _BLOCK + -(at + 2 * _BLOCK) % tarfile.RECORDSIZE)


def _wrong(member: str, fault: str) -> Tampered:
    return Tampered(f"evidence was tampered with: {member} {fault}; keep this file, and take a copy from elsewhere")
