r"""Measures retrieval on MovieLens-100K, next to peers.

    pip download --no-deps recbole==1.2.1 --dest /tmp/recbole
    python -m zipfile -e /tmp/recbole/recbole-1.2.1-py3-none-any.whl /tmp/recbole
    python scripts/benchmarks/movielens.py --tune_minutes=10 \
        --data_path=/tmp/recbole/recbole/dataset_example/ml-100k/ml-100k.inter

Takes a few minutes per seed on two cores, and --tune_minutes of processor time for each peer and
seed. Every rating is a click. All films that the user has not rated in training are ranked, and the
first ten count (recall: hits / held-out films; NDCG: binary; means over users). --held_out says
which ratings are for testing:

    quarter     a random 75 % of each user's ratings is for training and 25 % for testing
    last_click  the last rating of each user is for testing, and the one before for validation;
                requests have a history of the user's last 50 ratings, with their ages

The two-tower model has the default configuration unless flags change it. With a quarter held out,
it uses part of the 75 % (--validation_fraction of all ratings) to choose its best epoch.

The peers are popularity, item neighbors, EASE, matrix factorization (the package `implicit`), the
two-tower model of the TFRS tutorial and, where there are histories, SASRec. They have their
defaults or, with --tune_minutes, the options found in that time with the best NDCG@10 on the
ratings for validation; then they learn these ratings, too. Finished models are stored in
WORKDIR/cells, and a second run with the same log, seed and settings reuses them; delete them after
a change of the code. Each seed has its own split and models. Prints the mean and, with several
seeds, the standard deviation, the best model first, next to published figures, and JSON as the last
line.

The published figures are for a held-out quarter. They were measured by others on their own splits,
with the definitions of github.com/recommenders-team/recommenders (its examples/06_benchmarks
describes 75 % of each user, but its notebook takes 75 % of each film).
"""

import functools
import pathlib
import shutil
import statistics
import time
from collections.abc import Callable
from typing import Any

from absl import flags
from workload import finished_cells, harness

from serving import cli
from tfrec import config, evaluation, retrieval
from tfrecords import convert, reader, schema, terminal
from tfrecords.splits import SPLITS

with cli.require_extra("benchmark"):
    from peers import recommenders

# A recommender, and how it was trained.
Fitted = tuple[Any, dict[str, Any]]
TEST_FRACTION = 0.25
METRICS = ("ndcg_at_10", "corpus_recall_at_10")
PUBLISHED = {  # NDCG@10, recall@10
    "popularity": (0.250, 0.113),
    "NCF": (0.396, 0.181),
    "BPR": (0.442, 0.213),
    "BiVAE": (0.475, 0.219),
    "EASE": (0.483, 0.227),
}
IDS = (("user_id", "query"), ("item_id", "ad"))

flags.DEFINE_string("data_path", None, "MovieLens-100K's ml-100k.inter; see above.")
flags.DEFINE_string(
    "workdir", "workdir/benchmark_movielens", "Work directory for data sets and models."
)
flags.DEFINE_list("seeds", ["1", "2", "3"], "Seeds of splits and models.")
flags.DEFINE_float(
    "validation_fraction", 0.02, "Share of all ratings that is used to choose the epoch."
)
flags.DEFINE_enum(
    "held_out", "quarter", ("quarter", "last_click"), "Ratings for testing; see above."
)
flags.DEFINE_float(
    "tune_minutes",
    0.0,
    "Processor minutes to search the options of each peer; 0: its defaults.",
    lower_bound=0.0,
)
OPTIONS = tuple(name for name in config.RetrievalConfig.__dataclass_fields__ if name != "seed")
cli.define_flags(config.RetrievalConfig, names=OPTIONS)
FLAGS = flags.FLAGS


def main() -> None:
    source = source_of(FLAGS.data_path)
    seeds = harness.flag_numbers("seeds", "1,2,3")
    runs = []
    for seed in seeds:
        directory = pathlib.Path(FLAGS.workdir) / f"seed-{seed}"
        shutil.rmtree(directory, ignore_errors=True)
        data_set = convert_log(source, directory / "data", seed)
        runs.append(measured(data_set, seed, directory / "retrieval"))
    result = summary(runs)
    published = PUBLISHED if FLAGS.held_out == "quarter" else {}
    print_table(result, published)
    harness.print_json({**result, "seeds": seeds, "runs": runs, "published": published})


