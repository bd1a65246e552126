// Which ads are eligible: conditions on ad fields, and excluded ads.

import { asArray, byId, html, isObject, render, shown, typed } from "./html.js";
import { change, valueAt } from "./request.js";

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
  text: ["any_of", "none_of"],
};
const MAX_SUGGESTIONS = 50;
const CONDITIONS = ["filters", "conditions"];
const EXCLUDED = ["filters", "excluded_ads"];

let adFields = [];
// A condition without a value, which is therefore not in the request yet.
let draft = null;

const kindOf = (field) => adFields.find(({ name }) => name === field)?.kind;
const isBound = (operator) => operator.startsWith("at_");
const newRow = (field) => ({ field, operator: OPERATORS[kindOf(field)][0], values: [] });

/** Adds a condition, such as ("color", "any_of", "red"). */
export const restrict = (field, operator, value) =>
  setRows([...rows(), { field, operator, values: [value] }]);

export const exclude = (adId) => change(EXCLUDED, [...new Set([...asArray(valueAt(EXCLUDED)), adId])]);

/** Returns the value of a text, or undefined if a one-line input cannot hold it. */
function read(field, text) {
  if (text === "" || /[\r\n]/.test(text)) return undefined;
  return kindOf(field) === "numeric" ? typed(text) : text;
}

/** Returns a condition as {field, operator, values}, or as {raw} if the controls cannot show it. */
function rowOf(condition) {
  const { field, ...parts } = isObject(condition) ? condition : {};
  const [[operator, value] = [], ...others] = Object.entries(parts).filter(([, part]) => part !== null);
  const isKnown = !others.length && OPERATORS[kindOf(field)]?.includes(operator);
  const values = asArray(isBoundValue(operator, value) ? [value] : value);
  const isShown =
    isKnown && values.length > 0 && values.every((value) => read(field, String(value)) === value);
  return isShown ? { field, operator, values } : { raw: condition };
}

const isBoundValue = (operator, value) =>
  operator !== undefined && isBound(operator) && !Array.isArray(value);

const rows = () => [...asArray(valueAt(CONDITIONS)).map(rowOf), ...(draft ? [draft] : [])];

/** Writes the rows into the request; one without a value is the draft. */
function setRows(all) {
  draft = all.find(({ values }) => values?.length === 0) ?? null;
  const conditions = all
    .filter(({ values }) => values?.length !== 0)
    .map(({ raw, field, operator, values }) =>
      values ? { field, [operator]: isBound(operator) ? values[0] : values } : raw,
    );
  change(CONDITIONS, conditions.length ? conditions : undefined);
}

export function drawFilters(bundle) {
  adFields = bundle.ad_fields.filter(({ kind }) => kind in OPERATORS);
  // Another release may not have the draft's field.
  if (draft && !kindOf(draft.field)) draft = null;
  byId("add-filter").hidden = !adFields.length;
  byId("add-filter").onclick = () => {
    draft = newRow(adFields[0].name);
    drawFilters(bundle);
    byId("conditions").lastElementChild.querySelector("select").focus();
  };
  render("conditions", rows().map(rowControls));
  const excluded = asArray(valueAt(EXCLUDED));
  const chip = (adId, index) => {
    const others = excluded.filter((other) => other !== adId);
    const remove = () => change(EXCLUDED, others.length ? others : undefined);
    return html`
      <button type="button" id="excluded-${index}" class="chip" aria-label="Do not exclude ${shown(adId)}"
        onclick="${remove}">${shown(adId)} ✕</button>`;
  };
  render("excluded", excluded.length > 0 && ["Excluded: ", ...excluded.map(chip)]);
  const allowed = valueAt(["filters", "allowed_ads"]);
  render("allowed", Array.isArray(allowed) && `Only ${allowed.length} ads are eligible: allowed_ads in the JSON.`);
}

function rowControls(row, index) {
  const id = `condition-${index}`;
  const place = row === draft ? "filters.conditions" : `filters.conditions[${index}]`;
  // Reads the rows at the time of the event: others may have changed since.
  const set = (parts) => setRows(rows().map((other, at) => (at === index ? { ...row, ...parts } : other)));
  const remove = () => setRows(rows().filter((_, at) => at !== index));
  const button = html`
    <button type="button" id="${id}-remove" aria-label="Remove this condition" onclick="${remove}">
      ✕
    </button>`;
  if ("raw" in row) {
    return html`<li data-place="${place}"><code>${JSON.stringify(row.raw)}</code>${button}</li>`;
  }
  const { field, operator, values } = row;
  const option = (value, text, chosen) =>
    html`<option value="${value}" selected="${value === chosen}">${text}</option>`;
  const setOperator = ({ target: { value } }) =>
    set({ operator: value, values: isBound(value) ? values.slice(0, 1) : values });
  const setValue = (at, value) =>
    set({ values: values.toSpliced(at, 1, ...(value === undefined ? [] : [value])) });
  const valueInput = (value, at) => html`
    <input id="${id}-${at}" class="wide" aria-label="Value of ${field}" data-place="${place}"
      list="values-${adFields.findIndex(({ name }) => name === field)}" autocomplete="off" spellcheck="false"
      placeholder="${at ? "another value" : "value"}" value="${value}"
      onchange="${({ target }) => setValue(at, read(field, target.value))}">`;
  return html`
    <li>
      <select id="${id}-field" aria-label="Ad field" onchange="${({ target }) => set(newRow(target.value))}">
        ${adFields.map(({ name }) => option(name, name, field))}
      </select>
      <select id="${id}-operator" aria-label="Condition" onchange="${setOperator}">
        ${OPERATORS[kindOf(field)].map((name) => option(name, WORDS[name], operator))}
      </select>
      ${button}
      ${(isBound(operator) && values.length ? values : [...values, ""]).map(valueInput)}
    </li>`;
}

/** Suggests the candidates' values in the inputs of conditions, most frequent first. */
export function suggestValues(candidates) {
  render(
    "suggestions",
    adFields.map(({ name }, index) => {
      const counts = new Map();
      for (const value of candidates.flatMap(({ fields }) => fields[name] ?? [])) {
        if (read(name, String(value)) === value) counts.set(value, (counts.get(value) ?? 0) + 1);
      }
      const best = [...counts].sort((a, b) => b[1] - a[1]).slice(0, MAX_SUGGESTIONS);
      const options = best.map(([value, ads]) => html`<option value="${value}">${ads} candidates</option>`);
      return html`<datalist id="values-${index}">${options}</datalist>`;
    }),
  );
}
