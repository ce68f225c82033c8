// Arguments as indented JSON with colours. Binary ones are shown by their size.

import { h } from "./dom.js";
import { bytes } from "./format.js";

const TOKEN = /("(?:\\.|[^"\\])*")(\s*:)?|\b(true|false|null)\b|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)/g;
const MAX_CHARACTERS = 100_000;

/** The arguments on one line, for a list. */
export function oneLine(args, limit = 300) {
  return args.map((one) => short(one)).join(", ").slice(0, limit);
}

function short(value) {
  const size = binarySize(value);
  return size === null ? JSON.stringify(value, shortened) : `(${bytes(size)} of binary data)`;
}

function shortened(key, value) {
  const size = binarySize(value);
  return size === null ? value : `(${bytes(size)} of binary data)`;
}

function binarySize(value) {
  const text = value?.$binary;
  return typeof text === "string" ? Math.floor((text.replace(/=+$/, "").length * 3) / 4) : null;
}

/** The arguments as an element. */
export function jsonView(args) {
  const text = args.map((one) => JSON.stringify(one, shortened, 2)).join("\n");
  const shown = text.slice(0, MAX_CHARACTERS);
  const code = h("pre", { class: "json", tabindex: 0 });
  let end = 0;
  for (const found of shown.matchAll(TOKEN)) {
    const [token, string, colon, word] = found;
    code.append(shown.slice(end, found.index));
    if (string !== undefined) {
      code.append(h("span", { class: colon ? "name" : "text" }, string), colon ?? "");
    } else {
      code.append(h("span", { class: word ? "word" : "digits" }, token));
    }
    end = found.index + token.length;
  }
  code.append(shown.slice(end));
  if (text.length > shown.length) {
    code.append("\n… (the rest is left out)");
  }
  if (args.length === 0) {
    code.append(h("span", { class: "soft" }, "no arguments"));
  }
  return code;
}
