"""The tables of people: who may act, what they sign with, and what they signed.

It decides columns and keys, as `infra.tables` does; migration 0005 makes the same tables. Written by commands, through
`responders.people.people` and `responders.people.desk`.

Source: paper 4.5.5 (access control, authentication), SC-10.
"""

from datetime import datetime

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from infra.tables import Number, Table


class PersonRow(Table):
    """Somebody who may act, with the roles (R1 to R8, separated by spaces) that an operator gave.

    `totp_sealed` is the second factor's secret, sealed; `totp_step` the step of the last code used, `totp_failures` how many wrong
    ones came since.
    """

    __tablename__ = "people"

    name: Mapped[str] = mapped_column(primary_key=True)
    roles: Mapped[str]
    changed_at: Mapped[datetime]
    totp_sealed: Mapped[bytes | None]
    totp_step: Mapped[int] = mapped_column(BigInteger, default=0)
    totp_failures: Mapped[int] = mapped_column(default=0)
    totp_failed_at: Mapped[datetime | None]


class PersonKeyRow(Table):
    """A public key (Ed25519, 32 bytes) that a person's acts are signed with, from when to when; former ones stay, to check by."""

    __tablename__ = "person_keys"

    key_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    public_key: Mapped[bytes]
    since: Mapped[datetime]
    until: Mapped[datetime | None]


class ActRow(Table):
    """What a person did, byte for byte as signed; `number` is the order of admission, the other columns repeat what `body` says.

    `used_by`: where two people must agree, the act that completed it.
    """

    __tablename__ = "acts"
    __table_args__ = (Index("ix_acts_target", "target", "deed"),)

    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    actor: Mapped[str]
    deed: Mapped[str]
    target: Mapped[str]
    time: Mapped[datetime]
    key_id: Mapped[str]
    with_code: Mapped[bool]
    body: Mapped[bytes]
    signature: Mapped[bytes]
    used_by: Mapped[str] = mapped_column(default="")
