"""Compares the trained stages with the released ones before they are exported.

A release of the same data set is scored again on the validation rows of the candidate, so that the
difference is measured on the same rows. Everything else about a release, such as which of its heads
are weak, is read from its manifest.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from serving import errors, manifest, releases
from serving.export import gate
from tfrec import calibration, evaluation, ranking, retrieval
from tfrecords import reader


def check(
    base: pathlib.Path,
    data_set: reader.DataSet,
    models: evaluation.Models,
    workdir: pathlib.Path,
    force: bool,
) -> dict[str, Any]:
    """Evaluates a release before it is published.

    Args:
        base: Base directory of the bundles.
        data_set: The data set that it was trained on.
        models: The trained stages.
        workdir: Work directory of the training.
        force: Whether to publish a refused release.

    Returns:
        For the manifest: `validation`, the metrics of the heads; `utility_share`, the metric of
        retrieval; and `gate`, the decision.

    Raises:
        ReleaseRefusedError: The gate refuses it, and `force` is off.
    """
    figures: dict[str, Any] = {}
    shares: dict[str, Any] = {}
    if models.ranker is not None:
        figures = json.loads((workdir / "ranker" / "ranker.json").read_text())["validation"]
        shares = _utility_shares(workdir, models.heads.weights)
    released = _released(base, data_set, models)
    verdict = gate.judge(ranking.parse_figures(figures), released, shares)
    judged = _decide(base, verdict, data_set.catalog().ad_ids, force)
    return {"validation": figures, "utility_share": shares, "gate": judged}


def _decide(
    base: pathlib.Path, verdict: gate.Verdict, ids: pa.Array | pa.ChunkedArray, force: bool
) -> dict[str, Any]:
    """Returns the decision for the manifest, with a note if many ads of the release are missing.

    Raises:
        ReleaseRefusedError: The verdict has refusals, and `force` is off.
    """
    if releases.versions(base):
        version = releases.stable(base)
        if missing := releases.describe_missing_ads(base, version, ids):
            note = (
                f"! {missing}. To keep those that the new log does not show, convert it with the "
                "table of ads (--ads_path)"
            )
            verdict = dataclasses.replace(verdict, notes=(*verdict.notes, note))
        if not force:
            verdict.check(version)
    return verdict.to_json(force)


def _utility_shares(workdir: pathlib.Path, weights: Mapping[str, float]) -> dict[str, Any]:
    """Reads `gate.Released.utility_shares`, except for default weights that have changed."""
    trained = json.loads((workdir / "retrieval" / "retrieval.json").read_text())
    taught = trained.get("distillation", {"utility_share": {}, "weights": {}})
    shares = dict(taught["utility_share"])
    if any(weights[head] != weight for head, weight in taught["weights"].items()):
        shares.pop(retrieval.UTILITY, None)
    return shares


def check_copied_release(
    base: pathlib.Path, copied: releases.Bundle, force: bool
) -> dict[str, Any]:
    """Evaluates a release of another base directory before it is published in this one.

    The metrics of both releases are read from their manifests.

    Args:
        base: Base directory of the bundles.
        copied: The release.
        force: Whether to publish a refused release.

    Returns:
        The decision, as `check` returns it for the manifest.

    Raises:
        ReleaseRefusedError: The gate refuses it, and `force` is off.
    """
    verdict = gate.Verdict((), ())
    if "validation" in copied.manifest.metrics and releases.versions(base):
        version = releases.stable(base)
        try:
            release = manifest.read(base, version)
        except errors.BundleError:
            stable = gate.Released(version, {})
        else:
            stable = _measured(release)
            if release.training_id == copied.manifest.training_id:
                same = dict.fromkeys(stable.figures, (0.0, 0.0))
                stable = dataclasses.replace(stable, differences=same)
        candidate = _measured(copied.manifest)
        verdict = gate.judge(candidate.figures, stable, candidate.utility_shares)
    return _decide(base, verdict, releases.ad_ids(copied.base, copied.version), force)


def _measured(release: manifest.Manifest) -> gate.Released:
    """Returns the metrics in the manifest of a release."""
    return gate.Released(
        release.version,
        ranking.parse_figures(release.metrics.get("validation", {})),
        utility_shares=release.metrics.get("utility_share", {}),
    )


def _released(
    base: pathlib.Path, data_set: reader.DataSet, models: evaluation.Models
) -> gate.Released | None:
    if not releases.versions(base):
        return None
    version = releases.stable(base)
    try:
        release = manifest.read(base, version)
    except errors.BundleError:
        # A release that cannot be read is not served, so nothing is compared with it.
        return gate.Released(version, {})
    known = _measured(release)
    if models.ranker is not None and release.dataset_fingerprint == data_set.fingerprint:
        logits = _logits_of_release(base / "ranker" / str(version), data_set)
        if logits is not None:
            predictions = ranking.predict_split(models.ranker, data_set, "validation")
            differences = _differences(predictions, models.calibrators, logits, data_set)
            return dataclasses.replace(known, differences=differences)
    return known


def _logits_of_release(
    directory: pathlib.Path, data_set: reader.DataSet
) -> dict[str, np.ndarray] | None:
    """Returns the calibrated logits of the validation rows, in the log's order.

    None if the release does not return them or is damaged.
    """
    try:
        release = tf.saved_model.load(str(directory))  # keeps its variables alive
        score = release.logged_logits
    except (OSError, AttributeError):
        return None
    parts: dict[str, list[np.ndarray]] = {}
    size = ranking.REQUESTS_PER_EVALUATION_BATCH
    for batch in data_set.batches("validation", size):
        mask = batch["mask"].numpy()
        position = batch.get("position", tf.zeros(mask.shape, tf.int32))
        for head, values in score(batch["query"], batch["ad"], position).items():
            parts.setdefault(head, []).append(values.numpy()[mask])
    return {head: np.concatenate(values) for head, values in parts.items()}


def _differences(
    predictions: ranking.Predictions,
    calibrators: calibration.Calibrators,
    logits: Mapping[str, np.ndarray],
    data_set: reader.DataSet,
) -> dict[str, tuple[float, float]]:
    """Returns `gate.Released.differences` on the validation rows.

    A release has only calibrated logits, and its calibrators were usually fitted on these rows. So
    both rankers are calibrated as served, and then again with cross-fitting.

    Args:
        predictions: The candidate's predictions.
        calibrators: The candidate's calibrators.
        logits: Logits from `_logits_of_release`.
        data_set: The data set.
    """
    owners = np.repeat(ranking.owner_of_requests(data_set, "validation"), predictions.list_lengths)
    served = calibration.calibrated_logits(predictions.logits, calibrators)
    candidate = {head: np.asarray(values) for head, values in served.items()}
    release = {head: values for head, values in logits.items() if head in predictions.labels}
    first, second = (
        ranking.cross_fitted_predictions(dataclasses.replace(predictions, logits=ranker))
        for ranker in (candidate, release)
    )
    return ranking.differences(first, second, predictions.labels, owners)
