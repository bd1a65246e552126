"""From the logits of the heads to the values that are served.

Shapes: B requests, C candidates; K logits of an amount: of being positive, log-mean, log-scale.

References:
    Ma et al., Entire Space Multi-Task Model (ESMM), 2018 (engagement through click).
    Wang, Liu and Miao, A Deep Probabilistic Model for Customer Lifetime Value
    Prediction, 2019 (zero-inflated log-normal revenue).
"""

import math
from collections.abc import Mapping

import tensorflow as tf

from tfrec.heads import CLICK, HEADS, HeadKind

Logits = dict[str, tf.Tensor]
"""Head -> logits [B, C], or [B, C, K] of an amount."""
# The scale of the log-normal is in (_MIN_SCALE, _MIN_SCALE + _SCALE_RANGE).
_MIN_SCALE, _SCALE_RANGE = 0.05, 2.0
_MIN_LOG = -30.0


# AutoGraph does not support `match`, and warns of it when a user's model is traced.
@tf.autograph.experimental.do_not_convert
def head_outputs(logits: Logits) -> dict[str, tf.Tensor]:
    """Turns logits into the values that are served.

    Args:
        logits: Logits of the built heads, including click.

    Returns:
        The name of each head's output -> [B, C]: probabilities and expected amounts of an
        impression.
    """
    return {HEADS[head].output: _output(head, logits) for head in logits}


def _output(head: str, logits: Logits) -> tf.Tensor:
    probability = positive_probability(head, logits[head])
    match HEADS[head].kind:
        case HeadKind.PROBABILITY_AFTER_CLICK:
            return probability * tf.nn.sigmoid(logits[CLICK.label])
        case HeadKind.AMOUNT:
            _, mean, raw_scale = tf.unstack(logits[head], axis=-1)
            return probability * tf.exp(mean + amount_scale(raw_scale) ** 2 / 2)
    return probability


def positive_logits(head: str, logits: tf.Tensor) -> tf.Tensor:
    """Returns the logits [B, C] of a head's label being above 0."""
    return logits[..., 0] if HEADS[head].is_amount else logits


def positive_probability(head: str, logits: tf.Tensor) -> tf.Tensor:
    """Returns the probability [B, C] of a head's label being above 0."""
    return tf.nn.sigmoid(positive_logits(head, logits))


def add_to_logits(logits: Logits, added: Mapping[str, tf.Tensor]) -> Logits:
    """Adds to the `positive_logits` of heads.

    Args:
        logits: Logits of all heads.
        added: Head -> [B, C] or [B, 1], for the heads to change.
    """
    result = dict(logits)
    for head, values in added.items():
        if HEADS[head].is_amount:
            positive, *amount = tf.unstack(logits[head], axis=-1)
            result[head] = tf.stack([positive + values, *amount], axis=-1)
        else:
            result[head] = logits[head] + values
    return result


def mix_logits(logits: Logits, head: str, other: tf.Tensor, share: tf.Tensor) -> Logits:
    """Moves the `positive_logits` of a head toward others.

    Args:
        logits: Logits of all heads.
        head: The head to change.
        other: [B, C] logits of its label being above 0.
        share: Their weight, in [0, 1].
    """
    head_logits = positive_logits(head, logits[head])
    return add_to_logits(logits, {head: share * (other - head_logits)})


def after_click_logits(click_logits: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the logits of a click and a positive label after it (ESMM), all of one shape.

    Args:
        click_logits: Logits of a click.
        logits: Logits of the label given a click.
    """
    log_p = tf.math.log_sigmoid(click_logits) + tf.math.log_sigmoid(logits)
    log_p = tf.maximum(log_p, _MIN_LOG)
    return log_p - tf.math.log(-tf.math.expm1(tf.minimum(log_p, -1e-6)))


def amount_scale(raw_scale: tf.Tensor) -> tf.Tensor:
    """Returns the scale of the log-normal, in the shape of `raw_scale`.

    It is positive, and bounded so that the mean is finite.
    """
    return _MIN_SCALE + _SCALE_RANGE * tf.nn.sigmoid(raw_scale)


def raw_amount_scale(scale: float) -> float:
    """Returns the logit for a scale; the inverse of `amount_scale`, inside its range."""
    share = min(max((scale - _MIN_SCALE) / _SCALE_RANGE, 0.05), 0.95)
    return math.log(share / (1 - share))
