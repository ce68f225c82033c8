"""The functions to join the log beside other nodes, to go on over a new connection, and to append.

``append`` takes the order under an advisory lock, and commits before the return, so a vanished client holds
no lock. ``append`` does not wait for the disk, since the lock would be held for the flush. The caller flushes
before any effect. Errors: SE001 the node is gone, SE002 another epoch begins first, SE003 an earlier batch of
the node is missing, SE004 the database has lost history that the node has seen, SE005 the number of the batch
was used for another batch, SE006 the wrong isolation level, SE007 the program of the node is too old.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

APPEND = """
CREATE PROCEDURE eventstore.append(
  p_node text, p_number bigint, p_epoch text, p_seen bigint, p_chain bytea, p_body bytea,
  p_now double precision, p_lease double precision, p_history boolean, p_changes jsonb,
  p_emitted_at double precision[], p_namespace text[], p_event text[], p_rooms text[], p_skip text[],
  p_size_bytes bigint[], p_attachments integer[], p_payload text[],
  p_content_event bigint[], p_content_num integer[], p_content bytea[],
  INOUT r_batch bigint, INOUT r_chain bytea, INOUT r_before bigint, INOUT r_uptime double precision,
  INOUT r_outcomes integer[], INOUT r_altered bigint, INOUT r_altered_through bigint
) LANGUAGE plpgsql AS $$
DECLARE
  v_head eventstore.batches%ROWTYPE;
  v_now double precision;
  v_last bigint;
  v_run jsonb;
  v_position bigint;
  v_reader integer;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'the isolation level is not read committed' USING ERRCODE = 'SE006';
  END IF;
  -- Here, and not as a clause of the procedure, which would end before the commit.
  PERFORM set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '10s', true);
  PERFORM pg_advisory_xact_lock(hashtextextended('eventstore', 0));
  -- A statement after the lock sees what its holder before has committed.
  SELECT reader INTO v_reader FROM eventstore.nodes WHERE node = p_node;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'the node is gone' USING ERRCODE = 'SE001';
  END IF;
  IF NOT EXISTS (SELECT FROM eventstore.batches WHERE batch = p_seen AND chain = p_chain) THEN
    RAISE EXCEPTION 'batch % is lost', p_seen USING ERRCODE = 'SE004';
  END IF;
  -- Not when a connection begins: PgBouncer's outlive a crash, and a promotion.
  IF NOT EXISTS (
    SELECT FROM eventstore.canary
    WHERE epoch = p_epoch AND server_start = pg_postmaster_start_time()
      AND log = pg_relation_filenode('eventstore.batches'))
  THEN
    RAISE EXCEPTION 'another epoch begins' USING ERRCODE = 'SE002';
  END IF;
  SELECT count(*) + (count(*) FILTER (WHERE audience_lost) << 32), coalesce(max(number), 0)
  INTO r_altered, r_altered_through FROM eventstore.altered_ranges;
  SELECT * INTO v_head FROM eventstore.batches WHERE node = p_node AND node_batch = p_number;
  IF FOUND THEN  -- the answer to an earlier try was lost
    IF v_head.body <> p_body THEN
      RAISE EXCEPTION 'batch % has another content', p_number USING ERRCODE = 'SE005';
    END IF;
    r_batch := v_head.batch; r_chain := v_head.chain; r_before := v_head.before;
    r_uptime := v_head.uptime; r_outcomes := v_head.outcomes;
    COMMIT;
    RETURN;
  END IF;
  -- Not only when a node joins: newer programs may come later. The node may still leave.
  IF v_reader < (SELECT min_reader FROM eventstore.log_state)
     AND p_changes <> jsonb_build_array(jsonb_build_array('died', 0, ARRAY[ARRAY[p_node]]))
  THEN
    RAISE EXCEPTION 'The log has format %, and the program of this node knows %.',
      (SELECT min_reader FROM eventstore.log_state), v_reader USING ERRCODE = 'SE007';
  END IF;
  IF p_number IS DISTINCT FROM 1 + (SELECT max(node_batch) FROM eventstore.batches WHERE node = p_node) THEN
    RAISE EXCEPTION 'batch % has a gap before it', p_number USING ERRCODE = 'SE003';
  END IF;
  SELECT * INTO v_head FROM eventstore.batches ORDER BY batch DESC LIMIT 1;
  v_now := coalesce(p_now, extract(epoch FROM clock_timestamp()));
  r_batch := v_head.batch + 1;
  r_chain := sha256(v_head.chain || convert_to(p_node || ' ' || p_number || gen_random_uuid(), 'UTF8'));
  r_before := v_head.last;
  -- Of the log, and not of a node: runs only while nodes write, and a step counts two heartbeats at most.
  r_uptime := v_head.uptime + least(greatest(v_now - v_head.at, 0), 4);
  r_outcomes := '{}';
  v_last := r_before;
  IF cardinality(p_emitted_at) > 0 THEN
    INSERT INTO eventstore.events
      ("offset", emitted_at, namespace, event, rooms, skip, size_bytes, attachments, payload)
    SELECT r_before + n, e.emitted_at, e.namespace, e.event, e.rooms, e.skip, e.size_bytes, e.attachments,
           e.payload
    FROM unnest(p_emitted_at, p_namespace, p_event, p_rooms, p_skip, p_size_bytes, p_attachments, p_payload)
      WITH ORDINALITY AS e(emitted_at, namespace, event, rooms, skip, size_bytes, attachments, payload, n);
    v_last := r_before + cardinality(p_emitted_at);
    IF cardinality(p_content_event) > 0 THEN
      INSERT INTO eventstore.attachments ("offset", num, content)
      SELECT r_before + event, num, content
      FROM unnest(p_content_event, p_content_num, p_content) AS c(event, num, content);
    END IF;
  END IF;
  FOR v_run IN SELECT value FROM jsonb_array_elements(p_changes) LOOP
    v_position := r_before + (v_run->>1)::bigint;
    IF v_run->>0 IN ('claimed', 'resumed', 'away', 'ended', 'redacted') THEN
      r_outcomes := r_outcomes || eventstore.decide(
        v_run->>0, v_run->2, v_position, r_batch, p_epoch, p_node, r_uptime, v_now, p_history);
    ELSIF v_run->>0 = 'died' THEN
      r_outcomes := r_outcomes || eventstore.nodes_died(
        v_run->2, p_node, p_lease, r_batch, v_position, r_uptime, v_now, p_history);
    ELSIF v_run->>0 = 'heartbeat' THEN
      PERFORM eventstore.beat(v_run->2, v_position, r_batch, p_node, r_uptime);
    ELSIF v_run->>0 = 'pruned' THEN
      PERFORM eventstore.prune(v_run->2, v_position);
    ELSIF v_run->>0 NOT IN ('departed', 'volatile', 'asked', 'answered') THEN  -- those are in the batch only
      PERFORM eventstore.write_run(
        v_run->>0, v_run->2, v_position, r_batch, p_epoch, p_node, r_uptime, v_now, p_history);
    END IF;
  END LOOP;
  INSERT INTO eventstore.batches
  VALUES (r_batch, p_epoch, p_node, p_number, p_body, r_chain, r_before, v_last, v_now, r_uptime, p_changes,
          r_outcomes);
  COMMIT;
