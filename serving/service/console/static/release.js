// What is served, and how it does.

import { ask } from "./api.js";
import { byId, count, el, number, say } from "./dom.js";
import { HEADS } from "./ranking.js";

const EVERY_MS = 5_000;
const MOST_MS = 4_500;

/** Shows what the service says of its release. */
export function drawRelease(bundle) {
  const ads = bundle.live?.num_ads ?? bundle.index?.num_ads;
  byId("release").textContent = `Release ${bundle.version} · ${count(ads)} ads`;
  document.title = `tfrec console · release ${bundle.version}`;
  const heads = Object.keys(HEADS).map(
    (head) => `${head}${bundle.heads?.[head] ? "" : " (absent: no such label)"}`,
  );
  const rows = [
    ["Version", bundle.version],
    ["Exported", bundle.created ? new Date(bundle.created).toLocaleString() : null],
    ["Ads", count(ads)],
    ["Heads", heads.join(", ")],
    ["Index", indexOf(bundle.index ?? {})],
    ["Query fields", bundle.query_fields.length],
    ["Ad fields", bundle.ad_fields.map(({ name }) => name).join(", ")],
    ["Training", bundle.training_id],
    ["Data set", bundle.dataset_fingerprint],
    ["Live updates", liveOf(bundle.live)],
    ["Refused", bundle.refused],
  ];
  const list = rows
    .filter(([, value]) => value != null && value !== "")
    .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value))));
  for (const one of bundle.releases ?? []) {
    const text = Object.entries(one)
      .filter(([name]) => name !== "version")
      .map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`);
    list.push(el("div", {}, el("dt", {}, `Release ${one.version}`), el("dd", {}, text.join(", "))));
  }
  byId("about").replaceChildren(...list);
}

function indexOf(index) {
  const recall = index.recall_at_500_against_exact;
  return [index.kind, recall == null ? null : `recall@500 ${number(recall)} of exact search`]
    .filter((part) => part != null)
    .join(", ");
}

function liveOf(live) {
  if (!live) return null;
  const parts = [`${count(live.added ?? 0)} added`, `${count(live.removed_or_changed ?? 0)} removed or changed`];
  return [...parts, live.rebuild_suggested, live.problem].filter(Boolean).join(". ");
}

/** Asks for health and readiness, again and again while the page is looked at. */
export class Health {
  constructor() {
    document.addEventListener("visibilitychange", () => this.#look());
    this.#look();
    setInterval(() => this.#look(), EVERY_MS);
  }

  async #look() {
    if (document.hidden) return;
    try {
      // Sooner than the next look: a service that hangs is none that is ready.
      const { degraded } = await ask("readyz", undefined, AbortSignal.timeout(MOST_MS));
      if (degraded) this.#show("degraded", "Degraded", degraded);
      else this.#show("ready", "Ready", "");
    } catch (error) {
      const isGone = error.status === 0;
      this.#show(isGone ? "gone" : "unready", isGone ? "No answer" : "Not ready", error.message);
    }
  }

  #show(state, label, reason) {
    const pill = byId("health");
    pill.className = `pill ${state}`;
    pill.title = reason;
    say(byId("health-text"), label);
    say(byId("health-reason"), reason);
  }
}
