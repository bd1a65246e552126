"""Trains the peers, tunes them on the validation split, and caches their results.

    WORKDIR/peers/NAME.npz     click logits of the validation and test rows
    WORKDIR/peers/NAME.json    inputs, duration in seconds, chosen settings

Shapes: V and L rows of the validation and the test split.
"""

import dataclasses
import hashlib
import json
import pathlib
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from peers import logistic, networks, peer_data, training, trees

from serving import cli  # noqa: F401  (imported first: it selects Keras 2 and quiets TensorFlow)
from tfrec import metrics

PEERS = ("lightgbm", "hashed_logistic_regression", *networks.KINDS)
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
# Settings that --tune_peers tries in addition to the defaults.
NETWORK_GRID = {
    "learning_rate": (3e-4, 1e-3),
    "field_dim": (8, 16),
    "dropout": (0.1, 0.4),
    "embedding_l2": (60.0, 600.0),
}
TREE_GRID = {
    "num_leaves": (15, 63),
    "min_data_in_leaf": (20, 100),
    "cat_smooth": (10.0, 200.0),
}
_MODULES = {
    "lightgbm": (trees,),
    "hashed_logistic_regression": (logistic,),
    **dict.fromkeys(networks.KINDS, (networks, training)),
}
NETWORKS = {kind: training.NetworkOptions(networks.Sizes()) for kind in networks.KINDS}


