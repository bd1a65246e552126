// The request: one JSON object that every control reads and changes.

import { asArray, asObject, byId, copyOf, element, isObject, number, shown } from "./page.js";

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
const CONDITIONS = ["filters", "conditions"];
const EXCLUDED = ["filters", "excluded_ads"];
const MAX_SUGGESTIONS = 50;

let request = {};
let bundle = null;
let samples = [];
let suggested = [];
let listener = () => {};

export const current = () => request;

/** Calls `run` with the path of each change, such as ["context", "age"]; [] is the whole request. */
export function onChange(run) {
  listener = run;
}

function replace(other, path = []) {
  request = other;
  draw();
  listener(path);
}

/** Sets the value at a path; undefined removes it and the objects that it leaves empty. */
function change(path, value) {
  replace(put(request, path, value), path);
}

function put(object, [name, ...rest], value) {
  const copy = { ...asObject(object) };
  copy[name] = rest.length ? put(copy[name], rest, value) : value;
  const isEmpty = rest.length > 0 && !Object.keys(copy[name]).length;
  if (copy[name] === undefined || isEmpty) delete copy[name];
  return copy;
}

const valueAt = (path) => path.reduce((part, name) => asObject(part)[name], request);

/** Returns the trained heads of a release: {name, output, kind}; kind is the class of its color. */
export const headsOf = ({ outputs, heads }) =>
  Object.entries(outputs)
    .map(([name, output], index) => ({ name, output, kind: `head${index % 3}` }))
    .filter(({ name }) => heads[name]);

/** Returns head -> weight; the default of the release where the request has no number. */
export function weightsOf({ weights, ...release }) {
  const given = asObject(request.weights);
  const weight = (name) => (Number.isFinite(given[name]) ? given[name] : weights[name]);
  return Object.fromEntries(headsOf(release).map(({ name }) => [name, weight(name)]));
}

