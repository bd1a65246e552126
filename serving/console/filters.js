// Which ads may come: conditions on ad fields, and ads that are left out.

import { byId, el, plain } from "./dom.js";
import { isObject } from "./store.js";

const WORDS = {
  any_of: "is one of",
  none_of: "is none of",
  all_of: "has all of",
  at_least: "is at least",
  at_most: "is at most",
};
const OPERATORS = {
  categorical: ["any_of", "none_of"],
  numeric: ["at_most", "at_least", "any_of", "none_of"],
  categorical_list: ["any_of", "none_of", "all_of"],
};
const MOST_FACETS = 8;

export class Filters {
  #store;
  #kinds = {};
  #rows = [];
  #pool = [];

  constructor(store) {
    this.#store = store;
    store.addEventListener("change", ({ detail }) => {
      if (detail.source !== this) this.#take();
    });
    byId("add-filter").addEventListener("click", () => this.#add());
  }

  build(bundle) {
    this.#kinds = Object.fromEntries(bundle.ad_fields.map(({ name, kind }) => [name, kind]));
    byId("add-filter").disabled = !bundle.ad_fields.length;
    this.#take();
  }

  /** Offers the values of these candidates. */
  offer(pool) {
    this.#pool = pool;
    for (const row of this.#rows) row.offer?.();
  }

  /** Adds a condition, such as that a field is this value. */
  require(field, operator, value) {
    this.#rows.push({ field, operator, text: String(value) });
    this.#give();
    this.#draw();
  }

  leaveOut(adId) {
    const filters = this.#store.object("filters");
    const before = Array.isArray(filters.excluded_ads) ? filters.excluded_ads : [];
    const excluded = [...new Set([...before, adId])];
    this.#store.change({ filters: { ...filters, excluded_ads: excluded } }, null);
  }

  #add() {
    const field = Object.keys(this.#kinds)[0];
    this.#rows.push({ field, operator: OPERATORS[this.#kinds[field]]?.[0] ?? "any_of", text: "" });
    this.#draw();
    byId("conditions").lastElementChild.querySelector("select").focus();
  }

  /** Reads the rows from the request; those without a value yet stay. */
  #take() {
    const { conditions } = this.#store.object("filters");
    const drafts = this.#rows.filter(({ text, raw }) => raw === undefined && text.trim() === "");
    this.#rows = (Array.isArray(conditions) ? conditions : []).map((one) => this.#rowOf(one));
    this.#rows.push(...drafts);
    this.#draw();
  }

  #rowOf(condition) {
    const { field, ...parts } = isObject(condition) ? condition : {};
    const given = Object.entries(parts).filter(([, value]) => value !== null);
    const [operator, value] = given[0] ?? [];
    const simple = given.length === 1 && WORDS[operator] && this.#kinds[field];
    if (!simple) return { raw: condition };
    return { field, operator, text: Array.isArray(value) ? value.join("\n") : String(value) };
  }

