"""Stage two: the multi-head-attention ranker, its tasks and its training."""

from tfrec.ranking.down_sampling import undo_down_sampling
from tfrec.ranking.ranker import QuerySide, Ranker
from tfrec.ranking.ranker_training import (
    REQUESTS_PER_EVALUATION_BATCH,
    Predictions,
    build_ranker,
    check_trainable,
    cross_fitted_predictions,
    knows_positions,
    load_ranker,
    predict_split,
    served_values,
    train_ranker,
)
from tfrec.ranking.ranker_validation import differences, measure_heads, owner_of_requests

__all__ = [
    "REQUESTS_PER_EVALUATION_BATCH",
    "Predictions",
    "QuerySide",
    "Ranker",
    "build_ranker",
    "check_trainable",
    "cross_fitted_predictions",
    "differences",
    "knows_positions",
    "load_ranker",
    "measure_heads",
    "owner_of_requests",
    "predict_split",
    "served_values",
    "train_ranker",
    "undo_down_sampling",
]
