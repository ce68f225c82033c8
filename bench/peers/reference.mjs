// The reference server on Node.
// node --expose-gc reference.mjs PORT memory|redis|postgres MAX_DISCONNECTION_MS [URL]
//
// The engine is `ws`, the default of socket.io; eiows is not used, and neither is compression (also the default).
import { createServer } from "node:http";
import { Server } from "socket.io";
import { register, storedInMemory } from "./handlers.mjs";

const [port, storage, maxDisconnectionMs, url] = process.argv.slice(2);

const options = {
  connectionStateRecovery: { maxDisconnectionDuration: Number(maxDisconnectionMs) },
  pingInterval: 300_000, // no heartbeat falls into a measurement
  pingTimeout: 20_000,
};
let stored = storedInMemory;
if (storage === "redis") {
  const { createClient } = await import("redis");
  const { createAdapter } = await import("@socket.io/redis-streams-adapter");
  const client = createClient({ url });
  await client.connect();
  options.adapter = createAdapter(client, { maxLen: 2_000_000 });
  stored = () => client.ping(); // commands of one connection are answered in order
}
if (storage === "postgres") {
  const { default: pg } = await import("pg");
  const { createAdapter } = await import("@socket.io/postgres-adapter");
  const pool = new pg.Pool({ connectionString: url });
  // The table of its documentation. The adapter has no recovery, and stores no event that fits into a NOTIFY.
  await pool.query(
    "CREATE TABLE IF NOT EXISTS socket_io_attachments " +
      "(id bigserial UNIQUE, created_at timestamptz DEFAULT now(), payload bytea)"
  );
  delete options.connectionStateRecovery;
  options.adapter = createAdapter(pool);
}

const server = createServer();
const io = new Server(server, options);

register(io, stored);
server.listen({ port: Number(port), host: "127.0.0.1", backlog: 4096 });
