"""Down-sampling of unclicked rows, and its exact correction.

If a share r of the unclicked rows and all clicked rows are kept, the odds of a click among kept
rows are the odds among all rows divided by r. So a model of all rows with click logit z predicts
z - log r for kept rows, and the predictions of a model of kept rows are corrected with log r.

Training with `RankerConfig.negative_keep_rate` uses the first: the loss is over kept rows, and the
model describes all rows. A log that was down-sampled before conversion, according to its schema,
uses the second at serving, after calibration; metrics of logged rows are not corrected.

Shapes: B requests, C candidates.

References:
    He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, 2014, §6.3.
    King and Zeng, Logistic Regression in Rare Events Data, 2001, §4.1 (prior correction).
"""

import math
from collections.abc import Mapping

import tensorflow as tf

from tfrec.heads import CLICK


def in_sample(click_logits: tf.Tensor, clicks: tf.Tensor, keep_rate: float) -> tf.Tensor:
    """Returns the click logits of rows [B, C] given that they were kept.

    Args:
        click_logits: [B, C] for all rows.
        clicks: [B, C] labels; rows with an unknown label, NaN, are always kept.
        keep_rate: Share of the unclicked rows that was kept.
    """
    if keep_rate == 1.0:
        return click_logits
    return tf.where(tf.math.is_nan(clicks), click_logits, click_logits - math.log(keep_rate))


def weights(clicks: tf.Tensor, keep_rate: float) -> tf.Tensor:
    """Returns the number of rows that each kept row [B, C] represents."""
    return tf.where(tf.equal(clicks, 0.0), 1.0 / keep_rate, 1.0)


def undo_down_sampling(served: Mapping[str, tf.Tensor], keep_rate: float) -> dict[str, tf.Tensor]:
    """Converts expectations over kept rows to expectations over all rows.

    Only the click decides whether a row is kept, and rows with a click always are. So each
    expectation over all rows is K = r / (1 - p + r p) times that over kept rows, with p the click
    probability of kept rows, if rows without a click contribute 0 (the data card warns of others).
    For the click this adds log r to the logit.

    Args:
        served: `layers.head_outputs` [B, C], click among them.
        keep_rate: Share r of the unclicked rows that was kept, in (0, 1].

    Returns:
        Output name -> [B, C].
    """
    if keep_rate == 1.0:
        return dict(served)
    click = served[CLICK.output]
    kept = keep_rate / (1.0 - click + keep_rate * click)
    return {name: values * kept for name, values in served.items()}