  /** Writes the rows that say something into the request. */
  #give() {
    const conditions = [];
    for (const row of this.#rows) {
      if (row.raw === undefined && row.text.trim() === "") continue;
      row.place = `filters.conditions[${conditions.length}]`;
      if (row.raw === undefined) {
        conditions.push({ field: row.field, [row.operator]: this.#valueOf(row) });
      } else {
        conditions.push(row.raw);
      }
    }
    const filters = { ...this.#store.object("filters"), conditions };
    if (!conditions.length) delete filters.conditions;
    const none = !Object.keys(filters).length;
    this.#store.change({ filters: none ? undefined : filters }, this);
  }

  #valueOf({ field, operator, text }) {
    const typed = (one) => {
      const value = Number(one);
      return this.#kinds[field] === "numeric" && one.trim() && Number.isFinite(value) ? value : one;
    };
    if (operator.startsWith("at_")) return typed(text.trim());
    return text.split("\n").filter((line) => line !== "").map(typed);
  }

  #draw() {
    let place = 0;
    for (const row of this.#rows) {
      if (row.raw !== undefined || row.text.trim()) row.place = `filters.conditions[${place++}]`;
    }
    byId("conditions").replaceChildren(...this.#rows.map((row) => this.#rowElement(row)));
    this.#drawLists();
  }

  #rowElement(row) {
    const remove = () => {
      this.#rows = this.#rows.filter((other) => other !== row);
      this.#give();
      this.#draw();
      byId("add-filter").focus();
    };
    const button = el(
      "button",
      { type: "button", class: "quiet", "aria-label": "Remove this condition", onclick: remove },
      "✕",
    );
    if (row.raw !== undefined) {
      const text = el("code", {}, JSON.stringify(row.raw));
      return el("li", { class: "condition raw", "data-place": row.place }, text, button);
    }
    const value = el("div", { class: "value" });
    const item = el("li", { class: "condition" }, this.#head(row), button, value);
    row.offer = () => {
      if (!value.contains(document.activeElement)) this.#drawValue(row, value);
    };
    this.#drawValue(row, value);
    return item;
  }

  #head(row) {
    const option = (value, text, chosen) => el("option", { value, selected: chosen }, text);
    const field = el(
      "select",
      { "aria-label": "Ad field" },
      Object.keys(this.#kinds).map((name) => option(name, name, name === row.field)),
    );
    const operator = el(
      "select",
      { "aria-label": "Condition" },
      (OPERATORS[this.#kinds[row.field]] ?? ["any_of", "none_of"]).map((name) =>
        option(name, WORDS[name], name === row.operator),
      ),
    );
    field.addEventListener("change", () => {
      const kind = this.#kinds[field.value];
      Object.assign(row, { field: field.value, operator: OPERATORS[kind]?.[0] ?? "any_of", text: "" });
      this.#give();
      this.#draw();
    });
    operator.addEventListener("change", () => {
      row.operator = operator.value;
      if (row.text.trim()) this.#give();
      this.#draw();
    });
    return el("div", { class: "condition-head" }, field, operator);
  }

  #drawValue(row, holder) {
    const label = `Value of ${row.field}`;
    const set = (text) => {
      row.text = text;
      this.#give();
    };
    const isBound = row.operator.startsWith("at_");
    const input = el(isBound ? "input" : "textarea", {
      "aria-label": isBound ? label : `${label}, one a line`,
      placeholder: isBound ? "number" : "one value a line",
      autocomplete: "off",
      spellcheck: "false",
      rows: isBound ? null : Math.min(4, Math.max(1, row.text.split("\n").length)),
      "data-place": row.place ?? "filters.conditions",
      onchange: () => {
        set(input.value);
        input.dataset.place = row.place ?? "filters.conditions";
      },
    });
    input.value = row.text;
    const more = isBound ? this.#bounds(row, input, set) : this.#facets(row, set);
    holder.replaceChildren(el("div", { "data-problem-after": true }, input), more ?? "");
  }

  #bounds(row, input, set) {
    const values = this.#pool.map(({ fields }) => fields[row.field]).filter(Number.isFinite);
    if (!values.length) return null;
    row.least = Math.min(row.least ?? Infinity, ...values);
    row.most = Math.max(row.most ?? -Infinity, ...values);
    if (row.least === row.most) return null;
    const slider = el("input", {
      type: "range",
      "aria-label": `${WORDS[row.operator]}, ${row.field}`,
      min: row.least,
      max: row.most,
      step: Number.isInteger(row.least) && Number.isInteger(row.most) ? 1 : "any",
      oninput: () => (input.value = plain(Number(slider.value))),
      onchange: () => set(plain(Number(slider.value))),
    });
    slider.value = row.text.trim() ? Number(row.text) : row.operator === "at_most" ? row.most : row.least;
    const ends = `${plain(row.least)} to ${plain(row.most)} among the candidates`;
    return el("div", { class: "bounds" }, slider, el("small", {}, ends));
  }

  #facets(row, set) {
    const counts = new Map();
    for (const { fields } of this.#pool) {
      for (const value of [fields[row.field]].flat()) {
        if (value != null) counts.set(value, (counts.get(value) ?? 0) + 1);
      }
    }
    const best = [...counts].sort((one, other) => other[1] - one[1]).slice(0, MOST_FACETS);
    const lines = row.text.split("\n").filter((line) => line !== "");
    const chips = best
      .filter(([value]) => !lines.includes(String(value)))
      .map(([value, count]) => {
        const add = () => {
          set([...lines, String(value)].join("\n"));
          this.#draw();
        };
        const text = el("span", {}, String(value));
        const label = `Add ${value}, which ${count} candidates have`;
        const props = { type: "button", class: "chip", "aria-label": label, onclick: add };
        return el("button", props, text, el("b", {}, count));
      });
    return el("div", { class: "chips" }, chips);
  }

  #drawLists() {
    const { excluded_ads: excluded, allowed_ads: allowed } = this.#store.object("filters");
    const chips = (Array.isArray(excluded) ? excluded : []).map((adId) => {
      const bring = () => {
        const filters = { ...this.#store.object("filters") };
        filters.excluded_ads = filters.excluded_ads.filter((other) => other !== adId);
        if (!filters.excluded_ads.length) delete filters.excluded_ads;
        const none = !Object.keys(filters).length;
        this.#store.change({ filters: none ? undefined : filters }, null);
        byId("add-filter").focus();
      };
      const label = `Let ${adId} come again`;
      const props = { type: "button", class: "chip", "aria-label": label, onclick: bring };
      return el("button", props, el("span", {}, String(adId)), el("b", {}, "✕"));
    });
    byId("excluded").replaceChildren(chips.length ? "Left out: " : "", ...chips);
    byId("allowed").textContent = Array.isArray(allowed)
      ? `Only ${allowed.length} ads may come, as the JSON says.`
      : "";
  }
}
