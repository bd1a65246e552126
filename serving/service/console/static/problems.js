// Shows what the service refuses beside the control that it is about.
//
// Controls carry data-place, the name that messages give to their part of the request, such as
// "context.age" or "filters.conditions[0]", and an empty element of class "problem" near by.

import { el } from "./dom.js";

/** Returns the place that a message names at its beginning, in one spelling. */
export function placeOf(message) {
  const text = message.replace(/^body\./, "");
  const end = text.indexOf(": ");
  const place = end < 0 ? text : text.slice(0, end);
  return place.replace(/\.(\d+)(?=\.|$)/g, "[$1]");
}

const covers = (place, named) =>
  named === place || named.startsWith(`${place}.`) || named.startsWith(`${place}[`);

/** Returns the control that a message is about, or null. */
export function controlOf(message, root = document) {
  const named = placeOf(message);
  // A field's own name may have a colon or a dot in it.
  const text = message.replace(/^body\./, "");
  const found = [...root.querySelectorAll("[data-place]")].filter(
    ({ dataset: { place } }) => covers(place, named) || text.startsWith(`${place}: `),
  );
  return found.sort((one, other) => other.dataset.place.length - one.dataset.place.length)[0] ?? null;
}

/** Takes all marks away. */
export function clear(root = document) {
  for (const control of root.querySelectorAll("[aria-invalid]")) {
    control.removeAttribute("aria-invalid");
    control.removeAttribute("aria-describedby");
  }
  for (const text of root.querySelectorAll(".problem")) text.remove();
}

let marks = 0;

/** Puts a message beside a control. */
export function mark(control, message) {
  const id = `problem-${++marks}`;
  control.setAttribute("aria-invalid", "true");
  control.setAttribute("aria-describedby", id);
  const text = el("p", { class: "problem", id }, message);
  (control.closest("[data-problem-after]") ?? control).after(text);
  // What hides the control must not hide the problem.
  for (let node = control.parentElement; node; node = node.parentElement) {
    if (node.tagName === "DETAILS") node.open = true;
  }
}
