// The stages of an answer, one after another, as bars on one time line.

import { byId, el, milliseconds } from "./dom.js";

const LABELS = {
  query_tower: "Query tower",
  index: "Index search",
  features: "Ad features",
  ranker: "Ranker",
};

/** Returns [label, start, milliseconds, class] of each stage, and the whole. */
function stagesOf(stageMs, roundTripMs) {
  const stages = [];
  let start = 0;
  for (const [name, value] of Object.entries(stageMs)) {
    if (name === "total" || !Number.isFinite(value)) continue;
    stages.push([LABELS[name] ?? name.replaceAll("_", " "), start, value, "stage"]);
    start += value;
  }
  const total = Math.max(stageMs.total ?? start, start);
  stages.push(["Check, choose, wait", start, total - start, "rest"]);
  const whole = Math.max(roundTripMs, total);
  stages.push(["HTTP and browser", total, whole - total, "rest"]);
  return [stages, total, whole];
}

/** Draws the time of an answer. */
export function drawWaterfall(answer, roundTripMs) {
  const [stages, total, whole] = stagesOf(answer.stage_ms, roundTripMs);
  const rows = stages.map(([label, start, value, kind]) => {
    const bar = el("span", { class: `bar ${kind}` });
    bar.style.left = `${(100 * start) / whole}%`;
    bar.style.width = `max(2px, ${(100 * value) / whole}%)`;
    return el(
      "li",
      {},
      el("span", { class: "stage-name" }, label),
      el("span", { class: "track", "aria-hidden": "true" }, bar),
      el("span", { class: "time" }, milliseconds(value)),
    );
  });
  byId("stages").replaceChildren(...rows);
  byId("stage-total").textContent =
    `${milliseconds(total)} in the service, ${milliseconds(whole)} as this page saw it`;
}