END
$$
"""

STATEMENTS = (
    "ALTER TABLE eventstore.nodes ADD COLUMN reader integer NOT NULL DEFAULT 1",
    "COMMENT ON COLUMN eventstore.nodes.reader IS 'the newest format of the log that its program knows'",
    """
CREATE FUNCTION eventstore.record_epoch(
  p_epoch text, p_batch bigint, p_last bigint, p_now double precision
) RETURNS void LANGUAGE plpgsql AS $$
-- An epoch begins in a batch, after the event p_last. Under the lock of the log.
BEGIN
  INSERT INTO eventstore.epochs (epoch, began_after, began_in, began_at, fingerprint)
  VALUES (p_epoch, p_last, p_batch, p_now, eventstore.fingerprint());
  DELETE FROM eventstore.canary;
  INSERT INTO eventstore.canary (epoch, server_start, log)
  VALUES (p_epoch, pg_postmaster_start_time(), pg_relation_filenode('eventstore.batches'));
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
CREATE FUNCTION eventstore.keep_epoch(p_new_epoch text, p_now double precision)
RETURNS text LANGUAGE plpgsql AS $$
-- Return the present epoch. Another one begins where history may have been lost, in a batch without changes:
-- number 0 of the new epoch. Under the lock of the log.
DECLARE
  v_epoch text;
  v_head eventstore.batches%ROWTYPE;
