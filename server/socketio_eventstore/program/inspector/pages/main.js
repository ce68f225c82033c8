// The login, the bar, and which view is shown. The view is in the fragment, which browsers do not send.

import { ask, ended, post } from "./api.js";
import { setText } from "./dom.js";
import { health } from "./health.js";
import { isConnected, kept, live, start, stop } from "./live.js";
import { loginForm } from "./login.js";
import { logView } from "./log.js";
import { nowView } from "./now.js";
import { sessionView } from "./session.js";
import { sessionsView } from "./sessions.js";

const bar = document.getElementById("bar");
const main = document.getElementById("main");
const state = document.getElementById("state");
const views = { now: nowView, log: logView, sessions: sessionsView, session: sessionView };
const titles = { now: "Now", log: "Log", sessions: "Sessions", session: "Session" };

const LINK = /^#once=([\w-]+)$/;

let shown = null;

/** The parts of the fragment `#/name/part/part?query`. */
function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...parts] = path.split("/").map(decoded);
  return { name: Object.hasOwn(views, name) ? name : "now", parts, query: new URLSearchParams(query) };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // a fragment that somebody has typed
  }
}

function show() {
  if (bar.hidden) {
    return;
  }
  const { name, parts, query } = place();
  if (shown?.name === name && shown.parts.join() === parts.join() && shown.update) {
    shown.update(query);
    return;
  }
  const isFirst = shown === null;
  shown?.close?.();
  main.replaceChildren();
  main.className = `view-${name}`;
  shown = { name, parts, ...views[name](main, query, parts) };
  document.title = `${titles[name]} · Inspector`;
  for (const link of document.querySelectorAll("nav a")) {
    const isCurrent = link.hash === `#/${name}` || (name === "session" && link.hash === "#/sessions");
    link.toggleAttribute("aria-current", isCurrent);
    if (isCurrent) {
      link.setAttribute("aria-current", "page");
    }
  }
  if (!isFirst) {
    main.focus({ preventScroll: true }); // a screen reader goes on in the new view
    scrollTo(0, 0);
  }
}

function showState() {
  const found = isConnected() ? health(kept) : { state: "bad", short: "No connection" };
  state.dataset.state = found.state;
  setText(state.querySelector("span"), found.short);
}

function enter() {
  bar.hidden = false;
  start();
  show();
}

function leave(message = "") {
  stop();
  shown?.close?.();
  shown = null;
  bar.hidden = true;
  main.className = "view-login";
  document.title = "Inspector";
  main.replaceChildren(loginForm(enter, message));
}

async function begin() {
  const link = LINK.exec(location.hash);
  if (link) {
    history.replaceState(null, "", location.pathname);
    try {
      await post("login", { link: link[1], https: location.protocol === "https:" });
    } catch (error) {
      leave(error.message);
      return;
    }
    stop(); // the live figures of the former login
    enter();
    return;
  }
  try {
    const { name } = await ask("login");
    if (name === null) {
      leave();
    } else {
      enter();
    }
  } catch (error) {
    leave(error.message);
  }
}

ended.call = () => leave("The login has ended.");
document.getElementById("logout").addEventListener("click", async () => {
  await post("logout").catch(() => {});
  leave();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment names the view
  main.focus();
});
// A link that is pasted where the inspector is open changes the fragment only.
addEventListener("hashchange", () => (LINK.test(location.hash) ? begin() : show()));
for (const type of ["connected", "disconnected", "history", "figures"]) {
  live.addEventListener(type, showState);
}
live.addEventListener("disconnected", async (event) => {
  if (event.detail === "io server disconnect") {
    ended.call();
  } else if (event.detail === "refused") {
    const { name } = await ask("login").catch(() => ({}));
    if (name === null) {
      ended.call(); // such as after a restart of the server
    }
  }
});
begin();
