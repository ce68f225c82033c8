"""The credentials at the opening of a session, and whether the client called ``disconnect()``."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    # SHA-256 of pid, auth and the headers Cookie and Authorization at the opening. NULL: not recorded.
    "ALTER TABLE sessions ADD COLUMN auth_hash BLOB",
    # 1: the client itself called disconnect(). Then the pid alone does not recover the session.
    "ALTER TABLE sessions ADD COLUMN left_by_client INTEGER NOT NULL DEFAULT 0",
)


def upgrade() -> None:
    """Add two columns; all rows stay."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
