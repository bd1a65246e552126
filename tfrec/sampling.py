"""Sampling probabilities of the retrieval stage's negatives.

In-batch negatives are clicked ads, so ad a is drawn with probability clicks(a) / clicks;
uniform extra negatives are drawn with probability 1 / N. A batch of B clicks with U extras
draws from the mixture of both.

Shapes: N ads.

References:
    Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
    Recommendations, 2019 (logQ correction).
    Yang et al., Mixed Negative Sampling for Learning Two-tower Neural Networks, 2020.
"""

import numpy as np


def mixture_probability(clicks: np.ndarray, batch_size: int, uniform_negatives: int) -> np.ndarray:
    """Returns each ad's sampling probability, scaled so that the largest is 1.

    TFRS clips probabilities from below at 1e-6, which at a million ads is the mean; the
    softmax is unchanged by a constant factor, so they are scaled away from that floor.

    Args:
        clicks: [N] training clicks.
        batch_size: Clicks in a batch, B.
        uniform_negatives: Extras in a batch, U.

    Returns:
        [N] float32 in (0, 1].

    Raises:
        ValueError: There are no clicks.
    """
    total = float(clicks.sum())
    if total <= 0:
        raise ValueError("The training split has no clicks; retrieval has nothing to learn from.")
    probability = batch_size * (clicks / total) + uniform_negatives / len(clicks)
    return (probability / probability.max()).astype(np.float32)
