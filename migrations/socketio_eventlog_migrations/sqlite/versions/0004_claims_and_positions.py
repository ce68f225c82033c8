"""The claims and the node of a session, the applied batches of a node, and the position history.

The SQL calls an epoch or a node a boot, and the uptime clock the service clock.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    # How often a client claimed the session: a fencing token. A late word of a former claim has no effect.
    "ALTER TABLE sessions ADD COLUMN claim INTEGER NOT NULL DEFAULT 1",
    # The boot of the session's client. NULL: the client is away.
    "ALTER TABLE sessions ADD COLUMN node TEXT",
    # The number of the last batch with effect on the boot at alive_at.
    "ALTER TABLE boots ADD COLUMN applied INTEGER NOT NULL DEFAULT 0",
    # Every client of the boot had received all events up to this offset at alive_at.
    "ALTER TABLE boots ADD COLUMN floor INTEGER NOT NULL DEFAULT 0",
    # The total of size_bytes of the list's events. NULL: not recorded.
    "ALTER TABLE index_lists ADD COLUMN size_bytes INTEGER",
    """
CREATE TABLE positions (
  -- The log's position at earlier times on the uptime clock; pruning goes by it.
  number INTEGER PRIMARY KEY,    -- in the order of the times; the oldest rows are deleted
  uptime REAL NOT NULL,          -- on the service clock, which runs only while the server runs
  position INTEGER NOT NULL      -- the offset of the last event at that time
) STRICT
""",
)


def upgrade() -> None:
    """Add five columns and a table; all rows stay."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        # Directly on the driver: text() would look for :parameters in the comments.
        connection.exec_driver_sql(statement.strip())


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
