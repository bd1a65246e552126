"""What the ranker's heads mean: from logits to the probabilities and values that are served.

Shapes: B requests, C candidates.

References:
    Ma et al., Entire Space Multi-Task Model (ESMM), 2018 (engagement through click).
    Wang, Liu and Miao, A Deep Probabilistic Model for Customer Lifetime Value
    Prediction, 2019 (zero-inflated log-normal revenue).
"""

import math

import tensorflow as tf

Logits = dict[str, tf.Tensor]
# The log-normal's scale is between the smallest and this much more.
_SMALLEST_SCALE, _SCALES = 0.05, 2.0


def probabilities(logits: Logits) -> dict[str, tf.Tensor]:
    """Turns logits into what is served.

    Returns:
        `click_probability`; `engagement_probability` of a click that is followed by an
        engagement; `expected_revenue` of an impression: each [B, C], those of the heads built.
    """
    served = {}
    click = tf.nn.sigmoid(logits["click"])
    served["click_probability"] = click
    if "engagement" in logits:
        served["engagement_probability"] = click * tf.nn.sigmoid(logits["engagement"])
    if "revenue" in logits:
        positive_logit, mean, raw_scale = tf.unstack(logits["revenue"], axis=-1)
        scale = revenue_scale(raw_scale)
        served["expected_revenue"] = tf.nn.sigmoid(positive_logit) * tf.exp(mean + scale**2 / 2)
    return served


def revenue_scale(raw_scale: tf.Tensor) -> tf.Tensor:
    """Returns the log-normal's scale, positive and bounded so that its mean stays finite."""
    return _SMALLEST_SCALE + _SCALES * tf.nn.sigmoid(raw_scale)


def raw_scale(scale: float) -> float:
    """The inverse of `revenue_scale`, of the nearest scale that it can give well."""
    share = min(max((scale - _SMALLEST_SCALE) / _SCALES, 0.05), 0.95)
    return math.log(share / (1 - share))
