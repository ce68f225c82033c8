"""A record of changes in the log by other programs.

Triggers note the events that another program changes or deletes, since a client that has missed such an event
must not recover. The server's own pruning raises ``pruned_through`` before the deletion, so the conditions of
the triggers leave pruned rows out. REPLACE and INSERT of events are not noted.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    # The offset of the last event at the last heartbeat: later starts notice rows deleted at the end.
    "ALTER TABLE log_state ADD COLUMN head INTEGER NOT NULL DEFAULT 0",
    # The number of transactions that changed memberships, or the events that sessions may receive.
    "ALTER TABLE log_state ADD COLUMN changes INTEGER NOT NULL DEFAULT 0",
    """
CREATE TABLE altered_ranges (
  -- Events that are not what was emitted any more: sessions that need one of them are not recovered.
  number INTEGER PRIMARY KEY,    -- in the order in which they were noted; the newest row stays
  namespace TEXT,                -- NULL: not known
  first INTEGER NOT NULL,        -- the offset of the first of them
  last INTEGER NOT NULL,         -- the offset of the last of them
  audience_lost INTEGER NOT NULL DEFAULT 0 -- 1: the index does not know to whom they were addressed
) STRICT
""",
    """
CREATE INDEX altered_ranges_last -- what pruning looks for
ON altered_ranges (last)
""",
    """
CREATE TABLE unused_ranges (
  -- Offsets that no event ever had: those of failed transactions.
  first INTEGER PRIMARY KEY,
  last INTEGER NOT NULL
) STRICT
""",
    # Earlier versions did not record unused sequences.
    """
INSERT INTO unused_ranges (first, last)
SELECT 1, offset FROM events ORDER BY offset DESC LIMIT 1
""",
    # Neighbours become one row, under a new number.
    """
CREATE TRIGGER events_deleted AFTER DELETE ON events
WHEN OLD.offset > (SELECT pruned_through FROM log_state)
BEGIN
  INSERT INTO altered_ranges (namespace, first, last)
  SELECT OLD.namespace, coalesce((
    SELECT first FROM altered_ranges
    WHERE number = (SELECT max(number) FROM altered_ranges)
      AND namespace = OLD.namespace AND last = OLD.offset - 1 AND audience_lost = 0), OLD.offset), OLD.offset;
  DELETE FROM altered_ranges
  WHERE number = (SELECT max(number) FROM altered_ranges) - 1
    AND namespace = OLD.namespace AND last = OLD.offset - 1 AND audience_lost = 0;
END
""",
    """
CREATE TRIGGER events_updated
AFTER UPDATE OF offset, namespace, rooms, skip, size_bytes, attachments, payload ON events
WHEN OLD.offset > (SELECT pruned_through FROM log_state)
BEGIN
  INSERT INTO altered_ranges (namespace, first, last)
  VALUES (CASE WHEN NEW.namespace = OLD.namespace THEN OLD.namespace END, OLD.offset, OLD.offset);
  INSERT INTO altered_ranges (namespace, first, last)
  SELECT NEW.namespace, NEW.offset, NEW.offset WHERE NEW.offset <> OLD.offset;
END
""",
    """
CREATE TRIGGER attachments_deleted AFTER DELETE ON attachments
WHEN OLD.offset > (SELECT pruned_through FROM log_state)
BEGIN
  INSERT INTO altered_ranges (first, last) VALUES (OLD.offset, OLD.offset);
END
""",
    """
CREATE TRIGGER attachments_updated AFTER UPDATE ON attachments
WHEN OLD.offset > (SELECT pruned_through FROM log_state)
BEGIN
  INSERT INTO altered_ranges (first, last) VALUES (OLD.offset, OLD.offset);
END
""",
    # Before, since REPLACE deletes the old row without the row's trigger. Events have no such trigger: even
    # an empty trigger costs each event 0.6 us.
    """
CREATE TRIGGER attachments_replaced BEFORE INSERT ON attachments
WHEN EXISTS (SELECT 1 FROM attachments WHERE offset = NEW.offset AND num = NEW.num)
BEGIN
  INSERT INTO altered_ranges (first, last) VALUES (NEW.offset, NEW.offset);
END
""",
)


def upgrade() -> None:
    """Add columns, tables and triggers; all rows stay."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        # Directly on the driver: text() would look for :parameters in the comments.
        connection.exec_driver_sql(statement.strip())


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
