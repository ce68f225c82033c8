// The handlers of the reference, on Node and on Bun; ../handlers.py has the same for Python.

const TEXT = "x".repeat(74); // makes the packet of an event 106 bytes long

/** Attach the handlers; `stored` resolves when what was emitted before has reached the log. */
export function register(io, stored) {
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
}

/** The `stored` of a server that keeps events in memory: the event loop gets its turn, nothing else is needed. */
export const storedInMemory = () => new Promise(setImmediate);
