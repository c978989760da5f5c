"""Rollouts of retrained models, what live frames say of them, and the people who approve them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "comparisons",
        sa.Column("weights_digest", sa.String(), nullable=False),
        sa.Column("camera_id", sa.String(), nullable=False),
        sa.Column("compared", sa.BigInteger(), nullable=False),
        sa.Column("agreement", sa.Double(), nullable=False),
        sa.Column("people", sa.BigInteger(), nullable=False),
        sa.Column("beside", sa.BigInteger(), nullable=False),
        sa.Column("infer_ms", sa.Double(), nullable=False),
        sa.Column("beside_ms", sa.Double(), nullable=False),
        sa.Column("served", sa.BigInteger(), nullable=False),
        sa.Column("scored", sa.BigInteger(), nullable=False),
        sa.Column("inconsistency", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("weights_digest", "camera_id", name=op.f("pk_comparisons")),
    )
    op.create_table(
        "people",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("roles", sa.String(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_people")),
    )
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("incident_id", sa.String(), nullable=False),
        sa.Column("context", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("over", sa.Boolean(), nullable=False),
        sa.Column("candidate_digest", sa.String(), nullable=False),
        sa.Column("phase", sa.String(), nullable=True),
        sa.Column("share", sa.Double(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"], name=op.f("fk_rollouts_incident_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
    )
    op.create_index(op.f("ix_rollouts_incident_id"), "rollouts", ["incident_id"], unique=False)
    op.create_index(
        "one_open_rollout",
        "rollouts",
        ["context"],
        unique=True,
        sqlite_where=sa.text("NOT over"),
        postgresql_where=sa.text("NOT over"),
    )


def downgrade() -> None:
    op.drop_table("rollouts")
    op.drop_table("people")
    op.drop_table("comparisons")
