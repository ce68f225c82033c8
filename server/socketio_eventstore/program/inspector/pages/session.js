// Session: why its client misses something, the picture of its timeline, and the same in words.

import { asker, get, sessionPath } from "./api.js";
import { h, setText } from "./dom.js";
import { duration, plural, room, time } from "./format.js";
import { timeline } from "./timeline.js";
import { absenceOf, answers, explain } from "./why.js";

const LIMIT = 500;

export const sessionHash = (namespace, sid, offset = "") =>
  `#/session/${encodeURIComponent(namespace)}/${encodeURIComponent(sid)}${offset ? `?event=${encodeURIComponent(offset)}` : ""}`;

export function sessionView(main, query, [namespace = "/", sid = ""]) {
  const asking = new AbortController();
  const again = h("button", { class: "quiet", type: "button", onclick: () => load() }, "Refresh");
  const content = h("div", { class: "session" }, h("p", { class: "notice", role: "status" }, "Loading…"));
  let picture = null;
  main.append(h("header", { class: "title" }, h("h1", {}, "Session ", h("code", {}, sid)), again), content);

  async function load(offset = query.get("event") ?? "") {
    let session;
    try {
      session = await get(sessionPath(namespace, sid), { limit: LIMIT }, asking.signal);
    } catch (error) {
      if (error.name !== "AbortError") {
        content.replaceChildren(h("p", { class: "notice error", role: "alert" }, error.message));
      }
      return;
    }
    const question = why(session, asking.signal);
    picture?.close();
    picture = timeline(session, (event) => question.ask(event.offset));
    content.replaceChildren(
      question.element,
      picture.element,
      h("div", { class: "columns" }, facts(session), words(session), events(session, question.ask, asking.signal)),
    );
    if (offset) {
      question.ask(offset);
    }
  }

  load();
  return {
    update(changed) {
      load(changed.get("event") ?? "");
    },
    close() {
      asking.abort();
      picture?.close();
    },
  };
}

/** Texts, and links to other sessions. */
const linked = (parts) =>
  parts.map((part) => (typeof part === "string" ? part : h("a", { class: "mono", href: sessionHash(part.namespace, part.sid) }, part.sid)));

function why(session, signal) {
  const input = h("input", { placeholder: "the offset of an event", spellcheck: "false", autocomplete: "off", "aria-label": "The offset of an event" });
  const answer = h("p", { class: "answer", role: "status" });
  const form = h(
    "form",
    {
      onsubmit(event) {
        event.preventDefault();
        ask(input.value.trim());
      },
    },
    input,
    h("button", { class: "quiet" }, "Explain this event"),
  );
  const element = h(
    "section",
    { class: `why card ${session.state}` },
    h("h2", {}, "Why did this client miss something?"),
    h("ul", {}, answers(session).map((parts) => h("li", {}, linked(parts)))),
    form,
    answer,
  );

  const askServer = asker(signal, show, (text) => answer.replaceChildren(h("span", { class: "error" }, text)));

  function ask(offset) {
    input.value = offset;
    if (offset) {
      askServer(`/events/${encodeURIComponent(offset)}/recipients`, { limit: 1 });
    } else {
      answer.replaceChildren();
    }
  }

  function show({ event }) {
    const link = h("a", { href: `#/log?at=${encodeURIComponent(event.offset)}` }, event.event);
    answer.replaceChildren(link, ` at ${time(new Date(event.emitted_at))}: `, ...linked(explain(session, event)));
  }

  return { element, ask };
}

function facts(session) {
  const rows = [
    ["State", session.state],
    ["Identity", session.identity ?? "none"],
    ["Namespace", session.namespace],
    ["Rooms", session.joined.map(room).join(", ") || "none"],
    ["Has confirmed", session.confirmed_offset ?? "nothing is stored"],
    ["Not confirmed", `${plural(session.missed, "event")}${session.is_missed_complete ? "" : " and more"}`],
  ];
  if (session.connected_at) {
    rows.push(["Connected", `${time(new Date(session.connected_at))}, ${session.is_recovered ? "recovered" : "as a new session"}`]);
  }
  if (session.remaining_seconds !== null) {
    rows.push(["Away", `${duration(session.away_seconds)}, may come back for ${duration(session.remaining_seconds)}`]);
  }
  return h(
    "section",
    { class: "card" },
    h("h2", {}, "What it is"),
    h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
  );
}

function words(session) {
  const rows = session.timeline.toReversed().map((entry) =>
    h("li", { class: entry.kind }, h("time", { class: "number", datetime: entry.at }, time(new Date(entry.at), true)), h("span", {}, entry.text)),
  );
  const none = "There is no history: [store] session_history is off, or it was deleted.";
  return h(
    "section",
    { class: "card" },
    h("h2", {}, "What happened, the newest first"),
    rows.length ? h("ol", { class: "happened" }, rows) : h("p", { class: "notice" }, none),
  );
}

function events(session, choose, signal) {
  const list = h("ol", { class: "happened" });
  let older = session.events_older;
  const more = h("button", { class: "quiet", type: "button", hidden: older === null, onclick: askMore }, "Show earlier events");

  const problem = h("p", { class: "error", role: "alert" });
  const ask = asker(signal, showPage, (text) => setText(problem, text));

  function showPage(page) {
    older = page.events_older;
    more.hidden = older === null;
    show(page.events);
  }

  function show(found) {
    list.append(...found.toReversed().map((event) => eventRow(session, event, choose)));
  }

  function askMore() {
    ask(sessionPath(session.namespace, session.sid), { limit: LIMIT, before: older });
  }

  show(session.events);
  return h(
    "section",
    { class: "card" },
    h("h2", {}, "Events for it, the newest first"),
    h("p", { class: "soft small" }, "Derived from its rooms and the log."),
    session.events.length ? list : h("p", { class: "notice" }, "None."),
    problem,
    more,
  );
}

function eventRow(session, event, ask) {
  const isReplayed = event.state !== "missed" && absenceOf(session, event.offset)?.until?.kind === "recovered";
  const dot = { received: "confirmed", sent: "sent", missed: "missed" }[event.state];
  return h(
    "li",
    {},
    h("time", { class: "number", datetime: event.emitted_at }, time(new Date(event.emitted_at), true)),
    h("button", { class: "link", type: "button", onclick: () => ask(event.offset) }, event.event),
    h("span", { class: "soft" }, h("i", { class: `dot ${dot}` }), isReplayed ? `replayed, ${dot}` : dot),
  );
}