BEGIN
  SELECT e.epoch INTO v_epoch FROM eventstore.canary AS c
  JOIN (SELECT epoch, fingerprint FROM eventstore.epochs ORDER BY number DESC LIMIT 1) AS e USING (epoch)
  WHERE e.fingerprint = eventstore.fingerprint() AND c.server_start = pg_postmaster_start_time()
    AND c.log = pg_relation_filenode('eventstore.batches');
  IF FOUND THEN
    RETURN v_epoch;
  END IF;
  SELECT * INTO v_head FROM eventstore.batches ORDER BY batch DESC LIMIT 1;
  INSERT INTO eventstore.batches
  VALUES (v_head.batch + 1, p_new_epoch, p_new_epoch, 0, '',
          sha256(v_head.chain || convert_to(p_new_epoch || gen_random_uuid(), 'UTF8')),
          v_head.last, v_head.last, p_now, v_head.uptime, '[]', '{}');
  PERFORM eventstore.record_epoch(p_new_epoch, v_head.batch + 1, v_head.last, p_now);
  RETURN p_new_epoch;
END
$$
""",
    """
CREATE FUNCTION eventstore.note_backend(p_node text, p_backend integer) RETURNS boolean LANGUAGE sql AS $$
-- The connection of a node, by which people find it. p_backend: the process that the node takes for its own.
-- Another one serves it behind PgBouncer, then NULL. False for a node that is gone.
WITH noted AS (
  UPDATE eventstore.nodes
  SET backend = CASE WHEN p_backend = pg_backend_pid() THEN p_backend END,
      backend_start = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
  WHERE node = p_node RETURNING node)
SELECT EXISTS (SELECT FROM noted)
$$
""",
    """
CREATE FUNCTION eventstore.enter(
  p_node text, p_backend integer, p_seen bigint, p_chain bytea, p_new_epoch text, p_now double precision
) RETURNS text LANGUAGE plpgsql AS $$
-- A node goes on over a new connection. Return the present epoch.
BEGIN
  PERFORM set_config('synchronous_commit', 'on', true), set_config('lock_timeout', '10s', true);
  PERFORM pg_advisory_xact_lock(hashtextextended('eventstore', 0));
  IF NOT eventstore.note_backend(p_node, p_backend) THEN
    RAISE EXCEPTION 'the node is gone' USING ERRCODE = 'SE001';
  END IF;
  IF NOT EXISTS (SELECT FROM eventstore.batches WHERE batch = p_seen AND chain = p_chain) THEN
    RAISE EXCEPTION 'batch % is lost', p_seen USING ERRCODE = 'SE004';
  END IF;
  RETURN eventstore.keep_epoch(p_new_epoch, coalesce(p_now, extract(epoch FROM clock_timestamp())));
END
$$
""",
    """
CREATE FUNCTION eventstore.other_nodes(p_node text, p_now double precision) RETURNS bigint LANGUAGE sql AS $$
-- The number of other nodes that live, or may: with a batch within the lease, or within a minute before the
-- first heartbeat (see nodes_died). A node whose connections are all closed has ended. That shows only where
-- its connections reach this server directly, and since this server began.
SELECT count(*) FROM eventstore.living_nodes() AS n
WHERE node <> p_node AND alive_at > p_now - CASE WHEN has_beaten THEN 10 ELSE 60 END
  AND (backend IS NULL OR coalesce(backend_start < pg_postmaster_start_time(), true) OR EXISTS (
    SELECT FROM pg_stat_activity AS a WHERE right(a.application_name, length(n.node) + 1) = ' ' || n.node))
$$
""",
    """
CREATE FUNCTION eventstore.join_log(
  p_node text, p_address text, p_backend integer, p_new_epoch text, p_now double precision, p_history boolean,
  p_max_disconnection double precision, p_reader integer
) RETURNS void LANGUAGE plpgsql AS $$
-- A node joins, in a batch of its own: number 0. Without another node that lives, all others are gone, the
-- uptime clock has not run, and an epoch begins: nothing else would show that an older state is back. To be
-- called outside of a transaction: a client that is frozen in one would hold the lock of the log.
DECLARE
  v_now double precision := coalesce(p_now, extract(epoch FROM clock_timestamp()));
  v_epoch text;
  v_head eventstore.batches%ROWTYPE;
  v_alone boolean;
  v_uptime double precision;
  v_node text;
  v_died jsonb := '[]';
