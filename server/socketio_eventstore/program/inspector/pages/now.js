// Now: the state in words, figures, and charts of the last minutes.

import { sessionHash } from "./session.js";
import { chart } from "./chart.js";
import { h, setText } from "./dom.js";
import { amount, bytes, count, duration, milliseconds } from "./format.js";
import { RESULTS, health } from "./health.js";
import { isConnected, kept, live } from "./live.js";
import { columns, commitQuantile, growth, perSecond, recent } from "./rates.js";

const HEADLINES = {
  connecting: "Waiting for the first figures",
  good: "Everything is healthy",
  warn: "Something needs attention",
  bad: "The server is not healthy",
};

export function nowView(main) {
  const words = h("section", { class: "health card", role: "status", "data-state": "connecting" });
  const headline = h("h1", {}, HEADLINES.connecting);
  const issues = h("ul");
  words.append(headline, issues);
  const tiles = makeTiles();
  const charts = makeCharts();
  const away = makeAway();
  const results = makeTable("Reconnections since the start", "Result", "Clients");
  const namespaces = makeTable("Connected clients by namespace", "Namespace", "Clients");
  main.append(
    words,
    h("dl", { class: "tiles" }, tiles.map((tile) => tile.element)),
    h("div", { class: "charts" }, charts.map((one) => one.element)),
    h("div", { class: "tables" }, away.element, results.element, namespaces.element),
  );

  function showWords() {
    const found = isConnected() || kept.length ? health(kept) : { state: "connecting", issues: [] };
    const isAway = !isConnected() && kept.length > 0;
    words.dataset.state = isAway ? "bad" : found.state;
    setText(headline, isAway ? "No connection to the server" : HEADLINES[found.state]);
    const texts = isAway ? [{ level: "bad", text: "What is shown is as it was. The page tries again." }] : found.issues;
    if ([...issues.children].map((one) => one.textContent).join() !== texts.map((one) => one.text).join()) {
      issues.replaceChildren(...texts.map((one) => h("li", { class: one.level }, one.text)));
    }
  }

  function show() {
    showWords();
    const last = kept.at(-1);
    if (!last) {
      return;
    }
    for (const one of [...tiles, ...charts]) {
      one.update(last);
    }
    if (last.away) {
      away.update(last);
    }
    results.update(Object.entries(last.recoveries), (name) => RESULTS[name] ?? name);
    namespaces.update(Object.entries(last.namespaces));
  }

  const types = ["connected", "disconnected", "history", "figures"];
  types.forEach((type) => live.addEventListener(type, show));
  show();
  return {
    close() {
      types.forEach((type) => live.removeEventListener(type, show));
      charts.forEach((one) => one.close());
    },
  };
}

function makeTiles() {
  const rate = (sum) => () => {
    const figures = recent(kept, 5);
    return figures.length < 2 ? "–" : amount(growth(figures, sum) / (figures.at(-1).at - figures[0].at));
  };
  const p99 = () => {
    const figures = recent(kept, 60);
    const found = figures.length < 2 ? null : commitQuantile(figures[0], figures.at(-1), 0.99);
    return found === null ? "–" : milliseconds(found);
  };
  const used = (last) => (last.maxBytes ? `of ${bytes(last.maxBytes)}` : "nothing is stored");
  return [
    tile("Clients", (last) => count(last.sessions.connected), (last) => `${count(last.connections)} connections`),
    tile("Away", (last) => count(last.sessions.away), () => "may still come back"),
    tile("Events", rate((one) => one.stored + one.unstored), () => "each second"),
    tile("Deliveries", rate((one) => one.delivered + one.replayed), () => "each second"),
    tile("Commit p99", p99, () => "in the last minute"),
    tile("Log", (last) => bytes(last.usedBytes), (last) => `${count(last.events)} events, ${used(last)}`),
  ];
}

function tile(name, value, note) {
  const number = h("dd", { class: "number" }, "–");
  const below = h("dd", { class: "soft number" }, "\u00a0");
  return {
    element: h("div", { class: "card" }, h("dt", {}, name), number, below),
    update(last) {
      setText(number, value(last));
      setText(below, note(last));
    },
  };
}

