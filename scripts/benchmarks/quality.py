r"""Click quality of the ranker beside other models, on the same rows and features.

    make benchmark
    python scripts/benchmarks/quality.py --use_synthetic --n_samples=1000000 --workdir=workdir/1m
    python scripts/benchmarks/quality.py --workdir=workdir/movielens_time --format=tabular \
        --schema_path=examples/movielens/schema.json --data_path=$M.inter --users_path=$M.user \
        --ads_path=$M.item
    python scripts/benchmarks/quality.py --workdir=workdir/train --peers=lightgbm,dcn_v2

Minutes at 100,000 impressions on two cores. Takes the data set that WORKDIR holds, or converts
the log that the flags name, as scripts/train.py does (README says where $M is; a rating of at
least 4 is a click, the splits follow each other in time); with neither, a synthetic log of
--n_samples impressions. Trains the ranker first where WORKDIR holds none, or where flags of
its own are given.

The peers are logistic regression on hashed values, LightGBM, and a DNN, DCN-V2 and DeepFM in
Keras. They read the encoded fields of the same splits as the ranker, one row a shown ad, and
the logged position where there is one; they are stopped, and their settings chosen
(--tune_peers: from a grid), on the validation split, and calibrated on it as the ranker is.
All are measured on the test split. Intervals are of ours minus the peer, from resampled
users, or requests where users are not known. Prints a table, and as the last line JSON.
"""

import json
import pathlib
from typing import Any

import numpy as np
from absl import flags
from peers import peer_data, scores

from serving import cli, export
from serving.cli.flags import log_flags
from tfrec import calibration, config, evaluation, metrics, ranking
from tfrecords import reader, terminal
from tfrecords.splits import SPLITS

with cli.require_extra("benchmark"):
    from peers import models

RANKER_OPTIONS = tuple(name for name in config.RankerConfig.__dataclass_fields__ if name != "seed")

flags.DEFINE_string("workdir", "workdir/quickstart", "Work directory.")
flags.DEFINE_list("peers", list(models.PEERS), "The peers to measure.")
flags.DEFINE_bool("tune_peers", False, "Choose the peers' settings from a grid; takes long.")
flags.DEFINE_bool("calibrate_peers", True, "Calibrate peers on the validation split, as ours.")
flags.DEFINE_bool("peers_see_position", True, "Give the peers the logged position, if any.")
flags.DEFINE_bool("ours", True, "Measure the ranker too, not the peers alone.")
flags.DEFINE_integer("model_seed", 1, "Seed of the models' initialisation and order of rows.")
flags.DEFINE_integer("bootstrap_samples", 200, "Resampled test splits of the intervals.", 1)
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
    with_position = FLAGS.peers_see_position and ranking.knows_positions(data_set)
    data = peer_data.read(data_set, with_position)
    estimates: dict[str, np.ndarray] = {}
    results: dict[str, Any] = {}
    if FLAGS.ours:
        estimates["tfrec"] = of_ours(steps, data_set, data)
        results["tfrec"] = {"seconds": steps.seconds().get("ranker")}
    for name in FLAGS.peers:
        estimates[name], results[name] = of_peer(name, data, data_set, steps.path("peers"))
        _say(name, data.test.labels, estimates[name], results[name]["seconds"])
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
    print(json.dumps(results))


def open_data_set(steps: export.Pipeline) -> reader.DataSet:
    """Returns the data set that the flags, or else the work directory, name."""
    named = FLAGS.use_synthetic or FLAGS.data_path or FLAGS["n_samples"].present
    if not named and (steps.path("data") / "dataset.json").is_file():
        return steps.data_set()
    if not FLAGS.data_path:
        FLAGS.use_synthetic = True
    return log_flags.converted_data_set(steps)


