"""Points of the curves of a report: ROC, precision and recall, histograms of scores.

Shapes: N rows.
"""

from typing import Any

import numpy as np

_POINTS = 60
_BINS = 30
# Share of the scores at each end that the histogram leaves out.
_TAIL = 0.002


def of_scores(labels: np.ndarray, scores: np.ndarray, ratios: bool = False) -> dict[str, Any]:
    """Returns the curves of a head.

    Args:
        labels: [N]; above 0 is positive.
        scores: [N].
        ratios: Whether the histogram's bins are equally wide on a logarithmic scale.

    Returns:
        `roc`: [false positive rate, true positive rate] points; `precision_recall`: [recall,
        precision] points, both None for one class; `scores`: `edges` of
        bins, and the shares of `positive` and `negative` rows in each.
    """
    positive = np.asarray(labels) > 0
    num_positive = int(positive.sum())
    one_class = num_positive in (0, len(positive))
    return {
        "roc": None if one_class else _roc(positive, scores),
        "precision_recall": None if one_class else _precision_recall(positive, scores),
        "scores": _histogram(positive, np.asarray(scores, np.float64), ratios),
    }


def _cut(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of rows and of positives above evenly spread thresholds."""
    order = np.argsort(-scores, kind="stable")
    # Rows with equal scores are on the same side of every threshold.
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    taken = ends + 1
    found = np.cumsum(positive[order])[ends]
    wanted = np.unique(
        np.concatenate(
            [
                np.searchsorted(counts, np.linspace(0, counts[-1], _POINTS))
                for counts in (taken, found, taken - found)
            ]
        )
    ).clip(max=len(taken) - 1)
    return taken[wanted], found[wanted]


def _roc(positive: np.ndarray, scores: np.ndarray) -> list[list[float]]:
    taken, found = _cut(positive, scores)
    total = int(positive.sum())
    points = zip((taken - found) / (len(positive) - total), found / total, strict=True)
    return [[0.0, 0.0], *([round(float(x), 5), round(float(y), 5)] for x, y in points)]


def _precision_recall(positive: np.ndarray, scores: np.ndarray) -> list[list[float]]:
    taken, found = _cut(positive, scores)
    points = zip(found / int(positive.sum()), found / taken, strict=True)
    return [[round(float(x), 5), round(float(y), 5)] for x, y in points]


def _histogram(positive: np.ndarray, scores: np.ndarray, ratios: bool) -> dict[str, Any] | None:
    if not len(scores):
        return None
    low, high = np.quantile(scores, (_TAIL, 1 - _TAIL))
    if ratios:
        low, high = max(low, high / 1e4, 1e-9), max(high, 1e-9)
    if high <= low:
        high = low + max(abs(low), 1.0) * 1e-6
    edges = np.geomspace(low, high, _BINS + 1) if ratios else np.linspace(low, high, _BINS + 1)
    shares = {}
    for name, own in (("positive", positive), ("negative", ~positive)):
        counts = np.histogram(scores[own].clip(edges[0], edges[-1]), edges)[0]
        shares[name] = (counts / max(int(own.sum()), 1)).round(5).tolist()
    return {"edges": [float(f"{edge:.4g}") for edge in edges], "ratios": ratios, **shares}
