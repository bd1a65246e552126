"""The ranker's losses: mean negative log-likelihoods per shown ad.

Shapes: B requests, C candidates; padding is masked, a missing label is NaN.

References:
    Cao et al., Learning to Rank: From Pairwise Approach to Listwise Approach (ListNet), 2007.
    Ma et al., Entire Space Multi-Task Model, 2018.
    Wang, Liu and Miao, A Deep Probabilistic Model for Customer Lifetime Value
    Prediction, 2019.
"""

import math
from collections.abc import Mapping

import tensorflow as tf

from tfrec import heads
from tfrec.ranking import down_sampling

_SMALLEST_LOG = -30.0
_NOT_THERE = -1e9


def _masked_mean(losses: tf.Tensor, mask: tf.Tensor, weights: tf.Tensor | float = 1.0) -> tf.Tensor:
    weights = tf.where(mask, weights, 0.0)
    return tf.math.divide_no_nan(
        tf.reduce_sum(tf.where(mask, losses * weights, 0.0)), tf.reduce_sum(weights)
    )


def click_loss(labels: tf.Tensor, logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of clicks [B, C] over the impressions in `mask`."""
    mask, labels = _present(labels, mask)
    return _masked_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits), mask)


def listwise_loss(
    labels: tf.Tensor, logits: tf.Tensor, mask: tf.Tensor, weights: tf.Tensor | float = 1.0
) -> tf.Tensor:
    """Cross-entropy of which ads of a list were clicked, under a softmax over the list.

    Only what ads of one list have over each other counts, not the level of the logits.

    Args:
        labels: [B, C] clicks.
        logits: [B, C].
        mask: [B, C].
        weights: [B, C] how many rows each stands for.

    Returns:
        The mean over lists of which a part was clicked; 0 if there are none.
    """
    mask, labels = _present(labels, mask)
    clicks = tf.where(mask, labels, 0.0)
    log_share = tf.nn.log_softmax(tf.where(mask, logits + tf.math.log(weights), _NOT_THERE))
    num_clicks = tf.reduce_sum(clicks, axis=-1)
    of_list = -tf.reduce_sum(clicks * log_share, axis=-1) / tf.maximum(num_clicks, 1.0)
    num_rows = tf.reduce_sum(tf.cast(mask, tf.float32), axis=-1)
    return _masked_mean(of_list, tf.logical_and(num_clicks > 0.0, num_clicks < num_rows))


def engagement_loss(
    labels: tf.Tensor, click_logits: tf.Tensor, engagement_logits: tf.Tensor, mask: tf.Tensor
) -> tf.Tensor:
    """Cross-entropy of click-and-engagement over all impressions (ESMM)."""
    mask, labels = _present(labels, mask)
    log_p = tf.math.log_sigmoid(click_logits) + tf.math.log_sigmoid(engagement_logits)
    log_p = tf.maximum(log_p, _SMALLEST_LOG)
    log_not_p = tf.math.log(-tf.math.expm1(tf.minimum(log_p, -1e-6)))
    return _masked_mean(-labels * log_p - (1.0 - labels) * log_not_p, mask)


def revenue_loss(
    labels: tf.Tensor, logits: tf.Tensor, mask: tf.Tensor, weights: tf.Tensor | float = 1.0
) -> tf.Tensor:
    """Zero-inflated log-normal negative log-likelihood of revenue [B, C] from logits [B, C, 3].

    `weights` [B, C] say how many rows each row stands for.
    """
    mask, labels = _present(labels, mask)
    positive_logit, mean, raw_scale = tf.unstack(logits, axis=-1)
    positive = labels > 0
    zero_part = tf.nn.sigmoid_cross_entropy_with_logits(
        labels=tf.cast(positive, tf.float32), logits=positive_logit
    )
    scale = heads.revenue_scale(raw_scale)
    log_revenue = tf.math.log(tf.where(positive, labels, 1.0))
    deviation = (log_revenue - mean) / scale
    log_normal = log_revenue + tf.math.log(scale) + 0.5 * (math.log(2 * math.pi) + deviation**2)
    return _masked_mean(zero_part + tf.where(positive, log_normal, 0.0), mask, weights)


def _present(labels: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    missing = tf.math.is_nan(labels)
    return tf.logical_and(mask, tf.logical_not(missing)), tf.where(missing, 0.0, labels)


def total(
    batch: Mapping[str, tf.Tensor],
    logits: Mapping[str, tf.Tensor],
    engagement_weight: float,
    revenue_weight: float,
    listwise_weight: float = 0.0,
    negative_keep_rate: float = 1.0,
) -> dict[str, tf.Tensor]:
    """Returns each head's loss and, under `loss`, their weighted sum.

    Args:
        batch: Labels and mask.
        logits: Of all rows.
        engagement_weight: Weight of the engagement loss.
        revenue_weight: Weight of the revenue loss.
        listwise_weight: Weight of the listwise loss; at 0 it is not computed.
        negative_keep_rate: Share of the unclicked rows that the batch was left with.
    """
    mask, clicks = batch["mask"], batch["click"]
    click_logits = down_sampling.in_sample(logits["click"], clicks, negative_keep_rate)
    stands_for = down_sampling.weights(clicks, negative_keep_rate)
    parts = {"click_loss": click_loss(clicks, click_logits, mask)}
    weights = {"click_loss": 1.0}
    if listwise_weight:
        parts["listwise_loss"] = listwise_loss(clicks, logits["click"], mask, stands_for)
        weights["listwise_loss"] = listwise_weight
    if "engagement" in logits:
        parts["engagement_loss"] = engagement_loss(
            batch["engagement"], click_logits, logits["engagement"], mask
        )
        weights["engagement_loss"] = engagement_weight
    if "revenue" in logits:
        # Revenue is modelled by impression: a row kept stands for those left out.
        parts["revenue_loss"] = revenue_loss(batch["revenue"], logits["revenue"], mask, stands_for)
        weights["revenue_loss"] = revenue_weight
    return {"loss": tf.add_n([weights[name] * parts[name] for name in parts]), **parts}