def _checksum(modules: tuple[types.ModuleType, ...]) -> str:
    paths = [pathlib.Path(str(module.__file__)) for module in (peer_data, *modules)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


# Computed on import, because files may be edited while a peer is trained.
_CODE = {name: _checksum(modules) for name, modules in _MODULES.items()}


@dataclasses.dataclass(frozen=True)
class FittedPeer:
    """Predictions of a peer.

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


# Settings to try, and a function that trains a model with them and returns its predict function and
# its results.
_Predict = Callable[[peer_data.PeerRows], np.ndarray]
_Try = tuple[dict[str, Any], Callable[[], tuple[_Predict, dict[str, Any]]]]


def fit(name: str, data: peer_data.PeerData, tune: bool, seed: int) -> FittedPeer:
    """Trains a peer with each of its settings and returns the best one on the validation split.

    Args:
        name: Name of the peer, one of `PEERS`.
        data: Rows of all splits.
        tune: Whether to also try the settings of its grid.
        seed: Seed of the initialization and the order of rows.

    Raises:
        ValueError: There is no peer of this name.
    """
    started = time.perf_counter()
    best: tuple[float, np.ndarray, np.ndarray, dict[str, Any]] | None = None
    for settings, train in _tries(name, data, tune, seed):
        predict, found = train()
        validation = predict(data.validation)
        loss = metrics.log_loss(data.validation.labels, 1 / (1 + np.exp(-validation)))
        loss = np.inf if np.isnan(loss) else loss  # the network diverged
        if best is None or loss < best[0]:
            best = (loss, validation, predict(data.test), {**settings, **found})
    assert best is not None
    return FittedPeer(best[1], best[2], time.perf_counter() - started, best[3])


def fit_once(
    name: str,
    data: peer_data.PeerData,
    tune: bool,
    seed: int,
    inputs: dict[str, Any],
    path: pathlib.Path,
) -> FittedPeer:
    """Like `fit`, but reads the result of an earlier run with the same inputs and code.

    Warns on stderr if a chosen setting is at an edge of its grid, because the peer might be better
    beyond it.

    Args:
        name: Name of the peer, one of `PEERS`.
        data: Rows of all splits.
        tune: Whether to also try the settings of its grid.
        seed: Seed of the initialization and the order of rows.
        inputs: JSON values that identify the data.
        path: Directory of the cached files.
    """
    tried = [settings for settings, _ in _tries(name, data, tune, seed)]
    inputs = {**inputs, "tried": tried, "seed": seed, "code": _CODE[name]}
    inputs = json.loads(json.dumps(inputs))  # JSON turns tuples into lists
    note, arrays = path / f"{name}.json", path / f"{name}.npz"
    if note.is_file() and arrays.is_file():
        stored = json.loads(note.read_text())
        if stored["inputs"] == inputs:
            _warn_of_edges(name, tried, stored["settings"])
            with np.load(arrays) as logits:
                return FittedPeer(
                    logits["validation"], logits["test"], stored["seconds"], stored["settings"]
                )
    fitted = fit(name, data, tune, seed)
    _warn_of_edges(name, tried, fitted.settings)
    path.mkdir(parents=True, exist_ok=True)
    note.unlink(missing_ok=True)
    np.savez(arrays, validation=fitted.validation, test=fitted.test)
    described = {"inputs": inputs, "seconds": fitted.seconds, "settings": fitted.settings}
    note.write_text(json.dumps(described, indent=1) + "\n")
    return fitted


def at_edges(tried: Sequence[dict[str, Any]], chosen: dict[str, Any]) -> list[str]:
    """Returns the chosen numbers that are the minimum or maximum of those tried.

    Args:
        tried: Settings that were tried; a dict may contain nested settings.
        chosen: Best settings; may contain further results.

    Returns:
        `NAME=VALUE` for numbers with at least three tried values; with two, each is an edge.
    """
    values: dict[str, set[float]] = {}
    for settings in tried:
        for name, value in _numbers(settings):
            values.setdefault(name, set()).add(value)
    return [
        f"{name}={value:g}"
        for name, value in _numbers(chosen)
        if len(values.get(name, ())) > 2 and value in (min(values[name]), max(values[name]))
    ]


def _numbers(settings: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, int | float):
            yield name, value


def _warn_of_edges(name: str, tried: Sequence[dict[str, Any]], chosen: dict[str, Any]) -> None:
    for setting in at_edges(tried, chosen):
        print(
            f"warning: {name} is best on the validation split with {setting}, an edge of its grid; "
            "extend the grid in scripts/benchmarks/peers/models.py for a fair comparison.",
            file=sys.stderr,
            flush=True,
        )


def _tries(name: str, data: peer_data.PeerData, tune: bool, seed: int) -> Iterator[_Try]:
    if name == "lightgbm":
        yield from _tree_tries(data, tune, seed)
    elif name == "hashed_logistic_regression":
        for strength in STRENGTHS:
            yield {"C": strength}, lambda strength=strength: _logistic(data, strength, seed)
    elif name in NETWORKS:
        options = NETWORKS[name]
        tried = [options, *(training.grid(options, NETWORK_GRID) if tune else [])]
        for own in dict.fromkeys(tried):
            settings = dataclasses.asdict(own)
            yield settings, lambda own=own: _network(name, data, own, seed)
    else:
        raise ValueError(f"Expected peers among {', '.join(PEERS)}, got {name!r}.")


def _tree_tries(data: peer_data.PeerData, tune: bool, seed: int) -> Iterator[_Try]:
    options = trees.TreeOptions()
    tried = [options, *(trees.grid(options, TREE_GRID) if tune else [])]
    for own in dict.fromkeys(tried):
        for treatment in trees.TREATMENTS:
            settings = {"treatment": treatment, **dataclasses.asdict(own)}
            yield (
                settings,
                lambda own=own, treatment=treatment: _trees(data, treatment, own, seed),
            )


def _trees(
    data: peer_data.PeerData, treatment: str, options: trees.TreeOptions, seed: int
) -> tuple[_Predict, dict[str, Any]]:
    model, found = trees.train(data, treatment, options, seed)
    return lambda rows: trees.predict(model, data, rows), found


def _logistic(
    data: peer_data.PeerData, strength: float, seed: int
) -> tuple[_Predict, dict[str, Any]]:
    model, found = logistic.train(data, strength, seed)
    return lambda rows: logistic.predict(model, data, rows), found


def _network(
    kind: str, data: peer_data.PeerData, options: training.NetworkOptions, seed: int
) -> tuple[_Predict, dict[str, Any]]:
    model, found = training.train(kind, data, options, seed)
    return lambda rows: training.predict(model, rows), found
