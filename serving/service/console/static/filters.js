// Which ads may come: conditions on ad fields, and ads that are left out.

import { byId, el, rounded } from "./dom.js";
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

const operatorsOf = (kind) => OPERATORS[kind] ?? ["any_of", "none_of"];
const isBoundOf = (operator) => operator.startsWith("at_");
const isDraft = (row) => row.raw === undefined && row.value === undefined;
const conditionOf = ({ raw, field, operator, value }) =>
  raw === undefined ? { field, [operator]: value } : raw;
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/** Returns the value of a condition as text: of a list, one value a line. */
const textOf = (value) => (Array.isArray(value) ? value.join("\n") : String(value ?? ""));

/** Returns the value that a text means, or undefined where it says nothing. */
function valueOf(kind, operator, text) {
  if (text.trim() === "") return undefined;
  const typed = (one) => {
    const value = Number(one);
    return kind === "numeric" && one.trim() && Number.isFinite(value) ? value : one;
  };
  if (isBoundOf(operator)) return typed(text.trim());
  return text.split("\n").filter((line) => line !== "").map(typed);
}

export class Filters {
  #store;
  #kinds = {};
  // Each {field, operator, value}, without a value as long as it says nothing, or {raw}, a
  // condition that the controls cannot hold as it is.
  #rows = [];
  #pool = [];
  // Numeric field -> [least, most] of all candidates so far: a bound leaves fewer of them.
  #ranges = new Map();

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
    this.#ranges.clear();
    this.#take();
  }

  /** Offers the values of these candidates. */
  offer(pool) {
    this.#pool = pool;
    for (const [name, kind] of Object.entries(this.#kinds)) {
      const values = kind === "numeric" ? pool.map(({ fields }) => fields[name]).filter(Number.isFinite) : [];
      if (!values.length) continue;
      const [least, most] = this.#ranges.get(name) ?? [Infinity, -Infinity];
      this.#ranges.set(name, [Math.min(least, ...values), Math.max(most, ...values)]);
    }
    for (const row of this.#rows) row.offer?.();
  }

  /** Adds a condition, such as that a field is this value. */
  require(field, operator, value) {
    this.#rows.push(this.#rowOf({ field, [operator]: [value] }));
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
    this.#rows.push({ field, operator: operatorsOf(this.#kinds[field])[0] });
    this.#draw();
    byId("conditions").lastElementChild.querySelector("select").focus();
  }

  /** Reads the rows from the request; those without a value yet stay. */
  #take() {
    const { conditions } = this.#store.object("filters");
    const drafts = this.#rows.filter(isDraft);
    this.#rows = (Array.isArray(conditions) ? conditions : []).map((one) => this.#rowOf(one));
    this.#rows.push(...drafts);
    this.#draw();
  }

  #rowOf(condition) {
    const { field, ...parts } = isObject(condition) ? condition : {};
    const given = Object.entries(parts).filter(([, value]) => value !== null);
    const [operator, value] = given[0] ?? [];
    const kind = Object.hasOwn(this.#kinds, field) ? this.#kinds[field] : undefined;
    const isShown = given.length === 1 && kind && operatorsOf(kind).includes(operator);
    // What its text would not give back, such as a value of two lines, is not to be written as text.
    const isText = isShown && same(valueOf(kind, operator, textOf(value)), value);
    return isText ? { field, operator, value } : { raw: condition };
  }

  /** Returns the rows that say something, each with its place in the request. */
  #said() {
    const said = this.#rows.filter((row) => !isDraft(row));
    said.forEach((row, place) => (row.place = `filters.conditions[${place}]`));
    return said;
  }

  /** Writes the rows that say something into the request. */
  #give() {
    const conditions = this.#said().map(conditionOf);
    const filters = { ...this.#store.object("filters"), conditions };
    if (!conditions.length) delete filters.conditions;
    const none = !Object.keys(filters).length;
    this.#store.change({ filters: none ? undefined : filters }, this);
  }

  #draw() {
    this.#said();
    const list = byId("conditions");
    const held = [...list.children].findIndex((item) => item.contains(document.activeElement));
    const { part } = document.activeElement?.dataset ?? {};
    list.replaceChildren(...this.#rows.map((row) => this.#rowElement(row)));
    // Who works by keyboard stays where he was.
    const item = list.children[held];
    (item?.querySelector(`[data-part="${part}"]`) ?? item?.querySelector("[data-part]"))?.focus();
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
      {
        type: "button",
        class: "quiet",
        "data-part": "remove",
        "aria-label": "Remove this condition",
        onclick: remove,
      },
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
      { "aria-label": "Ad field", "data-part": "field" },
      Object.keys(this.#kinds).map((name) => option(name, name, name === row.field)),
    );
    const operator = el(
      "select",
      { "aria-label": "Condition", "data-part": "operator" },
      operatorsOf(this.#kinds[row.field]).map((name) =>
        option(name, WORDS[name], name === row.operator),
      ),
    );
    field.addEventListener("change", () => {
      const [first] = operatorsOf(this.#kinds[field.value]);
      Object.assign(row, { field: field.value, operator: first, value: undefined });
      this.#give();
      this.#draw();
    });
    operator.addEventListener("change", () => {
      const wasDraft = isDraft(row);
      row.operator = operator.value;
      // A bound takes one number.
      const text = isBoundOf(row.operator) ? textOf(row.value).split("\n")[0] : textOf(row.value);
      row.value = valueOf(this.#kinds[row.field], row.operator, text);
      if (!wasDraft) this.#give();
      this.#draw();
    });
    return el("div", { class: "condition-head" }, field, operator);
  }

  #drawValue(row, holder) {
    const label = `Value of ${row.field}`;
    const set = (text) => {
      row.value = valueOf(this.#kinds[row.field], row.operator, text);
      this.#give();
    };
    const isBound = isBoundOf(row.operator);
    const text = textOf(row.value);
    const input = el(isBound ? "input" : "textarea", {
      "aria-label": isBound ? label : `${label}, one a line`,
      placeholder: isBound ? "number" : "one value a line",
      autocomplete: "off",
      spellcheck: "false",
      rows: isBound ? null : Math.min(4, text.split("\n").length),
      "data-part": "value",
      "data-place": row.place ?? "filters.conditions",
      onchange: () => {
        set(input.value);
        input.dataset.place = row.place ?? "filters.conditions";
      },
    });
    input.value = text;
    const more = isBound ? this.#bounds(row, input, set) : this.#facets(row);
    holder.replaceChildren(el("div", { "data-problem-after": true }, input), more ?? "");
  }

  #bounds(row, input, set) {
    const [least, most] = this.#ranges.get(row.field) ?? [0, 0];
    if (least === most) return null;
    const isWhole = Number.isInteger(least) && Number.isInteger(most);
    // At an end it is that end: rounded, it would leave out the ads that are there.
    const chosen = () => {
      const value = Number(slider.value);
      return String(isWhole || value === least || value === most ? value : rounded(value, most - least));
    };
    const slider = el("input", {
      type: "range",
      "data-part": "slider",
      "aria-label": `${WORDS[row.operator]}, ${row.field}`,
      min: least,
      max: most,
      step: isWhole ? 1 : "any",
      oninput: () => (input.value = chosen()),
      onchange: () => set(chosen()),
    });
    slider.value = isDraft(row) ? (row.operator === "at_most" ? most : least) : Number(row.value);
    const [from, to] = [least, most].map((value) => rounded(value, most - least));
    return el("div", { class: "bounds" }, slider, el("small", {}, `${from} to ${to} among the candidates so far`));
  }

  #facets(row) {
    const counts = new Map();
    for (const { fields } of this.#pool) {
      for (const value of [fields[row.field]].flat()) {
        if (value != null) counts.set(value, (counts.get(value) ?? 0) + 1);
      }
    }
    const best = [...counts].sort((one, other) => other[1] - one[1]).slice(0, MOST_FACETS);
    const chips = best
      .filter(([value]) => !row.value?.includes(value))
      .map(([value, count]) => {
        const add = () => {
          const condition = { field: row.field, [row.operator]: [...(row.value ?? []), value] };
          this.#rows[this.#rows.indexOf(row)] = this.#rowOf(condition);
          this.#give();
          this.#draw();
        };
        const text = el("span", {}, String(value));
        const label = `Add ${value}, which ${count} candidates have`;
        const props = {
          type: "button",
          class: "chip",
          "data-part": "chip",
          "aria-label": label,
          onclick: add,
        };
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
