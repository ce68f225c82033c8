// The reference server on Node.
// node --expose-gc reference.mjs PORT memory|redis MAX_DISCONNECTION_MS [REDIS_URL]
//
// The engine is `ws`, the default of socket.io; eiows is not used, and neither is compression (also the default).
import { createServer } from "node:http";
import { Server } from "socket.io";
import { register, storedInMemory } from "./handlers.mjs";

const [port, storage, maxDisconnectionMs, redisUrl] = process.argv.slice(2);

const options = {
  connectionStateRecovery: { maxDisconnectionDuration: Number(maxDisconnectionMs) },
  pingInterval: 300_000, // no heartbeat falls into a measurement
  pingTimeout: 20_000,
};
let stored = storedInMemory;
if (storage === "redis") {
  const { createClient } = await import("redis");
  const { createAdapter } = await import("@socket.io/redis-streams-adapter");
  const client = createClient({ url: redisUrl });
  await client.connect();
  options.adapter = createAdapter(client, { maxLen: 2_000_000 });
  stored = () => client.ping(); // commands of one connection are answered in order
}

const server = createServer();
const io = new Server(server, options);

register(io, stored);
server.listen({ port: Number(port), host: "127.0.0.1", backlog: 4096 });
