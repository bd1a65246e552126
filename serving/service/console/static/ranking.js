// Orders scored candidates by weights, as the service does: utility is the weighted sum.

export const HEADS = {
  click: { field: "click_probability", label: "Click" },
  engagement: { field: "engagement_probability", label: "Engage" },
  revenue: { field: "expected_revenue", label: "Revenue" },
};

/** Returns the heads that a release has, in their order. */
export const presentHeads = (bundle) =>
  Object.keys(HEADS).filter((head) => bundle.heads?.[head]);

/** Returns the weight of each head: 1 where the request names none. */
export function weightsOf(request, heads) {
  const given = request.weights ?? {};
  return Object.fromEntries(
    heads.map((head) => [head, Number.isFinite(given[head]) ? given[head] : 1]),
  );
}

export const hasScores = (ad) => Object.values(HEADS).some(({ field }) => ad[field] !== null);

/** Returns head -> score times weight. */
export const partsOf = (ad, weights) =>
  Object.fromEntries(
    Object.entries(weights).map(([head, weight]) => [head, weight * ad[HEADS[head].field]]),
  );

export const utilityOf = (ad, weights) =>
  Object.values(partsOf(ad, weights)).reduce((sum, part) => sum + part, 0);

/**
 * Returns the candidates by utility under `weights`, each with its new `utility` and `rank`.
 *
 * `pool` is in retrieval order, which decides between equal utilities; without scores it is the
 * order.
 */
export function ranked(pool, weights) {
  if (!pool.length || !hasScores(pool[0])) return pool.map((ad, place) => ({ ...ad, rank: place + 1 }));
  return pool
    .map((ad) => ({ ...ad, utility: utilityOf(ad, weights) }))
    .sort((one, other) => other.utility - one.utility)
    .map((ad, place) => ({ ...ad, rank: place + 1 }));
}

/** Returns the candidates of an answer in retrieval order, each with its `place` in it. */
export const asPool = (answer) =>
  [...answer.ads]
    .sort((one, other) => other.retrieval_score - one.retrieval_score)
    .map((ad, place) => ({ ...ad, place: place + 1 }));

export const sameOrder = (ads, others) =>
  ads.length === others.length && ads.every((ad, place) => ad.ad_id === others[place].ad_id);
