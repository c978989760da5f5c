"""Which camera signed a frame, whose signature a model must bear, what people sign with, and how sealed bytes stay unread.

It decides whether a frame comes from the camera that it names (Ed25519, from public keys only) and seals bytes with AES-256-GCM;
it makes and rotates the key that models are signed with (P-256, as the OpenSSF format wants; `inference.provenance.signing`).
It refuses a frame whose camera it does not know, and sealed bytes that were touched or belong to something else. `frames` feeds it.

Source: paper SC-4 (input validation), 4.5.4 (data protection); RFC 8032 (Ed25519), NIST SP 800-38D (GCM).
"""

import base64
import binascii
import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec.structs import replace

from infra.files import alone, write_whole
from infra.settings import Settings
from streams.codec import signed_bytes
from streams.errors import BadInput, Refusal, Tampered, Unavailable
from streams.events import Frame

_SEALED = b"kw1"
"""Leads sealed bytes, so that a later layout can be told from this one."""
_NONCE_BYTES = 12
_CAMERA_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_OTHERS = 0o077
"""The rights of everybody but a file's owner."""


def _cameras(settings: Settings) -> Path:
    return settings.home.resolve() / "keys" / "cameras"


def camera_key(settings: Settings, camera_id: str, *, rotate: bool = False) -> Ed25519PrivateKey:
    """A camera's private key, made on first use together with its public one (`keys/cameras/ID.key`, `ID.pub`).

    Raises BadInput if `camera_id` is not a valid name (it becomes a file's name).
    """
    if not _CAMERA_ID.fullmatch(camera_id):
        raise BadInput(f"camera id {camera_id!r} does not hold: lower-case letters, digits, '.', '_', '-', at most 64")
    path = _cameras(settings) / f"{camera_id}.key"
    with alone(_cameras(settings) / ".lock"):
        if path.is_file() and not rotate:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
            assert isinstance(key, Ed25519PrivateKey)
        else:
            key = Ed25519PrivateKey.generate()
            write_whole(
                path,
                key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
            )
        public = path.parent / f"{camera_id}.pub"
        text = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        # Also mends a crash between the two writes.
        if not public.is_file() or public.read_bytes() != text:
            write_whole(public, text, 0o644)
    return key


def sign_frame(key: Ed25519PrivateKey, frame: Frame) -> Frame:
    """The frame with its camera's signature (base64) over everything else in it."""
    return replace(frame, signature=base64.b64encode(key.sign(signed_bytes(frame))).decode())


