"""Says why an answer is as it is.

Shapes: C candidates.
"""

from collections.abc import Callable, Mapping

import numpy as np

from serving import requests
from serving.rules import selection

_MOST_NAMED = 10


def explain_ads(
    valid: requests.ValidRequest,
    chosen: selection.Selection,
    gains: np.ndarray,
    head_scores: Mapping[str, np.ndarray] | None,
) -> list[requests.AdExplanation]:
    """Explains each ad of an answer.

    Args:
        valid: The request.
        chosen: The ads.
        gains: [C] utilities, or retrieval scores.
        head_scores: Head -> [C] of each present head, or None in a degraded answer.
    """
    ranks = _ranks(gains)[chosen.places].tolist()
    explained = []
    for slot, place in enumerate(chosen.places.tolist()):
        parts = None
        if head_scores is not None:
            parts = {
                head: _part(float(head_scores[head][place]), weight)
                for head, weight in valid.weights.items()
            }
        explained.append(
            requests.AdExplanation(
                parts, ranks[slot] + 1, float(chosen.factors[slot]), bool(chosen.explored[slot])
            )
        )
    return explained


def explain_answer(
    valid: requests.ValidRequest,
    chosen: selection.Selection,
    gains: np.ndarray,
    ad_ids: Callable[[np.ndarray], list[str]],
) -> requests.Explanation:
    """Tells what the rules did.

    Args:
        valid: The request.
        chosen: The ads.
        gains: [C] utilities, or retrieval scores.
        ad_ids: Gives the ad ids of places.
    """
    ranks = _ranks(gains)
    passed = ranks < ranks[chosen.places].max(initial=-1)
    passed[chosen.places] = False
    causes: list[tuple[str, str | None, np.ndarray]] = [
        ("cap", field, full & passed) for field, full in chosen.full.items()
    ]
    rest = passed.copy()
    for full in chosen.full.values():
        rest &= ~full
    causes.append(("diversity" if valid.rules.diversity else "exploration", None, rest))
    left_out = []
    for rule, field, which in causes:
        places = np.flatnonzero(which)
        best = places[np.argsort(ranks[places])][:_MOST_NAMED]
        if len(places):
            left_out.append(requests.LeftOut(rule, field, len(places), ad_ids(best)))
    return requests.Explanation(
        candidates=len(gains),
        at_frequency_cap=[
            requests.AtCap(field, len(values)) for field, values in valid.at_cap.items()
        ],
        left_out=left_out,
        explored_slots=int(chosen.explored.sum()),
    )


def explain_shortage(
    valid: requests.ValidRequest, chosen: selection.Selection, num_candidates: int
) -> str | None:
    """Returns why there are fewer ads than were asked for, or None."""
    count = len(chosen.places)
    if count == valid.k:
        return None
    start = f"{count} of {valid.k} ads: "
    if count == num_candidates:
        if valid.filters is None:
            return f"{start}there are no more."
        causes = "filters and frequency caps" if valid.at_cap else "filters"
        return f"{start}no more meet the {causes}."
    others = num_candidates - count
    caps = ", ".join(
        f"at most {cap.most} with the same {cap.field} ({int(chosen.full[cap.field].sum())} have "
        "a value that is there so often)"
        for cap in valid.rules.caps or ()
        if chosen.full[cap.field].any()
    )
    return f"{start}the caps leave out the other {others} candidates: {caps}."


def _part(score: float, weight: float) -> requests.Part:
    return requests.Part(score, weight, weight * score)


def _ranks(gains: np.ndarray) -> np.ndarray:
    """Returns the places of candidates [C] in the order of their gains; 0 is the best."""
    ranks = np.empty(len(gains), np.int64)
    ranks[np.argsort(-gains, kind="stable")] = np.arange(len(gains))
    return ranks
