// The live figures: one connection for all views, and only while the page is visible.

import { io } from "./socket.io.esm.min.js";

const KEPT = 301;
const path = new URL("./socket.io/", import.meta.url).pathname;

export const live = new EventTarget();

/** The figures of the last minutes, oldest first. */
export const kept = [];

let socket = null;
let isWanted = false;

export function start() {
  isWanted = true;
  socket ??= connect();
  if (!document.hidden) {
    socket.connect();
  }
}

export function stop() {
  isWanted = false;
  socket?.disconnect();
  kept.length = 0;
}

export const isConnected = () => socket?.connected ?? false;

function connect() {
  const made = io("/inspector", { path, autoConnect: false, transports: ["websocket", "polling"] });
  made.on("connect", () => tell("connected"));
  made.on("disconnect", (reason) => tell("disconnected", reason));
  made.on("connect_error", () => tell("disconnected", "refused"));
  made.on("history", (history) => {
    kept.splice(0, kept.length, ...history);
    tell("history");
  });
  made.on("figures", (figures) => {
    kept.push(figures);
    kept.splice(0, kept.length - KEPT);
    tell("figures", figures);
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      made.disconnect();
    } else if (isWanted) {
      made.connect();
    }
  });
  return made;
}

function tell(type, detail) {
  live.dispatchEvent(new CustomEvent(type, { detail }));
}
