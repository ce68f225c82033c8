// Why a client has an event, or misses it: from its timeline and the memberships, in words.

import { count, duration, plural, room, time } from "./format.js";

/** The most answers of one kind, the newest ones. */
const MOST = 5;

/** The number in an offset; events have ascending numbers. */
export const numberOf = (offset) => Number(offset?.split(".").at(-1) ?? 0);

const at = (entry) => time(new Date(entry.at));
const because = (entry) => entry.text.replace(/^[^:]*: /, "").replace(/\.$/, "");
const reasonOf = (entry) => (entry.reason ? ` (${entry.reason})` : "");
const of = (session, ...kinds) => session.timeline.filter((entry) => kinds.includes(entry.kind));
const sidLink = (session, sid) => ({ sid, namespace: session.namespace });

/**
 * Answers "Why did this client miss something?" without a certain event. Each answer is a list of texts and of
 * links to other sessions, `{ sid, namespace }`.
 */
export function answers(session) {
  if (session.confirmed_offset === null) {
    return [["Nothing is stored: without connection state recovery a client misses what is sent while it is away."]];
  }
  return [...beginning(session), ...present(session), ...gaps(session), ...rooms(session)];
}

function* beginning(session) {
  const [opened] = of(session, "opened");
  if (opened?.reason) {
    const former = opened.sid ? ["session ", sidLink(session, opened.sid)] : ["its former session"];
    yield [
      `The client came back at ${at(opened)} and did not get `,
      ...former,
      `: ${because(opened)}. What it missed before belongs to that session, and was not sent.`,
    ];
  }
  if (!session.is_timeline_complete) {
    yield ["The beginning of the history is not there any more."];
  }
}

function* present(session) {
  const waiting = `${session.is_missed_complete ? "" : "At least "}${plural(session.missed, "event")}`;
  const last = of(session, "away").at(-1);
  if (session.state === "ended") {
    yield* afterEnd(session, waiting);
  } else if (session.state === "away") {
    const since = last ? `since ${at(last)} (${because(last)})` : `for ${duration(session.away_seconds ?? 0)}`;
    yield [`The client has been away ${since}. ${waiting} ${session.missed === 1 ? "waits" : "wait"} for it.`];
    yield [`If it comes back within ${duration(session.remaining_seconds ?? 0)}, it gets them, each once. After that the session expires.`];
  } else if (session.missed > 0) {
    yield [`The client is connected. ${waiting} ${session.missed === 1 ? "is" : "are"} not confirmed yet: its next heartbeat does that.`];
  } else {
    yield ["The client is connected, and has confirmed every event that was for it."];
  }
}

function* afterEnd(session, waiting) {
  const [ended, replaced] = [of(session, "ended").at(-1), of(session, "replaced").at(-1)];
  if (ended) {
    yield [`The session is over since ${at(ended)}: ${because(ended)}.`];
  }
  if (replaced) {
    yield [`The client came back at ${at(replaced)} and got `, ...(replaced.sid ? ["session ", sidLink(session, replaced.sid)] : ["a new session"]), `: ${because(replaced)}.`];
  }
  yield [session.missed > 0 ? `${waiting} had not been confirmed by then.` : "It had confirmed every event that was for it."];
}

function* gaps(session) {
  for (const refused of of(session, "refused").slice(-MOST)) {
    yield [`A client came for the session at ${at(refused)} and did not get it: ${because(refused)}.`];
  }
  const recovered = of(session, "recovered");
  if (recovered.length > 0) {
    const missed = recovered.reduce((sum, entry) => sum + (entry.missed ?? 0), 0);
    yield [`It came back and recovered ${recovered.length === 1 ? "once" : `${count(recovered.length)} times`}, and was sent the ${plural(missed, "missed event")}.`];
  }
}

function* rooms(session) {
  for (const left of of(session, "left").slice(-MOST)) {
    yield [`It left the room ${room(left.room)} at ${at(left)}${reasonOf(left)}: later events there are not for it.`];
  }
}

/** The ranges of numbers in which the session was in a room: [after, through, the entry of the join or leave]. */
export function stays(session, name) {
  const found = [];
  let joined = null;
  for (const entry of session.timeline) {
    if (entry.room !== name) {
      continue;
    }
    if (entry.kind === "joined") {
      joined = entry;
    } else if (entry.kind === "left") {
      found.push({ after: joined ? numberOf(joined.offset) : 0, through: numberOf(entry.offset), joined, left: entry });
      joined = null;
    }
  }
  const isMember = session.joined.includes(name);
  if (joined || (isMember && found.length === 0)) {
    found.push({ after: joined ? numberOf(joined.offset) : 0, through: Infinity, joined, left: null });
  }
  return found;
}

