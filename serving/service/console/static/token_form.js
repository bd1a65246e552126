// The form that a page asks for the service's token by.

import { token } from "./api.js";
import { byId } from "./dom.js";
import { mark } from "./problems.js";

/** Calls `use` whenever a token was given. */
export function onToken(use) {
  byId("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    token.set(byId("token").value.trim());
    use();
  });
}

/** Opens the form, and says why beside it: `error` is an ApiError of status 401. */
export function askForToken(error) {
  byId("token-panel").hidden = false;
  const refused = token.get() ? "The service refused this token." : "This service asks for a token.";
  mark(byId("token"), error.code === "no_token" ? error.message : refused);
  byId("token").focus();
}
