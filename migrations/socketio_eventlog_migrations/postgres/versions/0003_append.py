"""The procedure ``append``: a single call decides the outcomes of a batch at the batch's place in the order.

``append`` takes the order under an advisory lock, and commits before the return, so a vanished client holds
no lock. ``append`` does not wait for the disk, since the lock would be held for the flush. The caller flushes
before any effect. Errors: SE001 the node is gone, SE002 another epoch begins first, SE003 an earlier batch of
the node is missing, SE004 the database has lost history that the node has seen, SE005 the number of the batch
was used for another batch, SE006 the wrong isolation level.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

APPEND = """
CREATE PROCEDURE eventstore.append(
  p_node text, p_number bigint, p_epoch text, p_seen bigint, p_chain bytea, p_body bytea,
  p_now double precision, p_history boolean, p_changes jsonb,
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
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'the isolation level is not read committed' USING ERRCODE = 'SE006';
  END IF;
  -- Here, and not as a clause of the procedure, which would end before the commit.
  PERFORM set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '10s', true);
  PERFORM pg_advisory_xact_lock(hashtextextended('eventstore', 0));
  -- A statement after the lock sees what its holder before has committed.
  IF NOT EXISTS (SELECT FROM eventstore.nodes WHERE node = p_node) THEN
    RAISE EXCEPTION 'the node is gone' USING ERRCODE = 'SE001';
  END IF;
  IF NOT EXISTS (SELECT FROM eventstore.batches WHERE batch = p_seen AND chain = p_chain) THEN
    RAISE EXCEPTION 'batch % is lost', p_seen USING ERRCODE = 'SE004';
  END IF;
  IF NOT EXISTS (SELECT FROM eventstore.canary WHERE epoch = p_epoch) THEN
    RAISE EXCEPTION 'another epoch begins' USING ERRCODE = 'SE002';
  END IF;
  SELECT count(*), coalesce(max(number), 0) INTO r_altered, r_altered_through FROM eventstore.altered_ranges;
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
  IF p_number <> 1 + (SELECT max(node_batch) FROM eventstore.batches WHERE node = p_node) THEN
    RAISE EXCEPTION 'batch % has a gap before it', p_number USING ERRCODE = 'SE003';
  END IF;
  SELECT * INTO v_head FROM eventstore.batches ORDER BY batch DESC LIMIT 1;
  v_now := coalesce(p_now, extract(epoch FROM clock_timestamp()));
  r_batch := v_head.batch + 1;
  r_chain := sha256(v_head.chain || convert_to(p_node || ' ' || p_number || gen_random_uuid(), 'UTF8'));
  r_before := v_head.last;
  -- Runs only while a node writes: a step counts two heartbeats at most.
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
    ELSE
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

FUNCTIONS = (APPEND,)


def upgrade() -> None:
    """Create the functions."""
    connection = op.get_bind()
    for statement in FUNCTIONS:
        connection.exec_driver_sql(statement.strip().replace("%", "%%"))  # psycopg's escape


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
