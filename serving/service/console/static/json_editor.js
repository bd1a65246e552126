// The whole request as JSON, to read, to copy and to write.

import { token } from "./api.js";
import { byId, el } from "./dom.js";
import { clear, mark } from "./problems.js";
import { isObject } from "./store.js";

export class JsonEditor {
  #store;
  #text = byId("json");

  constructor(store) {
    this.#store = store;
    store.addEventListener("change", ({ detail }) => {
      if (detail.source !== this) this.#draw();
    });
    this.#text.addEventListener("change", () => this.read());
    for (const choice of document.querySelectorAll("input[name=view]")) {
      choice.addEventListener("change", () => this.#view(choice.value));
    }
    byId("copy").addEventListener("click", () => this.#copy());
  }

  get isOpen() {
    return !byId("json-view").hidden;
  }

  /** Takes the text over as the request; returns whether it is one. */
  read() {
    const holder = byId("json-view");
    let problem = null;
    let request;
    try {
      request = JSON.parse(this.#text.value || "{}");
      if (!isObject(request)) problem = "Expected a JSON object, such as {\"k\": 10}.";
    } catch (error) {
      problem = `This is no JSON: ${error.message}. Nothing was sent.`;
    }
    clear(holder);
    if (problem) {
      mark(this.#text, problem);
      return false;
    }
    if (JSON.stringify(request) !== JSON.stringify(this.#store.request)) {
      this.#store.replace(request, this);
    }
    return true;
  }

  #view(name) {
    // The form would draw over a text that is no request yet.
    if (name === "form" && !this.read()) {
      document.querySelector("input[name=view][value=json]").checked = true;
      this.#text.focus();
      return;
    }
    byId("form-view").hidden = name !== "form";
    byId("json-view").hidden = name !== "json";
    if (name === "json") this.#draw();
  }

  #draw() {
    this.#text.value = JSON.stringify(this.#store.request, null, 2);
    clear(byId("json-view"));
  }

  async #copy() {
    const command = [
      `curl -s ${location.origin}/v1/recommend -H 'content-type: application/json'`,
      ...(token.get() ? [`  -H "authorization: Bearer $TFREC_TOKEN"`] : []),
      `  -d '${JSON.stringify(this.#store.request).replaceAll("'", "'\\''")}'`,
    ].join(" \\\n");
    try {
      await navigator.clipboard.writeText(command);
      byId("copied").textContent = "Copied.";
    } catch {
      // Browsers give the clipboard to https and localhost only.
      byId("copied").replaceChildren(el("code", {}, command));
    }
  }
}
