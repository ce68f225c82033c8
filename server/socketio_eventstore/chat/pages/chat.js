// The chat's page. #messages shows the events from the server, each event once and in order. #outbox
// shows the messages written on this page and not yet received from the server. No message is in both.

const [status, toggle, scroller, messages, outbox, newest, form, input, announcer] = [
  "status", "toggle", "scroller", "messages", "outbox", "newest", "form", "input", "announcer",
].map((id) => document.getElementById(id));

const MAX_SHOWN = 2000; // limits the memory of a tab
const ACK_TIMEOUT_MS = 10_000;

const { io } = await import("../client.js").catch((error) => {
  status.textContent = "Disconnected: the server does not have the official client, socket.io.js.";
  status.dataset.state = "disconnected";
  toggle.disabled = true;
  throw error;
});

const socket = io({ autoConnect: false });

// --- the connection ---------------------------------------------------------------------------

let hadSession = false;
let gap = false; // whether messages may be missing before the next message
let recovering = false; // whether the server still sends missed messages
let lastOffset; // of the last message on this page

function showState(state, text) {
  status.dataset.state = state;
  status.textContent = text;
  toggle.textContent = state === "disconnected" ? "Connect" : "Disconnect";
}

socket.on("connect", () => {
  const recovered = Boolean(socket.recovered);
  status.dataset.sid = socket.id;
  status.dataset.recovered = recovered;
  recovering = recovered;
  if (recovered) {
    showState("connected", "Connected: the state was recovered.");
    const connection = socket.io.engine.id;
    // The acknowledgement keeps its place in the order: it comes after the missed messages.
    socket.emit("caught up", () => {
      if (socket.io.engine.id === connection) recovering = false;
    });
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
    showState("disconnected", `Disconnected: the server refused (${refusalOf(error)}).`);
  } else {
    const refusal = refusalOf(error.context);
    const answer = refusal ? ` (the server refused: ${refusal})` : "";
    if (hadSession) showState("reconnecting", `Disconnected: reconnecting…${answer}`);
    else showState("connecting", `Connecting…${answer || " (the server does not answer)"}`);
  }
});

// The reason in a CONNECT_ERROR packet, or in the body of an HTTP response to long-polling.
function refusalOf(answer) {
  if (answer instanceof Error) {
    const more = typeof answer.data === "string" ? answer.data : answer.data?.message ?? answer.data?.reason;
    return [answer.message, more].filter((text) => text).map(String).join(": ");
  }
  if (!answer?.status || answer.status === 200) return "";
  try {
    return String(JSON.parse(answer.responseText).message);
  } catch {
    return `status ${answer.status}`;
  }
}

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
  const data = { ...(offset && { offset }), ...(gap && { gap: "A new session began here" }) };
  gap = false;
  lastOffset = offset;

  // Messages have no author. If two texts are equal, either event may remove the waiting item: the
  // list shows one item per event in the server's order anyway.
  const own = [...outbox.children].find((waiting) => waiting.message === text);
  if (own) own.remove();
  else if (recovering) data.recovered = "Missed, then recovered";
  show(text, own ? "own" : "", data);
  showNewest();
});

function show(text, className, data) {
  const item = document.createElement("li");
  item.dir = "auto";
  item.textContent = text;
  item.className = className;
  Object.assign(item.dataset, data);
  messages.append(item);
  if (messages.childElementCount > MAX_SHOWN) messages.firstElementChild.remove();
}

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

// --- a reload ---------------------------------------------------------------------------------

// The page writes its state when it goes, and takes the state away when it comes. So a duplicated tab,
// which has a copy of the storage, finds nothing of a page that is open.
const KEPT = "chat";

addEventListener("pagehide", () => {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({
      pid: socket._pid,
      offset: lastOffset,
      messages: [...messages.children].map((item) => [item.textContent, item.className, { ...item.dataset }]),
      outbox: [...outbox.children].map((item) => [item.message, item.dataset.state]),
    }));
  } catch {
    // The storage is full or forbidden: the next page begins anew.
  }
});

addEventListener("pageshow", (event) => {
  if (event.persisted) takeKept(); // the page itself is back, from the browser's cache
});

function takeKept() {
  try {
    const kept = sessionStorage.getItem(KEPT);
    sessionStorage.removeItem(KEPT);
    return JSON.parse(kept);
  } catch {
    return null;
  }
}

const kept = takeKept();
const navigation = performance.getEntriesByType("navigation")[0]?.type;
if (kept && (navigation === "reload" || navigation === "back_forward")) {
  for (const [text, className, data] of kept.messages) show(text, className, data);
  // The client sends both with CONNECT, and says whether the session was recovered.
  socket._pid = kept.pid;
  socket._lastOffset = lastOffset = kept.offset;
  hadSession = Boolean(kept.pid);
  for (const [text, state] of kept.outbox) {
    const item = document.createElement("li");
    item.message = text;
    outbox.append(item);
    if (state === "waiting") send(item); // the former page never sent it
    else setFailed(item, "Not confirmed, perhaps not delivered.");
  }
  showNewest();
}
socket.connect();
