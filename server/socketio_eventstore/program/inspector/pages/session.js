// Session: one session in words.

import { get, sessionPath } from "./api.js";
import { h } from "./dom.js";
import { duration, plural, room, time } from "./format.js";

export const sessionHash = (namespace, sid) => `#/session/${encodeURIComponent(namespace)}/${encodeURIComponent(sid)}`;

export function sessionView(main, query, [namespace = "/", sid = ""]) {
  const asking = new AbortController();
  const again = h("button", { class: "quiet", type: "button", onclick: () => load() }, "Refresh");
  const content = h("div", { class: "session" }, h("p", { class: "notice", role: "status" }, "Loading…"));
  main.append(
    h("header", { class: "title" }, h("h1", {}, "Session ", h("code", {}, sid)), again),
    content,
  );

  async function load() {
    try {
      content.replaceChildren(...parts(await get(sessionPath(namespace, sid), {}, asking.signal)));
    } catch (error) {
      if (error.name !== "AbortError") {
        content.replaceChildren(h("p", { class: "notice error", role: "alert" }, error.message));
      }
    }
  }

  load();
  return { close: () => asking.abort() };
}

function parts(session) {
  return [facts(session)];
}

function facts(session) {
  const missed = `${plural(session.missed, "event")}${session.is_missed_complete ? "" : " and more"}`;
  const rows = [
    ["State", session.state],
    ["Identity", session.identity ?? "none"],
    ["Namespace", session.namespace],
    ["Rooms", session.joined.map(room).join(", ") || "none"],
    ["Has confirmed", session.confirmed_offset ?? "nothing is stored"],
    ["Not confirmed", missed],
  ];
  if (session.connected_at) {
    rows.push(["Connected", `${time(new Date(session.connected_at))}, ${session.is_recovered ? "recovered" : "as a new session"}`]);
  }
  if (session.remaining_seconds !== null) {
    rows.push(["Away", `${duration(session.away_seconds)}, may come back for ${duration(session.remaining_seconds)}`]);
  }
  return h("dl", { class: "facts card" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}
