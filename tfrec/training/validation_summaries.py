"""Validation curves, options and the graph of a run for TensorBoard.

PR curves are for the PR curves plugin, calibration curves are images, options are for the HParams
plugin, which compares the runs below a directory. All are written once per epoch or once per run.

Shapes: N rows, L shown ads.
"""

from collections.abc import Mapping
from typing import Any

import matplotlib.backends.backend_agg as agg
import matplotlib.figure
import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.pr_curve import summary as pr_curve

from tfrec import metrics
from tfrec.heads import HEADS

NUM_THRESHOLDS = 201


def write_curves(values: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]) -> None:
    """Writes the curves of the probabilities of held-out rows, at the step of `tf.summary`.

    Args:
        values: Output of a head -> [L].
        labels: Head -> [L]; NaN where missing. Amounts have no curves.
    """
    for head in labels:
        if HEADS[head].is_amount:
            continue
        name = HEADS[head].output
        known = ~np.isnan(labels[head])
        positive, probability = labels[head][known] > 0, values[name][known].astype(np.float64)
        if not 0 < positive.sum() < len(positive):
            continue
        curve = pr_curve.pb(f"validation_pr_curve/{head}", positive, probability, NUM_THRESHOLDS)
        tf.summary.experimental.write_raw_pb(curve.SerializeToString())
        bins = calibration_curve(positive, probability)
        canvas = agg.FigureCanvasAgg(calibration_figure(head, *bins))
        canvas.draw()
        image = np.asarray(canvas.buffer_rgba())  # [height, width, 4] uint8
        tf.summary.image(f"validation_calibration/{head}", image[None])


def calibration_curve(
    positive: np.ndarray, probability: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean predicted and the observed rate of the bins of rows [N]."""
    bins = metrics.calibration_bins(probability)
    rows = np.bincount(bins)
    means = (np.bincount(bins, weights=v.astype(np.float64)) for v in (probability, positive))
    predicted, observed = (sums / rows for sums in means)
    return predicted, observed


def calibration_figure(
    head: str, predicted: np.ndarray, observed: np.ndarray
) -> matplotlib.figure.Figure:
    """Draws a calibration curve and the diagonal of a calibrated model."""
    figure = matplotlib.figure.Figure(figsize=(4.5, 4))
    axes = figure.add_axes((0.16, 0.13, 0.8, 0.83))
    end = max(predicted.max(), observed.max())
    axes.plot([0, end], [0, end], color="gray", linestyle=":", label="calibrated")
    axes.plot(predicted, observed, "o-", label=head)
    axes.set(xlabel="mean predicted probability of a bin", ylabel="observed rate")
    axes.legend()
    return figure


def write_options(options: Mapping[str, Any]) -> None:
    """Writes a run's options for the HParams plugin."""
    known = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in options.items()
    }
    hparams.hparams(known)
