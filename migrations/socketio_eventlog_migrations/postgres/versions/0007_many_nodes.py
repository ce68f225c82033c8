"""The functions for several nodes on a log: heartbeats, the end of a node, and reads of the order.

Lists and segments of the index get a length: two nodes may divide the log differently, and each node reads
the segments of its own division. The nodes of former versions are stopped: such nodes expect no other nodes.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    "DROP PROCEDURE eventstore.append",
    "DROP FUNCTION eventstore.enter",
    "DROP FUNCTION eventstore.join_alone",
    "DROP FUNCTION eventstore.other_node",
    "DROP FUNCTION eventstore.note_backend",
    "DROP FUNCTION eventstore.begin_epoch",
    "DROP FUNCTION eventstore.note_left_behind",
    "DELETE FROM eventstore.nodes",
    """
CREATE TABLE eventstore.beats (
  batch bigint PRIMARY KEY,
  node text NOT NULL,
  applied bigint NOT NULL,
  floor bigint NOT NULL
)
""",
    # A row for each heartbeat, and no update: a long snapshot elsewhere keeps every version of a row.
    "CREATE INDEX beats_node ON eventstore.beats (node, batch)",
    "ALTER TABLE eventstore.canary ADD COLUMN server_start timestamptz, ADD COLUMN log oid",
    "ALTER TABLE eventstore.index_segments ADD COLUMN length integer",
    "UPDATE eventstore.index_segments SET length = length(sizes) / 4",
    "ALTER TABLE eventstore.index_segments ALTER COLUMN length SET NOT NULL",
    "ALTER TABLE eventstore.index_segments DROP CONSTRAINT index_segments_pkey",
    "ALTER TABLE eventstore.index_segments ADD PRIMARY KEY (segment, length)",
    "ALTER TABLE eventstore.index_lists ADD COLUMN length integer",
    """
UPDATE eventstore.index_lists AS l SET length = s.length
FROM eventstore.index_segments AS s WHERE s.segment = l.segment
""",
    "DELETE FROM eventstore.index_lists WHERE length IS NULL",
    "ALTER TABLE eventstore.index_lists ALTER COLUMN length SET NOT NULL",
    "ALTER TABLE eventstore.index_lists DROP CONSTRAINT index_lists_pkey",
    "ALTER TABLE eventstore.index_lists ADD PRIMARY KEY (segment, length, audience)",
    """
CREATE FUNCTION eventstore.living_nodes() RETURNS TABLE (
  number bigint, node text, address text, backend integer, backend_start timestamptz,
  uptime double precision, alive_at double precision, applied bigint, floor bigint, last_batch bigint,
  has_beaten boolean
) LANGUAGE sql STABLE AS $$
-- The nodes, with what their batches say of them: no row of nodes is updated for it.
SELECT n.number, n.node, n.address, n.backend, n.backend_start,
       greatest(n.uptime, b.uptime), greatest(n.alive_at, b.at),
       coalesce(h.applied, n.applied), coalesce(h.floor, n.floor), b.batch,
       h.applied IS NOT NULL
FROM eventstore.nodes AS n
LEFT JOIN LATERAL (SELECT batch, uptime, at FROM eventstore.batches
                   WHERE node = n.node ORDER BY node_batch DESC LIMIT 1) AS b ON true
LEFT JOIN LATERAL (SELECT applied, floor FROM eventstore.beats
                   WHERE node = n.node ORDER BY batch DESC LIMIT 1) AS h ON true
$$
""",
    """
