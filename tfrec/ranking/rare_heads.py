"""Heads with few positives: a shallow model next to the network, and revenue through engagement.

A network trained on all rows mostly fits clicks: of 80,000 rows of a log, 18,000 were clicked and
2,700 engaged. So once it is trained, a factorization machine of the engagement given a
click is fitted on the clicked rows alone. The effects of each field and its vectors have normal
priors whose variances are estimated from the rows themselves (empirical Bayes): a field that is
unrelated to engagements is shrunk to zero, and so is an ad with few clicks. The weight of
each logit in their mixture is chosen on validation rows.

Revenue follows an engagement, so the logit of a positive amount is mixed, in the same way, with
the logit of a click and an engagement after it.

Shapes: N clicked rows, L held-out rows, V rows of the table, M numbers, F fields, K rank.

References:
    MacKay, Bayesian Interpolation, 1992, §4 (variances of priors from the evidence).
    Rendle, Scaling Factorization Machines to Relational Data, 2013 (priors by field).
"""

from collections.abc import Mapping

import numpy as np
import scipy.sparse
import scipy.special

from tfrec import calibration, layers, metrics
from tfrec.heads import CLICK, HEADS, HeadKind
from tfrecords import columns, reader

# Only the last clicked rows are kept, to bound time and memory.
_MAX_ROWS = 200_000
_MIN_POSITIVES, _MIN_HELD_OUT_POSITIVES = 50, 5
_STEPS, _STEPS_PER_ESTIMATE, _FIRST_ESTIMATE, _LAST_STEPS = 200, 15, 45, 20
_LEARNING_RATE = 0.06
_PRECISION, _MIN_PRECISION, _MAX_PRECISION = 15.0, 5.0, 3e4
_SHARES = tuple(tenths / 10 for tenths in range(1, 11))


def fit(
    machine: layers.FactorizationMachine, data_set: reader.DataSet, head: str, seed: int
) -> bool:
    """Fits a machine on the last `_MAX_ROWS` clicked training rows of a head after a click.

    Returns:
        Whether there are enough rows; otherwise nothing is assigned.
    """
    rows = layers.LabeledRows.read(data_set, "train", _MAX_ROWS, head, clicked=True)
    labels = rows.labels.astype(np.float64)
    positives = int(labels.sum())
    if min(positives, len(labels) - positives) < _MIN_POSITIVES:
        return False
    sides = matrices(machine, rows.query, rows.ad)
    # The effects and vectors of other ids, which may be millions, are most probably 0.
    used = columns.distinct_numbers(np.concatenate([side.indices for side in sides]))
    if not len(used):  # Vectors and empty lists have no ids.
        return False
    intercept, fitted = fit_table(
        tuple(side[:, used] for side in sides),
        labels,
        machine.field_of_row[used],
        layers.RANK,
        seed,
    )
    table = np.zeros(machine.table.shape, np.float32)
    table[used] = fitted
    machine.intercept.assign(intercept)
    machine.table.assign(table)
    return True


def matrices(
    machine: layers.FactorizationMachine, query: np.ndarray, ad: np.ndarray
) -> tuple[scipy.sparse.csr_matrix, scipy.sparse.csr_matrix]:
    """Returns [N, V] values by row of the table, of queries [N, Wq] and of ads [N, Wa] int32."""
    numbers = scipy.sparse.csr_matrix(machine.ad_numbers(ad).numpy())
    no_ids = scipy.sparse.csr_matrix((len(ad), len(machine.is_padding)))
    numbers = scipy.sparse.hstack([no_ids, numbers], "csr")
    return (
        _matrix(machine.query_rows(query).numpy(), machine),
        _matrix(machine.ad_rows(ad).numpy(), machine) + numbers,
    )


def _matrix(rows: np.ndarray, machine: layers.FactorizationMachine) -> scipy.sparse.csr_matrix:
    """Returns [N, V]: how often each row [N, W] has each id, without the padding of lists."""
    ends = np.arange(len(rows) + 1) * rows.shape[1]
    ones = (~machine.is_padding[rows.ravel()]).astype(np.float64)
    matrix = scipy.sparse.csr_matrix(
        (ones, rows.ravel(), ends), (len(rows), len(machine.field_of_row))
    )
    matrix.eliminate_zeros()
    return matrix


