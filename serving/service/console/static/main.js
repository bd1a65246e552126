// Requests an answer with all its candidates each time the request changes. New weights are
// previewed at once, from the scores of the candidates.

import { drawAds, rankedBy, utilityOf } from "./ads.js";
import { ApiError, ask, clearFailure, onToken, showFailure } from "./api.js";
import { drawFunnel, drawScatter, drawTime } from "./charts.js";
import { drawFields, drawReleases, drawRules, drawSamples, drawWeights, showSample } from "./controls.js";
import { drawFilters, suggestValues } from "./filters.js";
import { byId, html, later, milliseconds, render, say } from "./html.js";
import { drawJson, isJsonOpen, readJson, startJsonView } from "./json_view.js";
import { drawRelease, nameOf, watchHealth } from "./release.js";
import { change, current, headsOf, onChange, RELEASES, releaseOf, weightsOf } from "./request.js";

const RETRY_MS = 3_000;
const SLOW_MS = 1_000;
const DEBOUNCE_MS = 200;

// The bundle of the selected release; that of the other one if there is a canary, else null.
let bundle = null;
let rival = null;
let answer = null;
// {name, ranks} from the answer of the other release, {name, refusal} if it has none, or null.
let compared = null;
let running = null;
let timer = 0;
// The ads in the preview, until the service has confirmed their order, or null.
let previewed = null;
// {key, weights, ranks}: a request without its weights, the weights, and ad id -> rank in its answer.
let base = null;

const keyOf = ({ weights, ...rest }) => JSON.stringify(rest);
const idsOf = (ads) => JSON.stringify(ads.map((ad) => ad.ad_id));

/** Loads the description of the service and the first answer. */
async function start() {
  try {
    await describe();
  } catch (error) {
    showFailure(error);
    // A service that is starting will answer soon.
    if (error.status === 0 || error.status >= 500) setTimeout(() => bundle ?? start(), RETRY_MS);
    return;
  }
  byId("app").hidden = false;
  // On a phone, open query fields would push the answer far down.
  byId("query-fields").open = matchMedia("(min-width: 901px)").matches;
  drawSamples(bundle);
  drawRequest();
  recommend();
}

/** Loads the description of the served releases. */
async function describe(signal) {
  const described = await ask(`v1/bundle?release=${releaseOf()}`, undefined, signal);
  const other = described.releases?.find(
    ({ role, version }) => RELEASES.includes(role) && version !== described.version,
  );
  if (other?.version !== rival?.version) {
    rival = other ? await ask(`v1/bundle?release=${other.role}`, undefined, signal) : null;
  }
  const isNew = bundle !== null && bundle.version !== described.version;
  bundle = described;
  drawRelease(bundle, rival);
  if (isNew) {
    drawSamples(bundle);
    drawRequest();
  }
}

function drawRequest() {
  showSample();
  for (const draw of [drawReleases, drawFields, drawWeights, drawFilters, drawRules]) draw(bundle);
  drawJson();
}

function changed(path) {
  later(drawRequest);
  if (path[0] === "weights" && answer?.order === "utility") preview();
  clearTimeout(timer);
  timer = setTimeout(recommend, DEBOUNCE_MS);
}

/** Returns the heads whose scores the answer has: it may be from a release with other heads. */
const headsOfAnswer = () =>
  headsOf(bundle).filter(({ output }) => answer.candidates.every((ad) => output in ad));

/** Orders the candidates by the new weights, before the service answers. */
function preview() {
  const ads = rankedBy(weightsOf(bundle), headsOfAnswer(), answer.candidates).slice(0, answer.ads.length);
  previewed = idsOf(ads);
  drawOrder(ads);
  say("status", "Preview with these weights; waiting for the service…");
}

function drawOrder(ads) {
  const [heads, weights] = [headsOfAnswer(), weightsOf(bundle)];
  const isComparable = answer.order === "utility" && base?.key === keyOf(current());
  const isReweighted = isComparable && base.weights !== JSON.stringify(weights);
  drawAds(ads, {
    heads,
    weights,
    candidates: answer.candidates,
    adFields: bundle.ad_fields.filter(({ kind }) => kind !== "dense"),
    before: isReweighted ? base.ranks : null,
    rival: compared?.ranks && compared,
  });
  // In retrieval order, with the utilities that these weights give.
  drawScatter(
    answer.candidates.map((ad) => ({ ...ad, utility: utilityOf(ad, weights, heads) })),
    ads,
  );
}

