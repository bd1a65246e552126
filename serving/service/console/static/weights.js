// A slider and a number for each head of the release.

import { byId, el } from "./dom.js";
import { HEADS, presentHeads, weightsOf } from "./ranking.js";

const MOST = 5;

export class Weights {
  #store;
  #rows = new Map();

  constructor(store) {
    this.#store = store;
    store.addEventListener("change", ({ detail }) => {
      if (detail.source !== this) this.#draw();
    });
    byId("even").addEventListener("click", () => {
      store.change({ weights: undefined }, null, "scores");
    });
  }

  build(bundle) {
    this.#rows.clear();
    const heads = presentHeads(bundle);
    byId("weights").replaceChildren(...heads.map((head) => this.#row(head)));
    const absent = Object.keys(HEADS).filter((head) => !heads.includes(head));
    byId("absent").textContent = absent.length
      ? `This release has no ${absent.join(" and no ")} head: its log had no such label.`
      : "";
    this.#draw();
  }

  #row(head) {
    const id = `weight-${head}`;
    const slider = el("input", {
      type: "range",
      id,
      min: 0,
      max: MOST,
      step: 0.1,
      class: `slider ${head}`,
      oninput: () => this.#read(head, slider.value),
    });
    // Text, so that what is no number can be sent, and be refused with its reason.
    const exact = el("input", {
      type: "text",
      inputmode: "decimal",
      class: "exact",
      "aria-label": `Weight of ${head}, any number`,
      "data-place": `weights.${head}`,
      onchange: () => this.#read(head, exact.value),
    });
    this.#rows.set(head, { slider, exact });
    const label = el("label", { for: id }, el("i", { class: `key ${head}` }), HEADS[head].label);
    const row = el("div", { class: "weight", "data-problem-after": true }, label, slider, exact);
    return el("div", {}, row);
  }

  #read(head, text) {
    const value = text.trim() === "" ? 1 : Number(text);
    const weights = { ...this.#store.object("weights") };
    weights[head] = Number.isFinite(value) ? value : text;
    this.#store.change({ weights }, null, "scores");
  }

  #draw() {
    const given = this.#store.object("weights");
    const weights = weightsOf({ weights: given }, [...this.#rows.keys()]);
    for (const [head, { slider, exact }] of this.#rows) {
      slider.value = weights[head];
      slider.setAttribute("aria-valuetext", String(weights[head]));
      exact.value = given[head] ?? weights[head];
    }
  }
}
