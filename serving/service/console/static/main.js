// Requests an answer with all its candidates each time the request changes. New weights are
// previewed at once, from the scores of the candidates.

import { barOf, drawAds, rankedBy } from "./ads.js";
import { asObject, ask, byId, count, element, number, onToken, row, showFailure, shown } from "./page.js";
import { current, headsOf, makeControls, onChange, readJson, suggestValues, weightsOf } from "./request.js";

const DEBOUNCE_MS = 200;
const HEALTH_PERIOD_MS = 5_000;

let bundle = null;
let answer = null;
let running = null;
let timer = 0;
// {key, weights, ranks}: a request without its weights, the weights, and ad id -> rank in its answer.
let base = null;

const milliseconds = (value) => `${value.toFixed(value >= 100 ? 0 : value >= 1 ? 1 : 2)} ms`;
const keyOf = ({ weights, ...rest }) => JSON.stringify(rest);
const isRanked = () => answer?.order === "utility";
// The answer may be from a release with other heads.
const viewOf = () => ({
  heads: headsOf(bundle).filter(({ output }) => answer.candidates.every((ad) => output in ad)),
  weights: weightsOf(bundle),
  candidates: answer.candidates,
});

async function recommend() {
  clearTimeout(timer);
  running?.abort();
  const { signal } = (running = new AbortController());
  document.body.classList.add("busy");
  try {
    // First, because a new release may have other fields.
    await describe(signal);
    const request = { release: "stable", ...current(), explain: true, candidates: true, dry_run: true };
    const started = performance.now();
    answer = await ask("v1/recommend", request, signal);
    byId("failure").textContent = "";
    show(performance.now() - started);
  } catch (error) {
    if (error.name !== "AbortError") showFailure(error);
  } finally {
    if (running.signal === signal) document.body.classList.remove("busy");
  }
}

async function describe(signal) {
  const release = current().release === "canary" ? "canary" : "stable";
  const described = await ask(`v1/bundle?release=${release}`, undefined, signal);
  const isNew = described.version !== bundle?.version;
  bundle = described;
  if (isNew) makeControls(bundle);
  byId("app").hidden = false;
  drawRelease();
}

function changed(path) {
  if (path[0] === "weights" && isRanked()) {
    draw(rankedBy(viewOf(), answer.candidates).slice(0, answer.ads.length));
    byId("status").textContent = "Preview with these weights; waiting for the service…";
  }
  clearTimeout(timer);
  timer = setTimeout(recommend, DEBOUNCE_MS);
}

function draw(ads) {
  const isReweighted =
    isRanked() && base?.key === keyOf(current()) && base.weights !== JSON.stringify(weightsOf(bundle));
  drawAds(ads, { ...viewOf(), before: isReweighted ? base.ranks : null });
}

function show(roundTripMs) {
  const { ads, candidates, degraded, explanation, shortage } = answer;
  if (isRanked() && base?.key !== keyOf(current())) {
    const ids = [...ads, ...rankedBy(viewOf(), candidates)].map((ad) => ad.ad_id);
    const ranks = new Map([...new Set(ids)].map((id, index) => [id, index + 1]));
    base = { key: keyOf(current()), weights: JSON.stringify(weightsOf(bundle)), ranks };
  }
  draw(ads);
  suggestValues(candidates);
  drawTime(roundTripMs);
  byId("weights-box").disabled = !isRanked();
  byId("degraded").textContent = degraded ? `Degraded answer: ${degraded}` : "";
  byId("status").textContent =
    `${count(bundle.live.num_ads)} ads → ${count(candidates.length)} candidates → ${ads.length} ads ` +
    `from release ${answer.bundle_version} in ${milliseconds(answer.stage_ms.total)}.` +
    (answer.user_data ? ` User data: ${answer.user_data}.` : "");
  const rules = [
    ...explanation.at_frequency_cap.map(({ field, count: n }) => `${field ?? "ads"} at a frequency cap: ${n}`),
    ...explanation.left_out.map(({ rule, field, count: n }) => `${rule} ${field ?? ""} left out ${n}`),
  ];
  byId("shortage").textContent = [shortage, rules.length && `Rules: ${rules.join("; ")}.`].filter(Boolean).join(" ");
}

