// The chat's page. #messages holds what came from the server, each event once and in its order;
// #outbox holds what was written here and has not come back yet. A message is never in both.

const [status, toggle, scroller, messages, outbox, newest, form, input, announcer] = [
  "status", "toggle", "scroller", "messages", "outbox", "newest", "form", "input", "announcer",
].map((id) => document.getElementById(id));

const MAX_SHOWN = 2000; // an open tab must not grow for ever
const ACK_TIMEOUT_MS = 10_000;

if (typeof io === "undefined") {
  status.textContent = "Disconnected: the server does not have /socket.io/socket.io.js.";
  status.dataset.state = "disconnected";
  toggle.disabled = true;
}

const socket = io();

// --- the connection ---------------------------------------------------------------------------

let hadSession = false;
let gap = false; // whether messages may be missing before the next one

function showState(state, text) {
  status.dataset.state = state;
  status.textContent = text;
  toggle.textContent = state === "disconnected" ? "Connect" : "Disconnect";
}

socket.on("connect", () => {
  const recovered = Boolean(socket.recovered);
  status.dataset.sid = socket.id;
  status.dataset.recovered = recovered;
  if (recovered) {
    showState("connected", "Connected: the state was recovered.");
  } else if (hadSession) {
    gap = true;
    showState("connected", "Connected: a new session began, messages may be missing.");
  } else {
    showState("connected", "Connected: a new session began.");
  }
  hadSession = true;
  for (const item of outbox.children) {
    if (item.dataset.state === "waiting") setSending(item); // the client has just sent its buffer
  }
});

socket.on("disconnect", (reason) => {
  for (const item of outbox.children) {
    if (item.dataset.state === "sending") setWaiting(item); // those that were sent are rejected next
  }
  if (socket.active) {
    showState("reconnecting", "Disconnected: reconnecting…");
  } else if (reason === "io server disconnect") {
    showState("disconnected", "Disconnected: the server ended the session.");
  } else {
    showState("disconnected", "Disconnected: what you send waits here.");
  }
});

socket.on("connect_error", (error) => {
  if (!socket.active) {
    showState("disconnected", `Disconnected: the server refused (${error.message}).`);
  } else if (hadSession) {
    showState("reconnecting", "Disconnected: reconnecting…");
  } else {
    showState("connecting", "Connecting… (the server does not answer)");
  }
});

toggle.addEventListener("click", () => {
  if (socket.active) {
    socket.disconnect();
    // The client reports the end of a connection, but not the end of its attempts to get one.
    showState("disconnected", "Disconnected: what you send waits here.");
  } else {
    showState(hadSession ? "reconnecting" : "connecting", "Connecting…");
    socket.connect();
  }
});

// --- receiving --------------------------------------------------------------------------------

// With recovery, every event ends in one more argument: its offset, its place in the server's log.
socket.on("chat message", (message, offset) => {
  const text = String(message);
  const item = document.createElement("li");
  item.dir = "auto";
  item.textContent = text;
  if (offset) item.dataset.offset = offset;
  if (gap) item.dataset.gap = "A new session began here";
  gap = false;

  // Messages carry no author. Whichever of two equal texts takes the waiting one's place, the list
  // shows one item per event in the server's order.
  const own = [...outbox.children].find((waiting) => waiting.message === text);
  if (own) {
    own.remove();
    item.className = "own";
  }
  messages.append(item);
  if (messages.childElementCount > MAX_SHOWN) messages.firstElementChild.remove();
  showNewest();
});

// --- sending ----------------------------------------------------------------------------------

form.addEventListener("submit", (event) => {
  event.preventDefault();
  input.focus(); // also after a tap on Send: the keyboard of a phone stays open
  if (input.value.trim() === "") return;
  const item = document.createElement("li");
  item.message = input.value;
  outbox.append(item);
  send(item);
  input.value = "";
  following = true;
  showNewest();
});

async function send(item) {
  const connected = socket.connected;
  if (connected) setSending(item);
  else setWaiting(item);
  try {
    // While disconnected the client keeps the message and sends it when it is connected again; a
    // timeout would drop it from there.
    const sender = connected ? socket.timeout(ACK_TIMEOUT_MS) : socket;
    const answer = await sender.emitWithAck("chat message", item.message);
    if (answer?.status === "refused") setFailed(item, `Refused. ${answer.reason}`);
  } catch {
    // Sent, but the connection ended before the answer: the server may have it or not. If it has,
    // recovery brings the message. Sending it again by ourselves could show it twice to everyone.
    setFailed(item, "Not confirmed, perhaps not delivered.");
  }
}

function setWaiting(item) {
  setOutboxState(item, "waiting", "Waits for the connection");
}

function setSending(item) {
  setOutboxState(item, "sending", "Sending…");
}

function setFailed(item, reason) {
  if (!item.isConnected) return; // it came back meanwhile
  const retry = button("Send again", () => {
    outbox.append(item);
    send(item);
  });
  retry.className = "retry";
  const discard = button("Discard", () => item.remove());
  setOutboxState(item, "failed", reason, retry, discard);
  announcer.textContent = `${item.message}: ${reason}`;
  showNewest();
}

function setOutboxState(item, state, text, ...buttons) {
  item.dataset.state = state;
  const message = document.createElement("span");
  message.className = "message";
  message.dir = "auto";
  message.textContent = item.message;
  const note = document.createElement("span");
  note.className = "note";
  note.append(text, ...buttons);
  item.replaceChildren(message, note);
}

function button(label, onClick) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = label;
  element.addEventListener("click", () => {
    onClick();
    input.focus(); // the button is gone, and the focus must not be lost with it
  });
  return element;
}

// --- following the newest message --------------------------------------------------------------

let following = true; // false while the reader has scrolled up
let lastTop = 0;
let scrollScheduled = false;

function showNewest() {
  if (!following) {
    newest.hidden = false;
  } else if (!scrollScheduled) {
    scrollScheduled = true; // once per frame: a recovery may bring thousands of messages at once
    requestAnimationFrame(() => {
      scrollScheduled = false;
      scroller.scrollTop = scroller.scrollHeight;
      lastTop = scroller.scrollTop;
    });
  }
}

scroller.addEventListener("scroll", () => {
  const top = scroller.scrollTop;
  if (scroller.scrollHeight - top - scroller.clientHeight < 40) {
    following = true;
    newest.hidden = true;
  } else if (top < lastTop) {
    following = false; // not whenever the end is far: messages may have come since the last frame
  }
  lastTop = top;
}, { passive: true });

newest.addEventListener("click", () => {
  following = true;
  showNewest();
  input.focus();
});

// The keyboard of a phone makes the list smaller, which must not hide the newest message.
new ResizeObserver(() => { if (following) showNewest(); }).observe(scroller);
