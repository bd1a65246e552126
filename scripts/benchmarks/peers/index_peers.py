"""Measures other libraries for the benchmark of the index.

Shapes: N ads, Q queries, D embedding size.
"""

import json
import pathlib
import subprocess
import tempfile
import time
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
from workload import harness

from serving import index

_SCRIPT = pathlib.Path(__file__).with_name("index_scann.py")
# Exact search of a million ads takes tens of milliseconds per query.
_MAX_BRUTE_FORCE_QUERIES = 100
Row = dict[str, Any]


def brute_force(ads: np.ndarray, queries: np.ndarray, exact_rows: np.ndarray) -> Row:
    """Measures TFRS `BruteForce`, which uses all cores, on some of the queries.

    Ads [N, D] and queries [Q, D] are float32; exact search finds `exact_rows` [Q, k].
    """
    k = exact_rows.shape[1]
    started = time.perf_counter()
    layer = tfrs.layers.factorized_top_k.BruteForce(k=k)
    layer.index(tf.constant(ads))
    build_seconds = time.perf_counter() - started
    search = tf.function(lambda query: layer(query))
    sample = queries[:_MAX_BRUTE_FORCE_QUERIES]
    search(tf.constant(sample[:1]))
    times, found = harness.time_each(
        lambda query: search(tf.constant(query))[1].numpy()[0], sample[:, None]
    )
    batch = tf.constant(sample)
    search(batch)
    started = time.perf_counter()
    search(batch)
    return {
        "name": "TFRS BruteForce, all cores",
        "library": "tensorflow_recommenders",
        "recall": float(index.recall_of_rows(np.stack(found), exact_rows[: len(sample)]).mean()),
        **harness.percentiles(times),
        "batch_queries_per_second": len(sample) / (time.perf_counter() - started),
        "build_seconds": build_seconds,
        "megabytes": ads.nbytes / 1e6,
    }


def check_scann(python: str) -> None:
    """Checks that a Python environment has ScaNN.

    Raises:
        ValueError: It cannot import ScaNN, or `python` is not a Python interpreter.
    """
    _run_in(python, "-c", "import numpy, scann")


def scann(python: str, ads: np.ndarray, queries: np.ndarray, exact_rows: np.ndarray) -> list[Row]:
    """Measures ScaNN in another Python environment; see `brute_force` for the arguments.

    Raises:
        ValueError: The measurement failed.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        np.save(directory / "ads.npy", ads)
        np.save(directory / "queries.npy", queries)
        inputs = [str(directory / "ads.npy"), str(directory / "queries.npy")]
        _run_in(python, str(_SCRIPT), *inputs, str(exact_rows.shape[1]), name)
        rows = json.loads((directory / "rows.json").read_text())
        for number, row in enumerate(rows):
            found = np.load(directory / f"{number}.npy")
            row["recall"] = float(index.recall_of_rows(found, exact_rows).mean())
            row["library"] = "scann"
    return rows


def _run_in(python: str, *arguments: str) -> None:
    try:
        subprocess.run([python, *arguments], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        output = getattr(error, "stderr", None) or str(error)
        raise ValueError(
            f"--scann_python: expected an interpreter with scann and numpy, but {python} fails: "
            f"{output.strip().splitlines()[-1]}"
        ) from error