BEGIN
  PERFORM set_config('synchronous_commit', 'on', true), set_config('lock_timeout', '10s', true);
  PERFORM pg_advisory_xact_lock(hashtextextended('eventstore', 0));
  IF p_reader < (SELECT min_reader FROM eventstore.log_state) THEN
    RAISE EXCEPTION 'The log has format %, and the program of this node knows %.',
      (SELECT min_reader FROM eventstore.log_state), p_reader USING ERRCODE = 'SE007';
  END IF;
  v_alone := eventstore.other_nodes(p_node, v_now) = 0;
  v_epoch := CASE WHEN v_alone THEN p_node ELSE eventstore.keep_epoch(p_new_epoch, v_now) END;
  SELECT * INTO v_head FROM eventstore.batches ORDER BY batch DESC LIMIT 1;
  v_uptime := v_head.uptime + CASE WHEN v_alone THEN 0 ELSE least(greatest(v_now - v_head.at, 0), 4) END;
  IF v_alone THEN
    PERFORM eventstore.record_epoch(v_epoch, v_head.batch + 1, v_head.last, v_now);
    IF NOT p_history THEN
      -- What comes from here on would be missing in them.
      DELETE FROM eventstore.session_history;
      DELETE FROM eventstore.ended_sessions;
    END IF;
    FOR v_node IN SELECT node FROM eventstore.nodes ORDER BY number LOOP
      PERFORM eventstore.declare_dead(v_node, v_head.batch + 1, v_head.last, v_uptime, v_now, p_history);
      v_died := v_died || jsonb_build_array(jsonb_build_array(v_node));
    END LOOP;
    -- Sessions of nodes that were taken out of the table past the server.
    UPDATE eventstore.sessions
    SET node = NULL, away_since = coalesce(away_since, v_uptime),
        disconnected_at = coalesce(disconnected_at, v_now)
    WHERE node IS NOT NULL OR away_since IS NULL;
    -- Nobody completes the segments of the index that a node has left behind.
    PERFORM pg_advisory_xact_lock(hashtextextended('eventstore index', 0));
    DELETE FROM eventstore.index_lists AS l WHERE NOT EXISTS (
      SELECT FROM eventstore.index_segments AS s WHERE s.segment = l.segment AND s.length = l.length);
  END IF;
  INSERT INTO eventstore.nodes (node, address, alive_at, uptime, applied, floor, max_disconnection, reader)
  SELECT p_node, p_address, v_now, v_uptime, v_head.batch + 1, pruned_through, p_max_disconnection, p_reader
  FROM eventstore.log_state;
  PERFORM eventstore.note_backend(p_node, p_backend);
  INSERT INTO eventstore.batches
  VALUES (v_head.batch + 1, v_epoch, p_node, 0, '',
          sha256(v_head.chain || convert_to(p_node || ' 0' || gen_random_uuid(), 'UTF8')),
          v_head.last, v_head.last, v_now, v_uptime,
          CASE WHEN v_died = '[]' THEN '[]' ELSE jsonb_build_array(jsonb_build_array('died', 0, v_died)) END
            || '[["node_joined", 0, [[]]]]',
          array_fill(0, ARRAY[jsonb_array_length(v_died)]));
END
$$
""",
    """
CREATE FUNCTION eventstore.index_of_node(p_node text) RETURNS boolean LANGUAGE plpgsql AS $$
-- Before a node writes a part of the index: a node that is gone must complete no list that is deleted.
-- Return false while another node writes: appends wait for no node. A frozen node loses its transaction.
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '2s', true),
          set_config('idle_in_transaction_session_timeout', '5s', true);
  IF NOT pg_try_advisory_xact_lock(hashtextextended('eventstore index', 0)) THEN
    RETURN false;
  END IF;
  IF NOT EXISTS (SELECT FROM eventstore.nodes WHERE node = p_node) THEN
    RAISE EXCEPTION 'the node is gone' USING ERRCODE = 'SE001';
  END IF;
  RETURN true;
END
$$
""",
    """
COMMENT ON TABLE eventstore.beats IS
'Heartbeats of nodes: how far a node has applied the log, and up to where its clients have all events.'
""",
)


def upgrade() -> None:
    """Create the functions."""
    connection = op.get_bind()
    for statement in (APPEND, *STATEMENTS):
        connection.exec_driver_sql(statement.strip().replace("%", "%%"))  # psycopg's escape


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
