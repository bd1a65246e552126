"""Trains the peers of the ranker and tunes them on the validation split.

Shapes: V and L rows of the validation and the test split, T targets.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from peers import logistic, networks, peer_data, search, trees
from workload import finished_cells

from tfrec import tuning

Options = logistic.LogisticOptions | networks.NetworkOptions | trees.TreeOptions


@dataclasses.dataclass(frozen=True)
class Peer:
    """A peer of the ranker.

    Attributes:
        fit: Trains it: data, options, seed.
        defaults: Options that are always tried; they differ only in options of the space.
        space: Option -> the range that a search proposes.
    """

    fit: Callable[..., tuple[peer_data.Predict, dict[str, Any]]]
    defaults: Sequence[Options]
    space: search.Space


_EMBEDDING_SPACE = {
    "learning_rate": tuning.log_range(2e-4, 5e-3),
    "field_dim": search.whole(4, 32),
    "embedding_l2": tuning.log_range(10.0, 3_000.0),
}
_DENSE_SPACE = {
    **_EMBEDDING_SPACE,
    "hidden": tuning.one_of(64, 128, 256, 512),
    "dropout": tuning.uniform(0.0, 0.5),
}
_LINEAR_SPACE = {"linear_l2": tuning.log_range(1.0, 300.0)}
_SPACES = {
    "dcn_v2": {**_DENSE_SPACE, "num_cross_layers": search.whole(1, 4)},
    "deepfm": {**_DENSE_SPACE, **_LINEAR_SPACE},
    "fwfm": {**_EMBEDDING_SPACE, **_LINEAR_SPACE},
}
PEERS = {
    "lightgbm": Peer(
        trees.fit,
        [
            trees.TreeOptions(),
            trees.TreeOptions(categories=True),
            trees.TreeOptions(categories=True, id_rates=True),
            trees.TreeOptions(categories=True, pair_rates=True),
        ],
        {
            "categories": tuning.one_of(False, True),
            "id_rates": tuning.one_of(False, True),
            "pair_rates": tuning.one_of(False, True),
            "num_leaves": search.whole(4, 127),
            "learning_rate": tuning.log_range(0.02, 0.2),
            "min_data_in_leaf": search.whole(5, 500),
            "feature_fraction": tuning.uniform(0.2, 1.0),
            "lambda_l2": tuning.log_range(0.1, 100.0),
            "cat_smooth": tuning.log_range(5.0, 1_000.0),
            "cat_l2": tuning.log_range(1.0, 1_000.0),
        },
    ),
    "hashed_logistic_regression": Peer(
        logistic.fit,
        [
            logistic.LogisticOptions(strength)
            for strength in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
        ],
        {"C": tuning.log_range(1e-4, 30.0)},
    ),
    **{
        kind: Peer(networks.fit, [networks.NetworkOptions(kind)], _SPACES.get(kind, _DENSE_SPACE))
        for kind in networks.KINDS
    },
}


@dataclasses.dataclass(frozen=True)
class FittedPeer:
    """Results of a peer.

    Attributes:
        validation: Head -> logits [V] of the validation rows, or [V, 3] of an amount.
        test: Head -> logits [L] of the test rows, or [L, 3].
        cpu_seconds: Processor time to train with all options and to predict.
        trials: Number of options that were tried.
        settings: PeerTarget -> the options that were best on the validation split.
    """

    validation: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    cpu_seconds: float
    trials: int
    settings: dict[str, dict[str, Any]]


def fit(
    name: str,
    data: peer_data.PeerData,
    seed: int,
    tune_minutes: float,
    directory: pathlib.Path,
) -> FittedPeer:
    """Trains a peer with its defaults and proposed options, or reads the stored result.

    Each target has the options with the best validation loss.

    Args:
        name: Name of the peer, one of `PEERS`.
        data: Rows of all splits.
        seed: Seed of the initialization, of the order of rows and of the search.
        tune_minutes: Budget of the search, in processor minutes; 0: the defaults only.
        directory: Directory of finished results.
    """
    rows = [
        finished_cells.digest_of(split.ids, split.requests, *split.labels.values())
        for split in (data.train, data.validation, data.test)
    ]
    inputs = (data.fields, rows, seed, tune_minutes, PEERS[name].defaults, PEERS[name].space)
    value = finished_cells.stored(
        directory, f"{name}-seed{seed}", inputs, lambda: _search(name, data, seed, tune_minutes)
    )
    validation, test = (np.array(value.pop(split)) for split in ("validation", "test"))
    spread = data.spread(data.validation, validation)
    return FittedPeer(
        validation=data.logits(validation, spread), test=data.logits(test, spread), **value
    )


def _search(name: str, data: peer_data.PeerData, seed: int, tune_minutes: float) -> dict[str, Any]:
    """Returns the fields of a `FittedPeer`, with the outputs of targets as lists [V, T], [L, T]."""
    started = time.process_time()
    peer, count = PEERS[name], len(data.targets)
    best_losses = np.full(count, np.inf)
    best = {
        split: np.tile(data.bases, (len(getattr(data, split)), 1))
        for split in ("validation", "test")
    }
    settings: dict[str, dict[str, Any]] = {}

    def loss_of(chosen: dict[str, Any]) -> float:
        options = dataclasses.replace(peer.defaults[0], **chosen)
        predict, found = peer.fit(data, options, seed)
        outputs = predict(data.validation)
        # A network that diverged is worse than any other.
        losses = data.losses(data.validation, outputs)
        losses[np.isnan(losses)] = np.inf
        better = losses < best_losses
        if better.any():
            best_losses[better] = losses[better]
            best["validation"][:, better] = outputs[:, better]
            best["test"][:, better] = predict(data.test)[:, better]
            trial = {**dataclasses.asdict(options), **found}
            for number in np.flatnonzero(better):
                setting = {**trial, "validation_loss": float(losses[number])}
                settings[data.targets[number].name] = setting
        return float(losses.mean())

    starts = [{key: getattr(options, key) for key in peer.space} for options in peer.defaults]
    trials = search.search(peer.space, starts, loss_of, tune_minutes, seed)
    return {
        # Six digits are enough for a logit.
        **{split: np.round(outputs, 6).tolist() for split, outputs in best.items()},
        "cpu_seconds": time.process_time() - started,
        "trials": trials,
        "settings": settings,
    }
