// The funnel, all candidates as dots, and the time of an answer.

import { bar, byId, count, head, html, milliseconds, number, render, row } from "./html.js";

const HEIGHT = 200;
const [LEFT, RIGHT, TOP, BOTTOM] = [56, 12, 12, 24];

/** Draws how many ads are left after each stage: [label, number] each. The bars are logarithmic. */
export function drawFunnel(steps) {
  const share = (value) => Math.log(Math.max(1.2, value)) / Math.log(Math.max(2, steps[0][1]));
  render(
    "funnel",
    steps.map(
      ([label, value]) => html`
    <li><strong>${count(value)}</strong> ${label}${bar([0, share(value), "fill"])}</li>`,
    ),
  );
}

/** Draws candidates by retrieval rank (across) and utility (up). The ads of the answer are highlighted. */
export function drawScatter(candidates, ads) {
  const isRanked = candidates.length > 0 && candidates[0].utility !== null;
  const axis = isRanked ? "utility" : "retrieval score";
  const value = (ad) => (isRanked ? ad.utility : ad.retrieval_score);
  const positions = new Map(candidates.map((ad, index) => [ad.ad_id, index]));
  const shown = new Map(ads.map((ad, index) => [ad.ad_id, index + 1]));
  const width = Math.max(260, byId("scatter").clientWidth);
  const [low, high] = [Math.min(...candidates.map(value)), Math.max(...candidates.map(value))];
  const ground = HEIGHT - BOTTOM;
  const across = (ad) =>
    LEFT + ((width - LEFT - RIGHT) * positions.get(ad.ad_id)) / Math.max(1, candidates.length - 1);
  const up = (ad) => ground - ((ground - TOP) * (value(ad) - low)) / (high - low || 1);
  const dot = (ad) => {
    const isShown = shown.has(ad.ad_id);
    return html`
      <circle class="${isShown && "shown"}" cx="${across(ad)}" cy="${up(ad)}" r="${isShown ? 5 : 2.5}">
        <title>
          ${ad.ad_id}: retrieval rank ${positions.get(ad.ad_id) + 1}, ${axis} ${number(value(ad))}
        </title>
      </circle>`;
  };
  // The ads of the answer are drawn last, on top.
  const others = candidates.filter((ad) => !shown.has(ad.ad_id));
  const lit = candidates.filter((ad) => shown.has(ad.ad_id));
  const label = (x, y, anchor, text) => html`<text x="${x}" y="${y}" text-anchor="${anchor}">${text}</text>`;
  render(
    "scatter",
    candidates.length > 0 &&
      html`
    <svg role="img" width="${width}" height="${HEIGHT}"
      aria-label="${candidates.length} candidates by rank and ${axis}; ${lit.length} are in the answer.">
      <line x1="${LEFT}" x2="${width - RIGHT}" y1="${ground}" y2="${ground}"></line>
      ${label(LEFT - 8, TOP + 4, "end", number(high))}
      ${label(LEFT - 8, ground, "end", number(low))}
      ${label(LEFT, HEIGHT - 4, "start", "1")}
      ${label(width / 2, HEIGHT - 4, "middle", "retrieval rank")}
      ${label(width - RIGHT, HEIGHT - 4, "end", count(candidates.length))}
      ${[...others, ...lit].map(dot)}
    </svg>`,
  );
  render(
    "legend",
    `Each dot is a candidate, by retrieval rank (horizontal) and ${axis} (vertical). Hover over a dot to see the ad, or open the table.`,
  );
  // Hundreds of rows, which few people look at.
  const drawTable = () =>
    byId("candidate-list").open &&
    render("candidate-table", [
      head("Retrieval rank", "Ad", axis, "Rank in the answer"),
      html`<tbody>${candidates.map((ad, index) =>
        row(index + 1, ad.ad_id, number(value(ad)), shown.get(ad.ad_id)),
      )}</tbody>`,
    ]);
  byId("candidate-list").ontoggle = drawTable;
  drawTable();
}

/** Draws the stages of an answer, one after another on one time line. */
export function drawTime({ stage_ms: stageMs }, roundTripMs) {
  const { total, ...stages } = stageMs;
  const known = Object.entries(stages).filter(([, value]) => Number.isFinite(value));
  const inStages = known.reduce((time, [, value]) => time + value, 0);
  const whole = Math.max(roundTripMs, total, inStages);
  known.push(
    ["validation and selection", Math.max(0, total - inStages)],
    ["HTTP and browser", whole - Math.max(total, inStages)],
  );
  let end = 0;
  render(
    "stages",
    known.map(([name, value], index) => {
      end += value;
      const drawn = bar([(end - value) / whole, value / whole, index < known.length - 2 ? "fill" : "rest"]);
      const label = name.replaceAll("_", " ");
      return html`<tr><td>${label}</td><td>${drawn}</td><td>${milliseconds(value)}</td></tr>`;
    }),
  );
  render(
    "stage-total",
    `${milliseconds(total)} in the service, ${milliseconds(whole)} as seen by this page.`,
  );
}
