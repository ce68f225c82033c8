// The reference server with the same handlers as ../handlers.py.
// node --expose-gc reference.mjs PORT memory|redis MAX_DISCONNECTION_MS [REDIS_URL]
//
// The engine is `ws`, the default of socket.io; eiows is not used, and neither is compression (also the default).
import { createServer } from "node:http";
import { Server } from "socket.io";

const [port, storage, maxDisconnectionMs, redisUrl] = process.argv.slice(2);
const TEXT = "x".repeat(74); // makes the packet of an event 106 bytes long

const options = {
  connectionStateRecovery: { maxDisconnectionDuration: Number(maxDisconnectionMs) },
  pingInterval: 300_000, // no heartbeat falls into a measurement
  pingTimeout: 20_000,
};
// Resolves when what was emitted before has reached the log: at once in memory.
let stored = () => new Promise(setImmediate);
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

io.on("connection", (socket) => {
  let seen = 0;
  let wake = () => {};

  socket.on("join", (room, ack) => {
    socket.join(room);
    ack();
  });
  socket.on("seen", (count) => {
    seen = count;
    wake();
  });
  // `io.emit` returns before anything is written or stored, so there is nothing to wait for but the event
  // loop: it gets its turn after each `window` of emits, and the last client confirms what it has received.
  socket.on("fan", async ({ seconds, window, ahead }, ack) => {
    const end = performance.now() + seconds * 1000;
    let count = 0;
    seen = 0;
    while (performance.now() < end) {
      for (let i = 0; i < window; i++) io.emit("fan", { n: 100_000 + count++, text: TEXT });
      await new Promise(setImmediate);
      while (count - seen > ahead) await new Promise((resolve) => { wake = resolve; });
    }
    ack({ count });
  });
  socket.on("say", (data) => io.emit("fan", data));
  socket.on("publish", (data, ack) => {
    io.to("news").emit("news", data);
    ack();
  });
  // `count` events, evenly among them `for_mine` to the room `mine`, the rest to others.
  socket.on("fill", async ({ count, mine, for_mine }, ack) => {
    const stride = Math.floor(count / for_mine);
    for (let i = 1; i <= count; i++) {
      if (i % stride === 0 && i / stride <= for_mine) io.to(mine).emit("news", { n: i, text: TEXT });
      else io.to("others").emit("news", { n: i, text: TEXT });
      if (i % 1024 === 0) await stored();
    }
    await stored();
    ack();
  });
  socket.on("gc", (ack) => {
    globalThis.gc?.();
    ack();
  });
});

server.listen({ port: Number(port), host: "127.0.0.1", backlog: 4096 });
