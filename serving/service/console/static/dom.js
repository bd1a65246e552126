// Builds elements. Values of a data set become text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Returns an element; `on…` attributes are listeners, false and null ones are left out. */
export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** Returns an SVG element. */
export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** Sets a text only where it differs, so that live regions say nothing twice. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Moves as the user's system asks. */
export const isCalm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Returns a score as short as it can be read and compared. */
export function number(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 0.0001 || size >= 1e7) return value.toExponential(2);
  if (size >= 1000) return value.toLocaleString("en", { maximumFractionDigits: 0 });
  return size >= 1 ? value.toFixed(3) : value.toFixed(4);
}

/** Returns a number with as many decimals as tell a thousandth of a span. */
export function rounded(value, span) {
  const decimals = 3 - Math.floor(Math.log10(span));
  return Number(value.toFixed(Math.min(100, Math.max(0, decimals))));
}

export const count = (value) => Number(value).toLocaleString("en");

export const milliseconds = (value) =>
  `${value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(2)} ms`;

/** Returns a raw field value as text. */
export function shown(value) {
  if (value === null || value === undefined) return "missing";
  if (Array.isArray(value)) return value.length ? value.map(shown).join(", ") : "empty list";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Returns the function so that it runs once, when no call came for a while. */
export function debounced(milliseconds, run) {
  let timer = 0;
  const later = (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...values), milliseconds);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}
