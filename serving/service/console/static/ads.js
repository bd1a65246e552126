// The table of ads: pictures, titles, scores, and why an ad has its place.

import { byId, copyOf, element, number, row, shown } from "./page.js";
import { exclude, isFilterable, restrict } from "./request.js";

const MAX_SUMMARY = 5;
const TITLE = /(^|[_ .-])(title|name|headline)$/i;
const PICTURE = /(^|[_ .-])(image|img|picture|photo|thumbnail)([_ .-]?(url|link|src))?$/i;
// Ads whose details are open.
const open = new Set();

const sum = (values) => values.reduce((total, value) => total + value, 0);
const partsOf = (ad, { heads, weights }) => heads.map(({ name, output }) => weights[name] * ad[output]);

/** Returns candidates by utility, each with its `utility` and `rank`; ties stay in retrieval order. */
export const rankedBy = (view, candidates) =>
  candidates
    .map((ad) => ({ ...ad, utility: sum(partsOf(ad, view)) }))
    .sort((a, b) => b.utility - a.utility)
    .map((ad, index) => ({ ...ad, rank: index + 1 }));

/**
 * Draws ads, best first.
 *
 * `view` has the `heads` and `weights`, all `candidates` in retrieval order, and `before`, the rank
 * of each ad id with the weights at first, or null.
 */
export function drawAds(ads, view) {
  const isRanked = ads.length > 0 && ads[0].utility !== null;
  const heads = isRanked ? view.heads : [];
  const most = ({ output }) => Math.max(0, ...view.candidates.map((ad) => ad[output])) || 1;
  const full = {
    heads: heads.map(most),
    utility: Math.max(...ads.map((ad) => sum(partsOf(ad, { ...view, heads }).map(Math.abs)))) || 1,
  };
  const titles = ["", "", "Ad", ...heads.map(({ name }) => name), isRanked ? "utility" : "retrieval score", ""];
  byId("columns").replaceChildren(...titles.map((title) => element("th", { scope: "col" }, title)));
  const buttons = () => [...byId("ads").querySelectorAll("td:last-child > button")];
  const place = buttons().indexOf(document.activeElement);
  byId("ads").replaceChildren(...ads.map((ad) => adRow(ad, { ...view, heads, full })));
  // The next ad takes the focus of an excluded one.
  if (place >= 0) (buttons()[place] ?? buttons().at(-1))?.focus();
}

function adRow(ad, view) {
  const node = copyOf("ad");
  const [rank, picture, name, utility, last] = node.children;
  node.dataset.ad = ad.ad_id;
  rank.firstElementChild.textContent = ad.rank;
  const [, move] = rank.children;
  move.textContent = moved(ad, view.before);
  move.className = move.textContent.startsWith("▲") ? "good" : "bad";

  const { title, url, others } = partsToShow(ad);
  const image = picture.firstElementChild;
  image.onerror = () => image.remove();
  if (url) image.src = url;
  else image.remove();

  const [heading, id, summary, details] = name.children;
  heading.textContent = title ?? ad.ad_id;
  id.textContent = title === null ? "" : ad.ad_id;
  const pairs = (others.length ? others : Object.entries(ad.fields)).filter(([, value]) => value !== null);
  summary.textContent = pairs
    .slice(0, MAX_SUMMARY)
    .map(([key, value]) => `${key} ${shown(value)}`)
    .join(" · ");
  details.open = open.has(ad.ad_id);
  details.ontoggle = () => (details.open ? open.add(ad.ad_id) : open.delete(ad.ad_id));
  const [, reasons, values] = details.children;
  reasons.append(...reasonsOf(ad, view).map((text) => element("li", {}, text)));
  values.append(...valueRows(ad));

  const isRanked = ad.utility !== null;
  const [total, bar] = utility.children;
  total.textContent = number(isRanked ? ad.utility : ad.retrieval_score);
  partsOf(ad, view).forEach((part, index) => {
    const { kind } = view.heads[index];
    bar.append(barOf(`${kind}${part < 0 ? " negative" : ""}`, Math.abs(part) / view.full.utility));
  });
  const cells = view.heads.map(({ output, kind }, index) => {
    const drawn = element("div", { className: "bar" }, barOf(kind, ad[output] / view.full.heads[index]));
    return element("td", { className: "score" }, number(ad[output]), drawn);
  });
  utility.before(...cells);
  const button = last.firstElementChild;
  button.setAttribute("aria-label", `Exclude ${ad.ad_id}`);
  button.onclick = () => exclude(ad.ad_id);
  return node;
}

/** Returns a part of a bar; `share` is its part of the width. */
export function barOf(className, share) {
  const part = element("span", { className });
  part.style.width = `${100 * Math.max(0, share)}%`;
  return part;
}

function moved(ad, before) {
  if (!before) return "";
  const was = before.get(ad.ad_id);
  if (was === ad.rank) return "=";
  return was > ad.rank ? `▲${was - ad.rank}` : `▼${ad.rank - was}`;
}

/** Returns an ad's title, the URL of its picture, and its other display values from the catalog. */
function partsToShow({ show }) {
  const known = Object.entries(show ?? {}).filter(([, value]) => value !== null && value !== "");
  const [titleName, title] = known.find(([name]) => TITLE.test(name)) ?? [];
  const pictures = known.map(([name, value]) => [name, PICTURE.test(name) ? pictureUrl(value) : null]);
  const [pictureName, url] = pictures.find(([, found]) => found) ?? [];
  const others = known.filter(([name]) => name !== titleName && name !== pictureName);
  return { title: title === undefined ? null : shown(title), url, others };
}

/** Returns the absolute form of a URL, which may be relative to the service; null for other values. */
function pictureUrl(value) {
  if (typeof value !== "string" || !URL.canParse(value, document.baseURI)) return null;
  const { protocol, href } = new URL(value, document.baseURI);
  return ["http:", "https:"].includes(protocol) ? href : null;
}

function reasonsOf(ad, view) {
  const { heads, weights, candidates } = view;
  const terms = heads.map(({ name, output }) => `${name} ${number(ad[output])} × ${number(weights[name])}`);
  const place = candidates.findIndex((other) => other.ad_id === ad.ad_id) + 1;
  const { rank_without_rules: rank, diversity_factor: factor, explored } = ad.explanation ?? {};
  return [
    heads.length > 0 && `Utility ${number(ad.utility)} = ${terms.join(" + ")}`,
    place > 0 && `Retrieval: ${place} of ${candidates.length}, score ${number(ad.retrieval_score)}`,
    rank && rank !== ad.rank && `Without rules: rank ${rank}`,
    factor !== undefined && factor !== 1 && `Diversity: utility × ${number(factor)}`,
    explored && "Drawn by exploration",
    ad.propensity !== 1 && `Probability of this place: ${number(ad.propensity)}`,
  ].filter(Boolean);
}

function valueRows(ad) {
  const button = (text, name, operator, value) => {
    const onclick = () => restrict(name, operator, value);
    return element("button", { type: "button", ariaLabel: `${text} ${name} ${shown(value)}`, onclick }, text);
  };
  const choices = (name, value) =>
    isFilterable(name) &&
    value !== null &&
    !Array.isArray(value) && [button("Only", name, "any_of", value), button("Without", name, "none_of", value)];
  return [
    ...Object.entries(ad.show ?? {}).map(([name, value]) => row(name, shown(value), "")),
    ...Object.entries(ad.fields).map(([name, value]) => row(name, shown(value), choices(name, value))),
  ];
}
