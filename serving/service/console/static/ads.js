// The ads of an answer: scores, what their utility is made of, and where they were before.

import { byId, count, el, isCalm, number, shown } from "./dom.js";
import { HEADS, hasScores, partsOf } from "./ranking.js";

const MOST_SUMMARY = 5;

export class Ads {
  #filters;
  #scatter;
  #open = new Set();

  constructor(filters, scatter) {
    this.#filters = filters;
    this.#scatter = scatter;
  }

  /**
   * Draws ads, best first.
   *
   * `before` is ad id -> rank to compare with, or null; `most` is head -> the pool's greatest
   * score; `heads` are those of the release.
   */
  draw(ads, { weights, heads, before, most, kinds }) {
    const list = byId("ads");
    const old = new Map(
      [...list.children].map((item) => [item.dataset.ad, item.getBoundingClientRect().top]),
    );
    const greatest = Math.max(1e-12, ...ads.map((ad) => reach(ad, weights)));
    const held = document.activeElement?.closest?.("#ads > li");
    const place = [...list.children].indexOf(held);
    const { action } = document.activeElement?.dataset ?? {};
    list.replaceChildren(
      ...ads.map((ad) => this.#item(ad, { weights, heads, before, most, kinds, greatest })),
    );
    if (held) {
      // Where the ad has gone, the one that took its place: who leaves out many by keyboard stays.
      const items = [...list.children];
      const item = items.find((one) => one.dataset.ad === held.dataset.ad) ?? items[place] ?? items.at(-1);
      const same = [...(item?.querySelectorAll("[data-action]") ?? [])].find(
        (one) => one.dataset.action === action,
      );
      (same ?? item?.querySelector("[data-action]"))?.focus();
    }
    if (!isCalm()) for (const item of list.children) slide(item, old.get(item.dataset.ad));
  }

  #item(ad, view) {
    const item = el(
      "li",
      {
        class: "ad",
        "data-ad": ad.ad_id,
        onpointerenter: () => this.#scatter.highlight(ad.ad_id),
        onpointerleave: () => this.#scatter.highlight(null),
      },
      el("div", { class: "rank" }, el("b", {}, ad.rank), moved(ad, view.before)),
      el(
        "div",
        { class: "name" },
        el("h3", { title: ad.ad_id }, ad.ad_id, ad.explanation?.explored ? el("em", {}, "drawn") : null),
        summary(ad),
      ),
      el("div", { class: "scores" }, ...(hasScores(ad) ? this.#scores(ad, view) : [retrieval(ad)])),
    );
    const details = this.#details(ad, view);
    item.append(this.#buttons(ad, details), details);
    return item;
  }

  #scores(ad, { heads, most, weights, greatest }) {
    const scores = heads.map((head) => {
      const value = ad[HEADS[head].field];
      const bar = el("span", { class: `fill ${head}` });
      bar.style.width = `${Math.min(100, Math.max(0, (100 * value) / (most[head] || 1)))}%`;
      return score(HEADS[head].label, number(value), [bar], "");
    });
    const parts = Object.entries(partsOf(ad, weights)).map(([head, part]) => {
      const bar = el("span", { class: `fill ${head}${part < 0 ? " below" : ""}` });
      bar.style.width = `${(100 * Math.abs(part)) / greatest}%`;
      return bar;
    });
    return [...scores, score("Utility", number(ad.utility), parts, "utility")];
  }

  #buttons(ad, details) {
    const toggle = el(
      "button",
      {
        type: "button",
        class: "quiet",
        "data-action": "details",
        "aria-expanded": String(this.#open.has(ad.ad_id)),
        "aria-label": `Details of ${ad.ad_id}`,
        onclick: () => {
          details.hidden = !details.hidden;
          toggle.setAttribute("aria-expanded", String(!details.hidden));
          if (details.hidden) this.#open.delete(ad.ad_id);
          else this.#open.add(ad.ad_id);
        },
      },
      "Details",
    );
    const out = el(
      "button",
      {
        type: "button",
        class: "quiet",
        "data-action": "out",
        "aria-label": `Leave ${ad.ad_id} out`,
        title: "Leave this ad out",
        onclick: () => this.#filters.leaveOut(ad.ad_id),
      },
      el("span", { class: "narrow" }, "Leave out"),
      el("span", { class: "broad" }, "✕"),
    );
    return el("div", { class: "actions" }, toggle, out);
  }

  #details(ad, { weights, kinds }) {
    const rows = Object.entries(ad.fields).map(([name, value]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, shown(value), this.#choices(name, value, kinds))),
    );
    return el(
      "div",
      { class: "details", hidden: !this.#open.has(ad.ad_id) },
      el("p", { class: "why" }, why(ad, weights)),
      el("dl", {}, rows),
    );
  }

  #choices(name, value, kinds) {
    if (kinds[name] === undefined || value === null || Array.isArray(value)) return null;
    const choice = (text, operator) =>
      el(
        "button",
        {
          type: "button",
          class: "quiet",
          "data-action": `${operator} ${name}`,
          "aria-label": `${text} ${name} ${shown(value)}`,
          onclick: () => this.#filters.require(name, operator, value),
        },
        text,
      );
    return el("span", { class: "choices" }, choice("Only", "any_of"), choice("Without", "none_of"));
  }
}

/** Returns how far the bar of a utility's parts reaches. */
const reach = (ad, weights) =>
  hasScores(ad)
    ? Object.values(partsOf(ad, weights)).reduce((sum, part) => sum + Math.abs(part), 0)
    : 0;

function score(label, value, bars, kind) {
  return el(
    "div",
    { class: `score ${kind}` },
    el("span", { class: "label" }, label),
    el("span", { class: "number" }, value),
    el("span", { class: "meter", "aria-hidden": "true" }, bars),
  );
}

const retrieval = (ad) => score("Retrieval score", number(ad.retrieval_score), [], "");

/** The first fields that say something; the ad's key is said already. */
function summary({ fields, ad_id: adId }) {
  const known = Object.entries(fields).filter(
    ([, value]) =>
      value !== null && String(value) !== adId && !(Array.isArray(value) && !value.length),
  );
  const parts = known.slice(0, MOST_SUMMARY).map(([name, value]) =>
    el("span", { class: "tag", title: `${name}: ${shown(value)}` }, el("i", {}, name), shown(value)),
  );
  return el("p", { class: "summary" }, parts);
}

function moved(ad, before) {
  if (!before) return null;
  const was = before.get(ad.ad_id);
  if (was === undefined) return el("span", { class: "move up" }, "new");
  if (was === ad.rank) return el("span", { class: "move" }, "=");
  const up = was > ad.rank;
  return el(
    "span",
    { class: up ? "move up" : "move down", title: `was ${was}` },
    el("span", { "aria-hidden": "true" }, `${up ? "▲" : "▼"}${Math.abs(was - ad.rank)}`),
    el("span", { class: "unseen" }, `was ${was}`),
  );
}

function why(ad, weights) {
  const found = `Place ${count(ad.place ?? 0)} by retrieval (score ${number(ad.retrieval_score)}).`;
  const place = ad.place ? found : `Retrieval score ${number(ad.retrieval_score)}.`;
  const parts = [place];
  if (hasScores(ad)) {
    const terms = Object.entries(weights).map(
      ([head, weight]) => `${weight} × ${head} ${number(ad[HEADS[head].field])}`,
    );
    parts.push(`Utility ${number(ad.utility)} = ${terms.join(" + ")}.`);
  }
  const reason = ad.explanation;
  if (reason) {
    if (reason.rank_without_rules !== ad.rank) {
      parts.push(`Without rules it would be at ${reason.rank_without_rules}.`);
    }
    if (reason.diversity_factor !== 1) {
      parts.push(`Diversity left ${number(reason.diversity_factor)} of its worth.`);
    }
    if (reason.explored) parts.push("Its slot was drawn by exploration.");
  }
  if (ad.propensity !== undefined && ad.propensity !== 1) {
    parts.push(`Propensity ${number(ad.propensity)}.`);
  }
  return parts.join(" ");
}

function slide(item, from) {
  const to = item.getBoundingClientRect().top;
  if (from === undefined) {
    item.animate([{ opacity: 0 }, { opacity: 1 }], { duration: 250 });
  } else if (Math.abs(from - to) > 1) {
    const frames = [{ transform: `translateY(${from - to}px)` }, { transform: "none" }];
    item.animate(frames, { duration: 320, easing: "cubic-bezier(.2,.7,.2,1)" });
  }
}
