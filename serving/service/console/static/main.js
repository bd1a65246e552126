// Joins the parts: asks for an answer and for all its candidates, previews new weights at once and
// has the service confirm them.

import { Ads } from "./ads.js";
import { ApiError, ask, token } from "./api.js";
import { byId, debounced, milliseconds, say } from "./dom.js";
import { Filters } from "./filters.js";
import { drawCounts, Scatter } from "./funnel.js";
import { JsonEditor } from "./json_editor.js";
import { Limits } from "./limits.js";
import { clear, controlOf, mark } from "./problems.js";
import { asPool, HEADS, hasScores, presentHeads, ranked, sameOrder, weightsOf } from "./ranking.js";
import { drawRelease, Health } from "./release.js";
import { RequestForm } from "./request_form.js";
import { Rules } from "./rules.js";
import { Store } from "./store.js";
import { askForToken, onToken } from "./token_form.js";
import { drawWaterfall } from "./waterfall.js";
import { Weights } from "./weights.js";

// Rules turned off: what the candidates are worth by themselves.
const NO_RULES = { caps: [], diversity: [], exploration: { share: 0 } };
const START_AGAIN_MS = 3_000;
const SLOW_MS = 1_000;

class Console {
  #store = new Store();
  #form = new RequestForm(this.#store);
  #editor = new JsonEditor(this.#store);
  #limits = new Limits(this.#store);
  #weights = new Weights(this.#store);
  #filters = new Filters(this.#store);
  #rules = new Rules(this.#store);
  #scatter = new Scatter();
  #ads = new Ads(this.#filters, this.#scatter);
  #bundle = null;
  #answer = null;
  #pool = [];
  #before = null;
  #running = null;
  #soon = debounced(200, () => this.run("candidates"));
  #confirmSoon = debounced(250, () => this.run("scores"));

