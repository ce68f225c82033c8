"""The batches of the other nodes with their events, in one read.

The events of a batch are one text: a node needs from most of them only to whom they are addressed, and a row
for each would cost it more than all else.
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

FOLLOW_WITH_EVENTS = """
CREATE FUNCTION eventstore.follow_with_events(
  p_node text, p_seen bigint, p_own bigint, p_limit integer, p_length bigint, p_flush boolean,
  p_events bigint, p_bytes bigint
) RETURNS TABLE (
  batch bigint, chain bytea, epoch text, node text, node_batch bigint, before bigint, last bigint,
  uptime double precision, outcomes integer[], changes text, body bytea,
  altered bigint, altered_through bigint, events text
) LANGUAGE plpgsql AS $$
-- The rows of eventstore.follow, which flushes. The batches of other nodes have their events, in six columns
-- with chr(29) between them, their values with chr(30); but not a batch whose rows are not all there, that
-- has attachments or more than p_bytes, or that another history has replaced: each statement sees what was
-- committed before it. A batch with which the events are more than p_events, or have more than p_bytes, is
-- left out, with all batches after it, and the last row, which is no batch, says so; but not if it is the
-- first.
DECLARE
  v_events bigint := 0;
  v_bytes bigint := 0;
  v_size bigint;
  v_plain bigint;
  v_more boolean := false;
BEGIN
  FOR batch, chain, epoch, node, node_batch, before, last, uptime, outcomes, changes, body,
      altered, altered_through IN
    SELECT * FROM eventstore.follow(p_node, p_seen, p_own, p_limit, p_length, p_flush)
  LOOP
    CONTINUE WHEN v_more AND batch IS NOT NULL;
    events := CASE WHEN v_more THEN 'more' END;
    IF changes IS NOT NULL AND last > before THEN
      -- Of what is sent, rooms included: size_bytes is the size for clients. 0 if all rows are gone.
      SELECT count(*) FILTER (WHERE e.attachments = 0),
             coalesce(sum(octet_length(e.namespace) + octet_length(e.event) + octet_length(e.payload)
                          + octet_length(coalesce(e.rooms, '')) + octet_length(coalesce(e.skip, ''))), 0)
      INTO v_plain, v_size
      FROM eventstore.events AS e WHERE e."offset" > before AND e."offset" <= last;
      v_events := v_events + last - before;
      v_bytes := v_bytes + v_size;
      v_more := v_events > last - before AND (v_events > p_events OR v_bytes > p_bytes);
      CONTINUE WHEN v_more;
      IF v_plain = last - before AND v_size <= p_bytes THEN
        SELECT concat_ws(chr(29),
          string_agg(e.namespace, chr(30)), string_agg(e.event, chr(30)), string_agg(e.payload, chr(30)),
          string_agg(coalesce(e.rooms, ''), chr(30)), string_agg(coalesce(e.skip, ''), chr(30)),
          string_agg(e.emitted_at::text, chr(30)))
        INTO events
        FROM (
          SELECT * FROM eventstore.events AS i WHERE i."offset" > before AND i."offset" <= last
          ORDER BY i."offset"
        ) AS e
        HAVING EXISTS (
          SELECT FROM eventstore.batches AS b
          WHERE b.batch = follow_with_events.batch AND b.chain = follow_with_events.chain);
      END IF;
    END IF;
    RETURN NEXT;
  END LOOP;
END
$$
"""


def upgrade() -> None:
    """Create the function."""
    op.get_bind().exec_driver_sql(FOLLOW_WITH_EVENTS.strip().replace("%", "%%"))  # psycopg's escape


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
