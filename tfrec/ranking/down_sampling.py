"""Unclicked rows that were left out by chance, and the exact correction for it.

With a share r of the unclicked rows kept and every clicked one, the odds of a click are those
of all rows over r. So a model of all rows, whose click logit is z, predicts rows kept with
z - log r; and what a model of kept rows predicts is undone with log r.

Training with `RankerConfig.negative_keep_rate` uses the first: the loss is that of kept rows,
the model is one of all rows, and there is nothing to undo. A log that was down-sampled before
it came here, as its schema says, uses the second in what is served, after calibration, so
that metrics of logged rows are of what was logged.

Shapes: B requests, C candidates.

References:
    He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, 2014, §6.3.
    King and Zeng, Logistic Regression in Rare Events Data, 2001, §4.1 (prior correction).
"""

import math
from collections.abc import Mapping

import tensorflow as tf


def in_sample(click_logits: tf.Tensor, clicks: tf.Tensor, keep_rate: float) -> tf.Tensor:
    """Returns the click logits of rows [B, C] given that they were kept.

    Args:
        click_logits: [B, C] of all rows.
        clicks: [B, C] labels; rows of an unknown one, NaN, are always kept.
        keep_rate: Share of the unclicked rows that was kept.
    """
    if keep_rate == 1.0:
        return click_logits
    return tf.where(tf.math.is_nan(clicks), click_logits, click_logits - math.log(keep_rate))


def weights(clicks: tf.Tensor, keep_rate: float) -> tf.Tensor:
    """Returns how many rows each of the kept rows [B, C] stands for."""
    return tf.where(tf.equal(clicks, 0.0), 1.0 / keep_rate, 1.0)


def undo_down_sampling(served: Mapping[str, tf.Tensor], keep_rate: float) -> dict[str, tf.Tensor]:
    """Turns what is expected of kept rows into what is expected of all rows.

    A row is kept with a chance that depends on its click alone, K of all its like, and what
    comes with a click is never left out: each expectation over all rows is K times that over
    kept rows. With p the click probability of kept rows, K = r / (1 - p + r p), which for the
    click is the logit plus log r.

    Args:
        served: `click_probability` [B, C], and others of `heads.probabilities`.
        keep_rate: r.
    """
    if keep_rate == 1.0:
        return dict(served)
    click = served["click_probability"]
    kept = keep_rate / (1.0 - click + keep_rate * click)
    return {name: values * kept for name, values in served.items()}