async function recommend() {
  clearTimeout(timer);
  running?.abort();
  const { signal } = (running = new AbortController());
  document.body.classList.add("busy");
  const slow = setTimeout(() => say("status", "Waiting for the service…"), SLOW_MS);
  try {
    // First, because a new release may not have the fields of the request, and refuse it.
    await describe(signal);
    const started = performance.now();
    const request = { release: "stable", ...current(), explain: true, candidates: true, dry_run: true };
    const received = await ask("v1/recommend", request, signal);
    const roundTripMs = performance.now() - started;
    compared = rival && (await comparison(request, signal));
    clearFailure();
    answer = received;
    show(roundTripMs);
  } catch (error) {
    if (error.name === "AbortError") return;
    showFailure(error);
    const last = answer && `The answer below is the last one received, from release ${answer.bundle_version}.`;
    say("status", last ?? "");
  } finally {
    clearTimeout(slow);
    if (running.signal === signal) document.body.classList.remove("busy");
  }
}

/** Returns the ranks of ads in the answer of the other release, or why it has none. */
async function comparison(request, signal) {
  const release = RELEASES.find((name) => name !== releaseOf());
  const name = nameOf(rival);
  try {
    const { ads, degraded } = await ask("v1/recommend", { ...request, release }, signal);
    return { name, ranks: new Map(ads.map((ad) => [ad.ad_id, ad.rank])), degraded };
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return { name, refusal: error.message };
  }
}

function show(roundTripMs) {
  const { ads, candidates, order } = answer;
  const isRanked = order === "utility";
  drawOrder(ads);
  rememberRanks();
  suggestValues(candidates);
  render("compared", compared && comparedWith(compared, ads));
  drawTime(answer, roundTripMs);
  drawFunnel([
    ["ads in the catalog", bundle.live.num_ads],
    // If a degraded answer was ranked at all, it has only the ranked candidates.
    [answer.degraded && isRanked ? "ranked candidates" : "retrieved candidates", candidates.length],
    [isRanked ? "ranked, by utility" : "in retrieval order", ads.length],
  ]);
  const time = milliseconds(answer.stage_ms.total);
  const user = answer.user_data ? ` User data: ${answer.user_data}.` : "";
  const text = `${ads.length} ads from release ${answer.bundle_version} in ${time}.${user}`;
  const isConfirmed = previewed === idsOf(ads);
  const confirmed = isConfirmed
    ? "The service confirms this order."
    : "This is the service's order, with its rules applied.";
  say("status", previewed && isRanked ? `${confirmed} ${text}` : text);
  previewed = null;
  drawNotices(isRanked);
}

function comparedWith({ name, ranks, degraded, refusal }, ads) {
  if (!ranks) return `${name} has no answer to this request: ${refusal}`;
  const common = ads.filter((ad) => ranks.has(ad.ad_id)).length;
  return [
    `${name} also returns ${common} of these ${ads.length} ads. `,
    degraded && `Its answer is degraded: ${degraded}`,
  ];
}

/** Keeps the ranks in the first ranked answer to a request, as the baseline for other weights. */
function rememberRanks() {
  if (answer.order !== "utility" || base?.key === keyOf(current())) return;
  const ranks = new Map();
  for (const { ad_id: adId } of [
    ...answer.ads,
    ...rankedBy(weightsOf(bundle), headsOf(bundle), answer.candidates),
  ]) {
    if (!ranks.has(adId)) ranks.set(adId, ranks.size + 1);
  }
  base = { key: keyOf(current()), weights: JSON.stringify(weightsOf(bundle)), ranks };
}

function drawNotices(isRanked) {
  const title = isRanked
    ? "Degraded answer: not all candidates were ranked."
    : "Degraded answer: the ads are in retrieval order, without scores.";
  const again = html`<button type="button" onclick="${recommend}">Retry</button>`;
  render("degraded", answer.degraded && html`<strong>${title}</strong> ${answer.degraded} ${again}`);
  byId("weights-box").disabled = !isRanked;
  const { at_frequency_cap: reached, left_out: leftOut } = answer.explanation;
  const rules = [
    ...reached.map(({ field, count }) => `${field ? `values of ${field}` : "ads"} at a frequency cap: ${count}`),
    ...leftOut.map(({ rule, field, count }) => `${rule}${field ? ` on ${field}` : ""} left out ${count}`),
  ];
  render("shortage", [answer.shortage, rules.length > 0 && ` Rules: ${rules.join("; ")}.`]);
}

onChange(changed);
onToken(start);
startJsonView();
byId("request").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!isJsonOpen() || readJson()) recommend();
});
byId("default-weights").addEventListener("click", () => change(["weights"], undefined));
new ResizeObserver(() => answer && drawOrder(answer.ads)).observe(byId("scatter"));
start();
// When the service is back, an answer replaces the notice that it was gone.
watchHealth(() => byId("failure").textContent && bundle && recommend());