/** The entries between which the client was away: `from` and `until`, the latter null if it still is. */
export function absences(session) {
  const found = [];
  for (const entry of session.timeline) {
    if (entry.kind === "away" && (found.length === 0 || found.at(-1).until)) {
      found.push({ from: entry, until: null });
    } else if ((entry.kind === "recovered" || entry.kind === "ended") && found.length > 0) {
      found.at(-1).until ??= entry;
    }
  }
  return found;
}

/** The absence in which an event was emitted; undefined if the client was connected. */
export function absenceOf(session, offset) {
  const number = numberOf(offset);
  return absences(session).find(
    ({ from, until }) => numberOf(from.offset) < number && (until === null || number <= numberOf(until.offset)),
  );
}

/** Explains what happened to one event for the session; the answer is a list as in `answers`. */
export function explain(session, event) {
  const number = numberOf(event.offset);
  const [opened] = of(session, "opened");
  const ended = of(session, "ended").at(-1);
  if (event.namespace !== session.namespace) {
    return [`The event is of the namespace ${event.namespace}, and the session of ${session.namespace}.`];
  }
  if (event.skip.includes(session.sid)) {
    return ["The emit skipped this session (skip_sid)."];
  }
  if (opened && number <= numberOf(opened.offset)) {
    const instead = opened.reason && opened.sid ? [" It began instead of session ", sidLink(session, opened.sid), `: ${because(opened)}.`] : [];
    return [`The event is older than the session, which began at ${at(opened)}.`, ...instead];
  }
  if (ended && number > numberOf(ended.offset)) {
    return [`The session was over since ${at(ended)}: ${because(ended)}.`];
  }
  const how = addressed(session, event, number);
  return how.isFor ? [how.text, " ", ...outcome(session, event, number)] : [how.text];
}

function addressed(session, event, number) {
  if (event.rooms === null) {
    return { isFor: true, text: "The event was for the whole namespace." };
  }
  if (event.rooms.includes(session.sid)) {
    return { isFor: true, text: "The event was for this session alone." };
  }
  const near = [];
  for (const name of event.rooms) {
    for (const stay of stays(session, name)) {
      if (stay.after < number && number <= stay.through) {
        return { isFor: true, text: `The event was for the room ${room(name)}, which the session was in.` };
      }
      if (number <= stay.after && stay.joined) {
        near.push(`it joined ${room(name)} at ${at(stay.joined)}, after the event`);
      } else if (stay.left) {
        near.push(`it left ${room(name)} at ${at(stay.left)}${reasonOf(stay.left)}, before the event`);
      }
    }
  }
  const names = event.rooms.map(room).join(", ");
  const reason = near.length ? near.join("; ") : `it was not in ${event.rooms.length === 1 ? "it" : "any of them"}`;
  return { isFor: false, text: `The event was for the room ${names}, and not for this session: ${reason}.` };
}

function outcome(session, event, number) {
  const absence = absenceOf(session, event.offset);
  const replay = absence?.until?.kind === "recovered" ? absence.until : null;
  const replayed = replay ? `The client was away then, and was sent the event when it came back at ${at(replay)}.` : "";
  if (number <= numberOf(session.confirmed_offset)) {
    return [replayed || "It was sent at once.", " The client has it: a heartbeat or an offset has confirmed it."];
  }
  if (session.state === "ended") {
    const ended = of(session, "ended").at(-1);
    return [`The client had not confirmed it when the session ended${ended ? `: ${because(ended)}` : ""}.`];
  }
  if (session.state === "away") {
    const last = of(session, "away").at(-1);
    const since = last ? ` since ${at(last)} (${because(last)})` : "";
    const sent = absence === undefined ? "It was written to the connection." : replayed;
    const unconfirmed = sent ? `${sent} The client has not confirmed it, and is away` : "The client is away";
    return [`${unconfirmed}${since}. The event waits for it, for another ${duration(session.remaining_seconds ?? 0)}.`];
  }
  return [replayed || "It was written to the connection.", " The next heartbeat confirms it."];
}
