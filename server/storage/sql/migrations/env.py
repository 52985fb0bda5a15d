"""Runs migrations on the connection, and in the transaction, of `server.storage.sql.migrate`."""

from alembic import context

from server.storage.sql.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
