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

from tfrec import ranker

_SMALLEST_LOG = -30.0


def _masked_mean(losses: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.where(mask, losses, 0.0)) / tf.maximum(
        tf.reduce_sum(tf.cast(mask, tf.float32)), 1.0
    )


def click_loss(labels: tf.Tensor, logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of clicks [B, C] over the impressions in `mask`."""
    mask, labels = _present(labels, mask)
    return _masked_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits), mask)


def engagement_loss(
    labels: tf.Tensor, click_logits: tf.Tensor, engagement_logits: tf.Tensor, mask: tf.Tensor
) -> tf.Tensor:
    """Cross-entropy of click-and-engagement over all impressions (ESMM)."""
    mask, labels = _present(labels, mask)
    log_p = tf.math.log_sigmoid(click_logits) + tf.math.log_sigmoid(engagement_logits)
    log_p = tf.maximum(log_p, _SMALLEST_LOG)
    log_not_p = tf.math.log(-tf.math.expm1(tf.minimum(log_p, -1e-6)))
    return _masked_mean(-labels * log_p - (1.0 - labels) * log_not_p, mask)


def revenue_loss(labels: tf.Tensor, logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Zero-inflated log-normal negative log-likelihood of revenue [B, C] from logits [B, C, 3]."""
    mask, labels = _present(labels, mask)
    positive_logit, mean, raw_scale = tf.unstack(logits, axis=-1)
    positive = labels > 0
    zero_part = tf.nn.sigmoid_cross_entropy_with_logits(
        labels=tf.cast(positive, tf.float32), logits=positive_logit
    )
    scale = ranker.revenue_scale(raw_scale)
    log_revenue = tf.math.log(tf.where(positive, labels, 1.0))
    deviation = (log_revenue - mean) / scale
    log_normal = log_revenue + tf.math.log(scale) + 0.5 * (math.log(2 * math.pi) + deviation**2)
    return _masked_mean(zero_part + tf.where(positive, log_normal, 0.0), mask)


def _present(labels: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    missing = tf.math.is_nan(labels)
    return tf.logical_and(mask, tf.logical_not(missing)), tf.where(missing, 0.0, labels)


def total(
    batch: Mapping[str, tf.Tensor],
    logits: Mapping[str, tf.Tensor],
    engagement_weight: float,
    revenue_weight: float,
) -> dict[str, tf.Tensor]:
    """Returns each head's loss and, under `loss`, their weighted sum."""
    mask = batch["mask"]
    parts = {"click_loss": click_loss(batch["click"], logits["click"], mask)}
    weights = {"click_loss": 1.0}
    if "engagement" in logits:
        parts["engagement_loss"] = engagement_loss(
            batch["engagement"], logits["click"], logits["engagement"], mask
        )
        weights["engagement_loss"] = engagement_weight
    if "revenue" in logits:
        parts["revenue_loss"] = revenue_loss(batch["revenue"], logits["revenue"], mask)
        weights["revenue_loss"] = revenue_weight
    return {"loss": tf.add_n([weights[name] * parts[name] for name in parts]), **parts}
