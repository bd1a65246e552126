// How many ads are left after each stage, and every candidate as a dot: across, its place by
// retrieval; up, its utility. The ads of the answer are lit.

import { byId, count, el, isCalm, number, svg } from "./dom.js";
import { hasScores } from "./ranking.js";

const HEIGHT = 190;
const MARGIN = { top: 14, right: 14, bottom: 26, left: 56 };

/** Draws the counts: [label, number, note] each, the last one is the answer. */
export function drawCounts(steps) {
  const most = Math.log(Math.max(2, ...steps.map(([, value]) => value ?? 1)));
  const items = steps.map(([label, value, note], place) => {
    const bar = el("span", { class: "funnel-bar", "aria-hidden": "true" });
    bar.style.width = `${Math.max(3, (100 * Math.log(Math.max(1.2, value ?? 1))) / most)}%`;
    return el(
      "li",
      { class: place === steps.length - 1 ? "last" : "" },
      el("strong", {}, value === null ? "…" : count(value)),
      el("span", {}, label),
      bar,
      note ? el("small", {}, note) : null,
    );
  });
  byId("funnel").replaceChildren(...items);
}

export class Scatter {
  #holder = byId("scatter");
  #dots = new Map();
  #ads = [];
  #isUtility = true;

  constructor() {
    new ResizeObserver(() => this.#resize()).observe(this.#holder);
    this.#holder.addEventListener("pointermove", (event) => this.#point(event));
    this.#holder.addEventListener("pointerleave", () => this.highlight(null));
  }

  /** Draws candidates anew, all on the ground first. */
  show(ads, chosen) {
    this.#dots.clear();
    this.#isUtility = ads.length > 0 && hasScores(ads[0]);
    this.#plot = svg("g", { class: "dots" });
    this.#axes = svg("g", { class: "axes" });
    this.#svg = svg("svg", { role: "img" }, this.#axes, this.#plot);
    for (const { ad_id: adId } of ads) {
      const dot = svg("circle", { r: 2.4 });
      this.#dots.set(adId, dot);
      this.#plot.append(dot);
    }
    this.#holder.replaceChildren(this.#svg);
    this.#ads = ads;
    this.#chosen = chosen;
    if (!isCalm()) {
      this.#layout(true);
      // So that there is a place to move from.
      void this.#svg.getBoundingClientRect();
    }
    this.#layout();
  }

  /** Moves the dots to their new utilities. */
  move(ads, chosen) {
    this.#ads = ads;
    this.#chosen = chosen;
    this.#layout();
  }

  /** Marks the dot of an ad and says what it is. */
  highlight(adId) {
    this.#plot?.querySelector(".near")?.classList.remove("near");
    const dot = this.#dots.get(adId);
    const ad = this.#ads.find((one) => one.ad_id === adId);
    dot?.classList.add("near");
    if (dot && ad) {
      const value = this.#isUtility ? ad.utility : ad.retrieval_score;
      byId("dot").textContent =
        `${ad.ad_id} · place ${ad.place} by retrieval, ${ad.rank} by utility (${number(value)})`;
    } else {
      byId("dot").textContent = this.#legend();
    }
  }

  #svg = null;
  #plot = null;
  #axes = null;
  #chosen = new Map();
  #width = 0;
  #points = [];

  /** A new width is no news of the ads: the dots are there at once. */
  #resize() {
    if (this.#holder.clientWidth === this.#width) return;
    this.#holder.classList.add("still");
    this.#layout();
    void this.#svg?.getBoundingClientRect();
    this.#holder.classList.remove("still");
  }

  #legend() {
    if (!this.#ads.length) return "";
    return this.#isUtility
      ? "Each dot is a candidate: across, its place by retrieval; up, its utility."
      : "Each dot is a candidate: across, its place by retrieval; up, its retrieval score.";
  }

  #value(ad) {
    return this.#isUtility ? ad.utility : ad.retrieval_score;
  }

  #layout(isFlat = false) {
    if (!this.#svg) return;
    const width = Math.max(220, this.#holder.clientWidth);
    this.#width = this.#holder.clientWidth;
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.#svg.setAttribute("width", width);
    this.#svg.setAttribute("height", HEIGHT);
    const values = this.#ads.map((ad) => this.#value(ad));
    const low = values.length ? Math.min(...values) : 0;
    const high = values.length ? Math.max(...values) : 1;
    const span = high - low || 1;
    const across = (place) =>
      MARGIN.left + ((width - MARGIN.left - MARGIN.right) * (place - 1)) / Math.max(1, this.#ads.length - 1);
    const ground = HEIGHT - MARGIN.bottom;
    const up = (value) => ground - ((ground - MARGIN.top) * (value - low)) / span;
    this.#points = this.#ads.map((ad) => [ad.ad_id, across(ad.place), up(this.#value(ad))]);
    for (const [adId, x, y] of this.#points) {
      const dot = this.#dots.get(adId);
      if (!dot) continue;
      const isChosen = !isFlat && this.#chosen.has(adId);
      dot.style.transform = `translate(${x}px, ${isFlat ? ground : y}px)${isChosen ? " scale(2.1)" : ""}`;
      dot.classList.toggle("chosen", isChosen);
    }
    // The last ones lie on top.
    for (const adId of this.#chosen.keys()) {
      const dot = this.#dots.get(adId);
      if (dot && dot.parentNode.lastChild !== dot) this.#raise(dot);
    }
    this.#drawAxes(width, ground, low, high, across);
    const best = [...this.#chosen.keys()].length;
    this.#svg.setAttribute(
      "aria-label",
      `${count(this.#ads.length)} candidates by place in retrieval and ` +
        `${this.#isUtility ? "utility" : "retrieval score"}, from ${number(low)} to ${number(high)}; ` +
        `${best} are in the answer below.`,
    );
    this.highlight(null);
  }

  #raise(dot) {
    // Moving a node ends its transition, so only where it has none.
    if (!dot.getAnimations().length) this.#plot.append(dot);
  }

  #drawAxes(width, ground, low, high, across) {
    const text = (x, y, anchor, content) => svg("text", { x, y, "text-anchor": anchor }, content);
    const last = this.#ads.length;
    const line = (y) => svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y });
    this.#axes.replaceChildren(
      line(ground + 5),
      line(MARGIN.top),
      text(MARGIN.left - 8, MARGIN.top + 4, "end", number(high)),
      text(MARGIN.left - 8, ground + 4, "end", number(low)),
      text(MARGIN.left, HEIGHT - 4, "start", "1"),
      text(width - MARGIN.right, HEIGHT - 4, "end", count(last)),
      text(across((last + 1) / 2), HEIGHT - 4, "middle", "place by retrieval"),
    );
  }

  #point(event) {
    if (!this.#svg || !this.#ads.length) return;
    const box = this.#svg.getBoundingClientRect();
    let near = null;
    let least = 22 ** 2;
    for (const [adId, x, y] of this.#points) {
      const apart = (box.x + x - event.clientX) ** 2 + (box.y + y - event.clientY) ** 2;
      if (apart < least) [near, least] = [adId, apart];
    }
    if (near !== null) this.highlight(near);
  }
}
