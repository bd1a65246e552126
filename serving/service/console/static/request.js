// The request: one JSON object that every control reads and changes.

import { asObject } from "./html.js";

let request = {};
let listener = () => {};

export const current = () => request;

/** Calls `run` with the path of each change, such as ["context", "age"]; [] is the whole request. */
export function onChange(run) {
  listener = run;
}

/** Replaces the request. */
export function replace(other, path = []) {
  request = other;
  listener(path);
}

/** Sets the value at a path; undefined removes it and the objects that it leaves empty. */
export function change(path, value) {
  replace(put(request, path, value), path);
}

function put(object, [name, ...rest], value) {
  const copy = { ...asObject(object) };
  copy[name] = rest.length ? put(copy[name], rest, value) : value;
  const isEmpty = rest.length > 0 && !Object.keys(copy[name]).length;
  if (copy[name] === undefined || isEmpty) delete copy[name];
  return copy;
}

/** Returns the value at a path, or undefined. */
export const valueAt = (path) => path.reduce((part, name) => asObject(part)[name], request);

export const RELEASES = ["stable", "canary"];

/** Returns the release to query: the stable one unless the request names another. */
export const releaseOf = () => (RELEASES.includes(request.release) ? request.release : "stable");

/** Returns the trained heads of a release: {name, output, kind}; kind is the class of its color. */
export const headsOf = (bundle) =>
  Object.entries(bundle.outputs)
    .map(([name, output], index) => ({ name, output, kind: `head${index % 3}` }))
    .filter(({ name }) => bundle.heads[name]);

/** Returns head -> weight; the default of the release where the request has no number. */
export function weightsOf(bundle) {
  const given = asObject(request.weights);
  const weight = (name) => (Number.isFinite(given[name]) ? given[name] : bundle.weights[name]);
  return Object.fromEntries(headsOf(bundle).map(({ name }) => [name, weight(name)]));
}
