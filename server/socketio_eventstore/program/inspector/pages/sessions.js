// Sessions: all that are connected or away, with filters.

import { get } from "./api.js";
import { h, setText } from "./dom.js";
import { NAMESPACE, filters, remember } from "./filters.js";
import { count, duration, plural, time } from "./format.js";
import { kept, live } from "./live.js";
import { sessionHash } from "./session.js";
import { VirtualList } from "./virtual-list.js";

const PAGE = 200;
const FIELDS = [
  { name: "state", label: "State", options: { "": "any", connected: "connected", away: "away", connecting: "connecting" } },
  { name: "room", label: "Room or sid", placeholder: "any" },
  { name: "identity", label: "Identity", placeholder: "any" },
  NAMESPACE,
];

export function sessionsView(main, query) {
  const form = filters("Filter the sessions", FIELDS, () => reload());
  const status = h("p", { class: "soft number", role: "status" });
  const list = new VirtualList({ label: "Sessions", render, select, more });
  const again = h("button", { class: "quiet", type: "button", onclick: () => reload() }, "Refresh");
  const head = h(
    "div",
    { class: "row head", "aria-hidden": "true" },
    ["Session", "Identity", "State", "Rooms", "Since, or left"].map((name) => h("span", {}, name)),
  );
  main.append(
    h("h1", { class: "visually-hidden" }, "Sessions"),
    form.element,
    h("section", { class: "listing card" }, head, list.element),
    h("div", { class: "below" }, status, again),
  );
  let next = null;
  let loading = null;

  async function reload() {
    loading?.abort();
    remember("sessions", form.values());
    next = null;
    await load(true);
  }

  async function load(isFirst) {
    loading = new AbortController();
    const { signal } = loading;
    try {
      const page = await get("/sessions", { ...form.values(), cursor: next, limit: PAGE }, signal);
      next = page.next;
      loading = null;
      if (isFirst) {
        list.set(page.sessions, next === null);
      } else {
        list.append(page.sessions, next === null);
      }
      list.element.classList.toggle("empty", list.items.length === 0);
      showStatus();
    } catch (error) {
      if (error.name !== "AbortError") {
        loading = null;
        list.isComplete = true;
        setText(status, error.message);
      }
    }
  }

  function showStatus() {
    const sessions = kept.at(-1)?.sessions;
    const total = sessions ? Object.values(sessions).reduce((sum, one) => sum + one, 0) : 0;
    const of = sessions ? ` of ${plural(total, "session")} on this server` : "";
    setText(status, `${count(list.items.length)}${next === null ? "" : " loaded"}${of}`);
  }

  function more() {
    if (loading === null && next !== null) {
      load(false);
    }
  }

  function select(session, isChosen) {
    if (isChosen) {
      location.hash = sessionHash(session.namespace, session.sid);
    }
  }

  function update(changed) {
    form.set(changed);
    reload();
  }

  live.addEventListener("figures", showStatus);
  update(query);
  return {
    update,
    close() {
      loading?.abort();
      list.close();
      live.removeEventListener("figures", showStatus);
    },
  };
}

function render(session) {
  const since = session.connected_at
    ? time(new Date(session.connected_at))
    : session.remaining_seconds === null
      ? "–"
      : `${duration(session.remaining_seconds)} left`;
  const namespace = session.namespace === "/" ? null : h("span", { class: "soft" }, `${session.namespace} `);
  return [
    h("span", { class: "mono sid" }, namespace, session.sid),
    h("span", { class: "identity" }, session.identity ?? ""),
    h("span", { class: "where" }, h("i", { class: `dot ${session.state}` }), session.state),
    h("span", { class: "number many" }, count(session.rooms)),
    h("span", { class: "number since" }, since),
  ];
}
