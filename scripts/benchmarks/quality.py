r"""Measures the heads of the ranker and of other models on the same rows and features.

    make benchmark
    make benchmark ARGS="--tune_minutes=10"
    python scripts/benchmarks/quality.py --use_synthetic --n_samples=1000000 --workdir=workdir/1m
    python scripts/benchmarks/quality.py --workdir=workdir/movielens_time --format=tabular \
        --schema_path=examples/movielens/schema.json --data_path=$M.inter --users_path=$M.user \
        --ads_path=$M.item
    python scripts/benchmarks/quality.py --workdir=workdir/train --peers=lightgbm,dcn_v2

Takes minutes for 100,000 impressions on two cores, and --tune_minutes of processor time for each
peer. Uses the data set of WORKDIR, or converts the log of the flags like scripts/train.py (README
says where $M is; a rating of at least 4 is a click, and the splits are in time order); without
either, generates a synthetic log of --n_samples impressions. Trains the ranker if WORKDIR has none,
or if flags of the ranker are set.

The peers are LightGBM, with native categories and with shrunken means and counts of ids and of
pairs of ids as of earlier rows; logistic regression on hashed values; and a DNN, DCN-V2, DeepFM,
FwFM, DLRM, FinalMLP and DIN in Keras. They use the same encoded fields and splits as the ranker,
one row per shown ad, and the logged position if there is one, but no dense vectors. They learn
engagement from clicked rows, and revenue as a probability and a log-normal amount. Each head of a
peer has the settings that are best on the validation split: of the peer's defaults, and of those
that a search proposes within --tune_minutes. The validation split is also used for early stopping,
and for calibration as for the ranker; the ranker has its defaults. Finished peers are stored in
WORKDIR/peers. A second run with the same rows, seed and settings reuses them; delete them after a
change of the code.

All models are measured on the test split. Intervals are for the ranker minus the peer, from
resampled users, or from requests if users are unknown. Prints a table for each head, the best model
first, and JSON as the last line.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from peers import peer_data
from workload import harness

from serving import cli, export
from serving.cli import shared_flags
from tfrec import calibration, config, evaluation, metrics, ranking
from tfrec.heads import CLICK, HEADS
from tfrecords import reader
from tfrecords.splits import SPLITS

with cli.require_extra("benchmark"):
    from peers import models

# What the table shows of a probability, and of an amount; `auc_share` is next to the AUC. Intervals
# are of the first two.
METRICS = ("auc", "normalized_entropy", "log_loss", "expected_calibration_error")
METRICS_OF_AMOUNTS = ("auc", "normalized_gini", "calibration_ratio")
Estimates = dict[str, np.ndarray]
"""Head -> values [L] of an impression: probabilities, or expected amounts."""
RANKER_OPTIONS = tuple(name for name in config.RankerConfig.__dataclass_fields__ if name != "seed")

flags.DEFINE_string("workdir", "workdir/quickstart", "Work directory.")
flags.DEFINE_list("peers", list(models.PEERS), "Peers to measure.")
flags.DEFINE_float(
    "tune_minutes",
    0.0,
    "Processor minutes to search the settings of each peer; 0: its defaults only.",
    lower_bound=0.0,
)
flags.DEFINE_bool("ours", True, "Also measure the ranker.")
flags.DEFINE_integer("model_seed", 1, "Seed of initialization and order of rows.")
flags.DEFINE_integer("bootstrap_samples", 200, "Number of resamples for the intervals.", 1)
cli.define_flags(config.RankerConfig, names=RANKER_OPTIONS)
FLAGS = flags.FLAGS
shared_flags.define_log()


def main() -> None:
    peers = harness.flag_names("peers", models.PEERS)
    steps = export.Pipeline(pathlib.Path(FLAGS.workdir))
    data_set = open_data_set(steps)
    ranking.check_trainable(data_set)
    data = peer_data.read(data_set, ranking.knows_positions(data_set))
    estimates: dict[str, Estimates] = {}
    results: dict[str, Any] = {}
    if FLAGS.ours:
        estimates["tfrec"] = ranker_estimates(steps, data_set, data)
        results["tfrec"] = {"seconds": steps.seconds().get("ranker")}
    for name in peers:
        estimates[name], results[name] = peer_estimates(name, data, steps.path("peers"))
        fit = results[name]
        print(f"{name}: {fit['trials']} trials in {fit['seconds']:.0f} CPU seconds", flush=True)
    estimates["base_rate"] = {
        head: np.full(len(data.test), np.nanmean(data.train.labels[head])) for head in data.heads
    }
    truth_log = steps.truth_of(data_set)
    if truth_log is not None:
        truth = evaluation.load_ground_truth(truth_log, data_set).rows
        estimates["ground_truth"] = {
            head: truth[HEADS[head].output][data.test.known] for head in data.heads
        }
    owner = ranking.owner_of_requests(data_set, "test")[data.test.requests]
    for head in data.heads:
        score(head, estimates, results, data.test, owner)
    described = {
        "data_set": data_set.schema.name,
        "fingerprint": data_set.fingerprint,
        "intervals_of": "users" if data_set.spec.has_user else "requests",
        "tune_minutes": FLAGS.tune_minutes,
        "heads": list(data.heads),
        "rows": {split: len(getattr(data, split)) for split in SPLITS},
        "test_positives": {h: int((data.test.labels[h] > 0).sum()) for h in data.heads},
    }
    results |= described
    for head in data.heads:
        print_table(head, results, list(estimates))
    print("ours − this: 95 % intervals; seconds: of the processor, for peers")
    harness.print_json(results)


def open_data_set(steps: export.Pipeline) -> reader.DataSet:
    """Returns the data set that the flags name; by default, the one in the work directory."""
    has_world_flag = FLAGS["n_samples"].present or FLAGS["world"].present
    named = FLAGS.use_synthetic or FLAGS.data_path or has_world_flag
    if not named and (steps.path("data") / "dataset.json").is_file():
        return steps.data_set()
    if not FLAGS.data_path:
        FLAGS.use_synthetic = True
    return shared_flags.converted_data_set(steps)


def ranker_estimates(
    steps: export.Pipeline, data_set: reader.DataSet, data: peer_data.PeerData
) -> Estimates:
    """Returns the ranker's values of the test rows, training it if needed.

    Raises:
        ValueError: The ranker's test rows differ from the peers'.
    """
    directory = steps.path("ranker")
    set_flags = [name for name in (*RANKER_OPTIONS, "model_seed") if FLAGS[name].present]
    if set_flags or not (directory / "ranker.json").is_file():
        options = cli.from_flags(config.RankerConfig, seed=FLAGS.model_seed)
        steps.train_ranker(data_set, options)
    else:
        print(f"measuring the existing ranker in {directory}, since no flag of the ranker is set")
    model, calibrators, _ = ranking.load_ranker(data_set, directory)
    predictions = ranking.predict_split(model, data_set, "test")
    labels, known, _ = predictions.labeled(CLICK.label)
    if not np.array_equal(labels, data.test.labels[CLICK.label]):
        raise ValueError(
            f"The ranker's test rows of {data_set.directory} differ from the peers' rows: "
            f"{len(labels)} and {len(data.test)} labels. Convert the log again."
        )
    served = ranking.served_values(predictions, calibrators)
    return {head: served[HEADS[head].output][known] for head in data.heads}


def peer_estimates(
    name: str, data: peer_data.PeerData, directory: pathlib.Path
) -> tuple[Estimates, dict[str, Any]]:
    """Returns a peer's values of the test rows, and its results."""
    fitted = models.fit(name, data, FLAGS.model_seed, FLAGS.tune_minutes, directory)
    held_out = data.validation
    folds = calibration.fold_of_rows(np.bincount(held_out.requests))
    calibrators = calibration.fit_calibrators(fitted.validation, held_out.labels, folds)
    values = calibration.calibrated_values(fitted.test, calibrators)
    result = {
        "seconds": fitted.cpu_seconds,
        "trials": fitted.trials,
        "settings": fitted.settings,
    }
    return {head: values[HEADS[head].output] for head in data.heads}, result


