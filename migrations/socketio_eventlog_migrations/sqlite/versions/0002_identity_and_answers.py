"""The identity of sessions, and the idempotency keys of events handled exactly once.

The SQL calls the acknowledgement of an event an answer, and the uptime clock the service clock.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    # The identity from bind(): only the identity recovers the session. NULL: the private id is sufficient.
    "ALTER TABLE sessions ADD COLUMN identity TEXT",
    """
CREATE TABLE answers (
  -- Events of clients that were handled exactly once: a repeat with the same key gets the same answer.
  namespace TEXT NOT NULL,
  event TEXT NOT NULL,           -- the event's name
  identity TEXT NOT NULL,        -- who sent it (sessions.identity); empty for nobody in particular
  key TEXT NOT NULL,             -- the idempotency key that the client gave it
  answer TEXT NOT NULL,          -- JSON array: the arguments of the acknowledgement
  answered_at REAL NOT NULL,     -- on the service clock, which runs only while the server runs
  PRIMARY KEY (namespace, event, identity, key)
) STRICT
""",
    """
CREATE INDEX answers_answered -- what pruning looks for
ON answers (answered_at)
""",
)


def upgrade() -> None:
    """Add a column, a table and an index; all rows stay."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement.strip())


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
