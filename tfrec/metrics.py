"""Metrics in NumPy, each named after what it is measured on.

Shapes: N examples; lists are consecutive runs of examples.

References:
    He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, 2014, §3
    (normalised entropy).
    Naeini et al., Obtaining Well Calibrated Probabilities, 2015 (ECE).
"""

import numpy as np

_SMALLEST_PROBABILITY = 1e-12


def auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve, ties counted half; None if only one class is present."""
    positive = np.asarray(labels) > 0
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    above = ranks[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean binary cross-entropy in nats."""
    p = np.clip(
        np.asarray(probabilities, np.float64), _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY
    )
    labels = np.asarray(labels, np.float64)
    return float(-np.mean(labels * np.log(p) + (1 - labels) * np.log1p(-p)))


def normalized_entropy(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Log loss over that of always predicting the observed rate: below 1 is information."""
    rate = float(np.mean(labels))
    if rate in (0.0, 1.0):
        return None
    return log_loss(labels, probabilities) / log_loss(labels, np.full(len(labels), rate))


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, num_bins: int = 15
) -> float:
    """Mean |observed − predicted| over bins of equally many examples."""
    order = np.argsort(probabilities, kind="stable")
    error = 0.0
    for rows in np.array_split(order, min(num_bins, len(order))):
        gap = abs(float(np.mean(labels[rows])) - float(np.mean(probabilities[rows])))
        error += gap * len(rows) / len(order)
    return error


def calibration_ratio(labels: np.ndarray, predictions: np.ndarray) -> float | None:
    """Sum predicted over sum observed; 1 is calibrated, None if nothing was observed."""
    observed = float(np.sum(labels, dtype=np.float64))
    return float(np.sum(predictions, dtype=np.float64)) / observed if observed else None


def normalized_gini(values: np.ndarray, scores: np.ndarray) -> float | None:
    """Gini of the values taken in score order over that in their own order; 1 is perfect."""
    total = float(np.sum(values, dtype=np.float64))
    if not total:
        return None

    def gini(order: np.ndarray) -> float:
        captured = np.cumsum(np.asarray(values, np.float64)[order]) / total
        return float(captured.mean() - (len(values) + 1) / (2 * len(values)))

    best = gini(np.argsort(-np.asarray(values), kind="stable"))
    return gini(np.argsort(-np.asarray(scores), kind="stable")) / best if best else None


def gini(counts: np.ndarray) -> float | None:
    """Gini coefficient of counts [N]: 0 if all are equal, 1 − 1/N if one holds everything."""
    total = float(np.sum(counts, dtype=np.float64))
    if not total:
        return None
    rank = np.arange(1, len(counts) + 1)
    return float(2 * (rank @ np.sort(counts)) / (len(counts) * total) - 1 - 1 / len(counts))


def percentile_ranks(values: np.ndarray) -> np.ndarray:
    """Share of values [N] that are smaller than each, equal ones counted half: [N] in (0, 1)."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return ((np.cumsum(counts) - counts / 2) / len(values))[inverse]


def ndcg_at_k(
    gains: np.ndarray, scores: np.ndarray, list_lengths: np.ndarray, k: int
) -> float | None:
    """Mean NDCG@k of lists that hold a gain and at least two examples; None if there is none.

    Args:
        gains: [N] non-negative relevance.
        scores: [N]; equal scores keep their order.
        list_lengths: Lengths of the consecutive lists.
        k: Cut-off.
    """
    values = []
    discounts = 1.0 / np.log2(np.arange(2, 2 + max(k, 1)))
    ends = np.cumsum(list_lengths)
    for end, length in zip(ends, list_lengths, strict=True):
        gain = gains[end - length : end]
        if length < 2 or not gain.any():
            continue
        top = min(k, length)
        ranked = gain[np.argsort(-scores[end - length : end], kind="stable")][:top]
        best = np.sort(gain)[::-1][:top]
        values.append(float(ranked @ discounts[:top]) / float(best @ discounts[:top]))
    return float(np.mean(values)) if values else None


def recall_at_k(found: np.ndarray, wanted: np.ndarray) -> float:
    """Share of queries whose wanted row is among those found.

    Args:
        found: [N, k] candidate rows.
        wanted: [N] rows.
    """
    return float(np.mean((found == wanted[:, None]).any(axis=1)))


def share_of_achievable(value: float | None, floor: float, ceiling: float | None) -> float | None:
    """(value − floor) / (ceiling − floor): 1 is as good as the planted truth."""
    if value is None or ceiling is None or ceiling == floor:
        return None
    return (value - floor) / (ceiling - floor)
