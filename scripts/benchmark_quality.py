"""Click quality beside hashed logistic regression and LightGBM, on the same rows.

    make benchmark
    python scripts/benchmark_quality.py --workdir=workdir/quickstart

Minutes at 100,000 impressions. Trains ours first where WORKDIR does not hold it yet (a
synthetic log of --n_samples impressions). The peers see the log's raw columns, learn on the
training split, are tuned on the validation split and measured on the test split. Prints a
table, and as the last line JSON.
"""

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import command_line
import lightgbm
import numpy as np
import pipeline
import pyarrow as pa
import scipy.sparse
from absl import flags
from sklearn import linear_model

from tfrec import config, metrics
from tfrecords import arrow_file, reader, synthetic
from tfrecords.formats import criteo, log

flags.DEFINE_string("workdir", "workdir/quickstart", "Work directory.")
flags.DEFINE_integer("n_samples", 100_000, "Impressions of the synthetic log.", lower_bound=1000)
flags.DEFINE_string("data_path", None, "A Criteo log instead of the synthetic one.")
FLAGS = flags.FLAGS

MIN_COUNT = 5
HASH_BITS = 20
NUM_BUCKETS = 40
Columns = dict[str, np.ndarray]


def main() -> None:
    steps = pipeline.Pipeline(pathlib.Path(FLAGS.workdir))
    if FLAGS.data_path:
        source = pipeline.source_of(FLAGS.data_path, None, "criteo", None)
    else:
        source = steps.synthesize(FLAGS.n_samples)
    data_set = steps.convert(source, config.ConvertConfig())
    steps.train_retrieval(data_set, config.RetrievalConfig())
    steps.train_ranker(data_set, config.RankerConfig())
    ours = steps.evaluate(data_set)["ranker"]["click"]
    labels, columns = read_raw(source.path, data_set)
    splits = split_slices(data_set)
    results = {"tfrec": {key: ours[key] for key in ("auc", "normalized_entropy")}}
    results["tfrec"]["ece"] = ours["expected_calibration_error"]
    for name, fit in (("lightgbm", fit_lightgbm), ("hashed_logistic_regression", fit_logistic)):
        results[name] = measure(fit, labels, columns, splits)
    results["click_rate"] = measure(fit_rate, labels, columns, splits)
    log = synthetic.Log(source.path.parent)
    if log.truth.is_file():
        planted = arrow_file.read(log.truth)["click_probability"].to_numpy()[splits["test"]]
        results["planted_truth"] = scores(labels[splits["test"]], planted)
        ceiling = results["planted_truth"]["auc"]
        for values in results.values():
            values["auc_share"] = metrics.share_of_achievable(values["auc"], 0.5, ceiling)
    print_table(results, data_set)
    print(json.dumps(results))


def read_raw(path: pathlib.Path, data_set: reader.DataSet) -> tuple[np.ndarray, Columns]:
    """Reads the usable rows of the log: click labels [N] and raw input columns [N]."""
    opened = criteo.open_log(log.Files((path,)), data_set.schema)
    table = pa.concat_tables(opened.parse(chunk).table for chunk in opened.chunks())
    table = table.unify_dictionaries().combine_chunks()
    columns: Columns = {}
    for field in data_set.schema.fields:
        column = table[field.source].combine_chunks()
        if field.kind == "categorical":
            column = column.indices
        columns[field.name] = column.to_numpy(zero_copy_only=False)
    return table[criteo.LABEL].cast(pa.string()).cast(pa.int8()).to_numpy(), columns


def split_slices(data_set: reader.DataSet) -> dict[str, slice]:
    """Returns the rows of each split; the splits follow each other in the log."""
    slices, first = {}, 0
    for split in ("train", "validation", "test"):
        last = first + data_set.num_rows(split)
        slices[split] = slice(first, last)
        first = last
    return slices


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """Returns AUC, normalised entropy and calibration error."""
    return {
        "auc": metrics.auc(labels, probabilities),
        "normalized_entropy": metrics.normalized_entropy(labels, probabilities),
        "ece": metrics.expected_calibration_error(labels, probabilities),
    }


def measure(
    fit: Callable[[np.ndarray, Columns, dict[str, slice]], np.ndarray],
    labels: np.ndarray,
    columns: Columns,
    splits: dict[str, slice],
) -> dict[str, Any]:
    """Fits a peer and measures its test probabilities."""
    started = time.perf_counter()
    probabilities = fit(labels, columns, splits)
    seconds = time.perf_counter() - started
    return {**scores(labels[splits["test"]], probabilities), "seconds": seconds}


