// Asks the service's own REST routes, with the token where one is needed.

const TOKEN = "tfrec-token";

/** A refusal of the service, or why it could not be asked. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  set: (text) => (text ? sessionStorage.setItem(TOKEN, text) : sessionStorage.removeItem(TOKEN)),
};

/**
 * Returns the parsed JSON of a route, such as "v1/bundle"; a body makes it a POST.
 *
 * Throws an ApiError where the service refuses or does not answer, as when the time of `signal` is
 * over, and the AbortError of `signal`.
 */
export async function ask(route, body, signal) {
  const isPost = body !== undefined;
  const reply = await sent(route, isPost ? "POST" : "GET", isPost ? JSON.stringify(body) : undefined, signal);
  const document = await parsed(reply, signal);
  if (!reply.ok) throw refusal(reply, document?.error ?? {});
  return document;
}

/** Returns the reply of a route to a body, a text of JSON, or to none; throws as `ask`. */
export async function sent(route, method, text, signal) {
  const headers = {};
  if (token.get() && route !== "readyz") headers.authorization = bearer();
  if (text !== undefined) headers["content-type"] = "application/json";
  const options = { method, body: text, headers, signal, cache: "no-store", credentials: "same-origin" };
  return fetched(route, options);
}

function bearer() {
  if (!/^[\x21-\x7e]+$/.test(token.get())) {
    const why = "Expected a token of printable ASCII characters without spaces.";
    throw new ApiError(401, "no_token", why);
  }
  return `Bearer ${token.get()}`;
}

async function fetched(route, options) {
  try {
    return await fetch(route, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
}

function unreachable() {
  const why = `The service does not answer at ${location.origin}. Is it running?`;
  return new ApiError(0, "unreachable", why);
}

async function parsed(reply, signal) {
  try {
    return await reply.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (signal?.aborted) throw unreachable();
    throw new ApiError(reply.status, "no_json", `The answer (status ${reply.status}) is no JSON.`);
  }
}

function refusal(reply, error) {
  let message = error.message ?? `The service refused with status ${reply.status}.`;
  const wait = reply.headers.get("retry-after");
  if (reply.status === 429 && wait) message += ` Try again in ${wait} s.`;
  return new ApiError(reply.status, error.code ?? "unknown", message);
}
