// Describes the API from its OpenAPI document, with a form to try each route.

import { ADDRESS, ask, clearFailure, onToken, send, shellCall, showFailure, token } from "./api.js";
import { byId, html, milliseconds, render } from "./html.js";

let schemas = {};

const resolved = (schema) => (schema.$ref ? schemas[schema.$ref.split("/").pop()] : schema);

/** Returns the type of a schema in words, such as "list of string or null". */
function typeOf(schema) {
  if (schema.$ref) return typeOf(resolved(schema));
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items ?? {})}`;
  if (schema.type === "object" && typeof schema.additionalProperties === "object") {
    return `object of ${typeOf(schema.additionalProperties)}`;
  }
  return [schema.type ?? "any value"].flat().join(" or ");
}

/** Returns the object schema in a schema, possibly in a list or next to null, or null. */
function objectIn(schema) {
  if (!schema || typeof schema !== "object") return null;
  const found = resolved(schema);
  if (found.properties) return found;
  return [...(found.anyOf ?? []), found.items, found.additionalProperties].map(objectIn).find(Boolean) ?? null;
}

const item = (name, type, text, inner) => html`
  <li>
    <code>${name}</code> <span class="quiet">${type}</span>
    ${text && html`<p class="quiet">${text}</p>`}
    ${inner}
  </li>`;

/** Returns the properties of an object schema, as nested lists. */
function properties({ properties: parts, required = [] }) {
  return html`<ul>${Object.entries(parts).map(([name, part]) => {
    const inner = objectIn(part);
    const type = `${typeOf(part)}${required.includes(name) ? ", required" : ""}`;
    return item(name, type, part.description ?? inner?.description, inner && fold(`Keys of ${name}`, inner));
  })}</ul>`;
}

const fold = (title, schema) => html`<details><summary>${title}</summary>${properties(schema)}</details>`;

const bodyIn = (content) => objectIn(Object.values(content ?? {})[0]?.schema);

function route(path, name, operation) {
  const method = name.toUpperCase();
  const parametersIn = (place) => (operation.parameters ?? []).filter((parameter) => parameter.in === place);
  const [headers, query, inPath] = ["header", "query", "path"].map((place) =>
    parametersIn(place).map(({ name, schema, description }) => item(name, typeOf(schema), description)),
  );
  const body = bodyIn(operation.requestBody?.content);
  const answers = Object.entries(operation.responses).map(([status, { description, content }]) => {
    const answer = bodyIn(content);
    return item(status, description, null, answer && fold("Body", answer));
  });
  return html`
    <section class="card" aria-label="${method} ${path}">
      <h2>${method} ${path}</h2>
      <p>${operation.description}</p>
      ${operation.security?.length > 0 && html`<p class="quiet">Requires the token.</p>`}
      ${inPath.length > 0 && html`<h3>Path parameters</h3><ul>${inPath}</ul>`}
      ${query.length > 0 && html`<h3>Query parameters</h3><ul>${query}</ul>`}
      ${headers.length > 0 && html`<h3>Headers</h3><ul>${headers}</ul>`}
      ${body && html`<h3>Body</h3>${properties(body)}`}
      <h3>Answers</h3><ul>${answers}</ul>
      ${trial(method, path, [...parametersIn("path"), ...parametersIn("query")], body?.examples?.[0])}
    </section>`;
}

/** Returns an example as a dry run, because nobody is shown the ads of a trial request. */
function asDryRun(example) {
  if (example.requests) return { requests: example.requests.map(asDryRun) };
  return example.context ? { ...example, dry_run: true } : example;
}

function trial(method, path, parameters, example) {
  const id = `${method} ${path}`;
  const inputOf = ({ name }) => byId(`${id} ${name}`);
  const text = example && JSON.stringify(asDryRun(example), null, 2);
  const status = html`<span class="quiet" role="status"></span>`;
  const reply = html`<pre tabindex="0" aria-label="Answer of ${id}" hidden></pre>`;
  const run = async () => {
    const missing = parameters.find((parameter) => parameter.in === "path" && !inputOf(parameter).value);
    if (missing) {
      status.textContent = `Enter ${missing.name}.`;
      inputOf(missing).focus();
      return;
    }
    const started = performance.now();
    status.textContent = "Waiting for the service…";
    reply.hidden = false;
    try {
      const answer = await send(routeOf(path, parameters, inputOf), method, byId(id)?.value);
      reply.textContent = indented(await answer.text());
      status.textContent = `${answer.status} in ${milliseconds(performance.now() - started)}`;
    } catch (error) {
      status.textContent = "";
      reply.textContent = error.message;
    }
  };
  const control = ({ name, schema }) => html`
    <label for="${id} ${name}">${name}</label>
    <input id="${id} ${name}" autocomplete="off" spellcheck="false" placeholder="${schema.default}">`;
  return html`
    <h3>Try it</h3>
    ${parameters.map(control)}
    ${
      example &&
      html`<label for="${id}">Body: an example for this release</label>
      <textarea id="${id}" class="code" rows="14" spellcheck="false">${text}</textarea>`
    }
    <div class="row">
      <button type="button" class="primary" aria-label="Send ${id}" onclick="${run}">Send</button>
      ${status}
    </div>
    ${reply}`;
}

/** Returns a path with the values of its parameters, relative to the page. */
function routeOf(path, parameters, inputOf) {
  const query = new URLSearchParams();
  let route = path.slice(1);
  for (const parameter of parameters) {
    const { value } = inputOf(parameter);
    const { name } = parameter;
    if (parameter.in === "path") route = route.replace(`{${name}}`, () => encodeURIComponent(value));
    else if (value) query.set(name, value);
  }
  return query.size ? `${route}?${query}` : route;
}

function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Introduces the API and a first call. */
function introduction(api) {
  const isSecured = Boolean(api.components.securitySchemes);
  const { context } = schemas.Request.examples[0];
  const call = shellCall(JSON.stringify({ context, k: 3 }), isSecured);
  const answer = JSON.stringify(schemas.Answer.examples[0], null, 2);
  return html`
    <section class="card">
      <h2>${api.info.summary}</h2>
      <p>
        A request describes a user and a situation; the answer is a list of ads, best first, with their
        scores. This service serves release ${api.info.version}.
      </p>
      <dl>
        <dt>Base address</dt><dd><code>${ADDRESS}</code></dd>
        <dt>Token</dt>
        <dd>${isSecured ? "Required, in the header authorization: Bearer TOKEN." : "Not required."}</dd>
        <dt>Errors</dt>
        <dd><code>{"error": {"code", "message"}}</code>; the message has one line per problem.</dd>
      </dl>
      <h3>A first request</h3><pre>${call}</pre>
      <h3>An answer, with explanations</h3><pre>${answer}</pre>
    </section>`;
}

async function start() {
  try {
    const api = await ask("openapi.json");
    clearFailure();
    // A link cannot send the token.
    byId("document").hidden = token() !== "";
    ({ schemas } = api.components);
    document.title = `tfrec API · release ${api.info.version}`;
    const routes = Object.entries(api.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([name, operation]) => route(path, name, operation)),
    );
    render("routes", [introduction(api), ...routes]);
  } catch (error) {
    showFailure(error);
  }
}

onToken(start);
start();