def score(
    head: str,
    estimates: Mapping[str, Estimates],
    results: dict[str, Any],
    rows: peer_data.PeerRows,
    unit: np.ndarray,
) -> None:
    """Adds each model's scores of a head, and differences to the ranker, to its results.

    All rows of the test split count; their units [L] are resampled for the intervals.
    """
    known = ~np.isnan(rows.labels[head])
    kind = HEADS[head]
    head_rows = evaluation.HeadRows(
        rows.labels[head][known],
        np.unique(rows.requests[known], return_counts=True)[1],
        metrics.Resamples(
            np.unique(unit[known], return_inverse=True)[1],
            FLAGS.bootstrap_samples,
            seed=FLAGS.model_seed,
        ),
        no_per_user_auc="not compared",
    )
    ceiling = None
    # An order by expected amounts cannot reach the AUC of one by probabilities.
    if "ground_truth" in estimates and not kind.is_amount:
        ceiling = metrics.auc(head_rows.labels, estimates["ground_truth"][head][known])
    samples = {}
    for name, head_estimates in estimates.items():
        values = head_estimates[head][known]
        scores = evaluation.HeadScores(values, values)
        samples[name] = evaluation.head_samples(kind, head_rows, scores)
    shown = METRICS_OF_AMOUNTS if kind.is_amount else METRICS
    for name, model_samples in samples.items():
        found: dict[str, Any] = {key: metrics.point_estimate(model_samples[key]) for key in shown}
        if ceiling is not None and found["auc"] is not None:
            found["auc_share"] = metrics.share_of_achievable(found["auc"], 0.5, ceiling)
        if "tfrec" in samples and name != "tfrec":
            found["ours_minus_this"] = {
                key: metrics.interval(samples["tfrec"][key] - model_samples[key])
                for key in shown[:2]
            }
        results.setdefault(name, {})[head] = found


def print_table(head: str, results: Mapping[str, Any], names: Sequence[str]) -> None:
    """Prints a row for each model, those with the largest AUC first."""
    rows = results["rows"]
    print(
        f"{results['data_set']}: {head}, {rows['train']:,} training, {rows['validation']:,} "
        f"validation and {rows['test']:,} test impressions, "
        f"{results['test_positives'][head]:,} positive"
    )
    keys = METRICS_OF_AMOUNTS if HEADS[head].is_amount else METRICS
    table = []
    for name in sorted(names, key=lambda name: -(results[name][head]["auc"] or 0.0)):
        row = results[name][head]
        gaps = row.get("ours_minus_this", {})
        intervals = {_gap(key): _interval(gaps.get(key)) for key in keys[:2]}
        shown = {"model": name.replace("_", " "), "seconds": results[name].get("seconds")}
        table.append({**row, **shown, **intervals})
    shares = () if HEADS[head].is_amount else ("auc_share",)
    columns = dict.fromkeys(("auc", *shares, *keys), ".4f")
    gaps = dict.fromkeys(map(_gap, keys[:2]), "")
    harness.print_rows(table, {"model": "", **columns, "seconds": ".0f", **gaps})


def _gap(metric: str) -> str:
    return f"ours − this, {metric}"


def _interval(bounds: list[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"


if __name__ == "__main__":
    cli.run(main)
