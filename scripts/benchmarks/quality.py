r"""Measures the click quality of the ranker and other models on the same rows and features.

    make benchmark
    python scripts/benchmarks/quality.py --use_synthetic --n_samples=1000000 --workdir=workdir/1m
    python scripts/benchmarks/quality.py --workdir=workdir/movielens_time --format=tabular \
        --schema_path=examples/movielens/schema.json --data_path=$M.inter --users_path=$M.user \
        --ads_path=$M.item
    python scripts/benchmarks/quality.py --workdir=workdir/train --peers=lightgbm,dcn_v2

Takes minutes for 100,000 impressions on two cores. Uses the data set of WORKDIR, or converts the
log of the flags like scripts/train.py (README says where $M is; a rating of at least 4 is a click,
and the splits are in time order); without either, generates a synthetic log of --n_samples
impressions. Trains the ranker if WORKDIR has none, or if flags of the ranker are set.

The peers are logistic regression on hashed values, LightGBM, and a DNN, DCN-V2 and DeepFM in Keras.
They use the same encoded fields and splits as the ranker, one row per shown ad, and the logged
position if there is one. The validation split is used for early stopping, for the choice of their
settings (--tune_peers: from a grid), and for calibration as for the ranker. All models are measured
on the test split. Intervals are of the ranker minus the peer, from resampled users, or from
requests if users are unknown. Prints a table, and JSON as the last line.
"""

import pathlib
from typing import Any

import numpy as np
from absl import flags
from peers import peer_data, scores
from workload import harness

from serving import cli, export
from serving.cli.flags import log_flags
from tfrec import calibration, config, evaluation, metrics, ranking
from tfrecords import reader, terminal
from tfrecords.splits import SPLITS

with cli.require_extra("benchmark"):
    from peers import models

_METRICS = ("auc", "normalized_entropy")
RANKER_OPTIONS = tuple(name for name in config.RankerConfig.__dataclass_fields__ if name != "seed")

flags.DEFINE_string("workdir", "workdir/quickstart", "Work directory.")
flags.DEFINE_list("peers", list(models.PEERS), "Peers to measure.")
flags.DEFINE_bool("tune_peers", False, "Choose the peers' settings from a grid; slow.")
flags.DEFINE_bool("ours", True, "Also measure the ranker.")
flags.DEFINE_integer("model_seed", 1, "Seed of initialization and order of rows.")
flags.DEFINE_integer("bootstrap_samples", 200, "Number of resamples for the intervals.", 1)
cli.define_flags(config.RankerConfig, names=RANKER_OPTIONS)
FLAGS = flags.FLAGS
flags.adopt_module_key_flags(log_flags)


def main() -> None:
    unknown = [name for name in FLAGS.peers if name not in models.PEERS]
    if unknown:
        raise ValueError(
            f"--peers: expected some of {', '.join(models.PEERS)}, got {unknown[0]!r}."
            f"{terminal.suggestion_for(unknown[0], models.PEERS)}"
        )
    steps = export.Pipeline(pathlib.Path(FLAGS.workdir))
    data_set = open_data_set(steps)
    ranking.check_trainable(data_set)
    data = peer_data.read(data_set, ranking.knows_positions(data_set))
    estimates: dict[str, np.ndarray] = {}
    results: dict[str, Any] = {}
    if FLAGS.ours:
        estimates["tfrec"] = of_ours(steps, data_set, data)
        results["tfrec"] = {"seconds": steps.seconds().get("ranker")}
    for name in FLAGS.peers:
        estimates[name], results[name] = of_peer(name, data)
        print(f"{name}: trained in {results[name]['seconds']:.0f} s", flush=True)
    estimates["click_rate"] = np.full(len(data.test), data.click_rate)
    truth = of_truth(steps, data_set)
    if truth is not None:
        estimates["planted_truth"] = truth[data.test.known]
    owner = ranking.owner_of_requests(data_set, "test")
    score(estimates, results, data.test, owner[data.test.requests])
    rows = {split: len(getattr(data, split)) for split in SPLITS}
    described = {
        "data_set": data_set.schema.name,
        "fingerprint": data_set.fingerprint,
        "intervals_of": "users" if data_set.spec.has_user else "requests",
    }
    results = {**results, **described, "rows": rows, "test_clicks": int(data.test.labels.sum())}
    print_table(results, estimates)
    harness.print_json(results)


def open_data_set(steps: export.Pipeline) -> reader.DataSet:
    """Returns the data set of the flags, or else that of the work directory."""
    named = FLAGS.use_synthetic or FLAGS.data_path or FLAGS["n_samples"].present
    if not named and (steps.path("data") / "dataset.json").is_file():
        return steps.data_set()
    if not FLAGS.data_path:
        FLAGS.use_synthetic = True
    return log_flags.converted_data_set(steps)