def fit_table(
    sides: tuple[scipy.sparse.csr_matrix, scipy.sparse.csr_matrix],
    labels: np.ndarray,
    field_of_row: np.ndarray,
    rank: int,
    seed: int,
) -> tuple[float, np.ndarray]:
    """Fits the most probable effects and vectors by Adam, and the variances of their priors.

    Args:
        sides: [N, V] ids of the query side, and ids and numbers of the ad side.
        labels: [N] 0 or 1.
        field_of_row: [V] field of each row of the table.
        rank: Length K of a vector.
        seed: Seed of the initial vectors.

    Returns:
        Intercept, and table [V, 1 + K].
    """
    transposed = tuple(side.T.tocsr() for side in sides)
    squared = tuple(side.power(2) for side in transposed)
    num_ids, num_fields = len(field_of_row), int(field_of_row.max()) + 1
    rng = np.random.default_rng(seed)
    table = rng.normal(0.0, 0.1, (num_ids, 1 + rank))
    table[:, 0] = 0.0
    intercept = np.array([scipy.special.logit(labels.mean())])
    precision = np.full((num_fields, 2), _PRECISION)  # of effects, and of vectors
    columns = np.minimum(np.arange(1 + rank), 1)  # 0: effect, 1: vector
    parameters = (table, intercept)
    means, squares = (tuple(np.zeros_like(array) for array in parameters) for _ in range(2))
    for step in range(1, _STEPS + 1):
        sums = tuple(side @ table for side in sides)  # [N, 1 + K] of each side
        logits = intercept + sums[0][:, 0] + sums[1][:, 0]
        logits += np.einsum("nk,nk->n", sums[0][:, 1:], sums[1][:, 1:])
        probability = scipy.special.expit(logits)
        # The derivatives of a row's logit by a side's sum are 1 and the other side's vector.
        slopes = tuple(np.hstack([np.ones((len(labels), 1)), total[:, 1:]]) for total in sums[::-1])
        information = probability * (1 - probability)
        residual = probability - labels
        gradient = _summed(transposed, slopes, residual)
        gradient += precision[field_of_row][:, columns] * table
        rate = _LEARNING_RATE * min(1.0, 2.0 * (1 - step / _STEPS) + 0.02)
        gradients = (gradient, residual.sum(keepdims=True))
        for values, slope, mean, square in zip(parameters, gradients, means, squares, strict=True):
            mean += 0.1 * (slope - mean)
            square += 0.03 * (slope**2 - square)
            scale = np.sqrt(square / (1 - 0.97**step)) + 1e-3
            values -= rate * mean / (1 - 0.9**step) / scale
        if step % _STEPS_PER_ESTIMATE == 0 and _FIRST_ESTIMATE <= step < _STEPS - _LAST_STEPS:
            curvature = _summed(squared, tuple(s**2 for s in slopes), information)
            precision = _estimated(precision, curvature, table, field_of_row, columns)
    return float(intercept[0]), table


def _summed(
    transposed: tuple[scipy.sparse.csr_matrix, ...],
    slopes: tuple[np.ndarray, ...],
    weights: np.ndarray,
) -> np.ndarray:
    """Returns [V, 1 + K]: the sums over the rows of value times weight times slope."""
    parts = (
        matrix @ (weights[:, None] * slope)
        for matrix, slope in zip(transposed, slopes, strict=True)
    )
    return sum(parts)


def _estimated(
    precision: np.ndarray,
    curvature: np.ndarray,
    table: np.ndarray,
    field_of_row: np.ndarray,
    columns: np.ndarray,
) -> np.ndarray:
    """Returns precisions [F, 2]: of each prior, determined parameters / sum of their squares."""
    prior = precision[field_of_row][:, columns]
    determined = curvature / (curvature + prior)
    result = np.empty_like(precision)
    for kind in (0, 1):
        numbers, squares = (
            np.bincount(field_of_row, values[:, columns == kind].sum(axis=1), len(precision))
            for values in (determined, table**2)
        )
        result[:, kind] = (numbers + 0.5) / (squares + 1e-6)
    return np.clip(result, _MIN_PRECISION, _MAX_PRECISION)


def best_share(
    head: str,
    logits: np.ndarray,
    other: np.ndarray,
    labels: Mapping[str, np.ndarray],
    folds: np.ndarray,
) -> float:
    """Returns the weight of `other` in its mixture with `logits` that is best on held-out rows.

    Args:
        head: The head.
        logits: [L], or [L, 3] of an amount.
        other: [L] other logits of a positive label.
        labels: Label -> [L], NaN where missing; click among them.
        folds: [L] folds; each row is calibrated without its own.

    Returns:
        A share in [0, 1]; 0 unless the log loss improves by more than its standard error.
    """
    rows = ~np.isnan(labels[head])
    if HEADS[head].kind == HeadKind.PROBABILITY_AFTER_CLICK:
        rows &= labels[CLICK.label] == 1
    positive = labels[head][rows] > 0
    if not _MIN_HELD_OUT_POSITIVES <= positive.sum() < len(positive):
        return 0.0

    def losses(share: float) -> np.ndarray:
        mixed = np.asarray(layers.mix_logits({head: logits}, head, other, share)[head])
        fitted = calibration.cross_fitted_logits({head: mixed}, labels, folds)[head]
        positive_logits = layers.positive_logits(head, fitted)[rows].astype(np.float64)
        return metrics.log_losses(positive, scipy.special.expit(positive_logits))

    without = losses(0.0)
    with_share = {share: losses(share) for share in _SHARES}
    best = min(with_share, key=lambda share: float(with_share[share].mean()))
    improvement = without - with_share[best]
    error = float(improvement.std() / np.sqrt(len(improvement)))
    return best if float(improvement.mean()) > error else 0.0
