"""A person's act as it is signed: who does what to what, when and why, in bytes that anybody can check again.

It decides what the canonical bytes are and whether a signature over them holds. It refuses nothing by itself: `desk.py` does. The
same act is signed to the same bytes everywhere: JSON, fields in declared order, the time in UTC.

Source: RFC 8032 (Ed25519), paper SC-10 (audit trails).
"""

import hashlib

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from responders.people.access import Deed
from streams.errors import BadInput
from streams.events import UtcTime, event_id

LAYOUT = "kerbwatch act v1"
"""Leads the signed bytes, so that they mean nothing to anybody else who uses the same key."""


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says. `details` are what else the deed needs to be told (name, value), and are signed with it."""

    layout: str = LAYOUT
    actor: str
    deed: Deed
    target: str
    comment: str
    time: UtcTime
    details: tuple[tuple[str, str], ...] = ()


class Signed(msgspec.Struct, frozen=True):
    """An act: the statement's bytes and the person's signature over them (Ed25519, 64 bytes)."""

    body: bytes
    signature: bytes

    @property
    def id(self) -> str:
        """Content address of what was said."""
        return event_id("act", hashlib.sha256(self.body).hexdigest())

    def statement(self) -> Statement:
        """What was said. Raises BadInput if the bytes are no statement of this layout."""
        try:
            said = msgspec.json.decode(self.body, type=Statement)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"act {self.id[:8]} is not readable: {error}; sign it with this version of kerbwatch") from error
        if said.layout != LAYOUT:
            raise BadInput(f"act {self.id[:8]} is of layout {said.layout[:40]!r}, not {LAYOUT!r}; sign it with this version")
        return said

    def holds(self, public: bytes) -> bool:
        """Whether the person with this public key (32 bytes) said it."""
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(self.signature, self.body)
        except (InvalidSignature, ValueError):
            return False
        return True


def sign(key: Ed25519PrivateKey, said: Statement) -> Signed:
    """The act, signed with the person's own key."""
    body = msgspec.json.encode(said)
    return Signed(body, key.sign(body))


def public_of(key: Ed25519PrivateKey) -> bytes:
    """The public half, 32 bytes."""
    return key.public_key().public_bytes_raw()


def key_id(public: bytes) -> str:
    """What a public key is called: its SHA-256, hex."""
    return hashlib.sha256(public).hexdigest()
