"""The views for people, and the comments that psql shows with d+.

A view has the columns of the view of the same name in SQLite.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

VIEWS = (
    """
CREATE FUNCTION eventstore.iso_time(seconds double precision) RETURNS text LANGUAGE sql STABLE AS $$
SELECT to_char(to_timestamp(seconds) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$
""",
    """
CREATE FUNCTION eventstore.room_names(rooms text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
-- The names in a JSON array, for people. PostgreSQL's text has no NUL character, which JSON has.
SELECT string_agg(name, ', ')
FROM json_array_elements_text(replace(rooms, '\\u0000', '\\ufffd')::json) AS t(name)
$$
""",
    """
CREATE VIEW eventstore.recent_events AS
SELECT eventstore.iso_time(emitted_at) AS time,
       (SELECT epoch FROM eventstore.epochs WHERE began_after < e."offset"
        ORDER BY began_after DESC, number DESC LIMIT 1) || '.' || e."offset" AS "offset",
       namespace,
       event,
       payload,
       CASE WHEN rooms IS NULL THEN '(everyone)' ELSE eventstore.room_names(rooms) END AS rooms,
       CASE WHEN attachments > 0 THEN size_bytes - length(payload) END AS binary_bytes
FROM eventstore.events AS e
ORDER BY e."offset" DESC
""",
    """
CREATE VIEW eventstore.session_timelines AS
SELECT eventstore.iso_time(at) AS time,
       coalesce(s.namespace, e.namespace) AS namespace,
       coalesce(s.sid, e.sid) AS sid,
       coalesce(s.identity, e.identity) AS identity,
       kind,
       h.node,
       reason,
       eventstore.room_names('[' || detail || ']') AS detail,
       (SELECT epoch FROM eventstore.epochs WHERE began_after < greatest(sequence, 1)
        ORDER BY began_after DESC, epochs.number DESC LIMIT 1) || '.' || sequence AS "offset"
FROM eventstore.session_history AS h
LEFT JOIN eventstore.sessions AS s ON s.number = h.session
LEFT JOIN eventstore.ended_sessions AS e ON e.session = h.session
ORDER BY h.number DESC
""",
    """
CREATE FUNCTION eventstore.remaining_seconds(away_since double precision) RETURNS bigint
LANGUAGE sql STABLE AS $$
-- For how many seconds a client may still return, while the server runs.
SELECT trunc(greatest(0, max_disconnection - (
  (SELECT b.uptime FROM eventstore.batches AS b ORDER BY batch DESC LIMIT 1) - away_since)))::bigint
FROM eventstore.nodes ORDER BY number DESC LIMIT 1
$$
""",
    """
CREATE VIEW eventstore.waiting_sessions AS
SELECT sid,
       namespace,
       identity,
       eventstore.remaining_seconds(away_since) AS remaining_seconds,
       looked.missed,
       looked.events_looked_at
FROM eventstore.sessions AS s, LATERAL (
  SELECT count(*) AS events_looked_at,
         count(*) FILTER (
           WHERE e.namespace = s.namespace
             AND (e.skip IS NULL OR NOT e.skip::jsonb @> to_jsonb(s.sid))
             AND (e.rooms IS NULL OR EXISTS (
               SELECT FROM json_array_elements(e.rooms::json) AS addressed(room)
               WHERE addressed.room::text = to_json(s.sid)::text OR EXISTS (
                 SELECT FROM eventstore.rooms AS r
                 WHERE r.namespace = s.namespace AND r.sid = s.sid AND r.room = addressed.room::text
                   AND r.joined_after < e."offset"
                   AND (r.left_after IS NULL OR e."offset" <= r.left_after))))) AS missed
  FROM (SELECT * FROM eventstore.events WHERE "offset" > greatest(s.confirmed, s.start_offset)
        ORDER BY "offset" LIMIT 1000) AS e
) AS looked
WHERE disconnected_at IS NOT NULL
""",
    """
CREATE VIEW eventstore.current_sessions AS
SELECT sid,
       namespace,
       CASE WHEN disconnected_at IS NULL THEN 'connected' ELSE 'away' END AS state,
       identity,
       (SELECT string_agg(eventstore.room_names('[' || room || ']'), ', ') FROM eventstore.rooms AS r
        WHERE r.namespace = s.namespace AND r.sid = s.sid AND left_after IS NULL) AS rooms,
       CASE WHEN disconnected_at IS NOT NULL THEN eventstore.remaining_seconds(away_since) END
         AS remaining_seconds,
       eventstore.iso_time(opened_at) AS opened,
       eventstore.iso_time(resumed_at) AS resumed,
       eventstore.iso_time(disconnected_at) AS disconnected,
       data
FROM eventstore.sessions AS s
ORDER BY number DESC
""",
)

COMMENTS = {
    "SCHEMA eventstore": "The log of socketio-eventstore, and the sessions beside it.",
    "TABLE eventstore.events": "The log: every stored event, in the order of all clients.",
    'COLUMN eventstore.events."offset"': "its number: is never used twice; clients see epoch.number",
    "COLUMN eventstore.events.emitted_at": "seconds since 1970, UTC, by the clock of the server",
    "COLUMN eventstore.events.namespace": "Socket.IO namespace; / is the main one",
    "COLUMN eventstore.events.event": "the name of the event, the same as payload::json ->> 0",
    "COLUMN eventstore.events.rooms": "JSON array of the addressed rooms (a sid is a room); NULL: all",
    "COLUMN eventstore.events.skip": "JSON array of the sids that do not receive it; NULL: none",
    "COLUMN eventstore.events.size_bytes": "characters of payload + bytes of attachments",
    "COLUMN eventstore.events.attachments": "the number of its rows in the table attachments",
    "COLUMN eventstore.events.payload": "JSON array [name, argument, ...] as on the wire, without the offset",
    "TABLE eventstore.attachments": "Binary arguments of events, in place of the placeholders in payload.",
    "TABLE eventstore.batches": "Changes that a node appended together, in their order.",
    "COLUMN eventstore.batches.node_batch": "the number that the node gave it: a repeat is recognised",
    "COLUMN eventstore.batches.body": "SHA-256 of the changes",
    "COLUMN eventstore.batches.chain": "the identity of the history up to this batch",
    "COLUMN eventstore.batches.before": "the last event before the batch",
    "COLUMN eventstore.batches.last": "the last event of the batch, or before the batch",
    "COLUMN eventstore.batches.uptime": "the uptime clock, which runs only while a node writes",
    "COLUMN eventstore.batches.changes": "runs [kind, events before, changes] without the events",
    "COLUMN eventstore.batches.outcomes": "of changes by a claim: the claim, 0: took effect, -1: did not",
    "TABLE eventstore.sessions": "Each client session that is connected or may still be recovered.",
    "COLUMN eventstore.sessions.pid_hash": "SHA-256 of the private id with which the client comes back",
    "COLUMN eventstore.sessions.start_epoch": "the epoch in which it was opened",
    "COLUMN eventstore.sessions.start_offset": "the position of the log at which it began",
    "COLUMN eventstore.sessions.former_offset": "offset that the client brought from an earlier session",
    "COLUMN eventstore.sessions.confirmed": "events up to this one are known to have reached the client",
    "COLUMN eventstore.sessions.disconnected_at": "when the connection was lost; NULL: connected",
    "COLUMN eventstore.sessions.away_since": "the same on the uptime clock",
    "COLUMN eventstore.sessions.data": "JSON object: what the handlers saved with save_session()",
    "COLUMN eventstore.sessions.identity": "the identity from bind(); NULL: none",
    "COLUMN eventstore.sessions.left_by_client": "whether the client itself called disconnect()",
    "COLUMN eventstore.sessions.token_expires_at": "when the token of the client ends; NULL: never",
    "COLUMN eventstore.sessions.token_rooms": "JSON array of the rooms of the token; NULL: no token",
    "COLUMN eventstore.sessions.claim": "how often a client claimed it: a fencing token",
    "COLUMN eventstore.sessions.claimed_in": "the batch of the last claim",
    "COLUMN eventstore.sessions.node": "the node that has the client; NULL: the client is away",
    "TABLE eventstore.rooms": "Memberships: events with joined_after < offset <= left_after.",
    "COLUMN eventstore.rooms.room": 'JSON: 42 and "42" are different rooms',
    "COLUMN eventstore.rooms.left_after": "NULL: it is in the room",
    "TABLE eventstore.answers": "Events of clients that were handled exactly once: with the answer.",
    "TABLE eventstore.publications": "Requests that published events under an idempotency key.",
    "TABLE eventstore.nodes": "Lives of servers that write the log.",
    "COLUMN eventstore.nodes.backend": "the process of its connection, which shows that it lives",
    "TABLE eventstore.epochs": "Where history may have been lost. Offsets name their epoch.",
    "COLUMN eventstore.epochs.began_after": "the last event before the epoch",
    "TABLE eventstore.canary": "The present epoch; PostgreSQL empties the table in a crash.",
    "TABLE eventstore.positions": "The position of the log at earlier uptimes; pruning goes by it.",
    "TABLE eventstore.log_state": "One row.",
    "COLUMN eventstore.log_state.pruned_through": "events up to this one were deleted",
    "COLUMN eventstore.log_state.min_reader": "programs that know fewer formats must not open the log",
    "TABLE eventstore.altered_ranges": "Events that are not what was emitted: their readers do not recover.",
    "COLUMN eventstore.altered_ranges.audience_lost": "whether the index lacks to whom they were addressed",
    "TABLE eventstore.index_segments": "The index by room, in segments of up to 4096 offsets.",
    "TABLE eventstore.index_lists": "The events of a segment that are addressed to an audience.",
    "TABLE eventstore.session_history": "What happened to sessions.",
    "COLUMN eventstore.session_history.session": "sessions.number, or ended_sessions.session",
    "COLUMN eventstore.session_history.detail": "JSON: a room, the missed events, a node, a sid, an identity",
    "TABLE eventstore.ended_sessions": "The sessions that are over and still have a history.",
    "VIEW eventstore.session_timelines": "The history of sessions for people, newest first.",
    "COLUMN eventstore.session_history.node": "the node to which a client connected",
    "COLUMN eventstore.nodes.max_disconnection": "how long its clients may be away, in seconds",
    "VIEW eventstore.waiting_sessions": "Sessions that are away, and what waits: of the next 1000 events.",
    "VIEW eventstore.recent_events": "The log for people, newest first. Cheap with LIMIT.",
    "VIEW eventstore.current_sessions": "The sessions for people, newest first.",
}


def upgrade() -> None:
    """Create the views, and comment the tables."""
    connection = op.get_bind()
    for statement in VIEWS:
        connection.exec_driver_sql(statement.strip())
    for name, text in COMMENTS.items():
        literal = text.replace("'", "''")
        connection.exec_driver_sql(f"COMMENT ON {name} IS '{literal}'")


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
