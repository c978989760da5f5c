"""Alembic's entry: runs migrations on the connection that `infra.db.migrate` hands over, in its transaction."""

from alembic import context

from infra.tables import Table

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Table.metadata, compare_type=True, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
