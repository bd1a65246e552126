// Elements, numbers as text, and calls of the service.

const TOKEN = "tfrec-token";

export const byId = (id) => document.getElementById(id);

/** Returns an element with properties and children; false and null children are left out. */
export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

const cellOf = (content) => element("td", {}, content);
export const row = (...contents) => element("tr", {}, contents.map(cellOf));

export const copyOf = (template) => byId(template).content.firstElementChild.cloneNode(true);

export const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
export const asObject = (value) => (isObject(value) ? value : {});
export const asArray = (value) => (Array.isArray(value) ? value : []);

/** Returns a raw field value as text. */
export function shown(value) {
  if (value === null || value === undefined) return "missing";
  if (Array.isArray(value)) return value.length ? value.map(shown).join(", ") : "empty list";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Returns a score with about four significant digits. */
export function number(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size && (size < 0.0001 || size >= 1e7)) return value.toExponential(2);
  if (size >= 1000) return value.toLocaleString("en", { maximumFractionDigits: 0 });
  return size ? value.toFixed(size >= 1 ? 3 : 4) : "0";
}

export const count = (value) => Number(value).toLocaleString("en");

/** An error from the service, or the reason why it could not be reached (status 0). */
class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const token = () => sessionStorage.getItem(TOKEN) ?? "";

/** Returns the JSON of a route; a body makes it a POST. Throws ApiError, or the error of `signal`. */
export async function ask(route, body, signal) {
  const headers = body ? { "content-type": "application/json" } : {};
  if (token()) headers.authorization = `Bearer ${token()}`;
  const options = { method: body ? "POST" : "GET", body: body && JSON.stringify(body) };
  const reply = await fetch(route, { ...options, headers, signal, cache: "no-store" }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, `The service does not answer at ${location.origin}. Is it running?`);
  });
  const answer = await reply.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new ApiError(reply.status, `The answer (status ${reply.status}) is not valid JSON.`);
  });
  if (reply.ok) return answer;
  throw new ApiError(reply.status, answer?.error?.message ?? `Status ${reply.status}.`);
}

/** Shows an error; a missing or wrong token opens the token dialog. */
export function showFailure(error) {
  if (error.status === 401) {
    byId("token-problem").textContent = token()
      ? "The service refused this token."
      : "This service requires a token.";
    if (!byId("token-dialog").open) byId("token-dialog").showModal();
    return;
  }
  byId("failure").textContent = error instanceof ApiError ? error.message : `This page failed: ${error.message}`;
  if (!(error instanceof ApiError)) throw error;
}

/** Calls `use` each time a token is entered. */
export function onToken(use) {
  byId("token-button").onclick = () => byId("token-dialog").showModal();
  byId("token-dialog").onsubmit = () => {
    sessionStorage.setItem(TOKEN, byId("token").value);
    use();
  };
}
