"""Composes an answer: computes utilities, applies the rules, and lists the chosen ads.

Shapes: C candidates.
"""

import random
from collections.abc import Mapping

import numpy as np

from serving import releases, requests
from serving.orchestrator import candidates
from serving.rules import (
    FieldValues,
    Selection,
    explain_ads,
    explain_answer,
    explain_shortage,
    select_best,
    select_with_rules,
)

# Reads the OS entropy pool, so forked workers do not draw the same sequence.
_DRAWS = random.SystemRandom()


def compose(
    release: releases.Bundle,
    valid: requests.ValidRequest,
    found: candidates.RequestCandidates,
    head_scores: Mapping[str, np.ndarray] | None,
    stage_ms: Mapping[str, float],
    degraded: str | None = None,
) -> requests.Answer:
    """Orders the candidates under the rules: by utility, or by retrieval score without a ranker.

    Args:
        head_scores: Scores [C] float32 of each present head; the utility is their weighted sum.
            None: there are no scores, and the utility is the retrieval score.
    """
    scores: dict[str, np.ndarray] = {}
    if head_scores is None:
        utility = found.scores.astype(np.float64)
        # An inner product has no natural zero, so the last candidate gets utility 0.
        zero = utility.min(initial=np.inf)
    else:
        weighted = [
            weight * head_scores[head].astype(np.float64) for head, weight in valid.weights.items()
        ]
        utility = np.sum(weighted, axis=0)
        zero = utility.min(initial=0.0)
        outputs = release.manifest.outputs
        scores = {outputs[head]: values for head, values in head_scores.items()}
        scores["utility"] = utility
    chosen = _select(valid, found, utility, zero)
    reasons = explanation = pool = None
    if valid.explain:
        ad_ids = found.ads.ad_ids
        reasons = explain_ads(valid, chosen, utility, head_scores)
        explanation = explain_answer(valid, chosen, utility, lambda p: ad_ids(found.rows[p]))
    if valid.candidates:
        # In retrieval order.
        pool = _ads(release, found, select_best(np.arange(len(found.rows))), scores, None)
    return requests.Answer(
        request_id=valid.request_id,
        bundle_version=release.version,
        degraded=degraded,
        order="retrieval" if head_scores is None else "utility",
        ads=_ads(release, found, chosen, scores, reasons),
        absent_heads=list(release.manifest.absent_heads),
        weak_heads=[head for head in release.manifest.weak_heads if valid.weights.get(head)],
        stage_ms=dict(stage_ms),
        user_data=valid.user_data,
        shortage=explain_shortage(valid, chosen, len(found.rows)),
        explanation=explanation,
        candidates=pool,
    )


def _select(
    valid: requests.ValidRequest,
    found: candidates.RequestCandidates,
    utility: np.ndarray,
    zero: float,
) -> Selection:
    """Chooses ads by utility [C]; `zero` is the utility of an ad without value."""
    rules = valid.rules
    shown = valid.shown_before
    if not (rules.caps or shown or rules.diversity or rules.exploration) or not len(utility):
        # A stable sort keeps ads of equal utility in retrieval order.
        return select_best(np.argsort(-utility, kind="stable")[: valid.k])
    fields = {cap.field for cap in rules.caps or ()}
    fields.update(cap.field or "" for cap in shown)
    fields.update(rule.field for rule in rules.diversity or ())
    values = {name: FieldValues.of(found.ads.column(found.rows, name)) for name in fields}
    # Diversity multiplies utilities, so they must not be negative.
    shifted = utility - zero if rules.diversity else utility
    return select_with_rules(shifted, valid.k, rules, values, _DRAWS, shown)


def _ads(
    release: releases.Bundle,
    found: candidates.RequestCandidates,
    chosen: Selection,
    scores: Mapping[str, np.ndarray],
    reasons: list[requests.AdExplanation] | None,
) -> list[requests.RankedAd]:
    rows = found.rows[chosen.indices]
    retrieval_scores = found.scores[chosen.indices].tolist()
    listed = found.ads.listed(rows)
    propensities = chosen.propensities.tolist()
    columns = {
        name: scores[name][chosen.indices].tolist() if name in scores else [None] * len(rows)
        for name in ("utility", *(head.output for head in release.manifest.heads))
    }
    return [
        requests.RankedAd(
            rank=position + 1,
            ad_id=listed[position].ad_id,
            show=listed[position].show,
            **{name: values[position] for name, values in columns.items()},
            retrieval_score=retrieval_scores[position],
            fields=listed[position].fields,
            propensity=propensities[position],
            explanation=None if reasons is None else reasons[position],
        )
        for position in range(len(rows))
    ]
