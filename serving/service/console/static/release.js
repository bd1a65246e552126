// What is served, and whether the service is ready.

import { ask } from "./api.js";
import { byId, count, html, number, render, say } from "./html.js";

const PERIOD_MS = 5_000;
const TIMEOUT_MS = 4_500;

/** Shows the service's description of its release. */
export function drawRelease(bundle) {
  const { index = {}, live } = bundle;
  byId("release").textContent = `Release ${bundle.version} · ${count(numAds(bundle))} ads`;
  document.title = `tfrec console · release ${bundle.version}`;
  const recall = index.recall_at_500_against_exact;
  const facts = {
    version: bundle.version,
    exported: bundle.created && new Date(bundle.created).toLocaleString(),
    ads: count(numAds(bundle)),
    heads: Object.entries(bundle.heads)
      .map(([head, isTrained]) => head + (isTrained ? "" : " (absent)"))
      .join(", "),
    index: [index.kind, recall != null && `recall@500 ${number(recall)} of exact search`]
      .filter(Boolean)
      .join(", "),
    "ad fields": bundle.ad_fields.map(({ name }) => name).join(", "),
    training: bundle.training_id,
    "data set": bundle.dataset_fingerprint,
    "live updates": live && textOf(live),
    refused: bundle.refused,
  };
  for (const { version, ...rest } of bundle.releases ?? []) facts[`release ${version}`] = textOf(rest);
  const known = Object.entries(facts).filter(([, value]) => value);
  render(
    "about",
    known.map(([name, value]) => html`<tr><td>${name}</td><td>${value}</td></tr>`),
  );
}

export const numAds = (bundle) => bundle.live?.num_ads ?? bundle.index?.num_ads ?? 0;

const textOf = (facts) =>
  Object.entries(facts)
    .filter(([, value]) => value != null)
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`)
    .join(", ");

/** Asks for the readiness of the service, again and again while the page is visible. */
export function watchHealth() {
  document.addEventListener("visibilitychange", look);
  setInterval(look, PERIOD_MS);
  look();
}

async function look() {
  if (document.hidden) return;
  // A service that hangs is not ready: its time is over before the next look.
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
