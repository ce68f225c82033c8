"""The functions that begin epochs and nodes, and the triggers that note changes of other programs.

An epoch begins where history may have been lost: after a crash, a promotion, or the restore of a copy. The
canary is an unlogged row: PostgreSQL empties unlogged tables in a crash, and leaves no other sign. The
fingerprint shows the other cases.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE FUNCTION eventstore.fingerprint() RETURNS text LANGUAGE plpgsql AS $$
-- What changes when another history may have taken the place of the present one.
DECLARE
  v_system text := '';
  v_timeline text := '';
BEGIN
  BEGIN
    SELECT system_identifier INTO v_system FROM pg_control_system();
  EXCEPTION WHEN insufficient_privilege THEN NULL;
  END;
  BEGIN
    v_timeline := substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8);
  EXCEPTION WHEN insufficient_privilege THEN NULL;
  END;
  RETURN concat_ws('/', v_system, v_timeline, extract(epoch FROM pg_postmaster_start_time()),
                   pg_relation_filenode('eventstore.batches'));
END
$$
""",
    """
CREATE FUNCTION eventstore.begin_epoch(p_epoch text, p_node text, p_now double precision)
RETURNS void LANGUAGE plpgsql AS $$
-- The beginning of an epoch is a batch without changes: number 0 of p_node. Under the lock of the log.
DECLARE
  v_head eventstore.batches%ROWTYPE;
BEGIN
  SELECT * INTO v_head FROM eventstore.batches ORDER BY batch DESC LIMIT 1;
  INSERT INTO eventstore.batches
  VALUES (v_head.batch + 1, p_epoch, p_node, 0, '',
          sha256(v_head.chain || convert_to(p_epoch || gen_random_uuid(), 'UTF8')),
          v_head.last, v_head.last, p_now, v_head.uptime, '[]', '{}');
  INSERT INTO eventstore.epochs (epoch, began_after, began_in, began_at, fingerprint)
  VALUES (p_epoch, v_head.last, v_head.batch + 1, p_now, eventstore.fingerprint());
  DELETE FROM eventstore.canary;
  INSERT INTO eventstore.canary (epoch) VALUES (p_epoch);
END
$$
""",
    """
CREATE FUNCTION eventstore.note_backend(p_node text) RETURNS boolean LANGUAGE sql AS $$
-- The connection by which other nodes see that this one lives. False for a node that is gone.
WITH noted AS (
  UPDATE eventstore.nodes
  SET backend = pg_backend_pid(),
      backend_start = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
  WHERE node = p_node RETURNING node)
SELECT EXISTS (SELECT FROM noted)
$$
""",
    """
CREATE FUNCTION eventstore.other_node(p_node text, p_now double precision) RETURNS text LANGUAGE sql AS $$
-- The address of another node that lives: with an open connection and a heartbeat in the last 6 seconds.
SELECT address FROM eventstore.nodes AS n
WHERE node <> p_node AND alive_at > coalesce(p_now, extract(epoch FROM clock_timestamp())) - 6
  AND EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.pid = backend AND a.backend_start = n.backend_start)
LIMIT 1
$$
""",
    """
CREATE FUNCTION eventstore.join_alone(
  p_node text, p_address text, p_now double precision, p_history boolean,
  p_max_disconnection double precision)
RETURNS void LANGUAGE plpgsql AS $$
-- A node begins, with an epoch of its own; every other node is gone, and its sessions are away.
DECLARE
  v_now double precision := coalesce(p_now, extract(epoch FROM clock_timestamp()));
  v_uptime double precision;
BEGIN
  PERFORM set_config('synchronous_commit', 'on', true), set_config('lock_timeout', '10s', true);
  PERFORM pg_advisory_xact_lock(hashtextextended('eventstore', 0));
  PERFORM eventstore.begin_epoch(p_node, p_node, v_now);
  SELECT uptime INTO v_uptime FROM eventstore.batches ORDER BY batch DESC LIMIT 1;
  PERFORM eventstore.note_left_behind(v_now, v_uptime, p_history);
  UPDATE eventstore.sessions AS s
  SET node = NULL, away_since = coalesce(away_since, v_uptime),
      disconnected_at = coalesce(
        disconnected_at, (SELECT alive_at FROM eventstore.nodes AS n WHERE n.node = s.node), v_now)
  WHERE node IS NOT NULL OR away_since IS NULL;
  DELETE FROM eventstore.nodes;
  INSERT INTO eventstore.nodes
    (node, address, alive_at, uptime, applied, floor, max_disconnection)
  SELECT p_node, p_address, v_now, v_uptime, (SELECT max(batch) FROM eventstore.batches), pruned_through,
         p_max_disconnection
  FROM eventstore.log_state;
  PERFORM eventstore.note_backend(p_node);
  -- Epochs before that of the oldest event and those of all sessions, as far as they are not the newest 1000.
  DELETE FROM eventstore.epochs
  WHERE number <= (SELECT max(number) FROM eventstore.epochs) - 1000
    AND number < coalesce((SELECT min(e.number) FROM eventstore.sessions
                           JOIN eventstore.epochs AS e ON e.epoch = start_epoch), number + 1)
    AND number < coalesce((SELECT max(e.number) FROM eventstore.epochs AS e
                           WHERE e.began_after < (SELECT min("offset") FROM eventstore.events)), number + 1);
END
$$
""",
    """
CREATE FUNCTION eventstore.enter(
  p_node text, p_seen bigint, p_chain bytea, p_new_epoch text, p_now double precision
) RETURNS void LANGUAGE plpgsql AS $$
-- A node goes on over a new connection. An epoch begins when history may have been lost meanwhile.
BEGIN
  PERFORM set_config('synchronous_commit', 'on', true), set_config('lock_timeout', '10s', true);
  PERFORM pg_advisory_xact_lock(hashtextextended('eventstore', 0));
  IF NOT eventstore.note_backend(p_node) THEN
    RAISE EXCEPTION 'the node is gone' USING ERRCODE = 'SE001';
  END IF;
  IF NOT EXISTS (SELECT FROM eventstore.batches WHERE batch = p_seen AND chain = p_chain) THEN
    RAISE EXCEPTION 'batch % is lost', p_seen USING ERRCODE = 'SE004';
  END IF;
  IF NOT EXISTS (
    SELECT FROM eventstore.canary AS c
    JOIN (SELECT epoch, fingerprint FROM eventstore.epochs ORDER BY number DESC LIMIT 1) AS e USING (epoch)
    WHERE e.fingerprint = eventstore.fingerprint())
  THEN
    PERFORM eventstore.begin_epoch(
      p_new_epoch, p_new_epoch, coalesce(p_now, extract(epoch FROM clock_timestamp())));
  END IF;
END
$$
""",
    # With the rights of the owner: a role that may change events need not have rights on the table of ranges.
    """
CREATE FUNCTION eventstore.note_altered() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog AS $$
-- Neighbours become one row. The rows that the server deletes are at most pruned_through.
BEGIN
  INSERT INTO eventstore.altered_ranges (namespace, first, last)
  SELECT namespace, min("offset"), max("offset")
  FROM (SELECT namespace, "offset",
               "offset" - row_number() OVER (PARTITION BY namespace ORDER BY "offset") AS island
        FROM altered WHERE "offset" > (SELECT pruned_through FROM eventstore.log_state)
          AND coalesce(current_setting('eventstore.redacting', true), '') <> 'on') AS a
  GROUP BY namespace, island;
  RETURN NULL;
END
$$
""",
    """
CREATE FUNCTION eventstore.note_altered_attachments() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog AS $$
BEGIN
  INSERT INTO eventstore.altered_ranges (first, last)
  SELECT DISTINCT "offset", "offset" FROM altered
  WHERE "offset" > (SELECT pruned_through FROM eventstore.log_state)
    AND coalesce(current_setting('eventstore.redacting', true), '') <> 'on';
  RETURN NULL;
END
$$
""",
    """
CREATE FUNCTION eventstore.note_truncated() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog AS $$
BEGIN
  INSERT INTO eventstore.altered_ranges (first, last, audience_lost)
  SELECT pruned_through + 1, last, true
  FROM eventstore.log_state, (SELECT max(last) AS last FROM eventstore.batches) AS b
  WHERE pruned_through < last;
  RETURN NULL;
END
$$
""",
    """
CREATE TRIGGER events_deleted AFTER DELETE ON eventstore.events
REFERENCING OLD TABLE AS altered FOR EACH STATEMENT EXECUTE FUNCTION eventstore.note_altered()
""",
    """
CREATE TRIGGER events_updated AFTER UPDATE ON eventstore.events
REFERENCING OLD TABLE AS altered FOR EACH STATEMENT EXECUTE FUNCTION eventstore.note_altered()
""",
    """
CREATE TRIGGER events_updated_to AFTER UPDATE ON eventstore.events
REFERENCING NEW TABLE AS altered FOR EACH STATEMENT EXECUTE FUNCTION eventstore.note_altered()
""",
    """
CREATE TRIGGER attachments_deleted AFTER DELETE ON eventstore.attachments
REFERENCING OLD TABLE AS altered FOR EACH STATEMENT EXECUTE FUNCTION eventstore.note_altered_attachments()
""",
    """
CREATE TRIGGER attachments_updated AFTER UPDATE ON eventstore.attachments
REFERENCING OLD TABLE AS altered FOR EACH STATEMENT EXECUTE FUNCTION eventstore.note_altered_attachments()
""",
    """
CREATE TRIGGER events_truncated AFTER TRUNCATE ON eventstore.events
FOR EACH STATEMENT EXECUTE FUNCTION eventstore.note_truncated()
""",
    """
CREATE TRIGGER attachments_truncated AFTER TRUNCATE ON eventstore.attachments
FOR EACH STATEMENT EXECUTE FUNCTION eventstore.note_truncated()
""",
)


def upgrade() -> None:
    """Create the functions and triggers."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement.strip().replace("%", "%%"))  # psycopg's escape


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