/** Parses a number or a list; any other text is sent unchanged, for the service to reject. */
function typed(kind, text) {
  if (text === "") return undefined;
  if (kind === "categorical" || kind === "text") return text;
  if (text.trim() && Number.isFinite(Number(text))) return Number(text);
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

const written = (value) => (typeof value === "object" && value ? JSON.stringify(value) : String(value ?? ""));

/** Makes the controls of a release. The first release fills in its first sample request. */
export function makeControls(release) {
  const isFirst = bundle === null;
  bundle = release;
  samples = bundle.sample_requests.map((sample) =>
    Object.fromEntries(Object.entries(sample).filter(([, value]) => value !== null)),
  );
  const text = (sample) =>
    bundle.query_fields
      .filter(({ name }) => sample[name] !== undefined)
      .map(({ name }) => `${name} ${shown(sample[name])}`)
      .join(" · ");
  byId("sample").replaceChildren(
    ...samples.map((sample, index) => new Option(`${index + 1}. ${text(sample).slice(0, 60)}`, index)),
    new Option("no known fields", ""),
  );
  if (isFirst && samples.length) request = { context: samples[0] };
  byId("fields").replaceChildren(...bundle.query_fields.map(fieldInput), limitInput("k", bundle.limits.default_k));
  byId("weights").replaceChildren(...headsOf(bundle).map(weightSlider));
  byId("weights-box").hidden = !headsOf(bundle).length;
  const fields = bundle.ad_fields.filter(({ kind }) => kind in OPERATORS);
  byId("new-filter").hidden = !fields.length;
  byId("ad-field").replaceChildren(...fields.map(({ name }) => new Option(name)));
  chooseField();
  draw();
}

const pathOf = (name) => [Object.hasOwn(asObject(request.user), name) ? "user" : "context", name];

function fieldInput({ name, kind }) {
  const input = element("input", { placeholder: "missing", spellcheck: false });
  input.onchange = () => change(pathOf(name), typed(kind, input.value));
  input.read = () => valueAt(pathOf(name));
  return element("label", { className: kind === "categorical_list" ? "wide" : "" }, name, input);
}

function limitInput(name, placeholder) {
  const input = element("input", { placeholder });
  input.onchange = () => change([name], typed("numeric", input.value));
  input.read = () => request[name];
  return element("label", {}, name, input);
}

function weightSlider({ name, kind }) {
  const label = copyOf("weight");
  const [key, slider] = label.children;
  key.textContent = name;
  key.className = `key ${kind}`;
  // Standardized weights may be far from 1.
  const top = 5 * (bundle.weights[name] > 0 ? bundle.weights[name] : 1);
  Object.assign(slider, { max: top, step: top / 50, id: `weight-${name}` });
  slider.oninput = () => change(["weights", name], Number(slider.value));
  return label;
}

/** Shows the request in all controls. */
function draw() {
  for (const input of document.querySelectorAll("#fields input")) input.value = written(input.read());
  const { user, context = {} } = request;
  const offered = [...samples, {}].map((sample) => JSON.stringify(sample));
  byId("sample").selectedIndex = user ? -1 : offered.indexOf(JSON.stringify(context));
  for (const [name, weight] of Object.entries(weightsOf(bundle))) {
    const [, slider, output] = byId(`weight-${name}`).parentNode.children;
    slider.value = weight;
    output.textContent = number(weight);
  }
  const chip = (path) => (value, index, all) => {
    const others = all.filter((_, place) => place !== index);
    const onclick = () => change(path, others.length ? others : undefined);
    const text = path === EXCLUDED ? `not ${shown(value)}` : described(value);
    return element("button", { type: "button", className: "chip", title: "Remove", onclick }, `${text} ✕`);
  };
  byId("filters").replaceChildren(
    ...asArray(valueAt(CONDITIONS)).map(chip(CONDITIONS)),
    ...asArray(valueAt(EXCLUDED)).map(chip(EXCLUDED)),
  );
  byId("json").value = JSON.stringify(request, null, 2);
}

function described(condition) {
  const { field, ...parts } = asObject(condition);
  const texts = Object.entries(parts).map(([operator, value]) => `${WORDS[operator] ?? operator} ${shown(value)}`);
  return field && texts.length ? `${field} ${texts.join(" and ")}` : JSON.stringify(condition);
}

const kindOf = (field) => bundle.ad_fields.find(({ name }) => name === field)?.kind;

export const isFilterable = (field) => kindOf(field) in OPERATORS;

/** Adds a condition, such as ("color", "any_of", "red"), or a value to such a condition. */
export function restrict(field, operator, value) {
  const conditions = asArray(valueAt(CONDITIONS));
  const isBound = operator.startsWith("at_");
  const same = conditions.find((other) => isObject(other) && other.field === field && Array.isArray(other[operator]));
  const merged = { ...same, field, [operator]: isBound ? value : [...(same?.[operator] ?? []), value] };
  change(CONDITIONS, [...conditions.filter((other) => other !== same), merged]);
}

export const exclude = (adId) => change(EXCLUDED, [...new Set([...asArray(valueAt(EXCLUDED)), adId])]);

function chooseField() {
  const kind = kindOf(byId("ad-field").value);
  byId("operator").replaceChildren(...(OPERATORS[kind] ?? []).map((name) => new Option(WORDS[name], name)));
  suggestValues(suggested);
}

/** Suggests the candidates' values of the chosen field, most frequent first. */
export function suggestValues(candidates) {
  suggested = candidates;
  const counts = new Map();
  for (const value of candidates.flatMap(({ fields }) => fields[byId("ad-field").value] ?? [])) {
    counts.set(value, (counts.get(value) ?? 0) + 1);
  }
  const best = [...counts].sort((a, b) => b[1] - a[1]).slice(0, MAX_SUGGESTIONS);
  byId("values").replaceChildren(...best.map(([value, ads]) => new Option(`${ads} candidates`, value)));
}

function addFilter() {
  const [field, operator] = [byId("ad-field").value, byId("operator").value];
  const value = typed(kindOf(field) === "numeric" ? "numeric" : "text", byId("value").value);
  if (value === undefined) return byId("value").focus();
  byId("value").value = "";
  restrict(field, operator, value);
}

/** Takes the request from the JSON text; returns why it cannot, or "". */
export function readJson() {
  try {
    const other = JSON.parse(byId("json").value || "{}");
    if (!isObject(other)) return 'Expected a JSON object, such as {"k": 10}.';
    if (JSON.stringify(other) !== JSON.stringify(request)) replace(other);
    return "";
  } catch (error) {
    return `The request is not valid JSON: ${error.message}`;
  }
}

byId("sample").onchange = ({ target }) => {
  const { user, context, ...rest } = request;
  const sample = samples[target.value];
  replace(sample ? { context: sample, ...rest } : rest);
};
byId("ad-field").onchange = chooseField;
byId("add-filter").onclick = addFilter;
byId("value").onkeydown = (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  addFilter();
};
byId("default-weights").onclick = () => change(["weights"], undefined);