def source_of(data_path: str | None) -> convert.Source:
    """Returns the log.

    Raises:
        ValueError: No path was given.
        FileNotFoundError: The file is missing.
    """
    how = "the opening lines of --help say how to get it"
    if data_path is None:
        raise ValueError(f"Give --data_path, MovieLens-100K's ml-100k.inter: {how}.")
    path = pathlib.Path(data_path)
    if not path.is_file():
        raise FileNotFoundError(f"No file {path}: {how}.")
    fields = [
        schema.Field(name, "categorical", side, column=f"{name}:token", min_count=1)
        for name, side in IDS
    ]
    time_column = None
    if FLAGS.held_out == "last_click":
        time_column = "timestamp:float"
        fields.append(schema.Field("rated", "history", "query", of="ad", event="click"))
    ids = schema.Schema(
        "movielens_100k_ids",
        tuple(fields),
        ("item_id:token",),
        None,
        user_key="user_id:token",
        time=time_column,
    )
    return convert.Source(path, ids, format="tabular")


def convert_log(source: convert.Source, directory: pathlib.Path, seed: int) -> reader.DataSet:
    """Converts the log with the split of a seed."""
    options = {"split": "leave_last_out"}
    if FLAGS.held_out == "quarter":
        options = {
            "split": "leave_random_fraction_out",
            "test_fraction": TEST_FRACTION,
            "validation_fraction": FLAGS.validation_fraction,
        }
    convert.convert(source, directory, seed=seed, **options)
    return reader.DataSet(directory)


def measured(
    data_set: reader.DataSet, seed: int, workdir: pathlib.Path
) -> dict[str, dict[str, Any]]:
    """Returns the per-user metrics of the two-tower model and the peers, stored or new."""
    tower_config = cli.from_flags(config.RetrievalConfig, seed=seed)
    data_digests = [
        finished_cells.digest_of(*retrieval.read_pairs(data_set, (split,))) for split in SPLITS
    ]
    build: dict[str, tuple[Any, Callable[[], Fitted]]] = {
        "two_tower": (tower_config, lambda: train(data_set, tower_config, workdir))
    }
    for name, peer in recommenders.peers_of(data_set).items():
        fit = functools.partial(recommenders.fit, name, data_set, seed, FLAGS.tune_minutes)
        build[name] = (peer.defaults, peer.space, FLAGS.tune_minutes), fit
    results = {}
    for name, (options, fit) in build.items():
        results[name] = finished_cells.stored(
            pathlib.Path(FLAGS.workdir) / "cells",
            f"{name}-seed{seed}",
            (data_digests, seed, options),
            functools.partial(measure, data_set, name, fit),
        )
        shown = ", ".join(f"{key} {results[name][key]:.4f}" for key in METRICS)
        print(f"seed {seed}, {name}: {shown}", flush=True)
    return results


def train(
    data_set: reader.DataSet, options: config.RetrievalConfig, workdir: pathlib.Path
) -> Fitted:
    """Trains a two-tower model."""
    started = time.process_time()
    retrieval.train_two_tower(data_set, options, workdir)
    model, _ = retrieval.load_two_tower(data_set, workdir)
    spent = time.process_time() - started
    return evaluation.recommender_of(model, data_set.catalog()), {"cpu_seconds": spent}


def measure(data_set: reader.DataSet, name: str, fit: Callable[[], Fitted]) -> dict[str, Any]:
    """Trains a recommender and returns its per-user metrics, and how it was trained."""
    recommender, training = fit()
    history = recommenders.Learned(data_set, retrieval.REFIT_SPLITS, 0).history
    report = evaluation.compare_recommenders(data_set, {name: recommender}, history)
    return {**(report.recommenders[name].excluding_seen or {}), **training}


def summary(runs: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Returns the mean and, of several runs, the standard deviation over them."""
    result: dict[str, dict[str, float]] = {}
    for name in runs[0]:
        for key in METRICS:
            values = [run[name][key] for run in runs]
            figures = result.setdefault(name, {})
            figures[key] = statistics.mean(values)
            if len(values) > 1:
                figures[f"{key}_sd"] = statistics.stdev(values)
    return result


def print_table(
    result: dict[str, dict[str, float]], published: dict[str, tuple[float, float]]
) -> None:
    """Prints our results next to the peers and published figures, the best NDCG first."""
    labels = {"two_tower": "two-tower, this project"}
    labels |= {name: peer.label for name, peer in recommenders.PEERS.items()}

    def shown(values: dict[str, float], key: str) -> str:
        spread = values.get(f"{key}_sd")
        return f"{values[key]:.4f}" + ("" if spread is None else f" ± {spread:.4f}")

    rows = [
        [labels[name], *(shown(values, key) for key in METRICS)]
        for name, values in sorted(result.items(), key=lambda item: -item[1][METRICS[0]])
    ]
    rows += [
        [f"{name}, published", *(f"{value:.3f}" for value in figures)]
        for name, figures in published.items()
    ]
    print(terminal.text_table(["", "NDCG@10", "recall@10"], rows, left=(0, 1, 2)))


if __name__ == "__main__":
    cli.run(main)
