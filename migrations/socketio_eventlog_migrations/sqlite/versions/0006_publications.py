"""The idempotency keys of publishers: a repeated request publishes nothing again.

The SQL calls an epoch a boot, and the uptime clock the service clock.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE TABLE publications (
  -- Requests that published events under an idempotency key: a repeat gets the same offsets.
  publisher TEXT NOT NULL,       -- the name of the publisher's API key
  key TEXT NOT NULL,             -- the idempotency key of the request
  digest BLOB NOT NULL,          -- SHA-256 of the request
  boot TEXT NOT NULL,            -- the server start that stored the events (boots.boot)
  last_offset INTEGER NOT NULL,  -- the number of the last event; those before it are consecutive
  events INTEGER NOT NULL,       -- how many events it were
  published_at REAL NOT NULL,    -- on the service clock, which runs only while the server runs
  PRIMARY KEY (publisher, key)
) STRICT
""",
    """
CREATE INDEX publications_published -- what pruning looks for
ON publications (published_at)
""",
)


def upgrade() -> None:
    """Add a table and an index; all rows stay."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        # Directly on the driver: text() would look for :parameters in the comments.
        connection.exec_driver_sql(statement.strip())


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