def verify_frame(settings: Settings, frame: Frame) -> None:
    """Returns if the frame was signed by the camera that it names; only the camera's public key is read.

    Raises BadInput: unknown_camera if no public key is on file, bad_signature if the signature is not that camera's.
    """
    path = _cameras(settings) / f"{frame.camera_id}.pub"
    try:
        key = _public(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        raise BadInput(
            f"frame of camera {frame.camera_id}, which has no public key at {path}: put it there, or block the sender",
            Refusal.UNKNOWN_CAMERA,
        ) from None
    try:
        key.verify(base64.b64decode(frame.signature, validate=True), signed_bytes(frame))
    except (InvalidSignature, binascii.Error, ValueError):
        raise BadInput(
            f"frame {frame.sequence} (epoch {frame.epoch}) is not signed by camera {frame.camera_id}: find out who sent it",
            Refusal.BAD_SIGNATURE,
        ) from None


@lru_cache(maxsize=1024)
def _public(path: Path, _changed_ns: int) -> Ed25519PublicKey:
    key = serialization.load_pem_public_key(path.read_bytes())
    assert isinstance(key, Ed25519PublicKey)
    return key


def model_keys(settings: Settings) -> Path:
    """The folder of the key that models are signed with (`signing.key`) and of the public keys that are trusted.

    A public key's file is named by its SHA-256 (`KEY_ID.pub`). Who takes such a file away trusts that key's signatures no longer.
    """
    return settings.home.resolve() / "keys" / "models"


def model_key(settings: Settings, *, rotate: bool = False) -> str:
    """The id of the key that models are signed with, made on first use (mode 0600).

    Rotating makes a new one for what is signed from now on; the former public key stays trusted until its file is removed.
    """
    folder = model_keys(settings)
    path = folder / "signing.key"
    with alone(folder / ".lock"):
        if path.is_file() and not rotate:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            return hashlib.sha256(_public_pem(key)).hexdigest()
        key = ec.generate_private_key(ec.SECP256R1())
        key_id = hashlib.sha256(_public_pem(key)).hexdigest()
        # The public key first: a crash between the two leaves one too many, never signatures that nobody can check.
        write_whole(folder / f"{key_id}.pub", _public_pem(key), 0o644)
        write_whole(
            path, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return key_id


def _public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def quarantine_key(settings: Settings) -> bytes:
    """The 32-byte key that quarantined frames are sealed with, made on first use (`keys/quarantine.key`, mode 0600).

    It is not rotated: without it no sealed frame can be opened again.
    """
    return _sealing_key(settings, "quarantine")


def golden_key(settings: Settings) -> bytes:
    """The 32-byte key that golden and refused training pictures are sealed with (`keys/golden.key`), as `quarantine_key`."""
    return _sealing_key(settings, "golden")


def _sealing_file(settings: Settings, name: str) -> Path:
    return settings.home.resolve() / "keys" / f"{name}.key"


def _sealing_key(settings: Settings, name: str) -> bytes:
    path = _sealing_file(settings, name)
    with alone(path.parent / ".lock"):
        if not path.is_file():
            write_whole(path, AESGCM.generate_key(bit_length=256))
        return path.read_bytes()


def person_key_file(settings: Settings, name: str) -> Path:
    """Where a person's private key lies unless they keep it elsewhere (`keys/people/NAME.key`)."""
    return settings.home.resolve() / "keys" / "people" / f"{name}.key"


def make_person_key(path: Path) -> Ed25519PrivateKey:
    """A new personal key in a file that only its owner may read. Raises BadInput if there is a file already."""
    with alone(path.parent / ".lock"):
        if path.exists():
            raise BadInput(f"there is a file at {path} already, maybe somebody's key: name another with --key-file, or move it")
        return _write_person_key(path)


def replace_person_key(path: Path) -> Ed25519PrivateKey:
    """A new personal key in the place of the former one."""
    return _write_person_key(path)


def _write_person_key(path: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_whole(path, pem)
    return key


def read_person_key(path: Path) -> Ed25519PrivateKey:
    """A personal key out of its file.

    Raises Unavailable if there is none, BadInput if others may read it or it holds no Ed25519 key.
    """
    try:
        if path.stat().st_mode & _OTHERS:
            raise BadInput(f"key {path} may be read by others: `chmod 600` it, then `kerbwatch people rotate-key`")
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise Unavailable(
            f"no key at {path} ({error.strerror}): say who you are (--actor or KERBWATCH_PERSON) or where your key lies "
            "(KERBWATCH_KEY_FILE). Without one, somebody with R8 adds you (`kerbwatch people add`; who has lost theirs is removed "
            "first); where nobody is left who can: `kerbwatch people recover` at home"
        ) from error
    except (ValueError, TypeError) as error:
        raise BadInput(f"{path} holds no private key: restore it, or have a new one made with `kerbwatch people add`") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"{path} holds a key of another kind: acts are signed with Ed25519 (`kerbwatch people add` makes one)")
    return key


def people_key(settings: Settings) -> bytes:
    """The 32-byte key that people's second factors are sealed with (`keys/people.key`); `make_people_key` has made it.

    Raises Unavailable if it is not here: one made on the spot would seal what opens nowhere else.
    """
    try:
        return _sealing_file(settings, "people").read_bytes()
    except OSError as error:
        raise Unavailable(
            f"no key at {_sealing_file(settings, 'people')} ({error.strerror}), so no second factor can be set up or checked "
            "here: copy it from the home that the stack was set up in, or from its backup; where nobody has a second factor yet, "
            "`kerbwatch up` makes it there"
        ) from error


def make_people_key(settings: Settings) -> bytes:
    """The same key, made if there is none; only for a deployment in which nothing is sealed with another."""
    return _sealing_key(settings, "people")


def new_data_key() -> bytes:
    """A 32-byte key for one thing alone: who destroys the key has destroyed the thing."""
    return AESGCM.generate_key(bit_length=256)


def seal(key: bytes, data: bytes, about: bytes) -> bytes:
    """Encrypts `data` under a 32-byte key and a fresh random nonce (96 bit), bound to `about`, which is not stored.

    With random nonces one key is good for 2^32 seals (SP 800-38D, 8.3).
    """
    nonce = os.urandom(_NONCE_BYTES)
    return _SEALED + nonce + AESGCM(key).encrypt(nonce, data, about)


def open_sealed(key: bytes, sealed: bytes, about: bytes) -> bytes:
    """The data that `seal` was given. Raises Tampered if key, bytes or `about` differ from then."""
    start = len(_SEALED)
    nonce, body = sealed[start : start + _NONCE_BYTES], sealed[start + _NONCE_BYTES :]
    try:
        data = AESGCM(key).decrypt(nonce, body, about) if sealed.startswith(_SEALED) else None
    except (InvalidTag, ValueError):
        data = None
    if data is None:
        raise Tampered(
            f"sealed bytes about {about!r} do not open: they, their name or the key were changed; restore all from a backup"
        )
    return data
