// The controls of the request except its filters: query fields, limits, weights and rules.

import { asArray, asObject, byId, html, isObject, render, shown, typed } from "./html.js";
import {
  change, current, headsOf, RELEASES, releaseOf, replace, valueAt, weightsOf,
} from "./request.js";

const MAX_SAMPLE_NAME = 60;

let samples = [];
let isFilled = false;

/** Offers the sample requests of a release; the first release fills in its first one. */
export function drawSamples(bundle) {
  samples = bundle.sample_requests.map((sample) =>
    Object.fromEntries(Object.entries(sample).filter(([, value]) => value !== null)),
  );
  const options = samples.map((sample, index) => {
    const known = bundle.query_fields.filter(({ name }) => sample[name] !== undefined);
    const text = known.map(({ name }) => `${name} ${shown(sample[name])}`).join(" · ");
    const short = text.length > MAX_SAMPLE_NAME ? `${text.slice(0, MAX_SAMPLE_NAME)}…` : text;
    return html`<option value="${index}">${index + 1}. ${short || "no known fields"}</option>`;
  });
  render("sample", [...options, html`<option value="">No known fields</option>`]);
  const take = (sample) => {
    const { user, context, ...rest } = current();
    replace(sample ? { context: sample, ...rest } : rest);
  };
  byId("sample").onchange = ({ target }) => take(samples[target.value]);
  if (!isFilled) take(samples[0]);
  isFilled = true;
}

/** Selects the sample that the request has, or none if it differs from all of them. */
export function showSample() {
  const { user, context = {} } = current();
  const offered = [...samples, {}].map((sample) => JSON.stringify(sample));
  byId("sample").selectedIndex = user ? -1 : offered.indexOf(JSON.stringify(context));
}

const written = (value) =>
  isObject(value) || Array.isArray(value) ? JSON.stringify(value) : shown(value ?? "");

/** Returns an input for the value at a path of the request; clearing it removes the path. */
export function input(path, { id, label, placeholder = "", isText = false }) {
  const set = ({ target: { value } }) =>
    change(path, value === "" ? undefined : isText ? value : typed(value));
  return html`
    <input id="${id}" aria-label="${label}" placeholder="${placeholder}" data-place="${path.join(".")}"
      autocomplete="off" spellcheck="false" value="${written(valueAt(path))}" onchange="${set}">`;
}

function listInput(path, { id }) {
  const value = valueAt(path);
  const text = Array.isArray(value)
    ? value.map((item) => (item === null ? "" : written(item))).join("\n")
    : written(value);
  const set = ({ target }) => {
    const lines = target.value.split("\n").filter((line) => line !== "");
    change(path, lines.length ? lines : undefined);
  };
  return html`
    <textarea id="${id}" rows="2" placeholder="missing" spellcheck="false" data-place="${path.join(".")}"
      onchange="${set}">${text}</textarea>`;
}

/** Offers the stable release and the canary, if there is one. */
export function drawReleases({ releases = [] }) {
  const named = releases.filter(({ role }) => RELEASES.includes(role));
  byId("which-box").hidden = named.length < 2;
  render(
    "which",
    named.map(
      ({ role, version }) => html`
      <option value="${role}" selected="${role === releaseOf()}">${role}, release ${version}</option>`,
    ),
  );
  byId("which").onchange = ({ target: { value } }) => change(["release"], value);
}

export function drawFields(bundle) {
  const [user, context] = [asObject(current().user), asObject(current().context)];
  const known = bundle.query_fields.map(({ name }) => name);
  const others = Object.keys({ ...context, ...user }).filter((name) => !known.includes(name));
  render(
    "fields",
    [...bundle.query_fields, ...others.map((name) => ({ name }))].map(({ name, kind }, index) => {
      const path = [Object.hasOwn(user, name) ? "user" : "context", name];
      const id = `field-${index}`;
      if (kind === "categorical_list") {
        return html`
          <div class="wide">
            <label for="${id}">${name} <small>one value per line</small></label>
            ${listInput(path, { id })}
          </div>`;
      }
      const control = input(path, { id, placeholder: "missing", isText: !["numeric", "dense", "numeric_list"].includes(kind) });
      // Clearing an unknown field removes it from the request.
      const note = !kind && html` <small>not a field of release ${bundle.version}</small>`;
      return html`<div><label for="${id}">${name}${note}</label>${control}</div>`;
    }),
  );
  const { default_k: k, default_deadline_ms: deadline } = bundle.limits;
  const limit = (name, text, placeholder) => html`
    <div><label for="${name}">${text}</label>${input([name], { id: name, placeholder })}</div>`;
  render("limits", [limit("k", "Number of ads", k), limit("deadline_ms", "Deadline, ms", deadline)]);
}