  constructor() {
    this.#store.addEventListener("change", ({ detail }) => this.#changed(detail.what));
    byId("request").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.#editor.isOpen || this.#editor.read()) this.run("candidates");
    });
    byId("again").addEventListener("click", () => this.run("candidates"));
    onToken(() => this.start());
    byId("token").value = token.get();
    byId("token-button").addEventListener("click", () => {
      byId("token-panel").hidden = !byId("token-panel").hidden;
      if (!byId("token-panel").hidden) byId("token").focus();
    });
  }

  /** Learns what is served, and asks for the first answer. */
  async start() {
    try {
      this.#bundle = await ask("v1/bundle");
    } catch (error) {
      this.#failed(error);
      // A service that starts, or is started again, is there soon.
      if (error.status === 0 || error.status >= 500) {
        setTimeout(() => this.#bundle ?? this.start(), START_AGAIN_MS);
      }
      return;
    }
    clear();
    byId("app").hidden = false;
    byId("token-panel").hidden = true;
    byId("failure").hidden = true;
    this.#build();
    // Where the request stands above the answer, the answer is to be near.
    byId("query-fields").open = matchMedia("(min-width: 901px)").matches;
    this.run("candidates");
  }

  #build() {
    drawRelease(this.#bundle);
    for (const part of [this.#weights, this.#filters, this.#rules, this.#limits, this.#form]) {
      part.build(this.#bundle);
    }
  }

  #changed(what) {
    if (!this.#bundle) return;
    if (what === "scores") {
      this.#preview();
      this.#confirmSoon();
    } else {
      this.#soon();
    }
  }

  /** Shows the order that the weights give to the candidates here, before the service is asked. */
  #preview() {
    if (!this.#pool.length || !hasScores(this.#pool[0])) return;
    const order = ranked(this.#pool, this.#currentWeights());
    this.#drawAds(order.slice(0, this.#answer?.ads.length ?? 10), order);
    say(byId("status"), "Preview by this page; the service is asked.");
  }

  /** Asks the service: for the answer, and where they may be others, for its candidates. */
  async run(what) {
    if (!this.#bundle) return;
    this.#soon.cancel();
    this.#confirmSoon.cancel();
    this.#running?.abort();
    const { signal } = (this.#running = new AbortController());
    let isFresh = what === "candidates" || !this.#pool.length || !this.#answer;
    document.body.classList.add("busy");
    const slow = setTimeout(() => say(byId("status"), "Waiting for the service…"), SLOW_MS);
    try {
      const started = performance.now();
      const request = { ...this.#store.request, explain: true, dry_run: true };
      // One id for what belongs together: where several releases answer, it chooses which.
      if (!isFresh) request.request_id ??= this.#answer.request_id;
      const answer = await ask("v1/recommend", request, signal);
      const roundTripMs = performance.now() - started;
      clear();
      // The ranker came or went: the candidates here have no scores yet, or those of before.
      isFresh ||= (answer.order === "utility") !== hasScores(this.#pool[0]);
      if (isFresh) await this.#candidates(request, answer, signal);
      this.#show(answer, roundTripMs, isFresh);
    } catch (error) {
      if (error.name !== "AbortError") this.#failed(error);
    } finally {
      clearTimeout(slow);
      if (this.#running.signal === signal) document.body.classList.remove("busy");
    }
  }

  async #candidates(request, answer, signal) {
    const { num_candidates: wanted = 500, max_k: most = 1000 } = this.#bundle.limits ?? {};
    const k = Math.max(answer.ads.length, Math.min(wanted, most), 1);
    const all = { ...request, k, explain: false, request_id: answer.request_id };
    all.rules = { ...(request.rules ?? {}), ...NO_RULES };
    this.#pool = asPool(await ask("v1/recommend", all, signal));
  }

  #show(answer, roundTripMs, isFresh) {
    this.#answer = answer;
    if (isFresh) this.#reloadRelease();
    this.#notices(answer);
    const order = ranked(this.#pool, this.#currentWeights());
    const places = new Map(this.#pool.map(({ ad_id: adId, place }) => [adId, place]));
    const ads = answer.ads.map((ad) => ({ ...ad, place: places.get(ad.ad_id) }));
    const isExpected = sameOrder(order.slice(0, ads.length), ads);
    if (isFresh) {
      this.#before = new Map(ads.map(({ ad_id: adId, rank }) => [adId, rank]));
      for (const { ad_id: adId, rank } of order) {
        if (!this.#before.has(adId)) this.#before.set(adId, Math.max(rank, ads.length + 1));
      }
      this.#filters.offer(this.#pool);
    }
    this.#drawAds(ads, order, isFresh);
    this.#counts(answer);
    drawWaterfall(answer, roundTripMs);
    const time = milliseconds(answer.stage_ms.total);
    const text = `${ads.length} ads from release ${answer.bundle_version} in ${time}.`;
    say(byId("status"), isFresh ? text : `${confirmation(answer, isExpected)} ${text}`);
  }

  #drawAds(ads, order, isFresh = false) {
    const heads = presentHeads(this.#bundle);
    const most = {};
    for (const head of heads) {
      const values = this.#pool.map((ad) => ad[HEADS[head].field] ?? 0);
      most[head] = Math.max(0, ...values);
    }
    const kinds = Object.fromEntries(this.#bundle.ad_fields.map(({ name, kind }) => [name, kind]));
    const weights = this.#currentWeights();
    this.#ads.draw(ads, { weights, heads, most, kinds, before: isFresh ? null : this.#before });
    const chosen = new Map(ads.map(({ ad_id: adId, rank }) => [adId, rank]));
    if (isFresh) this.#scatter.show(order, chosen);
    else this.#scatter.move(order, chosen);
  }

  #counts(answer) {
    const filters = Object.keys(this.#store.object("filters")).length;
    const ads = this.#bundle.live?.num_ads ?? this.#bundle.index?.num_ads ?? null;
    const isRanked = answer.order === "utility";
    drawCounts([
      ["ads in the catalogue", ads, filters ? "filters leave out some" : null],
      ["candidates by retrieval", answer.explanation?.candidates ?? this.#pool.length, null],
      [
        isRanked ? "ranked, by utility" : "in retrieval order",
        answer.ads.length,
        isRanked ? null : "not ranked",
      ],
    ]);
  }

  #notices(answer) {
    const isRetrieval = answer.order === "retrieval";
    byId("degraded").hidden = !answer.degraded;
    say(
      byId("degraded-title"),
      isRetrieval
        ? "Degraded answer: the ads are in retrieval order, without scores."
        : "Degraded answer: fewer candidates were ranked than were found.",
    );
    say(byId("degraded-reason"), answer.degraded ?? "");
    byId("no-scores").hidden = !isRetrieval;
    const left = (answer.explanation?.left_out ?? []).map(
      ({ rule, field, count }) => `${rule}${field ? ` on ${field}` : ""} kept out ${count}`,
    );
    const notes = [answer.shortage, left.length ? `Rules: ${left.join("; ")}.` : null];
    say(byId("shortage"), notes.filter(Boolean).join(" "));
    byId("failure").hidden = true;
  }

  #currentWeights() {
    return weightsOf({ weights: this.#store.object("weights") }, presentHeads(this.#bundle));
  }

  async #reloadRelease() {
    try {
      const bundle = await ask("v1/bundle");
      const isOther = bundle.version !== this.#bundle.version;
      this.#bundle = bundle;
      if (isOther) this.#build();
      else drawRelease(bundle);
    } catch (error) {
      this.#failed(error);
    }
  }

  #failed(error) {
    clear();
    byId("failure").hidden = false;
    if (!(error instanceof ApiError)) {
      say(byId("failure-text"), `This page failed: ${error.message}`);
      throw error;
    }
    const isToken = error.status === 401;
    if (isToken) {
      askForToken(error);
      byId("failure").hidden = !this.#bundle;
    }
    say(byId("failure-text"), error.message);
    const control = isToken ? null : controlOf(error.message);
    if (control) mark(control, error.message);
    if (this.#editor.isOpen) mark(byId("json"), error.message);
    say(byId("status"), this.#answer ? "The answer below is the last one that came." : "");
  }
}

function confirmation(answer, isExpected) {
  if (isExpected) return "Confirmed by the service: the same order.";
  if (answer.order === "retrieval") return "The service has no scores now.";
  return "The service's order, under its rules.";
}

new Console().start();
new Health();