/** A number at an axis of whole things. */
const whole = (value) => (Number.isInteger(value) ? count(value) : "");

function makeCharts() {
  const after = (read) => (_, figures) => read(figures);
  const quantile = (share) => (before, figures) => commitQuantile(before, figures, share);
  const others = (one) => Object.entries(one.recoveries).reduce((sum, [name, number]) => sum + (name === "recovered" ? 0 : number), 0);
  return [
    drawn({
      title: "Clients",
      format: count,
      formatTick: whole,
      series: [{ label: "connected", colour: "--accent", of: after((one) => one.sessions.connected) }],
    }),
    drawn({
      title: "Sessions away",
      format: count,
      formatTick: whole,
      series: [{ label: "may come back", colour: "--warn", of: after((one) => one.sessions.away) }],
    }),
    drawn({
      title: "Events each second",
      format: amount,
      series: [
        { label: "stored", colour: "--accent", of: perSecond((one) => one.stored) },
        { label: "not stored", colour: "--violet", of: perSecond((one) => one.unstored) },
        { label: "from clients", colour: "--good", of: perSecond((one) => one.received) },
      ],
    }),
    drawn({
      title: "Deliveries each second",
      format: amount,
      series: [
        { label: "live", colour: "--accent", of: perSecond((one) => one.delivered) },
        { label: "replayed", colour: "--violet", of: perSecond((one) => one.replayed) },
      ],
    }),
    drawn({
      title: "Commit latency",
      format: milliseconds,
      formatTick: (seconds) => `${amount(seconds * 1000)} ms`,
      series: [
        { label: "p99", colour: "--warn", of: quantile(0.99) },
        { label: "median", colour: "--accent", of: quantile(0.5) },
      ],
    }),
    drawn({
      title: "Reconnections each second",
      format: amount,
      series: [
        { label: "recovered", colour: "--good", of: perSecond((one) => one.recoveries.recovered ?? 0) },
        { label: "new session", colour: "--bad", of: perSecond(others) },
      ],
    }),
  ];
}

function drawn(options) {
  const made = chart(options);
  const update = () => made.show(columns(kept, ...options.series.map((one) => one.of)));
  return { ...made, update };
}

function makeAway() {
  const body = h("tbody");
  const none = h("p", { class: "notice" }, "No session is away.");
  const element = h(
    "section",
    { class: "card away" },
    h("h2", {}, "Away, the soonest to expire"),
    none,
    h(
      "div",
      { class: "scroll" },
      h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "Session"), h("th", {}, "Away for"), h("th", {}, "Remaining"))), body),
    ),
  );
  return {
    element,
    update(last) {
      none.hidden = last.away.length > 0;
      body.parentElement.hidden = last.away.length === 0;
      body.replaceChildren(...last.away.map(awayRow));
    },
  };
}

function awayRow(one) {
  const meter = h("meter", { min: 0, max: Math.max(1, one.away + one.remaining), value: one.remaining, "aria-hidden": "true" });
  const link = h("a", { class: "mono", href: sessionHash(one.namespace, one.sid) }, one.sid);
  return h(
    "tr",
    {},
    h("td", {}, link, one.identity ? h("span", { class: "soft" }, ` ${one.identity}`) : null),
    h("td", { class: "number" }, duration(one.away)),
    h("td", { class: "number" }, duration(one.remaining), meter),
  );
}

function makeTable(title, ...heads) {
  const body = h("tbody");
  const none = h("p", { class: "notice" }, "None yet.");
  const element = h(
    "section",
    { class: "card" },
    h("h2", {}, title),
    h("table", {}, h("thead", {}, h("tr", {}, heads.map((head) => h("th", {}, head)))), body),
    none,
  );
  return {
    element,
    update(rows, named = (name) => name) {
      none.hidden = rows.length > 0;
      body.replaceChildren(
        ...rows.map(([name, number]) => h("tr", {}, h("td", {}, named(name)), h("td", { class: "number" }, count(number)))),
      );
    },
  };
}