def of_ours(
    steps: export.Pipeline, data_set: reader.DataSet, data: peer_data.PeerData
) -> np.ndarray:
    """Returns the ranker's click probabilities of the test rows, training it if needed.

    Raises:
        ValueError: The ranker's test rows differ from those of the peers.
    """
    directory = steps.path("ranker")
    asked = [name for name in (*RANKER_OPTIONS, "model_seed") if FLAGS[name].present]
    if asked or not (directory / "ranker.json").is_file():
        options = cli.from_flags(config.RankerConfig, seed=FLAGS.model_seed)
        steps.train_ranker(data_set, options)
    else:
        print(f"measuring the existing ranker in {directory}, since no flag of the ranker is set")
    model, own, _ = ranking.load_ranker(data_set, directory)
    predictions = ranking.predict_split(model, data_set, "test")
    labels, known, _ = predictions.labeled("click")
    if not np.array_equal(labels, data.test.labels):
        raise ValueError(
            f"The ranker's test rows of {data_set.directory} differ from those of the peers: "
            f"{len(labels)} and {len(data.test)} labels. Convert the log again."
        )
    return ranking.served_values(predictions, own)["click_probability"][known]


def of_peer(name: str, data: peer_data.PeerData) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns a peer's click probabilities of the test rows, and its results."""
    fitted = models.fit(name, data, FLAGS.tune_peers, FLAGS.model_seed)
    test = {"click": fitted.test.astype(np.float32)}
    raw = calibration.calibrated_values(test, calibration.Calibrators())
    held_out = data.validation
    folds = calibration.fold_of_rows(np.bincount(held_out.requests))
    own = calibration.fit_calibrators(
        {"click": fitted.validation.astype(np.float32)}, {"click": held_out.labels}, folds
    )
    told = {
        "seconds": fitted.seconds,
        "normalized_entropy_uncalibrated": metrics.normalized_entropy(
            data.test.labels, raw["click_probability"]
        ),
        "settings": fitted.settings,
    }
    return calibration.calibrated_values(test, own)["click_probability"], told


def of_truth(steps: export.Pipeline, data_set: reader.DataSet) -> np.ndarray | None:
    """Returns the true click probabilities of all test rows; None unless the log is synthetic."""
    directory = steps.truth_of(data_set)
    return (
        None
        if directory is None
        else evaluation.load_ground_truth(directory, data_set).rows["click_probability"]
    )


def score(
    estimates: dict[str, np.ndarray],
    results: dict[str, Any],
    rows: peer_data.PeerRows,
    unit: np.ndarray,
) -> None:
    """Adds scores of the estimates, and differences to the ranker, to the results.

    Args:
        estimates: Click probabilities [L] by name of the model.
        results: Results by name of the model; updated.
        rows: Rows of the test split.
        unit: Unit [L] of each row that is resampled for the intervals.
    """
    unit = np.unique(unit, return_inverse=True)[1]
    resamples = metrics.Resamples(unit, FLAGS.bootstrap_samples, seed=FLAGS.model_seed)
    ceiling = None
    if "planted_truth" in estimates:
        ceiling = metrics.auc(rows.labels, estimates["planted_truth"])
    ours = None
    if "tfrec" in estimates:
        ours = scores.resampled(resamples, rows.labels, estimates["tfrec"])
    for name, values in estimates.items():
        found = results.setdefault(name, {})
        found.update(scores.scores(rows.labels, values))
        if ceiling is not None:
            found["auc_share"] = metrics.share_of_achievable(found["auc"], 0.5, ceiling)
        if ours is not None and name != "tfrec":
            other = scores.resampled(resamples, rows.labels, values)
            found["ours_minus_this"] = scores.difference(ours, other)


def print_table(results: dict[str, Any], estimates: dict[str, np.ndarray]) -> None:
    """Prints a row for each model."""
    rows = results["rows"]
    print(
        f"{results['data_set']}: click, {rows['train']:,} training, {rows['validation']:,} "
        f"validation and {rows['test']:,} test impressions, {results['test_clicks']:,} clicked"
    )
    table = []
    for name in estimates:
        gaps = results[name].get("ours_minus_this", {})
        intervals = {f"ours − this, {key}": _interval(gaps.get(key)) for key in _METRICS}
        table.append({**results[name], "model": name.replace("_", " "), **intervals})
    keys = ("auc", "auc_share", "normalized_entropy", "log_loss", "ece")
    intervals = dict.fromkeys((f"ours − this, {key}" for key in _METRICS), "")
    columns = {"model": "", **dict.fromkeys(keys, ".4f"), "seconds": ".0f", **intervals}
    harness.print_rows(table, columns)
    print("ours − this: 95 % intervals")


def _interval(bounds: list[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"


if __name__ == "__main__":
    cli.run(main)
