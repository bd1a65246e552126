"""Logistic regression on hashed field values, without feature crosses; ridge for amounts.

Shapes: L rows, W columns of ids.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
from peers import peer_data
from sklearn import linear_model

HASH_BITS = 20


@dataclasses.dataclass(frozen=True)
class LogisticOptions:
    """Training options, with scikit-learn's name: C is the inverse regularization strength."""

    C: float


def fit(
    data: peer_data.PeerData, options: LogisticOptions, seed: int
) -> tuple[peer_data.Predict, dict[str, Any]]:
    """Trains a model for each target and returns their outputs."""
    matrix = hashed(data.fields, data.train.ids)
    used = np.unique(matrix.indices)  # the weights of all other columns would remain 0
    matrix = matrix[:, used]
    models = []
    for target, base in zip(data.targets, data.bases, strict=True):
        values = target.values(data.train)
        known = ~np.isnan(values)
        models.append(_fit_target(target, matrix[known], values[known], options, seed, base))

    def predict(rows: peer_data.PeerRows) -> np.ndarray:
        indicators = hashed(data.fields, rows.ids)[:, used]
        return np.stack([outputs(indicators) for outputs in models], axis=1)

    return predict, {}


def _fit_target(
    target: peer_data.PeerTarget,
    matrix: scipy.sparse.csr_matrix,
    values: np.ndarray,
    options: LogisticOptions,
    seed: int,
    base: float,
) -> Callable[[scipy.sparse.csr_matrix], np.ndarray]:
    """Returns a function of hashed rows to outputs [L]."""
    if target.is_log_amount:
        return (
            linear_model.Ridge(alpha=1 / options.C, random_state=seed).fit(matrix, values).predict
        )
    if len(np.unique(values)) < 2:
        return lambda rows: np.full(rows.shape[0], base)
    model = linear_model.LogisticRegression(C=options.C, max_iter=1_000, random_state=seed)
    return model.fit(matrix, values).decision_function


def hashed(fields: tuple[peer_data.PeerField, ...], ids: np.ndarray) -> scipy.sparse.csr_matrix:
    """Returns indicators [L, 2^HASH_BITS] of field values; a list's sum to 1."""
    rows, columns, values = [], [], []
    for number, field in enumerate(fields):
        field_ids = ids[:, field.columns]
        used = field_ids != 0
        used[:, 0] |= ~used.any(axis=1)  # missing is a separate value
        row, column = np.nonzero(used)
        rows.append(row)
        columns.append(field_ids[row, column].astype(np.int64) * 1_000_003 + number * 7_919)
        values.append((1 / used.sum(axis=1, dtype=np.float32))[row])
    hashed_columns = np.concatenate(columns) % (1 << HASH_BITS)
    return scipy.sparse.csr_matrix(
        (np.concatenate(values), (np.concatenate(rows), hashed_columns)),
        shape=(len(ids), 1 << HASH_BITS),
    )
