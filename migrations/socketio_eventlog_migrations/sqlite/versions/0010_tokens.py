"""The token of a session's client: the end of the token, and the rooms in the token."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

STATEMENTS = (
    # The wall-clock time in seconds at which the token of the client ends. NULL: no end.
    "ALTER TABLE sessions ADD COLUMN token_expires_at REAL",
    # The rooms in the token, a JSON array. NULL: the session was opened without a token.
    "ALTER TABLE sessions ADD COLUMN token_rooms TEXT",
)


def upgrade() -> None:
    """Add two columns; all rows stay."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
