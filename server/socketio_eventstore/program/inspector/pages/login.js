// The login form. The key goes to the server once, and is kept nowhere in the browser.

import { post } from "./api.js";
import { h } from "./dom.js";

export function loginForm(enter, message) {
  const key = h("input", {
    id: "key",
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    maxlength: 200,
  });
  const alert = h("p", { role: "alert", class: "error" }, message);
  const button = h("button", {}, "Log in");
  const form = h(
    "form",
    { class: "login card", onsubmit: submit },
    h("h1", { class: "brand" }, h("img", { src: "icon.svg", alt: "", width: 32, height: 32 }), "Inspector"),
    h("label", {}, h("span", {}, "API key"), key),
    button,
    alert,
    h(
      "p",
      { class: "soft" },
      "Without a key at hand, run ",
      h("code", {}, "socketio-eventstore inspect"),
      " on the server. It prints a link that works once.",
    ),
  );

  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    alert.textContent = "";
    try {
      await post("login", { key: key.value.trim(), https: location.protocol === "https:" });
      enter();
    } catch (error) {
      alert.textContent = error.message;
      key.select();
    } finally {
      key.value = "";
      button.disabled = false;
    }
  }

  queueMicrotask(() => key.focus());
  return form;
}
