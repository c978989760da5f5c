"""Signed checkpoints of the audit log: so many entries, this root, said by this deployment's evidence key.

It decides how a checkpoint looks (C2SP tlog-checkpoint as a signed note, readable by other tools of that format) and whether one
holds. It refuses a note by another key, or one that says the same in other bytes. Checkpoints lie as files beside the database
(`home/checkpoints/SIZE.note`): copy them elsewhere, and nobody who can write to the database alone can change history unnoticed.
The same key signs evidence (`responders.proof.evidence`); what it signs there begins otherwise, so neither can stand for the other.

Source: C2SP signed-note and tlog-checkpoint (https://c2sp.org/tlog-checkpoint), RFC 8032 (Ed25519), paper SC-10.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from infra.files import alone, write_whole
from infra.settings import Settings
from streams.errors import BadInput, Tampered, Unavailable

_ED25519 = b"\1"
"""The signature type of a signed note that is a plain Ed25519 one."""
_LARGEST_KEY = 4096
_LARGEST_NOTE = 4096


@dataclass(frozen=True)
class Checkpoint:
    """The log had `size` entries, and `root` (32 bytes) over them."""

    size: int
    root: bytes


def evidence_key(settings: Settings) -> Ed25519PrivateKey:
    """The key that checkpoints and evidence are signed with, made on first use (`keys/evidence.key`, `evidence.pub`)."""
    folder = settings.home.resolve() / "keys"
    path, public = folder / "evidence.key", public_key_file(settings)
    with alone(folder / ".lock"):
        if path.is_file():
            key = serialization.load_pem_private_key(path.read_bytes(), None)
            assert isinstance(key, Ed25519PrivateKey)
        else:
            key = Ed25519PrivateKey.generate()
            form = serialization.PrivateFormat.PKCS8
            write_whole(path, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        text = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        # Also mends a crash between the two writes.
        if not public.is_file() or public.read_bytes() != text:
            write_whole(public, text, 0o644)
    return key


def public_key_file(settings: Settings) -> Path:
    """Where this deployment's public evidence key lies; give it to whoever is to check."""
    return settings.home.resolve() / "keys" / "evidence.pub"


def read_public_key(path: Path) -> Ed25519PublicKey:
    """A public key out of a PEM file. Raises Unavailable if there is none, BadInput if it is no Ed25519 key."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unavailable(f"no public key at {path} ({error.strerror}): give the sealing deployment's keys/evidence.pub") from error
    try:
        key = serialization.load_pem_public_key(data) if len(data) <= _LARGEST_KEY else None
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise BadInput(f"{path} is no Ed25519 public key in PEM: give the sealing deployment's keys/evidence.pub")
    return key


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 of the public key (SubjectPublicKeyInfo, DER), lower-case hex."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _origin(key: Ed25519PublicKey) -> str:
    """The log's name: of this key, so that two deployments never share one."""
    return f"kerbwatch-audit-{key_id(key)[:16]}"


def _note_key_id(key: Ed25519PublicKey) -> bytes:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(_origin(key).encode() + b"\n" + _ED25519 + raw).digest()[:4]


def verifier_key(key: Ed25519PublicKey) -> str:
    """The public key as other tools of signed notes want it: the log's name, the key's id (hex), type and key (base64)."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return f"{_origin(key)}+{_note_key_id(key).hex()}+{base64.b64encode(_ED25519 + raw).decode()}"


def write_note(key: Ed25519PrivateKey, checkpoint: Checkpoint) -> bytes:
    """The signed note; the same checkpoint gives the same bytes."""
    public = key.public_key()
    text = f"{_origin(public)}\n{checkpoint.size}\n{base64.b64encode(checkpoint.root).decode()}\n"
    signature = base64.b64encode(_note_key_id(public) + key.sign(text.encode())).decode()
    return f"{text}\n\N{EM DASH} {_origin(public)} {signature}\n".encode()


def read_note(note: bytes, key: Ed25519PublicKey) -> Checkpoint:
    """The checkpoint that a note vouches for. Raises Tampered if the key did not sign exactly these bytes."""
    try:
        if len(note) > _LARGEST_NOTE:
            raise ValueError  # noqa: TRY301 - every fault of a note gets the one message below
        text, _, last = note.decode().partition("\n\n")
        origin, size, root = text.split("\n")
        coded = last.removeprefix(f"\N{EM DASH} {_origin(key)} ").removesuffix("\n")
        signed = base64.b64decode(coded, validate=True)
        key.verify(signed[4:], f"{text}\n".encode())
        found = Checkpoint(int(size), base64.b64decode(root, validate=True))
        again = f"{_origin(key)}\n{found.size}\n{base64.b64encode(found.root).decode()}\n\n"
        again += f"\N{EM DASH} {origin} {base64.b64encode(_note_key_id(key) + signed[4:]).decode()}\n"
        if again.encode() != note:
            raise ValueError  # noqa: TRY301 - as above
    except (ValueError, InvalidSignature, binascii.Error) as error:
        raise Tampered("the checkpoint is not what this key signed: compare it with a copy kept elsewhere") from error
    return found


def keep_note(settings: Settings, checkpoint: Checkpoint, note: bytes) -> Path:
    """Put a checkpoint's note among the others of this home; one that is there already stays as it is."""
    path = settings.home.resolve() / "checkpoints" / f"{checkpoint.size}.note"
    if not path.is_file():
        write_whole(path, note, 0o444)
    return path


def kept_notes(settings: Settings) -> tuple[Path, ...]:
    """The checkpoints of this home, oldest (smallest) first."""
    folder = settings.home.resolve() / "checkpoints"
    return tuple(sorted((path for path in folder.glob("*.note") if path.stem.isdigit()), key=lambda path: int(path.stem)))
