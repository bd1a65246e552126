// How many ads, and in what time.

import { byId } from "./dom.js";

export class Limits {
  #store;

  constructor(store) {
    this.#store = store;
    store.addEventListener("change", ({ detail }) => {
      if (detail.source !== this) this.#draw();
    });
    for (const name of ["k", "deadline_ms"]) {
      byId(name).addEventListener("change", () => this.#read(name));
    }
  }

  build(bundle) {
    const { default_k: k, default_deadline_ms: deadline } = bundle.limits ?? {};
    byId("k").placeholder = k ?? "";
    byId("deadline_ms").placeholder = deadline ?? "";
    this.#draw();
  }

  #read(name) {
    const text = byId(name).value.trim();
    const value = Number(text);
    // What is no number goes to the service, which says what it expects.
    this.#store.change({ [name]: text === "" ? undefined : Number.isFinite(value) ? value : text }, this);
  }

  #draw() {
    for (const name of ["k", "deadline_ms"]) byId(name).value = this.#store.request[name] ?? "";
  }
}
