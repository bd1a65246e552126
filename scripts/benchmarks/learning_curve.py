"""Measures how close the two-tower model comes to the ground truth, for logs of growing size.

    python scripts/benchmarks/learning_curve.py --impressions=10000,100000 --num_ads=10000
    python scripts/benchmarks/learning_curve.py

The first command takes about four minutes on two cores; the second, with up to 1,000,000
impressions and 1,000,000 ads, an hour or two. Generates synthetic logs with known ground truth:
each has --impressions for training and validation, followed by --test_impressions for testing.
Measures recall and NDCG of test clicks over the whole catalog as a share of the ground
truth's on the same clicks, next to popularity. Prints a table, and JSON as the last line.
"""

import dataclasses
import pathlib
import shutil
import time
from typing import Any

from absl import flags
from workload import harness

from serving import cli
from tfrec import config, evaluation, metrics, retrieval
from tfrecords import convert, reader, synthetic

KEYS = {
    "corpus_recall_at_500": "recall@500",
    "corpus_recall_at_10": "recall@10",
    "ndcg_at_10": "NDCG@10",
}
LEARNED, TRUTH = ("two_tower", "popularity"), "ground_truth"
VALIDATION_SHARE = 0.1
MAX_CLICKS = 2_000

flags.DEFINE_list(
    "impressions",
    ["10000", "100000", "1000000"],
    "Numbers of impressions for training and validation.",
)
flags.DEFINE_list("num_ads", ["10000", "1000000"], "Numbers of ads of the catalog.")
flags.DEFINE_integer(
    "test_impressions", 20_000, "Number of impressions for testing.", lower_bound=100
)
flags.DEFINE_integer("world_seed", 7, "Seed of the synthetic world.", lower_bound=0)
flags.DEFINE_string(
    "workdir", "workdir/benchmark_learning_curve", "Work directory for logs and models."
)
cli.define_flags(config.RetrievalConfig)
FLAGS = flags.FLAGS


def main() -> None:
    workdir = pathlib.Path(FLAGS.workdir)
    points = []
    for num_ads in sorted(harness.flag_numbers("num_ads", "10000,100000", 1)):
        for impressions in sorted(harness.flag_numbers("impressions", "10000,100000", 1)):
            directory = workdir / f"ads-{num_ads}-impressions-{impressions}"
            shutil.rmtree(directory, ignore_errors=True)
            world = synthetic.WorldConfig(seed=FLAGS.world_seed, num_ads=num_ads)
            points.append(measure(world, impressions, directory))
            print_table(points[-1:])
    result = {
        "config": dataclasses.asdict(cli.from_flags(config.RetrievalConfig)),
        "test_impressions": FLAGS.test_impressions,
        "points": points,
    }
    harness.print_json(result)


def measure(
    world: synthetic.WorldConfig, impressions: int, directory: pathlib.Path
) -> dict[str, Any]:
    """Generates and converts a log, trains a model and measures it."""
    data_set = convert_log(world, impressions, directory)
    started = time.perf_counter()
    options = cli.from_flags(config.RetrievalConfig)
    retrieval.train_two_tower(data_set, options, directory / "retrieval")
    seconds = time.perf_counter() - started
    model, description = retrieval.load_two_tower(data_set, directory / "retrieval")
    started = time.perf_counter()
    truth = evaluation.load_ground_truth(directory / "log", data_set)
    report = evaluation.evaluate_retrieval(data_set, model, truth, MAX_CLICKS)
    if not report.num_clicks:
        raise ValueError("The test split has no clicks; increase --test_impressions.")
    return {
        "num_ads": report.num_ads,
        "impressions": impressions,
        "train_clicks": int(data_set.label_sum("train", "click")),
        "test_clicks": report.num_clicks,
        "test_clicks_on_unseen_ads": report.num_clicks_on_unseen_ads,
        "passes": len(description["history"]),
        "train_seconds": seconds,
        "evaluation_seconds": time.perf_counter() - started,
        **{name: report.recommenders[name].to_json() for name in (*LEARNED, TRUTH)},
        "share_of_achievable": {
            name: shares(report.recommenders[name].metrics, report.recommenders[TRUTH].metrics)
            for name in LEARNED
        },
    }


def convert_log(
    world: synthetic.WorldConfig, impressions: int, directory: pathlib.Path
) -> reader.DataSet:
    """Generates and converts a log whose last `--test_impressions` are for testing."""
    rows = impressions + FLAGS.test_impressions
    log = synthetic.write_log(directory / "log", rows, world)
    convert.convert(
        convert.Source(log.log, synthetic.schema(), log.format, ads_path=log.ads),
        directory / "data",
        test_fraction=FLAGS.test_impressions / rows,
        validation_fraction=VALIDATION_SHARE * impressions / rows,
    )
    return reader.DataSet(directory / "data")


def shares(values: dict[str, float], ceiling: dict[str, float]) -> dict[str, float | None]:
    """Returns each metric as a share of the ground truth's."""
    return {key: metrics.share_of_achievable(values[key], 0.0, ceiling[key]) for key in KEYS}


def print_table(points: list[dict[str, Any]]) -> None:
    """Prints two rows for each size: shares, and under truth the metrics of the ground truth."""
    print("share of the ground truth's metric (truth: the metric itself)")
    rows = [
        {
            **point,
            "model": name.replace("_", "-"),
            **{label: point["share_of_achievable"][name][key] for key, label in KEYS.items()},
            **{f"truth {label}": point[TRUTH]["metrics"][key] for key, label in KEYS.items()},
        }
        for point in points
        for name in LEARNED
    ]
    columns = {
        "num_ads": ",",
        "impressions": ",",
        "model": "",
        **dict.fromkeys(KEYS.values(), ".3f"),
        **{f"truth {label}": ".4f" for label in KEYS.values()},
        "train_seconds": ".0f",
    }
    harness.print_rows(rows, columns)


if __name__ == "__main__":
    cli.run(main)
