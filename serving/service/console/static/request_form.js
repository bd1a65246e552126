// One input for each query field of the release; empty is missing.

import { byId, el, shown } from "./dom.js";
import { isObject } from "./store.js";

const HINTS = { numeric: "number", categorical_list: "one value a line", categorical: "text" };

export class RequestForm {
  #store;
  #inputs = new Map();

  constructor(store) {
    this.#store = store;
    store.addEventListener("change", ({ detail }) => {
      if (detail.source !== this) this.#draw();
    });
  }

  /** Builds the inputs for a release. */
  build(bundle) {
    this.#inputs.clear();
    const rows = bundle.query_fields.map(({ name, kind }, place) => this.#row(name, kind, place));
    byId("fields").replaceChildren(...rows);
    this.#draw();
    this.#samples(bundle.sample_requests ?? [], bundle.query_fields);
  }

  #row(name, kind, place) {
    const id = `field-${place}`;
    const isList = kind === "categorical_list";
    const input = el(isList ? "textarea" : "input", {
      id,
      autocomplete: "off",
      spellcheck: "false",
      placeholder: "missing",
      rows: isList ? 2 : null,
      inputmode: kind === "numeric" ? "decimal" : null,
      title: HINTS[kind] ?? kind,
      onchange: () => this.#read(name, kind, input.value),
    });
    this.#inputs.set(name, { input, kind });
    const hint = isList ? el("small", {}, ` ${HINTS[kind]}`) : null;
    return el(
      "div",
      { class: isList ? "field wide" : "field" },
      el("label", { for: id, title: name }, name, hint),
      input,
    );
  }

  /** Puts an input's value where its field stands in the request. */
  #read(name, kind, text) {
    const { user, context } = this.#store.request;
    const group = isObject(user) && name in user ? "user" : "context";
    const fields = { ...(isObject(group === "user" ? user : context) ? this.#store.object(group) : {}) };
    const value = typed(kind, text);
    if (value === undefined) delete fields[name];
    else fields[name] = value;
    this.#inputs.get(name).input.dataset.place = `${group}.${name}`;
    this.#store.change({ [group]: fields }, this);
  }

  #draw() {
    const user = this.#store.object("user");
    const context = this.#store.object("context");
    for (const [name, { input, kind }] of this.#inputs) {
      const group = name in user ? "user" : "context";
      const value = (group === "user" ? user : context)[name];
      const text = written(kind, value);
      if (input.value !== text) input.value = text;
      input.dataset.place = `${group}.${name}`;
    }
  }

  #samples(samples, fields) {
    const options = samples.map((sample, place) => {
      const first = fields.map(({ name }) => sample[name]).filter((value) => value != null);
      const text = first.map(shown).join(" · ").slice(0, 48);
      return el("option", { value: place }, `${place + 1}. ${text || "nothing known"}`);
    });
    const select = byId("sample");
    select.replaceChildren(...options, el("option", { value: "" }, "Nothing known"));
    select.onchange = () => this.#take(samples[select.value] ?? {});
    const own = this.#store.request.context ?? this.#store.request.user;
    if (own === undefined) this.#take(samples[0] ?? {});
    else select.value = "";
  }

  #take(sample) {
    const known = Object.entries(sample).filter(([, value]) => value !== null);
    this.#store.change({ user: undefined, context: Object.fromEntries(known) }, null);
  }
}

/** Returns what a text means to a field; what is no number goes to the service as it is. */
function typed(kind, text) {
  if (kind === "categorical_list") {
    const values = text.split("\n").filter((value) => value !== "");
    return values.length ? values : undefined;
  }
  if (text === "") return undefined;
  const value = Number(text);
  return kind === "numeric" && text.trim() !== "" && Number.isFinite(value) ? value : text;
}

function written(kind, value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value) && kind === "categorical_list") {
    return value.map((item) => item ?? "").join("\n");
  }
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
