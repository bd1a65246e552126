"""Puts an answer together: utility, the chosen ads, and what is shown of them.

Shapes: C candidates.
"""

from collections.abc import Mapping

import numpy as np

from serving import bundle, messages, validation

_HEAD_FIELDS = {
    "click": "click_probability",
    "engagement": "engagement_probability",
    "revenue": "expected_revenue",
}


def ranked(
    release: bundle.Bundle,
    valid: validation.ValidRequest,
    rows: np.ndarray,
    retrieval_scores: np.ndarray,
    head_scores: Mapping[str, np.ndarray],
    stage_ms: Mapping[str, float],
) -> messages.Answer:
    """Orders the candidates by utility, the weighted sum of the heads' scores.

    Args:
        release: The bundle.
        valid: The request.
        rows: [C] int64, catalogue rows in retrieval order.
        retrieval_scores: [C] float32.
        head_scores: Head -> [C] float32, for each present head.
        stage_ms: Of the answer.
    """
    weighted = [
        weight * head_scores[head].astype(np.float64) for head, weight in valid.weights.items()
    ]
    utility = np.sum(weighted, axis=0)
    # Stable, so that ads of equal utility stay in retrieval order.
    chosen = np.argsort(-utility, kind="stable")[: valid.k]
    scores = {_HEAD_FIELDS[head]: head_scores[head][chosen].tolist() for head in head_scores}
    scores["utility"] = utility[chosen].tolist()
    ads = _ads(release, rows[chosen], retrieval_scores[chosen], scores)
    return _answer(release, valid, ads, None, stage_ms)


def degraded(
    release: bundle.Bundle,
    valid: validation.ValidRequest,
    rows: np.ndarray,
    retrieval_scores: np.ndarray,
    reason: str,
    stage_ms: Mapping[str, float],
) -> messages.Answer:
    """Leaves the candidates in retrieval order, without scores, and says why.

    Args:
        release: The bundle.
        valid: The request.
        rows: [C] int64, catalogue rows in retrieval order.
        retrieval_scores: [C] float32.
        reason: Why there are no scores.
        stage_ms: Of the answer.
    """
    ads = _ads(release, rows[: valid.k], retrieval_scores[: valid.k], {})
    return _answer(release, valid, ads, reason, stage_ms)


def _ads(
    release: bundle.Bundle,
    rows: np.ndarray,
    retrieval_scores: np.ndarray,
    scores: Mapping[str, list[float]],
) -> list[messages.RankedAd]:
    names = ("utility", *_HEAD_FIELDS.values())
    ad_ids = release.ad_index.ad_ids(rows)
    fields = release.ad_index.display(rows)
    return [
        messages.RankedAd(
            rank=place + 1,
            ad_id=ad_ids[place],
            retrieval_score=float(retrieval_scores[place]),
            fields=fields[place],
            **{name: scores[name][place] if name in scores else None for name in names},
        )
        for place in range(len(rows))
    ]


def _answer(
    release: bundle.Bundle,
    valid: validation.ValidRequest,
    ads: list[messages.RankedAd],
    reason: str | None,
    stage_ms: Mapping[str, float],
) -> messages.Answer:
    return messages.Answer(
        request_id=valid.request_id,
        bundle_version=release.version,
        degraded=reason,
        order="utility" if reason is None else "retrieval",
        ads=ads,
        absent_heads=list(release.manifest.absent_heads),
        stage_ms=dict(stage_ms),
    )
