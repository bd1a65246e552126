"""Results of a benchmark that a second run reuses.

A cell is the result of a model on a data set with a seed: `DIRECTORY/NAME-DIGEST.json`. The digest
covers everything that the result depends on, so different rows, options or budgets have different
files.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tfrecords import files


def digest_of(*arrays: np.ndarray) -> str:
    """Returns a digest of the content of arrays."""
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(repr((array.shape, array.dtype)).encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def key_of(name: str, inputs: Any) -> str:
    """Returns the key of a cell: its name, for people, and a digest of the `repr` of its inputs."""
    return f"{name}-{hashlib.blake2b(repr(inputs).encode(), digest_size=8).hexdigest()}"


def stored(
    directory: pathlib.Path, name: str, inputs: Any, compute: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Returns a finished cell, or computes and stores it; the result is JSON values."""
    path = directory / f"{key_of(name, inputs)}.json"
    if not path.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        files.write_json(path, compute())
    return json.loads(path.read_text())
