"use strict";
// Drives any number of official clients in one process. Commands come as JSON lines on stdin;
// everything that a client sees goes out as JSON lines on stdout, in the order in which it saw it.
// usage: node client.cjs <a file beside node_modules>
const { createRequire } = require("node:module");
const readline = require("node:readline");

const load = createRequire(process.argv[2]);
const { io } = load("socket.io-client");

const sockets = new Map();
const pumps = new Map();

// JSON has no bytes: they travel as {"$binary": "base64"}.
function pack(value) {
  if (value instanceof ArrayBuffer) return pack(Buffer.from(value));
  if (value instanceof Uint8Array) return { $binary: Buffer.from(value).toString("base64") };
  if (Array.isArray(value)) return value.map(pack);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, pack(item)]));
}

function unpack(value) {
  if (Array.isArray(value)) return value.map(unpack);
  if (value === null || typeof value !== "object") return value;
  if (typeof value.$binary === "string") return Buffer.from(value.$binary, "base64");
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, unpack(item)]));
}

function report(line) {
  process.stdout.write(JSON.stringify(line) + "\n");
}

function watch(client, socket) {
  const see = (seen, more) => report({ client, seen, ...more });
  socket.on("connect", () => {
    const { engine } = socket.io;
    see("connect", {
      sid: socket.id,
      recovered: Boolean(socket.recovered),
      pid: socket._pid,
      transport: engine.transport.name,
    });
    if (engine.transport.name === "polling") {
      engine.once("upgrade", (transport) => see("upgrade", { transport: transport.name }));
    }
  });
  socket.on("disconnect", (reason) => see("disconnect", { reason }));
  socket.on("connect_error", (error) => see("connect_error", { message: error.message, data: error.data }));
  socket.onAny((name, ...args) => {
    const answer = typeof args.at(-1) === "function" ? args.pop() : undefined;
    see("event", { name, args: pack(args), asks: answer !== undefined });
    if (answer) answer(`answer to ${name}`);
  });
}

// Emits numbered events as fast as the acknowledgements allow, `window` of them on the way at a time,
// over all reconnections. What was on the way when the transport broke is never sent again, so every
// number is published at most once.
function pump(client, socket, { event, message, window }) {
  let number = 0;
  let onTheWay = 0;
  let stopped = false;
  const fill = () => {
    while (!stopped && socket.connected && onTheWay < window) {
      const mine = ++number;
      onTheWay++;
      socket.emit(event, { ...message, data: { number: mine } }, (offset) => {
        report({ client, seen: "acknowledged", number: mine, offset: offset ?? null });
        onTheWay--;
        fill();
      });
    }
  };
  socket.on("disconnect", () => (onTheWay = 0));
  socket.on("connect", fill);
  fill();
  return () => (stopped = true);
}

// Every host name leads to this address.
function leadsTo(address) {
  const found = { address, family: 4 };
  return { lookup: (_, { all }, done) => (all ? done(null, [found]) : done(null, address, 4)) };
}

const commands = {
  create({ client, url, namespace, options, beside }) {
    const { parser, agent, address, tokens, ...plain } = unpack(options);
    if (tokens) plain.auth = (send) => send({ token: tokens.length > 1 ? tokens.shift() : tokens[0] });
    if (parser === "msgpack") plain.parser = load("socket.io-msgpack-parser");
    if (agent) plain.agent = new (require(agent).Agent)({ keepAlive: true, ...(address && leadsTo(address)) });
    const socket =
      beside === undefined
        ? io(url + namespace, { forceNew: true, autoConnect: false, ...plain })
        : sockets.get(beside).io.socket(namespace, plain);
    sockets.set(client, socket);
    watch(client, socket);
    socket.connect();
  },
  connect: ({ client }) => void sockets.get(client).connect(),
  disconnect: ({ client }) => void sockets.get(client).disconnect(),
  auth: ({ client, auth }) => void (sockets.get(client).auth = auth),
  emit: ({ client, name, args }) => void sockets.get(client).emit(name, ...unpack(args)),
  call: async ({ client, name, args }) => pack(await sockets.get(client).emitWithAck(name, ...unpack(args))),
  offset: ({ client }) => sockets.get(client)._lastOffset,
  // A clean end of the transport: the engine says goodbye, Socket.IO does not.
  close: ({ client }) => void sockets.get(client).io.engine.close(),
  // An end without any goodbye.
  cut({ client }) {
    const { engine } = sockets.get(client).io;
    if (engine.transport.ws) {
      engine.transport.ws.terminate();
    } else {
      engine.transport.write = () => {};
      engine.transport.pollXhr?.abort();
      engine.close();
    }
  },
  pump: ({ client, ...what }) => void pumps.set(client, pump(client, sockets.get(client), what)),
  stop: ({ client }) => void pumps.get(client)(),
};

const input = readline.createInterface({ input: process.stdin });
input.on("line", async (line) => {
  const { id, command, ...rest } = JSON.parse(line);
  try {
    report({ reply: id, result: (await commands[command](rest)) ?? null });
  } catch (error) {
    report({ reply: id, error: String(error) });
  }
});
// Python is gone or has finished: leave without goodbyes, which would end sessions.
input.on("close", () => process.exit(0));
