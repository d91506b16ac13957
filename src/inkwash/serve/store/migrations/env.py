"""Runs migrations on the connection that `Database` has opened; for Alembic, which executes this file."""

from __future__ import annotations

from alembic import context

from inkwash.serve.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
