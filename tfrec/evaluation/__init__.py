"""Measures both stages on the test split, and the funnel between them."""

from tfrec.evaluation.baselines import (
    EASE_L2,
    NUM_NEIGHBOURS,
    Ease,
    ItemNeighbours,
    Popularity,
    read_history,
)
from tfrec.evaluation.candidates import CandidateIndex
from tfrec.evaluation.evaluation import Models, OpenIndex, evaluate, evaluate_whole_system
from tfrec.evaluation.funnel import FUNNEL_STAGES
from tfrec.evaluation.ground_truth import load_ground_truth
from tfrec.evaluation.realized import REALIZED_OUTCOMES
from tfrec.evaluation.retrieval_comparison import (
    compare_recommenders,
    evaluate_retrieval,
    recommender_of,
)

__all__ = [
    "EASE_L2",
    "FUNNEL_STAGES",
    "NUM_NEIGHBOURS",
    "REALIZED_OUTCOMES",
    "CandidateIndex",
    "Ease",
    "ItemNeighbours",
    "Models",
    "OpenIndex",
    "Popularity",
    "compare_recommenders",
    "evaluate",
    "evaluate_retrieval",
    "evaluate_whole_system",
    "load_ground_truth",
    "read_history",
    "recommender_of",
]
