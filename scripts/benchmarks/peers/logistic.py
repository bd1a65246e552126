"""Logistic regression on hashed field values, without crosses.

Shapes: L rows, W columns of ids, U hashed values that training has.
"""

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse
from peers import peer_data
from sklearn import linear_model

HASH_BITS = 20


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained regression.

    Attributes:
        regression: Of the used columns.
        used: [U] the columns that training has; the weights of all others would stay 0.
    """

    regression: linear_model.LogisticRegression
    used: np.ndarray


def train(data: peer_data.Data, strength: float, seed: int) -> tuple[Model, dict[str, Any]]:
    """Trains with one inverse regularisation strength, scikit-learn's C."""
    matrix = hashed(data.fields, data.train.ids)
    used = np.unique(matrix.indices)
    regression = linear_model.LogisticRegression(C=strength, max_iter=1_000, random_state=seed)
    regression.fit(matrix[:, used], data.train.labels)
    return Model(regression, used), {"iterations": int(regression.n_iter_[0])}


def predict(model: Model, data: peer_data.Data, rows: peer_data.Rows) -> np.ndarray:
    """Returns the click logits [L]."""
    return model.regression.decision_function(hashed(data.fields, rows.ids)[:, model.used])


def hashed(fields: tuple[peer_data.Field, ...], ids: np.ndarray) -> scipy.sparse.csr_matrix:
    """Returns [L, 2^HASH_BITS]: 1 where a field has a value; the values of a list add up to 1."""
    rows, columns, values = [], [], []
    for number, field in enumerate(fields):
        own = ids[:, field.columns]
        used = own != 0
        used[:, 0] |= ~used.any(axis=1)  # missing is a value of its own
        row, place = np.nonzero(used)
        rows.append(row)
        columns.append(own[row, place].astype(np.int64) * 1_000_003 + number * 7_919)
        values.append((1 / used.sum(axis=1, dtype=np.float32))[row])
    columns_of_values = np.concatenate(columns) % (1 << HASH_BITS)
    return scipy.sparse.csr_matrix(
        (np.concatenate(values), (np.concatenate(rows), columns_of_values)),
        shape=(len(ids), 1 << HASH_BITS),
    )
