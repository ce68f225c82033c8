// The reference server on Bun, in memory, with the engine that the project has for it.
// bun bun.mjs PORT MAX_DISCONNECTION_MS
import { Server as Engine } from "@socket.io/bun-engine";
import { Server } from "socket.io";
import { register, storedInMemory } from "./handlers.mjs";

const [port, maxDisconnectionMs] = process.argv.slice(2).map(Number);

const engine = new Engine({
  path: "/socket.io/",
  pingInterval: 300_000, // no heartbeat falls into a measurement
  pingTimeout: 20_000,
});
const io = new Server({ connectionStateRecovery: { maxDisconnectionDuration: maxDisconnectionMs } });
io.bind(engine);
register(io, storedInMemory);

const { websocket, ...handler } = engine.handler();
Bun.serve({
  ...handler,
  port,
  hostname: "127.0.0.1",
  idleTimeout: 0, // the engine asks for twice its pingInterval, which is more than Bun takes
  websocket: { ...websocket, idleTimeout: 0, sendPings: false }, // Bun's own heartbeat
});
