// The ranked ads with their scores; the details show the parts of the utility and the fields.

import { bar, count, head, html, number, render, row, shown } from "./html.js";
import { exclude, restrict } from "./filters.js";

const MAX_FIELDS_IN_SUMMARY = 5;
const open = new Set();

const sum = (values) => values.reduce((total, value) => total + value, 0);
const partsOf = (ad, weights, heads) => heads.map(({ name, output }) => weights[name] * ad[output]);

/** Returns the utility of an ad, the sum of weight times score, or null if it has no scores. */
export const utilityOf = (ad, weights, heads) =>
  ad.utility === null ? null : sum(partsOf(ad, weights, heads));

/** Returns candidates by utility, each with its `utility` and `rank`. */
export const rankedBy = (weights, heads, candidates) =>
  // Ties, and candidates without scores, stay in retrieval order.
  candidates
    .map((ad) => ({ ...ad, utility: utilityOf(ad, weights, heads) }))
    .sort((a, b) => b.utility - a.utility)
    .map((ad, index) => ({ ...ad, rank: index + 1 }));

/**
 * Draws ads, best first.
 *
 * `view` has heads, weights and `adFields` of the release, all `candidates` in retrieval order,
 * `before`, the earlier rank of each ad id, or null, and `rival`, the {name, ranks} of the other
 * release, or null.
 */
export function drawAds(ads, view) {
  const { heads, candidates, weights } = view;
  const isRanked = ads.length > 0 && ads[0].utility !== null;
  const max = Object.fromEntries(
    heads.map(({ output }) => [output, Math.max(0, ...candidates.map((ad) => ad[output]))]),
  );
  const reach = Math.max(...ads.map((ad) => sum(partsOf(ad, weights, heads).map(Math.abs))));
  const maxima = heads.map(({ name, output }) => `${name} ${number(max[output])}`).join(", ");
  render(
    "scales",
    isRanked &&
      `A full bar is the highest score among the ${count(candidates.length)} candidates: ${maxima}. ` +
        `The parts of the utility share one scale, up to ${number(reach)}; negative parts are pale.`,
  );
  render(
    "ads",
    ads.map((ad) => adItem(ad, { ...view, max, reach })),
  );
}

function adItem(ad, view) {
  const fold = ({ target }) => (target.open ? open.add(ad.ad_id) : open.delete(ad.ad_id));
  const { title, picture, others } = partsToShow(ad);
  const small = (text) => html`<small>${text}</small>`;
  return html`
    <li data-ad="${ad.ad_id}">
      <div class="rank"><b>${ad.rank}</b>${moved(ad, view.before)}</div>
      <div class="name">
        ${
          picture &&
          html`<img src="${picture}" alt="" loading="lazy" onerror="${({ target }) => target.remove()}">`
        }
        <h3>
          <span>${title ?? ad.ad_id}</span>
          ${title != null && small(ad.ad_id)}
          ${ad.explanation?.explored && small("drawn by exploration")}
        </h3>
        <p class="quiet">${summary(ad, others)}</p>
        ${view.rival && html`<p class="quiet">${rankIn(view.rival, ad)}</p>`}
      </div>
      <div class="scores">${scores(ad, view)}</div>
      <button type="button" id="exclude-${ad.ad_id}" aria-label="Exclude ${ad.ad_id}" title="Exclude this ad"
        onclick="${() => exclude(ad.ad_id)}">✕</button>
      <details open="${open.has(ad.ad_id)}" ontoggle="${fold}">
        <summary aria-label="Details of ${ad.ad_id}">Details</summary>
        <div class="tables">${utilityTable(ad, view)}${fieldTable(ad, view)}</div>
      </details>
    </li>`;
}

const score = (label, value, drawn = null) => html`
  <div class="score"><span class="quiet">${label}</span><span>${number(value)}</span>${drawn}</div>`;

function scores(ad, { heads, weights, max, reach }) {
  if (ad.utility === null) return score("retrieval score", ad.retrieval_score);
  let end = 0;
  const parts = partsOf(ad, weights, heads).map((part, index) => {
    const length = Math.abs(part) / (reach || 1);
    end += length;
    return [end - length, length, `${heads[index].kind}${part < 0 ? " negative" : ""}`];
  });
  const bars = heads.map(({ name, output, kind }) =>
    score(name, ad[output], bar([0, ad[output] / (max[output] || 1), kind])),
  );
  return [...bars, score("utility", ad.utility, bar(...parts))];
}

