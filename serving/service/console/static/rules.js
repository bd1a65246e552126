// Controls for the first cap, the first diversity rule and exploration. The JSON can have more.

import { byId, el } from "./dom.js";
import { isObject } from "./store.js";

const DEFAULT = "default";
const NONE = "none";

export class Rules {
  #store;
  #fields = [];

  constructor(store) {
    this.#store = store;
    store.addEventListener("change", ({ detail }) => {
      if (detail.source !== this) this.#draw();
    });
    byId("cap-field").addEventListener("change", () => this.#list("caps", "cap-field", this.#cap()));
    byId("cap-max").addEventListener("change", () => this.#list("caps", "cap-field", this.#cap()));
    for (const id of ["diversity-field", "diversity-penalty"]) {
      byId(id).addEventListener("change", () =>
        this.#list("diversity", "diversity-field", { penalty: Number(byId("diversity-penalty").value) }),
      );
    }
    byId("diversity-penalty").addEventListener("input", () => this.#values());
    byId("share").addEventListener("input", () => this.#values());
    byId("share").addEventListener("change", () => {
      this.#put("exploration", { ...this.#rules().exploration, share: Number(byId("share").value) });
    });
  }

  build(bundle) {
    this.#fields = bundle.ad_fields.filter(({ kind }) => kind !== "numeric");
    for (const id of ["cap-field", "diversity-field"]) {
      byId(id).replaceChildren(
        el("option", { value: DEFAULT }, "as the service does"),
        el("option", { value: NONE }, "no field"),
        // Prefixed, so that a field may be called "none".
        ...this.#fields.map(({ name }) => el("option", { value: `=${name}` }, name)),
      );
    }
    this.#draw();
  }

  #rules() {
    return this.#store.object("rules");
  }

  #cap() {
    const text = byId("cap-max").value.trim();
    const number = Number(text);
    return { max: text !== "" && Number.isFinite(number) ? number : text };
  }

  #list(name, id, rest) {
    const choice = byId(id).value;
    const others = Array.isArray(this.#rules()[name]) ? this.#rules()[name].slice(1) : [];
    if (choice === DEFAULT) this.#put(name, undefined);
    else if (choice === NONE) this.#put(name, []);
    else this.#put(name, [{ field: choice.slice(1), ...rest }, ...others]);
  }

  #put(name, value) {
    const rules = { ...this.#rules(), [name]: value };
    if (value === undefined) delete rules[name];
    this.#store.change({ rules: Object.keys(rules).length ? rules : undefined }, this, "scores");
    this.#values();
  }

  #draw() {
    const { caps, diversity, exploration } = this.#rules();
    for (const [id, list] of [["cap-field", caps], ["diversity-field", diversity]]) {
      const first = Array.isArray(list) ? (list[0] ?? null) : undefined;
      byId(id).value =
        first === undefined ? DEFAULT : isObject(first) ? `=${first.field}` : NONE;
    }
    if (isObject(caps?.[0])) byId("cap-max").value = caps[0].max;
    if (isObject(diversity?.[0])) byId("diversity-penalty").value = diversity[0].penalty;
    byId("share").value = isObject(exploration) ? exploration.share : 0;
    this.#values();
  }

  #values() {
    byId("diversity-value").textContent = Number(byId("diversity-penalty").value).toFixed(2);
    byId("share-value").textContent = `${(100 * byId("share").value).toFixed(0)} %`;
  }
}
