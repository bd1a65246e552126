"""Logistic regression on hashed field values, without feature crosses.

Shapes: L rows, W columns of ids, U hashed values that occur in training.
"""

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse
from peers import peer_data
from sklearn import linear_model

HASH_BITS = 20


@dataclasses.dataclass(frozen=True)
class HashedRegression:
    """A trained regression.

    Attributes:
        regression: Regression on the used columns.
        used: Columns [U] that occur in training; the weights of all others would remain 0.
    """

    regression: linear_model.LogisticRegression
    used: np.ndarray


def train(
    data: peer_data.PeerData, strength: float, seed: int
) -> tuple[HashedRegression, dict[str, Any]]:
    """Trains a model with an inverse regularization strength, scikit-learn's C."""
    matrix = hashed(data.fields, data.train.ids)
    used = np.unique(matrix.indices)
    regression = linear_model.LogisticRegression(C=strength, max_iter=1_000, random_state=seed)
    regression.fit(matrix[:, used], data.train.labels)
    return HashedRegression(regression, used), {"iterations": int(regression.n_iter_[0])}


def predict(
    model: HashedRegression, data: peer_data.PeerData, rows: peer_data.PeerRows
) -> np.ndarray:
    """Returns the click logits [L]."""
    return model.regression.decision_function(hashed(data.fields, rows.ids)[:, model.used])


def hashed(fields: tuple[peer_data.PeerField, ...], ids: np.ndarray) -> scipy.sparse.csr_matrix:
    """Returns indicators [L, 2^HASH_BITS] of field values; those of a list sum to 1."""
    rows, columns, values = [], [], []
    for number, field in enumerate(fields):
        own = ids[:, field.columns]
        used = own != 0
        used[:, 0] |= ~used.any(axis=1)  # missing is a separate value
        row, column = np.nonzero(used)
        rows.append(row)
        columns.append(own[row, column].astype(np.int64) * 1_000_003 + number * 7_919)
        values.append((1 / used.sum(axis=1, dtype=np.float32))[row])
    columns_of_values = np.concatenate(columns) % (1 << HASH_BITS)
    return scipy.sparse.csr_matrix(
        (np.concatenate(values), (np.concatenate(rows), columns_of_values)),
        shape=(len(ids), 1 << HASH_BITS),
    )