export function drawWeights(bundle) {
  const weights = weightsOf(bundle);
  byId("weights-box").hidden = !headsOf(bundle).length;
  render(
    "weights",
    headsOf(bundle).map(({ name, kind }) => {
      const exact = input(["weights", name], {
        id: `exact-${name}`,
        label: `Weight of ${name}, any number`,
        placeholder: bundle.weights[name],
      });
      // Standardized weights may be far from 1.
      const top = 5 * (bundle.weights[name] > 0 ? bundle.weights[name] : 1);
      const drag = ({ target }) => {
        byId(`exact-${name}`).value = target.value;
        change(["weights", name], Number(target.value));
      };
      return html`
      <div class="row">
        <label for="weight-${name}" class="key ${kind}">${name}</label>
        <input type="range" id="weight-${name}" min="0" max="${top}" step="${top / 50}" value="${weights[name]}"
          oninput="${drag}">
        ${exact}
      </div>`;
    }),
  );
  const absent = Object.keys(bundle.heads).filter((name) => !bundle.heads[name]);
  const weak = Object.entries(bundle.weak_heads).map(
    ([name, why]) => html`<details><summary>${name} is weak</summary><p class="quiet">${why}</p></details>`,
  );
  const missing =
    absent.length > 0 && `This release has no ${absent.join(" or ")} head: its log had no such label.`;
  const unranked = "This release has no ranker: ads are in retrieval order.";
  render("absent", bundle.parts.includes("ranker") ? [missing, ...weak] : unranked);
}

/** Draws the first cap, the first diversity rule and exploration; the JSON can have more. */
export function drawRules(bundle) {
  const fields = bundle.ad_fields.filter(({ kind }) => !["numeric", "dense"].includes(kind)).map(({ name }) => name);
  render("rules", [
    ruleControls("caps", "Maximum number of ads with the same", "max", 2, fields),
    ruleControls(
      "diversity",
      "Penalty, from 0 to 1, for each ad above with the same",
      "penalty",
      0.3,
      fields,
    ),
    html`<label for="share">Share of positions drawn by exploration, from 0 to 1</label>`,
    input(["rules", "exploration", "share"], { id: "share", placeholder: "default" }),
  ]);
}

function ruleControls(name, text, part, initial, fields) {
  const path = ["rules", name];
  const [rule, ...others] = asArray(valueAt(path));
  // Prefixed, so that a field may be called "none".
  const choice = !Array.isArray(valueAt(path)) ? "default" : isObject(rule) ? `=${rule.field}` : "none";
  // The release may not have the field of the rule.
  const offered = isObject(rule) && !fields.includes(rule.field) ? [...fields, rule.field] : fields;
  const labels = [
    ["default", "the service's default"],
    ["none", "no field"],
    ...offered.map((field) => [`=${field}`, field]),
  ];
  const options = labels.map(
    ([value, label]) => html`<option value="${value}" selected="${value === choice}">${label}</option>`,
  );
  const choose = ({ target: { value } }) => {
    if (value === "default") change(path, undefined);
    else if (value === "none") change(path, []);
    else change(path, [{ field: value.slice(1), [part]: asObject(rule)[part] ?? initial }, ...others]);
  };
  const set = ({ target }) => change(path, [{ ...rule, [part]: typed(target.value) }, ...others]);
  return html`
    <label for="${name}-field">${text}</label>
    <div class="row">
      <select id="${name}-field" data-place="rules.${name}" onchange="${choose}">${options}</select>
      <input id="${name}-${part}" aria-label="${part} of ${name}" autocomplete="off"
        data-place="rules.${name}[0].${part}" disabled="${!isObject(rule)}"
        value="${written(asObject(rule)[part] ?? initial)}" onchange="${set}">
    </div>`;
}
