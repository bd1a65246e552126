"""The softmax temperature, fitted on held-out clicks.

Learned on the training clicks, it falls as the towers overfit, and a sharper softmax makes them
overfit more. On held-out clicks, maximum likelihood makes it as soft as the errors of the towers
require. The loss is convex in 1 / temperature, so bisection on its slope finds the minimum.

Shapes: Q held-out clicks, C columns, N ads.

References:
    Guo et al., On Calibration of Modern Neural Networks, 2017 (temperature scaling).
"""

import numpy as np
import tensorflow as tf

from tfrec.retrieval import task

# The maximum keeps gradients from vanishing: before the towers have learned anything, held-out
# clicks are most likely under a nearly uniform softmax.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.02, 0.25
# Each step halves the interval of log temperatures, to less than a thousandth.
_STEPS = 14


@tf.function(reduce_retracing=True)
def fit(
    own_scores: tf.Tensor, scores: tf.Tensor, excluded: tf.Tensor, log_expected_draws: tf.Tensor
) -> tf.Tensor:
    """Returns the temperature of the smallest mean softmax loss, in
    [MIN_TEMPERATURE, MAX_TEMPERATURE].

    Args:
        own_scores: [Q] float32 cosines of queries and clicked ads.
        scores: [Q, C] float32 cosines of queries and columns.
        excluded: [Q, C] bool, columns that are not negatives, such as the clicked ad.
        log_expected_draws: [C] float32; zeros if the columns are all ads.
    """
    all_scores = tf.concat([own_scores[:, None], scores], axis=1)
    offset = tf.where(excluded, task.EXCLUDED, -log_expected_draws)
    offset = tf.concat([tf.zeros_like(own_scores)[:, None], offset], axis=1)
    low, high = -tf.math.log(MAX_TEMPERATURE), -tf.math.log(MIN_TEMPERATURE)
    for _ in tf.range(_STEPS):
        middle = (low + high) / 2
        weights = tf.nn.softmax(tf.exp(middle) * all_scores + offset, axis=1)
        slope = tf.reduce_mean(tf.reduce_sum(weights * all_scores, axis=1) - own_scores)
        low, high = tf.where(slope < 0, middle, low), tf.where(slope < 0, high, middle)
    return tf.exp(-(low + high) / 2)


def columns(
    clicks: np.ndarray, max_columns: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Samples ads to score clicks against.

    Args:
        clicks: [N] training clicks.
        max_columns: Maximum C; a smaller catalog is taken whole.
        rng: Draws one half by clicks and one half uniformly.

    Returns:
        [C] int32 catalog rows, and [C] float32 logarithms of the expected number of draws.
    """
    num_ads = len(clicks)
    if num_ads <= max_columns:
        return np.arange(num_ads, dtype=np.int32), np.zeros(num_ads, np.float32)
    half, share = max_columns // 2, clicks / clicks.sum()
    drawn = [rng.choice(num_ads, half, p=share), rng.integers(0, num_ads, half)]
    rows = np.concatenate(drawn).astype(np.int32)
    return rows, np.log(half * (share[rows] + 1 / num_ads)).astype(np.float32)
