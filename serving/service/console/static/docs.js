// Describes the API from its OpenAPI document, and tries its routes.

import { ask, sent, token } from "./api.js";
import { byId, el, milliseconds } from "./dom.js";
import { clear } from "./problems.js";
import { askForToken, onToken } from "./token_form.js";

let schemas = {};

/** Returns a schema itself where there is the name of one. */
const found = (schema) => (schema.$ref ? schemas[schema.$ref.split("/").pop()] : schema);

/** Returns the type of a schema in words, such as "list of text or null". */
function typeOf(schema) {
  if (schema.$ref) return typeOf(found(schema));
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items ?? {})}`;
  if (schema.type === "object" && typeof schema.additionalProperties === "object") {
    return `object of ${typeOf(schema.additionalProperties)}`;
  }
  return { string: "text", boolean: "true or false" }[schema.type] ?? schema.type ?? "any value";
}

/** Returns the object schema that a schema holds, be it in a list or beside null, or null. */
function objectIn(schema) {
  const one = found(schema);
  if (one.properties) return one;
  const inner = [...(one.anyOf ?? []), one.items, one.additionalProperties];
  for (const part of inner) {
    const object = part && typeof part === "object" ? objectIn(part) : null;
    if (object) return object;
  }
  return null;
}

function line(name, type, text, inner) {
  return el("li", {}, el("code", {}, name), el("i", {}, type), text ? el("p", {}, text) : null, inner);
}

/** Returns what an object schema has, as nested lists. */
function properties(schema) {
  const { properties: parts, required = [] } = schema;
  const items = Object.entries(parts).map(([name, part]) => {
    const inner = objectIn(part);
    const type = `${typeOf(part)}${required.includes(name) ? ", required" : ""}`;
    const fold = inner
      ? el("details", {}, el("summary", {}, `What ${name} has`), properties(inner))
      : null;
    return line(name, type, part.description ?? inner?.description, fold);
  });
  return el("ul", { class: "lines" }, items);
}

function titled(title, content) {
  return content ? [el("h3", {}, title), content] : [];
}

function bodyOf(content) {
  const schema = content && Object.values(content)[0]?.schema;
  const object = schema && objectIn(schema);
  return object ? properties(object) : null;
}

function answers(responses) {
  const items = Object.entries(responses).map(([status, { description, content }]) => {
    const body = bodyOf(content);
    const fold = body ? el("details", {}, el("summary", {}, "Its body"), body) : null;
    const said = status === "200" ? Object.keys(content ?? {}).join(", ") : description;
    return line(status, said, null, fold);
  });
  return el("ul", { class: "lines" }, items);
}

/** Tried requests are shown to nobody, so they stay out of the log of what was shown. */
const tried = (example) =>
  example.requests
    ? { requests: example.requests.map(tried) }
    : { ...example, dry_run: true };

function trial(method, path, operation) {
  const schema = operation.requestBody?.content["application/json"].schema;
  const example = schema && found(schema).examples?.[0];
  const id = `body-${path}`;
  const text = example ? el("textarea", { id, rows: 14, spellcheck: "false" }) : null;
  if (text) text.value = JSON.stringify(tried(example), null, 2);
  const status = el("p", { class: "status", role: "status" });
  const reply = el("pre", { tabindex: 0, "aria-label": `Answer of ${path}`, hidden: true });
  const send = async () => {
    const started = performance.now();
    status.textContent = "Waiting for the service…";
    try {
      const answer = await sent(path.slice(1), method, text?.value);
      status.textContent = `${answer.status} in ${milliseconds(performance.now() - started)}`;
      reply.textContent = pretty(await answer.text());
    } catch (error) {
      status.textContent = "";
      reply.textContent = error.message;
    }
    reply.hidden = false;
  };
  const button = el("button", { type: "button", class: "primary", onclick: send }, "Send");
  button.setAttribute("aria-label", `Send ${method} ${path}`);
  return [
    text ? el("label", { for: id }, "Body; an example of this release") : null,
    text,
    el("div", { class: "row" }, button, status),
    reply,
  ];
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function route(path, name, operation) {
  const method = name.toUpperCase();
  const headers = (operation.parameters ?? []).map(({ name: header, description, schema }) =>
    line(header, typeOf(schema), description, null),
  );
  return el(
    "section",
    { class: "card route", "aria-label": `${method} ${path}` },
    el("h2", {}, el("span", {}, method), ` ${path}`),
    el("p", {}, operation.description),
    operation.security?.length ? el("small", {}, "Asks for the token.") : null,
    titled("Headers", headers.length ? el("ul", { class: "lines" }, headers) : null),
    titled("Body", bodyOf(operation.requestBody?.content)),
    titled("Answers", answers(operation.responses)),
    titled("Try it", el("div", {}, trial(method, path, operation))),
  );
}

async function start() {
  let api;
  try {
    api = await ask("openapi.json");
  } catch (error) {
    refused(error);
    return;
  }
  clear();
  byId("token-panel").hidden = true;
  byId("failure").hidden = true;
  // A link sends no token.
  byId("document").hidden = token.get() !== "";
  ({ schemas } = api.components);
  document.title = `tfrec API · release ${api.info.version}`;
  const routes = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([name, operation]) => route(path, name, operation)),
  );
  byId("routes").replaceChildren(...routes);
}

function refused(error) {
  clear();
  const isToken = error.status === 401;
  byId("failure").hidden = isToken;
  byId("failure").textContent = error.message;
  if (isToken) askForToken(error);
  else byId("token-panel").hidden = true;
}

onToken(start);
start();
