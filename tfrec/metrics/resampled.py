"""Metrics of the data and all its resamples at once.

Each returns [S] values, the first of the data itself; a value that a sample does not define is
NaN. `bootstrap` turns them into a value and an interval.

Shapes: N rows, S samples, R lists.
"""

import numpy as np

from tfrec.metrics import bootstrap, definitions


def resampled_auc(
    resamples: bootstrap.Resamples, labels: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """Returns the AUC [S] in each sample, with ties counted half.

    Args:
        resamples: Weights of the rows in each sample.
        labels: [N]; above 0 is positive.
        scores: [N].
    """
    order = np.argsort(scores, kind="stable")
    positive = np.asarray(labels)[order] > 0
    starts, _ = definitions.ties(np.asarray(scores)[order])
    values = [np.empty(0)]
    for weights in resamples.row_weights(order):
        negatives = np.where(positive, 0.0, weights)
        positives = np.where(positive, weights, 0.0)
        if len(starts) < len(order):
            negatives = np.add.reduceat(negatives, starts, axis=1)
            positives = np.add.reduceat(positives, starts, axis=1)
        below = np.cumsum(negatives, axis=1, dtype=np.float64) - negatives / 2
        above = np.einsum("sn,sn->s", positives, below)
        values.append(resampled_ratio(above, _total(positives) * _total(negatives)))
    return np.concatenate(values)


def resampled_normalized_gini(
    resamples: bootstrap.Resamples, values: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """Returns the Gini [S] of values ordered by scores, divided by the Gini in their own order.

    Each of equal scores captures their mean value, so a constant has 0; 1 is the best order.

    Args:
        resamples: Weights of the rows in each sample.
        values: [N] non-negative amounts.
        scores: [N].
    """
    values = np.asarray(values, np.float64)

    def ginis(keys: np.ndarray) -> np.ndarray:
        order = np.argsort(-np.asarray(keys), kind="stable")
        starts, _ = definitions.ties(np.asarray(keys)[order])
        parts = [np.empty(0)]
        for weights in resamples.row_weights(order):
            taken = weights * values[order]
            if len(starts) < len(order):
                weights = np.add.reduceat(weights, starts, axis=1)
                taken = np.add.reduceat(taken, starts, axis=1)
            captured = np.cumsum(taken, axis=1)
            # The curve is a straight line over the copies of a row and over equal scores.
            area = np.einsum("sn,sn->s", weights, captured - taken / 2)
            parts.append(resampled_ratio(area, captured[:, -1] * _total(weights)) - 0.5)
        return np.concatenate(parts)

    return resampled_ratio(ginis(scores), ginis(values))


def resampled_normalized_entropy(
    loss: np.ndarray, positive: np.ndarray, count: np.ndarray
) -> np.ndarray:
    """Returns the normalized entropy from sums [S] of log losses, labels and rows."""
    rate = resampled_ratio(positive, count)
    inside = (rate > 0) & (rate < 1)
    p = np.where(inside, rate, 0.5)
    entropy = np.where(inside, -(p * np.log(p) + (1 - p) * np.log1p(-p)), np.nan)
    return resampled_ratio(loss, count) / entropy


def resampled_calibration_error(
    resamples: bootstrap.Resamples, labels: np.ndarray, probabilities: np.ndarray, bins: np.ndarray
) -> np.ndarray:
    """Returns the calibration error and, for each resample, its distance from the data.

    The distance is the sum over the bins [N] of how far a resample moves their share of the error.
    By the triangle inequality, the true error differs from the data's by at most the distance of
    the truth from the data, which the distance of a resample from the data estimates. The error of
    a resample itself is too large: noise raises the data's error, and resampling adds more.

    Returns:
        [S]; see `bootstrap.distance_interval`.
    """
    gap = np.asarray(labels, np.float64) - probabilities
    gaps = [np.where(bins == b, gap, 0.0) for b in range(int(bins.max()) + 1)]
    counts = resamples.sums(np.ones(len(gap)))[0]
    errors = np.stack([resampled_ratio(total, counts) for total in resamples.sums(*gaps)])
    distances = np.abs(errors - errors[:, :1]).sum(axis=0)
    distances[0] = np.abs(errors[:, 0]).sum()
    return distances


def resampled_per_user_auc(
    resamples: bootstrap.Resamples, labels: np.ndarray, scores: np.ndarray, user: np.ndarray
) -> np.ndarray:
    """Returns the AUC [S] within users, weighted by examples; users [N] are the units."""
    values, size = definitions.auc_of_groups(labels, scores, user)
    counted = np.flatnonzero(size)
    total, count = np.zeros((2, resamples.num_units))
    total[counted], count[counted] = (values * size)[counted], size[counted]
    return resampled_ratio(*resamples.sums_of_units(np.stack([total, count], axis=1)))


def resampled_ndcg(
    resamples: bootstrap.Resamples,
    gains: np.ndarray,
    scores: np.ndarray,
    list_lengths: np.ndarray,
    k: int,
) -> np.ndarray:
    """Returns the mean NDCG@k [S] of lists [R]; all rows of a list belong to one unit."""
    values = definitions.ndcg_of_lists(gains, scores, list_lengths, k)
    first = np.cumsum(list_lengths) - list_lengths
    counted = ~np.isnan(values)
    lists = resamples.take(first[counted])
    return resampled_ratio(*lists.sums(values[counted], np.ones(counted.sum())))


def resampled_ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns quotients, of the broadcast shape; NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(
        np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    )
    return np.divide(
        numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0
    )


def _total(weights: np.ndarray) -> np.ndarray:
    return weights.sum(axis=1, dtype=np.float64)
