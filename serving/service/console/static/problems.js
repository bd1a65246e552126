// Shows the service's error messages next to the control that they are about.
//
// A message starts with the path of the value in the request, such as "context.age" or
// "filters.conditions[0]". Controls carry it in data-place.

import { el } from "./dom.js";

/** Returns the control that a message is about, or null. */
export function controlOf(message, root = document) {
  // The name of a field can contain a colon, a dot or a bracket.
  const found = [...root.querySelectorAll("[data-place]")].filter(({ dataset: { place } }) =>
    [": ", ".", "["].some((end) => message.startsWith(place + end)),
  );
  return found.sort((one, other) => other.dataset.place.length - one.dataset.place.length)[0] ?? null;
}

/** Removes all messages. */
export function clear(root = document) {
  for (const control of root.querySelectorAll("[aria-invalid]")) {
    control.removeAttribute("aria-invalid");
    control.removeAttribute("aria-describedby");
  }
  for (const text of root.querySelectorAll(".problem")) text.remove();
}

let marks = 0;

/** Shows a message next to a control. */
export function mark(control, message) {
  const id = `problem-${++marks}`;
  control.setAttribute("aria-invalid", "true");
  control.setAttribute("aria-describedby", id);
  const text = el("p", { class: "problem", id }, message);
  (control.closest("[data-problem-after]") ?? control).after(text);
  // Opens what hides the control, so that the message is visible.
  for (let node = control.parentElement; node; node = node.parentElement) {
    if (node.tagName === "DETAILS") node.open = true;
  }
}
