"""The ranker's tasks: a `tfrs.tasks.Ranking` for each head, with Keras losses and one more.

Shapes: B requests, C candidates; L shown ads with a known label.

References:
    Ma et al., Entire Space Multi-Task Model, 2018.
    Wang, Liu and Miao, A Deep Probabilistic Model for Customer Lifetime Value
    Prediction, 2019.
"""

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrec import layers
from tfrec.heads import CLICK, HEADS, HeadKind
from tfrec.ranking import down_sampling


class ZeroInflatedLogNormal(tf.keras.losses.Loss):
    """Negative log-likelihood of amounts that are often 0.

    `y_true` [L, 1] are amounts; `y_pred` [L, 3] the logits of a positive amount, and of mean and
    scale of its logarithm.
    """

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Returns the losses [L]."""
        amounts = y_true[..., 0]
        positive_logit, mean, raw_scale = tf.unstack(y_pred, axis=-1)
        positive = amounts > 0
        zero_part = tf.nn.sigmoid_cross_entropy_with_logits(
            labels=tf.cast(positive, tf.float32), logits=positive_logit
        )
        scale = layers.amount_scale(raw_scale)
        log_amount = tf.math.log(tf.where(positive, amounts, 1.0))
        deviation = (log_amount - mean) / scale
        log_normal = log_amount + tf.math.log(scale) + 0.5 * (math.log(2 * math.pi) + deviation**2)
        return zero_part + tf.where(positive, log_normal, 0.0)


def task_of(head: str) -> tfrs.tasks.Ranking:
    """Returns the task of a head, for the `labeled_rows`."""
    # Not averaged by Keras, which does not know how many replicas share a batch.
    reduction = tf.keras.losses.Reduction.NONE
    loss = (
        ZeroInflatedLogNormal(reduction)
        if HEADS[head].is_amount
        else tf.keras.losses.BinaryCrossentropy(from_logits=True, reduction=reduction)
    )
    return tfrs.tasks.Ranking(loss, loss_metrics=[tf.keras.metrics.Mean(name=f"{head}_loss")])


def mean(losses: tf.Tensor, count: tf.Tensor | None = None) -> tf.Tensor:
    """Returns the mean of losses of any shape; 0 if there are none.

    Args:
        losses: The losses.
        count: Number of all losses, if these are a part of them; None: these are all.
    """
    count = tf.size(losses) if count is None else count
    return tf.math.divide_no_nan(tf.reduce_sum(losses), tf.cast(count, losses.dtype))


def num_labeled(head: str, batch: Mapping[str, Any]) -> tf.Tensor | None:
    """Returns the number of labeled rows in the whole batch of a share; None for a whole batch."""
    if layers.WHOLE not in batch:
        return None
    return tf.math.count_nonzero(_is_labeled(head, layers.whole_batch(batch)), dtype=tf.int32)


def _is_labeled(head: str, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns [B, C] bool: the shown ads with a known label."""
    return batch["mask"] & ~tf.math.is_nan(batch[head])


def labeled_rows(
    head: str, batch: Mapping[str, tf.Tensor], logits: layers.Logits, negative_keep_rate: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """Returns labels, predictions and weights for the task of a head.

    Args:
        head: The head.
        batch: Labels [B, C], NaN where missing, and `mask` [B, C] bool, true for shown ads.
        logits: Logits of all heads for all rows, not for the kept ones only.
        negative_keep_rate: Share of the unclicked rows that the batch kept.

    Returns:
        Labels [L, 1]. Predictions [L, 3] of an amount; else [L, 1] logits of a positive label of
        an impression, with ESMM for a head after the click. Weights [L] with
        mean 1 over the whole batch, or None.
    """
    rows = tf.where(_is_labeled(head, batch))
    clicks, labels = (tf.gather_nd(batch[name], rows) for name in (CLICK.label, head))
    labels, weights = labels[:, None], None
    click_logits = tf.gather_nd(logits[CLICK.label], rows)
    click_logits = down_sampling.in_sample(click_logits, clicks, negative_keep_rate)
    if head == CLICK.label:
        return labels, click_logits[:, None], None
    head_logits = tf.gather_nd(logits[head], rows)
    if HEADS[head].kind == HeadKind.PROBABILITY_AFTER_CLICK:
        return labels, layers.after_click_logits(click_logits, head_logits)[:, None], None
    # No weights are needed for clicks: their logits are corrected above.
    if negative_keep_rate < 1.0:
        weights = down_sampling.weights(clicks, negative_keep_rate)
        all_weights = weights
        if layers.WHOLE in batch:
            whole = layers.whole_batch(batch)
            clicks = tf.gather_nd(whole[CLICK.label], tf.where(_is_labeled(head, whole)))
            all_weights = down_sampling.weights(clicks, negative_keep_rate)
        weights /= tf.reduce_mean(all_weights)
    return labels, head_logits if HEADS[head].is_amount else head_logits[:, None], weights
