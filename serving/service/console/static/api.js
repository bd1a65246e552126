// Calls the REST routes of the service, with the token if one is required, and shows its errors.

import { byId, html } from "./html.js";

const TOKEN = "tfrec-token";

/** An error from the service, or the reason why it could not be reached (status 0). */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const token = () => sessionStorage.getItem(TOKEN) ?? "";

export const ADDRESS = new URL(".", location.href).href.slice(0, -1);

/** Returns the call from a shell for a request as JSON text. */
export const shellCall = (text, isSecured) =>
  [
    `curl -s '${ADDRESS}/v1/recommend'`,
    "  -H 'content-type: application/json'",
    ...(isSecured ? ['  -H "authorization: Bearer $TFREC_TOKEN"'] : []),
    `  -d '${text.replaceAll("'", "'\\''")}'`,
  ].join(" \\\n");

/**
 * Returns the JSON of a route, such as "v1/bundle"; a body makes it a POST.
 *
 * Throws an ApiError if the service refuses or does not answer, and the AbortError of `signal`.
 */
export async function ask(route, body, signal) {
  const reply = await send(route, body === undefined ? "GET" : "POST", body && JSON.stringify(body), signal);
  const answer = await reply.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new ApiError(reply.status, `The answer (status ${reply.status}) is not valid JSON.`);
  });
  if (reply.ok) return answer;
  // A proxy may refuse without saying for how long.
  const seconds = reply.status === 429 && reply.headers.get("retry-after");
  const wait = seconds ? ` Try again in ${seconds} s.` : "";
  throw new ApiError(reply.status, `${answer?.error?.message ?? `Status ${reply.status}.`}${wait}`);
}

/** Returns the reply of a route to a JSON text, or to an empty body. */
export async function send(route, method, text, signal) {
  const headers = text === undefined ? {} : { "content-type": "application/json" };
  if (token() && route !== "readyz") headers.authorization = `Bearer ${token()}`;
  try {
    return await fetch(route, { method, body: text, headers, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, `The service does not answer at ${location.origin}. Is it running?`);
  }
}

/** Shows `error` in the page; a missing or wrong token opens the token dialog. */
export function showFailure(error) {
  clearFailure();
  if (!(error instanceof ApiError)) {
    byId("failure").replaceChildren(`This page failed: ${error.message}`);
    throw error;
  }
  if (error.status === 401) {
    mark(byId("token"), token() ? "The service refused this token." : "This service requires a token.");
    if (!byId("token-dialog").open) byId("token-dialog").showModal();
    return;
  }
  const lines = error.message.split("\n");
  const items = lines.map((line) => {
    const control = controlOf(line);
    if (control) mark(control, line);
    // The control may be out of sight.
    const isLink = control?.id && control.checkVisibility();
    return html`<li>${isLink ? html`<a href="#${control.id}">${line}</a>` : line}</li>`;
  });
  byId("failure").replaceChildren(html`<ul>${items}</ul>`);
}

/** Removes all error messages. */
export function clearFailure() {
  byId("failure")?.replaceChildren();
  for (const text of document.querySelectorAll(".problem")) text.remove();
  for (const control of document.querySelectorAll("[aria-invalid]")) {
    control.removeAttribute("aria-invalid");
    control.removeAttribute("aria-describedby");
  }
}

/** Returns the control whose data-place, a path such as "context.age", begins a message. */
function controlOf(message) {
  // The name of a field can contain a colon, a dot or a bracket: the longest path wins.
  const found = [...document.querySelectorAll("[data-place]")].filter(({ dataset: { place } }) =>
    [": ", ".", "["].some((end) => message.startsWith(place + end)),
  );
  return found.sort((a, b) => b.dataset.place.length - a.dataset.place.length)[0];
}

let marks = 0;

/** Shows a message next to a control. */
export function mark(control, message) {
  const id = `problem-${++marks}`;
  control.setAttribute("aria-invalid", "true");
  control.setAttribute("aria-describedby", id);
  (control.closest(".row") ?? control).after(html`<p class="problem" id="${id}">${message}</p>`);
  const fold = control.closest("details");
  if (fold) fold.open = true;
}

/** Adds the token dialog to the page, and calls `use` each time a token is entered. */
export function onToken(use) {
  const entered = () => {
    sessionStorage.setItem(TOKEN, byId("token").value);
    use();
  };
  const dialog = html`<dialog id="token-dialog" aria-label="Token">
    <form method="dialog" autocomplete="off" onsubmit="${entered}">
      <label for="token">Bearer token of this service</label>
      <input id="token" type="password" autocomplete="off" required pattern="[!-~]+" title="ASCII without spaces">
      <p class="quiet">Kept in this tab until it is closed, and sent to this service only.</p>
      <button class="primary">Use token</button>
    </form>
  </dialog>`;
  document.body.append(dialog);
  byId("token-button").addEventListener("click", () => dialog.showModal());
}
