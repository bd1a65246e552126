"""Explains an answer: the parts of each utility, and the effect of the rules.

Shapes: C candidates.
"""

from collections.abc import Callable, Mapping

import numpy as np

from serving import requests
from serving.rules.selection import Selection

_MAX_NAMED_ADS = 10


def explain_ads(
    valid: requests.ValidRequest,
    chosen: Selection,
    gains: np.ndarray,
    head_scores: Mapping[str, np.ndarray] | None,
) -> list[requests.AdExplanation]:
    """Explains the position of each ad in an answer.

    Args:
        valid: Request.
        chosen: Chosen ads.
        gains: [C] utilities or retrieval scores.
        head_scores: Present head to scores [C]; None in a degraded answer.
    """
    ranks = _ranks(gains)[chosen.indices].tolist()
    explained = []
    for position, index in enumerate(chosen.indices.tolist()):
        parts = None
        if head_scores is not None:
            parts = {}
            for head, weight in valid.weights.items():
                score = float(head_scores[head][index])
                parts[head] = requests.UtilityPart(score=score, weight=weight, part=weight * score)
        explained.append(
            requests.AdExplanation(
                parts=parts,
                rank_without_rules=ranks[position] + 1,
                diversity_factor=float(chosen.factors[position]),
                explored=bool(chosen.explored[position]),
            )
        )
    return explained


def explain_answer(
    valid: requests.ValidRequest,
    chosen: Selection,
    gains: np.ndarray,
    ad_ids: Callable[[np.ndarray], list[str]],
) -> requests.Explanation:
    """Explains the effect of the rules on an answer.

    Args:
        valid: Request.
        chosen: Chosen ads.
        gains: [C] utilities or retrieval scores.
        ad_ids: Returns the ad ids of candidates, given their indices.
    """
    ranks = _ranks(gains)
    passed = ranks < ranks[chosen.indices].max(initial=-1)
    passed[chosen.indices] = False
    causes: list[tuple[str, str | None, np.ndarray]] = [
        ("cap" if isinstance(cap, requests.Cap) else "frequency_cap", cap.field, full & passed)
        for cap, full in chosen.full.items()
    ]
    rest = passed.copy()
    for full in chosen.full.values():
        rest &= ~full
    causes.append(("diversity" if valid.rules.diversity else "exploration", None, rest))
    left_out = []
    for rule, field, is_left_out in causes:
        indices = np.flatnonzero(is_left_out)
        best = indices[np.argsort(ranks[indices])][:_MAX_NAMED_ADS]
        if len(indices):
            left_out.append(
                requests.LeftOut(rule=rule, field=field, count=len(indices), ads=ad_ids(best))
            )
    return requests.Explanation(
        candidates=len(gains),
        at_frequency_cap=[
            requests.AtCap(field=field, count=len(values)) for field, values in valid.at_cap.items()
        ],
        left_out=left_out,
        explored_slots=int(chosen.explored.sum()),
    )


def explain_shortage(
    valid: requests.ValidRequest, chosen: Selection, num_candidates: int
) -> str | None:
    """Returns why there are fewer than k ads, or None if there are k."""
    count = len(chosen.indices)
    if count == valid.k:
        return None
    start = f"{count} of {valid.k} ads: "
    if count == num_candidates:
        if valid.filters is None:
            return f"{start}the catalog has no more."
        causes = "filters and frequency caps" if valid.at_cap else "filters"
        return f"{start}no more ads meet the {causes}."
    num_left_out = num_candidates - count
    caps = ", ".join(
        f"at most {cap.max} {'' if isinstance(cap, requests.Cap) else 'impressions '}with the same "
        f"{cap.field} (reached for {int(full.sum())} candidates)"
        for cap, full in chosen.full.items()
        if full.any()
    )
    return f"{start}the caps leave out the other {num_left_out} candidates: {caps}."


def _ranks(gains: np.ndarray) -> np.ndarray:
    """Returns the rank of each candidate [C] by gain; 0 is the best."""
    ranks = np.empty(len(gains), np.int64)
    ranks[np.argsort(-gains, kind="stable")] = np.arange(len(gains))
    return ranks
