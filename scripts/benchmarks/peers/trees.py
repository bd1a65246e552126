"""LightGBM on the encoded ids, one model per target.

Ids of strings are frequency ranks and ids of numbers are quantile buckets, so their order is
meaningful, and missing values remain missing. A list has an indicator for each of its most frequent
values and its length as inputs. Three additions are options: ids of strings as native categories,
and shrunken means of ids and of pairs of ids (`rates`).

Shapes: L rows, W columns of ids, X inputs.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np
from peers import peer_data, rates

VALUES_OF_A_LIST = 32
MAX_CATEGORIES = 10_000


@dataclasses.dataclass(frozen=True)
class TreeOptions:
    """Training options, with LightGBM's names.

    Attributes:
        categories: Whether ids of strings are native categories.
        id_rates: Whether shrunken means and counts of ids are inputs.
        pair_rates: Whether shrunken means of pairs of a request's and an ad's ids are inputs.
        cat_smooth, cat_l2, min_data_per_group: Regularization of splits on categories.
        rounds: Maximum number of rounds.
        patience: Number of rounds without a better validation loss before training stops.
    """

    categories: bool = False
    id_rates: bool = False
    pair_rates: bool = False
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
    """Trains a model for each target and returns their outputs, and their numbers of rounds."""
    train, validation = (inputs(data.fields, rows.ids)[0] for rows in (data.train, data.validation))
    fitted = [
        _fit_target(data, target, train, validation, options, seed) for target in data.targets
    ]

    def predict(rows: peer_data.PeerRows) -> np.ndarray:
        matrix, _ = inputs(data.fields, rows.ids)
        return np.stack([outputs(rows, matrix) for outputs, _ in fitted], axis=1)

    rounds = [count for _, count in fitted]
    return predict, {f"{t.name}_rounds": n for t, n in zip(data.targets, rounds, strict=True)}


def _fit_target(
    data: peer_data.PeerData,
    target: peer_data.PeerTarget,
    train: np.ndarray,
    validation: np.ndarray,
    options: TreeOptions,
    seed: int,
) -> tuple[Callable[[peer_data.PeerRows, np.ndarray], np.ndarray], int]:
    """Returns a function of rows and their inputs [L, X] to outputs [L], and the best round."""
    settings = dataclasses.asdict(options)
    with_categories, rounds, patience = (
        settings.pop(name) for name in ("categories", "rounds", "patience")
    )
    with_ids, with_pairs = settings.pop("id_rates"), settings.pop("pair_rates")
    settings |= {"verbose": -1, "seed": seed}
    settings["objective"] = "regression" if target.is_log_amount else "binary"
    categorical = inputs(data.fields, data.train.ids[:1])[1] if with_categories else []
    values, held_out = target.values(data.train), target.values(data.validation)
    learned = rates.TargetRates(data, target, with_ids, with_pairs)
    train = np.concatenate([train, learned.train], axis=1)

    def with_rates(rows: peer_data.PeerRows, matrix: np.ndarray) -> np.ndarray:
        return np.concatenate([matrix, learned.held_out(rows)], axis=1)

    known, checked = ~np.isnan(values), ~np.isnan(held_out)
    train_set = lightgbm.Dataset(train[known], values[known], categorical_feature=categorical)
    stopping: dict[str, Any] = {"num_boost_round": patience}
    if checked.any():
        rows = with_rates(data.validation, validation)[checked]
        stopping = {
            "num_boost_round": rounds,
            "valid_sets": [train_set.create_valid(rows, held_out[checked])],
            "callbacks": [lightgbm.early_stopping(patience, verbose=False)],
        }
    model = lightgbm.train(settings, train_set, **stopping)

    def outputs(rows: peer_data.PeerRows, matrix: np.ndarray) -> np.ndarray:
        return np.asarray(model.predict(with_rates(rows, matrix), raw_score=True))

    return outputs, model.best_iteration


def inputs(
    fields: tuple[peer_data.PeerField, ...], ids: np.ndarray
) -> tuple[np.ndarray, list[int]]:
    """Returns the inputs [L, X] float32 for ids [L, W], and the indices of categorical ones."""
    columns, categorical = [], []
    for field in fields:
        field_ids = ids[:, field.columns]
        if field.kind == "categorical_list":
            columns.append((field_ids != 0).sum(axis=1))
            for value in range(1, min(field.cardinality, VALUES_OF_A_LIST + 1)):
                columns.append((field_ids == value).any(axis=1))
            continue
        if field.kind == "categorical" and field.cardinality <= MAX_CATEGORIES:
            categorical.append(len(columns))
        columns.append(np.where(field_ids[:, 0] == 0, np.nan, field_ids[:, 0]))
    return np.stack([c.astype(np.float32) for c in columns], axis=1), categorical
