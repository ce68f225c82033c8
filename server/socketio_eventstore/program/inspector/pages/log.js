// Log: the stored events, the newest at the top, with filters; one of them in detail.

import { get } from "./api.js";
import { h, setText } from "./dom.js";
import { eventTime, showEvent } from "./event-detail.js";
import { NAMESPACE, filters, remember } from "./filters.js";
import { count, plural, room } from "./format.js";
import { oneLine } from "./json-view.js";
import { kept, live } from "./live.js";
import { VirtualList } from "./virtual-list.js";
import { numberOf } from "./why.js";

const PAGE = 100;
const NEW_AT_ONCE = 100;
const ENOUGH = 30;
const MOST = 100_000;
const FIELDS = [
  { name: "text", label: "Text in the payload", type: "search", placeholder: "any" },
  { name: "event", label: "Event", placeholder: "any" },
  { name: "room", label: "Room or sid", placeholder: "any" },
  NAMESPACE,
  { name: "since", label: "From", type: "datetime-local" },
  { name: "until", label: "Until", type: "datetime-local" },
];

export function logView(main, query) {
  const form = filters("Filter the events", FIELDS, () => reload());
  const status = h("p", { class: "soft number", role: "status" });
  const fresh = h("button", { class: "fresh", type: "button", hidden: true, onclick: () => reload() }, "New events");
  const list = new VirtualList({ label: "Events, the newest first", render, select, more });
  const pane = h("aside", { class: "detail card", "aria-label": "Event", hidden: true });
  const head = h("div", { class: "row head", "aria-hidden": "true" }, ["Time", "Event", "Rooms", "Payload"].map((name) => h("span", {}, name)));
  const listing = h("section", { class: "listing card" }, head, fresh, list.element);
  main.append(h("h1", { class: "visually-hidden" }, "Log"), form.element, h("div", { class: "split" }, listing, pane), status);

  let shown = "";
  let loading = null;
  let detail = null;
  let older = null;
  let newer = null;
  let isFollowing = false;
  let isFailed = false;

  function wanted() {
    const { since, until, ...values } = form.values();
    const moment = (text) => (text && !Number.isNaN(Date.parse(text)) ? new Date(text).toISOString() : "");
    return { ...values, since: moment(since), until: moment(until) };
  }

  const isUnfiltered = () => Object.values(form.values()).every((value) => value === "");

  async function reload() {
    loading?.abort();
    loading = new AbortController();
    remember("log", { ...form.values(), at: shown });
    fresh.hidden = true;
    isFailed = false;
    older = newer = null;
    list.element.setAttribute("aria-busy", "true");
    await load(loading.signal, true);
  }

  /** Loads pages until there are enough events: a page of a rare event may be empty although there are more. */
  async function load(signal, isFirst = false) {
    let found = 0;
    try {
      do {
        const page = await get("/events", { ...wanted(), before: older, limit: PAGE }, signal);
        newer ??= page.newer;
        older = page.older;
        const events = page.events.reverse();
        const isComplete = older === null || list.items.length + events.length >= MOST;
        if (isFirst && found === 0) {
          list.set(events, true);
        } else {
          list.append(events, true);
        }
        found += events.length;
        list.isComplete = isComplete;
        showStatus();
      } while (found < ENOUGH && older !== null && !list.isComplete);
    } catch (error) {
      if (error.name === "AbortError") {
        return;
      }
      list.isComplete = true;
      isFailed = error.status === 0 || error.status >= 500; // another try may help
      setText(status, error.message);
    } finally {
      if (loading?.signal === signal) {
        loading = null;
        list.element.setAttribute("aria-busy", "false");
      }
    }
    markShown();
  }

  function showStatus() {
    const number = list.items.length;
    const looked = numberOf(newer) - numberOf(older);
    const rest = older === null ? "all that fit" : looked > number ? `looked at ${count(looked)} so far` : "there are more";
    setText(status, number >= MOST ? `${count(number)} events are shown. Narrow the filter to see older ones.` : `${plural(number, "event")}, ${rest}`);
    list.element.classList.toggle("empty", number === 0);
  }

  function more() {
    if (loading === null) {
      loading = new AbortController();
      load(loading.signal);
    }
  }

  /** Adds what is new at the top; where somebody reads, a button says so. */
  async function follow() {
    if (newer === null && loading === null && isFailed) {
      await reload();
      return;
    }
    const head = kept.at(-1)?.head;
    if (!head || newer === null || numberOf(head) <= numberOf(newer) || loading !== null || isFollowing) {
      return;
    }
    if (!list.isAtTop || shown || form.values().until) {
      fresh.hidden = Boolean(form.values().until);
      return;
    }
    isFollowing = true;
    const from = newer;
    try {
      if (isUnfiltered() && numberOf(head) - numberOf(newer) >= NEW_AT_ONCE) {
        await reload();
        return;
      }
      const page = await get("/events", { ...wanted(), after: from, limit: NEW_AT_ONCE });
      if (newer !== from || loading !== null) {
        return;
      }
      if (page.events.length >= NEW_AT_ONCE) {
        await reload();
        return;
      }
      newer = page.newer;
      list.prepend(page.events.reverse(), MOST);
      list.isComplete ||= list.items.length >= MOST;
      showStatus();
    } catch (error) {
      if (error.status === 410) {
        await reload();
      }
    } finally {
      isFollowing = false;
    }
  }

  function markShown() {
    if (shown) {
      list.mark((event) => event.offset === shown);
    }
  }

  function select(event) {
    open(event.offset);
  }

  function open(offset) {
    if (offset === shown) {
      return;
    }
    shown = offset;
    detail?.abort();
    detail = new AbortController();
    pane.hidden = !offset;
    main.classList.toggle("has-detail", Boolean(offset));
    remember("log", { ...form.values(), at: shown });
    if (offset) {
      showEvent(pane, offset, close, detail.signal);
    }
  }

  function close() {
    open("");
    list.selected = -1;
    list.redraw();
    list.element.focus();
  }

  function onkeydown(event) {
    if (event.key === "Escape" && shown) {
      close();
    }
  }

  function update(changed) {
    form.set(changed);
    open(changed.get("at") ?? "");
    reload();
  }

  main.addEventListener("keydown", onkeydown);
  live.addEventListener("figures", follow);
  update(query);
  return {
    update,
    close() {
      loading?.abort();
      detail?.abort();
      list.close();
      main.removeEventListener("keydown", onkeydown);
      live.removeEventListener("figures", follow);
    },
  };
}

function render(event) {
  const rooms = event.rooms === null ? h("span", { class: "soft" }, "all") : event.rooms.map((one) => h("span", { class: "chip" }, room(one)));
  const namespace = event.namespace === "/" ? null : h("span", { class: "soft" }, `${event.namespace} `);
  return [
    h("time", { class: "number", datetime: event.emitted_at }, eventTime(event)),
    h("b", {}, namespace, event.event),
    h("span", { class: "rooms" }, rooms),
    h("span", { class: "mono payload" }, oneLine(event.args)),
  ];
}
