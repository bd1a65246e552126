"""LightGBM on the encoded ids: the better of two treatments of the fields.

`ordinal`: every id is a number. Ids of strings are ranks by frequency and ids of numbers are
quantile buckets, so both have a meaning as an order; missing is missing. `categorical`: ids of
strings are categories, those of numbers as before. Of a list, its most frequent values are
inputs of their own, present or not, and so is its length.

Shapes: L rows, W columns of ids, X inputs.
"""

import dataclasses
import itertools
import os
from typing import Any

# Threads that spin while they wait for each other starve when other processes run.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import lightgbm
import numpy as np
from peers import peer_data

TREATMENTS = ("ordinal", "categorical")
VALUES_OF_A_LIST = 32
MAX_CATEGORIES = 10_000
_PARAMETERS = {"objective": "binary", "metric": "binary_logloss", "verbose": -1}


@dataclasses.dataclass(frozen=True)
class Options:
    """How trees are grown; the names are LightGBM's.

    Attributes:
        cat_smooth, cat_l2, min_data_per_group: Regularisation of splits on categories.
        patience: Rounds without a better validation loss before stopping.
    """

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


def train(
    data: peer_data.Data, treatment: str, options: Options, seed: int
) -> tuple[lightgbm.Booster, dict[str, Any]]:
    """Trains one model and returns it with its validation loss and rounds."""
    matrix, categorical = inputs(data.fields, data.train.ids)
    held_out, _ = inputs(data.fields, data.validation.ids)
    chosen = categorical if treatment == "categorical" else []
    train_set = lightgbm.Dataset(matrix, data.train.labels, categorical_feature=chosen)
    settings = dataclasses.asdict(options)
    rounds, patience = settings.pop("rounds"), settings.pop("patience")
    model = lightgbm.train(
        {**_PARAMETERS, **settings, "seed": seed},
        train_set,
        num_boost_round=rounds,
        valid_sets=[train_set.create_valid(held_out, data.validation.labels)],
        callbacks=[lightgbm.early_stopping(patience, verbose=False)],
    )
    loss = model.best_score["valid_0"]["binary_logloss"]
    return model, {"validation_log_loss": loss, "rounds": model.best_iteration}


def predict(model: lightgbm.Booster, data: peer_data.Data, rows: peer_data.Rows) -> np.ndarray:
    """Returns the click logits [L]."""
    return np.asarray(model.predict(inputs(data.fields, rows.ids)[0], raw_score=True))


def inputs(fields: tuple[peer_data.Field, ...], ids: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Returns the inputs [L, X] float32 of ids [L, W], and which of them are categories."""
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


def grid(options: Options, values: dict[str, tuple[Any, ...]]) -> list[Options]:
    """Returns options with every combination of values, by name."""
    combinations = itertools.product(*values.values())
    return [
        dataclasses.replace(options, **dict(zip(values, chosen, strict=True)))
        for chosen in combinations
    ]
