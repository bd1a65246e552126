"""The softmax temperature, learnt on clicks that training does not see.

Learnt on the training clicks it falls with every click that the towers know by heart, and
the softmax sharpens itself into overfitting. On held-out clicks it is what makes them most
likely: as soft as what the towers do not know asks for. The loss is convex in
1 / temperature, so a bisection on its slope finds the smallest.

Shapes: Q held-out clicks, C columns, N ads.

References:
    Guo et al., On Calibration of Modern Neural Networks, 2017 (temperature scaling).
"""

import numpy as np
import tensorflow as tf

from tfrec.retrieval import sampled_softmax

# While next to nothing is learnt, held-out clicks ask for a softmax so soft that its gradients
# vanish, and nothing is learnt ever after: softer than HIGHEST it never gets.
LOWEST, HIGHEST = 0.02, 0.25
# Each halves the interval between the logarithms: to less than a thousandth.
_STEPS = 14


@tf.function(reduce_retracing=True)
def fit(
    own_scores: tf.Tensor, scores: tf.Tensor, excluded: tf.Tensor, log_expected_draws: tf.Tensor
) -> tf.Tensor:
    """Returns the temperature of the smallest mean softmax loss, in [LOWEST, HIGHEST].

    Args:
        own_scores: [Q] float32 cosines of queries and the ads clicked.
        scores: [Q, C] float32 cosines of queries and columns.
        excluded: [Q, C] bool, columns that are no negatives; among them the ad clicked.
        log_expected_draws: [C] float32; zeros where the columns are all ads.
    """
    every = tf.concat([own_scores[:, None], scores], axis=1)
    offset = tf.where(excluded, sampled_softmax.EXCLUDED, -log_expected_draws)
    offset = tf.concat([tf.zeros_like(own_scores)[:, None], offset], axis=1)
    low, high = -tf.math.log(HIGHEST), -tf.math.log(LOWEST)
    for _ in tf.range(_STEPS):
        middle = (low + high) / 2
        weights = tf.nn.softmax(tf.exp(middle) * every + offset, axis=1)
        slope = tf.reduce_mean(tf.reduce_sum(weights * every, axis=1) - own_scores)
        low, high = tf.where(slope < 0, middle, low), tf.where(slope < 0, high, middle)
    return tf.exp(-(low + high) / 2)


def columns(
    clicks: np.ndarray, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns ads to hold clicks against, and the logarithm of how often each is drawn.

    Args:
        clicks: [N] training clicks.
        most: C; with no more ads, all are taken.
        rng: Draws half of the others by clicks, half uniformly.

    Returns:
        [C] int32 catalogue rows and [C] float32.
    """
    num_ads = len(clicks)
    if num_ads <= most:
        return np.arange(num_ads, dtype=np.int32), np.zeros(num_ads, np.float32)
    half, share = most // 2, clicks / clicks.sum()
    drawn = [rng.choice(num_ads, half, p=share), rng.integers(0, num_ads, half)]
    rows = np.concatenate(drawn).astype(np.int32)
    return rows, np.log(half * (share[rows] + 1 / num_ads)).astype(np.float32)
