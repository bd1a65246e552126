"""Scores ads as the ranker is served: calibrated, and corrected for down-sampling."""

import tensorflow as tf

from tfrec import calibration
from tfrec.heads import HEADS
from tfrec.ranking import down_sampling, ranking_model


def served_scores(
    model: ranking_model.RankingModel,
    calibrators: calibration.Calibrators,
    keep_rate: float,
    query: tf.Tensor,
    ad: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """Returns the served value of each head: head -> [B, C] float32.

    Args:
        model: The ranker.
        calibrators: Its calibrators.
        keep_rate: Share of the unclicked rows that the log keeps, `Schema.negative_keep_rate`.
        query: [B, Wq] int32.
        ad: [B, C, Wa] int32.
    """
    outputs = calibrators.apply(model.score(query, ad))
    served = down_sampling.undo_down_sampling(outputs, keep_rate)
    return {head: served[HEADS[head].output] for head in model.heads}
