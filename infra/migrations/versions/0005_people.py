"""People's keys, second factors and signed acts; frames in quarantine that were reviewed."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("people", sa.Column("totp_sealed", sa.LargeBinary(), nullable=True))
    op.add_column("people", sa.Column("totp_step", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("people", sa.Column("totp_failures", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("people", sa.Column("totp_failed_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "person_keys",
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_person_keys")),
    )
    op.create_index(op.f("ix_person_keys_name"), "person_keys", ["name"], unique=False)
    op.create_table(
        "acts",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("deed", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("with_code", sa.Boolean(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("used_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_acts")),
        sa.UniqueConstraint("id", name=op.f("uq_acts_id")),
    )
    op.create_index("ix_acts_target", "acts", ["target", "deed"], unique=False)
    op.add_column("quarantined_frames", sa.Column("state", sa.String(), nullable=False, server_default="sealed"))
    op.add_column("quarantined_frames", sa.Column("sealed_key", sa.LargeBinary(), nullable=True))
    op.add_column("quarantined_frames", sa.Column("picture_sha256", sa.String(), nullable=False, server_default=""))
    op.add_column("quarantined_frames", sa.Column("reviewed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("quarantined_frames", sa.Column("reviewed_by", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    for column in ("reviewed_by", "reviewed_at", "picture_sha256", "sealed_key", "state"):
        op.drop_column("quarantined_frames", column)
    op.drop_table("acts")
    op.drop_table("person_keys")
    for column in ("totp_failed_at", "totp_failures", "totp_step", "totp_sealed"):
        op.drop_column("people", column)
