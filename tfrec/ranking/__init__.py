"""Stage two: the base class of rankers, the multi-head-attention ranker, tasks and training."""

from tfrec.ranking.default_weights import JudgedHeads, judge_heads
from tfrec.ranking.down_sampling import undo_down_sampling
from tfrec.ranking.head_strength import (
    CALIBRATION_TOLERANCE,
    NUM_ERRORS,
    Figures,
    HeadFigures,
    parse_figures,
    weak_heads,
    weakness,
)
from tfrec.ranking.ranker import QuerySide, Ranker
from tfrec.ranking.ranker_training import (
    REQUESTS_PER_EVALUATION_BATCH,
    Predictions,
    build_ranker,
    check_trainable,
    fit_calibrators,
    knows_positions,
    load_ranker,
    predict_split,
    served_values,
    train_ranker,
    without_ranker,
)
from tfrec.ranking.ranker_validation import measure_heads, owner_of_requests
from tfrec.ranking.ranking_model import RANKERS, RankingModel, served_scores

__all__ = [
    "CALIBRATION_TOLERANCE",
    "NUM_ERRORS",
    "RANKERS",
    "REQUESTS_PER_EVALUATION_BATCH",
    "Figures",
    "HeadFigures",
    "JudgedHeads",
    "Predictions",
    "QuerySide",
    "Ranker",
    "RankingModel",
    "build_ranker",
    "check_trainable",
    "fit_calibrators",
    "judge_heads",
    "knows_positions",
    "load_ranker",
    "measure_heads",
    "owner_of_requests",
    "parse_figures",
    "predict_split",
    "served_scores",
    "served_values",
    "train_ranker",
    "undo_down_sampling",
    "weak_heads",
    "weakness",
    "without_ranker",
]
