"""Measures both stages on the test split, and the funnel between them."""

from tfrec.evaluation.baselines import Ease, ItemNeighbors, Popularity, read_history
from tfrec.evaluation.candidates import CandidateIndex
from tfrec.evaluation.corpus_ranking import NDCG_AT, RECALL_AT
from tfrec.evaluation.evaluation import Models, OpenIndex, evaluate, evaluate_whole_system
from tfrec.evaluation.ground_truth import GroundTruth, load_ground_truth
from tfrec.evaluation.head_quality import HeadRows, HeadScores, head_samples
from tfrec.evaluation.report import (
    CalibrationBin,
    ClickFunnel,
    Estimate,
    EvaluationReport,
    HeadQuality,
    RetrievalQuality,
    ScoreCurves,
    ScoreHistogram,
    Segment,
    UtilityFunnel,
    ValueFunnel,
)
from tfrec.evaluation.retrieval_comparison import (
    compare_recommenders,
    evaluate_retrieval,
    recommender_of,
)
from tfrec.evaluation.segments import check_segments

__all__ = [
    "NDCG_AT",
    "RECALL_AT",
    "CalibrationBin",
    "CandidateIndex",
    "ClickFunnel",
    "Ease",
    "Estimate",
    "EvaluationReport",
    "GroundTruth",
    "HeadQuality",
    "HeadRows",
    "HeadScores",
    "ItemNeighbors",
    "Models",
    "OpenIndex",
    "Popularity",
    "RetrievalQuality",
    "ScoreCurves",
    "ScoreHistogram",
    "Segment",
    "UtilityFunnel",
    "ValueFunnel",
    "check_segments",
    "compare_recommenders",
    "evaluate",
    "evaluate_retrieval",
    "evaluate_whole_system",
    "head_samples",
    "load_ground_truth",
    "read_history",
    "recommender_of",
]
