"""Puts an answer together: utility, the chosen ads, and what is shown of them.

Shapes: C candidates.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from serving import bundle, candidates, messages, validation

_HEAD_FIELDS = {
    "click": "click_probability",
    "engagement": "engagement_probability",
    "revenue": "expected_revenue",
}


@dataclasses.dataclass(frozen=True)
class RequestCandidates:
    """The candidates of one request.

    Attributes:
        ads: What the rows belong to.
        rows: [C] int64, in retrieval order.
        scores: [C] float32, their retrieval scores.
    """

    ads: candidates.Ads
    rows: np.ndarray
    scores: np.ndarray


def ranked(
    release: bundle.Bundle,
    valid: validation.ValidRequest,
    found: RequestCandidates,
    head_scores: Mapping[str, np.ndarray],
    stage_ms: Mapping[str, float],
    reason: str | None = None,
) -> messages.Answer:
    """Orders the candidates by utility, the weighted sum of the heads' scores.

    Args:
        release: The bundle.
        valid: The request.
        found: The candidates.
        head_scores: Head -> [C] float32, for each present head.
        stage_ms: Of the answer.
        reason: Why fewer candidates were ranked than were found, or None.
    """
    weighted = [
        weight * head_scores[head].astype(np.float64) for head, weight in valid.weights.items()
    ]
    utility = np.sum(weighted, axis=0)
    # Stable, so that ads of equal utility stay in retrieval order.
    chosen = np.argsort(-utility, kind="stable")[: valid.k]
    scores = {_HEAD_FIELDS[head]: head_scores[head][chosen].tolist() for head in head_scores}
    scores["utility"] = utility[chosen].tolist()
    best = RequestCandidates(found.ads, found.rows[chosen], found.scores[chosen])
    ads = _ads(best, scores)
    return _answer(release, valid, ads, "utility", reason, stage_ms)


def degraded(
    release: bundle.Bundle,
    valid: validation.ValidRequest,
    found: RequestCandidates,
    reason: str,
    stage_ms: Mapping[str, float],
) -> messages.Answer:
    """Leaves the candidates in retrieval order, without scores, and says why.

    Args:
        release: The bundle.
        valid: The request.
        found: The candidates.
        reason: Why there are no scores.
        stage_ms: Of the answer.
    """
    first = RequestCandidates(found.ads, found.rows[: valid.k], found.scores[: valid.k])
    ads = _ads(first, {})
    return _answer(release, valid, ads, "retrieval", reason, stage_ms)


def _ads(chosen: RequestCandidates, scores: Mapping[str, list[float]]) -> list[messages.RankedAd]:
    names = ("utility", *_HEAD_FIELDS.values())
    ad_ids = chosen.ads.ad_ids(chosen.rows)
    fields = chosen.ads.display(chosen.rows)
    return [
        messages.RankedAd(
            rank=place + 1,
            ad_id=ad_ids[place],
            retrieval_score=float(chosen.scores[place]),
            fields=fields[place],
            **{name: scores[name][place] if name in scores else None for name in names},
        )
        for place in range(len(chosen.rows))
    ]


def _answer(
    release: bundle.Bundle,
    valid: validation.ValidRequest,
    ads: list[messages.RankedAd],
    order: str,
    reason: str | None,
    stage_ms: Mapping[str, float],
) -> messages.Answer:
    return messages.Answer(
        request_id=valid.request_id,
        bundle_version=release.version,
        degraded=reason,
        order=order,
        ads=ads,
        absent_heads=list(release.manifest.absent_heads),
        stage_ms=dict(stage_ms),
    )