CREATE FUNCTION eventstore.beat(
  p_rows jsonb, p_position bigint, p_batch bigint, p_node text, p_uptime double precision
) RETURNS void LANGUAGE plpgsql AS $$
-- Heartbeats: the last one of the batch counts.
BEGIN
  INSERT INTO eventstore.beats (batch, node, applied, floor)
  SELECT p_batch, p_node, (r->>0)::bigint, (r->>1)::bigint
  FROM jsonb_array_elements(p_rows) WITH ORDINALITY AS t(r, n) ORDER BY n DESC LIMIT 1
  ON CONFLICT (batch) DO UPDATE SET applied = excluded.applied, floor = excluded.floor;
  IF p_rows @> '[[true]]' THEN
    INSERT INTO eventstore.positions (uptime, position)
    SELECT p_uptime, p_position FROM jsonb_array_elements(p_rows) AS t(r) WHERE (r->>2)::boolean;
    DELETE FROM eventstore.positions WHERE number <= (SELECT max(number) FROM eventstore.positions) - 128;
  END IF;
END
$$
""",
    """
CREATE FUNCTION eventstore.prune(p_rows jsonb, p_position bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_through bigint;
BEGIN
  SELECT least(max((r->>0)::bigint), p_position) INTO v_through FROM jsonb_array_elements(p_rows) AS t(r);
  -- First: the triggers do not note the rows up to pruned_through.
  UPDATE eventstore.log_state SET pruned_through = v_through WHERE pruned_through < v_through;
  DELETE FROM eventstore.events WHERE "offset" <= v_through;
  DELETE FROM eventstore.attachments WHERE "offset" <= v_through;
  DELETE FROM eventstore.rooms WHERE left_after <= v_through;
  DELETE FROM eventstore.altered_ranges WHERE last <= v_through;
  DELETE FROM eventstore.index_lists WHERE segment <= v_through AND segment + length <= v_through + 1;
  DELETE FROM eventstore.index_segments WHERE segment <= v_through AND segment + length <= v_through + 1;
END
$$
""",
    """
CREATE FUNCTION eventstore.prune_batches(p_through bigint) RETURNS void LANGUAGE plpgsql AS $$
-- The batches that every node has applied and that are older than a minute, by the clock of the rows; but the
-- newest batch of each node stays. Ten thousand in two seconds are more than there are.
DECLARE
  v_through bigint := least(
    p_through, (SELECT min(least(applied, last_batch)) FROM eventstore.living_nodes()));
BEGIN
  DELETE FROM eventstore.beats AS b WHERE batch < v_through
    AND EXISTS (SELECT FROM eventstore.beats AS newer WHERE newer.node = b.node AND newer.batch > b.batch);
  DELETE FROM eventstore.batches WHERE batch = ANY(ARRAY(
    SELECT batch FROM eventstore.batches
    WHERE batch < v_through AND at < extract(epoch FROM clock_timestamp()) - 60
    ORDER BY batch LIMIT 10000));
END
$$
""",
    """
CREATE FUNCTION eventstore.declare_dead(
  p_target text, p_batch bigint, p_position bigint, p_uptime double precision, p_now double precision,
  p_history boolean
) RETURNS void LANGUAGE plpgsql AS $$
-- The sessions of a node are away. Its clients have the events up to its floor, as far as it knew the session
-- when it wrote the floor.
DECLARE
  v_node record;
BEGIN
  SELECT * INTO v_node FROM eventstore.living_nodes() WHERE node = p_target;
  IF p_history THEN
    INSERT INTO eventstore.session_history (kind, at, uptime, sequence, reason, session)
    SELECT 'away',
           greatest(v_node.alive_at,
                    (SELECT at FROM eventstore.session_history ORDER BY number DESC LIMIT 1)),
           p_uptime, p_position, 'the server is gone', number
    FROM eventstore.sessions WHERE node = p_target ORDER BY number;
  END IF;
  UPDATE eventstore.sessions
  SET node = NULL, away_since = coalesce(away_since, p_uptime),
      disconnected_at = coalesce(disconnected_at, v_node.alive_at, p_now),
      confirmed = CASE WHEN claimed_in <= v_node.applied THEN greatest(confirmed, v_node.floor)
                       ELSE confirmed END
  WHERE node = p_target;
  DELETE FROM eventstore.beats WHERE node = p_target;
  DELETE FROM eventstore.nodes WHERE node = p_target;
END
$$
""",
    """
CREATE FUNCTION eventstore.nodes_died(
  p_rows jsonb, p_node text, p_lease double precision, p_batch bigint, p_position bigint,
  p_uptime double precision, p_now double precision, p_history boolean
) RETURNS integer[] LANGUAGE plpgsql AS $$
-- For each row 0, or -1 without effect: the node is unknown, or has written within the lease. A node that has
-- not written a heartbeat yet may load many sessions, and has none: it gets a minute. A node may end itself.
DECLARE
  r jsonb;
  v_outcomes integer[] := '{}';
BEGIN
  FOR r IN SELECT value FROM jsonb_array_elements(p_rows) LOOP
    IF EXISTS (SELECT FROM eventstore.living_nodes()
               WHERE node = r->>0 AND (node = p_node OR p_uptime - uptime >=
                                       CASE WHEN has_beaten THEN p_lease ELSE 60 END)) THEN
      PERFORM eventstore.declare_dead(r->>0, p_batch, p_position, p_uptime, p_now, p_history);
      v_outcomes := v_outcomes || 0;
    ELSE
      v_outcomes := v_outcomes || -1;
    END IF;
  END LOOP;
  RETURN v_outcomes;
END
$$
""",
    """
CREATE FUNCTION eventstore.follow(
  p_node text, p_seen bigint, p_own bigint, p_limit integer, p_length bigint, p_flush boolean
) RETURNS TABLE (
  batch bigint, chain bytea, epoch text, node text, node_batch bigint, before bigint, last bigint,
  uptime double precision, outcomes integer[], changes text, body bytea,
  altered bigint, altered_through bigint
) LANGUAGE plpgsql AS $$
-- The batches from p_seen on, durable. The node knows the changes of its own batches from number p_own on.
-- The batch with which the changes have more than p_length characters is the last one.
-- The numbers of altered ranges are read after the batches; two counts are in one of them (see altered.py).
DECLARE
  r eventstore.batches%ROWTYPE;
  v_rows integer := 0;
  v_length bigint := 0;
BEGIN
  FOR r IN SELECT * FROM eventstore.batches AS b WHERE b.batch >= p_seen ORDER BY b.batch LIMIT p_limit LOOP
    batch := r.batch; chain := r.chain; epoch := r.epoch; node := r.node; node_batch := r.node_batch;
    before := r.before; last := r.last; uptime := r.uptime; outcomes := r.outcomes;
    changes := CASE WHEN r.batch > p_seen AND (r.node <> p_node OR r.node_batch < p_own)
                    THEN r.changes::text END;
    body := CASE WHEN r.node = p_node THEN r.body END;
    v_rows := v_rows + 1;
    v_length := v_length + coalesce(length(changes), 0);
    RETURN NEXT;
    EXIT WHEN v_length > p_length;
  END LOOP;
  IF v_rows < 2 THEN
    RETURN;
  END IF;
  -- A last row, which is no batch.
  RETURN QUERY
  SELECT NULL::bigint, NULL::bytea, NULL, NULL, NULL::bigint, NULL::bigint, NULL::bigint,
         NULL::double precision, NULL::integer[], NULL, NULL::bytea,
         count(*) + (count(*) FILTER (WHERE audience_lost) << 32), coalesce(max(number), 0)
  FROM eventstore.altered_ranges;
  IF p_flush AND (current_setting('synchronous_standby_names') <> ''
                  OR pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()) THEN
    -- In the transaction of the read: behind a proxy, another one may reach another server.
    PERFORM set_config('synchronous_commit', 'on', true), pg_logical_emit_message(true, 'eventstore', '');
  END IF;
END
$$
""",
)


def upgrade() -> None:
    """Create the tables and functions, and let the nodes from before end."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement.strip().replace("%", "%%"))  # psycopg's escape


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