def of_ours(steps: export.Pipeline, data_set: reader.DataSet, data: peer_data.Data) -> np.ndarray:
    """Returns the served click probabilities of the test rows, training a ranker if needed.

    Raises:
        ValueError: The rows are not those of the peers.
    """
    directory = steps.path("ranker")
    asked = [name for name in (*RANKER_OPTIONS, "model_seed") if FLAGS[name].present]
    if asked or not (directory / "ranker.json").is_file():
        options = cli.from_flags(config.RankerConfig, seed=FLAGS.model_seed)
        steps.train_ranker(data_set, options)
    else:
        print(f"the ranker in {directory} is measured as it is: no flag of it was given")
    model, own, _ = ranking.load_ranker(data_set, directory)
    predictions = ranking.predict_split(model, data_set, "test")
    labels, known, _ = predictions.labelled("click")
    if not np.array_equal(labels, data.test.labels):
        raise ValueError(
            f"The ranker's test rows of {data_set.directory} are not those of the peers: "
            f"{len(labels)} and {len(data.test)} labels differ. Convert the log again."
        )
    return ranking.served_values(predictions, own)["click_probability"][known]


def of_peer(
    name: str, data: peer_data.Data, data_set: reader.DataSet, directory: pathlib.Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns a peer's click probabilities of the test rows, and what is told of it."""
    inputs = {
        "shards": [shard.sha256 for s in SPLITS for shard in data_set.description.splits[s].shards],
        "fields": [field.name for field in data.fields],
    }
    fitted = models.fit_once(name, data, FLAGS.tune_peers, FLAGS.model_seed, inputs, directory)
    test = {"click": fitted.test.astype(np.float32)}
    raw = calibration.calibrated_values(test, calibration.Calibrators())
    served = raw
    if FLAGS.calibrate_peers:
        held_out = data.validation
        folds = calibration.fold_of_rows(np.bincount(held_out.requests))
        own = calibration.fit_calibrators(
            {"click": fitted.validation.astype(np.float32)}, {"click": held_out.labels}, folds
        )
        served = calibration.calibrated_values(test, own)
    told = {
        "seconds": fitted.seconds,
        "normalized_entropy_uncalibrated": metrics.normalized_entropy(
            data.test.labels, raw["click_probability"]
        ),
        "settings": fitted.settings,
    }
    return served["click_probability"], told


def of_truth(steps: export.Pipeline, data_set: reader.DataSet) -> np.ndarray | None:
    """Returns the planted click probabilities of all test rows, of a synthetic log."""
    directory = steps.truth_of(data_set)
    return (
        None
        if directory is None
        else evaluation.load_ground_truth(directory, data_set).rows["click_probability"]
    )


def score(
    estimates: dict[str, np.ndarray],
    results: dict[str, Any],
    rows: peer_data.Rows,
    unit: np.ndarray,
) -> None:
    """Adds the scores of the estimates [L] and their differences to ours to the results.

    Args:
        estimates: Click probabilities [L] by name.
        results: What is told of each name; changed.
        rows: Of the test split.
        unit: [L] what is drawn for the intervals.
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
    """Prints one line a model."""
    rows = results["rows"]
    print(
        f"{results['data_set']}: click, {rows['train']:,} training, {rows['validation']:,} "
        f"validation and {rows['test']:,} test impressions, {results['test_clicks']:,} clicked"
    )
    head = ("", "AUC", "share", "NE", "log loss", "ECE", "seconds", "ours − this, 95 %: AUC", "NE")
    cells = []
    for name in estimates:
        values = results[name]
        gaps = values.get("ours_minus_this", {})
        keys = ("auc", "auc_share", "normalized_entropy", "log_loss", "ece")
        cells.append(
            [
                f"  {name.replace('_', ' ')}",
                *(_number(values.get(key)) for key in keys),
                _number(values.get("seconds"), 0),
                *(_interval(gaps.get(key)) for key in ("auc", "normalized_entropy")),
            ]
        )
    print(terminal.text_table(head, cells))


def _say(name: str, labels: np.ndarray, estimates: np.ndarray, seconds: float) -> None:
    found = scores.scores(labels, estimates)
    shown = f"AUC {_number(found['auc'])}, NE {_number(found['normalized_entropy'])}"
    print(f"{name}: {shown}, {seconds:.0f} s", flush=True)


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _interval(bounds: list[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"


if __name__ == "__main__":
    cli.run(main)
