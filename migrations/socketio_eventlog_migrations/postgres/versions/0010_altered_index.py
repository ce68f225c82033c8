"""Triggers that note changes of the index by other programs.

Without the list of a room, the server does not find the events that a client of the room has missed. A change
of a list or of a segment's row loses the audience of all events of the segment. The server deletes segments
after ``pruned_through`` is raised, and unfinished lists at a start, in ``join_log``; neither is noted.
Its writes are inserts with ON CONFLICT DO NOTHING, which fire none of the triggers.

Nodes of former versions delete rows of the index with the same functions of the database.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE FUNCTION eventstore.note_altered_index() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog AS $$
-- One row for all lists of a segment. A made-up segment after the last event must not alter later events.
BEGIN
  INSERT INTO eventstore.altered_ranges (first, last, audience_lost)
  SELECT first, last, true
  FROM (SELECT DISTINCT segment AS first, segment + length - 1 AS last FROM altered) AS s
  WHERE last > (SELECT pruned_through FROM eventstore.log_state)
    AND last <= (SELECT b.last FROM eventstore.batches AS b ORDER BY batch DESC LIMIT 1)
    AND coalesce(current_setting('eventstore.joining', true), '') <> 'on'
    AND NOT EXISTS (SELECT FROM eventstore.altered_ranges AS a
                    WHERE a.audience_lost AND a.first <= s.first AND a.last >= s.last);
  RETURN NULL;
END
$$
""",
    # A later CREATE OR REPLACE of the function must repeat the setting.
    """
ALTER FUNCTION eventstore.join_log(
  text, text, integer, text, double precision, boolean, double precision, integer
) SET eventstore.joining = 'on'
""",
    """
CREATE TRIGGER index_lists_deleted AFTER DELETE ON eventstore.index_lists
REFERENCING OLD TABLE AS altered FOR EACH STATEMENT EXECUTE FUNCTION eventstore.note_altered_index()
""",
    """
CREATE TRIGGER index_lists_updated AFTER UPDATE ON eventstore.index_lists
REFERENCING OLD TABLE AS altered FOR EACH STATEMENT EXECUTE FUNCTION eventstore.note_altered_index()
""",
    """
CREATE TRIGGER index_lists_updated_to AFTER UPDATE ON eventstore.index_lists
REFERENCING NEW TABLE AS altered FOR EACH STATEMENT EXECUTE FUNCTION eventstore.note_altered_index()
""",
    """
CREATE TRIGGER index_lists_truncated AFTER TRUNCATE ON eventstore.index_lists
FOR EACH STATEMENT EXECUTE FUNCTION eventstore.note_truncated()
""",
    """
CREATE TRIGGER index_segments_deleted AFTER DELETE ON eventstore.index_segments
REFERENCING OLD TABLE AS altered FOR EACH STATEMENT EXECUTE FUNCTION eventstore.note_altered_index()
""",
    """
CREATE TRIGGER index_segments_updated AFTER UPDATE ON eventstore.index_segments
REFERENCING OLD TABLE AS altered FOR EACH STATEMENT EXECUTE FUNCTION eventstore.note_altered_index()
""",
    """
CREATE TRIGGER index_segments_updated_to AFTER UPDATE ON eventstore.index_segments
REFERENCING NEW TABLE AS altered FOR EACH STATEMENT EXECUTE FUNCTION eventstore.note_altered_index()
""",
    """
CREATE TRIGGER index_segments_truncated AFTER TRUNCATE ON eventstore.index_segments
FOR EACH STATEMENT EXECUTE FUNCTION eventstore.note_truncated()
""",
)


def upgrade() -> None:
    """Create the function and the triggers; all rows stay."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement.strip().replace("%", "%%"))  # psycopg's escape


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
