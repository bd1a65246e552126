"""The softmax loss of retrieval, over all ads or over a sample of them.

For a click on y, with s the scores of ads over the temperature,

    loss = −s_y + log( exp s_y + Σ_j exp s_j ),      j over all ads but y

and a sample estimates the sum: each drawn ad counts exp(s_j) / (its expected number of draws). The
clicked ad is not sampled and takes no correction. The common form subtracts log Q from every
column, which gives frequently clicked ads more than their share.

Shapes: B clicks, C columns (ads drawn, or all).

References:
    Bengio and Senécal, Adaptive Importance Sampling to Accelerate Training of a Neural
    Probabilistic Language Model, 2008.
    Khrylchenko et al., Correcting the LogQ Correction, 2025.
"""

import tensorflow as tf

# The logit of a column that is not a negative.
EXCLUDED = -1e9


def loss(
    own_logits: tf.Tensor,
    logits: tf.Tensor,
    excluded: tf.Tensor,
    log_expected_draws: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns the loss [B] of clicks.

    Args:
        own_logits: [B] scores of the clicked ads.
        logits: [B, C] scores of the columns.
        excluded: [B, C] bool, columns that are not negatives, such as the clicked ad.
        log_expected_draws: [C]; None: the columns are all ads, each once.
    """
    return tf.nn.softplus(log_of_rest(logits, excluded, log_expected_draws) - own_logits)


def log_of_rest(
    logits: tf.Tensor, excluded: tf.Tensor, log_expected_draws: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns log Σ_j exp s_j [B] over the columns that are not excluded."""
    if log_expected_draws is not None:
        logits -= log_expected_draws
    return tf.reduce_logsumexp(tf.where(excluded, EXCLUDED, logits), axis=1)
