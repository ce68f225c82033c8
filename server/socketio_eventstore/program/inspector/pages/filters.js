// The form above a list. What it says is in the fragment of the address, so that a link leads to the same list.

import { debounced, h } from "./dom.js";

const WAIT_MILLISECONDS = 300;

/** A room is one of a namespace: without a name, the server looks in the main one. */
export const NAMESPACE = { name: "namespace", label: "Namespace", placeholder: ({ room }) => (room ? "/" : "any") };

/**
 * Makes the form. `fields` are `{ name, label, type, options, placeholder }`, where the placeholder may be a
 * function of all values; `changed()` is called after a change. Returns the element, `values()` and `set(query)`.
 */
export function filters(label, fields, changed) {
  const inputs = new Map(fields.map((field) => [field.name, input(field)]));
  const later = debounced(changed, WAIT_MILLISECONDS);
  const clear = h("button", { type: "button", class: "quiet", onclick: clearAll }, "Clear");
  const unfold = h("button", { type: "button", class: "quiet unfold", "aria-expanded": "false", onclick: toggle }, "Filters");
  const element = h(
    "form",
    { class: "filters card", role: "search", "aria-label": label, oninput: later, onsubmit },
    fields.map((field) => h("label", { class: `field-${field.name}` }, h("span", {}, field.label), inputs.get(field.name))),
    unfold,
    clear,
  );

  /** On a phone the other filters show on demand. */
  function toggle() {
    unfold.setAttribute("aria-expanded", element.classList.toggle("unfolded"));
  }

  function onsubmit(event) {
    event.preventDefault();
    changed();
  }

  function clearAll() {
    inputs.forEach((one) => {
      one.value = "";
    });
    changed();
  }

  const all = () => Object.fromEntries([...inputs].map(([name, one]) => [name, one.value.trim()]));

  function showState() {
    for (const { name, placeholder } of fields.filter((field) => typeof field.placeholder === "function")) {
      inputs.get(name).placeholder = placeholder(all());
    }
    const given = [...inputs.values()].filter((one) => one.value !== "").length;
    clear.disabled = given === 0;
    unfold.textContent = given === 0 ? "Filters" : `Filters (${given})`;
  }

  element.addEventListener("input", showState);
  return {
    element,
    values() {
      showState();
      return all();
    },
    set(query) {
      inputs.forEach((one, name) => {
        const value = query.get(name) ?? "";
        if (one !== document.activeElement || value === "") {
          one.value = value;
        }
      });
      showState();
    },
  };
}

function input({ options, type = "text", placeholder = "" }) {
  if (options) {
    return h(
      "select",
      {},
      Object.entries(options).map(([value, text]) => h("option", { value }, text)),
    );
  }
  const text = typeof placeholder === "function" ? placeholder({}) : placeholder;
  const step = type === "datetime-local" ? { step: 1 } : {};
  return h("input", { type, placeholder: text, spellcheck: "false", autocomplete: "off", autocapitalize: "off", ...step });
}

/** Puts values into the fragment, without a new entry in the history of the browser. */
export function remember(name, values) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null);
  const query = new URLSearchParams(given).toString();
  history.replaceState(null, "", `#/${name}${query ? `?${query}` : ""}`);
}
