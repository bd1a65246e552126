// The served releases, and whether the service is ready.

import { ask } from "./api.js";
import { asArray, asObject, byId, count, head, html, number, render, row, say, shown } from "./html.js";

const PERIOD_MS = 5_000;
const TIMEOUT_MS = 4_500;

/** Shows the description of a release, and of the other one if there is one. */
export function drawRelease(bundle, rival) {
  const { index, live, releases } = bundle;
  byId("release").textContent = `Release ${bundle.version} · ${count(live.num_ads)} ads`;
  document.title = `tfrec console · release ${bundle.version}`;
  const facts = {
    version: bundle.version,
    exported: bundle.created && new Date(bundle.created).toLocaleString(),
    ads: count(live.num_ads),
    heads: Object.entries(bundle.heads)
      .map(([name, isTrained]) => {
        const state = isTrained ? (bundle.weak_heads[name] ? " (weak)" : "") : " (absent)";
        return name + state;
      })
      .join(", "),
    index: index.kind,
    "ad fields": bundle.ad_fields.map(({ name }) => name).join(", "),
    training: bundle.training_id,
    "data set": bundle.dataset_fingerprint,
    "live updates": textOf(live),
    refused: bundle.refused,
  };
  const known = Object.entries(facts).filter(([, value]) => value);
  render(
    "about",
    known.map(([name, value]) => row(name, value)),
  );
  render("releases", [
    head("Release", "Role", "Answered", "Degraded", "Failed", "In flight"),
    html`<tbody>${releases.map(({ version, role, answered, degraded, failed, in_flight: inFlight }) =>
      row(version, role, ...[answered, degraded, failed, inFlight].map(count)),
    )}</tbody>`,
  ]);
  drawQuality([bundle, ...(rival ? [rival] : [])]);
}

/** Draws the metrics in the manifests of releases, one column each. */
function drawQuality(bundles) {
  const measured = bundles.map(metricsOf);
  const names = [...new Set(measured.flatMap((metrics) => Object.keys(metrics)))];
  render("quality", names.length > 0 && [
    head("", ...bundles.map(nameOf)),
    html`<tbody>${names.map((name) => row(name, ...measured.map((metrics) => cell(metrics[name]))))}</tbody>`,
  ]);
  const { impressions, gate } = asObject(bundles[0].metrics);
  const refusals = gate?.forced ? asArray(gate.refusals) : [];
  render("quality-note", [
    refusals.length > 0 && html`<span class="bad">Published with --force: ${refusals.join("; ")}. </span>`,
    impressions != null && `${count(impressions)} impressions in the test split. `,
    names.length === 0 && "The manifest has no metrics for this release.",
    measured.some((metrics) => Object.values(metrics).some(({ interval }) => interval)) &&
      "In small print: 95 % intervals. Predicted / observed is 1 if probabilities are calibrated.",
  ]);
}

/** Returns "stable 1" or "canary 2". */
export function nameOf({ version, releases }) {
  const { role = "release" } = releases.find((release) => release.version === version) ?? {};
  return `${role} ${version}`;
}

const METRICS = {
  auc: "AUC",
  calibration_ratio: "predicted / observed",
  expected_calibration_error: "calibration error",
};

/** Returns label -> {value, interval} of the metrics in a manifest. */
function metricsOf({ metrics, index }) {
  const { ranker, retrieval } = asObject(metrics);
  const found = {};
  for (const [head, { metrics: measured }] of Object.entries(asObject(ranker))) {
    for (const [name, label] of Object.entries(METRICS)) found[`${head}: ${label}`] = measured?.[name];
  }
  const recall = retrieval?.recommenders?.two_tower?.metrics?.corpus_recall_at_500;
  if (recall != null) found["two-tower recall@500"] = { value: recall };
  const exact = index.recall_at_500_against_exact;
  if (exact != null) found["index recall@500 against exact search"] = { value: exact };
  return Object.fromEntries(Object.entries(found).filter(([, metric]) => metric?.value != null));
}

const cell = (metric) =>
  metric && [
    number(metric.value),
    metric.interval && html`<small> ${metric.interval.map(number).join(" to ")}</small>`,
  ];

const textOf = (facts) =>
  Object.entries(facts)
    .filter(([, value]) => value != null && shown(value) !== "{}")
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${shown(value)}`)
    .join(", ");

/** Polls the readiness of the service while the page is visible; `isBack` is called when it answers again. */
export function watchHealth(isBack) {
  const check = async () => {
    const wasGone = byId("health").dataset.state === "no answer";
    await poll();
    if (wasGone && byId("health").dataset.state !== "no answer") isBack();
  };
  document.addEventListener("visibilitychange", check);
  setInterval(check, PERIOD_MS);
  check();
}

async function poll() {
  if (document.hidden) return;
  // A service that hangs is not ready: the timeout is shorter than the polling period.
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), TIMEOUT_MS);
  try {
    const { degraded } = await ask("readyz", undefined, abort.signal);
    show(degraded ? "degraded" : "ready", degraded ?? "");
  } catch (error) {
    if (error.status) show("not ready", error.message);
    else show("no answer", error.status === 0 ? error.message : `No answer within ${TIMEOUT_MS / 1000} s.`);
  } finally {
    clearTimeout(timer);
  }
}

function show(state, reason) {
  byId("health").dataset.state = state;
  say("health", state);
  say("health-reason", reason);
}
