"""The peers by name: each is trained, tuned on the validation split, and kept for the next run.

    WORKDIR/peers/NAME.npz     click logits of the validation and test rows
    WORKDIR/peers/NAME.json    what they were made from, seconds, chosen settings

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

from serving import cli  # noqa: F401  (first: it settles Keras and quiets TensorFlow)
from tfrec import metrics

PEERS = ("lightgbm", "hashed_logistic_regression", *networks.KINDS)
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
# What --tune_peers tries, beside what is used without it.
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
NETWORKS = {kind: training.Options(networks.Sizes()) for kind in networks.KINDS}


def _checksum(modules: tuple[types.ModuleType, ...]) -> str:
    paths = [pathlib.Path(str(module.__file__)) for module in (peer_data, *modules)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


# Taken now, as the modules are: what they are when a peer is done may be edited.
_CODE = {name: _checksum(modules) for name, modules in _MODULES.items()}


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a peer says.

    Attributes:
        validation: [V] click logits.
        test: [L] click logits.
        seconds: Of training with all that was tried, and predicting.
        settings: The settings that were best on the validation split.
    """

    validation: np.ndarray
    test: np.ndarray
    seconds: float
    settings: dict[str, Any]


# A setting that can be tried: its description, and what trains a model with it and returns how
# to get the logits of rows.
_Predict = Callable[[peer_data.Rows], np.ndarray]
_Try = tuple[dict[str, Any], Callable[[], tuple[_Predict, dict[str, Any]]]]


def fit(name: str, data: peer_data.Data, tune: bool, seed: int) -> Fitted:
    """Trains a peer with each of its settings and keeps the one best on validation.

    Args:
        name: One of `PEERS`.
        data: What it learns from.
        tune: Whether it is also tried with the settings of its grid.
        seed: Of its initialisation and the order of rows.

    Raises:
        ValueError: There is no peer of the name.
    """
    started = time.perf_counter()
    best: tuple[float, np.ndarray, np.ndarray, dict[str, Any]] | None = None
    for settings, train in _tries(name, data, tune, seed):
        predict, found = train()
        validation = predict(data.validation)
        loss = metrics.log_loss(data.validation.labels, 1 / (1 + np.exp(-validation)))
        loss = np.inf if np.isnan(loss) else loss  # of a network that diverged
        if best is None or loss < best[0]:
            best = (loss, validation, predict(data.test), {**settings, **found})
    assert best is not None
    return Fitted(best[1], best[2], time.perf_counter() - started, best[3])


def fit_once(
    name: str,
    data: peer_data.Data,
    tune: bool,
    seed: int,
    inputs: dict[str, Any],
    path: pathlib.Path,
) -> Fitted:
    """As `fit`, but reads what an earlier run with the same inputs and the same code wrote.

    Says on stderr which settings were best at an edge of what was tried: the peer might be better
    beyond it.

    Args:
        name, data, tune, seed: As of `fit`.
        inputs: JSON values that tell the data apart from other data.
        path: Directory of the files.
    """
    tried = [settings for settings, _ in _tries(name, data, tune, seed)]
    inputs = {**inputs, "tried": tried, "seed": seed, "code": _CODE[name]}
    inputs = json.loads(json.dumps(inputs))  # as they are read back: tuples are lists
    note, arrays = path / f"{name}.json", path / f"{name}.npz"
    if note.is_file() and arrays.is_file():
        stored = json.loads(note.read_text())
        if stored["inputs"] == inputs:
            _warn_of_edges(name, tried, stored["settings"])
            with np.load(arrays) as logits:
                return Fitted(
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
    """Returns the numbers among settings that are the least or greatest of those tried.

    Args:
        tried: Settings, in which a dict holds settings of its own.
        chosen: The best of them; may tell more than was set.

    Returns:
        `NAME=VALUE` of each of which at least three values were tried; of two, each is an edge.
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
            f"warning: {name} is best on validation with {setting}, an edge of what was tried: "
            "widen its grid in scripts/benchmarks/peers/models.py, or the comparison flatters the "
            "others",
            file=sys.stderr,
            flush=True,
        )


def _tries(name: str, data: peer_data.Data, tune: bool, seed: int) -> Iterator[_Try]:
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


def _tree_tries(data: peer_data.Data, tune: bool, seed: int) -> Iterator[_Try]:
    options = trees.Options()
    tried = [options, *(trees.grid(options, TREE_GRID) if tune else [])]
    for own in dict.fromkeys(tried):
        for treatment in trees.TREATMENTS:
            settings = {"treatment": treatment, **dataclasses.asdict(own)}
            yield (
                settings,
                lambda own=own, treatment=treatment: _trees(data, treatment, own, seed),
            )


def _trees(
    data: peer_data.Data, treatment: str, options: trees.Options, seed: int
) -> tuple[_Predict, dict[str, Any]]:
    model, found = trees.train(data, treatment, options, seed)
    return lambda rows: trees.predict(model, data, rows), found


def _logistic(data: peer_data.Data, strength: float, seed: int) -> tuple[_Predict, dict[str, Any]]:
    model, found = logistic.train(data, strength, seed)
    return lambda rows: logistic.predict(model, data, rows), found


def _network(
    kind: str, data: peer_data.Data, options: training.Options, seed: int
) -> tuple[_Predict, dict[str, Any]]:
    model, found = training.train(kind, data, options, seed)
    return lambda rows: training.predict(model, rows), found
