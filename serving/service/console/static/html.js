// Builds elements from template literals. The literal is the markup; values become text nodes,
// attributes and listeners, never markup.
//
//   html`<button id="${id}" disabled="${isOff}" onclick="${run}">${label}</button>`

const HOLE = /\u0001(\d+)\u0001/;
const TOKEN = /<\/[\w-]+>|<([\w-]+)((?:\s+[\w-]+(?:="[^"]*")?)*)\s*>|[^<]+/g;
const ATTRIBUTE = /([\w-]+)(?:="([^"]*)")?/g;
const VOID_TAGS = new Set(["img", "input"]);
const SVG_TAGS = new Set(["svg", "circle", "line", "rect", "text", "title"]);

/** Returns the element of a literal, or a fragment of several nodes. Whitespace between lines is dropped. */
export function html(strings, ...values) {
  const source = strings.reduce((text, part, index) => `${text}\u0001${index - 1}\u0001${part}`);
  const open = [document.createDocumentFragment()];
  for (const [token, name, attributes] of source.matchAll(TOKEN)) {
    if (token.startsWith("</")) open.pop();
    else if (!name) open.at(-1).append(...texts(token, values));
    else {
      const node = SVG_TAGS.has(name)
        ? document.createElementNS("http://www.w3.org/2000/svg", name)
        : document.createElement(name);
      for (const [, key, text] of attributes.matchAll(ATTRIBUTE)) set(node, key, text ?? true, values);
      open.at(-1).append(node);
      if (!VOID_TAGS.has(name)) open.push(node);
    }
  }
  const [root] = open;
  return root.childNodes.length === 1 ? root.firstChild : root;
}

function texts(token, values) {
  const parts = token.split(HOLE).map((part, index) => {
    if (index % 2) return values[part];
    return part.trim() === "" && part.includes("\n") ? null : part.replace(/\s*\n\s*/g, " ");
  });
  return parts.flat(Infinity).filter((part) => part != null && part !== false && part !== "");
}

function set(node, key, text, values) {
  const parts =
    text === true ? [true] : text.split(HOLE).map((part, index) => (index % 2 ? values[part] : part));
  const value = parts.length === 3 && !parts[0] && !parts[2] ? parts[1] : parts[0] === true || parts.join("");
  if (typeof value === "function") node.addEventListener(key.slice(2), value);
  else if (value === true) node.setAttribute(key, "");
  else if (value !== false && value != null) node.setAttribute(key, value);
}

export const byId = (id) => document.getElementById(id);

/** Replaces the content of an element; the control with the focus keeps it, by its id. */
export function render(id, content) {
  const holder = byId(id);
  const { activeElement: active } = document;
  const index = holder.contains(active) ? [...holder.querySelectorAll("button")].indexOf(active) : null;
  holder.replaceChildren(...[content].flat().filter(Boolean));
  if (index === null) return;
  // If the button is gone, for example because its ad was excluded, the next one gets the focus.
  const buttons = holder.querySelectorAll("button");
  (byId(active.id) ?? buttons[Math.min(index, buttons.length - 1)])?.focus();
}

// Drawing replaces controls, so it waits until the focus has moved and a click is complete.
let isPressed = false;
let waiting = null;
const drawNow = () => {
  const draw = isPressed ? null : waiting;
  if (draw) waiting = null;
  draw?.();
};
addEventListener("pointerdown", () => (isPressed = true), true);
for (const end of ["pointerup", "pointercancel"]) {
  addEventListener(
    end,
    () => {
      isPressed = false;
      setTimeout(drawNow);
    },
    true,
  );
}

/** Calls `draw` after the current event; only the last of several calls counts. */
export function later(draw) {
  waiting = draw;
  setTimeout(drawNow);
}

/** Sets a text only if it differs, so that live regions do not repeat it. */
export function say(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

export const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
export const asObject = (value) => (isObject(value) ? value : {});
export const asArray = (value) => (Array.isArray(value) ? value : []);

/** Parses a number or a vector; any other text is sent unchanged, for the service to reject. */
export function typed(text) {
  if (text.trim() && Number.isFinite(Number(text))) return Number(text);
  try {
    const value = JSON.parse(text);
    return Array.isArray(value) ? value : text;
  } catch {
    return text;
  }
}

/** Returns a raw field value as text. */
export function shown(value) {
  if (value === null || value === undefined) return "missing";
  if (Array.isArray(value)) return value.length ? value.map(shown).join(", ") : "empty list";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Returns a score with about four significant digits. */
export function number(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size && (size < 0.0001 || size >= 1e7)) return value.toExponential(2);
  if (size >= 1000) return value.toLocaleString("en", { maximumFractionDigits: 0 });
  return size ? value.toFixed(size >= 1 ? 3 : 4) : "0";
}

export const count = (value) => Number(value).toLocaleString("en");

export const milliseconds = (value) => `${value.toFixed(value >= 100 ? 0 : value >= 1 ? 1 : 2)} ms`;

export const row = (...cells) => html`<tr>${cells.map((cell) => html`<td>${cell}</td>`)}</tr>`;

/** Returns the head of a table. */
export const head = (...titles) =>
  html`<thead><tr>${titles.map((title) => html`<th scope="col">${title}</th>`)}</tr></thead>`;

/** Draws [start, length, class] parts of one bar, as shares of the whole, next to a number. */
export const bar = (...parts) => html`
  <svg class="bar" aria-hidden="true">
    ${parts.map(
      ([start, length, kind]) => html`
      <rect class="${kind}" x="${100 * start}%" width="${100 * Math.max(0, length)}%" height="100%"></rect>`,
    )}
  </svg>`;