/** Draws the stages of an answer, one after another on one time line. */
function drawTime(roundTripMs) {
  const { total, ...stages } = answer.stage_ms;
  const known = Object.entries(stages).filter(([, value]) => Number.isFinite(value));
  const inStages = known.reduce((time, [, value]) => time + value, 0);
  const whole = Math.max(roundTripMs, total, inStages);
  known.push(["selection", Math.max(0, total - inStages)]);
  known.push(["HTTP and browser", whole - Math.max(total, inStages)]);
  let end = 0;
  const rows = known.map(([name, value]) => {
    end += value;
    const parts = [barOf("space", (end - value) / whole), barOf("fill", value / whole)];
    return row(name.replaceAll("_", " "), element("div", { className: "bar" }, parts), milliseconds(value));
  });
  byId("stages").replaceChildren(...rows, row("total", "", milliseconds(whole)));
}

function drawRelease() {
  const { version, heads, index, live, metrics, releases, weak_heads: weak } = bundle;
  byId("release").textContent = `Release ${version} · ${count(live.num_ads)} ads`;
  const absent = Object.keys(heads).filter((name) => !heads[name]);
  byId("heads").textContent = [
    bundle.parts.includes("ranker") ? "" : "This release has no ranker: ads are in retrieval order.",
    absent.length && bundle.parts.includes("ranker") ? `No ${absent.join(" or ")} head: its log had no such label.` : "",
    ...Object.entries(weak).map(([name, why]) => `${name} is weak: ${why}`),
  ].join(" ");
  const facts = {
    version: releases.map((release) => `${release.version} (${release.role})`).join(", "),
    exported: bundle.created && new Date(bundle.created).toLocaleString(),
    ads: count(live.num_ads),
    "live updates": live.num_updates,
    index: index.kind,
    "index recall@500": index.recall_at_500_against_exact,
    training: bundle.training_id,
    problems: problemsOf(bundle),
  };
  for (const [head, { metrics: measured }] of Object.entries(asObject(asObject(metrics).ranker))) {
    for (const name of ["auc", "calibration_ratio"]) {
      const { value, interval } = asObject(measured?.[name]);
      const range = interval ? ` (${interval.map(number).join(" to ")})` : "";
      if (value != null) facts[`${head}: ${name.replaceAll("_", " ")}`] = `${number(value)}${range}`;
    }
  }
  const known = Object.entries(facts).filter(([, value]) => value != null);
  byId("about").replaceChildren(...known.map(([name, value]) => row(name, shown(value))));
}

/** Returns what is wrong with the service, or null. */
function problemsOf({ problems }) {
  const known = Object.entries(asObject(problems));
  return known.map(([part, why]) => `${part}: ${why}`).join(" ") || null;
}

/** Polls the readiness while the page is visible. When the service is back, it asks again. */
async function watch() {
  if (document.hidden) return;
  const health = byId("health");
  const wasGone = health.dataset.state === "no answer";
  try {
    const problems = problemsOf(await ask("readyz"));
    [health.dataset.state, health.title] = [problems ? "degraded" : "ready", problems ?? ""];
  } catch (error) {
    [health.dataset.state, health.title] = [error.status ? "not ready" : "no answer", error.message];
  }
  health.textContent = health.dataset.state;
  const isBack = health.dataset.state !== "no answer" && (wasGone || !bundle);
  if (isBack && !byId("token-dialog").open) recommend();
}

onChange(changed);
onToken(recommend);
byId("json").onchange = () => (byId("failure").textContent = readJson());
byId("request").onsubmit = (event) => {
  event.preventDefault();
  const problem = readJson();
  byId("failure").textContent = problem;
  if (!problem) recommend();
};
recommend();
watch();
setInterval(watch, HEALTH_PERIOD_MS);
