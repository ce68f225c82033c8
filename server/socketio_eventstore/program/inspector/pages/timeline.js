// The picture of a session: connected and away as bars, rooms as lanes, events as ticks.

import { h, s, setText } from "./dom.js";
import { plural, room, time } from "./format.js";
import { LEAST_SECONDS, model } from "./timeline-model.js";

const LANE = 30;
const TOP = 26;
const STEPS = [0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 86400, 7 * 86400];
const WORDS = { received: "confirmed", sent: "sent", missed: "missed" };

/** Draws the picture; `choose(event)` is called for an event that somebody chooses. */
export function timeline(session, choose) {
  const shown = model(session);
  const range = { from: shown.begin, to: shown.end };
  const full = shown.end - shown.begin;
  range.from -= full * 0.01;
  range.to += full * 0.01;
  const limits = { ...range };
  let width = 0;
  let selected = -1;

  const said = h("p", { class: "said soft", role: "status" }, "Choose an event, or go through them with the arrow keys; + and − zoom.");
  const picture = h("div", {
    class: "picture",
    tabindex: 0,
    role: "group",
    "aria-label": summary(session, shown),
    onkeydown: key,
    onpointerdown: press,
    onclick: click,
    onwheel: wheel,
  });
  const buttons = [
    ["Zoom out", "−", () => zoom(2)],
    ["Zoom in", "+", () => zoom(0.5)],
    ["Show all", "All", () => move(limits.from, limits.to)],
  ].map(([label, text, onclick]) => h("button", { type: "button", class: "quiet", "aria-label": label, onclick }, text));
  const element = h(
    "section",
    { class: "timeline card" },
    h("header", {}, h("h2", {}, "Timeline"), h("div", { class: "zoom" }, buttons)),
    picture,
    legend(),
    said,
  );
  const observer = new ResizeObserver(([entry]) => {
    width = Math.floor(entry.contentRect.width);
    draw();
  });
  observer.observe(picture);

  const labelWidth = () => (width < 600 ? 84 : 150);
  const x = (at) => labelWidth() + ((at - range.from) / (range.to - range.from)) * (width - labelWidth() - 8);
  const inside = (at) => Math.min(width - 8, Math.max(labelWidth(), x(at)));

  function move(from, to) {
    const length = Math.min(Math.max(to - from, LEAST_SECONDS), limits.to - limits.from);
    range.from = Math.min(Math.max(from, limits.from), limits.to - length);
    range.to = range.from + length;
    draw();
  }

  function zoom(factor, centre = null) {
    const at = centre ?? (selected >= 0 ? shown.events[selected].time : (range.from + range.to) / 2);
    const left = (at - range.from) * factor;
    move(at - left, at - left + (range.to - range.from) * factor);
  }

  function draw() {
    if (width === 0) {
      return;
    }
    const { shown: rows, more } = shown.lanes;
    const height = TOP + LANE * (rows.length + 1) + (more > 0 ? 20 : 6);
    const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    svg.append(...axis(height), ...lane(0, "connection", connection()));
    rows.forEach((row, index) => svg.append(...lane(index + 1, row.name, [...stays(row), ...ticks(row)])));
    if (more > 0) {
      svg.append(s("text", { x: 0, y: height - 5, class: "label" }, `and ${plural(more, "more room", "more rooms")}`));
    }
    picture.replaceChildren(svg);
  }

  function axis(height) {
    const least = ((range.to - range.from) * 90) / Math.max(90, width - labelWidth());
    const step = STEPS.find((one) => one >= least) ?? STEPS.at(-1) * Math.ceil(least / STEPS.at(-1));
    const zone = new Date().getTimezoneOffset() * 60;
    const marks = [];
    for (let at = Math.ceil((range.from - zone) / step) * step + zone; at < range.to; at += step) {
      marks.push(
        s("line", { x1: x(at), x2: x(at), y1: TOP - 6, y2: height, class: "grid" }),
        s("text", { x: x(at) + 3, y: 12, class: "axis" }, tick(at, step)),
      );
    }
    return marks;
  }

  function lane(index, name, marks) {
    const y = TOP + index * LANE;
    const most = width < 600 ? 11 : 21;
    const label = s("text", { x: 0, y: y + 19, class: "label" }, name.length > most ? `${name.slice(0, most - 1)}…` : name);
    label.append(s("title", {}, name));
    const group = s("g", { transform: `translate(0 ${y})` }, marks);
    return [s("line", { x1: 0, x2: width, y1: y + LANE, y2: y + LANE, class: "grid" }), label, group];
  }

  function connection() {
    return shown.connection.filter(visible).map((bar) => {
      const box = s("rect", { x: inside(bar.from), y: 7, width: Math.max(2, inside(bar.to) - inside(bar.from)), height: 16, rx: 4, class: `bar ${bar.state}` });
      box.append(s("title", {}, `${bar.text} ${time(new Date(bar.from * 1000))}`));
      return box;
    });
  }

  const stays = (row) =>
    row.stays
      .filter(visible)
      .map((stay) => s("rect", { x: inside(stay.from), y: 11, width: Math.max(2, inside(stay.to) - inside(stay.from)), height: 8, rx: 4, class: "stay" }));

  function ticks(row) {
    return row.events
      .filter((event) => event.time >= range.from && event.time <= range.to)
      .map((event) => mark(event, shown.events[selected] === event));
  }

  function mark(event, isSelected) {
    const at = x(event.time);
    const classes = `event ${event.state}${isSelected ? " selected" : ""}`;
    return event.isReplayed
      ? s("path", { d: `M${at} 5l6 10l-6 10l-6-10z`, class: `${classes} replayed` })
      : s("rect", { x: at - 1.5, y: 5, width: 3, height: 20, rx: 1.5, class: classes });
  }

  const visible = ({ from, to }) => to >= range.from && from <= range.to;

  function select(index) {
    if (index < 0 || index >= shown.events.length) {
      return;
    }
    selected = index;
    const event = shown.events[index];
    if (event.time < range.from || event.time > range.to) {
      const half = (range.to - range.from) / 2;
      move(event.time - half, event.time + half);
    } else {
      draw();
    }
    const words = event.isReplayed ? `replayed, ${WORDS[event.state]}` : WORDS[event.state];
    const to = event.rooms === null ? "to everyone" : `to ${event.rooms.map(room).join(", ")}`;
    setText(said, `${event.event} ${to}, ${time(new Date(event.time * 1000), true)}: ${words}.`);
  }

  function key(event) {
    const actions = {
      ArrowRight: () => select(selected + 1),
      ArrowLeft: () => select(selected < 0 ? shown.events.length - 1 : selected - 1),
      Home: () => select(0),
      End: () => select(shown.events.length - 1),
      "+": () => zoom(0.5),
      "-": () => zoom(2),
      Enter: () => selected >= 0 && choose(shown.events[selected]),
    };
    if (event.key in actions) {
      event.preventDefault();
      actions[event.key]();
    }
  }

  function timeAt(event) {
    const place = event.clientX - picture.getBoundingClientRect().left - labelWidth();
    return range.from + (place / (width - labelWidth() - 8)) * (range.to - range.from);
  }

  /** Chooses the nearest event of a click, on its lane. */
  function click(event) {
    if (wasDragged) {
      return;
    }
    const row = Math.floor((event.clientY - picture.getBoundingClientRect().top - TOP) / LANE) - 1;
    const at = timeAt(event);
    const near = (range.to - range.from) * (12 / width);
    const candidates = (shown.lanes.shown[row]?.events ?? []).filter((one) => Math.abs(one.time - at) <= near);
    candidates.sort((a, b) => Math.abs(a.time - at) - Math.abs(b.time - at));
    if (candidates.length > 0) {
      select(shown.events.indexOf(candidates[0]));
      choose(candidates[0]);
    }
  }

  let wasDragged = false;

  function press(down) {
    const before = { ...range };
    wasDragged = false;
    const drag = (event) => {
      const moved = ((down.clientX - event.clientX) / (width - labelWidth())) * (before.to - before.from);
      if (Math.abs(down.clientX - event.clientX) > 4) {
        wasDragged = true;
        move(before.from + moved, before.to + moved);
      }
    };
    const release = () => {
      removeEventListener("pointermove", drag);
      removeEventListener("pointerup", release);
      removeEventListener("pointercancel", release);
    };
    addEventListener("pointermove", drag);
    addEventListener("pointerup", release);
    addEventListener("pointercancel", release);
  }

  function wheel(event) {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      zoom(event.deltaY > 0 ? 1.25 : 0.8, timeAt(event));
    }
  }

  return { element, close: () => observer.disconnect() };
}

function tick(at, step) {
  const date = new Date(at * 1000);
  if (step < 1) {
    return time(date, true);
  }
  return step < 60 ? time(date) : time(date).replace(/:\d\d$/, "");
}

function legend() {
  const parts = [
    ["bar connected", "connected"],
    ["bar away", "away"],
    ["event received", "confirmed"],
    ["event sent", "sent"],
    ["event missed", "missed"],
    ["event received replayed", "replayed"],
  ];
  return h(
    "ul",
    { class: "legend" },
    parts.map(([name, text]) => h("li", {}, h("i", { class: `sample ${name}` }), text)),
  );
}

function summary(session, { entries, events, connection }) {
  const away = connection.filter((bar) => bar.state === "away").length;
  const replayed = events.filter((event) => event.isReplayed).length;
  const missed = events.filter((event) => event.state === "missed").length;
  return (
    `The timeline of session ${session.sid}: ${plural(entries.length, "entry", "entries")}, away ${plural(away, "time")}, ` +
    `${plural(events.length, "event")}, ${replayed} replayed, ${missed} missed.`
  );
}
