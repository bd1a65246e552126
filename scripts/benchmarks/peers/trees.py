"""LightGBM on the encoded ids, with the better of two treatments of the fields.

`ordinal`: every id is a number. Ids of strings are frequency ranks and ids of numbers are quantile
buckets, so their order is meaningful; missing values remain missing. `categorical`: ids of strings
are categories, ids of numbers as before. A list has an indicator for each of its most frequent
values and its length as inputs.

Shapes: L rows, W columns of ids, X inputs.
"""

import dataclasses
import os
from typing import Any

# Threads that spin while waiting for each other are slow when other processes run.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import lightgbm
import numpy as np
from peers import peer_data

TREATMENTS = ("ordinal", "categorical")
VALUES_OF_A_LIST = 32
MAX_CATEGORIES = 10_000
_PARAMETERS = {"objective": "binary", "metric": "binary_logloss", "verbose": -1}


@dataclasses.dataclass(frozen=True)
class TreeOptions:
    """Training options, with LightGBM's names.

    Attributes:
        treatment: Treatment of the fields, one of `TREATMENTS`.
        cat_smooth, cat_l2, min_data_per_group: Regularization of splits on categories.
        rounds: Maximum number of rounds.
        patience: Number of rounds without a better validation loss before training stops.
    """

    treatment: str
    num_leaves: int = 15
    learning_rate: float = 0.1
    min_data_in_leaf: int = 100
    feature_fraction: float = 0.7
    lambda_l2: float = 1.0
    cat_smooth: float = 200.0
    cat_l2: float = 100.0
    min_data_per_group: int = 100
    rounds: int = 2_000
    patience: int = 40


def fit(
    data: peer_data.PeerData, options: TreeOptions, seed: int
) -> tuple[peer_data.Predict, dict[str, Any]]:
    """Trains a model and returns its click logits, its validation loss and number of rounds."""
    settings = dataclasses.asdict(options)
    treatment, rounds, patience = (settings.pop(k) for k in ("treatment", "rounds", "patience"))
    matrix, categorical = inputs(data.fields, data.train.ids)
    held_out, _ = inputs(data.fields, data.validation.ids)
    chosen = categorical if treatment == "categorical" else []
    train_set = lightgbm.Dataset(matrix, data.train.labels, categorical_feature=chosen)
    model = lightgbm.train(
        {**_PARAMETERS, **settings, "seed": seed},
        train_set,
        num_boost_round=rounds,
        valid_sets=[train_set.create_valid(held_out, data.validation.labels)],
        callbacks=[lightgbm.early_stopping(patience, verbose=False)],
    )

    def predict(rows: peer_data.PeerRows) -> np.ndarray:
        return np.asarray(model.predict(inputs(data.fields, rows.ids)[0], raw_score=True))

    loss = model.best_score["valid_0"]["binary_logloss"]
    return predict, {"validation_log_loss": loss, "rounds": model.best_iteration}


def inputs(
    fields: tuple[peer_data.PeerField, ...], ids: np.ndarray
) -> tuple[np.ndarray, list[int]]:
    """Returns the inputs [L, X] float32 for ids [L, W], and the indices of categorical ones."""
    columns, categorical = [], []
    for field in fields:
        own = ids[:, field.columns]
        if field.kind == "categorical_list":
            columns.append((own != 0).sum(axis=1))
            for value in range(1, min(field.cardinality, VALUES_OF_A_LIST + 1)):
                columns.append((own == value).any(axis=1))
            continue
        if field.kind == "categorical" and field.cardinality <= MAX_CATEGORIES:
            categorical.append(len(columns))
        columns.append(np.where(own[:, 0] == 0, np.nan, own[:, 0]))
    return np.stack([c.astype(np.float32) for c in columns], axis=1), categorical
