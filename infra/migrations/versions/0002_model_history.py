"""Which model was named for which role since when, and which weights judged which frames, in sums."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "assigned_models",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("context", sa.String(), nullable=False),
        sa.Column("mode", sa.String(), nullable=False),
        sa.Column("weights_digest", sa.String(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("decision_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_assigned_models")),
    )
    op.create_index("ix_assigned_models_role", "assigned_models", ["context", "mode", "number"], unique=False)
    op.create_table(
        "served_models",
        sa.Column("context", sa.String(), nullable=False),
        sa.Column("weights_digest", sa.String(), nullable=False),
        sa.Column("mode", sa.String(), nullable=False),
        sa.Column("decision_id", sa.String(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("frames", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("context", "weights_digest", "mode", "decision_id", name=op.f("pk_served_models")),
    )
    for mode in ("normal", "safe"):
        op.execute(
            "INSERT INTO assigned_models (context, mode, weights_digest, since, actor, why, decision_id) "  # noqa: S608 - fixed words
            f"SELECT context, '{mode}', {mode}_digest, asked_at, 'setup', 'named before names were kept', decision_id "
            "FROM model_assignments"
        )
    op.execute(
        "INSERT INTO served_models (context, weights_digest, mode, decision_id, first_at, last_at, frames) "
        "SELECT context, weights_digest, mode, decision_id, MIN(judged_time), MAX(judged_time), COUNT(*) "
        "FROM judged_frames GROUP BY context, weights_digest, mode, decision_id"
    )


def downgrade() -> None:
    op.drop_table("served_models")
    op.drop_table("assigned_models")
