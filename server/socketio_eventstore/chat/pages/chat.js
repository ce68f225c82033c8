// The chat's page. #messages shows the events from the server, each event once and in order. #outbox
// shows the messages written on this page and not yet received from the server. No message is in both.

const [status, toggle, scroller, messages, outbox, newest, form, input, announcer] = [
  "status", "toggle", "scroller", "messages", "outbox", "newest", "form", "input", "announcer",
].map((id) => document.getElementById(id));

const MAX_SHOWN = 2000; // limits the memory of a tab
const ACK_TIMEOUT_MS = 10_000;

if (typeof io === "undefined") {
  status.textContent = "Disconnected: the server does not have /socket.io/socket.io.js.";
  status.dataset.state = "disconnected";
  toggle.disabled = true;
}

const socket = io();

// --- the connection ---------------------------------------------------------------------------

let hadSession = false;
let gap = false; // whether messages may be missing before the next message

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
    if (item.dataset.state === "waiting") setSending(item); // the client sends its buffer on connect
  }
});

socket.on("disconnect", (reason) => {
  for (const item of outbox.children) {
    if (item.dataset.state === "sending") setWaiting(item); // the promises of sent messages reject next
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
    // The client emits "disconnect" for a connection, but not for an attempt to connect.
    showState("disconnected", "Disconnected: what you send waits here.");
  } else {
    showState(hadSession ? "reconnecting" : "connecting", "Connecting…");
    socket.connect();
  }
});

// --- receiving --------------------------------------------------------------------------------

// With recovery, every event has one more last argument: its offset in the server's log.
socket.on("chat message", (message, offset) => {
  const text = String(message);
  const item = document.createElement("li");
  item.dir = "auto";
  item.textContent = text;
  if (offset) item.dataset.offset = offset;
  if (gap) item.dataset.gap = "A new session began here";
  gap = false;

  // Messages have no author. If two texts are equal, either event may remove the waiting item: the
  // list shows one item per event in the server's order anyway.
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
    // A disconnected client buffers the message and sends the buffer on connect. A timeout would drop
    // the message from the buffer.
    const sender = connected ? socket.timeout(ACK_TIMEOUT_MS) : socket;
    const answer = await sender.emitWithAck("chat message", item.message);
    if (answer?.status === "refused") setFailed(item, `Refused. ${answer.reason}`);
  } catch {
    // The connection ended between the sending and the acknowledgement: the server may have the message
    // or not. If so, recovery brings the message. An automatic second sending could show it twice.
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
  if (!item.isConnected) return; // the message has been received in the meantime
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
    input.focus(); // the focus would be lost with the removed button
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
    scrollScheduled = true; // once per frame: a recovery may bring thousands of messages at a time
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
    following = false; // a large distance alone does not count: new messages also increase the distance
  }
  lastTop = top;
}, { passive: true });

newest.addEventListener("click", () => {
  following = true;
  showNewest();
  input.focus();
});

// The keyboard of a phone makes the list smaller, and must not hide the newest message.
new ResizeObserver(() => { if (following) showNewest(); }).observe(scroller);
