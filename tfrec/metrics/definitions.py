"""Metrics over rows, in NumPy; `resampled` has metrics over bootstrap samples.

No metric depends on the order of rows with equal scores.

Shapes: N examples; lists are consecutive runs of examples; G groups, such as users; T runs of
equal scores.

References:
    He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, 2014, §2
    (normalized entropy).
    Naeini et al., Obtaining Well Calibrated Probabilities, 2015 (ECE).
    McSherry and Najork, Computing Information Retrieval Performance Measures Efficiently in the
    Presence of Tied Scores, 2008 (NDCG: the mean over the orders of tied rows).
    Zhou et al., Deep Interest Network for Click-Through Rate Prediction, 2018, §6.3 (per-user
    AUC, weighted by impressions).
"""

import numpy as np
import pandas as pd

_MIN_PROBABILITY = 1e-12


def auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Returns the area under the ROC curve; None if only one class is present.

    Args:
        labels: [N]; above 0 is positive.
        scores: [N]; ties count half.
    """
    positive = np.asarray(labels) > 0
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return None
    above = _ranks(scores)[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))


def auc_of_groups(
    labels: np.ndarray, scores: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the AUC within each group that has both classes.

    Args:
        labels: [N]; above 0 is positive.
        scores: [N]; ties count half.
        group: [N] the group of each example, from 0.

    Returns:
        AUC [G] and number of examples [G]; NaN and 0 where a group has one class only.
    """
    positive = np.asarray(labels) > 0
    num_groups = int(group.max()) + 1 if len(group) else 0
    order = np.lexsort((scores, group))
    starts, lengths = ties(np.asarray(scores)[order], group[order])
    size = np.bincount(group, minlength=num_groups)
    before = np.cumsum(size) - size
    # From 1, within the group.
    rank = np.repeat(starts + (lengths + 1) / 2, lengths) - before[group[order]]
    num_positive = np.bincount(group[positive], minlength=num_groups)
    ranks = np.bincount(
        group[order], weights=np.where(positive[order], rank, 0.0), minlength=num_groups
    )
    pairs = num_positive * (size - num_positive)
    above = ranks - num_positive * (num_positive + 1) / 2
    values = np.divide(above, pairs, out=np.full(num_groups, np.nan), where=pairs > 0)
    return values, np.where(pairs > 0, size, 0)


def log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the binary cross-entropy [N] of each example, in nats.

    Args:
        labels: [N] in [0, 1].
        probabilities: [N] in [0, 1].
    """
    p = np.clip(np.asarray(probabilities, np.float64), _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    labels = np.asarray(labels, np.float64)
    return -(labels * np.log(p) + (1 - labels) * np.log1p(-p))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Returns the mean of `log_losses`, in nats."""
    return float(np.mean(log_losses(labels, probabilities)))


def normalized_entropy(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Returns the log loss divided by the log loss of always predicting the observed rate.

    Args:
        labels: [N] 0 or 1; None is returned if all are equal.
        probabilities: [N] in [0, 1].
    """
    rate = float(np.mean(labels))
    if rate in (0.0, 1.0):
        return None
    return log_loss(labels, probabilities) / log_loss(labels, np.full(len(labels), rate))


def ties(*keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the runs of consecutive rows [N] that are equal in every key.

    Args:
        keys: [N] each, with equal rows next to each other.

    Returns:
        Start [T] and length [T] of each run.
    """
    first = np.ones(len(keys[0]), bool)
    first[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    starts = np.flatnonzero(first)
    return starts, np.diff(np.append(starts, len(first)))


def calibration_bins(probabilities: np.ndarray, num_bins: int = 15) -> np.ndarray:
    """Assigns examples to bins of rising probability, of equal size up to ties.

    Equal probabilities share the bin of their middle row, so that bins do not depend on the order
    of rows.

    Args:
        probabilities: [N] in [0, 1].
        num_bins: Maximum number of bins; few distinct probabilities give fewer.

    Returns:
        [N] the bin of each example, from 0; no bin is empty.
    """
    probabilities = np.asarray(probabilities)
    order = np.argsort(probabilities, kind="stable")
    starts, lengths = ties(probabilities[order])
    # The sizes of `np.array_split`.
    size, more = divmod(len(order), max(min(num_bins, len(order)), 1))
    middle = starts + (lengths - 1) // 2
    bin_of_run = np.where(
        middle < more * (size + 1), middle // (size + 1), (middle - more) // max(size, 1)
    )
    bins = np.empty(len(order), np.int64)
    bins[order] = np.repeat(np.unique(bin_of_run, return_inverse=True)[1], lengths)
    return bins


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, num_bins: int = 15
) -> float:
    """Returns the mean |observed − predicted| over the bins of `calibration_bins`.

    Bins are weighted by their numbers of examples.

    Args:
        labels: [N], in the unit of the prediction.
        probabilities: [N] predictions.
        num_bins: Maximum number of bins.
    """
    bins = calibration_bins(probabilities, num_bins)
    gap = np.asarray(labels, np.float64) - probabilities
    return float(np.abs(np.bincount(bins, weights=gap)).sum() / len(gap))


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of counts [N], not all 0: 0 if equal, 1 − 1/N if all but one are 0."""
    total = float(np.sum(counts, dtype=np.float64))
    rank = np.arange(1, len(counts) + 1)
    return float(2 * (rank @ np.sort(counts)) / (len(counts) * total) - 1 - 1 / len(counts))


def percentile_ranks(values: np.ndarray) -> np.ndarray:
    """Share [N] in (0, 1) of the values [N] below each, with equal values counted half."""
    return (_ranks(values) - 0.5) / len(values)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks [N] from 1; equal values share the mean. Importing SciPy's takes half a second."""
    return pd.Series(values).rank().to_numpy()


def ndcg_of_lists(
    gains: np.ndarray, scores: np.ndarray, list_lengths: np.ndarray, k: int
) -> np.ndarray:
    """Computes the NDCG@k of each list.

    Args:
        gains: [N] non-negative relevance.
        scores: [N]; equal scores of a list share the mean discount of their ranks.
        list_lengths: Lengths of the consecutive lists.
        k: Number of ranks that count.

    Returns:
        One value per list; NaN for lists without a gain or with fewer than two examples.
    """
    gains = np.asarray(gains, np.float64)
    num_lists = len(list_lengths)
    owner = np.repeat(np.arange(num_lists), list_lengths)
    starts = np.cumsum(list_lengths) - list_lengths
    rank = np.arange(len(gains)) - starts[owner]
    discount = np.where(rank < k, 1.0 / np.log2(rank + 2.0), 0.0)

    def summed(keys: np.ndarray) -> np.ndarray:
        keys = np.asarray(keys)
        order = np.lexsort((-keys, owner))  # keeps the owners in place
        starts, lengths = ties(keys[order], owner)
        shared = np.add.reduceat(discount, starts) / lengths if len(starts) else discount
        weights = gains[order] * np.repeat(shared, lengths)
        return np.bincount(owner, weights=weights, minlength=num_lists)

    best = summed(gains)
    counted = (best > 0) & (np.asarray(list_lengths) > 1)
    return np.divide(summed(scores), best, out=np.full(num_lists, np.nan), where=counted)


def share_of_achievable(value: float | None, floor: float, ceiling: float | None) -> float | None:
    """Returns (value − floor) / (ceiling − floor); None if one is missing or there is no gain.

    Args:
        value: A metric of a model.
        floor: The metric of a model without information.
        ceiling: The metric of the ground truth, at which the share is 1.
    """
    if value is None or ceiling is None or ceiling == floor:
        return None
    return (value - floor) / (ceiling - floor)
