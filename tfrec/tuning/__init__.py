"""Searches the hyperparameters of a stage on the validation split; needs the extra `tune`."""

from tfrec.tuning.stages import RANKER, RETRIEVAL, Stage, log_range, one_of, uniform
from tfrec.tuning.study import Tuned, TuningTrial, tune

__all__ = [
    "RANKER",
    "RETRIEVAL",
    "Stage",
    "Tuned",
    "TuningTrial",
    "log_range",
    "one_of",
    "tune",
    "uniform",
]
