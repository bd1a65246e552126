"""Trains the peers and tunes them on the validation split.

Shapes: V and L rows of the validation and the test split.
"""

import dataclasses
import itertools
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from peers import logistic, networks, peer_data, trees

from serving import cli  # noqa: F401  (imported first: it selects Keras 2 and quiets TensorFlow)
from tfrec import metrics

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
# Options that are always tried.
DEFAULTS: dict[str, Sequence[Any]] = {
    "lightgbm": [trees.TreeOptions(treatment) for treatment in trees.TREATMENTS],
    "hashed_logistic_regression": [logistic.LogisticOptions(strength) for strength in STRENGTHS],
    **{kind: [networks.NetworkOptions(kind)] for kind in networks.KINDS},
}
PEERS = tuple(DEFAULTS)
# Settings that --tune_peers tries in addition.
_NETWORK_GRID = {
    "learning_rate": (3e-4, 1e-3),
    "field_dim": (8, 16),
    "dropout": (0.1, 0.4),
    "embedding_l2": (60.0, 600.0),
}
_TREE_GRID = {
    "num_leaves": (15, 63),
    "min_data_in_leaf": (20, 100),
    "cat_smooth": (10.0, 200.0),
}
_GRIDS = {"lightgbm": _TREE_GRID, **dict.fromkeys(networks.KINDS, _NETWORK_GRID)}
_FIT = {
    "lightgbm": trees.fit,
    "hashed_logistic_regression": logistic.fit,
    **dict.fromkeys(networks.KINDS, networks.fit),
}


@dataclasses.dataclass(frozen=True)
class FittedPeer:
    """Results of a peer.

    Attributes:
        validation: Click logits [V] of the validation rows.
        test: Click logits [L] of the test rows.
        seconds: Time to train with all settings and to predict, in seconds.
        settings: Settings that were best on the validation split.
    """

    validation: np.ndarray
    test: np.ndarray
    seconds: float
    settings: dict[str, Any]


def fit(name: str, data: peer_data.PeerData, tune: bool, seed: int) -> FittedPeer:
    """Trains a peer with each of its settings and returns the best one on the validation split.

    Warns on stderr if a chosen setting is at an edge of its grid, because the peer might be better
    beyond it.

    Args:
        name: Name of the peer, one of `PEERS`.
        data: Rows of all splits.
        tune: Whether to also try the settings of its grid.
        seed: Seed of the initialization and the order of rows.
    """
    started = time.perf_counter()
    best: tuple[float, np.ndarray, np.ndarray, dict[str, Any]] | None = None
    tried = list(DEFAULTS[name])
    if tune:
        grid = _GRIDS.get(name, {})
        for options, values in itertools.product(DEFAULTS[name], itertools.product(*grid.values())):
            tried.append(dataclasses.replace(options, **dict(zip(grid, values, strict=True))))
    for options in dict.fromkeys(tried):
        predict, found = _FIT[name](data, options, seed)
        validation = predict(data.validation)
        loss = metrics.log_loss(data.validation.labels, 1 / (1 + np.exp(-validation)))
        loss = np.inf if np.isnan(loss) else loss  # the network diverged
        if best is None or loss < best[0]:
            chosen = {**dataclasses.asdict(options), **found}
            best = (loss, validation, predict(data.test), chosen)
    assert best is not None
    for setting in at_edges([dataclasses.asdict(options) for options in tried], best[3]):
        print(
            f"warning: {name} is best on the validation split with {setting}, an edge of its grid; "
            "extend the grid in scripts/benchmarks/peers/models.py for a fair comparison.",
            file=sys.stderr,
            flush=True,
        )
    return FittedPeer(best[1], best[2], time.perf_counter() - started, best[3])


def at_edges(tried: Sequence[dict[str, Any]], chosen: dict[str, Any]) -> list[str]:
    """Returns the chosen numbers that are the minimum or maximum of those tried.

    Args:
        tried: Settings that were tried.
        chosen: Best settings; may contain further results.

    Returns:
        `NAME=VALUE` for numbers with at least three tried values; with two, each is an edge.
    """
    edges = []
    for name, value in chosen.items():
        values = sorted({settings[name] for settings in tried if name in settings})
        if len(values) > 2 and value in (values[0], values[-1]):
            edges.append(f"{name}={value:g}")
    return edges
