// One event: its payload, and the sessions that have it or still miss it.

import { asker, get } from "./api.js";
import { h, setText } from "./dom.js";
import { count, duration, plural, room, time } from "./format.js";
import { jsonView } from "./json-view.js";
import { sessionHash } from "./session.js";

const PAGE = 100;
export const RECEIPTS = {
  missed: ["still miss it", "The client is away, or its replay has not reached the event."],
  sent: ["were sent it", "Written to the connected client; its next heartbeat confirms the event."],
  confirmed: ["have confirmed it", "A heartbeat or an offset of the client has shown that the event arrived."],
};

/** Shows an event in an element; the offset is enough. Returns when it is there. */
export async function showEvent(pane, offset, close, signal) {
  const path = `/events/${encodeURIComponent(offset)}/recipients`;
  const back = h("button", { class: "quiet close", type: "button", onclick: close }, "Close");
  pane.replaceChildren(h("p", { class: "notice", role: "status" }, "Loading…"), back);
  let found;
  try {
    found = await get(path, { limit: PAGE }, signal);
  } catch (error) {
    if (error.name !== "AbortError") {
      pane.replaceChildren(h("p", { class: "notice error", role: "alert" }, error.message), back);
    }
    return;
  }
  const { event } = found;
  pane.replaceChildren(
    h("header", {}, h("h2", { class: "mono" }, event.event), back),
    facts(event),
    h("h3", {}, event.args.length === 1 ? "Argument" : "Arguments"),
    jsonView(event.args),
    recipients(path, found, signal),
  );
}

function facts(event) {
  const rooms = event.rooms === null ? "the whole namespace" : event.rooms.map(room).join(", ");
  const rows = [
    ["Emitted", new Date(event.emitted_at).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" })],
    ["Namespace", event.namespace],
    ["Rooms", rooms],
    ["Offset", event.offset],
  ];
  if (event.skip.length) {
    rows.push(["Skipped", event.skip.join(", ")]);
  }
  return h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function recipients(path, found, signal) {
  const total = found.confirmed + found.sent + found.missed;
  const list = h("ul", { class: "recipients" });
  const more = h("button", { class: "quiet", type: "button" }, "Show more");
  const buttons = Object.entries(RECEIPTS).map(([name, [words, meaning]]) =>
    h(
      "button",
      { class: `receipt ${name}`, type: "button", title: meaning, "aria-pressed": "false", onclick: () => choose(name) },
      h("b", { class: "number" }, count(found[name])),
      ` ${words}`,
    ),
  );
  const bar = h("div", { class: "shares", "aria-hidden": "true" }, Object.keys(RECEIPTS).map((name) => share(name, found[name], total)));
  let receipt = null;
  let next = found.next;
  let isFirst = false;
  const problem = h("p", { class: "error", role: "alert" });
  const ask = asker(signal, show, (text) => setText(problem, text));

  function show(page) {
    if (isFirst) {
      list.replaceChildren();
    }
    isFirst = false;
    list.append(...page.recipients.map((one) => recipientRow(one, found.event.offset)));
    next = page.next;
    more.hidden = next === null;
  }

  function choose(name) {
    receipt = receipt === name ? null : name;
    buttons.forEach((button) => button.setAttribute("aria-pressed", button.classList.contains(receipt)));
    next = null;
    isFirst = true;
    ask(path, { limit: PAGE, receipt });
  }

  more.addEventListener("click", () => ask(path, { limit: PAGE, receipt, cursor: next }));
  show(found);
  return h(
    "section",
    {},
    h("h3", {}, total === 0 ? "No session that is open or away is a recipient" : plural(total, "recipient")),
    bar,
    h("div", { class: "receipts" }, buttons),
    h(
      "p",
      { class: "soft small" },
      "Derived from memberships and confirmed positions. Sessions that have ended are left out, and those that " +
        "have confirmed the event and left its rooms.",
    ),
    list,
    problem,
    more,
  );
}

function share(name, number, total) {
  const element = h("i", { class: name });
  element.style.flexGrow = total === 0 ? 0 : number / total;
  return element;
}

function recipientRow(one, offset) {
  const state = one.state === "away" ? `away, ${duration(one.remaining_seconds ?? 0)} left` : one.state;
  return h(
    "li",
    {},
    h("span", { class: `dot ${one.receipt}`, title: RECEIPTS[one.receipt][1] }),
    h("a", { class: "mono", href: sessionHash(one.namespace, one.sid, offset) }, one.sid),
    h("span", {}, one.identity ?? ""),
    h("span", { class: "soft" }, `${one.receipt}, ${state}`),
  );
}

export const eventTime = (event) => time(new Date(event.emitted_at), true);
