// The server's interface below this page. The browser sends the cookie, which this page cannot read.

const base = new URL("./", import.meta.url);

/** An error that the server explains. */
export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** What happens when the login has ended; set by main.js. */
export const ended = { call: () => {} };

/** Asks for a path below this page. Throws Refused. */
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(new URL(path, base), { credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") {
      throw error;
    }
    throw new Refused(0, "The server cannot be reached.");
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Refused(response.status, problem.detail ?? `The server answers with status ${response.status}.`);
  }
  return response.status === 204 ? null : response.json();
}

/** Asks a question; parameters that are empty are left out. */
export async function get(path, query = {}, signal = undefined) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  try {
    return await ask(`api${path}?${new URLSearchParams(given)}`, { signal });
  } catch (error) {
    if (error.status === 401) {
      ended.call();
    }
    throw error;
  }
}

/**
 * Makes `ask(path, query)`, like `get`, which shows answers with `show(answer)` and errors with `fail(text)`. A new
 * question ends the one before, whose answer may come later.
 */
export function asker(signal, show, fail) {
  let last = null;
  signal.addEventListener("abort", () => last?.abort());
  return async (path, query) => {
    last?.abort();
    last = new AbortController();
    try {
      const answer = await get(path, query, last.signal);
      fail("");
      show(answer);
    } catch (error) {
      if (error.name !== "AbortError") {
        fail(error.message);
      }
    }
  };
}

export function post(path, body = {}) {
  return ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

export const sessionPath = (namespace, sid) => `/sessions/${encodeURIComponent(namespace)}/${encodeURIComponent(sid)}`;
