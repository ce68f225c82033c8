// What is unhealthy, in words.

import { bytes, count, milliseconds, plural } from "./format.js";
import { commitQuantile, growth, growths, recent } from "./rates.js";

const SLOW_COMMIT_SECONDS = 0.1;
const ENOUGH_COMMITS = 100;
const MANY_WAITING = 5000;
const NEARLY = 0.9;

/** The results of reconnections, as the end of "a client got a new session: …". */
export const RESULTS = {
  recovered: "recovered",
  unknown_session: "unknown session",
  expired: "away for too long",
  bad_offset: "foreign offset",
  rolled_back: "offset of a future that was lost",
  too_many_missed: "too much missed",
  refused: "refused by the connect handler",
  auth_changed: "other credentials",
  poisoned: "an event that cannot be read",
  incomplete: "missed events were deleted",
};

const REFUSALS = {
  connections: "connections beyond the limit",
  pending_handshakes: "handshakes beyond the limit",
  connections_per_address: "connections of one address beyond its limit",
  handshakes_per_address: "handshakes of one address beyond its limit",
  events_per_second: "clients that sent too many events in a second",
  bytes_per_second: "clients that sent too many bytes in a second",
  sessions_per_identity: "sessions of an identity beyond its limit",
  namespaces_per_connection: "namespaces beyond the limit of a connection",
  token_missing: "clients without a token",
  token_invalid: "clients whose token is not valid",
  token_expired: "clients whose token has expired",
  token_namespace: "clients whose token is not for the namespace",
  rooms_per_session: "rooms beyond the limit of a session",
  max_size: "emits, since the log is full",
  queue_full: "operations, since too many wait for a commit",
  host: "requests for a foreign host",
  origin: "pages of a foreign origin",
  draining: "handshakes, since the server is stopping",
};

/** The state of the server: a word for the bar, and sentences, the worst first. */
export function health(kept) {
  const last = kept.at(-1);
  if (!last) {
    return { state: "connecting", short: "Waiting", issues: [] };
  }
  const minute = recent(kept, 60);
  const issues = [...bad(last, minute), ...warnings(last, minute)];
  if (issues.length === 0) {
    return { state: "good", short: "Healthy", issues };
  }
  const state = issues.some((issue) => issue.level === "bad") ? "bad" : "warn";
  return { state, short: state === "bad" ? "Unhealthy" : "Attention", issues };
}

function bad(last, minute) {
  const found = last.problems.map((problem) => `The server is not ready: ${problem.replace(/\.$/, "")}.`);
  const failed = growth(minute, (one) => one.failedCommits);
  if (failed) {
    found.push(`${plural(failed, "commit")} failed in the last minute.`);
  }
  return found.map((text) => ({ level: "bad", text }));
}

function warnings(last, minute) {
  const texts = [
    ...commits(last, minute),
    ...recoveries(minute),
    ...clients(last, minute),
    ...limits(last),
  ];
  for (const [reason, number] of Object.entries(growths(minute, "refused"))) {
    texts.push(`Refused in the last minute: ${REFUSALS[reason] ?? reason} (${count(number)}).`);
  }
  return texts.map((text) => ({ level: "warn", text }));
}

function* commits(last, minute) {
  const number = growth(minute, (one) => one.commits.reduce((sum, value) => sum + value, 0));
  const slowest = number >= ENOUGH_COMMITS ? commitQuantile(minute[0], minute.at(-1), 0.99) : null;
  if (slowest !== null && slowest > SLOW_COMMIT_SECONDS) {
    yield `Commits are slow: one of a hundred takes ${milliseconds(slowest)} or more. Is the disk busy?`;
  }
  if (last.waiting > MANY_WAITING) {
    yield `${count(last.waiting)} operations wait for their commit.`;
  }
}

function* recoveries(minute) {
  const { recovered, ...others } = growths(minute, "recoveries");
  const reasons = Object.entries(others).map(([result, number]) => `${RESULTS[result] ?? result} (${count(number)})`);
  const number = Object.values(others).reduce((sum, one) => sum + one, 0);
  if (number) {
    yield `${plural(number, "client")} came back in the last minute and got a new session: ${reasons.join(", ")}.`;
  }
}

function* clients(last, minute) {
  const slow = growth(minute, (one) => one.slow);
  if (slow) {
    yield `${plural(slow, "slow client")} lost the connection in the last minute, and will recover from the log.`;
  }
  const errors = growth(minute, (one) => one.errors);
  if (errors) {
    yield `Handlers raised ${plural(errors, "exception")} in the last minute. The log of the server has them.`;
  }
}

function* limits(last) {
  if (last.connections > NEARLY * last.limit) {
    yield `${count(last.connections)} of at most ${count(last.limit)} connections are open.`;
  }
  if (last.maxBytes && last.usedBytes > NEARLY * last.maxBytes) {
    const sizes = `${bytes(last.usedBytes)} of ${bytes(last.maxBytes)}`;
    yield `The log has ${sizes}. Beyond max_size old events go before their retention.`;
  }
}
