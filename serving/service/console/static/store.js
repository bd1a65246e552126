// The request that is being put together: one JSON object that every control reads and changes.

export const isObject = (value) =>
  value !== null && typeof value === "object" && !Array.isArray(value);

export class Store extends EventTarget {
  #request = {};

  get request() {
    return this.#request;
  }

  /**
   * Replaces the request.
   *
   * `source` is the control that did it and need not draw itself anew; `what` says what must
   * follow: "scores" stay as they are (weights), or there are "candidates" to be found anew.
   */
  replace(request, source, what = "candidates") {
    this.#request = request;
    this.dispatchEvent(new CustomEvent("change", { detail: { source, what } }));
  }

  /** Replaces parts of the request; undefined takes a part out. */
  change(parts, source, what) {
    const request = { ...this.#request, ...parts };
    for (const name of Object.keys(request)) if (request[name] === undefined) delete request[name];
    this.replace(request, source, what);
  }

  /** Returns a part that is to be an object, or an empty one where it is something else. */
  object(name) {
    const value = this.#request[name];
    return isObject(value) ? value : {};
  }
}