def fit_rate(labels: np.ndarray, columns: Columns, splits: dict[str, slice]) -> np.ndarray:
    """Predicts the training click rate for every test row."""
    rows = splits["test"].stop - splits["test"].start
    return np.full(rows, labels[splits["train"]].mean())


def fit_lightgbm(labels: np.ndarray, columns: Columns, splits: dict[str, slice]) -> np.ndarray:
    """LightGBM on raw numbers and frequency-ranked categories; the better of two treatments."""
    train, validation, test = splits["train"], splits["validation"], splits["test"]
    matrix = np.stack([_ranked(name, v, train) for name, v in columns.items()], axis=1)
    categorical = [i for i, v in enumerate(columns.values()) if v.dtype.kind == "i"]
    best: tuple[float, np.ndarray] | None = None
    for as_categories in (categorical, []):
        data = lightgbm.Dataset(
            matrix[train], labels[train], categorical_feature=as_categories, free_raw_data=False
        )
        held_out = data.create_valid(matrix[validation], labels[validation])
        model = lightgbm.train(
            {
                "objective": "binary", "num_leaves": 63, "learning_rate": 0.05, "verbose": -1,
                "min_data_in_leaf": 50, "feature_fraction": 0.7, "num_threads": 2, "seed": 1,
            },
            data,
            num_boost_round=1500,
            valid_sets=[held_out],
            callbacks=[lightgbm.early_stopping(40, verbose=False)],
        )  # fmt: skip
        loss = metrics.log_loss(labels[validation], model.predict(matrix[validation]))
        if best is None or loss < best[0]:
            best = (loss, model.predict(matrix[test]))
    assert best is not None
    return best[1]


def fit_logistic(labels: np.ndarray, columns: Columns, splits: dict[str, slice]) -> np.ndarray:
    """Logistic regression on hashed values, numbers in quantile buckets, no crosses."""
    train, validation, test = splits["train"], splits["validation"], splits["test"]
    hashed = []
    for index, (name, values) in enumerate(columns.items()):
        ids = _ranked(name, values, train)
        if values.dtype.kind == "f":
            edges = np.nanquantile(values[train], np.linspace(0, 1, NUM_BUCKETS + 1)[1:-1])
            ids = np.where(np.isnan(values), NUM_BUCKETS, np.searchsorted(edges, values))
        hashed.append((ids.astype(np.int64) * 1_000_003 + index * 7_919) % (1 << HASH_BITS))
    rows = np.repeat(np.arange(len(labels)), len(columns))
    matrix = scipy.sparse.csr_matrix(
        (np.ones(len(rows), np.float32), (rows, np.stack(hashed, axis=1).ravel())),
        shape=(len(labels), 1 << HASH_BITS),
    )
    best: tuple[float, np.ndarray] | None = None
    for strength in (0.003, 0.01, 0.03, 0.1):
        model = linear_model.LogisticRegression(C=strength, max_iter=200)
        model.fit(matrix[train], labels[train])
        loss = metrics.log_loss(labels[validation], model.predict_proba(matrix[validation])[:, 1])
        if best is None or loss < best[0]:
            best = (loss, model.predict_proba(matrix[test])[:, 1])
    assert best is not None
    return best[1]


def _ranked(name: str, values: np.ndarray, train: slice) -> np.ndarray:
    """Numbers categories by falling training count; rare ones share a number."""
    if values.dtype.kind == "f":
        return values
    counts = np.bincount(values[train], minlength=int(values.max()) + 1)
    rank = np.empty(len(counts), np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return np.minimum(rank[values], int((counts >= MIN_COUNT).sum())).astype(np.float64)


def print_table(results: dict[str, dict[str, Any]], data_set: reader.DataSet) -> None:
    """Prints one line a model."""
    rows = {split: data_set.num_rows(split) for split in ("train", "validation", "test")}
    print(f"click, {rows['train']:,} training and {rows['test']:,} test impressions")
    print(f"  {'':28}{'AUC':>8}{'share':>8}{'NE':>8}{'ECE':>8}")
    for name, values in results.items():
        share = values.get("auc_share")
        print(
            f"  {name.replace('_', ' '):28}{values['auc']:8.4f}"
            f"{'–' if share is None else f'{share:.3f}':>8}"
            f"{values['normalized_entropy']:8.4f}{values['ece']:8.4f}"
        )


if __name__ == "__main__":
    command_line.run(main)
