// What the picture of a session shows: bars, lanes and ticks with their times. It knows no size and no colour.

import { room } from "./format.js";
import { absenceOf } from "./why.js";

/** The shortest time that the picture shows. */
export const LEAST_SECONDS = 0.5;
const MOST_ROOMS = 14;
const EVERYONE = Symbol("everyone");
const ITSELF = Symbol("itself");

const seconds = (text) => Date.parse(text) / 1000;

/** What the picture shows, apart from its size. */
export function model(session) {
  const now = Date.now() / 1000;
  const entries = session.timeline.map((entry) => ({ ...entry, time: seconds(entry.at) }));
  const ended = entries.findLast((entry) => entry.kind === "ended");
  const events = session.events.map((event) => ({
    ...event,
    time: seconds(event.emitted_at),
    isReplayed: event.state !== "missed" && absenceOf(session, event.offset)?.until?.kind === "recovered",
  }));
  const begin = Math.min(entries[0]?.time ?? now - 60, events[0]?.time ?? now);
  const end = ended ? ended.time : now;
  return { entries, events, begin, end: Math.max(end, begin + LEAST_SECONDS), connection: bars(entries, end), lanes: lanes(session, entries, events, end) };
}

/** The bars of the connection: `{ from, to, state, text }`. */
function bars(entries, end) {
  const found = [];
  const begins = { opened: "connected", connected: "connecting", recovered: "connected", away: "away", refused: "away" };
  for (const entry of entries) {
    const state = begins[entry.kind];
    const last = found.at(-1);
    if (last && (state || entry.kind === "ended")) {
      last.to = entry.time;
    }
    const isFirstConnection = entry.kind === "connected" && last?.state === "connected";
    if (state) {
      found.push({ from: entry.time, to: end, state: isFirstConnection ? "connected" : state, text: entry.text });
    }
  }
  return found.filter((bar) => bar.to > bar.from);
}

/** The lanes: rooms by their first join, with the bars of memberships and the ticks of events. */
function lanes(session, entries, events, end) {
  const found = new Map();
  const lane = (key, name) => {
    if (!found.has(key)) {
      found.set(key, { key, name, stays: [], events: [] });
    }
    return found.get(key);
  };
  for (const entry of entries) {
    if (entry.kind === "joined") {
      lane(entry.room, room(entry.room)).stays.push({ from: entry.time, to: end });
    } else if (entry.kind === "left") {
      const { stays } = lane(entry.room, room(entry.room));
      const last = stays.at(-1);
      if (last) {
        last.to = entry.time;
      } else {
        stays.push({ from: entries[0].time, to: entry.time });
      }
    }
  }
  for (const name of session.joined) {
    if (!found.has(name)) {
      lane(name, room(name)).stays.push({ from: entries[0]?.time ?? end - 60, to: end });
    }
  }
  for (const event of events) {
    placeOf(event, session, found, lane).events.push(event);
  }
  const all = [...found.values()].sort((a, b) => (typeof b.key === "symbol") - (typeof a.key === "symbol"));
  return { shown: all.slice(0, MOST_ROOMS), more: all.length - MOST_ROOMS };
}

function placeOf(event, session, found, lane) {
  if (event.rooms === null) {
    return lane(EVERYONE, "everyone");
  }
  const name = event.rooms.find((one) => found.has(one));
  if (name !== undefined) {
    return found.get(name);
  }
  return event.rooms.includes(session.sid) ? lane(ITSELF, "this session") : lane(event.rooms[0], room(event.rooms[0]));
}
