// Shows the OpenAPI document of this server. All texts come in as texts, never as HTML.

const METHODS = ["get", "post"];

const form = document.getElementById("open");
const message = document.getElementById("message");
const operations = document.getElementById("operations");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  operations.replaceChildren();
  message.textContent = "";
  const key = document.getElementById("key").value.trim();
  try {
    const response = await fetch("openapi.json", { headers: { Authorization: `Bearer ${key}` } });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.detail);
    show(answer);
  } catch (error) {
    message.textContent = error.message;
  }
});

function show(description) {
  for (const [path, item] of Object.entries(description.paths)) {
    for (const method of METHODS.filter((name) => name in item)) {
      operations.append(shownOperation(description, method, path, item[method]));
    }
  }
}

function shownOperation(description, method, path, operation) {
  const body = operation.requestBody?.content["application/json"].schema;
  const [status, success] = Object.entries(operation.responses)[0];
  const [type, content] = Object.entries(success.content ?? {})[0] ?? [];
  return element("details", {}, [
    element("summary", {}, [
      element("b", {}, [method.toUpperCase()]),
      element("code", {}, [`/api${path}`]),
      element("span", {}, [operation.summary]),
    ]),
    element("div", {}, [
      ...parameters(operation.parameters),
      ...(body ? [heading("Body"), ...schemas(description, body)] : []),
      heading(`Answer ${status}${type ? ` (${type})` : ""}`),
      ...(content?.schema ? schemas(description, content.schema) : [element("p", {}, [success.description])]),
      heading("Errors"),
      element("p", {}, [errorsOf(operation)]),
      heading("Example"),
      element("pre", {}, [example(method, path, body && resolved(description, body))]),
    ]),
  ]);
}

function errorsOf(operation) {
  const errors = Object.entries(operation.responses).filter(([status]) => Number(status) >= 400);
  return errors.map(([status, { description }]) => `${status} ${description}`).join(", ");
}

function parameters(list) {
  if (list.length === 0) return [];
  const rows = list.map(({ name, in: place, schema, description }) => [
    element("code", {}, [name]),
    `${place}, ${typeOf(schema)}`,
    text(description),
  ]);
  return [heading("Parameters"), table(["Name", "Type", "Meaning"], rows)];
}

// The object behind a schema: its reference, or the first of several.
function resolved(description, schema) {
  if (schema.$ref) return resolved(description, description.components.schemas[schema.$ref.split("/").at(-1)]);
  if (schema.anyOf) return resolved(description, schema.anyOf[0]);
  return schema;
}

function schemas(description, schema, shown = new Set()) {
  if (schema.anyOf) return schema.anyOf.flatMap((one) => schemas(description, one, shown));
  if (schema.type === "array" && schema.items) {
    return [element("p", {}, [`Or a list, of ${schema.minItems ?? 0} to ${schema.maxItems ?? "any"} of them.`])];
  }
  const object = resolved(description, schema);
  if (!object.properties || shown.has(object)) return [];
  shown.add(object);
  const rows = Object.entries(object.properties).map(([name, property]) => [
    element("code", {}, [name]),
    `${typeOf(property)}${object.required?.includes(name) ? "" : ", optional"}`,
    text(property.description),
  ]);
  const inner = Object.values(object.properties).map((property) => property.items ?? property);
  return [
    element("p", {}, [text(object.description)]),
    table(["Field", "Type", "Meaning"], rows),
    ...inner.filter((one) => one.$ref).flatMap((one) => schemas(description, one, shown)),
  ];
}

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" or ");
  if (schema.type === "array") return `list of ${schema.items ? typeOf(schema.items) : "anything"}`;
  return schema.format ?? schema.type ?? "anything";
}

function example(method, path, body) {
  const filled = path.replace("{namespace}", "%2F").replace(/\{(\w+)\}/g, (_, name) => name.toUpperCase());
  const url = new URL(`.${filled}`, document.baseURI);
  const lines = ['curl -H "Authorization: Bearer $EVENTSTORE_API_KEY"'];
  if (body) {
    const names = body.required ?? [];
    const value = Object.fromEntries(names.map((name) => [name, body.properties[name].examples?.[0] ?? name]));
    lines.push(`-H "Content-Type: application/json" -d '${JSON.stringify(value)}'`);
  } else if (method !== "get") {
    lines.push(`-X ${method.toUpperCase()}`);
  }
  return [...lines, url.href].join(" \\\n  ");
}

function heading(title) {
  return element("h3", {}, [title]);
}

// What stands between backquotes is code.
function text(description = "") {
  const parts = description.split("`").map((part, index) => (index % 2 ? element("code", {}, [part]) : part));
  return element("span", {}, parts);
}

function table(names, rows) {
  const head = element("tr", {}, names.map((name) => element("th", { scope: "col" }, [name])));
  const body = rows.map((cells) => element("tr", {}, cells.map((cell) => element("td", {}, [cell]))));
  return element("table", {}, [element("thead", {}, [head]), element("tbody", {}, body)]);
}

function element(name, attributes, children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
