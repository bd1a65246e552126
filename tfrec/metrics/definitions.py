"""Metrics in NumPy, each named after what it is measured on.

Equal scores are in no order: no metric depends on which of their rows the log has first.

Shapes: N examples; lists are consecutive runs of examples; G groups, such as users; T runs of
equal scores.

References:
    He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, 2014, §3
    (normalised entropy).
    Naeini et al., Obtaining Well Calibrated Probabilities, 2015 (ECE).
    McSherry and Najork, Computing Information Retrieval Performance Measures Efficiently in the
    Presence of Tied Scores, 2008 (NDCG: the mean over the orders of what is tied).
    Zhou et al., Deep Interest Network for Click-Through Rate Prediction, 2018, §6.3 (per-user
    AUC, weighted by impressions).
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


def auc_of_groups(
    labels: np.ndarray, scores: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the AUC within each group that has both classes.

    Args:
        labels: [N]; above 0 is positive.
        scores: [N]; ties count half.
        group: [N] which of the groups 0..G-1 each example is of.

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


def per_user_auc(labels: np.ndarray, scores: np.ndarray, user: np.ndarray) -> float | None:
    """Mean AUC within users that have both classes, weighted by their examples; None without.

    Args:
        labels: [N]; above 0 is positive.
        scores: [N].
        user: [N] which of the users 0..G-1 each example is of.
    """
    values, size = auc_of_groups(labels, scores, user)
    return float(np.average(values[size > 0], weights=size[size > 0])) if size.any() else None


def log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the binary cross-entropy [N] of each example, in nats."""
    p = np.clip(
        np.asarray(probabilities, np.float64), _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY
    )
    labels = np.asarray(labels, np.float64)
    return -(labels * np.log(p) + (1 - labels) * np.log1p(-p))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean binary cross-entropy in nats."""
    return float(np.mean(log_losses(labels, probabilities)))


def normalized_entropy(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Log loss over that of always predicting the observed rate: below 1 is information."""
    rate = float(np.mean(labels))
    if rate in (0.0, 1.0):
        return None
    return log_loss(labels, probabilities) / log_loss(labels, np.full(len(labels), rate))


def ties(*keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the runs of rows [N] that are equal in every key.

    Args:
        keys: [N] each, in an order in which equal rows stand together.

    Returns:
        Where each run starts [T], and its length [T].
    """
    first = np.ones(len(keys[0]), bool)
    first[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    starts = np.flatnonzero(first)
    return starts, np.diff(np.append(starts, len(first)))


def calibration_bins(probabilities: np.ndarray, num_bins: int = 15) -> np.ndarray:
    """Numbers bins of rising probability, as equally large as equal probabilities allow.

    These share a bin, that of their middle row: a bin of some of them would say nothing but which
    of their rows the log has first.

    Args:
        probabilities: [N].
        num_bins: Most bins; there are fewer where there are fewer distinct probabilities.

    Returns:
        [N] the bin of each example, from 0; none is empty.
    """
    probabilities = np.asarray(probabilities)
    order = np.argsort(probabilities, kind="stable")
    starts, lengths = ties(probabilities[order])
    # As `np.array_split` cuts.
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
    """Mean |observed − predicted| over the bins of `calibration_bins`, weighted by examples."""
    bins = calibration_bins(probabilities, num_bins)
    gap = np.asarray(labels, np.float64) - probabilities
    return float(np.abs(np.bincount(bins, weights=gap)).sum() / len(gap))


def calibration_ratio(labels: np.ndarray, predictions: np.ndarray) -> float | None:
    """Sum predicted over sum observed; 1 is calibrated, None if nothing was observed."""
    observed = float(np.sum(labels, dtype=np.float64))
    return float(np.sum(predictions, dtype=np.float64)) / observed if observed else None


def normalized_gini(values: np.ndarray, scores: np.ndarray) -> float | None:
    """Gini of the values taken in score order over that in their own order; 1 is perfect.

    Each of equal scores captures their mean value: a constant has 0.
    """
    values = np.asarray(values, np.float64)
    total = float(np.sum(values))
    if not total:
        return None

    def gini(keys: np.ndarray) -> float:
        order = np.argsort(-np.asarray(keys), kind="stable")
        starts, lengths = ties(np.asarray(keys)[order])
        taken = np.add.reduceat(values[order], starts) / lengths
        captured = np.cumsum(np.repeat(taken, lengths)) / total
        return float(captured.mean() - (len(values) + 1) / (2 * len(values)))

    best = gini(values)
    return gini(scores) / best if best else None


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


def ndcg_of_lists(
    gains: np.ndarray, scores: np.ndarray, list_lengths: np.ndarray, k: int
) -> np.ndarray:
    """Computes the NDCG@k of each list.

    Args:
        gains: [N] non-negative relevance.
        scores: [N]; equal scores of a list share the mean discount of their ranks.
        list_lengths: Lengths of the consecutive lists.
        k: Cut-off.

    Returns:
        One value a list, NaN for those without a gain or with fewer than two examples.
    """
    gains = np.asarray(gains, np.float64)
    num_lists = len(list_lengths)
    owner = np.repeat(np.arange(num_lists), list_lengths)
    starts = np.cumsum(list_lengths) - list_lengths
    rank = np.arange(len(gains)) - starts[owner]
    discount = np.where(rank < k, 1.0 / np.log2(rank + 2.0), 0.0)

    def summed(keys: np.ndarray) -> np.ndarray:
        keys = np.asarray(keys)
        order = np.lexsort((-keys, owner))
        starts, lengths = ties(keys[order], owner)  # the order leaves the owners where they are
        shared = np.add.reduceat(discount, starts) / lengths if len(starts) else discount
        weights = gains[order] * np.repeat(shared, lengths)
        return np.bincount(owner, weights=weights, minlength=num_lists)

    best = summed(gains)
    counted = (best > 0) & (np.asarray(list_lengths) > 1)
    return np.divide(summed(scores), best, out=np.full(num_lists, np.nan), where=counted)


def ndcg_at_k(
    gains: np.ndarray, scores: np.ndarray, list_lengths: np.ndarray, k: int
) -> float | None:
    """Mean of `ndcg_of_lists` over the lists that have one; None if there is none."""
    values = ndcg_of_lists(gains, scores, list_lengths, k)
    counted = ~np.isnan(values)
    return float(values[counted].mean()) if counted.any() else None


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
