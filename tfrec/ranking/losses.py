"""The ranker's losses: mean negative log-likelihoods per shown ad.

Shapes: B requests, C candidates; padding is masked, a missing label is NaN.

References:
    Ma et al., Entire Space Multi-Task Model, 2018.
    Wang, Liu and Miao, A Deep Probabilistic Model for Customer Lifetime Value
    Prediction, 2019.
"""

import math
from collections.abc import Mapping

import tensorflow as tf

from tfrec import layers
from tfrec.heads import CLICK, HEADS, HeadKind
from tfrec.ranking import down_sampling

_MIN_LOG = -30.0


def probability_loss(
    labels: tf.Tensor, logits: tf.Tensor, mask: tf.Tensor, weights: tf.Tensor | float = 1.0
) -> tf.Tensor:
    """Cross-entropy of labels [B, C] over the impressions in `mask`.

    `weights` [B, C] are the numbers of rows that each row represents.
    """
    mask, labels = _known(labels, mask)
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
    return _masked_mean(losses, mask, weights)


def after_click_loss(
    labels: tf.Tensor, click_logits: tf.Tensor, logits: tf.Tensor, mask: tf.Tensor
) -> tf.Tensor:
    """Cross-entropy of a click and a positive label [B, C] over all impressions (ESMM)."""
    mask, labels = _known(labels, mask)
    log_p = tf.math.log_sigmoid(click_logits) + tf.math.log_sigmoid(logits)
    log_p = tf.maximum(log_p, _MIN_LOG)
    log_not_p = tf.math.log(-tf.math.expm1(tf.minimum(log_p, -1e-6)))
    return _masked_mean(-labels * log_p - (1.0 - labels) * log_not_p, mask)


def amount_loss(
    labels: tf.Tensor, logits: tf.Tensor, mask: tf.Tensor, weights: tf.Tensor | float = 1.0
) -> tf.Tensor:
    """Zero-inflated log-normal negative log-likelihood of labels [B, C] from logits [B, C, 3].

    `weights` [B, C] are the numbers of rows that each row represents.
    """
    mask, labels = _known(labels, mask)
    positive_logit, mean, raw_scale = tf.unstack(logits, axis=-1)
    positive = labels > 0
    zero_part = tf.nn.sigmoid_cross_entropy_with_logits(
        labels=tf.cast(positive, tf.float32), logits=positive_logit
    )
    scale = layers.amount_scale(raw_scale)
    log_amount = tf.math.log(tf.where(positive, labels, 1.0))
    deviation = (log_amount - mean) / scale
    log_normal = log_amount + tf.math.log(scale) + 0.5 * (math.log(2 * math.pi) + deviation**2)
    return _masked_mean(zero_part + tf.where(positive, log_normal, 0.0), mask, weights)


def total_loss(
    batch: Mapping[str, tf.Tensor],
    logits: layers.Logits,
    loss_weights: Mapping[str, float],
    negative_keep_rate: float = 1.0,
) -> dict[str, tf.Tensor]:
    """Returns `HEAD_loss` of each head and, as `loss`, their weighted sum.

    Args:
        batch: Labels and mask.
        logits: Logits for all rows, not for the kept ones only.
        loss_weights: Weight of each head's loss.
        negative_keep_rate: Share of the unclicked rows that the batch kept.
    """
    mask, clicks = batch["mask"], batch[CLICK.label]
    click_logits = down_sampling.in_sample(logits[CLICK.label], clicks, negative_keep_rate)
    represented = down_sampling.weights(clicks, negative_keep_rate)

    def loss(head: str) -> tf.Tensor:
        labels, own = batch[head], logits[head]
        if head == CLICK.label:
            # The correction of the logits takes the place of weights.
            return probability_loss(labels, click_logits, mask)
        match HEADS[head].kind:
            case HeadKind.PROBABILITY_AFTER_CLICK:
                return after_click_loss(labels, click_logits, own, mask)
            case HeadKind.AMOUNT:
                return amount_loss(labels, own, mask, represented)
        return probability_loss(labels, own, mask, represented)

    parts = {head: loss(head) for head in logits}
    total = tf.add_n([loss_weights[head] * part for head, part in parts.items()])
    return {"loss": total, **{f"{head}_loss": part for head, part in parts.items()}}


def _known(labels: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the mask of known labels, and the labels with 0 for NaN."""
    missing = tf.math.is_nan(labels)
    return tf.logical_and(mask, tf.logical_not(missing)), tf.where(missing, 0.0, labels)


def _masked_mean(losses: tf.Tensor, mask: tf.Tensor, weights: tf.Tensor | float = 1.0) -> tf.Tensor:
    weights = tf.where(mask, weights, 0.0)
    return tf.math.divide_no_nan(
        tf.reduce_sum(tf.where(mask, losses * weights, 0.0)), tf.reduce_sum(weights)
    )