const TITLE = /(^|[_ .-])(title|name|headline)$/i;
const PICTURE = /(^|[_ .-])(image|img|picture|photo|thumbnail)([_ .-]?(url|link|src))?$/i;

/** Returns an ad's title, the URL of its picture, and its other display values from the catalog. */
function partsToShow({ show }) {
  const known = Object.entries(show ?? {}).filter(([, value]) => value !== null && value !== "");
  const [titleName, title] = known.find(([name]) => TITLE.test(name)) ?? [];
  const pictures = known.map(([name, value]) => [name, PICTURE.test(name) ? pictureUrl(value) : null]);
  const [pictureName, picture] = pictures.find(([, url]) => url) ?? [];
  const others = known.filter(([name]) => name !== titleName && name !== pictureName);
  return { title: title === undefined ? null : shown(title), picture, others };
}

/** Returns the absolute form of a URL, which may be relative to the service; null for other values. */
function pictureUrl(value) {
  if (typeof value !== "string" || !URL.canParse(value, document.baseURI)) return null;
  const { protocol, href } = new URL(value, document.baseURI);
  return ["http:", "https:"].includes(protocol) ? href : null;
}

/** Returns the first display values, or else the first fields; the ad's id is shown above. */
function summary({ fields, ad_id: adId }, others) {
  return (others.length ? others : Object.entries(fields))
    .filter(([, value]) => value !== null && String(value) !== adId && String(value) !== "")
    .slice(0, MAX_FIELDS_IN_SUMMARY)
    .map(([name, value]) => html`<span>${name} <b>${shown(value)}</b></span>`);
}

function rankIn({ name, ranks }, { ad_id: adId }) {
  return ranks.has(adId) ? `rank ${ranks.get(adId)} in ${name}` : `not returned by ${name}`;
}

function moved(ad, before) {
  if (!before) return null;
  const was = before.get(ad.ad_id);
  if (was === ad.rank) return html`<small>=</small>`;
  const isUp = was > ad.rank;
  const text = `${isUp ? "▲" : "▼"}${Math.abs(was - ad.rank)}`;
  return html`<small class="${isUp ? "good" : "bad"}" title="was ${was}">${text}</small>`;
}

const table = (titles, rows) => html`<table>${head(...titles)}<tbody>${rows}</tbody></table>`;

function utilityTable(ad, { heads, weights, candidates }) {
  const parts = ad.utility === null ? [] : partsOf(ad, weights, heads);
  const rows = heads
    .slice(0, parts.length)
    .map(({ name, output }, index) => row(name, number(ad[output]), weights[name], number(parts[index])));
  const rank = candidates.findIndex((other) => other.ad_id === ad.ad_id) + 1;
  const reason = ad.explanation;
  const facts = [
    ["utility", "", "", number(ad.utility)],
    ["retrieval", number(ad.retrieval_score), "", rank > 0 && `rank ${rank}`],
    reason && ["without rules", "", "", `rank ${reason.rank_without_rules}`],
    reason && reason.diversity_factor !== 1 && ["diversity factor", "", "", number(reason.diversity_factor)],
    ad.propensity !== 1 && ["propensity", "", "", number(ad.propensity)],
  ];
  return table(
    ["", "Score", "Weight", "Part"],
    [...rows, ...facts.filter(Boolean).map((fact) => row(...fact))],
  );
}

function fieldTable(ad, { adFields }) {
  const rows = Object.entries(ad.fields).map(([name, value], index) => {
    const isKnown = adFields.some((field) => field.name === name) && value !== null && !Array.isArray(value);
    const choice = (text, operator) => html`
      <button type="button" id="${operator}-${index}-${ad.ad_id}" aria-label="${text} ${name} ${shown(value)}"
        onclick="${() => restrict(name, operator, value)}">${text}</button>`;
    return row(name, shown(value), isKnown && [choice("Only", "any_of"), choice("Without", "none_of")]);
  });
  const display = Object.entries(ad.show ?? {}).map(([name, value]) => row(name, shown(value), ""));
  return table(["Field", "Value", ""], [...display, ...rows]);
}
