"""Points of the curves of a report: ROC, precision and recall, histograms of scores.

Shapes: N rows.
"""

import numpy as np

from tfrec.evaluation import report

_POINTS = 60
_BINS = 30
# Share of the scores at each end that the histogram leaves out.
_TAIL = 0.002


def compute(
    labels: np.ndarray,
    scores: np.ndarray,
    ratios: bool = False,
    probabilities: np.ndarray | None = None,
) -> report.ScoreCurves:
    """Returns the curves of a head.

    Args:
        labels: [N]; above 0 is positive; at least one row.
        scores: [N].
        ratios: Whether the histogram's bins are equally wide on a logarithmic scale.
        probabilities: [N] scores that order the rows for ROC, precision and recall; None: `scores`.
    """
    positive, scores = np.asarray(labels) > 0, np.asarray(scores, np.float64)
    ordered = scores if probabilities is None else np.asarray(probabilities, np.float64)
    num_positive = int(positive.sum())
    roc = precision_recall = None
    if 0 < num_positive < len(positive):
        taken, found = _counts_at_thresholds(positive, ordered)
        recall = found / num_positive
        false_positives = (taken - found) / (len(positive) - num_positive)
        roc = [(0.0, 0.0), *_points(false_positives, recall)]
        precision_recall = _points(recall, found / taken)
    return report.ScoreCurves(
        roc=roc, precision_recall=precision_recall, scores=_histogram(positive, scores, ratios)
    )


def _counts_at_thresholds(
    positive: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of rows and of positives above evenly spread thresholds."""
    order = np.argsort(-scores, kind="stable")
    # Rows with equal scores are on the same side of every threshold.
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    taken = ends + 1
    found = np.cumsum(positive[order])[ends]
    chosen = np.unique(
        np.concatenate(
            [
                np.searchsorted(counts, np.linspace(0, counts[-1], _POINTS))
                for counts in (taken, found, taken - found)
            ]
        )
    )
    return taken[chosen], found[chosen]


def _points(x: np.ndarray, y: np.ndarray) -> list[report.Point]:
    return list(zip(x.round(5).tolist(), y.round(5).tolist(), strict=True))


def _histogram(positive: np.ndarray, scores: np.ndarray, ratios: bool) -> report.ScoreHistogram:
    low, high = np.quantile(scores, (_TAIL, 1 - _TAIL))
    if ratios:
        low, high = max(low, high / 1e4, 1e-9), max(high, 1e-9)
    if high <= low:
        high = low + max(abs(low), 1.0) * 1e-6
    edges = np.geomspace(low, high, _BINS + 1) if ratios else np.linspace(low, high, _BINS + 1)

    def shares(mask: np.ndarray) -> list[float]:
        counts = np.histogram(scores[mask].clip(edges[0], edges[-1]), edges)[0]
        return (counts / max(int(mask.sum()), 1)).round(5).tolist()

    return report.ScoreHistogram(
        edges=[float(f"{edge:.4g}") for edge in edges],
        ratios=ratios,
        positive=shares(positive),
        negative=shares(~positive),
    )
